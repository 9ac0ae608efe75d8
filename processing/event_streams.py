"""Events as a user has them, DataFrame, Arrow table, tuples or dicts, as columns of numbers."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

COLUMNS = ("timestamp", "sensor", "state")


@dataclass
class EventColumns:
    """Columns of `N` events in the input's order; texts stand as codes, so that each distinct one is looked up once.

    `t_us` `(N,)` int64 microseconds; `sensor`, `state`, `session` `(N,)` int64 codes; `sensors`, `states` the texts
    of the codes (`sensors[sensor[i]]`).
    """

    t_us: np.ndarray
    sensor: np.ndarray
    state: np.ndarray
    session: np.ndarray
    sensors: list[str]
    states: list[Any]


@dataclass
class EventStream:
    """Events sorted by session and time, and their windows.

    `t_us` `(N,)` int64 microseconds; `row` `(N,)` int64 rows of the table; `order` `(N,)` place of each event in the
    input; `first`, `last` `(B,)` bounds of the windows.
    """

    t_us: np.ndarray
    row: np.ndarray
    order: np.ndarray
    first: np.ndarray
    last: np.ndarray

    @property
    def start(self) -> np.ndarray:
        """Return `(B,)` datetime64[us] of each window's first event."""
        return self.t_us[self.first].astype("datetime64[us]")

    @property
    def end(self) -> np.ndarray:
        """Return `(B,)` datetime64[us] of each window's last event."""
        return self.t_us[self.last - 1].astype("datetime64[us]")


def event_columns(events: Any) -> EventColumns:
    """Read one stream of any accepted kind: a table (DataFrame, Arrow, dict of columns), tuples, or dicts an event.

    Raises:
        ValueError: no events, a column that is missing, an event that is no triple, a timestamp that cannot be read.
    """
    names = _column_names(events)
    if names is not None:
        for name in COLUMNS:
            if name not in names:
                raise ValueError(f"events have the columns {names}; {name!r} is missing.")
        stamps, sensors, states = (events[name] for name in COLUMNS)
    else:
        rows = [_triple(i, event) for i, event in enumerate(events if events is not None else [])]
        stamps, sensors, states = ([row[i] for row in rows] for i in range(3))
    if not len(sensors):
        raise ValueError("there are no events to encode.")
    sensor, known_sensors = encode_column(sensors, "sensor")
    state, known_states = encode_column(states, "state")
    session = np.zeros(len(sensor), dtype=np.int64)
    if names is not None and "session" in names:
        session, _ = encode_column(events["session"], "session")
    return EventColumns(_microseconds(stamps), sensor, state, session, known_sensors, known_states)


def window_columns(windows: Sequence[Any]) -> tuple[EventColumns, np.ndarray]:
    """Read many windows, each as `event_columns` takes it, as one stream; and `(N,)` the window of each event."""
    parts = []
    for i, window in enumerate(windows):
        try:
            parts.append(event_columns(window))
        except ValueError as error:
            raise ValueError(f"window {i}: {error}") from None

    def shifted(name: str, sizes: list[int]) -> np.ndarray:
        """Join the codes of all parts, each part's above those of the parts before it."""
        offsets = np.cumsum([0, *sizes[:-1]])
        return np.concatenate([getattr(part, name) + offset for part, offset in zip(parts, offsets, strict=True)])

    # the parts' texts, equal ones of two parts twice -> one code for each distinct text
    sensor_code, sensors = encode_column([sensor for part in parts for sensor in part.sensors], "sensor")
    state_code, states = encode_column([state for part in parts for state in part.states], "state")
    columns = EventColumns(
        np.concatenate([part.t_us for part in parts]),
        sensor_code[shifted("sensor", [len(part.sensors) for part in parts])],
        state_code[shifted("state", [len(part.states) for part in parts])],
        shifted("session", [int(part.session.max()) + 1 for part in parts]),  # so sorting by session keeps windows
        sensors,
        states,
    )
    return columns, np.repeat(np.arange(len(parts)), [len(part.t_us) for part in parts])


def is_many(events: Any) -> bool:
    """Return whether `events` is a list of windows rather than one stream."""
    if not isinstance(events, Sequence) or isinstance(events, str) or not len(events):
        return False
    first = events[0]
    if isinstance(first, str) or (isinstance(first, Mapping) and not _is_columns(first)):
        return False
    if _column_names(first) is not None:
        return True
    return isinstance(first, Sequence) and (not len(first) or isinstance(first[0], (Mapping, list, tuple)))


def encode_column(column: Any, name: str) -> tuple[np.ndarray, list[Any]]:
    """Encode a column of texts (or readings) as `(N,)` int64 codes and the texts; a missing one is a `ValueError`."""
    distinct: list[Any]
    if hasattr(column, "dictionary_encode"):  # Arrow
        encoded = (column.combine_chunks() if hasattr(column, "combine_chunks") else column).dictionary_encode()
        code = np.asarray(encoded.indices.fill_null(-1)).astype(np.int64)
        distinct = encoded.dictionary.to_pylist()
    elif hasattr(column, "factorize") and column.dtype != object:  # pandas; it would take True and 1 for one object
        code, distinct = column.factorize()
        code = code.astype(np.int64)
        distinct = list(distinct)
    else:
        known: dict[str, int] = {}
        # x != x: NaN, which stands for a missing text in DataFrames
        texts = (None if x is None or x != x else str(x) for x in column)
        code = np.array([-1 if x is None else known.setdefault(x, len(known)) for x in texts], dtype=np.int64)
        distinct = list(known)
    if (code < 0).any():
        raise ValueError(f"event {int((code < 0).argmax())} has no {name}. Leave such events out.")
    return code, distinct


def _column_names(events: Any) -> list[str] | None:
    """Return the columns of a table of any kind; None for a list of events."""
    if isinstance(events, Mapping):
        return list(events)
    names = getattr(events, "column_names", None)  # Arrow, datasets
    names = getattr(events, "columns", None) if names is None else names  # pandas, polars
    return None if names is None else list(names)


def _is_columns(events: Mapping[str, Any]) -> bool:
    """Return whether a dict holds columns rather than one event."""
    stamps = events.get("timestamp")
    return hasattr(stamps, "__len__") and not isinstance(stamps, str)


def _triple(i: int, event: Any) -> Sequence[Any]:
    if isinstance(event, (tuple, list)) and len(event) == len(COLUMNS):
        return event
    if isinstance(event, Mapping) and all(name in event for name in COLUMNS):
        return [event[name] for name in COLUMNS]
    raise ValueError(f"event {i} is {event!r}; expected (timestamp, sensor, state) or a dict of these.")


def _microseconds(stamps: Any) -> np.ndarray:
    """Convert timestamps of any kind (datetime, ISO text, datetime64, seconds) to `(N,)` int64 microseconds."""
    array = np.asarray(stamps)
    if array.dtype.kind == "O" and isinstance(array[0], (int, float)):
        array = array.astype(np.float64)
    zoned = getattr(getattr(stamps, "type", None), "tz", None)  # Arrow's, which NumPy would drop in silence
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # NumPy only warns when it turns another zone's time into UTC
            times = array if zoned or array.dtype.kind in "iuf" else array.astype("datetime64[us]")
    except (ValueError, TypeError, Warning) as error:
        zoned = any(getattr(stamp, "tzinfo", None) is not None for stamp in array) or "timezone" in str(error)
        times = np.array([np.nan if stamp != stamp else 0 for stamp in array])  # NaN and NaT differ from themselves
        if not zoned and not np.isnan(times).any():
            raise ValueError(
                f"a timestamp cannot be read ({error}); expected a datetime, ISO text or seconds."
            ) from None
    if zoned:
        raise ValueError("timestamps carry a time zone; give the home's local time without one (.tz_localize(None)).")
    if (missing := ~np.isfinite(times)).any():
        raise ValueError(f"event {int(missing.argmax())} has no timestamp. Leave such events out.")
    return (times if times.dtype.kind == "M" else np.round(times * 1e6)).astype(np.int64)
