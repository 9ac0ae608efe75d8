"""Streaming from Parquet: the same windows as from the cache, in an order that any step can be resumed from."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from paths import HELPERS
from safetensors.torch import load_file
from train_home import COUNTS, make_home, tiny, write_captions

from casita.datasets_scripts.schema import CAPTIONS, HomeFolder, read_table, write_table
from casita.train.align import train
from casita.train.data.dataset import build_processor, load_split, load_table
from casita.train.data.loaders import load_windows, make_loader
from casita.train.data.parquet_stream import StreamingLoader, assign_shards, find_shards, read_shard
from casita.train.training.checkpoint import checkpoints

FILES = ("windows.parquet", "captions/narrative.parquet", "text_embeddings/narrative--minilm.parquet")


def in_row_groups(home: HomeFolder, *sizes: int) -> HomeFolder:
    """The home's files of windows, captions and embeddings, written again in row groups of these sizes."""
    for name, size in zip(FILES, sizes if len(sizes) > 1 else sizes * 3, strict=True):
        pq.write_table(pq.read_table(home.root / name), home.root / name, row_group_size=size, compression="zstd")
    return home


def two_captions(home: HomeFolder) -> None:
    """Two captions for each window, one after the other."""
    rows = read_table(home.captions("narrative"), CAPTIONS).to_pylist()
    write_captions(home, [(row["window_id"], row["caption"] + again) for row in rows for again in ("", " Again.")])


@pytest.fixture
def home(tmp_path) -> HomeFolder:
    return in_row_groups(make_home(tmp_path / "home"), 7, 10, 3)


def stream_of(home: HomeFolder, rank: int = 0, ranks: int = 1, **settings) -> StreamingLoader:
    config = tiny(home, home.root / "run", **({"stream": True, "shuffle_shards": 3} | settings))
    feed = make_loader(config, load_windows(config, build_processor(config, load_table(config))), "cpu", rank, ranks)
    assert isinstance(feed, StreamingLoader)
    return feed


def assert_same(one, other) -> None:
    assert one.inputs.keys() == other.inputs.keys()
    assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
    assert torch.equal(one.texts, other.texts)
    assert torch.equal(one.caption_ids, other.caption_ids)


def test_a_streamed_epoch_is_the_cached_windows_once_each_with_their_own_captions(home):
    options = {"use_time_deltas": True, "use_coordinates": True, "alibi_distance": "time"}
    stream = stream_of(home, **options)
    config = tiny(home, home.root / "run", **options)
    split = load_split(config, "train", build_processor(config, load_table(config)))
    names, captions = list(split.window_ids), split.choose_captions(0, 0)
    assert len(stream) == 5
    read = []
    for number, batch in enumerate(stream.epoch(0)):
        rows = np.array([names.index(name) for name in stream.window_ids(0, number)])
        read += rows.tolist()
        assert_same(batch, split.batch(rows, captions[rows]))
    assert sorted(read) == list(range(COUNTS["train"]))


def test_each_epoch_has_another_order_and_the_same_epoch_the_same(home):
    stream = stream_of(home)
    first, again, other = ([stream.window_ids(epoch, i) for i in range(5)] for epoch in (0, 0, 1))
    assert first == again != other
    assert first[0] != sorted(first[0])


@pytest.mark.parametrize("batch_size", [4, 12, 20])
@pytest.mark.parametrize("prefetch", [0, 2])
def test_any_batch_can_be_resumed_from(home, batch_size, prefetch):
    two_captions(home)
    stream = stream_of(in_row_groups(home, 7), batch_size=batch_size, prefetch=prefetch, shuffle_shards=2)
    batches = list(stream.epoch(2))
    assert len(batches) == len(stream) == 60 // batch_size
    for start in range(len(stream)):
        tail = list(stream.epoch(2, start))
        assert len(tail) == len(batches) - start
        for one, other in zip(tail, batches[start:], strict=True):
            assert_same(one, other)


def test_of_several_captions_epochs_draw_different_ones(home):
    two_captions(home)
    stream = stream_of(in_row_groups(home, 7))
    drawn: dict[str, set[bytes]] = {}
    for epoch in range(12):
        for number, batch in enumerate(stream.epoch(epoch)):
            for name, vector in zip(stream.window_ids(epoch, number), batch.texts.numpy(), strict=True):
                drawn.setdefault(name, set()).add(vector.tobytes())
    # That a window draws the same caption 12 times has a chance of 2^-11: 60 windows, 0.03 of them on average.
    assert Counter(map(len, drawn.values())).most_common(1)[0][0] == 2
    assert sum(map(len, drawn.values())) >= 2 * COUNTS["train"] - 2


def test_windows_are_shuffled_over_the_row_groups_in_memory_and_over_no_more(home):
    stream = stream_of(home, shuffle_shards=1, batch_size=7)
    spread = stream_of(home, shuffle_shards=9, batch_size=7)
    group_of = {name: i // 7 for i, name in enumerate(pq.read_table(home.windows)["window_id"].to_pylist())}
    one, many = (np.mean([len({group_of[n] for n in s.window_ids(0, i)}) for i in range(8)]) for s in (stream, spread))
    assert one <= 2 < many


def test_two_homes_stream_into_one_epoch_and_share_their_groups(tmp_path):
    for seed, name in enumerate(("casa", "haus")):
        in_row_groups(make_home(tmp_path / "homes" / name, seed, name), 16)
    stream = stream_of(HomeFolder(tmp_path / "homes"), batch_size=24)
    assert stream.windows.home_names == ["casa", "haus"]
    ids, groups = [], {}
    for number, batch in enumerate(stream.epoch(0)):
        ids += stream.window_ids(0, number)
        for vector, group in zip(batch.texts.numpy(), batch.caption_ids.tolist(), strict=True):
            assert groups.setdefault(vector.tobytes(), group) == group
    assert Counter(name.split("/")[0] for name in ids) == {"casa": 60, "haus": 60}
    assert len(set(ids)) == 120


def test_shards_are_dealt_so_that_no_rank_waits_for_another():
    sizes = np.random.default_rng(0).integers(1, 100, size=40).tolist()
    assignment = assign_shards(sizes, 4, seed=0)
    assert sorted(shard for assigned in assignment for shard in assigned) == list(range(40))
    loads = [sum(sizes[shard] for shard in assigned) for assigned in assignment]
    assert max(loads) - min(loads) <= max(sizes)
    assert assign_shards([5] * 40, 2, seed=0) != assign_shards([5] * 40, 2, seed=1)


def test_every_rank_has_as_many_batches_and_windows_of_its_own(home):
    streams = [stream_of(home, rank, 3) for rank in range(3)]
    assert len({len(stream) for stream in streams}) == 1
    assert len(streams[0]) >= (60 - 3 * 7) // 12  # hands differ by a shard of 7 at most
    read = [name for number in range(len(streams[0])) for name in streams[1].window_ids(0, number)]
    assert len(set(read)) == len(read) == 12 * len(streams[0])
    for rank, stream in enumerate(streams):
        (inputs,) = (batch.inputs["input_ids"] for batch in [next(iter(stream.epoch(0)))])
        assert len(inputs) == 4
        assert stream.window_ids(0, 0)[4 * rank : 4 * rank + 4] == streams[0].window_ids(0, 0)[4 * rank : 4 * rank + 4]


def spoil(home: HomeFolder, kept: set[int]) -> None:
    """Overwrite what a stream reads of every row group that is not `kept`, but for ids and splits."""
    for name, columns in zip(FILES, ({"sensor_keys", "seconds"}, {"caption"}, {"embedding"}), strict=True):
        path = home.root / name
        metadata = pq.ParquetFile(path).metadata
        data = bytearray(path.read_bytes())
        for group in set(range(metadata.num_row_groups)) - kept:
            for i in range(metadata.num_columns):
                column = metadata.row_group(group).column(i)
                if column.path_in_schema.split(".")[0] in columns:
                    start = column.dictionary_page_offset or column.data_page_offset
                    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
        path.write_bytes(data)


def test_two_processes_read_all_windows_each_from_row_groups_of_its_own(tmp_path):
    home = in_row_groups(make_home(tmp_path / "home"), 5)
    shards = stream_of(home).windows.shards
    assignment = assign_shards([shard.windows for shard in shards], 2, seed=42)
    for rank, assigned in enumerate(assignment):
        copy = HomeFolder(shutil.copytree(home.root, tmp_path / f"home_{rank}"))
        spoil(copy, {shards[i].row_group for i in assigned})
        foreign = replace(shards[assignment[1 - rank][0]], files=replace(shards[0].files, folder=copy))
        with pytest.raises(OSError, match=r"(?i)thrift|decompress|page|corrupt|eof|zstd"):
            read_shard(foreign)
    script = HELPERS / "stream_rank.py"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        script,
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    records = [json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in range(2)]
    assert [(record["ranks"], record["len"], len(record["rows"])) for record in records] == [(2, 5, 5)] * 2
    read = Counter(tuple(i for i in row if i) for record in records for batch in record["rows"] for row in batch)
    config = tiny(home, tmp_path / "run")
    split = load_split(config, "train", build_processor(config, load_table(config)))
    every = split.batch(np.arange(60), split.choose_captions(0, 0)).inputs["input_ids"]
    assert read == Counter(tuple(i for i in row if i) for row in every.tolist())


def test_a_run_that_streams_resumes_to_the_same_weights(home, tmp_path):
    settings = {"stream": True, "shuffle_shards": 2, "epochs": 2, "save_every": 3, "eval_every": 10}
    straight = train(tiny(home, tmp_path / "a", **settings))
    again = tmp_path / "b"
    shutil.copytree(straight, again)
    last, before = checkpoints(again)[::-1][:2]
    assert before.name == "step_00000009"
    shutil.rmtree(last)
    shutil.rmtree(again / "model")
    train(tiny(home, again, **settings))
    one, other = (load_file(run / "model" / "model.safetensors") for run in (straight, again))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_files_in_another_order_than_the_windows_are_refused(home):
    rows = [(row["window_id"], row["caption"]) for row in read_table(home.captions("narrative"), CAPTIONS).to_pylist()]
    write_captions(home, [*rows[60:], *rows[:60]])
    with pytest.raises(ValueError, match=r"not in the order of windows.parquet.*window 'toy/s/fixed/0'"):
        stream_of(home)


def test_embeddings_of_other_captions_are_refused(home):
    rows = read_table(home.captions("narrative"), CAPTIONS)
    two_captions(home)
    write_table(home.captions("narrative"), rows, CAPTIONS)
    with pytest.raises(ValueError, match=r"7 of 7 windows have other text .*1 captions and 2 text embeddings"):
        next(iter(stream_of(in_row_groups(home, 7)).epoch(0)))


def test_too_few_shards_or_windows_are_refused(home):
    with pytest.raises(ValueError, match=r"1 row groups of windows for 2 processes"):
        stream_of(in_row_groups(home, 1000), ranks=2)
    with pytest.raises(ValueError, match=r"a batch takes 64 windows of each process, but one has only 60"):
        stream_of(home, batch_size=64)
    with pytest.raises(ValueError, match=r"batch_size=12 must be a multiple of the 5 processes"):
        stream_of(home, ranks=5)


def test_a_row_group_without_windows_of_the_split_is_no_shard(home):
    shards = find_shards(stream_of(home).windows.shards[0].files)
    assert [shard.row_group for shard in shards] == list(range(9))
    assert [shard.windows for shard in shards] == [7] * 8 + [4]
    assert shards[3].captions == shards[3].vectors == (21, 28)
