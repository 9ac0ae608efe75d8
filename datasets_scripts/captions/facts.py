"""What the sensors of each window saw, as facts that can be put into words; labels and splits are no part of it.

The facts of all windows are gathered with NumPy; templates (`captions.py`) and language models (`llm_prompt.py`) tell
them, and `caption_report.py` compares with them what was told.
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
    """What one window's sensors saw, ready to be put into words."""

    window_id: str
    start: Any  # datetime
    end: Any
    duration_s: float
    quiet_s: float  # the longest silence
    rooms: list[str]  # in the order of presence, neighbours differ
    deeds: list[tuple[str, str, int]] = field(default_factory=list)  # thing, participle, how often; by first time
    places: list[str] = field(default_factory=list)  # special places with motion, by first time
    reports: list[tuple[str, int]] = field(default_factory=list)  # thing or place and its events, most first
    spots: list[tuple[str, str, int]] = field(default_factory=list)  # room, part of it, its motion; most first


@dataclass
class KeyTable:
    """What each distinct key stands for; the arrays are parallel to the keys, -1 where there is nothing to tell."""

    room: np.ndarray
    presence: np.ndarray  # 2 somebody acts there now, 1 somebody was there a moment ago, 0 a reading
    deed: np.ndarray
    place: np.ndarray
    report: np.ndarray
    spot: np.ndarray
    rooms: list[str]
    deeds: list[tuple[str, str]]
    places: list[str]
    reports: list[str]
    spots: list[tuple[str, str]]


def _key_table(keys: Sequence[str], layout: Layout) -> KeyTable:
    codes = np.full((6, len(keys)), -1, dtype=np.int64)
    listed: tuple[dict, ...] = ({}, {}, {}, {}, {})  # rooms, deeds, places, reports, spots: entry -> code
    spots = words.parts_of_rooms(layout)
    for i, key in enumerate(keys):
        sensor, _, state = key.rpartition("_")
        if sensor not in layout["sensors"]:
            known = ", ".join(sorted(layout["sensors"])[:5])
            raise ValueError(
                f"sensor {sensor!r} (key {key!r}) is not in the layout of {layout['home']!r}, which has {known}, ...: "
                "add it to the layout, or make the windows again with this layout."
            )
        told = layout["sensors"][sensor]
        done = words.participle(told["type"], state)
        entries: list[Any] = [None if words.is_nameless(told["room"]) else told["room"], None, None, None, None]
        if told["type"].startswith("motion"):
            codes[0, i] = 2 if state == "ON" else 1
            entries[2] = words.place_phrase(told) if state == "ON" and words.is_special(told) else None
            entries[3] = f"motion {words.place_phrase(told)}"
            entries[4] = (told["room"], spots[sensor]) if state == "ON" else None
        else:
            reading = state in words.NUMERIC_STATES
            # OFF without a word of its own, an item at rest, still tells where somebody was; other states do not.
            codes[0, i] = 0 if reading else 2 if done else 1 if state in ("OFF", "STILL") else 0
            entries[3] = words.thing_name(told, reading)
            entries[1] = (entries[3], done) if done else None
        for row, (entry, codebook) in enumerate(zip(entries, listed, strict=True), start=1):
            if entry is not None:
                codes[row, i] = codebook.setdefault(entry, len(codebook))
    rooms, deeds, places, reports, named_spots = map(list, listed)
    room, presence, deed, place, report, spot = codes[1], codes[0], *codes[2:]
    return KeyTable(room, presence, deed, place, report, spot, rooms, deeds, places, reports, named_spots)


def _split(values: list, window: np.ndarray, count: int) -> list[list]:
    """Cut `values`, which belong to the windows of the ascending `window` indices, into one list a window."""
    bounds = np.searchsorted(window, np.arange(count + 1)).tolist()
    return [values[a:b] for a, b in pairwise(bounds)]


def _distinct(codes: np.ndarray, window: np.ndarray, entries: list, count: int) -> list[list]:
    """For each window its distinct entries, in order of first appearance, with how often each appears."""
    told = codes >= 0
    pairs, first, often = np.unique(
        window[told] * max(1, len(entries)) + codes[told], return_index=True, return_counts=True
    )
    order = np.argsort(first)
    window_of, code_of = np.divmod(pairs[order], max(1, len(entries)))
    named = [(entries[code], n) for code, n in zip(code_of.tolist(), often[order].tolist(), strict=True)]
    return _split(named, window_of, count)


def _rooms(table: KeyTable, codes: np.ndarray, window: np.ndarray, count: int) -> list[list[str]]:
    """The rooms of each window in order of presence, without repeating the room one is in."""
    presence = table.presence[codes]
    strongest = np.zeros(count, dtype=np.int64)
    np.maximum.at(strongest, window, presence)
    # Motion that ends says where somebody was; it is heard only where nothing better is known.
    heard = (presence == strongest[window]) & (presence > 0) & (table.room[codes] >= 0)
    room, where = table.room[codes[heard]], window[heard]
    new = np.ones(len(room), dtype=bool)
    new[1:] = (room[1:] != room[:-1]) | (where[1:] != where[:-1])
    return _split([table.rooms[code] for code in room[new].tolist()], where[new], count)


def _gather(windows: pa.Table, layout: Layout) -> list[Facts]:
    """The facts of each window of one chunk."""
    keys = windows["sensor_keys"].combine_chunks()
    encoded = keys.flatten().dictionary_encode()
    table = _key_table(encoded.dictionary.to_pylist(), layout)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    count = windows.num_rows
    window = np.repeat(np.arange(count), pc.list_value_length(keys).to_numpy(zero_copy_only=False))
    seconds = windows["seconds"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    silence = np.diff(seconds, prepend=seconds[:1])
    silence[1:][window[1:] != window[:-1]] = 0.0
    quiet_s = np.zeros(count)
    np.maximum.at(quiet_s, window, silence)
    start, end = (windows[name].to_pylist() for name in ("start", "end"))
    deeds = _distinct(table.deed[codes], window, table.deeds, count)
    places = _distinct(table.place[codes], window, table.places, count)
    reports = _distinct(table.report[codes], window, table.reports, count)
    spots = _distinct(table.spot[codes], window, table.spots, count)
    rooms = _rooms(table, codes, window, count)
    return [
        Facts(
            window_id=window_id,
            start=start[i],
            end=end[i],
            duration_s=(end[i] - start[i]).total_seconds(),
            quiet_s=float(quiet_s[i]),
            rooms=rooms[i],
            deeds=[(thing, done, often) for (thing, done), often in deeds[i]],
            places=[place for place, _ in places[i]],
            reports=sorted(reports[i], key=lambda report: -report[1]),
            spots=sorted(((room, part, often) for (room, part), often in spots[i]), key=lambda spot: -spot[2]),
        )
        for i, window_id in enumerate(windows["window_id"].to_pylist())
    ]


def facts_of(windows: pa.Table, layout: Layout) -> Iterator[list[Facts]]:
    """The facts of `windows` (schema.WINDOWS; of its columns only `COLUMNS` are looked at), `CHUNK` windows at a time.

    Raises:
        ValueError: a window has a sensor that the layout lacks.
    """
    for first in range(0, windows.num_rows, CHUNK):
        yield _gather(windows.slice(first, CHUNK).select(COLUMNS), layout)
