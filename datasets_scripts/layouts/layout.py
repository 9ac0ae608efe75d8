"""Layouts: where a home's sensors are. Shipped ones by short name, anybody's own as a JSON file, both checked whole.

{"home": "my_flat", "size": [800, 600],                     width and height of the plan, origin top-left
 "floor_plan": "plan.png",                                  optional picture, relative to the JSON file
 "rooms": {"kitchen": [[0, 0], [300, 0], [300, 200]]},      optional polygons, in the unit of `size`
 "source": "read off the plan by hand",                     optional: where the facts come from
 "redistribution": "restricted", "terms": "ask the lab",    optional: may the recording be passed on, under which terms
 "residents": "two adults", "citation": "...",              optional: who lives there, what to cite
 "sensors": {"M001": {"x": 120, "y": 80, "room": "kitchen", "type": "motion",
                      "description": "stove", "approximate": true}},       the last two optional
 "activities": {"Cook_Lunch": {"coarse": "Cook", "prompts": ["Somebody makes lunch."], "short": "making lunch",
                               "long": "Somebody cooks at noon, and sets the table."}}}   optional, but for `coarse`
"""

import json
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from casita.files import is_home_name, read_json

SHIPPED: tuple[str, ...] = (
    "aruba",
    "cairo",
    "kasteren_a",
    "kasteren_b",
    "kyoto",
    "milan",
    "ordonez_a",
    "synthetic",
    "tulum",
)

# type -> the states that a sensor of this type takes, where no log holds others
NATURAL_STATES: dict[str, tuple[str, ...]] = {
    "motion": ("OFF", "ON"),
    "motion_area": ("OFF", "ON"),
    "door": ("CLOSE", "OPEN"),
    "item": ("ABSENT", "PRESENT"),
    "pressure": ("OFF", "ON"),
    "flush": ("OFF", "ON"),
    "light": ("OFF", "ON"),
    "switch": ("OFF", "ON"),
    "temperature": ("HIGH", "LOW", "NORMAL"),
    "power": ("HIGH", "LOW", "NORMAL"),
    "water": ("HIGH", "LOW", "NORMAL"),
}


class Sensor(TypedDict):
    """A sensor's place, in the unit of the layout's `size`, and its type; `approximate`: read off a plan by eye."""

    x: float
    y: float
    room: str
    type: str
    description: NotRequired[str]
    approximate: NotRequired[bool]


class ActivityTexts(TypedDict, total=False):
    """Texts that describe an activity: several sentences, two to four words, and a sentence or two."""

    prompts: list[str]
    short: str
    long: str


class Activity(ActivityTexts):
    """A label's coarse activity, and texts that describe it."""

    coarse: str


class Layout(TypedDict):
    """A home's plan as `check_layout` accepts it; the head of this file explains each key."""

    home: str
    size: list[float]
    sensors: dict[str, Sensor]
    floor_plan: NotRequired[str]
    rooms: NotRequired[dict[str, list[list[float]]]]
    activities: NotRequired[dict[str, Activity]]
    source: NotRequired[str]
    redistribution: NotRequired[str]
    terms: NotRequired[str]
    residents: NotRequired[str]
    citation: NotRequired[str]


REDISTRIBUTION = ("open", "restricted")  # of the recording; without it nobody said that it may be passed on
LARGEST_LAYOUT = 10_000_000  # bytes; thousands of sensors take a few hundred thousand


def load_layout(name_or_path: str | Path) -> Layout:
    """Read a layout by shipped name or path of a JSON file, and check it.

    A relative `floor_plan` becomes an absolute path.

    Raises:
        FileNotFoundError: neither a shipped name nor a file, or the floor plan it names is missing.
        ValueError: no JSON, or JSON that breaks the contract; the message lists every violation.
    """
    is_shipped = str(name_or_path) in SHIPPED
    path = Path(__file__).with_name(f"{name_or_path}.json") if is_shipped else Path(name_or_path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such layout file. Give a file, or a shipped name: {', '.join(SHIPPED)}.")
    layout = read_json(path, LARGEST_LAYOUT)
    json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=partial(_refuse_duplicate_keys, path))
    if violations := list(check_layout(layout)):
        raise ValueError(f"{path}: {len(violations)} thing(s) to mend in this layout: {'; '.join(violations)}.")
    if "floor_plan" in layout:
        plan = (path.parent / layout["floor_plan"]).resolve()
        if not plan.is_relative_to(path.parent.resolve()):
            raise ValueError(f"{plan}: the floor_plan of {path} leads out of its folder. Put it beside the layout.")
        if not plan.is_file():
            raise FileNotFoundError(f"{plan}: no such picture, the floor_plan of {path}. Mend or remove the entry.")
        layout["floor_plan"] = str(plan)
    return layout


def empty_layout(home: str) -> Layout:
    """Return a layout that places no sensor and describes no activity."""
    return {"home": home, "size": [1, 1], "sensors": {}}


@cache
def coarse_activities() -> dict[str, ActivityTexts]:
    """Read the coarse labels of all shipped layouts, each with `prompts` (five or more), `short` and `long`."""
    return read_json(Path(__file__).with_name("coarse_activities.json"))


def _refuse_duplicate_keys(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raise `ValueError` for a key that stands twice in one object, of which JSON would keep the last in silence."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        duplicates = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"{path}: written twice in one object: {', '.join(duplicates)}. Keep one of each.")
    return content


def check_layout(layout: Any) -> Iterator[str]:
    """Yield a sentence for each violation of the contract by `layout`; none for a sound one."""
    if not isinstance(layout, dict):
        yield f"expected an object with home, size and sensors, found {type(layout).__name__}"
        return
    yield from _check_keys("", layout, Layout, texts=("source", "terms", "residents", "citation"))
    if "home" in layout and not is_home_name(layout["home"]):
        yield f"home should be a name that can be a folder's, found {layout['home']!r}"
    if "floor_plan" in layout and not _is_below(layout["floor_plan"]):
        yield f"floor_plan should be a picture's path below the layout's folder, found {layout['floor_plan']!r}"
    redistribution = layout.get("redistribution", "restricted")
    if redistribution not in REDISTRIBUTION:
        yield f"redistribution should be {' or '.join(REDISTRIBUTION)}, found {redistribution!r}"
    if "redistribution" in layout and "terms" not in layout:
        yield (
            f"redistribution is {redistribution!r}, but terms is missing: say in words what may be done with the "
            "recording"
        )
    size: Any = layout.get("size")
    if "size" in layout and not (_is_pair(size) and min(size) > 0):
        yield f"size should be [width, height], both > 0, found {size!r}"
        size = None
    yield from _check_sensors(layout.get("sensors", {}), size)
    yield from _check_rooms(layout.get("rooms", {}), size)
    yield from _check_activities(layout.get("activities", {}))


def _check_keys(owner: str, content: dict[str, Any], contract: Any, texts: Iterable[str]) -> Iterator[str]:
    """Check `content` against the keys of a `TypedDict`, the `contract`; those of `texts` should hold words."""
    known = contract.__required_keys__ | contract.__optional_keys__
    for key in sorted(contract.__required_keys__ - content.keys()):
        yield f"{owner}{key!r} is missing"
    for key in sorted(content.keys() - known):
        yield f"{owner}{key!r} is not a known key; known: {', '.join(sorted(known))}"
    for key in texts:
        if key in content and not _is_text(content[key]):
            yield f"{owner}{key} should be words, found {content[key]!r}"


def _check_sensors(sensors: Any, size: Any) -> Iterator[str]:
    if not isinstance(sensors, dict):
        yield f"sensors should be an object {{id: {{x, y, room, type}}}}, found {type(sensors).__name__}"
        return
    folded: dict[str, str] = {}
    for name, sensor in sensors.items():
        if not name or name != name.strip():
            yield f"sensor {name!r}: an id may not be empty nor have blanks at its ends"
        # two ids that differ by case alone are one file name on some disks, and always a slip of the pen
        if (other := folded.setdefault(name.casefold(), name)) != name:
            yield f"sensor {name!r} differs from {other!r} by upper and lower case alone"
        if not isinstance(sensor, dict):
            yield f"sensor {name!r} should be an object {{x, y, room, type}}, found {sensor!r}"
            continue
        yield from _check_keys(f"sensor {name!r}: ", sensor, Sensor, texts=("room", "description"))
        if {"x", "y"} <= sensor.keys():
            yield from _check_point(f"sensor {name!r}", [sensor["x"], sensor["y"]], size)
        if "type" in sensor and sensor["type"] not in list(NATURAL_STATES):  # a list: it may be unhashable
            yield f"sensor {name!r}: unknown type {sensor['type']!r}; known: {', '.join(NATURAL_STATES)}"


def _check_rooms(rooms: Any, size: Any) -> Iterator[str]:
    if not isinstance(rooms, dict):
        yield f"rooms should be an object {{room: [[x, y], ...]}}, found {type(rooms).__name__}"
        return
    for room, polygon in rooms.items():
        if not isinstance(polygon, list) or len(polygon) < 3:
            yield f"room {room!r} should be a polygon of 3 points or more, found {polygon!r}"
            continue
        for point in polygon:
            yield from _check_point(f"room {room!r}", point, size)


def _check_point(owner: str, point: Any, size: Any) -> Iterator[str]:
    if not _is_pair(point):
        yield f"{owner}: a position should be two numbers, found {point!r}"
    elif size is not None and not (0 <= point[0] <= size[0] and 0 <= point[1] <= size[1]):
        yield f"{owner}: ({point[0]}, {point[1]}) lies outside the plan of {size[0]} x {size[1]}"


def _check_activities(activities: Any) -> Iterator[str]:
    if not isinstance(activities, dict):
        yield f"activities should be an object {{label: {{coarse, prompts}}}}, found {type(activities).__name__}"
        return
    spellings = {_letters(name): name for name in coarse_activities()}
    for label, activity in activities.items():
        if not isinstance(activity, dict) or not _is_text(activity.get("coarse")):
            yield f'activity {label!r} should be {{"coarse": word, "prompts": [sentence, ...]}}, found {activity!r}'
            continue
        yield from _check_keys(f"activity {label!r}: ", activity, Activity, texts=("short", "long"))
        coarse = activity["coarse"]
        if (known := spellings.get(_letters(coarse), coarse)) != coarse:
            yield f"activity {label!r}: coarse {coarse!r} is written {known!r} elsewhere"
        prompts = activity.get("prompts", ["-"])
        if not isinstance(prompts, list) or not prompts or not all(map(_is_text, prompts)):
            yield f"activity {label!r}: prompts should be a list of sentences, found {prompts!r}"


def _letters(label: str) -> str:
    """Return a label without what people spell differently: `Bed_to_Toilet` and `bed to toilet` are one."""
    return "".join(filter(str.isalnum, label)).casefold()


def _is_below(name: Any) -> bool:
    """Return whether a relative path leads down: a layout is often somebody else's."""
    if not isinstance(name, str) or not name:
        return False
    parts = name.replace("\\", "/").split("/")
    return parts[0] != "" and ".." not in parts and ":" not in parts[0]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_pair(value: Any) -> bool:
    numbers = isinstance(value, list | tuple) and len(value) == 2
    return numbers and all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e9 for v in value)


def unmatched_sensors(layout: Layout, sensors: Iterable[str]) -> tuple[list[str], list[str]]:
    """Return the log's `sensors` that the layout does not place, and the layout's that the log lacks; sorted."""
    logged = set(sensors)
    placed = set(layout["sensors"])
    return sorted(logged - placed), sorted(placed - logged)
