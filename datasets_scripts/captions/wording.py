"""Words for rooms, places, times and durations, of which `templates.py` makes captions."""

import re
from collections.abc import Sequence
from functools import lru_cache

from casita.datasets_scripts.layouts.layout import Layout, Sensor

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()  # noqa: SIM905
NAMELESS_ROOMS = {"", "unk", "unknown", "other", "none"}  # rooms of which a layout says that it does not know
# Rooms whose names in the layouts are half a name.
FULL_ROOM = {"living": "living room", "dining": "dining room", "laundry": "laundry room"}
FULL_ROOM["living_dining"] = "living and dining room"
PREPOSITION = r"(?:at|beside|between|by|in|near|next to|on|under)"
NUMERIC_STATES = ("LOW", "NORMAL", "HIGH")
_SWITCHED = {"ON": "switched on", "OFF": "switched off"}
# What was done to a sensor's object, by type and state; a pair that is missing is worth no clause.
PARTICIPLES = {
    "door": {"ON": "opened", "OFF": "closed"},
    "pressure": {"ON": "pressed", "OFF": "released"},
    "water": {"ON": "turned on", "OFF": "turned off"},
    "item": {"ON": "moved"},
    "flush": {"ON": "used"},
    "light": _SWITCHED,
    "switch": _SWITCHED,
    "power": _SWITCHED,
}
PARTICIPLES_OF_ANY = {"OPEN": "opened", "CLOSE": "closed", "ABSENT": "taken", "PRESENT": "put back"}
PARTICIPLES_OF_ANY |= {"MOVED": "moved", "HIGH": "high", "LOW": "low"}
THING = {"item": "an item", "door": "a door", "light": "the light", "switch": "a switch", "water": "a tap"}
THING |= {
    "flush": "the flush",
    "pressure": "a pressure mat",
    "temperature": "the temperature",
    "power": "the power use",
}


def join(parts: Sequence[str]) -> str:
    """Join words as a list: `["a", "b", "c"]` -> `"a, b and c"`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def with_articles(words: str) -> str:
    """Put articles in: `"bed in guest room"` -> `"the bed in the guest room"`; a leading preposition stays."""
    words = re.sub(r"\s+", " ", words.replace("_", " ")).strip()
    words = re.sub(rf"\b({PREPOSITION}|toward|towards) (?!the |a |an |my |his |her )", r"\1 the ", words)
    return words if re.match(rf"(?:the|a|an|{PREPOSITION})\b", words) else f"the {words}"


@lru_cache(maxsize=65536)
def room_name(room: str) -> str:
    """Name a room: `"master_bedroom"` -> `"the master bedroom"`, `"bedroom_2"` -> `"bedroom 2"`."""
    words = FULL_ROOM.get(room.lower(), room).replace("_", " ").strip()
    return words if re.search(r"\d$", words) else with_articles(words)


@lru_cache(maxsize=65536)
def in_room(room: str) -> str:
    """Name a room with its preposition: `"in the kitchen"`, `"on the stairs"`, `"at the garage door"`."""
    name = room_name(room)
    last = name.rsplit(" ", 1)[-1]
    return f"{'on' if last == 'stairs' else 'at' if last in ('door', 'entrance') else 'in'} {name}"


def is_nameless(room: str) -> bool:
    """Return whether a layout says of a room that it does not know it."""
    return room.lower() in NAMELESS_ROOMS


def is_special(sensor: Sensor) -> bool:
    """Return whether a sensor says more than its room: it is no motion sensor, or its description adds a place."""
    if not sensor["type"].startswith("motion"):
        return True
    room = sensor["room"].replace("_", " ").lower()
    description = (sensor.get("description") or "").lower()
    return bool(description) and description not in room


def place_phrase(sensor: Sensor) -> str:
    """Name the place where a motion sensor looks: `"at the armchair"`, `"near the nightstand"`, or just its room."""
    if not is_special(sensor):
        return "in the home" if is_nameless(sensor["room"]) else in_room(sensor["room"])
    phrase = with_articles(sensor["description"])
    return phrase if re.match(rf"{PREPOSITION}\b", phrase) else f"at {phrase}"


def parts_of_rooms(layout: Layout) -> dict[str, str]:
    """Name the place in its room of each motion sensor: its description (`"at the armchair"`), else `"upper left"`.

    The part is where it hangs among the room's motion sensors, in thirds across and down; empty when it is alone.
    Words of the plan and not of the compass: layouts do not say where north is.
    """
    motion = {name: sensor for name, sensor in layout["sensors"].items() if sensor["type"].startswith("motion")}
    parts = {}
    for name, sensor in motion.items():
        in_same_room = [other for other in motion.values() if other["room"] == sensor["room"]]
        down = _third(sensor["y"], [other["y"] for other in in_same_room], ("upper", "lower"))
        across = _third(sensor["x"], [other["x"] for other in in_same_room], ("left", "right"))
        part = f"{down} {across}".strip() or ("middle" if len(in_same_room) > 1 else "")
        parts[name] = place_phrase(sensor) if is_special(sensor) else part
    return parts


def _third(at: float, among: Sequence[float], ends: tuple[str, str]) -> str:
    """Return the one of two `ends` that the value `at` is near, among all of `among`; empty in the middle third."""
    low = min(among)
    high = max(among)
    share = 0.5 if low == high else (at - low) / (high - low)
    return ends[0] if share < 1 / 3 else ends[1] if share > 2 / 3 else ""


def thing_name(sensor: Sensor, reading: bool = False) -> str:
    """Name what any other sensor is attached to: `"the fridge"`; without a description `"an item in the kitchen"`.

    `reading`: the state is a level (LOW, NORMAL, HIGH), so that hot water becomes `"the hot water reading"`.
    """
    kind = sensor["type"]
    room = sensor["room"]
    description = re.sub(rf"^{PREPOSITION} ", "", sensor.get("description") or "")
    where = "somewhere" if is_nameless(room) else in_room(room)
    if description == kind and not is_nameless(room):  # a door of which only "door" is said
        return f"{room_name(room)} {kind}"
    if not description or description == kind:
        return f"{THING.get(kind, 'a sensor')} {where}"
    return with_articles(description) + (" reading" if reading else "")


def participle(kind: str, state: str) -> str | None:
    """Return what a state says was done to a sensor's object: `("door", "ON")` -> `"opened"`; None for nothing."""
    return PARTICIPLES.get(kind, {}).get(state, PARTICIPLES_OF_ANY.get(state))


def join_participles(words: Sequence[str]) -> str:
    """Join participles: `["switched on", "switched off"]` -> `"switched on and off"`."""
    if len(words) == 2 and words[0].split()[0] == words[1].split()[0]:
        return f"{words[0]} and {words[1].split()[-1]}"
    return join(words)


def duration(seconds: float) -> str:
    """Say a length of time as people do: `"about ten minutes"`."""
    if seconds < 15:
        return "a few seconds"
    if seconds < 45:
        return "about half a minute"
    minutes = round(seconds / 60)
    if minutes <= 1:
        return "about a minute"
    if minutes > 12:  # nobody counts those one by one
        minutes = 5 * round(minutes / 5)
    if minutes < 60:
        return f"about {NUMBERS[minutes] if minutes <= 12 else minutes} minutes"
    halves = round(seconds / 1800)
    if halves <= 3:
        return "about an hour" if halves == 2 else "about an hour and a half"
    hours, half = divmod(halves, 2)
    return f"about {NUMBERS[hours] if hours <= 12 else hours}{' and a half' if half else ''} hours"


def part_of_day(weekday: int, hour: int) -> str:
    """Say the part of a day, `weekday` 0 = Monday: `"on Monday morning"`, `"in the early hours of Monday"`."""
    day = DAYS[weekday]
    time = time_of_day(hour)
    return f"{time} of {day}" if hour < 5 else f"on {day} {time.split()[-1]}"


def time_of_day(hour: int) -> str:
    """Say the time of day, `7` -> `"in the morning"`, without the weekday."""
    if hour < 5:
        return "in the early hours"
    part = "morning" if hour < 12 else "afternoon" if hour < 17 else "evening"
    return f"in the {part}" if hour < 22 else "at night"


def clock(hour: int, minute: int) -> str:
    """Say a clock time, `(7, 50)` -> `"shortly before eight"`."""

    def name(h: int) -> str:
        return {0: "midnight", 12: "noon"}.get(h % 24, NUMBERS[h % 12])

    if minute < 20:
        return f"a little after {name(hour)}"
    if minute < 40:
        return f"around half past {NUMBERS[hour % 12 or 12]}"
    return f"shortly before {name(hour + 1)}"


def times(count: int) -> str:
    """Say how often: `1` -> `"once"`, `2` -> `"twice"`, `5` -> `"5 times"`."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
