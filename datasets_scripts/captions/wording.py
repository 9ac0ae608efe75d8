"""Words for rooms, places, times and durations, in which `captions.py` tells a window."""

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
# What was done to a sensor's object, by type and state; a pair that is missing tells nothing worth a clause.
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
    """`["a", "b", "c"]` -> `"a, b and c"`."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def with_articles(words: str) -> str:
    """`"bed in master bedroom"` -> `"the bed in the master bedroom"`; a leading preposition stays in front."""
    words = re.sub(r"\s+", " ", words.replace("_", " ")).strip()
    words = re.sub(rf"\b({PREPOSITION}|toward|towards) (?!the |a |an |my |his |her )", r"\1 the ", words)
    return words if re.match(rf"(?:the|a|an|{PREPOSITION})\b", words) else f"the {words}"


@lru_cache(maxsize=65536)
def room_name(room: str) -> str:
    """`"master_bedroom"` -> `"the master bedroom"`, `"bedroom_2"` -> `"bedroom 2"`."""
    words = FULL_ROOM.get(room.lower(), room).replace("_", " ").strip()
    return words if re.search(r"\d$", words) else with_articles(words)


@lru_cache(maxsize=65536)
def in_room(room: str) -> str:
    """The room with its preposition: `"in the kitchen"`, `"on the stairs"`, `"at the garage door"`."""
    name = room_name(room)
    last = name.rsplit(" ", 1)[-1]
    return f"{'on' if last == 'stairs' else 'at' if last in ('door', 'entrance') else 'in'} {name}"


def is_nameless(room: str) -> bool:
    return room.lower() in NAMELESS_ROOMS


def is_special(sensor: Sensor) -> bool:
    """Whether a sensor tells more than the room it is in: it is no motion sensor, or its description adds a place."""
    if not sensor["type"].startswith("motion"):
        return True
    room, description = sensor["room"].replace("_", " ").lower(), (sensor.get("description") or "").lower()
    return bool(description) and description not in room


def place_phrase(sensor: Sensor) -> str:
    """Where a motion sensor looks: `"at the armchair"`, `"near the nightstand"`, or just its room."""
    if not is_special(sensor):
        return "in the home" if is_nameless(sensor["room"]) else in_room(sensor["room"])
    phrase = with_articles(sensor["description"])
    return phrase if re.match(rf"{PREPOSITION}\b", phrase) else f"at {phrase}"


def parts_of_rooms(layout: Layout) -> dict[str, str]:
    """Where in its room each motion sensor looks: its description (`"at the armchair"`), else a part, `"upper left"`.

    The part is where it hangs among the room's motion sensors, in thirds each way; empty when it is alone there. Words
    of the plan and not of the compass: layouts do not say where north is.
    """
    motion = {name: told for name, told in layout["sensors"].items() if told["type"].startswith("motion")}
    found = {}
    for name, told in motion.items():
        inside = [other for other in motion.values() if other["room"] == told["room"]]
        down = _third(told["y"], [other["y"] for other in inside], ("upper", "lower"))
        across = _third(told["x"], [other["x"] for other in inside], ("left", "right"))
        part = f"{down} {across}".strip() or ("middle" if len(inside) > 1 else "")
        found[name] = place_phrase(told) if is_special(told) else part
    return found


def _third(at: float, among: Sequence[float], ends: tuple[str, str]) -> str:
    """Which of two `ends` the value `at` is near, among all of `among`; empty in the middle third."""
    low, high = min(among), max(among)
    share = 0.5 if low == high else (at - low) / (high - low)
    return ends[0] if share < 1 / 3 else ends[1] if share > 2 / 3 else ""


def thing_name(sensor: Sensor, reading: bool = False) -> str:
    """What any other sensor is attached to: `"the fridge"`; without a description `"an item in the kitchen"`.

    `reading`: the state is a level (LOW, NORMAL, HIGH), so that hot water becomes `"the hot water reading"`.
    """
    kind, room, description = sensor["type"], sensor["room"], sensor.get("description") or ""
    description = re.sub(rf"^{PREPOSITION} ", "", description)
    where = "somewhere" if is_nameless(room) else in_room(room)
    if description == kind and not is_nameless(room):  # a door of which only "door" is said
        return f"{room_name(room)} {kind}"
    if not description or description == kind:
        return f"{THING.get(kind, 'a sensor')} {where}"
    return with_articles(description) + (" reading" if reading else "")


def participle(kind: str, state: str) -> str | None:
    """What a state says was done to a sensor's object: `("door", "ON")` -> `"opened"`; None when it says nothing."""
    return PARTICIPLES.get(kind, {}).get(state, PARTICIPLES_OF_ANY.get(state))


def join_participles(words: Sequence[str]) -> str:
    """`["switched on", "switched off"]` -> `"switched on and off"`."""
    if len(words) == 2 and words[0].split()[0] == words[1].split()[0]:
        return f"{words[0]} and {words[1].split()[-1]}"
    return join(words)


def duration(seconds: float) -> str:
    """A length of time as people say it: `"about ten minutes"`."""
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
    """`weekday` 0 = Monday: `"on Monday morning"`, `"in the early hours of Monday"`."""
    day = DAYS[weekday]
    if hour < 5:
        return f"in the early hours of {day}"
    part = "morning" if hour < 12 else "afternoon" if hour < 17 else "evening" if hour < 22 else "night"
    return f"on {day} {part}"


def time_of_day(hour: int) -> str:
    """`7` -> `"in the morning"`, without the weekday."""
    if hour < 5:
        return "in the early hours"
    part = "morning" if hour < 12 else "afternoon" if hour < 17 else "evening"
    return f"in the {part}" if hour < 22 else "at night"


def clock(hour: int, minute: int) -> str:
    """`(7, 50)` -> `"shortly before eight"`."""

    def name(h: int) -> str:
        return {0: "midnight", 12: "noon"}.get(h % 24, NUMBERS[h % 12])

    if minute < 20:
        return f"a little after {name(hour)}"
    if minute < 40:
        return f"around half past {NUMBERS[hour % 12 or 12]}"
    return f"shortly before {name(hour + 1)}"


def times(count: int) -> str:
    """`1` -> `"once"`, `2` -> `"twice"`, `5` -> `"5 times"`."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
