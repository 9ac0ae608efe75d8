"""A saved model directory stands alone: a process that cannot import casita loads it and gets the same numbers."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from paths import ROOT
from training_record import TRAINING

from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.inference.model_directory import publish

KEYS = ["D001_CLOSE", "D001_OPEN", "M001_OFF", "M001_ON"]
EVENTS = [["2024-05-01 07:00:00", "M001", "ON"], ["2024-05-01 07:00:09", "D001", "OPEN"]]
CONSUMER = """
import json, sys
sys.modules["casita"] = None
import torch
from transformers import (
    AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoProcessor
)
def load(auto_class, directory=sys.argv[1]):
    return auto_class.from_pretrained(directory, trust_remote_code=True)
autos = (AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoProcessor)
config, model, masked, classifier, processor = (load(auto) for auto in autos)
inputs = processor(json.loads(sys.argv[2]), return_tensors="pt")
model.save_pretrained("again")
resaved = load(AutoModelForMaskedLM, "again")
with torch.inference_mode():
    vectors = model.eval()(**inputs).sensor_embeds
    base = [each.eval().sensor_model(**inputs).pooler_output for each in (model, masked, classifier, resaved)]
    rows = masked(**inputs).logits.shape[-1]
print(json.dumps({
    "classes": [type(each).__name__ for each in (config, model, masked, classifier, processor)],
    "module": type(model).__module__, "vectors": vectors.tolist(), "rows": rows,
    "same_tower": all(torch.equal(each, base[0]) for each in base),
}))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    torch.manual_seed(0)
    rows = np.random.default_rng(0).normal(size=(4, 24)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    table = SensorEmbeddingTable(
        keys=KEYS,
        embeddings=rows,
        home="toy",
        vision_model="pixels",
        revision=None,
        output="pixels",
        image_size=224,
        pictures_hash="0",
        normalization="l2",
        mean=None,
    )
    config = CasitaConfig.from_preset(
        "tiny", vocab_size=7, image_embedding_dim=24, text_embedding_dim=12, use_time_deltas=True
    )
    model = CasitaModel(config).eval()
    model.set_sensor_embeddings(table)
    processor = CasitaProcessor(KEYS, home="toy", use_time_deltas=True, text_model="some/model", vision_model="pixels")
    return publish(model, processor, table, tmp_path_factory.mktemp("run"), TRAINING), model, processor


def test_a_process_without_casita_gets_the_same_numbers(published, tmp_path):
    directory, model, processor = published
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-I", "-c", CONSUMER, str(directory), json.dumps(EVENTS)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["module"].startswith("transformers_modules.")
    heads = ["CasitaForMaskedEventModeling", "CasitaForSequenceClassification"]
    assert answer["classes"] == ["CasitaConfig", "CasitaModel", *heads, "CasitaProcessor"]
    assert answer["same_tower"]
    assert answer["rows"] == 3 + len(KEYS)
    with torch.inference_mode():
        expected = model(**processor(EVENTS, return_tensors="pt")).sensor_embeds
    np.testing.assert_allclose(answer["vectors"], expected.numpy(), rtol=0, atol=1e-6)


def test_the_copy_is_the_source_byte_for_byte(published):
    directory, *_ = published
    copies = sorted(path for path in directory.glob("*.py"))
    assert {path.name for path in copies} == {
        path.name for room in ("modeling", "processing") for path in (ROOT / room).glob("*.py")
    } - {"__init__.py"}
    for copy in copies:
        source = next(
            ROOT / room / copy.name for room in ("modeling", "processing") if (ROOT / room / copy.name).is_file()
        )
        assert copy.read_bytes() == source.read_bytes()


def test_the_directory_holds_table_and_card(published):
    directory, model, _ = published
    table = SensorEmbeddingTable.load(directory / "sensor_embeddings.safetensors")
    assert table.keys == KEYS
    assert torch.equal(model.get_input_embeddings().weight[3:], torch.from_numpy(table.embeddings))
    assert (directory / "README.md").read_text().startswith("---\n")
    autos = {"AutoConfig", "AutoModel", "AutoModelForMaskedLM", "AutoModelForSequenceClassification"}
    assert set(json.loads((directory / "config.json").read_text())["auto_map"]) == autos
    assert "auto_map" in json.loads((directory / "processor_config.json").read_text())
