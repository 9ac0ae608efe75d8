"""Train, validation and test: whole days or sessions, in time order; and the audit that no event is in two splits."""

from collections.abc import Mapping
from itertools import combinations
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.windows.events import encode
from casita.processing.event_windows import run_starts

SPLITS = ("train", "validation", "test")
# Events in two splits by pair of splits, or those by home.
LeakAudit: TypeAlias = Mapping[str, int | Mapping[str, int]]
RATIOS = (0.7, 0.1, 0.2)  # of the days or sessions, the reference system's
TRAIN, PURGED = 0, -1  # SPLITS.index("train"), and an event of no split
# Midnight would cut the night's sleep in two; at four in the morning most homes are quiet.
DAY_STARTS_AT_H = 4
_DAY_US = 24 * 3600 * 10**6


def assign_splits(
    t_us: np.ndarray,
    session: np.ndarray,
    *,
    unit: str = "auto",
    order: str = "chronological",
    purge_events: int = 0,
    purge_s: float = 0.0,
    seed: int = 0,
) -> tuple[np.ndarray, str]:
    """Give every event its split by whole days or whole sessions.

    Args:
        t_us: `(N,)` int64 microseconds of the events, sorted by session and time.
        session: `(N,)` integer code of each event's session.
        unit: `day`, `session`, or `auto`: sessions when there are at least ten, else days. Sessions that overlap in
            time count as one: Kyoto's P011 and P369 are the same recording under two names.
        order: `chronological`: the earliest units train, the latest test; or `random`: units shuffled by `seed`.
        purge_events: where two splits meet inside a session, so many events after the border belong to neither.
        purge_s: nor do the events of so many seconds from the first one behind the border on.

    Returns:
        `(N,)` index into `SPLITS`, or `PURGED`; and the unit that was used.

    Raises:
        ValueError: fewer than three units, or an unknown `unit` or `order`.
    """
    if unit not in ("auto", "day", "session") or order not in ("chronological", "random"):
        raise ValueError(
            f"split unit {unit!r}, order {order!r}: expected auto, day or session; chronological or random."
        )
    starts = run_starts(t_us, session)
    if unit == "auto":
        unit = "session" if len(np.unique(session[starts])) >= 10 else "day"
    if unit == "day":
        day = (t_us - DAY_STARTS_AT_H * 3600 * 10**6) // _DAY_US
        starts = run_starts(t_us, session, day)
    # A stretch is a session, or a day of a session: few, and sorted by time within.
    size = np.diff(np.append(starts, len(t_us)))
    first = t_us[starts]
    last = t_us[starts + size - 1]
    code = _overlapping_sessions(session[starts], first, last) if unit == "session" else day[starts]
    distinct, inverse = np.unique(code, return_inverse=True)
    num_units = len(distinct)
    if num_units < 3:
        alone = " that do not overlap in time" if unit == "session" else ""
        raise ValueError(f"the log has {num_units} {unit}(s){alone}; train, validation and test need at least 3.")
    in_time_order = np.argsort(_first_time(first, inverse, num_units), kind="stable")
    rank = np.empty(num_units, dtype=np.int64)
    if order == "chronological":
        rank[in_time_order] = np.arange(num_units)
    else:
        rank[in_time_order] = np.random.default_rng(seed).permutation(num_units)
    of_stretch = np.searchsorted(_bounds(num_units), rank, side="right")[inverse]
    split = np.repeat(of_stretch.astype(np.int8), size)
    session_end = np.append(starts[1:][np.diff(session[starts]) != 0], len(t_us))
    for k in np.flatnonzero((np.diff(of_stretch) != 0) & (np.diff(session[starts]) == 0)) + 1:
        end = session_end[np.searchsorted(session_end, starts[k], side="right")]
        by_time = starts[k] + np.searchsorted(t_us[starts[k] : end], first[k] + purge_s * 1e6)
        split[starts[k] : min(end, max(starts[k] + purge_events, by_time))] = PURGED
    return split, unit


def _overlapping_sessions(session: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the `(S,)` code of each stretch's session, the same one for sessions that overlap in time."""
    names, inverse = np.unique(session, return_inverse=True)
    first = _first_time(begin, inverse, len(names))
    last = -_first_time(-end, inverse, len(names))
    order = np.argsort(first, kind="stable")
    apart = first[order][1:] > np.maximum.accumulate(last[order])[:-1]  # from all sessions that began before
    group = np.empty(len(names), dtype=np.int64)
    group[order] = np.concatenate([[0], np.cumsum(apart)])
    return group[inverse]


def _first_time(t_us: np.ndarray, unit: np.ndarray, num_units: int) -> np.ndarray:
    """Return `(U,)` the earliest of each unit's times."""
    first = np.full(num_units, np.iinfo(np.int64).max)
    np.minimum.at(first, unit, t_us)
    return first


def _bounds(num_units: int) -> np.ndarray:
    """Return the numbers of units before validation and before test; each split gets at least one."""
    validation = min(max(1, round(num_units * RATIOS[0])), num_units - 2)
    test = min(max(validation + 1, round(num_units * (RATIOS[0] + RATIOS[1]))), num_units - 1)
    return np.array([validation, test])


# ------------------------------------------------------------------------------------------- windows, split again
def bootstrap_clusters(windows: pa.Table, unit: str = "auto") -> tuple[np.ndarray, str]:
    """Return `(N,)` the number of each window's day or session in time order, as `assign_splits` counts; and which.

    Args:
        windows: of one home, with the columns `session`, `start` and `end`.
        unit: `day`, `session`, or `auto`: sessions when there are at least ten, else days.
    """
    session = encode(windows["session"])
    start = _microseconds(windows, "start")
    if unit == "auto":
        unit = "session" if len(session.names) >= 10 else "day"
    if unit == "day":
        code = (start - DAY_STARTS_AT_H * 3600 * 10**6) // _DAY_US
    else:
        code = _overlapping_sessions(session.code, start, _microseconds(windows, "end"))
    _, number = np.unique(code, return_inverse=True)
    return number, unit


def split_randomly(windows: pa.Table, unit: str, seed: int = 0) -> np.ndarray:
    """Draw `(N,)` object: a split for each window by whole days or sessions and `seed`; None where it was purged.

    The windows stay as they were cut. Where two splits meet, the later windows that share time with the earlier split
    are purged and, within a session, those of one more window's length.

    Raises:
        ValueError: fewer than three days or sessions.
    """
    number, unit = bootstrap_clusters(windows, unit)
    num_units = int(number.max(initial=-1)) + 1
    if num_units < 3:
        raise ValueError(f"the windows are of {num_units} {unit}(s); train, validation and test need at least 3.")
    rank = np.random.default_rng(seed).permutation(num_units)
    split = np.searchsorted(_bounds(num_units), rank, side="right")[number]
    kept = _purge(split, windows)
    return np.array([*SPLITS, None], dtype=object)[np.where(kept, split, PURGED)]


def _purge(split: np.ndarray, windows: pa.Table) -> np.ndarray:
    """Return `(N,)` bool: the windows to keep, so that no two splits share time and a window's length is between."""
    start = _microseconds(windows, "start")
    end = _microseconds(windows, "end")
    session = _overlapping_sessions(encode(windows["session"]).code, start, end)  # one recording may have two names
    kept = np.zeros(len(split), dtype=bool)
    last = -1  # the last window that was kept
    until = np.iinfo(np.int64).min  # the end of all that were kept
    gap = None  # the end of the gap between two splits, in which windows are purged
    for i in np.argsort(start, kind="stable").tolist():
        if last >= 0 and split[i] != split[last]:
            if start[i] <= until or (gap is not None and start[i] <= gap):
                continue
            if gap is None and session[i] == session[last]:
                gap = end[i]
                continue
        last = i
        until = max(until, end[i])
        gap = None
        kept[i] = True
    return kept


def share_time(windows: pa.Table, others: pa.Table) -> np.ndarray:
    """Return `(N,)` bool: which of `windows` share time, ends included, with any of `others`; all of one home."""
    start = _microseconds(others, "start")
    order = np.argsort(start, kind="stable")
    num_begun = np.searchsorted(start[order], _microseconds(windows, "end"), side="right")
    latest_end = np.maximum.accumulate(_microseconds(others, "end")[order])
    latest_end = np.append(np.iinfo(np.int64).min, latest_end)  # of the first k others
    return latest_end[num_begun] >= _microseconds(windows, "start")


# ------------------------------------------------------------------------------------------------------ the audit
def leak_audit(windows: pa.Table, events: pa.Table) -> dict[str, int]:
    """Count the events shared by the windows of two splits, for each pair of splits: `{"train/test": 0, ...}`.

    Knows nothing of how the windows were cut: an event is in a window when it is of the same home and its time lies
    within the window's start and end, both included. So it may count too much, never too little. Sessions do not come
    in, since one recording may be there under two names.
    """
    home, of_window = _home_codes(events, windows)
    t_us = _microseconds(events, "timestamp")
    # One sorted axis for all homes: later homes are shifted past the end of the earlier ones.
    low = t_us.min(initial=np.iinfo(np.int64).max)
    span = t_us.max(initial=low) - low + 2
    axis = t_us - low
    if home.any():
        axis += home * span
    if (axis[1:] < axis[:-1]).any():
        axis = np.sort(axis)
    start = np.clip(_microseconds(windows, "start") - low, 0, span - 1) + of_window * span
    end = np.clip(_microseconds(windows, "end") - low, -1, span - 1) + of_window * span
    first = np.searchsorted(axis, start, side="left")
    last = np.maximum(first, np.searchsorted(axis, end, side="right"))
    covered = {}
    for split in SPLITS:
        of_split = np.asarray(pc.equal(windows["split"], split).combine_chunks())
        # how many windows hold each event: one more from a window's first event on, one less behind its last
        change = np.zeros(len(axis) + 1, np.int32)  # a number an event: a large home has many
        np.add.at(change, first[of_split], 1)
        np.subtract.at(change, last[of_split], 1)
        covered[split] = np.cumsum(change, out=change)[:-1] > 0
    return {f"{a}/{b}": int((covered[a] & covered[b]).sum()) for a, b in combinations(SPLITS, 2)}


def _home_codes(*tables: pa.Table) -> list[np.ndarray]:
    """Return the `(N,)` integer code of each row's home, the same codes in all tables."""
    known: dict[str, int] = {}
    codes = []
    for table in tables:
        home = encode(table["home"])
        code = np.array([known.setdefault(name, len(known)) for name in home.names], dtype=np.int64)
        codes.append(code[home.code])
    return codes


def _microseconds(table: pa.Table, column: str) -> np.ndarray:
    return np.asarray(table[column].cast(pa.int64()))


def count_leaks(audit: LeakAudit) -> dict[str, int]:
    """Return the events in two splits by pair of splits, `"train/test"`, or by home too, `"milan: train/test"`."""
    counts: dict[str, int] = {}
    for name, count in audit.items():
        if isinstance(count, int):
            counts[name] = count
        else:
            counts |= {f"{name}: {pair}": shared for pair, shared in count.items()}
    return counts


def refuse_leaks(audit: LeakAudit, where: str = "leak audit", command: str = "casita windows") -> None:
    """Raise `ValueError` when an audit found events in two splits; `command` cuts the windows again."""
    if leaks := {pair: count for pair, count in count_leaks(audit).items() if count}:
        pairs = ", ".join(f"{pair}: {count}" for pair, count in leaks.items())
        raise ValueError(f"{where}: events in two splits ({pairs}); expected 0. Cut the windows again: {command}.")
