"""Train, validation and test: whole days or sessions, in time order; and the audit that no event is in two splits."""

from collections.abc import Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa

SPLITS = ("train", "validation", "test")
RATIOS = (0.7, 0.1, 0.2)  # of the days or sessions, the reference system's
PURGED = -1
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

    Returns:
        `(N,)` index into `SPLITS`, or `PURGED`; and the unit that was used.

    Raises:
        ValueError: fewer than three units, or an unknown `unit` or `order`.
    """
    if unit not in ("auto", "day", "session") or order not in ("chronological", "random"):
        raise ValueError(
            f"split unit {unit!r}, order {order!r}: expected auto, day or session; chronological or random."
        )
    if unit == "auto":
        unit = "session" if len(np.unique(session)) >= 10 else "day"
    code = _together(t_us, session) if unit == "session" else (t_us - DAY_STARTS_AT_H * 3600 * 10**6) // _DAY_US
    units, inverse = np.unique(code, return_inverse=True)
    if len(units) < 3:
        alone = " that do not overlap in time" if unit == "session" else ""
        raise ValueError(f"the log has {len(units)} {unit}(s){alone}; train, validation and test need at least 3.")
    rank = np.empty(len(units), dtype=np.int64)
    ranked = np.argsort(_first_time(t_us, inverse, len(units)), kind="stable")
    rank[ranked] = (
        np.arange(len(units)) if order == "chronological" else np.random.default_rng(seed).permutation(len(units))
    )
    split = np.searchsorted(_bounds(len(units)), rank, side="right")[inverse]
    border = np.flatnonzero((np.diff(split) != 0) & (np.diff(session) == 0)) + 1
    purged = np.zeros(len(split), dtype=bool)
    for start in border:
        purged[start : start + purge_events] = session[start : start + purge_events] == session[start]
    return np.where(purged, PURGED, split), unit


def _together(t_us: np.ndarray, session: np.ndarray) -> np.ndarray:
    """`(N,)` code of each event's session, the same one for sessions that overlap in time."""
    names, inverse = np.unique(session, return_inverse=True)
    first, last = _first_time(t_us, inverse, len(names)), -_first_time(-t_us, inverse, len(names))
    order = np.argsort(first, kind="stable")
    apart = first[order][1:] > np.maximum.accumulate(last[order])[:-1]
    group = np.empty(len(names), dtype=np.int64)
    group[order] = np.concatenate([[0], np.cumsum(apart)])
    return group[inverse]


def _first_time(t_us: np.ndarray, unit: np.ndarray, num_units: int) -> np.ndarray:
    """`(U,)` earliest time of each unit's events."""
    first = np.full(num_units, np.iinfo(np.int64).max)
    np.minimum.at(first, unit, t_us)
    return first


def _bounds(num_units: int) -> np.ndarray:
    """Number of units before validation and before test; each split gets at least one."""
    validation = min(max(1, round(num_units * RATIOS[0])), num_units - 2)
    test = min(max(validation + 1, round(num_units * (RATIOS[0] + RATIOS[1]))), num_units - 1)
    return np.array([validation, test])


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
    axis = np.sort((t_us - low) + home * span)
    start = np.clip(_microseconds(windows, "start") - low, 0, span - 1) + of_window * span
    end = np.clip(_microseconds(windows, "end") - low, -1, span - 1) + of_window * span
    split = np.asarray(windows["split"].to_pylist(), dtype=object)
    covered = {}
    for name in SPLITS:
        chosen = split == name
        change = np.zeros(len(axis) + 1, dtype=np.int64)
        np.add.at(change, np.searchsorted(axis, start[chosen], side="left"), 1)
        np.add.at(change, np.searchsorted(axis, end[chosen], side="right"), -1)
        covered[name] = np.cumsum(change)[:-1] > 0
    return {f"{a}/{b}": int((covered[a] & covered[b]).sum()) for a, b in combinations(SPLITS, 2)}


def _home_codes(*tables: pa.Table) -> list[np.ndarray]:
    """`(N,)` integer code of each row's home, the same codes in all tables."""
    known: dict[str, int] = {}
    codes = []
    for table in tables:
        home = table["home"].combine_chunks().dictionary_encode()
        code = np.array([known.setdefault(name, len(known)) for name in home.dictionary.to_pylist()], dtype=np.int64)
        codes.append(code[np.asarray(home.indices)])
    return codes


def _microseconds(table: pa.Table, column: str) -> np.ndarray:
    return np.asarray(table[column].cast(pa.int64()))


def refuse_leaks(audit: Mapping[str, Any]) -> None:
    """Raise `ValueError` when an audit found events in two splits."""
    leaks = {pair: count for pair, count in audit.items() if count}
    if leaks:
        told = ", ".join(f"{pair}: {count}" for pair, count in leaks.items())
        raise ValueError(
            f"leak audit: events in two splits ({told}); expected 0. Cut the windows again: casita windows."
        )
