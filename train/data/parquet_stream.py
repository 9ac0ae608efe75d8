"""Windows straight from Parquet, for data sets larger than memory: some row groups at a time, shuffled together.

A shard is a row group of a home's windows with the rows of captions and embeddings that belong to it. Each rank is
assigned shards of its own and reads no others. In each epoch it takes them in a new order, `shards_in_memory` at a
time, and the windows of these in a random order: a function of (seed, epoch), so that any step can be resumed by
reading only what comes after.

(Not `datasets.IterableDataset`: its shuffle buffer is no part of its state, so a resumed run would read other windows;
and unless the shards divide evenly, every rank reads all of them.)
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from casita.datasets_scripts.schema import stored_columns, with_numbers
from casita.processing.processing_casita import CasitaProcessor
from casita.train.data.dataset import Batch, WindowDataset
from casita.train.data.home_arrays import (
    EVENT_COLUMNS,
    HomeArrays,
    SplitFiles,
    distinct,
    encode_events,
    flat_strings,
    hash_texts,
    matrix,
    one_array,
    starts_of,
)
from casita.train.data.prefetch import prefetched
from casita.train.data.tensor_cache import read_batches


@dataclass(frozen=True)
class Shard:
    """Row group `row_group` of the windows: `windows` of the split, with the rows `captions` and `vectors` (first and
    one past the last) of the files of captions and embeddings."""

    files: SplitFiles
    row_group: int
    windows: int
    captions: tuple[int, int]
    vectors: tuple[int, int]


class ShardedDataset:
    """All shards of the homes: a split's windows as places in files."""

    def __init__(self, shards: Sequence[Shard], processor: CasitaProcessor):
        self.shards = list(shards)
        self.processor = processor
        self.home_names = list(dict.fromkeys(shard.files.folder.name for shard in shards))

    def __len__(self) -> int:
        return sum(shard.windows for shard in self.shards)

    @property
    def num_captions(self) -> int:
        """Count captions, equal ones as often as they come, of other splits in the same row groups too."""
        return sum(shard.captions[1] - shard.captions[0] for shard in self.shards)

    @property
    def text_width(self) -> int:
        """Return T, the width of the captions' embeddings."""
        return self.shards[0].files.text_width


def find_shards(files: SplitFiles) -> list[Shard]:
    """Find the shards of one home that hold windows of the split. Reads window ids and splits, nothing else.

    Raises:
        FileNotFoundError: a stage has not run. ValueError: captions or embeddings that are not in the windows' order.
    """
    shards = []
    captions = _OrderedWindowIds(files.captions)
    vectors = _OrderedWindowIds(files.vectors)
    with pq.ParquetFile(files.windows) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["window_id", "split"])
            ids = one_array(table["window_id"])
            caption_rows = captions.take(ids)
            vector_rows = vectors.take(ids)
            if (count := pc.sum(pc.equal(table["split"], files.split)).as_py() or 0) > 0:
                shards.append(Shard(files, group, count, caption_rows, vector_rows))
    for ordered in (captions, vectors):
        if len(ordered.left):
            raise ValueError(
                f"{ordered.path}: its rows are not in the order of {files.windows.name}, which `stream` needs; the "
                f"first out of place is of window {ordered.left[0].as_py()!r}. Run the stage again, or give "
                "--stream false."
            )
    return shards


class _OrderedWindowIds:
    """A reader of a file's window ids from first to last, as many at a time as belong to given windows."""

    def __init__(self, path: Path):
        self.path = path
        self.row = 0
        self.left = pa.array([], pa.string())
        self.batches = (batch.column(0) for batch in read_batches(path, ["window_id"]))
        self._refill()

    def _refill(self) -> None:
        while not len(self.left) and (batch := next(self.batches, None)) is not None:
            self.left = batch

    def take(self, ids: pa.Array) -> tuple[int, int]:
        """Take the rows, first and one past the last, that come next and are of windows `ids`."""
        first = self.row
        while len(self.left):
            inside = pc.is_in(self.left, value_set=ids)
            count = pc.index(inside, False).as_py()
            count = len(inside) if count < 0 else count
            self.row, self.left = self.row + count, self.left.slice(count)
            if len(self.left):
                break
            self._refill()
        return first, self.row


def read_shard(shard: Shard) -> HomeArrays:
    """Read the windows of a shard that are of its split, with their captions' embeddings, into memory."""
    files = shard.files
    with pq.ParquetFile(files.windows) as file:
        windows = file.read_row_group(shard.row_group, columns=EVENT_COLUMNS).filter(pc.field("split") == files.split)
    key_codes: dict[str, int] = {}
    codes, seconds, lengths = encode_events(windows, key_codes)
    captions = _read_rows(files.captions, shard.captions, ["window_id", "number", "caption"])
    vectors = _read_rows(files.vectors, shard.vectors, ["window_id", "number", "embedding"])
    joined = files.join(one_array(windows["window_id"]), captions, vectors)
    caption_order, vector_order = joined.rows
    hashes = hash_texts(one_array(captions["caption"]))[caption_order]
    first, rows = distinct(hashes)
    texts = matrix(one_array(vectors["embedding"]), files.text_width)
    return HomeArrays(
        home=files.folder.name,
        keys=list(key_codes),
        codes=codes,
        seconds=seconds,
        starts=starts_of(lengths),
        ids=flat_strings(windows["window_id"]),
        texts=texts[vector_order[first]],
        caption_ids=hashes[first],
        caption_rows=rows,
        caption_starts=starts_of(joined.counts),
    )


def _read_rows(path: Path, rows: tuple[int, int], columns: list[str]) -> pa.Table:
    """Read the rows from `rows[0]` to before `rows[1]` of a Parquet file: only of the row groups that hold them."""
    with pq.ParquetFile(path) as file:
        ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
        first_group = int(np.searchsorted(ends, rows[0], "right"))
        last_group = int(np.searchsorted(ends, rows[1], "left"))
        table = file.read_row_groups(range(first_group, last_group + 1), columns=stored_columns(path, columns))
    rows_before = int(ends[first_group - 1]) if first_group else 0
    return with_numbers(table.slice(rows[0] - rows_before, rows[1] - rows[0]), columns)


def assign_shards(sizes: Sequence[int], ranks: int, seed: int) -> list[list[int]]:
    """Assign shards to ranks, the largest first, each to the rank that has least; ties by `seed`.

    Returns:
        The numbers of each rank's shards, ascending.
    """
    assignment: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    shuffled = np.random.default_rng(seed).permutation(len(sizes))
    for shard in shuffled[np.argsort(-np.asarray(sizes)[shuffled], kind="stable")].tolist():
        rank = loads.index(min(loads))
        assignment[rank].append(shard)
        loads[rank] += sizes[shard]
    return [sorted(shards) for shards in assignment]


@dataclass(frozen=True)
class StreamingLoader:
    """A loader of batches of `size` windows over all ranks, this rank's share from its own shards.

    All ranks have as many batches: those of the rank with the fewest windows. What is left at an epoch's end is left
    out; other windows come last in the next epoch. Unlike with cached windows, batches depend on the number of ranks.

    Attributes:
        shards_in_memory: shards at a time, whose windows are shuffled together; as many more are read meanwhile.
        ahead: batches made in advance.

    Raises:
        ValueError: fewer shards than ranks, or fewer windows than a batch.
    """

    windows: ShardedDataset
    size: int
    seed: int
    rank: int
    ranks: int
    shards_in_memory: int
    device: torch.device | str
    ahead: int

    def __post_init__(self) -> None:
        shards = self.windows.shards
        if self.size % self.ranks:
            raise ValueError(f"batch_size={self.size} must be a multiple of the {self.ranks} processes.")
        if len(shards) < self.ranks:
            raise ValueError(
                f"stream: {len(shards)} row groups of windows for {self.ranks} processes; each needs its own. Build "
                "the data again, start fewer processes, or give --stream false."
            )
        if not len(self):
            raise ValueError(
                f"stream: a batch takes {self.share} windows of each process, but one has only "
                f"{self._fewest_windows}. Give a smaller batch_size."
            )

    @cached_property
    def _assignment(self) -> list[list[int]]:
        return assign_shards([shard.windows for shard in self.windows.shards], self.ranks, self.seed)

    @property
    def share(self) -> int:
        """Return the windows of a batch of this rank."""
        return self.size // self.ranks

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return self._fewest_windows // self.share

    @property
    def _fewest_windows(self) -> int:
        """Return the windows of the rank that has the fewest."""
        shards = self.windows.shards
        return min(sum(shards[i].windows for i in assigned) for assigned in self._assignment)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield this rank's share of batch `start`, `start + 1`, ... of the epoch."""
        return prefetched(self._batches(epoch, start), self.ahead)

    def window_ids(self, epoch: int, batch: int) -> list[str]:
        """Return the windows of one batch, all ranks' shares."""
        ids: list[str] = []
        for rank in range(self.ranks):
            split, rows, _ = next(replace(self, rank=rank)._windows_of_batches(epoch, batch))
            ids += split.window_ids[rows].tolist()
        return ids

    def _batches(self, epoch: int, start: int) -> Generator[Batch, None, None]:
        for split, rows, captions in self._windows_of_batches(epoch, start):
            yield split.batch(rows, captions, self.device)

    def _windows_of_batches(self, epoch: int, start: int) -> Iterator[tuple[WindowDataset, np.ndarray, np.ndarray]]:
        """Yield for each batch the windows in memory, the rows of its windows, and their caption rows."""
        carried: list[HomeArrays] = []
        left = len(self) - start
        for number, skipped, parts in prefetched(self._shard_groups(epoch, start * self.share), min(self.ahead, 1)):
            # Carried windows stand last, so that numbers drawn for the others are the same with and without them.
            split = WindowDataset([*parts, *carried], self.windows.processor)
            new_windows = sum(map(len, parts))
            captions = split.choose_captions(self.seed, epoch, self.rank, number)
            rng = np.random.default_rng([self.seed, epoch, 0, self.rank, number])
            shuffled = rng.permutation(new_windows)[skipped:]
            order = np.concatenate([np.arange(new_windows, len(split)), shuffled])
            for _ in range(min(left, len(order) // self.share)):
                rows = order[: self.share]
                order = order[self.share :]
                left -= 1
                yield split, rows, captions[rows]
            if not left:
                return
            carried = split.take(order, captions[order])

    def _shard_groups(self, epoch: int, first: int) -> Generator[tuple[int, int, list[HomeArrays]], None, None]:
        """Read group after group of shards, from the one with the rank's window number `first`.

        Yields the group's number, how many of its windows come before that one, and its shards.
        """
        assigned = [self.windows.shards[i] for i in self._assignment[self.rank]]
        order = np.random.default_rng([self.seed, epoch, 2, self.rank]).permutation(len(assigned))
        windows_before = 0
        for number, begin in enumerate(range(0, len(assigned), self.shards_in_memory)):
            group = [assigned[i] for i in order[begin : begin + self.shards_in_memory]]
            size = sum(shard.windows for shard in group)
            if windows_before + size > first:
                yield number, max(0, first - windows_before), [read_shard(shard) for shard in group]
            windows_before += size
