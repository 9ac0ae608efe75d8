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

RESIDENT = re.compile(r"(R\d+)[\s_/-]+(?=\S)", re.IGNORECASE)  # whose activity a label is: R1_Sleep, "R2 wake"


@dataclass(frozen=True)
class Codes:
    """A column of `N` texts as `(N,)` integers and what they mean: `names[code[i]]`; -1 for null."""

    code: np.ndarray
    names: list[str]

    def take(self, chosen: np.ndarray | slice) -> "Codes":
        """Return the codes of the chosen rows; the names stay."""
        return Codes(self.code[chosen], self.names)

    def as_arrow(self) -> pa.DictionaryArray:
        """Return the column as an Arrow dictionary."""
        return pa.DictionaryArray.from_arrays(pa.array(self.code), pa.array(self.names, pa.string()))


def encode(column: pa.ChunkedArray) -> Codes:
    """Return `Codes` of a text column; one that Arrow keeps as a dictionary already costs nothing."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    texts = column.unify_dictionaries().combine_chunks()
    if isinstance(texts, pa.ChunkedArray):  # no events
        return Codes(np.zeros(0, dtype=np.int32), [])
    indices = texts.indices if not texts.null_count else pc.fill_null(texts.indices, -1)
    return Codes(np.asarray(indices), texts.dictionary.to_pylist())


@dataclass(frozen=True)
class ChosenEvents:
    """`N` events of placed sensors of the wanted kinds.

    `t_us` `(N,)` int64 microseconds; `value` `(N,)` float64 readings, NaN for none, or None where nobody has one;
    `row` their places in the events table: `(N,)` int64, or a slice when all were chosen.
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
    """Choose the events that windows may hold, and count those left out by reason; options as in `WindowSettings`.

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
        raise ValueError(_unplaced_message(layout["home"], sensor.names, placed, count))
    reasons: list[tuple[str, np.ndarray]] = [
        ("of sensors without a position", ~placed),
        ("of other sensor types", ~_of_types(layout, sensor.names, types)),
        ("of numeric sensors", is_numeric & (numeric == "drop")),
    ]
    left_out = {}
    kept_sensor = np.ones(len(sensor.names), dtype=bool)
    for reason, excluded in reasons:
        left_out[reason] = int(count[excluded & kept_sensor].sum())
        kept_sensor &= ~excluded
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


def _unplaced_message(home: str, names: Sequence[str], placed: np.ndarray, count: np.ndarray) -> str:
    lacking = sorted(name for name, is_placed in zip(names, placed, strict=True) if not is_placed)
    return (
        f"{home}: {len(lacking)} of the log's sensors have no position in the layout "
        f"({', '.join(map(repr, lacking[:5]))}{', ...' if len(lacking) > 5 else ''}). Add them to the layout, or pass "
        f"--unplaced drop to leave out their {int(count[~placed].sum()):,} events."
    )


def _of_types(layout: Layout, names: Sequence[str], types: Sequence[str] | None) -> np.ndarray:
    """Return `(S,)` whether each sensor is of one of `types`."""
    if not types:
        return np.ones(len(names), dtype=bool)
    sensors = layout["sensors"]
    known = sorted({sensor["type"] for sensor in sensors.values()})
    if unknown := set(types) - set(known):
        raise ValueError(f"types {sorted(unknown)} are not in the layout; it has: {', '.join(known)}.")
    return np.array([name in sensors and sensors[name]["type"] in types for name in names], dtype=bool)


def sensor_keys(events: ChosenEvents, train: np.ndarray) -> tuple[Codes, dict[str, list[float]]]:
    """Make keys "M001_ON", readings as levels; and each numeric sensor's bounds, by the `train` `(N,)` events."""
    state = events.state
    levels: dict[str, list[float]] = {}
    if events.value is not None and (numeric := ~np.isnan(events.value)).any():
        low = np.zeros(len(events.sensor.names))
        high = np.zeros(len(events.sensor.names))
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
        level = level_of(events.value, low[events.sensor.code], high[events.sensor.code])
        code_of_level = np.array([names.index(level) for level in sorted(LEVELS)])
        level_code = code_of_level[np.searchsorted(sorted(LEVELS), level)]
        state = Codes(np.where(numeric, level_code, state.code), names)
    return _pairs(events.sensor, state), levels


def _pairs(sensor: Codes, state: Codes) -> Codes:
    """Join `sensor_state` of each event; only pairs that occur get a code, in the order of the sensors' codes."""
    states = _occurring(state.code, len(state.names))  # readings of numeric sensors are many names
    num_pairs = len(sensor.names) * len(states)
    place = np.zeros(len(state.names), dtype=np.int32)
    place[states] = np.arange(len(states))
    pair = sensor.code * np.int32(len(states)) + place[state.code]
    pairs = _occurring(pair, num_pairs)
    code = np.zeros(num_pairs, dtype=np.int32)
    code[pairs] = np.arange(len(pairs))
    names = [f"{sensor.names[a]}_{state.names[states[b]]}" for a, b in zip(*divmod(pairs, len(states)), strict=True)]
    return Codes(code[pair], names)


def _occurring(code: np.ndarray, num_codes: int) -> np.ndarray:
    """Return the codes that occur, ascending."""
    occurs = np.zeros(num_codes, dtype=bool)
    occurs[code] = True
    return np.flatnonzero(occurs)


def event_labels(events: pa.Table, resident: str | None = None) -> Codes:
    """Return each event's label, code 0 and `names[0]` the empty text for none.

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
        residents = f"residents in the labels: {', '.join(known)}" if known else "no label names a resident (R1_Sleep)"
        raise ValueError(f"resident={resident!r}: {residents}. Give one of them, or leave it out.")
    without_prefix = [RESIDENT.sub("", name, count=1) for name in label.names]
    names = list(dict.fromkeys(without_prefix))
    code = np.array([names.index(name) + 1 for name in without_prefix])[label.code]
    counts = np.array([who in (None, resident.upper()) for who in owner])[label.code]
    # the last of an event's open activities that counts: the greatest such position before the event's end
    position = np.maximum.accumulate(np.where(counts, np.arange(len(counts)), -1))
    size = np.asarray(open_ones.value_lengths()).astype(np.int64)
    end = np.cumsum(size)
    last = np.append(-1, position)[end]
    return Codes(np.where(last >= end - size, code[last], 0), ["", *names])


def segments(label: Codes, level: str, layout: Layout) -> np.ndarray:
    """Return an `(N,)` code that changes where the label does, at level `fine` or `coarse` (by the layout's map)."""
    if level == "fine":
        return label.code
    labelled = [i for i in _occurring(label.code, len(label.names)) if i]  # code 0 is no label
    names = [label.names[i] for i in labelled]
    coarse = coarse_labels(layout, names)
    coarse_codes = {name: i + 1 for i, name in enumerate(dict.fromkeys(coarse.values()))}
    code_of_label = np.zeros(len(label.names), dtype=np.int32)
    code_of_label[labelled] = [coarse_codes[coarse[name]] for name in names]
    return code_of_label[label.code]
