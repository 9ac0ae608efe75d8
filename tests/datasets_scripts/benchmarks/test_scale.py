"""The scale benchmark: small, but the whole of it."""

import json

from casita.datasets_scripts.benchmarks.stages import main


def test_every_stage_is_measured_over_all_homes_and_nothing_is_left(tmp_path, capsys):
    given = ["--events", "9000", "--days", "3", "--folder", str(tmp_path), "--json", str(tmp_path / "figures.json")]
    assert main(["scale", *given]) == 0
    rows = {row["stage"]: row for row in json.loads((tmp_path / "figures.json").read_text())["rows"]}
    assert list(rows) == ["generate", "read", "windows", "draw", "caption"]
    assert {row["homes"] for row in rows.values()} == {2}
    assert rows["generate"]["count"] == rows["read"]["count"] > 4000
    assert rows["read"]["largest"] < rows["read"]["count"]
    assert rows["caption"]["count"] == rows["windows"]["count"]
    assert all(row["peak_mib"] > 20 and row["cpu_s"] > 0 for row in rows.values())
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
    assert capsys.readouterr().out.count("\n") == 2 + len(rows)


def test_no_events_are_refused(capsys):
    assert main(["scale", "--events", "0"]) == 2
    assert "--events 0" in capsys.readouterr().err
