"""Captions, their embeddings and windows belong together by id and number, in whatever order the files' rows stand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from train_home import WIDTH, make_home, tiny, without_numbers, write_captions

from casita.datasets_scripts.captions.caption import caption_home
from casita.datasets_scripts.captions.join import KeyedRows, join_captions
from casita.datasets_scripts.captions.text_embeddings import embed_captions
from casita.datasets_scripts.schema import (
    CAPTIONS,
    SCHEMA_VERSION,
    HomeFolder,
    read_metadata,
    read_table,
    text_embeddings_schema,
    write_table,
)
from casita.files import read_json
from casita.train.data.dataset import build_processor, load_split, load_table, split_files
from casita.train.data.parquet_stream import find_shards, read_shard
from casita.train.evaluation.inputs import captions_of

ARRAYS = ("codes", "seconds", "starts", "texts", "caption_ids", "caption_rows", "caption_starts")


def rows_of(keys: list[tuple[str, int]], name: str = "captions", remedy: str = "Run: it") -> KeyedRows:
    ids, numbers = ([key[i] for key in keys] for i in (0, 1))
    table = pa.table({"window_id": pa.array(ids, pa.string()), "number": pa.array(numbers, pa.int32())})
    return KeyedRows(Path(f"{name}.parquet"), table, name, remedy)


def slow_join(window_ids: list[str], *files: KeyedRows) -> list[tuple[int, ...]]:
    """For each window, each number from 0 on while the first file has it: the row in each file."""
    places = [{(row["window_id"], row["number"]): i for i, row in enumerate(file.table.to_pylist())} for file in files]
    joined = []
    for window in window_ids:
        number = 0
        while (window, number) in places[0]:
            joined.append(tuple(place[window, number] for place in places))
            number += 1
    return joined


@pytest.mark.parametrize("seed", range(20))
def test_the_join_is_that_of_the_slow_version_on_shuffled_rows(seed):
    rng = np.random.default_rng(seed)
    keys = [(f"w{i}", number) for i in range(40) for number in range(rng.integers(1, 5))]
    files = [rows_of([keys[i] for i in rng.permutation(len(keys))], name) for name in ("captions", "text embeddings")]
    windows = [f"w{i}" for i in rng.permutation(40)[: rng.integers(1, 41)]]  # the others are of another split
    joined = join_captions(pa.array(windows), *files)
    expected = slow_join(windows, *files)
    assert list(zip(*(rows.tolist() for rows in joined.rows), strict=True)) == expected
    numbers = [files[0].table["number"][row].as_py() for row in joined.rows[0].tolist()]
    assert [i for i, number in enumerate(numbers) if number == 0] == joined.first.tolist()
    assert joined.counts.sum() == len(expected)


@pytest.mark.parametrize(
    ("captions", "vectors", "message"),
    [
        ([("a", 0)], [("a", 0)], r"^captions.parquet: 1 of 2 windows have no captions, the first 'b'. Run: it$"),
        ([("a", 0), ("b", 0)], [("a", 0)], r"^vectors.parquet: 1 of 2 .* 'b', has 1 captions and 0 vectors. Run: it$"),
        ([("a", 0), ("b", 0)], [("b", 0), ("a", 0), ("b", 1)], r"^vectors.* 'b', has 1 captions and 2 vectors"),
        ([("a", 0), ("b", 0), ("b", 0)], [], r"^captions.* 'b' has captions of the numbers \[0, 0\], expected 0 to 1"),
        ([("a", 0), ("b", 2), ("b", 0)], [], r"^captions.* 'b' has captions of the numbers \[0, 2\], expected 0 to 1"),
        ([("a", 0), ("b", -1), ("b", 0)], [], r"^captions.* 'b' has captions of the numbers \[-1, 0\], expected"),
        ([("a", 0), ("b", 0)], [("a", 1), ("b", 0)], r"^vectors.* 'a' has vectors of the numbers \[1\], expected 0"),
    ],
)
def test_what_does_not_belong_together_is_named_by_file_and_window(captions, vectors, message):
    with pytest.raises(ValueError, match=message) as error:
        join_captions(pa.array(["a", "b"]), rows_of(captions), rows_of(vectors, "vectors"))
    assert "\n" not in str(error.value)


def test_rows_of_other_windows_are_left_out_or_refused():
    file = rows_of([("a", 0), ("z", 0), ("b", 0)])
    assert join_captions(pa.array(["b", "a"]), file).rows[0].tolist() == [2, 0]
    with pytest.raises(ValueError, match=r"^captions.parquet: window 'z' is none of the home's. Run: it$"):
        join_captions(pa.array(["a", "b"]), file, only_these=True)


def test_no_windows_have_no_captions():
    joined = join_captions(pa.array([], pa.string()), rows_of([("a", 0)]), rows_of([]))
    assert [rows.tolist() for rows in (*joined.rows, joined.counts, joined.first)] == [[], [], [], []]


@pytest.fixture
def home(tmp_path) -> HomeFolder:
    """Each window with one to three captions."""
    home = make_home(tmp_path / "home")
    rows = read_table(home.captions("narrative"), CAPTIONS).to_pylist()
    write_captions(
        home,
        [(row["window_id"], f"{row['caption']} Version {k}.") for i, row in enumerate(rows) for k in range(1 + i % 3)],
    )
    return home


def what_is_read(home: HomeFolder) -> list:
    """Training's arrays, cached and streamed, and the evaluation's captions with their vectors."""
    config = tiny(home, home.root / "run")
    split = load_split(config, "train", build_processor(config, load_table(config)))
    (source,) = split_files(config, "train")
    parts = [*split.parts, *map(read_shard, find_shards(source))]
    captions, vectors = captions_of(home, pq.read_table(home.windows), "narrative", "minilm", WIDTH)
    return [*(np.asarray(getattr(part, name)) for part in parts for name in ARRAYS), np.array(captions), vectors]


def test_the_order_of_the_rows_in_the_files_does_not_matter(home):
    expected = what_is_read(home)
    rng = np.random.default_rng(0)
    for path, schema in (
        (home.captions("narrative"), CAPTIONS),
        (home.text_embeddings("narrative", "minilm"), text_embeddings_schema(WIDTH)),
    ):
        table = read_table(path, schema)
        write_table(path, table.take(rng.permutation(len(table))), schema)
    for found, array in zip(what_is_read(home), expected, strict=True):
        np.testing.assert_array_equal(found, array)


# ------------------------------------------------------------------------------------------------------- release 0.1
def test_a_home_of_release_01_reads_as_the_same_with_numbers_and_stays_as_it_is(home):
    expected = what_is_read(home)
    old = without_numbers(home)
    paths = [home.captions("narrative"), home.text_embeddings("narrative", "minilm")]
    assert all(read_metadata(path)["schema_version"] == "1.0" for path in paths)
    assert all("number" not in pq.read_schema(path).names for path in paths)
    before = [path.read_bytes() for path in paths]
    for found, array in zip(what_is_read(old), expected, strict=True):
        np.testing.assert_array_equal(found, array)
    assert [path.read_bytes() for path in paths] == before


def test_captions_without_numbers_are_numbered_by_their_order_in_each_window(home):
    rows = read_table(home.captions("narrative"), CAPTIONS)
    without_numbers(home)
    path = home.captions("narrative")
    order = np.argsort(rows["number"].to_numpy(), kind="stable")  # the rows of a window apart
    pq.write_table(pq.read_table(path).take(order), path)
    assert read_table(path, CAPTIONS).to_pylist() == rows.take(order).to_pylist()
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert read_table(path, CAPTIONS).schema.names == CAPTIONS.names


def test_stages_write_numbers_and_the_schema_that_has_them(tmp_path, home):
    assert SCHEMA_VERSION == "1.1"
    caption_home(home, "brief", captions=3)
    caption_home(home, "structured")
    embed_captions(without_numbers(home), "brief", "minilm")  # of captions without numbers too
    embed_captions(home, "structured", "minilm")
    path = home.text_embeddings("brief", "minilm")
    captions = read_table(home.captions("brief"), CAPTIONS)
    vectors = pq.read_table(path)
    assert vectors.schema.names == ["window_id", "style", "number", "embedding"]
    assert vectors["number"].to_pylist() == captions["number"].to_pylist()
    assert max(captions["number"].to_pylist()) == 2
    assert read_metadata(path)["schema_version"] == SCHEMA_VERSION
    assert read_json(home.root / "home.json")["schema_version"] == SCHEMA_VERSION
