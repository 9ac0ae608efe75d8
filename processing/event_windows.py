"""Cutting a stream of events into windows, in NumPy: the same code builds the dataset and serves the user.

`N` events, `R` runs, `B` windows. A run is a stretch of events that a window may not leave: one session, without a
long silence, and, when wanted, without a change of label or split.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

LEVELS = ("LOW", "NORMAL", "HIGH")


def run_starts(t_us: np.ndarray, *codes: np.ndarray, max_gap_s: float | None = None) -> np.ndarray:
    """`(R,)` index of each run's first event.

    Args:
        t_us: `(N,)` int64 microseconds, sorted within each session.
        codes: `(N,)` integer arrays (session, split, label, ...); a run ends where one of them changes.
        max_gap_s: a longer silence between two events ends the run too.
    """
    if not len(t_us):
        return np.zeros(0, dtype=np.int64)
    starts = np.zeros(len(t_us), dtype=bool)
    starts[0] = True
    for code in codes:
        starts[1:] |= code[1:] != code[:-1]
    if max_gap_s is not None:
        starts[1:] |= np.diff(t_us) > max_gap_s * 1e6
    return np.flatnonzero(starts)


def cut_fixed_length(
    starts: np.ndarray, num_events: int, *, length: int, overlap: float = 0.0, min_events: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Cut each run into windows of `length` events: `(B,)` first event and `(B,)` one past the last.

    A window starts every `length * (1 - overlap)` events until one reaches the run's end. The last one may be shorter;
    windows of fewer than `min_events` events are left out.

    Args:
        starts: `(R,)` from `run_starts`; `num_events` ends the last run.
    """
    if length < 1 or not 0 <= overlap < 1 or min_events < 1:
        raise ValueError(
            f"length={length} and min_events={min_events} must be at least 1, overlap={overlap} in [0, 1)."
        )
    size = np.diff(np.append(starts, num_events))
    stride = max(1, round(length * (1 - overlap)))
    count = np.where(size >= min_events, 1 + -(-np.maximum(size - length, 0) // stride), 0)
    run = np.repeat(np.arange(len(starts)), count)
    nth = np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count)
    first = starts[run] + nth * stride
    last = np.minimum(first + length, starts[run] + size[run])
    kept = last - first >= min_events
    return first[kept], last[kept]


def window_index(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(B,)` bounds to `(B, L)` event indices and `(B, L)` int64 mask; padding repeats the last event."""
    width = int((last - first).max(initial=0))
    offset = np.arange(width)[None, :]
    mask = offset < (last - first)[:, None]
    return np.minimum(first[:, None] + offset, last[:, None] - 1), mask.astype(np.int64)


def fit_levels(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """The bounds between low, normal and high of a numeric sensor: the quartiles of its readings."""
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [0.25, 0.75])
    return float(low), float(high)


def level_of(values: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """`LEVELS` of readings: LOW below `low`, HIGH above `high`, NORMAL between and on the bounds (all broadcast)."""
    return np.asarray(LEVELS)[1 - (values < low) + (values > high)]
