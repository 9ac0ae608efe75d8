"""Where a run's batches come from: windows that are memory-mapped, or streamed from Parquet; made in advance."""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch

from casita.datasets_scripts.schema import home_folders
from casita.processing.processing_casita import CasitaProcessor
from casita.train.configs.train_config import TrainConfig
from casita.train.data.batch_sampler import BatchSampler
from casita.train.data.dataset import Batch, WindowDataset, load_split, sources
from casita.train.data.parquet_stream import Shards, StreamingLoader, find_shards
from casita.train.data.prefetch import prefetched


class BatchLoader(Protocol):
    """Batches of `size` windows over all ranks, by epoch and number, the same ones whenever they are asked for."""

    @property
    def size(self) -> int: ...

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """This rank's share of batch `start`, `start + 1`, ... of the epoch."""

    def window_ids(self, epoch: int, batch: int) -> list[str]:
        """The windows of one batch, all ranks' shares."""


@dataclass(frozen=True)
class CachedLoader:
    """The windows of `split` in the order of `batches`, on `device`, `ahead` batches made in advance.

    `neighbours` `(N, 2)`: the windows before and after each, whose captions come along.
    """

    split: WindowDataset
    batches: BatchSampler
    device: torch.device | str
    ahead: int
    neighbours: np.ndarray | None = None

    @property
    def size(self) -> int:
        return self.batches.size

    def __len__(self) -> int:
        return len(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return prefetched(self._batches(epoch, start), self.ahead)

    def _batches(self, epoch: int, start: int) -> Generator[Batch, None, None]:
        captions = self.split.choose_captions(self.batches.seed, epoch)
        for rows in self.batches.epoch(epoch, start):
            neighbours = None if self.neighbours is None else captions[self.neighbours[rows]]
            yield self.split.batch(rows, captions[rows], self.device, neighbours)

    def window_ids(self, epoch: int, batch: int) -> list[str]:
        everyone = replace(self.batches, rank=0, ranks=1)
        return self.split.window_ids[next(everyone.epoch(epoch, batch))].tolist()


def load_windows(config: TrainConfig, processor: CasitaProcessor) -> WindowDataset | Shards:
    """The train windows: mapped into memory, or, with `stream`, where they are in the Parquet files."""
    if not config.stream:
        return load_split(config, "train", processor)
    return Shards([shard for source in sources(config, "train") for shard in find_shards(source)], processor)


def make_loader(
    config: TrainConfig, windows: WindowDataset | Shards, device: torch.device | str, rank: int = 0, ranks: int = 1
) -> CachedLoader | StreamingLoader:
    """The feed of `windows` for one of `ranks` processes.

    Raises:
        ValueError: a batch size that the windows, the homes or the processes cannot serve.
    """
    if isinstance(windows, Shards):
        return StreamingLoader(
            windows, config.batch_size, config.seed, rank, ranks, config.shuffle_shards, device, config.prefetch
        )
    batches = BatchSampler(
        len(windows), config.batch_size, config.seed, rank, ranks, config.home_batches, np.asarray(windows.homes)
    )
    neighbours = windows.neighbours(steps_apart(config)) if config.context_weight else None
    return CachedLoader(windows, batches, device, config.prefetch, neighbours)


def steps_apart(config: TrainConfig) -> int:
    """How many train windows on is the first that shares no event, where they overlap by a share of their events."""
    told = [folder.settings("windows") for folder in home_folders(config.data)]
    overlap = max(each.get("train_overlap") or each.get("overlap", 0.0) for each in told)
    return math.ceil(round(1 / (1 - overlap), 9))  # 1 / (1 - 0.9) is a little above 10
