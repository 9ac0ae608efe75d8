"""The exported tower gives PyTorch's numbers at every shape, and stands alone."""

import json
import sys
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import make_model
from transformers import AutoProcessor

from casita.cli import main
from casita.processing.processing_casita import CasitaProcessor
from casita.train.inference import onnx_export as exporting

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
KEYS = [f"M{i:03d}_{state}" for i in range(9) for state in ("OFF", "ON")][:17]
NAMES = ["input_ids", "attention_mask", "time_deltas", "coordinates", "timestamps"]


@pytest.fixture(scope="module")
def model():
    return make_model("everything")


@pytest.fixture(scope="module")
def published(model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    places = {f"M{i:03d}": [i / 9, 1 - i / 9] for i in range(9)}
    reads = {"use_time_deltas": True, "use_coordinates": True, "use_timestamps": True}
    model.save_pretrained(folder)
    CasitaProcessor(KEYS, home="toy", coordinates=places, length=6, **reads).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def exported(published, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("export") / "onnx"
    assert main(["export", str(published), "--out", str(out), "--int8"]) == 0
    return out


def events(number=20):
    start, rng = datetime(2024, 5, 1), np.random.default_rng(0)
    keys = rng.choice(KEYS, number)
    return [(start + timedelta(seconds=30 * i), *key.rsplit("_", 1)) for i, key in enumerate(keys)]


def test_raw_events_give_pytorchs_vectors_with_the_folders_own_processor(model, exported):
    processor = AutoProcessor.from_pretrained(exported, trust_remote_code=True)
    inputs = dict(processor(events(), return_tensors="np"))
    assert inputs["input_ids"].shape[1] == 6
    vectors, states = exporting.session(exported / "model.onnx").run(None, inputs)
    with torch.inference_mode():
        expected = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    # float32 sums in another order
    np.testing.assert_allclose(vectors, expected.sensor_embeds, rtol=0, atol=1e-5)
    np.testing.assert_allclose(states, expected.sensor_model_output.last_hidden_state, rtol=0, atol=1e-4)


def test_any_batch_and_length_agree_with_pytorch(model, exported):
    worst = exporting.parity(model, exported / "model.onnx")
    assert list(worst) == ["1x1", "1x4", "3x10", "5x23", "2x257"]
    assert 0 < max(worst.values()) < 1e-5


def test_a_padded_window_gives_what_it_gives_alone(model, exported):
    inputs = exporting.random_windows(model, 4, 12)
    assert inputs["attention_mask"].sum(axis=1).tolist() == [12, 7, 8, 7]
    session = exporting.session(exported / "model.onnx")
    together = session.run(["sensor_embeds"], inputs)[0]
    for row, mask in enumerate(inputs["attention_mask"]):
        alone = {name: array[row : row + 1, mask == 1] for name, array in inputs.items()}
        np.testing.assert_allclose(session.run(["sensor_embeds"], alone)[0][0], together[row], rtol=0, atol=2e-6)


def test_the_folder_records_what_was_measured(exported, model):
    record = json.loads((exported / "export.json").read_text())
    assert list(record["inputs"]) == NAMES
    assert record["inputs"]["coordinates"]["shape"] == ["batch", "length", 2]
    assert record["outputs"]["sensor_embeds"]["shape"][1] == 16
    assert record["bytes"] == (exported / "model.onnx").stat().st_size
    cosine = exporting.cosines(model, exported / "model_int8.onnx")
    assert record["int8"]["mean_cosine"] == pytest.approx(cosine.mean(), abs=1e-6)
    assert record["int8"]["min_cosine"] == pytest.approx(cosine.min(), abs=1e-6)
    assert f"{record['int8']['mean_cosine']:.4f}" in (exported / "README.md").read_text()


def test_int8_is_smaller_near_and_not_the_same(exported, model):
    cosine = exporting.cosines(model, exported / "model_int8.onnx")
    assert 0.995 < cosine.min() < 1 - 1e-6  # 8 bits a weight: two decimals of a cosine
    assert (exported / "model_int8.onnx").stat().st_size < 0.6 * (exported / "model.onnx").stat().st_size


def test_the_file_names_no_path_of_the_machine_that_wrote_it(exported):
    home = str(Path(exporting.__file__).parents[1]).encode()
    for name in ("model.onnx", "model_int8.onnx"):
        assert home not in (exported / name).read_bytes()
        assert b"site-packages" not in (exported / name).read_bytes()


def test_a_file_of_another_model_is_refused(exported):
    other = make_model("everything", pooling="mean")
    with pytest.raises(RuntimeError, match=r"model\.onnx differs from PyTorch by .*, allowed are 0\.0001"):
        exporting.parity(other, exported / "model.onnx")


def test_a_missing_part_of_the_extra_is_named(published, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # importing it fails, as where it is absent
    assert main(["export", str(published), "--out", str(tmp_path / "out")]) == 2
    assert "needs onnxscript, which is not installed: pip install 'casita[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_model_is_refused(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "neither a run nor a model directory" in capsys.readouterr().err


def test_an_export_replaces_nothing_but_an_export(published, capsys):
    before = sorted(path.name for path in published.iterdir())
    assert main(["export", str(published), "--out", str(published)]) == 2
    assert "exists and holds no export" in capsys.readouterr().err
    assert sorted(path.name for path in published.iterdir()) == before
