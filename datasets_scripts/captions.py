"""Windows told in words: what the sensors saw, never what the label says.

Two styles. `narrative` tells a window as a person would: who, through which rooms in order, what was opened or pressed
on the way, when and for how long, in many wordings. `structured` tells the same facts in four fixed sentences.
Facts of all windows are gathered with NumPy; only the last step, putting words together, goes window by window.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from casita.datasets_scripts import caption_words as words
from casita.datasets_scripts.schema import (
    CAPTIONS,
    WINDOWS,
    HomeFolder,
    add_folder_argument,
    read_table,
    write_table,
)

CHUNK = 4096  # windows between two steps of the progress bar
QUIET_S = 300.0  # a longer silence inside a window is told
MOST_SENSORS = 6  # the structured style names the busiest ones
WORDING = 1  # raised when the templates change, so that homes are told anew
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


def _pieces(rooms: Sequence[str]) -> list[str]:
    """The way through two or more `rooms` after the first, as phrases: there-and-back is told once."""
    pieces, i = [], 0
    while i < len(rooms) - 1:
        j = i + 1
        while j + 1 < len(rooms) and rooms[j + 1] == rooms[j - 1]:
            j += 1
        here, there = words.room_name(rooms[i]), words.room_name(rooms[i + 1])
        if j - i >= 3:
            pieces.append(f"back and forth between {here} and {there}")
        elif j - i == 2:
            pieces.append(f"to {there} and back")
        else:
            j = i + 1
            pieces.append(f"to {there}")
        i = j
    return pieces


@cache
def _way(rooms: tuple[str, ...]) -> str:
    """`("office", "hallway", "office", "den")` -> `"from the office to the hallway and back, then to the den"`."""
    pieces = _pieces(rooms)
    first = "" if pieces[0].startswith("back and forth") else f"from {words.room_name(rooms[0])} "
    if len(pieces) <= 2:
        return first + ", then ".join(pieces)
    return f"{first}{', '.join(pieces[:-1])}, and finally {pieces[-1]}"


@dataclass
class KeyTable:
    """What each distinct key stands for; the arrays are parallel to the keys, -1 where there is nothing to tell."""

    room: np.ndarray
    presence: np.ndarray  # 2 somebody acts there now, 1 somebody was there a moment ago, 0 a reading
    deed: np.ndarray
    place: np.ndarray
    report: np.ndarray
    rooms: list[str]
    deeds: list[tuple[str, str]]
    places: list[str]
    reports: list[str]


def _key_table(keys: Sequence[str], layout: dict) -> KeyTable:
    codes = np.full((5, len(keys)), -1, dtype=np.int64)
    listed: tuple[dict, ...] = ({}, {}, {}, {})  # rooms, deeds, places, reports: entry -> code
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
        entries: list[Any] = [None if words.is_nameless(told["room"]) else told["room"], None, None, None]
        if told["type"].startswith("motion"):
            codes[0, i] = 2 if state == "ON" else 1
            entries[2] = words.place_phrase(told) if state == "ON" and words.is_special(told) else None
            entries[3] = f"motion {words.place_phrase(told)}"
        else:
            reading = state in words.NUMERIC_STATES
            # OFF without a word of its own, an item at rest, still tells where somebody was; other states do not.
            codes[0, i] = 0 if reading else 2 if done else 1 if state in ("OFF", "STILL") else 0
            entries[3] = words.thing_name(told, reading)
            entries[1] = (entries[3], done) if done else None
        for row, (entry, codebook) in enumerate(zip(entries, listed, strict=True), start=1):
            if entry is not None:
                codes[row, i] = codebook.setdefault(entry, len(codebook))
    rooms, deeds, places, reports = map(list, listed)
    return KeyTable(codes[1], codes[0], codes[2], codes[3], codes[4], rooms, deeds, places, reports)


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


def _gather(windows: pa.Table, layout: dict) -> list[Facts]:
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
        )
        for i, window_id in enumerate(windows["window_id"].to_pylist())
    ]


class Dice:
    """Choices that depend on the window's name and the seed alone, hence on no other window and no order."""

    def __init__(self, window_id: str, seed: int):
        self.rest = int.from_bytes(blake2b(f"{seed}/{window_id}".encode(), digest_size=12).digest())

    def pick(self, options: Sequence[str]) -> str:
        self.rest, which = divmod(self.rest, len(options))
        return options[which]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _deed_clauses(deeds: Sequence[tuple[str, str, int]]) -> list[str]:
    """`"the fridge and the freezer were opened and closed"`: things with the same fate share a clause."""
    of_thing: dict[str, dict[str, int]] = {}
    for thing, done, often in deeds:
        of_thing.setdefault(thing, {})[done] = often
    sharing: dict[str, list[str]] = {}
    for thing, fate in of_thing.items():
        repeatedly = max(fate.values()) >= 3 and not {"high", "low"} & set(fate)
        told = ("repeatedly " if repeatedly else "") + words.join_participles(list(fate))
        sharing.setdefault(told, []).append(thing)
    return [f"{words.join(things)} {'were' if things[1:] else 'was'} {told}" for told, things in sharing.items()]


WHO = ("the resident", "someone", "the occupant", "a person", "the inhabitant")
STAYED = ("{who} stayed", "{who} was active", "{who} moved about", "{who} was present", "the sensors saw {who}")
WENT = ("{who} went", "{who} moved", "{who} walked", "{who} passed", "the sensors followed {who}")
WITHIN = ("over", "within", "in the course of")
FRAMES = (
    "{when}, {did} {within} {length}",
    "{did} {when}, {within} {length}",
    "{within} {length} {when}, {did}",
    "{when}, {within} {length}, {did}",
)
MOVEMENT = ("there was movement {where}", "movement was sensed {where}", "motion sensors fired {where}")
QUIET = ("Nothing was sensed for {quiet} in between.", "There was a silence of {quiet} in between.")


def narrative(facts: Facts, dice: Dice) -> str:
    """Who, where in order, when and how long; then what was done and where special places saw movement."""
    part = words.part_of_day(facts.start.weekday(), facts.start.hour)
    clock = f"{words.clock(facts.start.hour, facts.start.minute)} {part}"
    when, who, length = dice.pick((part, clock, clock)), dice.pick(WHO), words.duration(facts.duration_s)
    within = "for" if len(facts.rooms) < 2 else dice.pick(WITHIN)
    if not facts.rooms:
        did = "nobody was noticed"
    elif len(facts.rooms) == 1:
        did = f"{dice.pick(STAYED).format(who=who)} {words.in_room(facts.rooms[0])}"
    else:
        did = f"{dice.pick(WENT).format(who=who)} {_way(tuple(facts.rooms))}"
    told = dice.pick(FRAMES).format(when=when, did=did, within=within, length=length)
    clauses = _deed_clauses(facts.deeds)
    if facts.places:
        clauses.append(dice.pick(MOVEMENT).format(where=words.join(facts.places)))
    if clauses:
        link = dice.pick((". ", ". Meanwhile, ", ", while ") if len(clauses) < 3 else (". ", ". Meanwhile, "))
        rest = "; ".join(clauses) if len(clauses) > 2 else ", and ".join(clauses)
        told += link + (_capital(rest) if link == ". " else rest)
    quiet = dice.pick(QUIET).format(quiet=words.duration(facts.quiet_s)) if facts.quiet_s >= QUIET_S else ""
    return f"{_capital(told)}. {quiet}".rstrip()


def structured(facts: Facts, dice: Dice) -> str:
    """Four sentences: when, how long, where, which sensors; no choice is left to the dice."""
    start, end = facts.start, facts.end
    day = "" if start.date() == end.date() else f" on {words.DAYS[end.weekday()]}"
    when = f"{words.part_of_day(start.weekday(), start.hour)}, from {start:%H:%M} to {end:%H:%M}{day}"
    if not facts.rooms:
        where = "No room saw anybody"
    elif len(facts.rooms) == 1:
        where = f"Everything happened {words.in_room(facts.rooms[0])}"
    else:
        where = f"The way led {_way(tuple(facts.rooms))}"
    named = [f"{noun} ({words.times(often)})" for noun, often in facts.reports[:MOST_SENSORS]]
    others = len(facts.reports) - len(named)
    if others:
        named.append(f"{others} other{'s' if others > 1 else ''}")
    told = f"This happened {when}. It took {words.duration(facts.duration_s)}. {where}."
    return f"{told} The sensors reported {words.join(named)}."


STYLES: dict[str, Callable[[Facts, Dice], str]] = {"narrative": narrative, "structured": structured}


def caption_windows(
    windows: pa.Table, layout: dict, style: str = "narrative", *, seed: int = 0, progress: bool = False
) -> list[str]:
    """A caption for each row of `windows` (schema.WINDOWS; activity and split are not looked at).

    The wording of a window depends on its `window_id`, `style` and `seed` alone. `ValueError` for an unknown style and
    for a sensor that the layout lacks.
    """
    if style not in STYLES:
        raise ValueError(f"caption style {style!r}: there are {', '.join(STYLES)}.")
    tell, captions = STYLES[style], list[str]()
    with tqdm(total=windows.num_rows, desc="captions", unit="window", disable=not progress) as bar:
        for first in range(0, windows.num_rows, CHUNK):
            chunk = windows.slice(first, CHUNK).select(COLUMNS)
            captions += [tell(facts, Dice(facts.window_id, seed)) for facts in _gather(chunk, layout)]
            bar.update(chunk.num_rows)
    return captions


def caption_home(folder: HomeFolder, style: str = "narrative", seed: int = 0) -> dict[str, Any] | None:
    """Write `captions/<style>.parquet` of a home folder; give a summary, or None when the file is up to date."""
    stage, path = f"caption:{style}", folder.captions(style)
    settings = {"style": style, "seed": seed, "layout": folder.layout, "wording": WORDING}
    source = folder.require(folder.windows, "windows")
    if folder.is_current(stage, settings, [source]):
        return None
    windows = read_table(source, WINDOWS, COLUMNS)
    captions = caption_windows(windows, folder.layout, style, seed=seed, progress=True)
    table = pa.table({"window_id": windows["window_id"], "style": [style] * len(captions), "caption": captions})
    write_table(path, table, CAPTIONS, {"style": style, "seed": seed, "wording": WORDING})
    summary = {
        "captions": len(captions),
        "duplicate_share": round(1 - len(set(captions)) / max(1, len(captions)), 4),
        "mean_words": round(float(np.mean([caption.count(" ") + 1 for caption in captions])), 1) if captions else 0.0,
    }
    folder.record(stage, settings, [source], [path], summary)
    return summary


def add_style_argument(parser: argparse._ActionsContainer) -> None:
    """`--caption-style`, also an option of `casita build`."""
    parser.add_argument("--caption-style", default="narrative", choices=list(STYLES), help="default: narrative")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Tell each window of a home folder in words: DIR/captions/<style>.parquet."
    parser.epilog = "example: casita caption homes/milan --caption-style structured"
    add_folder_argument(parser)
    add_style_argument(parser)
    parser.add_argument("--seed", type=int, default=0, help="another seed words the narratives otherwise (default: 0)")


def run(args: argparse.Namespace) -> None:
    summary = caption_home(HomeFolder(args.dir), args.caption_style, args.seed)
    if summary is None:
        print(f"captions ({args.caption_style}): up to date")
        return
    print(
        f"captions ({args.caption_style}): {summary['captions']:,} windows, {summary['mean_words']} words on average, "
        f"{summary['duplicate_share']:.1%} duplicates"
    )
