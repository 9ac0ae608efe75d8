"""The tensor cache and the thread that works ahead: what they give is what was there, whoever asks and how often."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from train_home import COUNTS, make_home, tiny, write_captions

from casita.datasets_scripts.schema import CAPTIONS, WINDOWS, HomeFolder, read_table, write_table
from casita.train.data import tensor_cache
from casita.train.data.dataset import WindowDataset, build_processor, load_split, load_table
from casita.train.data.home_arrays import HomeArrays, SplitFiles, distinct, hash_texts
from casita.train.data.loaders import make_loader
from casita.train.data.prefetch import prefetched
from casita.train.data.tensor_cache import load_arrays


@pytest.fixture
def home(tmp_path) -> HomeFolder:
    return make_home(tmp_path / "home")


def load(home: HomeFolder, split: str = "train", **settings) -> WindowDataset:
    config = tiny(home, home.root / "run", **settings)
    return load_split(config, split, build_processor(config, load_table(config)))


def arrays(home: HomeFolder, split: str = "train") -> HomeArrays:
    return load_arrays(SplitFiles(home, split, "narrative", "minilm"), home.root / "run")


def assert_equal(one: HomeArrays, other: HomeArrays) -> None:
    assert (one.home, one.keys, list(one.ids)) == (other.home, other.keys, list(other.ids))
    for name in ("codes", "seconds", "starts", "texts", "caption_ids", "caption_rows", "caption_starts"):
        found, expected = getattr(one, name), getattr(other, name)
        assert found.dtype == expected.dtype, name
        np.testing.assert_array_equal(found, expected, name)


def written(home: HomeFolder) -> dict[str, int]:
    """Each cached file and when it was written."""
    files = (home.root / "tensors").rglob("*.np*")
    return {str(path.relative_to(home.root)): path.stat().st_mtime_ns for path in files}


# ------------------------------------------------------------------------------------------------------- cache
def test_the_arrays_are_built_once_and_mapped_after_that(home):
    load(home)
    before = written(home)
    split = load(home)
    assert written(home) == before
    assert len(before) == 9
    codes = split.parts[0].codes
    assert isinstance(codes.base, np.memmap)
    codes[0] += 1  # copy on write: the file stays as it is
    assert arrays(home).codes[0] == codes[0] - 1


def test_other_windows_make_other_arrays_and_the_old_ones_go(home):
    before = arrays(home), written(home)
    windows = read_table(home.windows, WINDOWS)
    write_table(home.windows, windows.take(np.arange(len(windows))[::-1]), WINDOWS)
    after = arrays(home)
    assert list(after.ids) == list(before[0].ids)[::-1]
    assert len(written(home)) == len(before[1])
    assert not set(written(home)) & set(before[1])


def test_other_captions_leave_the_events_arrays_as_they_are(home):
    arrays(home)
    before = written(home)
    rows = read_table(home.captions("narrative"), CAPTIONS).to_pylist()
    write_captions(home, [(row["window_id"], row["caption"].upper()) for row in rows])
    arrays(home)
    kept = {path for path, when in written(home).items() if before.get(path) == when}
    assert len(kept) == 5
    assert all("windows-train" in path for path in kept)


def test_arrays_built_in_small_chunks_are_the_same(home, tmp_path, monkeypatch):
    pairs = [
        (row["window_id"], row["caption"]) for row in read_table(home.captions("narrative"), CAPTIONS).to_pylist()
    ]
    write_captions(home, pairs + [(window, caption + " Again.") for window, caption in pairs])
    other = HomeFolder(shutil.copytree(home.root, tmp_path / "other"))
    expected = arrays(home)
    monkeypatch.setattr(tensor_cache, "CHUNK", 7)
    assert_equal(arrays(other), expected)
    assert len(expected.caption_rows) == 2 * COUNTS["train"]


def test_a_split_without_windows_is_empty_arrays(home):
    windows = read_table(home.windows, WINDOWS)
    write_table(home.windows, windows.slice(0, COUNTS["train"]), WINDOWS)
    split = load(home, "validation")
    assert (len(split), split.num_captions, split.text_width) == (0, 0, 16)
    assert list(split.window_ids) == []


def test_a_home_that_cannot_be_written_is_cached_in_the_run():
    if os.geteuid():
        pytest.skip("only root can become another user")
    root = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        home = make_home(root / "home")
        run = root / "run"
        run.mkdir()
        run.chmod(0o777)
        root.chmod(0o755)
        os.seteuid(65534)
        try:
            loaded = load_arrays(SplitFiles(home, "train", "narrative", "minilm"), run)
        finally:
            os.seteuid(0)
        assert not (home.root / "tensors").exists()
        assert len(list((run / "tensors" / "home").rglob("*.npy"))) == 9
        assert_equal(loaded, arrays(home))
    finally:
        shutil.rmtree(root)


def test_processes_that_start_together_build_the_arrays_once(home):
    code = (
        "import sys; from pathlib import Path; from casita.datasets_scripts.schema import HomeFolder\n"
        "from casita.train.data.home_arrays import SplitFiles\n"
        "from casita.train.data.tensor_cache import load_arrays\n"
        "found = load_arrays(SplitFiles(HomeFolder(sys.argv[1]), 'train', 'narrative', 'minilm'), Path('.'))\n"
        "print(len(found), found.codes.sum())"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, home.root], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    outputs = [process.communicate()[0] for process in started]
    expected = arrays(home)
    assert outputs == [f"{len(expected)} {expected.codes.sum()}\n"] * 2
    assert len(written(home)) == 9


def test_windows_ids_come_back_as_they_were_written(home):
    ids = load(home).window_ids
    expected = pq.read_table(home.windows)["window_id"].to_pylist()[: len(ids)]
    assert list(ids) == expected
    assert ids[7] == expected[7]
    assert ids[np.array([5, 3])].tolist() == [expected[5], expected[3]]
    assert ids[2:4].tolist() == expected[2:4]


def test_a_copy_of_some_windows_holds_them_and_the_chosen_captions(home):
    split = load(home)
    rows = np.array([17, 3, 40])
    captions = split.choose_captions(0, 0)[rows]
    config = tiny(home, home.root / "run")
    copy = WindowDataset(split.take(rows, captions), build_processor(config, load_table(config)))
    assert list(copy.window_ids) == split.window_ids[rows].tolist()
    one = split.batch(rows, captions)
    other = copy.batch(np.arange(3), copy.choose_captions(9, 9))
    assert (one.texts == other.texts).all()
    assert (one.caption_ids == other.caption_ids).all()
    assert all((one.inputs[name] == other.inputs[name]).all() for name in one.inputs)


def test_equal_texts_have_equal_numbers_and_distinct_finds_each_once():
    texts = ["b", "a", "b", "c", "a", "a"]
    hashes = hash_texts(pa.array(texts))
    assert hash_texts(pa.array(["x", "c"]))[1] == hashes[3]
    first, rows = distinct(hashes)
    assert first.tolist() == [0, 1, 3]
    assert [texts[first[row]] for row in rows] == texts


# ---------------------------------------------------------------------------------------------------- prefetch
def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def counted(made: list[int], count: int):
    for i in range(count):
        made.append(i)
        yield i


@pytest.mark.parametrize("ahead", [0, 1, 3])
def test_items_made_ahead_are_the_same_in_the_same_order(ahead):
    assert list(prefetched(counted([], 50), ahead)) == list(range(50))
    assert not threads()


def test_no_more_items_are_made_than_were_asked_for():
    made: list[int] = []
    items = prefetched(counted(made, 10**6), 3)
    assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
    items.close()
    assert 5 <= len(made) <= 5 + 3
    assert not threads()


def test_an_error_while_working_ahead_is_raised_where_its_item_would_be():
    def failing():
        yield 1
        raise ValueError("this one is broken")

    items = prefetched(failing(), 4)
    assert next(items) == 1
    with pytest.raises(ValueError, match="this one is broken"):
        next(items)
    assert not threads()


def test_leaving_the_loop_closes_what_makes_the_items():
    closed = []

    def closing():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    for item in prefetched(closing(), 2):
        if item == 3:
            break
    assert closed == [True]
    assert not threads()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_feed_gives_the_splits_batches_and_names_their_windows(home, prefetch):
    config = tiny(home, home.root / "run", prefetch=prefetch)
    split = load_split(config, "train", build_processor(config, load_table(config)))
    feeds = [make_loader(config, split, "cpu", rank, 2) for rank in range(2)]
    captions = split.choose_captions(config.seed, 3)
    for rank, feed in enumerate(feeds):
        assert len(feed) == 5
        for number, batch in enumerate(feed.epoch(3, start=2), start=2):
            ids = feed.window_ids(3, number)
            assert ids == feeds[1 - rank].window_ids(3, number)
            rows = np.array([list(split.window_ids).index(name) for name in ids[6 * rank : 6 * rank + 6]])
            expected = split.batch(rows, captions[rows])
            assert (batch.texts == expected.texts).all()
            assert (batch.inputs["input_ids"] == expected.inputs["input_ids"]).all()
