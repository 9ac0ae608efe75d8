"""Files and models of strangers: nothing of theirs runs, leads out of its folder, or fills the memory."""

import json
import pickle
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from train_home import LAYOUT

from casita.datasets_scripts.captions.text_embeddings import load_text_model
from casita.datasets_scripts.layouts import layout as layouts
from casita.datasets_scripts.layouts.layout import load_layout
from casita.datasets_scripts.pictures import files as picture_files
from casita.datasets_scripts.pictures.files import open_picture
from casita.datasets_scripts.pictures.image_embeddings import load_vision_model
from casita.datasets_scripts.readers.read import read_home
from casita.datasets_scripts.schema import HomeFolder
from casita.datasets_scripts.synthetic.home import write_synthetic_log
from casita.files import read_json
from casita.model_cards.tree_check import pickled
from casita.modeling import pipeline_casita
from casita.processing import home_layouts, table_files
from casita.processing.sensor_embeddings import SensorEmbeddingTable


def write_layout(folder: Path, **changes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "layout.json"
    path.write_text(json.dumps(LAYOUT | changes))
    return path


@pytest.mark.parametrize(
    "name", ["../plan.png", "/etc/plan.png", "a/../../plan.png", "..\\plan.png", "C:\\plan.png", ""]
)
def test_a_floor_plan_may_not_lead_out_of_the_layouts_folder(tmp_path, name):
    Image.new("RGB", (200, 100)).save(tmp_path / "plan.png")
    with pytest.raises(ValueError, match="floor_plan should be a picture's path below the layout's folder"):
        load_layout(write_layout(tmp_path / "inside", floor_plan=name))


def test_nor_may_a_link(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "secret.png")
    path = write_layout(tmp_path / "inside", floor_plan="plan.png")
    (tmp_path / "inside" / "plan.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="leads out of its folder"):
        load_layout(path)


def test_a_floor_plan_below_the_layout_is_found(tmp_path):
    path = write_layout(tmp_path, floor_plan="pictures/plan.png")
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (200, 100)).save(tmp_path / "pictures" / "plan.png")
    assert load_layout(path)["floor_plan"] == str(tmp_path / "pictures" / "plan.png")


@pytest.mark.parametrize("name", ["../home", "a/b", "..", ".hidden", "a\\b", "a\nb", "-", "x" * 101, 3])
def test_a_home_is_called_by_a_name_that_is_no_path(tmp_path, name):
    with pytest.raises(ValueError, match="home should be a name that can be a folder's"):
        load_layout(write_layout(tmp_path, home=name))
    if isinstance(name, str):
        log = write_synthetic_log(tmp_path / "log.txt", days=1, progress=False)
        with pytest.raises(ValueError, match="expected a name that can be a folder's"):
            read_home(HomeFolder(tmp_path / "home"), [log], home=name)
        assert not (tmp_path / "home" / "home.json").exists()


def bomb(path: Path, side: int) -> Path:
    """A PNG of a few kilobytes that says it has `side` x `side` pixels."""
    picture = Image.new("L", (1, 1))
    picture.save(path)
    data = path.read_bytes()
    header = bytearray(data[12:29])
    header[4:12] = side.to_bytes(4, "big") * 2
    path.write_bytes(data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:])
    return path


@pytest.mark.parametrize("side", [8_000, 12_000, 60_000])  # Pillow itself: silent, a warning, an error
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, side):
    with pytest.raises(ValueError, match=r"bomb\.png: no sound picture"):
        open_picture(bomb(tmp_path / "bomb.png", side))


def test_the_limit_of_pixels_is_exact(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_files, "LARGEST_PICTURE", 200)
    Image.new("RGB", (20, 10)).save(tmp_path / "just.png")
    Image.new("RGB", (67, 3)).save(tmp_path / "over.png")
    assert open_picture(tmp_path / "just.png", "RGBA").size == (20, 10)
    with pytest.raises(ValueError, match="67 x 3 pixels, expected at most 200"):
        open_picture(tmp_path / "over.png")


def test_json_without_measure_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "some.json"
    for text in ("[" * 200_000, "1" * 5_000, '{"a": 1', "\udcff"):
        path.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(ValueError, match=r"some\.json: (expected JSON, found something else|nested too deeply)"):
            read_json(path)
    path.write_text('{"a": 1}')
    assert read_json(path, largest=8) == {"a": 1}
    with pytest.raises(ValueError, match="8 bytes of JSON, expected at most 7"):
        read_json(path, largest=7)
    for module, load in ((layouts, load_layout), (home_layouts, home_layouts.load_home_layout)):
        monkeypatch.setattr(module, "LARGEST_LAYOUT", 100)
        with pytest.raises(ValueError, match=r"bytes.* expected at most 100"):
            load(write_layout(tmp_path))


def test_an_archive_that_inflates_without_measure_is_no_table(tmp_path, monkeypatch):
    path = tmp_path / "table.npz"
    np.savez_compressed(path, embeddings=np.ones((100, 100), np.float32), image_keys=np.array(["A_ON"] * 100))
    monkeypatch.setattr(table_files, "LARGEST_NPZ", 40_000)
    assert path.stat().st_size < 5_000
    with pytest.raises(ValueError, match="it inflates to"):
        SensorEmbeddingTable.load(path)


@pytest.fixture
def stranger(tmp_path):
    """A model whose configuration is code: whoever runs it leaves `ran.txt`."""
    folder, ran = tmp_path / "stranger", tmp_path / "ran.txt"
    folder.mkdir()
    autos = {"AutoConfig": "code.Config", "AutoModel": "code.Model", "AutoImageProcessor": "code.Processor"}
    (folder / "config.json").write_text(json.dumps({"model_type": "stranger", "auto_map": autos}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"auto_map": autos, "image_processor_type": "X"}))
    (folder / "modules.json").write_text(
        json.dumps([{"idx": 0, "name": "0", "path": "", "type": "code.Module"}])  # as sentence-transformers has it
    )
    code = f"open({str(ran)!r}, 'w').close()\nclass Config: pass\nModel = Processor = Module = Config\n"
    (folder / "code.py").write_text(code)
    yield folder
    assert not ran.exists()


def test_a_vision_models_own_code_is_never_run(stranger):
    with pytest.raises(ValueError, match="asks to run code of its own, which casita never does"):
        load_vision_model(str(stranger), device="cpu")


def test_a_text_models_own_code_is_never_run(stranger):
    with pytest.raises(ValueError, match="could not be loaded"):
        load_text_model(str(stranger), "cpu")
    with pytest.raises(ValueError, match="could not be loaded"):
        pipeline_casita.load_text_model(str(stranger), "cpu")
    (stranger / "modules.json").unlink()  # then it is read as a transformer
    with pytest.raises(ValueError, match="could not be loaded"):
        load_text_model(str(stranger), "cpu")


def test_what_is_a_pickle_is_known_by_its_content(tmp_path):
    for protocol in (2, 3, 4, 5):
        (tmp_path / "plain").write_bytes(pickle.dumps([1], protocol=protocol))
        assert pickled(tmp_path / "plain") == "is a pickle by its first bytes"
    torch.save({"a": torch.zeros(2)}, tmp_path / "state")
    assert "is an archive with a pickle in it" in pickled(tmp_path / "state")
    np.savez(tmp_path / "objects.npz", keys=np.array(["a", None], dtype=object))
    assert "objects.npz" not in str(pickled(tmp_path / "objects.npz"))
    with zipfile.ZipFile(tmp_path / "fine.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    assert pickled(tmp_path / "fine.zip") is None
