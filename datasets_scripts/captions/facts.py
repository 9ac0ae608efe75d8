"""Facts: what the sensors of each window saw, ready to be put into words; labels and splits are no part of it.

The facts of all windows are gathered with NumPy; templates (`templates.py`) and language models (`llm_prompt.py`) put
them into words, and `quality_report.py` compares captions with them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.captions import wording as words
from casita.datasets_scripts.layouts.layout import Layout

CHUNK = 4096  # windows gathered at once
COLUMNS = ["window_id", "start", "end", "sensor_keys", "seconds"]  # all that a caption may know: no label, no split


@dataclass
class Facts:
    """One window as its sensors saw it, ready to be put into words."""

    window_id: str
    start: Any  # datetime
    end: Any
    duration_s: float
    quiet_s: float  # the longest time between two events
    rooms: list[str]  # in the order of presence, neighbours differ
    actions: list[tuple[str, str, int]] = field(default_factory=list)  # thing, participle, how often; by first time
    places: list[str] = field(default_factory=list)  # special places with motion, by first time
    reports: list[tuple[str, int]] = field(default_factory=list)  # thing or place and its events, most first
    sub_locations: list[tuple[str, str, int]] = field(default_factory=list)  # room, part of it, its motion; most first


KINDS = ("room", "action", "place", "report", "sub_location")  # of what a key may say; `Facts` explains them


@dataclass
class KeyTable:
    """The meaning of each of `K` distinct keys.

    `presence` `(K,)`: 2 somebody acts there now, 1 somebody was there a moment ago, 0 a reading. For each of `KINDS`
    `codes` `(K,)` are indices into its `entries`, -1 where a key has none.
    """

    presence: np.ndarray
    codes: dict[str, np.ndarray]
    entries: dict[str, list[Any]]


def _key_table(keys: Sequence[str], layout: Layout) -> KeyTable:
    presence = np.zeros(len(keys), np.int64)
    codes = {kind: np.full(len(keys), -1) for kind in KINDS}
    codebooks: dict[str, dict[Any, int]] = {kind: {} for kind in KINDS}
    sub_locations = words.parts_of_rooms(layout)
    for i, key in enumerate(keys):
        sensor, _, state = key.rpartition("_")
        if sensor not in layout["sensors"]:
            known = ", ".join(sorted(layout["sensors"])[:5])
            raise ValueError(
                f"sensor {sensor!r} (key {key!r}) is not in the layout of {layout['home']!r}, which has {known}, ...: "
                "add it to the layout, or make the windows again with this layout."
            )
        description = layout["sensors"][sensor]
        room = description["room"]
        entries: dict[str, Any] = {} if words.is_nameless(room) else {"room": room}
        if description["type"].startswith("motion"):
            presence[i] = 2 if state == "ON" else 1
            entries["report"] = f"motion {words.place_phrase(description)}"
            if state == "ON":
                entries["sub_location"] = (room, sub_locations[sensor])
                if words.is_special(description):
                    entries["place"] = words.place_phrase(description)
        else:
            done = words.participle(description["type"], state)
            reading = state in words.NUMERIC_STATES
            # OFF without a word of its own, an item at rest, still shows where somebody was; other states do not.
            presence[i] = 0 if reading else 2 if done else 1 if state in ("OFF", "STILL") else 0
            entries["report"] = words.thing_name(description, reading)
            if done:
                entries["action"] = (entries["report"], done)
        for kind, entry in entries.items():
            codes[kind][i] = codebooks[kind].setdefault(entry, len(codebooks[kind]))
    return KeyTable(presence, codes, {kind: list(codebook) for kind, codebook in codebooks.items()})


def _split(values: list, window: np.ndarray, count: int) -> list[list]:
    """Cut `values`, which belong to the windows of the ascending `window` indices, into one list a window."""
    bounds = np.searchsorted(window, np.arange(count + 1)).tolist()
    return [values[a:b] for a, b in pairwise(bounds)]


def _distinct(codes: np.ndarray, window: np.ndarray, entries: list, count: int) -> list[list]:
    """Return for each window its distinct entries, in order of first appearance, with how often each appears."""
    has_entry = codes >= 0
    base = max(1, len(entries))
    pair = window[has_entry] * base + codes[has_entry]  # one number for a window and an entry
    pairs, first, often = np.unique(pair, return_index=True, return_counts=True)
    order = np.argsort(first)
    window_of, code_of = np.divmod(pairs[order], base)
    named = [(entries[code], n) for code, n in zip(code_of.tolist(), often[order].tolist(), strict=True)]
    return _split(named, window_of, count)


def _rooms(table: KeyTable, codes: np.ndarray, window: np.ndarray, count: int) -> list[list[str]]:
    """Return the rooms of each window in order of presence, without repeating the room one is in."""
    presence = table.presence[codes]
    strongest = np.zeros(count, dtype=np.int64)
    np.maximum.at(strongest, window, presence)
    # Motion that ends says where somebody was; it counts only where nothing better is known.
    counted = (presence == strongest[window]) & (presence > 0) & (table.codes["room"][codes] >= 0)
    room = table.codes["room"][codes[counted]]
    room_window = window[counted]
    changed = np.ones(len(room), dtype=bool)
    changed[1:] = (room[1:] != room[:-1]) | (room_window[1:] != room_window[:-1])
    return _split([table.entries["room"][code] for code in room[changed].tolist()], room_window[changed], count)


def _gather(windows: pa.Table, layout: Layout) -> list[Facts]:
    """Gather the facts of each window of one chunk."""
    keys = windows["sensor_keys"].combine_chunks()
    encoded = keys.flatten().dictionary_encode()
    table = _key_table(encoded.dictionary.to_pylist(), layout)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    count = windows.num_rows
    window = np.repeat(np.arange(count), pc.list_value_length(keys).to_numpy(zero_copy_only=False))
    seconds = windows["seconds"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    gap_s = np.diff(seconds, prepend=seconds[:1])
    gap_s[1:][window[1:] != window[:-1]] = 0.0  # between two windows
    quiet_s = np.zeros(count)
    np.maximum.at(quiet_s, window, gap_s)
    start, end = (windows[name].to_pylist() for name in ("start", "end"))
    counted = {kind: _distinct(table.codes[kind][codes], window, table.entries[kind], count) for kind in KINDS[1:]}
    rooms = _rooms(table, codes, window, count)
    return [
        Facts(
            window_id=window_id,
            start=start[i],
            end=end[i],
            duration_s=(end[i] - start[i]).total_seconds(),
            quiet_s=float(quiet_s[i]),
            rooms=rooms[i],
            actions=[(thing, done, often) for (thing, done), often in counted["action"][i]],
            places=[place for place, _ in counted["place"][i]],
            reports=sorted(counted["report"][i], key=lambda entry: -entry[1]),
            sub_locations=sorted(
                ((room, part, often) for (room, part), often in counted["sub_location"][i]),
                key=lambda entry: -entry[2],
            ),
        )
        for i, window_id in enumerate(windows["window_id"].to_pylist())
    ]


def facts_of(windows: pa.Table, layout: Layout) -> Iterator[list[Facts]]:
    """Yield the facts of `windows` (schema.WINDOWS; only the columns `COLUMNS` are read), `CHUNK` windows at a time.

    Raises:
        ValueError: a window has a sensor that the layout lacks.
    """
    for first in range(0, windows.num_rows, CHUNK):
        yield _gather(windows.slice(first, CHUNK).select(COLUMNS), layout)
