"""A folder with an index of tables, as a data set on the Hub has it: what is found, and what is not believed."""

import json

import numpy as np
import pytest

from casita.files import hash_file
from casita.processing import published_tables
from casita.processing.sensor_embeddings import SensorEmbeddingTable


def write_table(root, home, name, vision_model, seed=0):
    """The index's entry of a table that is written now."""
    rows = np.random.default_rng(seed).normal(size=(3, 4))
    file = f"image_embeddings/{home}/{name}.safetensors"
    keys = ["M001_OFF", "M001_ON", "D001_OPEN"]
    SensorEmbeddingTable.build(keys, rows, home=home, vision_model=vision_model, output="cls").save(root / file)
    sha256 = hash_file(root / file)
    return {"file": file, "home": home, "name": name, "vision_model": vision_model, "sha256": sha256}


@pytest.fixture
def data(tmp_path):
    """Two homes by two vision models."""
    models = {"clip": "openai/clip-vit-base-patch32", "pixels": "pixels"}
    entries = [
        write_table(tmp_path, home, name, models[name], seed)
        for seed, (home, name) in enumerate((home, name) for home in ("milan", "aruba") for name in models)
    ]
    write_index(tmp_path, entries)
    return tmp_path


def write_index(root, content):
    (root / published_tables.INDEX).write_text(json.dumps(content))


def read_index(root):
    return json.loads((root / published_tables.INDEX).read_text())


@pytest.mark.parametrize("vision_model", ["clip", "openai/clip-vit-base-patch32"])
def test_a_table_is_found_by_home_and_by_either_name_of_the_vision_model(data, vision_model):
    table = SensorEmbeddingTable.from_pretrained(data, home="aruba", vision_model=vision_model)
    assert (table.home, table.vision_model) == ("aruba", "openai/clip-vit-base-patch32")
    assert not table.compare(SensorEmbeddingTable.load(data / "image_embeddings/aruba/clip.safetensors"))


def test_one_that_is_not_there_or_not_the_only_one_is_refused_with_all_there_are(data):
    for choice in ({}, {"home": "milan"}, {"vision_model": "clip"}):
        with pytest.raises(ValueError, match=r"several tables fit; name one of .*\(milan, clip\)"):
            SensorEmbeddingTable.from_pretrained(data, **choice)
    with pytest.raises(ValueError, match=r"home='tulum'.* no such table; there are .*\(aruba, pixels\)"):
        SensorEmbeddingTable.from_pretrained(data, home="tulum")


def test_a_table_of_other_bytes_than_in_the_index_is_refused(data):
    path = data / "image_embeddings/milan/clip.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"clip\.safetensors: SHA-256 is .*: damaged or tampered with"):
        SensorEmbeddingTable.from_pretrained(data, home="milan", vision_model="clip")


def test_an_index_that_lies_about_home_or_model_is_found_out(data):
    entries = read_index(data)
    for field, change in (("home", "tulum"), ("vision_model", "dinov2")):
        write_index(data, [entries[0] | {field: change, **({"name": "dinov2"} if field == "vision_model" else {})}])
        with pytest.raises(ValueError, match=f"not (of|by) '{change}'"):
            SensorEmbeddingTable.from_pretrained(data, **{field: change})


@pytest.mark.parametrize(
    "content",
    [
        {"file": "a"},
        [3],
        [{"home": "milan"}],
        [{"file": "../secret.safetensors", "home": "m", "name": "n", "vision_model": "v", "sha256": "0"}],
        [{"file": "/etc/secret.safetensors", "home": "m", "name": "n", "vision_model": "v", "sha256": "0"}],
        [{"file": 3, "home": "m", "name": "n", "vision_model": "v", "sha256": "0"}],
    ],
)
def test_an_index_of_another_form_or_that_leads_elsewhere_is_refused(data, content):
    write_index(data, content)
    with pytest.raises(ValueError, match=r"index\.json: no index of embedding tables"):
        SensorEmbeddingTable.from_pretrained(data)


def test_an_index_without_measure_is_refused(data, monkeypatch):
    monkeypatch.setattr(published_tables, "LARGEST_INDEX", 100)
    with pytest.raises(ValueError, match="expected at most 100"):
        SensorEmbeddingTable.from_pretrained(data)


def test_a_model_directory_has_its_own_table(data, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    table = SensorEmbeddingTable.load(data / "image_embeddings/milan/clip.safetensors")
    table.save(model)
    for choice in ({}, {"home": "milan"}):
        assert not SensorEmbeddingTable.from_pretrained(model, **choice).compare(table)
    with pytest.raises(ValueError, match="the table of home 'milan', not of 'aruba'"):
        SensorEmbeddingTable.from_pretrained(model, home="aruba")
    with pytest.raises(ValueError, match="not by 'dinov2'"):
        SensorEmbeddingTable.from_pretrained(model, vision_model="dinov2")
