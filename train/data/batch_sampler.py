"""Order in which training reads windows: a function of (seed, epoch) alone."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class BatchSampler:
    """Rows of windows for each step: `size` of `num_windows` a batch over all ranks, this rank's slice of each.

    The incomplete batch at an epoch's end is left out: other windows come last in the next epoch. The global batch is
    the same for any number of ranks, which makes N ranks comparable with one.

    With `home_batches` k, each batch holds windows of at most k homes: every home's windows, shuffled, are cut into
    pieces of `size / k`, and k pieces drawn at random make a batch, so that a home is met in proportion to its
    windows. What is left of a home, less than a piece, is other windows in the next epoch.

    Attributes:
        homes: `(num_windows,)` number of each window's home; needed for `home_batches`.
    """

    num_windows: int
    size: int
    seed: int
    rank: int = 0
    ranks: int = 1
    home_batches: int | None = None
    homes: np.ndarray | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.size > self.num_windows:
            raise ValueError(f"batch_size={self.size}, but there are {self.num_windows} windows. Give a smaller one.")
        if self.size % self.ranks:
            raise ValueError(f"batch_size={self.size} must be a multiple of the {self.ranks} processes.")
        if self._pieces and self.size % (self.home_batches or 1):
            raise ValueError(f"batch_size={self.size} must be a multiple of home_batches={self.home_batches}.")
        if self._pieces and (self._home_sizes < self._piece).any():
            raise ValueError(
                f"home_batches={self.home_batches}: a batch takes {self._piece} windows of a home at a time, but one "
                f"home has only {self._home_sizes.min()}. Give a smaller batch_size or a larger home_batches."
            )

    @property
    def _pieces(self) -> bool:
        """Return whether `home_batches` bounds anything: there are more homes than that."""
        return self.home_batches is not None and len(self._home_sizes) > self.home_batches

    @cached_property
    def _home_sizes(self) -> np.ndarray:
        return np.unique(np.zeros(1) if self.homes is None else self.homes, return_counts=True)[1]

    @property
    def _piece(self) -> int:
        return self.size // (self.home_batches or 1)

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        if self._pieces:
            return int((self._home_sizes // self._piece).sum()) // (self.home_batches or 1)
        return self.num_windows // self.size

    def order(self, epoch: int) -> np.ndarray:
        """Return the windows in the order of this epoch, int64; all, unless `home_batches` leaves some out."""
        rng = np.random.default_rng([self.seed, epoch, 0])
        order = rng.permutation(self.num_windows)
        if not self._pieces:
            return order
        assert self.homes is not None
        by_home = order[np.argsort(self.homes[order], kind="stable")]
        home_starts = np.cumsum(self._home_sizes) - self._home_sizes
        kept_sizes = self._home_sizes // self._piece * self._piece  # in full pieces
        kept = np.concatenate(
            [by_home[first : first + size] for first, size in zip(home_starts, kept_sizes, strict=True)]
        )
        return rng.permutation(kept.reshape(-1, self._piece)).reshape(-1)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yield this rank's `(size / ranks,)` windows of batch `start`, `start + 1`, ... of the epoch."""
        order = self.order(epoch)
        share = self.size // self.ranks
        for batch in range(start, len(self)):
            first = batch * self.size + self.rank * share
            yield order[first : first + share]
