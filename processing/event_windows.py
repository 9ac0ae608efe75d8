"""Windows of a stream of events, cut in NumPy: the same code builds the dataset and serves the user.

`N` events, `R` runs, `B` windows. A run is a stretch of events that a window may not leave: one session, without a
long silence, and, when wanted, without a change of label or split.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

LEVELS = ("LOW", "NORMAL", "HIGH")
STRATEGIES = ("fixed_length", "fixed_duration", "variable_duration")


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """Settings by which a stream is cut into windows. A window depends on the events of its run alone.

    strategy: `fixed_length`: windows of `length` events. `fixed_duration`: the events in [t0, t0 + `duration_s`),
        where t0 is the first one's time. `variable_duration`: the same with a duration for each window, drawn from
        `durations_s` by the window's first time and `seed`, hence the same in the dataset and in a user's stream.
    overlap: the next window starts `length * (1 - overlap)` events later, or with the first event at or after
        t0 + duration * (1 - overlap).
    min_events: windows of fewer events are left out. (At most `length` with `fixed_length`.)
    max_events: a window of more events (by duration) is split into pieces of nearly equal size. None is lost.
    max_gap_min: a silence of more minutes ends the run; None: no silence does.
    """

    strategy: str = "fixed_length"
    length: int = 20
    duration_s: float | None = None
    durations_s: tuple[float, ...] | None = None
    overlap: float = 0.5
    min_events: int = 1
    max_events: int | None = None
    max_gap_min: float | None = 30.0
    seed: int = 0

    def __post_init__(self) -> None:
        durations = {"fixed_length": (), "fixed_duration": ("duration_s",), "variable_duration": ("durations_s",)}
        if self.strategy not in durations:
            raise ValueError(f"strategy={self.strategy!r} is none of {', '.join(STRATEGIES)}.")
        for name in ("duration_s", "durations_s"):
            if (getattr(self, name) is not None) != (name in durations[self.strategy]):
                lacking = name in durations[self.strategy]
                raise ValueError(f"strategy={self.strategy} {'needs' if lacking else 'does not read'} {name}.")
        # 0.1 ms: anything shorter is a slip, and windows must advance
        if self.durations_s == () or any(not 1e-4 <= d < np.inf for d in self.all_durations_s):
            raise ValueError(f"durations should be seconds, 0.0001 or more, found {list(self.all_durations_s)}.")
        if self.length < 1 or self.min_events < 1 or not 0 <= self.overlap < 1:
            raise ValueError(
                f"length={self.length} and min_events={self.min_events} must be at least 1, "
                f"overlap={self.overlap} in [0, 1)."
            )
        if self.max_gap_min is not None and not self.max_gap_min > 0:
            raise ValueError(f"max_gap_min={self.max_gap_min} must be above 0; None: no silence ends a window.")
        if self.max_events is not None and self.strategy == "fixed_length":
            raise ValueError(f"strategy=fixed_length does not read max_events; its windows hold length={self.length}.")
        if self.max_events is not None and not 2 * self.min_events <= self.max_events + 1:
            raise ValueError(
                f"max_events={self.max_events} splits windows into pieces of {(self.max_events + 1) // 2} events or "
                f"more, which min_events={self.min_events} would not allow. Raise the one or lower the other."
            )

    @property
    def all_durations_s(self) -> tuple[float, ...]:
        """Return the durations that a window may have; none with `fixed_length`."""
        return self.durations_s or (() if self.duration_s is None else (self.duration_s,))

    def cut(self, t_us: np.ndarray, *codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut windows: `(B,)` first event and `(B,)` one past the last of each, in the order of their first events.

        Args:
            t_us: `(N,)` int64 microseconds, sorted within each session.
            codes: `(N,)` integer arrays (session, split, label, ...); no window crosses a change of one of them.
        """
        starts = run_starts(t_us, *codes, max_gap_s=None if self.max_gap_min is None else self.max_gap_min * 60)
        if self.strategy == "fixed_length":
            fewest = min(self.min_events, self.length)
            return cut_fixed_length(starts, len(t_us), length=self.length, overlap=self.overlap, min_events=fewest)
        duration_us = draw_durations(t_us, self.all_durations_s, self.seed)
        first, last = cut_durations(starts, t_us, duration_us, overlap=self.overlap, min_events=self.min_events)
        return (first, last) if self.max_events is None else split_long(first, last, self.max_events)


# What a processor takes over from the dataset. Not `min_events`: a user who gives three events wants an answer.
STREAM_SETTINGS = tuple(field.name for field in fields(Windowing) if field.name != "min_events")


def run_starts(t_us: np.ndarray, *codes: np.ndarray, max_gap_s: float | None = None) -> np.ndarray:
    """Return `(R,)` the index of each run's first event.

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
    stride = fixed_step(length, overlap)
    count = np.where(size >= min_events, 1 + -(-np.maximum(size - length, 0) // stride), 0)
    run = np.repeat(np.arange(len(starts)), count)
    first = starts[run] + places_in_group(count) * stride
    last = np.minimum(first + length, starts[run] + size[run])
    kept = last - first >= min_events
    return first[kept], last[kept]


def places_in_group(sizes: np.ndarray) -> np.ndarray:
    """Return 0, 1, ..., n - 1 for each n of `sizes`, one group after the other."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def fixed_step(length: int, overlap: float) -> int:
    """Return the events from the start of one window of `length` events to that of the next."""
    return max(1, round(length * (1 - overlap)))


def draw_durations(t_us: np.ndarray, durations_s: Sequence[float], seed: int = 0) -> np.ndarray:
    """Draw `(N,)` int64 microseconds, one of `durations_s`: the length of a window that starts with each event.

    Drawn by the event's time and `seed` alone (the finaliser of SplitMix64, Steele et al. 2014), so a window is the
    same whatever lies before it or in other runs.
    """
    x = t_us.astype(np.uint64) + np.uint64(seed * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    which = (x ^ (x >> np.uint64(31))) % np.uint64(len(durations_s))
    return np.round(np.asarray(durations_s, dtype=np.float64) * 1e6).astype(np.int64)[which.astype(np.intp)]


def cut_durations(
    starts: np.ndarray, t_us: np.ndarray, duration_us: np.ndarray, *, overlap: float = 0.0, min_events: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Cut each run by time: `(B,)` first event and `(B,)` one past the last.

    A window that starts with event i holds the events of its run in [t_i, t_i + duration_i). The next one starts with
    the first event at or after t_i + duration_i * (1 - overlap), as long as the run has one; that may be a window
    whose events all lie in the one before. Windows of fewer than `min_events` events are left out.

    Args:
        starts: `(R,)` from `run_starts`; t_us: `(N,)` int64; duration_us: `(N,)` int64 for a start at each event.
    """
    if not len(t_us):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    size = np.diff(np.append(starts, len(t_us)))
    # One sorted axis for all runs, each further from the one before than any window reaches.
    span = t_us[starts + size - 1] - t_us[starts] + duration_us.max() + 1
    axis = t_us + np.repeat(np.cumsum(span) - span - t_us[starts], size)
    step = np.maximum(1, np.round(duration_us * (1 - overlap)).astype(np.int64))
    first = _reached(starts, np.searchsorted(axis, axis + step))
    last = np.searchsorted(axis, axis[first] + duration_us[first])
    kept = last - first >= min_events
    return first[kept], last[kept]


def _reached(starts: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return `(B,)` events met on the paths from `starts` along i -> `following[i]` (`(N,)`; N ends one), ascending.

    By doubling: after k rounds all events within 2^k steps are marked, and `jump` goes 2^k steps at once.
    """
    end = len(following)
    marked = np.zeros(end + 1, dtype=bool)
    marked[starts] = True
    jump = np.append(following, end)
    before = 0
    marked[end] = True
    while (count := int(np.count_nonzero(marked))) > before:
        before = count
        marked[jump[marked]] = True
        jump = jump[jump]
    return np.flatnonzero(marked[:end])


def split_long(first: np.ndarray, last: np.ndarray, max_events: int) -> tuple[np.ndarray, np.ndarray]:
    """Split windows `(B,)` of more than `max_events` events into few pieces whose sizes differ by one at most."""
    size = last - first
    pieces = -(-size // max_events)
    window = np.repeat(np.arange(len(first)), pieces)
    nth = places_in_group(pieces)
    begin = first[window] + nth * size[window] // pieces[window]
    end = first[window] + (nth + 1) * size[window] // pieces[window]
    order = np.argsort(begin, kind="stable")
    return begin[order], end[order]


def window_index(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Expand `(B,)` bounds to `(B, L)` event indices and `(B, L)` int64 mask; padding repeats the last event."""
    width = int((last - first).max(initial=0))
    offset = np.arange(width)[None, :]
    mask = offset < (last - first)[:, None]
    return np.minimum(first[:, None] + offset, last[:, None] - 1), mask.astype(np.int64)


def fit_levels(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """Return the bounds between low, normal and high of a numeric sensor: the quartiles of its readings."""
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [0.25, 0.75])
    return float(low), float(high)


def level_of(values: np.ndarray, low: Any, high: Any) -> np.ndarray:
    """Return `LEVELS` of readings: LOW below `low`, HIGH above `high`, NORMAL between and on them (all broadcast)."""
    return np.asarray(LEVELS)[1 - (values < low) + (values > high)]
