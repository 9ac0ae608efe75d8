"""The wordings in which a window's facts are told: templates, and the dice that choose among them.

`narrative` tells a window as a person would: who, through which rooms in order, what was opened or pressed on the way,
when and for how long. `structured` tells the same facts in four fixed sentences. `brief` is one short sentence, place
and time of day. `mixed` tells the captions of a window in these three by turns. `places` tells which parts of rooms
saw most movement, the way's ends and what was done: finer in place than the others, and no clock.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b

from casita.datasets_scripts.captions import wording as words
from casita.datasets_scripts.captions.facts import Facts

WORDING = 1  # raised when the templates change, so that homes are told anew
QUIET_S = 300.0  # a longer silence inside a window is told
MOST_SENSORS = 6  # the structured style names the busiest ones
ATTEMPTS = 32  # throws of the dice for a caption that the window does not have yet; then it gets no more


class Dice:
    """Choices that depend on the window's name, the seed and the caption's number alone: on no other window."""

    def __init__(self, window_id: str, seed: int, number: int = 0, attempt: int = 0):
        name = f"{seed}/{window_id}" + (f"/{number}/{attempt}" if number or attempt else "")
        self.rest = int.from_bytes(blake2b(name.encode(), digest_size=12).digest())
        self.thrown = False  # whether the wording could have been another

    def pick(self, options: Sequence[str]) -> str:
        self.thrown = True
        self.rest, which = divmod(self.rest, len(options))
        return options[which]


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


@lru_cache(maxsize=65536)
def way(rooms: tuple[str, ...]) -> str:
    """`("office", "hallway", "office", "den")` -> `"from the office to the hallway and back, then to the den"`."""
    pieces = _pieces(rooms)
    first = "" if pieces[0].startswith("back and forth") else f"from {words.room_name(rooms[0])} "
    if len(pieces) <= 2:
        return first + ", then ".join(pieces)
    return f"{first}{', '.join(pieces[:-1])}, and finally {pieces[-1]}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def deed_clauses(deeds: Sequence[tuple[str, str, int]]) -> list[str]:
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
        did = f"{dice.pick(WENT).format(who=who)} {way(tuple(facts.rooms))}"
    told = dice.pick(FRAMES).format(when=when, did=did, within=within, length=length)
    clauses = deed_clauses(facts.deeds)
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
        where = f"The way led {way(tuple(facts.rooms))}"
    named = [f"{noun} ({words.times(often)})" for noun, often in facts.reports[:MOST_SENSORS]]
    others = len(facts.reports) - len(named)
    if others:
        named.append(f"{others} other{'s' if others > 1 else ''}")
    told = f"This happened {when}. It took {words.duration(facts.duration_s)}. {where}."
    return f"{told} The sensors reported {words.join(named)}."


BRIEF = (
    "{who} was {where} {when}",
    "{when}, {who} was {where}",
    "{where} {when}",
    "{when}, there was someone {where}",
)


def brief(facts: Facts, dice: Dice) -> str:
    """One short sentence: the one or two rooms that were entered most often, and the time of day."""
    when = words.time_of_day(facts.start.hour)
    if not facts.rooms:
        return _capital(dice.pick((f"nobody was noticed {when}.", f"{when}, nobody was noticed.")))
    rooms = [room for room, _ in Counter(facts.rooms).most_common(2)]
    where = words.join([words.in_room(room) for room in rooms])
    return _capital(dice.pick(BRIEF).format(who=dice.pick(WHO), where=where, when=when)) + "."


def places(facts: Facts, dice: Dice) -> str:
    """Where most movement was, room by room, from where to where, what was done; no choice is left to the dice."""
    by_room: dict[str, list[str]] = {}
    for room, part, often in facts.spots[:MOST_SENSORS]:
        by_room.setdefault(room, []).append(f"{part} {words.times(often)}".strip())
    where = [f"{words.in_room(room)} ({', '.join(parts)})" for room, parts in by_room.items()]
    told = f"Movement {words.join(where)}" if where else "No movement"
    if len(facts.rooms) > 1:
        told += f", from {words.room_name(facts.rooms[0])} to {words.room_name(facts.rooms[-1])}"
    told += f", within {words.duration(facts.duration_s)}."
    clauses = deed_clauses(facts.deeds)
    return f"{told} {_capital('; '.join(clauses))}." if clauses else told


Template = Callable[[Facts, Dice], str]
STYLES: dict[str, tuple[Template, ...]] = {
    "narrative": (narrative,),
    "structured": (structured,),
    "brief": (brief,),
    "mixed": (narrative, structured, brief),
    "places": (places,),
}


def tell(facts: Facts, style: str, captions: int = 1, seed: int = 0) -> list[str]:
    """Up to `captions` captions of one window, no two alike; fewer where the templates have no more wordings.

    They depend on the window's id, the style, the seed and each caption's number alone. `mixed` takes its templates by
    turns; the window's id says which one begins, so with one caption a window each tells a third of the windows.
    """
    templates, told = STYLES[style], list[str]()
    turn = Dice(facts.window_id, seed, -1).rest if templates[1:] else 0
    for number in range(captions):
        for attempt in range(ATTEMPTS):
            dice = Dice(facts.window_id, seed, number, attempt)
            caption = templates[(turn + number + attempt) % len(templates)](facts, dice)
            if caption not in told:
                told.append(caption)
                break
            if not dice.thrown and not templates[1:]:
                return told
        else:
            return told
    return told
