"""Train, validation and test: whole days or sessions, in time order; and the audit that no event is in two splits."""

from collections.abc import Mapping
from itertools import combinations
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    starts = _changes(session)
    if unit == "auto":
        unit = "session" if len(np.unique(session[starts])) >= 10 else "day"
    if unit == "day":
        day = (t_us - DAY_STARTS_AT_H * 3600 * 10**6) // _DAY_US
        starts = _changes(session, day)
    # A stretch is a session, or a day of a session: few, and sorted by time within.
    size = np.diff(np.append(starts, len(t_us)))
    first, last = t_us[starts], t_us[starts + size - 1]
    code = _together(session[starts], first, last) if unit == "session" else day[starts]
    units, inverse = np.unique(code, return_inverse=True)
    if len(units) < 3:
        alone = " that do not overlap in time" if unit == "session" else ""
        raise ValueError(f"the log has {len(units)} {unit}(s){alone}; train, validation and test need at least 3.")
    rank = np.empty(len(units), dtype=np.int64)
    ranked = np.argsort(_first_time(first, inverse, len(units)), kind="stable")
    rank[ranked] = (
        np.arange(len(units)) if order == "chronological" else np.random.default_rng(seed).permutation(len(units))
    )
    of_stretch = np.searchsorted(_bounds(len(units)), rank, side="right")[inverse]
    split = np.repeat(of_stretch.astype(np.int8), size)
    session_end = np.append(starts[1:][np.diff(session[starts]) != 0], len(t_us))
    for k in np.flatnonzero((np.diff(of_stretch) != 0) & (np.diff(session[starts]) == 0)) + 1:
        end = session_end[np.searchsorted(session_end, starts[k], side="right")]
        by_time = starts[k] + np.searchsorted(t_us[starts[k] : end], first[k] + purge_s * 1e6)
        split[starts[k] : min(end, max(starts[k] + purge_events, by_time))] = PURGED
    return split, unit


def _changes(*codes: np.ndarray) -> np.ndarray:
    """Where a stretch of equal codes begins: `(S,)` indices, the first one 0; none without events."""
    new = np.zeros(len(codes[0]), dtype=bool)
    new[:1] = True
    for code in codes:
        new[1:] |= code[1:] != code[:-1]
    return np.flatnonzero(new)


def _together(session: np.ndarray, begin: np.ndarray, end: np.ndarray) -> np.ndarray:
    """`(S,)` code of each stretch's session, the same one for sessions that overlap in time."""
    names, inverse = np.unique(session, return_inverse=True)
    first, last = _first_time(begin, inverse, len(names)), -_first_time(-end, inverse, len(names))
    order = np.argsort(first, kind="stable")
    apart = first[order][1:] > np.maximum.accumulate(last[order])[:-1]
    group = np.empty(len(names), dtype=np.int64)
    group[order] = np.concatenate([[0], np.cumsum(apart)])
    return group[inverse]


def _first_time(t_us: np.ndarray, unit: np.ndarray, num_units: int) -> np.ndarray:
    """`(U,)` earliest of each unit's times."""
    first = np.full(num_units, np.iinfo(np.int64).max)
    np.minimum.at(first, unit, t_us)
    return first


def _bounds(num_units: int) -> np.ndarray:
    """Number of units before validation and before test; each split gets at least one."""
    validation = min(max(1, round(num_units * RATIOS[0])), num_units - 2)
    test = min(max(validation + 1, round(num_units * (RATIOS[0] + RATIOS[1]))), num_units - 1)
    return np.array([validation, test])


# ------------------------------------------------------------------------------------------- windows, split again
def bootstrap_clusters(windows: pa.Table, unit: str = "auto") -> tuple[np.ndarray, str]:
    """`(N,)` number of each window's day or session, in the order of time, as `assign_splits` counts them; and which.

    Args:
        windows: of one home, with the columns `session`, `start` and `end`.
        unit: `day`, `session`, or `auto`: sessions when there are at least ten, else days.
    """
    _, session = np.unique(np.asarray(windows["session"].to_pylist(), dtype=object), return_inverse=True)
    start, end = _microseconds(windows, "start"), _microseconds(windows, "end")
    if unit == "auto":
        unit = "session" if session.max(initial=-1) + 1 >= 10 else "day"
    code = (start - DAY_STARTS_AT_H * 3600 * 10**6) // _DAY_US if unit == "day" else _together(session, start, end)
    found = np.unique(code, return_inverse=True)
    return found[1], unit


def split_randomly(windows: pa.Table, unit: str, seed: int = 0) -> np.ndarray:
    """`(N,)` object: a split for each window by whole days or sessions, drawn by `seed`; None where it was purged.

    The windows stay as they were cut. Where two splits meet, the later windows that share time with the earlier split
    are purged and, within a session, those of one more window's length.

    Raises:
        ValueError: fewer than three days or sessions.
    """
    code, unit = bootstrap_clusters(windows, unit)
    units = int(code.max(initial=-1)) + 1
    if units < 3:
        raise ValueError(f"the windows are of {units} {unit}(s); train, validation and test need at least 3.")
    place = np.random.default_rng(seed).permutation(units)
    split = np.searchsorted(_bounds(units), place, side="right")[code]
    kept = _apart(split, windows)
    return np.array([*SPLITS, None], dtype=object)[np.where(kept, split, PURGED)]


def _apart(split: np.ndarray, windows: pa.Table) -> np.ndarray:
    """`(N,)` bool: which windows stay, so that no two splits share time and a window's length lies between them."""
    start, end = _microseconds(windows, "start"), _microseconds(windows, "end")
    _, name = np.unique(np.asarray(windows["session"].to_pylist(), dtype=object), return_inverse=True)
    session, kept = _together(name, start, end), np.zeros(len(split), dtype=bool)  # one recording may have two names
    last, until, gap = -1, np.iinfo(np.int64).min, None  # the last one kept, the end of all kept, the end of the gap
    for i in np.argsort(start, kind="stable").tolist():
        if last >= 0 and split[i] != split[last]:
            if start[i] <= until or (gap is not None and start[i] <= gap):
                continue
            if gap is None and session[i] == session[last]:
                gap = end[i]
                continue
        last, until, gap = i, max(until, end[i]), None
        kept[i] = True
    return kept


def share_time(windows: pa.Table, others: pa.Table) -> np.ndarray:
    """`(N,)` bool: which of `windows` share time, ends included, with any of `others`; all of one home."""
    start, end = _microseconds(others, "start"), _microseconds(others, "end")
    order = np.argsort(start, kind="stable")
    begun = np.searchsorted(start[order], _microseconds(windows, "end"), side="right")
    latest = np.append(np.iinfo(np.int64).min, np.maximum.accumulate(end[order]))
    return latest[begun] >= _microseconds(windows, "start")


# ------------------------------------------------------------------------------------------------------ the audit
def leak_audit(windows: pa.Table, events: pa.Table) -> dict[str, int]:
    """Events shared by the windows of two splits, for each pair of splits: `{"train/test": 0, ...}`.

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
    first, last = np.searchsorted(axis, start, side="left"), np.searchsorted(axis, end, side="right")
    split = windows["split"]
    covered = {}
    for name in SPLITS:
        chosen = np.asarray(pc.equal(split, name).combine_chunks())
        covered[name] = _united(first[chosen], last[chosen])
    return {f"{a}/{b}": _shared(covered[a], covered[b]) for a, b in combinations(SPLITS, 2)}


def _united(first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stretches [first, last) `(B,)` as ascending ones that do not meet: what they cover together."""
    order = np.argsort(first[first < last], kind="stable")
    first, last = first[first < last][order], np.maximum.accumulate(last[first < last][order])
    new = np.flatnonzero(first[1:] > last[:-1]) + 1
    return first[np.append(0, new)[: len(first)]], last[np.append(new - 1, len(last) - 1)[: len(last)]]


def _shared(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> int:
    """How many events lie both in the stretches of `a` and in those of `b`."""
    if not len(a[0]) or not len(b[0]):
        return 0
    ends = np.append(0, np.cumsum(b[1] - b[0]))

    def covered_before(x: np.ndarray) -> np.ndarray:
        """Events of `b` before each index `x`."""
        begun = np.searchsorted(b[0], x)
        return ends[begun] - np.where(begun > 0, np.maximum(0, b[1][begun - 1] - x), 0)

    return int((covered_before(a[1]) - covered_before(a[0])).sum())


def _home_codes(*tables: pa.Table) -> list[np.ndarray]:
    """`(N,)` integer code of each row's home, the same codes in all tables."""
    known: dict[str, int] = {}
    codes = []
    for table in tables:
        column = table["home"] if pa.types.is_dictionary(table["home"].type) else table["home"].dictionary_encode()
        home = column.unify_dictionaries().combine_chunks()
        code = np.array([known.setdefault(name, len(known)) for name in home.dictionary.to_pylist()], dtype=np.int64)
        codes.append(code[np.asarray(home.indices)] if len(code) > 1 else np.full(len(table), code.sum()))
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
