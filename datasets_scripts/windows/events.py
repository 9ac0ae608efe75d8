"""The events that windows are cut from, as columns of numbers: chosen, keyed and labelled."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.layouts.label_prompts import coarse_labels
from casita.datasets_scripts.layouts.layout import Layout
from casita.processing.event_windows import LEVELS, fit_levels, level_of

RESIDENT = re.compile(r"(R\d+)[\s_/-]+(?=\S)", re.IGNORECASE)  # whose activity a label tells: R1_Sleep, "R2 wake"


@dataclass(frozen=True)
class Codes:
    """A column of `N` texts as `(N,)` integers and what they mean: `names[code[i]]`; -1 for null."""

    code: np.ndarray
    names: list[str]

    def take(self, chosen: np.ndarray | slice) -> "Codes":
        return Codes(self.code[chosen], self.names)

    def as_arrow(self) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(self.code), pa.array(self.names, pa.string()))


def encode(column: pa.ChunkedArray) -> Codes:
    """`Codes` of a text column; one that Arrow keeps as a dictionary already costs nothing."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    whole = column.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # no events
        return Codes(np.zeros(0, dtype=np.int32), [])
    indices = whole.indices if not whole.null_count else pc.fill_null(whole.indices, -1)
    return Codes(np.asarray(indices), whole.dictionary.to_pylist())


@dataclass(frozen=True)
class ChosenEvents:
    """`N` events of placed sensors of the wanted kinds.

    `t_us` `(N,)` int64 microseconds; `value` `(N,)` float64 readings, NaN for none, or None where nobody has one;
    `row` where they stand in the events table: `(N,)` int64, or a slice when all were chosen.
    """

    t_us: np.ndarray
    home: Codes
    session: Codes
    sensor: Codes
    state: Codes
    value: np.ndarray | None
    row: np.ndarray | slice

    def __len__(self) -> int:
        return len(self.t_us)


def choose_events(
    events: pa.Table, layout: Layout, *, types: Sequence[str] | None, numeric: str, unplaced: str
) -> tuple[ChosenEvents, dict[str, int]]:
    """The events that windows may hold, and how many were left out by reason; the options are `WindowSettings`'.

    Raises:
        ValueError: sensors without a position (with `unplaced="error"`), or a type that no sensor of the layout has.
    """
    sensor = encode(events["sensor"])
    count = np.bincount(sensor.code, minlength=len(sensor.names))
    value = is_number = None
    is_numeric = np.zeros(len(sensor.names), dtype=bool)
    if events["value"].null_count < len(events):
        value = np.asarray(events["value"].cast(pa.float64()).fill_null(np.nan))
        is_number = ~np.isnan(value)
        is_numeric = np.bincount(sensor.code, weights=is_number, minlength=len(sensor.names)) > count / 2
    placed = np.array([name in layout["sensors"] for name in sensor.names], dtype=bool)
    if not placed.all() and unplaced == "error":
        raise ValueError(_unplaced(layout["home"], sensor.names, placed, count))
    reasons: list[tuple[str, np.ndarray]] = [
        ("of sensors without a position", ~placed),
        ("of other sensor types", ~_of_types(layout, sensor.names, types)),
        ("of numeric sensors", is_numeric & (numeric == "drop")),
    ]
    left_out, kept_sensor = {}, np.ones(len(sensor.names), dtype=bool)
    for reason, hit in reasons:
        left_out[reason] = int(count[hit & kept_sensor].sum())
        kept_sensor &= ~hit
    keep = None if kept_sensor.all() else kept_sensor[sensor.code]
    # A motion sensor that once reports a number is noise, a numeric one that once reports a word likewise.
    misfit = np.zeros(0, dtype=bool) if is_number is None else is_numeric[sensor.code] != is_number
    if keep is not None and len(misfit):
        misfit &= keep
    left_out["with a reading that does not fit the sensor"] = int(misfit.sum())
    if misfit.any():
        keep = ~misfit if keep is None else keep & ~misfit
    row: np.ndarray | slice = slice(None) if keep is None else np.flatnonzero(keep)
    return ChosenEvents(
        np.asarray(events["timestamp"].cast(pa.int64()))[row],
        encode(events["home"]).take(row),
        encode(events["session"]).take(row),
        sensor.take(row),
        encode(events["state"]).take(row),
        None if value is None else value[row],
        row,
    ), left_out


def _unplaced(home: str, names: Sequence[str], placed: np.ndarray, count: np.ndarray) -> str:
    lacking = sorted(name for name, there in zip(names, placed, strict=True) if not there)
    return (
        f"{home}: {len(lacking)} of the log's sensors have no position in the layout "
        f"({', '.join(map(repr, lacking[:5]))}{', ...' if len(lacking) > 5 else ''}). Add them to the layout, or pass "
        f"--unplaced drop to leave out their {int(count[~placed].sum()):,} events."
    )


def _of_types(layout: Layout, names: Sequence[str], types: Sequence[str] | None) -> np.ndarray:
    """`(S,)` whether each sensor is of one of `types`."""
    if not types:
        return np.ones(len(names), dtype=bool)
    known = sorted({told["type"] for told in layout["sensors"].values()})
    if unknown := set(types) - set(known):
        raise ValueError(f"types {sorted(unknown)} are not in the layout; it has: {', '.join(known)}.")
    sensors = layout["sensors"]
    return np.array([name in sensors and sensors[name]["type"] in types for name in names], dtype=bool)


def sensor_keys(events: ChosenEvents, train: np.ndarray) -> tuple[Codes, dict[str, list[float]]]:
    """Keys "M001_ON", numeric readings as levels; and each numeric sensor's bounds, from the `train` `(N,)` events."""
    state, levels = events.state, {}
    if events.value is not None and (numeric := ~np.isnan(events.value)).any():
        low, high = np.zeros(len(events.sensor.names)), np.zeros(len(events.sensor.names))
        for i in np.unique(events.sensor.code[numeric]):
            readings = events.value[numeric & train & (events.sensor.code == i)]
            if not len(readings):
                raise ValueError(
                    f"numeric sensor {events.sensor.names[i]!r} has no reading in the train split, so its levels "
                    "cannot be fitted. Leave it out of the layout, or pass --numeric drop."
                )
            low[i], high[i] = fit_levels(readings)
            levels[events.sensor.names[i]] = [float(low[i]), float(high[i])]
        names = [*state.names, *(level for level in LEVELS if level not in state.names)]
        told = level_of(events.value, low[events.sensor.code], high[events.sensor.code])
        at = np.array([names.index(level) for level in sorted(LEVELS)])[np.searchsorted(sorted(LEVELS), told)]
        state = Codes(np.where(numeric, at, state.code), names)
    return _pairs(events.sensor, state), levels


def _pairs(sensor: Codes, state: Codes) -> Codes:
    """`sensor_state` of each event; only pairs that occur get a code, in the order of the sensors' codes."""
    used = _used(state)  # readings of numeric sensors are many names
    place = np.zeros(len(state.names), dtype=np.int32)
    place[used] = np.arange(len(used))
    pair = sensor.code * np.int32(len(used)) + place[state.code]
    there = _used(Codes(pair, [""] * (len(sensor.names) * len(used))))
    code = np.zeros(len(sensor.names) * len(used), dtype=np.int32)
    code[there] = np.arange(len(there))
    names = [f"{sensor.names[a]}_{state.names[used[b]]}" for a, b in zip(*divmod(there, len(used)), strict=True)]
    return Codes(code[pair], names)


def _used(column: Codes) -> np.ndarray:
    """The codes that occur, ascending."""
    there = np.zeros(len(column.names), dtype=bool)
    there[column.code] = True
    return np.flatnonzero(there)


def event_labels(events: pa.Table, resident: str | None = None) -> Codes:
    """Each event's label, code 0 and `names[0]` the empty text for none.

    Without `resident` the most recently opened activity (the column `activity`). With one, "R1", the most recently
    opened of `activities` that is this resident's, its prefix taken off (`R1_Sleep` -> `Sleep`), or nobody's in
    particular. An event stays one event: two residents' labels of a log are two labellings of the same windows.

    Raises:
        ValueError: no label of the log names this resident; the message names those who are there.
    """
    if resident is None:
        label = encode(events["activity"])
        return Codes(label.code + np.int32(1), ["", *label.names])
    open_ones = events["activities"].combine_chunks()
    label = encode(pa.chunked_array([open_ones.flatten()]))
    owner = [match.group(1).upper() if (match := RESIDENT.match(name)) else None for name in label.names]
    known = sorted({name for name in owner if name is not None})
    if resident.upper() not in known:
        told = f"residents in the labels: {', '.join(known)}" if known else "no label names a resident (R1_Sleep, ...)"
        raise ValueError(f"resident={resident!r}: {told}. Give one of them, or leave it out.")
    bare = [RESIDENT.sub("", name, count=1) for name in label.names]
    names = list(dict.fromkeys(bare))
    mine = np.array([who in (None, resident.upper()) for who in owner])[label.code]
    # the last of an event's open activities that counts: the greatest such position before the event's end
    position = np.maximum.accumulate(np.where(mine, np.arange(len(mine)), -1))
    last = np.append(-1, position)[np.cumsum(size := np.asarray(open_ones.value_lengths()).astype(np.int64))]
    code = np.array([names.index(name) + 1 for name in bare])[label.code]
    return Codes(np.where(last >= np.cumsum(size) - size, code[last], 0), ["", *names])


def segments(label: Codes, level: str, layout: Layout) -> np.ndarray:
    """`(N,)` code that changes where the label does, at level `fine` or `coarse` (through the layout's map)."""
    if level == "fine":
        return label.code
    used = _used(label)
    named = [label.names[i] for i in used if i]
    coarse = coarse_labels(layout, named)
    codes = {name: i + 1 for i, name in enumerate(dict.fromkeys(coarse.values()))}
    table = np.zeros(len(label.names), dtype=np.int32)
    table[[i for i in used if i]] = [codes[coarse[name]] for name in named]
    return table[label.code]
