"""The trees of dataset and embeddings repositories: what `datasets` reads of them, and what they never hold."""

import io
import json
import pickle
import re
import shlex
import shutil
import zipfile

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from datasets import Image, get_dataset_config_names, get_dataset_split_names, load_dataset
from huggingface_hub import DatasetCard
from PIL import Image as Picture

from casita.cli import main
from casita.datasets_scripts.schema import HomeFolder
from casita.files import hash_file, read_json, write_json
from casita.model_cards.build_page import build_commands
from casita.model_cards.trees import write_dataset_tree, write_embeddings_tree, write_model_tree
from casita.processing.sensor_embeddings import SensorEmbeddingTable

CONFIGS = {
    "events": ["full"],
    "windows": ["train", "validation", "test"],
    "captions": ["train", "validation", "test"],
    "text_embeddings_narrative_minilm": ["train", "validation", "test"],
    "pictures": ["full"],
    "image_embeddings_pixels": ["full"],
}
SOURCES = {  # of the configs whose rows are those of a file of the home folder
    "events": "events.parquet",
    "windows": "windows.parquet",
    "captions": "captions/narrative.parquet",
    "text_embeddings_narrative_minilm": "text_embeddings/narrative--minilm.parquet",
}


@pytest.fixture(scope="module")
def home(released):
    return released[0]


@pytest.fixture(scope="module")
def tree(home, tmp_path_factory):
    return write_dataset_tree(home.root, tmp_path_factory.mktemp("trees") / "dataset", "org/flat")


@pytest.fixture
def load(tree, tmp_path_factory):
    """`load_dataset` of the tree, with a cache of its own."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return lambda config, folder=tree, **options: load_dataset(str(folder), config, cache_dir=cache, **options)


@pytest.fixture
def copy(home, tmp_path):
    """A copy of the home that a test may change, and a way to write its layout."""
    shutil.copytree(home.root, tmp_path / "home", ignore=shutil.ignore_patterns("tensors"))
    return HomeFolder(tmp_path / "home")


def relay(home, **changed):
    """Change the layout of a home folder; None takes a key away."""
    layout = {**home.layout, **changed}
    home.describe(layout={key: value for key, value in layout.items() if value is not None})


def test_the_tree_offers_its_configs_and_splits(tree):
    assert set(get_dataset_config_names(str(tree))) == set(CONFIGS)
    for config, splits in CONFIGS.items():
        assert get_dataset_split_names(str(tree), config) == splits


@pytest.mark.parametrize("config", SOURCES)
def test_each_split_has_the_rows_of_the_home_folder_in_their_order(load, home, config):
    expected = pq.read_table(home.root / SOURCES[config])
    windows = pq.read_table(home.windows, columns=["window_id", "split"])
    for split in CONFIGS[config]:
        found = load(config, split=split)
        rows = expected
        if split != "full":
            inside = windows.filter(pc.equal(windows["split"], split))["window_id"].combine_chunks()
            rows = expected.filter(pc.is_in(expected["window_id"], value_set=inside))
        assert len(found) > 0
        assert found.data.table.to_pylist() == rows.to_pylist()


def test_windows_are_what_load_dataset_gives_unless_another_config_is_named(tree, tmp_path):
    default = load_dataset(str(tree), cache_dir=str(tmp_path))
    assert default["train"].column_names[0] == "window_id"
    assert set(default["test"]["split"]) == {"test"}


def test_features_are_typed_and_pictures_are_pictures(load, home):
    windows, vectors = load("windows", split="train"), load("text_embeddings_narrative_minilm", split="train")
    assert windows.features["start"].dtype == "timestamp[us]"
    assert (vectors.features["embedding"].length, vectors.features["embedding"].feature.dtype) == (384, "float32")
    pictures = load("pictures", split="full")
    assert isinstance(pictures.features["image"], Image)
    index = read_json(home.pictures / "index.json")
    assert pictures["key"][:] == list(index)
    for row in (pictures[0], pictures[len(pictures) - 1]):
        own = Picture.open(home.pictures / index[row["key"]])
        np.testing.assert_array_equal(np.asarray(row["image"].convert("RGB")), np.asarray(own.convert("RGB")))
        assert f"{row['sensor']}_{row['state']}" == row["key"]


def test_vectors_of_pictures_are_those_of_the_table(load, tree, home):
    table = SensorEmbeddingTable.load(home.image_embeddings("pixels"))
    rows = load("image_embeddings_pixels", split="full").with_format("numpy")
    assert rows["key"][:].tolist() == table.keys
    np.testing.assert_array_equal(rows["embedding"][:], table.embeddings)
    (entry,) = read_json(tree / "image_embeddings" / "index.json")
    assert SensorEmbeddingTable.load(tree / entry["file"]).compare(table) == []
    assert (entry["home"], entry["name"], entry["rows"]) == ("synthetic", "pixels", len(table.keys))
    assert entry["sha256"] == hash_file(tree / entry["file"])


def test_streaming_reads_the_same_rows(load):
    streamed = list(load("windows", split="test", streaming=True))
    assert streamed == list(load("windows", split="test"))


def test_a_large_table_lies_in_several_shards_with_the_same_rows(load, home, tmp_path):
    out = write_dataset_tree(home.root, tmp_path / "many", "org/flat", shard_bytes=20_000)
    names = sorted(path.name for path in (out / "windows" / "synthetic").glob("train-*"))
    assert len(names) > 1
    assert names[-1] == f"train-{len(names) - 1:05d}-of-{len(names):05d}.parquet"
    one, many = load("windows", split="train"), load("windows", folder=out, split="train")
    assert one.data.table.to_pylist() == many.data.table.to_pylist()


def test_writing_again_gives_the_same_bytes(tree, home, tmp_path):
    assert hash_file(write_dataset_tree(home.root, tmp_path / "again", "org/flat")) == hash_file(tree)
    two = [write_embeddings_tree(home.root, tmp_path / name, "org/flat") for name in "ab"]
    assert hash_file(two[0]) == hash_file(two[1])


def test_checksums_name_every_file_and_fit(tree):
    sums = dict(line.split("  ")[::-1] for line in (tree / "SHA256SUMS").read_text().splitlines())
    names = {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()} - {"SHA256SUMS"}
    assert sums == {name: hash_file(tree / name) for name in names}


def test_the_hub_reads_the_card_and_every_number_of_it_is_counted(tree, home):
    card = DatasetCard.load(tree / "README.md")
    assert card.data.license == "other"
    assert (tree / card.data.license_link).is_file()
    assert card.data.size_categories == "n<1K"
    assert {entry["config_name"] for entry in card.data.configs} == set(CONFIGS)
    windows = home.summary("windows")
    for split, counts in windows["splits"].items():
        assert f"| {split} | {counts['windows']} | {counts['labelled']} |" in card.text
        for label, count in counts["labels"].items():
            row = re.search(rf"^\| {label} \| (.*) \|$", card.text, flags=re.M)[1].split(" | ")
            assert int(row[list(windows["splits"]).index(split)]) == count
    assert "train/validation 0, train/test 0, validation/test 0" in card.text
    assert "Apache License 2.0" in card.text


def test_the_build_page_names_another_reading_of_activities_that_nobody_ended(released):
    stages = released[0].description["stages"]
    assert not any("--unclosed" in words for words in build_commands(stages, "flat"))
    stages["read"]["settings"]["unclosed"] = "session"
    commands = list(build_commands(stages, "flat"))
    assert [words[-2:] for words in commands if words[1] == "read"] == [["--unclosed", "session"]]


def test_the_commands_of_the_build_page_make_the_home_again(tree, released, tmp_path, monkeypatch):
    text = (tree / "build.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    raw = released[1].parent / "raw"
    shutil.copytree(tree, tmp_path / "snapshot")
    monkeypatch.chdir(tmp_path / "snapshot")
    for line in block.splitlines():
        command = shlex.split(line.replace("$RAW", str(raw)))
        if command[1] != "embed-text":  # its bits depend on the batch; its own tests compare the vectors
            assert main(command[1:]) == 0
    made = dict(re.findall(r"^\| `(.+)` \| `([0-9a-f]{64})` \|$", text, flags=re.M))
    assert made.pop("flat.txt") == hash_file(raw / "flat.txt")
    made.pop("text_embeddings/narrative--minilm.parquet")
    assert len(made) == 6
    assert made == {name: hash_file(tmp_path / "snapshot" / "built" / "synthetic" / name) for name in made}


# --------------------------------------------------------------------------------------------- what may be passed on
def test_a_restricted_recording_is_refused_with_its_terms_and_the_way_out(copy, tmp_path):
    relay(copy, redistribution="restricted", terms="Ask the lab first.")
    with pytest.raises(PermissionError, match=r"'synthetic'.*Ask the lab first\..*--i-have-permission"):
        write_dataset_tree(copy.root, tmp_path / "out", "org/flat")
    assert not (tmp_path / "out").exists()
    assert (write_dataset_tree(copy.root, tmp_path / "out", "org/flat", permission=True) / "windows").is_dir()


def test_a_home_of_which_nobody_said_anything_is_refused(copy, tmp_path):
    relay(copy, redistribution=None, terms=None)
    with pytest.raises(PermissionError, match=r"not stated.*\"redistribution\" and \"terms\""):
        write_dataset_tree(copy.root, tmp_path / "out", "org/flat")


def test_what_comes_from_the_layout_alone_may_always_go(copy, tmp_path, load):
    relay(copy, redistribution="restricted", terms="Ask the lab first.")
    ids = pq.read_table(copy.windows, columns=["window_id"])["window_id"].to_pylist()
    times = [str(time) for time in pq.read_table(copy.windows, columns=["start"])["start"].to_pylist()]
    open_parts = write_dataset_tree(copy.root, tmp_path / "open", "org/flat", recordings=False)
    assert set(get_dataset_config_names(str(open_parts))) == {"pictures", "image_embeddings_pixels"}
    assert len(load("pictures", folder=open_parts, split="full")) == 56
    assert "casita read" in (open_parts / "build.md").read_text()
    for folder in (open_parts, write_embeddings_tree(copy.root, tmp_path / "embeddings", "org/flat")):
        for path in folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert not any(word.encode() in content for word in ids[:20] + times[:20]), path
            assert "Somebody" not in content.decode(errors="ignore") or path.name == "layout.json", path


def test_a_floor_plan_that_somebody_drew_needs_permission_too(copy, tmp_path):
    plan = tmp_path / "plan.png"
    Picture.new("RGB", (100, 70), "white").save(plan)
    relay(copy, redistribution="restricted", terms="Ask.", floor_plan=str(plan))
    with pytest.raises(PermissionError, match="floor plan picture"):
        write_dataset_tree(copy.root, tmp_path / "out", "org/flat", recordings=False)
    embeddings = write_embeddings_tree(copy.root, tmp_path / "embeddings", "org/flat")
    assert not list(embeddings.rglob("*.png"))
    relay(copy, redistribution="open")
    out = write_dataset_tree(copy.root, tmp_path / "out", "org/flat")
    assert read_json(out / "homes" / "synthetic" / "layout.json")["floor_plan"] == "plan.png"
    assert hash_file(out / "homes" / "synthetic" / "plan.png") == hash_file(plan)


# ----------------------------------------------------------------------------------------------- what is never there
def test_nothing_in_any_tree_unpickles_or_names_a_folder_of_this_machine(tree, released, tmp_path):
    home, run = released
    trees = [tree, write_embeddings_tree(home.root, tmp_path / "embeddings", "org/flat")]
    trees.append(write_model_tree(run, tmp_path / "model", "org/casita-flat", dataset="org/flat"))
    assert is_pickle(pickle.dumps([1]))  # the scan finds what it looks for
    here = str(run.parent).encode()
    for path in [path for folder in trees for path in folder.rglob("*") if path.is_file()]:
        content = path.read_bytes()
        assert not is_pickle(content), path
        assert here not in content, path


def is_pickle(content):
    """Whether the bytes are a pickle, or a zip, in which torch and NumPy write theirs."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        return True
    return content[:1] == b"\x80" and content[1:2] in {bytes([protocol]) for protocol in range(2, 6)}


# ------------------------------------------------------------------------------------------------------ what is wrong
def test_files_that_do_not_belong_together_are_refused(copy, tmp_path):
    table = pq.read_table(copy.captions("narrative"))
    pq.write_table(table.slice(1), copy.captions("narrative"))
    with pytest.raises(ValueError, match=r"narrative\.parquet: another file than when stage 'caption:narrative' ran"):
        write_dataset_tree(copy.root, tmp_path / "out", "org/flat")
    description = copy.description
    description["stages"]["caption:narrative"]["outputs"]["captions/narrative.parquet"] = hash_file(
        copy.captions("narrative")
    )
    del description["stages"]["embed-text:narrative:minilm"]
    copy.text_embeddings("narrative", "minilm").unlink()
    write_json(copy.root / "home.json", description)
    with pytest.raises(ValueError, match=r"narrative\.parquet: 1 of \d+ windows have no captions.*casita caption"):
        write_dataset_tree(copy.root, tmp_path / "out", "org/flat")


@pytest.mark.parametrize(
    ("audit", "message"),
    [
        ({"train/test": 3}, r"home\.json: events in two splits \(train/test: 3\).*casita windows"),
        ({}, r"home\.json: no leak audit"),
    ],
)
def test_a_card_is_refused_unless_the_audit_counts_nothing(copy, tmp_path, audit, message):
    description = copy.description
    description["stages"]["windows"]["summary"]["leak_audit"] = audit
    write_json(copy.root / "home.json", description)
    with pytest.raises(ValueError, match=message):
        write_dataset_tree(copy.root, tmp_path / "out", "org/flat")
    assert not (tmp_path / "out").exists()


def test_vectors_of_a_model_that_only_this_machine_has_are_refused(copy, tmp_path):
    table = SensorEmbeddingTable.load(copy.image_embeddings("pixels"))
    table.vision_model = "/models/clip"
    table.save(copy.root / "image_embeddings" / "models-clip.safetensors")
    with pytest.raises(ValueError, match=r"/models/clip, which nobody else has"):
        write_embeddings_tree(copy.root, tmp_path / "out", "org/flat")


def test_a_folder_that_is_no_home_and_a_home_without_pictures_say_what_to_run(copy, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no home\.json"):
        write_dataset_tree(tmp_path / "nowhere", tmp_path / "out", "org/flat")
    shutil.rmtree(copy.root / "image_embeddings")
    with pytest.raises(FileNotFoundError, match="casita embed-images"):
        write_embeddings_tree(copy.root, tmp_path / "out", "org/flat")


def test_json_of_the_tree_is_the_homes_own_but_for_paths(tree, home):
    published = read_json(tree / "homes" / "synthetic" / "home.json")
    assert published["layout"] == home.layout == read_json(tree / "homes" / "synthetic" / "layout.json")
    assert list(published["stages"]["read"]["inputs"]) == ["flat.txt"]
    published["stages"]["read"]["inputs"] = home.description["stages"]["read"]["inputs"]
    assert json.dumps(published) == json.dumps(home.description)
