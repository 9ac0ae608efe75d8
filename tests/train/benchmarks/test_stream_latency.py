"""The latency benchmark counts the pushes that it says it counts."""

import json

from casita.modeling.configuration_casita import PRESETS
from casita.train.benchmarks.stream_latency import benchmark_streaming, main


def test_its_figures_fit_together(tmp_path, capsys):
    out = tmp_path / "streaming.json"
    main(["--presets", "tiny", "--length", "6", "--results", "4", "--json", str(out)])
    (row,) = json.loads(out.read_text())
    assert (row["preset"], row["length"], row["every"], row["results"]) == ("tiny", 6, 3, 4)
    assert 0 < row["waiting_p50_ms"] < row["result_p50_ms"] <= row["result_p95_ms"]
    assert row["waiting_p50_ms"] < row["event_mean_ms"] < row["result_p95_ms"]
    assert capsys.readouterr().out.splitlines()[1].startswith("tiny ")
    assert row["parameters"] > PRESETS["tiny"]["hidden_size"] ** 2


def test_a_result_at_every_event_leaves_none_waiting():
    assert benchmark_streaming("tiny", length=4, every=1, results=2)["waiting_p50_ms"] is None
