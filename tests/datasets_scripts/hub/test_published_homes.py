"""A data set's tree as home folders again: the files, the stages and the training are those of the original."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from released_home import SETTINGS
from train_home import rehash, tiny, without_numbers

from casita.datasets_scripts.captions.caption import caption_home
from casita.datasets_scripts.captions.text_embeddings import embed_captions
from casita.datasets_scripts.hub.published_homes import home_from_dataset
from casita.datasets_scripts.schema import (
    CAPTIONS,
    SCHEMA_VERSION,
    HomeFolder,
    home_folders,
    read_metadata,
    read_table,
    text_embeddings_schema,
)
from casita.datasets_scripts.windows.cut import cut_home
from casita.files import hash_file, read_json, write_json
from casita.model_cards.trees import write_checksums, write_dataset_tree
from casita.train.data.dataset import build_processor, fingerprint, load_split, load_table

ARRAYS = ("codes", "seconds", "starts", "texts", "caption_ids", "caption_rows", "caption_starts")


@pytest.fixture(scope="module")
def tree(released, tmp_path_factory):
    """With several shards a split."""
    out = tmp_path_factory.mktemp("trees") / "dataset"
    return write_dataset_tree(released[0].root, out, "org/flat", shard_bytes=20_000)


@pytest.fixture(scope="module")
def back(tree, tmp_path_factory):
    return HomeFolder(home_from_dataset(tree, tmp_path_factory.mktemp("back") / "home"))


@pytest.fixture
def snapshot(tree, tmp_path):
    """A copy of the tree that a test may damage."""
    return shutil.copytree(tree, tmp_path / "snapshot")


def files(root):
    """Name and hash of each file of a home folder, but for home.json and what training caches."""
    found = [path for path in root.rglob("*") if path.is_file() and "tensors" not in path.parts]
    return {str(path.relative_to(root)): hash_file(path) for path in found if path.name != "home.json"}


def test_every_file_has_the_bytes_that_it_had(back, released):
    assert files(back.root) == files(released[0].root)


def test_its_stages_are_up_to_date(back):
    assert cut_home(back, SETTINGS.windows) is None
    assert embed_captions(back, "narrative", "minilm", load=pytest.fail) is None
    assert cut_home(back, replace(SETTINGS.windows, length=30)) is not None
    shutil.rmtree(back.root)


def test_training_reads_the_same_data(tree, released, tmp_path):
    home = HomeFolder(home_from_dataset(tree, tmp_path / "home"))
    ours, theirs = tiny(released[0], tmp_path / "a"), tiny(home, tmp_path / "b")
    tables = [load_table(config) for config in (ours, theirs)]
    assert fingerprint(ours, tables[0]) == fingerprint(theirs, tables[1])
    for split in ("train", "validation"):
        pairs = [load_split(c, split, build_processor(c, t)) for c, t in zip((ours, theirs), tables, strict=True)]
        (one,), (other,) = (each.parts for each in pairs)
        assert (one.keys, list(one.ids)) == (other.keys, list(other.ids))
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture
def several_captions(released, tmp_path):
    """The released home with two captions of each window in two styles, one of them embedded."""
    shutil.copytree(released[0].root, tmp_path / "many", ignore=shutil.ignore_patterns("tensors"))
    home = HomeFolder(tmp_path / "many")
    for style in ("narrative", "mixed"):
        caption_home(home, style, captions=2)
    embed_captions(home, "narrative", "minilm")
    return home


def test_several_captions_a_window_get_the_bytes_that_they_had(several_captions, tmp_path):
    tree = write_dataset_tree(several_captions.root, tmp_path / "tree", "org/flat", shard_bytes=20_000)
    back = HomeFolder(home_from_dataset(tree, tmp_path / "back"))
    assert files(back.root) == files(several_captions.root)


def test_a_data_set_of_release_01_becomes_a_home_folder_with_the_bytes_that_it_had(several_captions, tmp_path):
    expected = {path: pq.read_table(path) for path in captioned(several_captions)}
    tree = write_dataset_tree(without_numbers(several_captions).root, tmp_path / "tree", "org/flat")
    assert read_json(tree / "homes" / "synthetic" / "home.json")["schema_version"] == SCHEMA_VERSION
    for path in [*tree.glob("captions/*/*/*.parquet"), *tree.glob("text_embeddings/*/*/*.parquet")]:
        table = pq.read_table(path)  # what is pushed today has the column; release 0.1 wrote none
        assert "number" in table.schema.names
        header = read_metadata(path)
        assert header["schema_version"] == SCHEMA_VERSION
        old_header = {"casita": json.dumps(header | {"schema_version": "1.0"})}
        pq.write_table(table.drop_columns("number").replace_schema_metadata(old_header), path, compression="zstd")
    write_checksums(tree)
    back = HomeFolder(home_from_dataset(tree, tmp_path / "back"))
    assert files(back.root) == files(several_captions.root)
    assert embed_captions(back, "narrative", "minilm", load=pytest.fail) is None
    for path, table in expected.items():
        schema = CAPTIONS if "captions" in path.parts else text_embeddings_schema(384)
        assert read_table(back.root / path.relative_to(several_captions.root), schema).equals(table)


def test_captions_in_another_order_are_pushed_in_that_of_their_windows(several_captions, tmp_path):
    expected = files(several_captions.root)
    for path in captioned(several_captions):
        table = pq.read_table(path)
        pq.write_table(table.take(np.random.default_rng(0).permutation(len(table))), path)
    rehash(several_captions)
    tree = write_dataset_tree(several_captions.root, tmp_path / "tree", "org/flat")
    assert files(home_from_dataset(tree, tmp_path / "back")) == expected


def captioned(home):
    """The files of captions and of text embeddings."""
    return [*home.root.glob("captions/*.parquet"), *home.root.glob("text_embeddings/*.parquet")]


def test_several_homes_become_several_folders(released, tmp_path):
    for name in ("north", "south"):
        shutil.copytree(released[0].root, tmp_path / "homes" / name, ignore=shutil.ignore_patterns("tensors"))
        HomeFolder(tmp_path / "homes" / name).describe(home=name)
    tree = write_dataset_tree(tmp_path / "homes", tmp_path / "tree", "org/two")
    assert len(list((tree / "windows").iterdir())) == 2
    back = home_folders(home_from_dataset(tree, tmp_path / "back"))
    assert [folder.name for folder in back] == ["north", "south"]
    for folder in back:
        assert files(folder.root) == files(tmp_path / "homes" / folder.name)


def test_the_same_data_set_is_not_made_twice_and_another_one_is_not_overwritten(snapshot, tmp_path):
    home = HomeFolder(home_from_dataset(snapshot, tmp_path / "home"))
    when = home.windows.stat().st_mtime_ns
    home_from_dataset(snapshot, tmp_path / "home")
    assert home.windows.stat().st_mtime_ns == when
    (snapshot / "build.md").write_text("another version")
    write_checksums(snapshot)
    with pytest.raises(ValueError, match=r"home: holds something else than this data set"):
        home_from_dataset(snapshot, tmp_path / "home")


@pytest.mark.parametrize(
    "harm",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?"),
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
    ],
)
def test_a_damaged_or_missing_file_is_named_and_nothing_is_made(snapshot, tmp_path, harm):
    shard = sorted((snapshot / "windows" / "synthetic").glob("train-*"))[1]
    harm(shard)
    with pytest.raises(ValueError, match=rf"{shard.name}.*Download it again"):
        home_from_dataset(snapshot, tmp_path / "home")
    assert not (tmp_path / "home").exists()


def test_a_data_set_cannot_reach_out_of_its_folder(snapshot, tmp_path):
    path = snapshot / "homes" / "synthetic" / "home.json"
    content = read_json(path)
    content["stages"]["draw"]["inputs"]["../../secret.png"] = "0" * 64
    write_json(path, content)
    write_checksums(snapshot)
    with pytest.raises(ValueError, match=r"names '../../secret.png', which lies outside the home"):
        home_from_dataset(snapshot, tmp_path / "home")
    with (snapshot / "SHA256SUMS").open("a") as sums:
        sums.write(f"{'0' * 64}  ../secret\n")
    with pytest.raises(ValueError, match=r"'\.\./secret' leads out of the data set"):
        home_from_dataset(snapshot, tmp_path / "home")


def test_a_layout_that_breaks_the_contract_is_refused(snapshot, tmp_path):
    path = snapshot / "homes" / "synthetic" / "home.json"
    content = read_json(path)
    content["layout"]["sensors"]["M001"]["x"] = -1
    write_json(path, content)
    write_checksums(snapshot)
    with pytest.raises(ValueError, match=r"home\.json: 1 thing\(s\) to mend in its layout.*'M001'"):
        home_from_dataset(snapshot, tmp_path / "home")


def test_a_folder_without_the_recordings_says_what_to_do(released, tmp_path):
    tree = write_dataset_tree(released[0].root, tmp_path / "open", "org/flat", recordings=False)
    with pytest.raises(FileNotFoundError, match=r"without the recordings: its build\.md"):
        home_from_dataset(tree, tmp_path / "home")
