"""The committed checkpoints give the numbers that they gave when they were made (tests/golden/make.py)."""

import json

import pytest
import torch
from paths import GOLDEN
from safetensors.torch import load_file

from casita.modeling import modeling_casita
from casita.processing.processing_casita import CasitaProcessor

NAMES = ["image", "everything", "masked_events", "classification"]


def load(name):
    config = json.loads((GOLDEN / name / "config.json").read_text())
    model = getattr(modeling_casita, config["architectures"][0]).from_pretrained(GOLDEN / name).eval()
    saved = load_file(GOLDEN / name / "expected.safetensors")
    inputs, outputs = (
        {key.split(".")[1]: value for key, value in saved.items() if key.startswith(kind)}
        for kind in ("input.", "output.")
    )
    return model, inputs, outputs


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_committed_checkpoint_gives_the_numbers_of_the_day_it_was_made(name, attention):
    model, inputs, expected = load(name)
    model.set_attn_implementation(attention)
    with torch.no_grad():
        said = {key: value for key, value in model(**inputs).items() if isinstance(value, torch.Tensor)}
    assert said.keys() == expected.keys()
    for key, value in said.items():
        # float32 sums in another order; logits are cosines over 0.07
        atol = 1e-5 if "embeds" in key else 2e-4
        torch.testing.assert_close(value, expected[key], rtol=0, atol=atol)


def test_the_committed_processor_makes_the_same_tensors_of_the_same_events():
    processor = CasitaProcessor.from_pretrained(GOLDEN / "processor")
    events = json.loads((GOLDEN / "processor" / "events.json").read_text())
    encoded, expected = (
        processor(events, return_tensors="pt"),
        load_file(GOLDEN / "processor" / "expected.safetensors"),
    )
    assert encoded.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(encoded[key], value, rtol=0, atol=1e-6)  # float32 seconds and fractions


def test_the_golden_files_are_small():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 1_000_000
