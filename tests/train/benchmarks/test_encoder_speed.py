"""The benchmark: equal sizes for all, operations and memory counted right, every variant really run."""

import json

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from casita.cli import main
from casita.train.benchmarks import encoder_speed as benchmark
from casita.train.benchmarks.encoder_speed import VARIANTS, Case, Step, peak_mib

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "projection_dim": 16,
}


@pytest.fixture(autouse=True)
def small_preset(monkeypatch):
    monkeypatch.setitem(benchmark.PRESETS, "tiny", SMALL)


def case(**kwargs):
    return Case(**{"preset": "tiny", "length": 9, "precision": "fp32", "mode": "forward", "batch": 4, **kwargs})


def trunk(name):
    """Parameters of the layers of a variant."""
    model = VARIANTS[name](case())
    return sum(p.numel() for n, p in model.named_parameters() if "layer" in n and "embed" not in n)


def test_all_variants_have_layers_of_the_same_size():
    assert len({trunk(name) for name in VARIANTS}) == 1


@pytest.mark.parametrize("name", VARIANTS)
def test_the_formula_counts_what_torch_counts(name):
    # What is no layer's and left out: the map into the shared space, the pooler, the projected table (frozen).
    width, table = SMALL["hidden_size"], 2 * (3 + benchmark.ROWS) * benchmark.IMAGE_WIDTH * SMALL["hidden_size"]
    head = {"bert": width, "torch": 0}.get(name, SMALL["projection_dim"]) * 2 * width * 4
    for mode, times in (("train", 3), ("forward", 1)):
        step = Step(name, case(mode=mode), "cpu")
        step.model.train()  # torch's fused inference path hides its products
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            if mode == "train":
                step()
            else:
                step.model(step.ids, step.mask)
        beside = times * head + (table if name == "image" else 0)
        assert counter.get_total_flops() == case(mode=mode).flops + beside


@pytest.mark.parametrize("mode", ["forward", "train"])
@pytest.mark.parametrize("name", VARIANTS)
def test_a_step_of_every_variant_gives_finite_numbers(name, mode):
    for precision in ("fp32", "bf16"):
        step = Step(name, case(mode=mode, precision=precision), "cpu")
        given = step()
        assert given.shape[0] == 4
        assert given.isfinite().all()
        trained = [p for p in step.model.parameters() if p.grad is not None]
        assert bool(trained) == (mode == "train")


def test_peak_memory_is_the_most_held_at_once():
    mib = 2**18  # float32 numbers

    def step():
        torch.empty(3 * mib)
        kept = torch.empty(2 * mib)
        other = torch.empty(4 * mib)
        del other
        return kept, torch.empty(mib)

    assert peak_mib(step, "cpu") == pytest.approx(6, abs=0.01)


def test_rounds_are_interleaved_and_the_first_does_not_count():
    order = []
    steps = {name: (lambda name=name: order.append(name)) for name in "abc"}
    rounds = list(benchmark.interleave(steps, 3, "cpu", lambda: len(order)))
    assert "".join(order) == "cab" + "abc" + "bca" + "cab"
    assert rounds == [dict.fromkeys(order[3 * i : 3 * i + 3], 1) for i in (1, 2, 3)]


def test_the_command_gives_a_row_a_variant_and_ratios_that_agree(tmp_path, capsys):
    out = tmp_path / "benchmark.json"
    options = ["--preset", "tiny", "--length", "5", "--precision", "fp32", "--mode", "forward", "--batch", "2"]
    options += ["--rounds", "3", "--device", "cpu"]
    assert main(["benchmark", *options, "--variant", "image", "bert", "--out", str(out)]) == 0
    figures = json.loads(out.read_text())
    image, bert = figures["rows"]
    assert (image["variant"], bert["variant"]) == ("image", "bert")
    assert image["faster_than"]["bert"] == pytest.approx(1 / bert["faster_than"]["image"], rel=0.01)
    assert image["windows_per_s"] == pytest.approx(2 / image["ms"] * 1e3, rel=0.01)
    assert 0 < image["share_of_matmul"] < 1
    table = capsys.readouterr().out
    assert table.count("| tiny | 5 | 2 | fp32 | forward |") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rounds", "0"], "must be at least 1"),
        (["--device", "cuda", "--clock", "cpu"], "--device cuda needs"),
    ],
)
def test_impossible_options_are_refused(options, message, capsys):
    assert main(["benchmark", *options]) == 2
    assert message in capsys.readouterr().err
