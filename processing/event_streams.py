"""Events as a user has them, DataFrame, Arrow table, tuples or dicts, as sorted columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class EventStream:
    """Events as columns, sorted by session and time, and their windows.

    `t_us` `(N,)` int64 microseconds; `row` `(N,)` int64 rows of the table; `order` `(N,)` where each event stood in
    the input; `first`, `last` `(B,)` bounds of the windows.
    """

    t_us: np.ndarray
    row: np.ndarray
    order: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @property
    def start(self) -> np.ndarray:
        """`(B,)` datetime64[us] of each window's first event."""
        return self.t_us[self.first].astype("datetime64[us]")

    @property
    def end(self) -> np.ndarray:
        """`(B,)` datetime64[us] of each window's last event."""
        return self.t_us[self.last - 1].astype("datetime64[us]")


def event_columns(events: Any) -> tuple[np.ndarray, list[str], list[Any], np.ndarray]:
    """One stream of any accepted kind as `(N,)` microseconds, sensors, states and session codes."""
    columns = getattr(events, "column_names", None)  # Arrow
    if columns is None and hasattr(events, "columns"):  # pandas
        columns = list(events.columns)
    if columns is not None:
        for name in ("timestamp", "sensor", "state"):
            if name not in columns:
                raise ValueError(f"events have the columns {list(columns)}; {name!r} is missing.")
        stamps = events["timestamp"].to_numpy()
        sensors, states = (_as_list(events[name]) for name in ("sensor", "state"))
        sessions = _as_list(events["session"]) if "session" in columns else None
    else:
        events = list(events) if events is not None else []
        rows = [[e["timestamp"], e["sensor"], e["state"]] if isinstance(e, Mapping) else e for e in events]
        for i, row in enumerate(rows):
            if isinstance(row, str) or not isinstance(row, Sequence) or len(row) != 3:
                raise ValueError(f"event {i} is {row!r}; expected (timestamp, sensor, state) or a dict of these.")
        stamps, sensors, states = ([row[i] for row in rows] for i in range(3))
        sessions = None
    if not len(sensors):
        raise ValueError("there are no events to encode.")
    code = np.zeros(len(sensors), dtype=np.int64)
    if sessions is not None:
        known: dict[str, int] = {}
        code = np.array([known.setdefault(session, len(known)) for session in sessions])
    return _microseconds(stamps), sensors, states, code


def _microseconds(stamps: Any) -> np.ndarray:
    """Timestamps of any kind (datetime, ISO text, datetime64, seconds as numbers) as `(N,)` int64 microseconds."""
    array = np.asarray(stamps)
    if array.dtype.kind in "iuf":
        return np.round(array * 1e6).astype(np.int64)
    if array.dtype.kind == "O" and any(getattr(stamp, "tzinfo", None) is not None for stamp in array):
        raise ValueError("timestamps carry a time zone; give the home's local time without one (.tz_localize(None)).")
    try:
        return array.astype("datetime64[us]").astype(np.int64)
    except ValueError as error:
        raise ValueError(f"a timestamp cannot be read ({error}); expected a datetime, ISO text or seconds.") from None


def _as_list(column: Any) -> list[Any]:
    return column.to_pylist() if hasattr(column, "to_pylist") else column.tolist()


def is_many(events: Any) -> bool:
    """Whether `events` is a list of windows rather than one stream."""
    if not isinstance(events, Sequence) or isinstance(events, str) or not len(events):
        return False
    first = events[0]
    if isinstance(first, (Mapping, str)):
        return False
    if hasattr(first, "columns") or hasattr(first, "column_names"):
        return True
    return isinstance(first, Sequence) and (not len(first) or isinstance(first[0], (Mapping, list, tuple)))


def concatenate_streams(streams: Sequence[EventStream]) -> EventStream:
    """Many streams of one window each as one stream of many windows."""
    last = np.cumsum([len(stream.row) for stream in streams])
    first = np.concatenate([[0], last[:-1]])
    t_us, row, order = (np.concatenate([getattr(s, name) for s in streams]) for name in ("t_us", "row", "order"))
    return EventStream(t_us, row, order, first, last)
