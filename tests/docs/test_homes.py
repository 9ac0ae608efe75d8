"""docs/homes.md does what it says: its commands and snippets, run in order, as a reader would."""

import json
import os
import shlex
import subprocess
import sys
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch
from snippets import ROOT, snippets
from training_record import TRAINING

from casita.cli import main
from casita.datasets_scripts.layouts.layout import load_layout
from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.inference.model_directory import publish

FACTS = """
import json
from pathlib import Path
moved = AutoModel.from_pretrained("models/aruba", trust_remote_code=True).eval()
its_processor = AutoProcessor.from_pretrained("models/aruba", trust_remote_code=True)
with torch.inference_mode():
    again = moved(**its_processor(events, return_tensors="pt")).sensor_embeds
level = its_processor.decode(its_processor([("2010-11-04 09:00:00", "T001", 24)])["input_ids"])[0][0]["state"]
first = processor.decode(processor(events)["input_ids"])[0][0]
print(json.dumps([vectors.tolist(), again.tolist(), level, first, inputs["events"].tolist(), aruba.keys[:2]]))
"""


def write_log(path, layout, events=60):
    """A CASAS log in which the home's motion sensors fire in turn."""
    sensors = [name for name, sensor in layout["sensors"].items() if sensor["type"] == "motion"]
    start = datetime(2010, 11, 4, 8)
    lines = [
        f"{start + timedelta(seconds=7 * i)}.000000 {sensors[i // 2 % len(sensors)]} {('ON', 'OFF')[i % 2]}"
        for i in range(events)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="ascii")


def commands(block):
    return [shlex.split(line) for line in block.splitlines() if line]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with logs and layouts of both homes, and a checkpoint of Milan."""
    monkeypatch.chdir(tmp_path)
    for home in ("milan", "aruba"):
        (tmp_path / f"{home}.json").write_text(json.dumps(load_layout(home)))
        write_log(tmp_path / "raw" / f"{home}.txt", load_layout(home))
    for _, *arguments in commands(snippets("docs/homes.md", "bash")[0].replace("aruba", "milan")):
        assert main(arguments) == 0
    table = SensorEmbeddingTable.load("homes/milan/image_embeddings/pixels.safetensors")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    features = {"use_coordinates": True, "use_time_deltas": True}
    model = CasitaModel(CasitaConfig(**sizes, **features, projection_dim=16, text_embedding_dim=8)).eval()
    processor = CasitaProcessor(**features, text_model="some/model")
    processor.set_home(model, table, "milan.json")
    publish(model, processor, table, tmp_path / "runs" / "milan", {**TRAINING, "home": "milan"})
    return tmp_path


def test_the_page_of_homes_does_what_it_says(place):
    for _, *arguments in commands("\n".join(snippets("docs/homes.md", "bash"))):
        assert main(arguments) == 0
    script = "\n".join([*snippets("docs/homes.md", "python"), FACTS])
    environment = {**os.environ, "HF_MODULES_CACHE": str(place / "modules"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    vectors, again, level, first, events, keys = json.loads(done.stdout.splitlines()[-1])
    assert np.shape(vectors) == (1, 16)
    np.testing.assert_allclose(again, vectors, rtol=0, atol=1e-6)
    assert level == "HIGH"
    assert {"home": "aruba", "sensor": "M003", "state": "ON"}.items() <= first.items()
    assert events == [[0, 1, 2]]
    assert keys == ["D001_CLOSE", "D001_OPEN"]  # as the page says
    assert SensorEmbeddingTable.load(place / "mine.safetensors").vision_model == "my/model"
