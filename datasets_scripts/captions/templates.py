"""Templates that put a window's facts into words, and the seeded choice among their wordings.

`narrative` describes a window as a person would: who, through which rooms in order, what was opened or pressed on the
route, when and for how long. `structured` has the same facts in four fixed sentences. `brief` is one short sentence,
place and time of day. `mixed` writes the captions of a window in these three by turns. `places` says which parts of
rooms saw most movement, the route's ends and what was done: finer in place than the others, and no clock.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b

from casita.datasets_scripts.captions import wording as words
from casita.datasets_scripts.captions.facts import Facts

WORDING = 1  # raised when the templates change, so that homes are captioned anew
QUIET_S = 300.0  # a longer time without events inside a window is mentioned
MOST_SENSORS = 6  # the structured style names the busiest ones
ATTEMPTS = 32  # draws of a caption that the window does not have yet; then it gets no more


class SeededChoice:
    """Choices that depend on the window's name, the seed and the caption's number alone: on no other window."""

    def __init__(self, window_id: str, seed: int, number: int = 0, attempt: int = 0):
        name = f"{seed}/{window_id}" + (f"/{number}/{attempt}" if number or attempt else "")
        self.rest = int.from_bytes(blake2b(name.encode(), digest_size=12).digest())
        self.was_used = False  # whether the wording could have been another

    def pick(self, options: Sequence[str]) -> str:
        """Return one of `options`; each call draws anew."""
        self.was_used = True
        self.rest, number = divmod(self.rest, len(options))
        return options[number]


def _pieces(rooms: Sequence[str]) -> list[str]:
    """Describe the route through two or more `rooms` after the first, in phrases: there-and-back is one of them."""
    pieces = []
    i = 0
    while i < len(rooms) - 1:
        j = i + 1
        while j + 1 < len(rooms) and rooms[j + 1] == rooms[j - 1]:
            j += 1
        room = words.room_name(rooms[i])
        next_room = words.room_name(rooms[i + 1])
        if j - i >= 3:
            pieces.append(f"back and forth between {room} and {next_room}")
        elif j - i == 2:
            pieces.append(f"to {next_room} and back")
        else:
            j = i + 1
            pieces.append(f"to {next_room}")
        i = j
    return pieces


@lru_cache(maxsize=65536)
def route(rooms: tuple[str, ...]) -> str:
    """Describe `("hall", "den", "hall", "attic")` -> `"from the hall to the den and back, then to the attic"`."""
    pieces = _pieces(rooms)
    first = "" if pieces[0].startswith("back and forth") else f"from {words.room_name(rooms[0])} "
    if len(pieces) <= 2:
        return first + ", then ".join(pieces)
    return f"{first}{', '.join(pieces[:-1])}, and finally {pieces[-1]}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def action_clauses(actions: Sequence[tuple[str, str, int]]) -> list[str]:
    """Describe what was done: `"the fridge and the freezer were opened and closed"`; like actions share a clause."""
    of_thing: dict[str, dict[str, int]] = {}
    for thing, done, often in actions:
        of_thing.setdefault(thing, {})[done] = often
    sharing: dict[str, list[str]] = {}
    for thing, counts in of_thing.items():
        repeatedly = max(counts.values()) >= 3 and not {"high", "low"} & set(counts)
        done = ("repeatedly " if repeatedly else "") + words.join_participles(list(counts))
        sharing.setdefault(done, []).append(thing)
    return [f"{words.join(things)} {'were' if things[1:] else 'was'} {done}" for done, things in sharing.items()]


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


def narrative(facts: Facts, choice: SeededChoice) -> str:
    """Write who, where in order, when and how long; then what was done and where special places saw movement."""
    part = words.part_of_day(facts.start.weekday(), facts.start.hour)
    clock = f"{words.clock(facts.start.hour, facts.start.minute)} {part}"
    when = choice.pick((part, clock, clock))
    who = choice.pick(WHO)
    length = words.duration(facts.duration_s)
    within = "for" if len(facts.rooms) < 2 else choice.pick(WITHIN)
    if not facts.rooms:
        did = "nobody was noticed"
    elif len(facts.rooms) == 1:
        did = f"{choice.pick(STAYED).format(who=who)} {words.in_room(facts.rooms[0])}"
    else:
        did = f"{choice.pick(WENT).format(who=who)} {route(tuple(facts.rooms))}"
    text = choice.pick(FRAMES).format(when=when, did=did, within=within, length=length)
    clauses = action_clauses(facts.actions)
    if facts.places:
        clauses.append(choice.pick(MOVEMENT).format(where=words.join(facts.places)))
    if clauses:
        link = choice.pick((". ", ". Meanwhile, ", ", while ") if len(clauses) < 3 else (". ", ". Meanwhile, "))
        rest = "; ".join(clauses) if len(clauses) > 2 else ", and ".join(clauses)
        text += link + (_capital(rest) if link == ". " else rest)
    quiet = choice.pick(QUIET).format(quiet=words.duration(facts.quiet_s)) if facts.quiet_s >= QUIET_S else ""
    return f"{_capital(text)}. {quiet}".rstrip()


def structured(facts: Facts, choice: SeededChoice) -> str:
    """Write four sentences: when, how long, where, which sensors; nothing is left to choice."""
    start = facts.start
    end = facts.end
    day = "" if start.date() == end.date() else f" on {words.DAYS[end.weekday()]}"
    when = f"{words.part_of_day(start.weekday(), start.hour)}, from {start:%H:%M} to {end:%H:%M}{day}"
    if not facts.rooms:
        where = "No room saw anybody"
    elif len(facts.rooms) == 1:
        where = f"Everything happened {words.in_room(facts.rooms[0])}"
    else:
        where = f"The way led {route(tuple(facts.rooms))}"
    named = [f"{noun} ({words.times(often)})" for noun, often in facts.reports[:MOST_SENSORS]]
    others = len(facts.reports) - len(named)
    if others:
        named.append(f"{others} other{'s' if others > 1 else ''}")
    text = f"This happened {when}. It took {words.duration(facts.duration_s)}. {where}."
    return f"{text} The sensors reported {words.join(named)}."


BRIEF = (
    "{who} was {where} {when}",
    "{when}, {who} was {where}",
    "{where} {when}",
    "{when}, there was someone {where}",
)


def brief(facts: Facts, choice: SeededChoice) -> str:
    """Write one short sentence: the one or two rooms that were entered most often, and the time of day."""
    when = words.time_of_day(facts.start.hour)
    if not facts.rooms:
        return _capital(choice.pick((f"nobody was noticed {when}.", f"{when}, nobody was noticed.")))
    rooms = [room for room, _ in Counter(facts.rooms).most_common(2)]
    where = words.join([words.in_room(room) for room in rooms])
    return _capital(choice.pick(BRIEF).format(who=choice.pick(WHO), where=where, when=when)) + "."


def places(facts: Facts, choice: SeededChoice) -> str:
    """Write where most movement was, room by room, from where to where, what was done; nothing is left to choice."""
    by_room: dict[str, list[str]] = {}
    for room, part, often in facts.sub_locations[:MOST_SENSORS]:
        by_room.setdefault(room, []).append(f"{part} {words.times(often)}".strip())
    where = [f"{words.in_room(room)} ({', '.join(parts)})" for room, parts in by_room.items()]
    text = f"Movement {words.join(where)}" if where else "No movement"
    if len(facts.rooms) > 1:
        text += f", from {words.room_name(facts.rooms[0])} to {words.room_name(facts.rooms[-1])}"
    text += f", within {words.duration(facts.duration_s)}."
    clauses = action_clauses(facts.actions)
    return f"{text} {_capital('; '.join(clauses))}." if clauses else text


Template = Callable[[Facts, SeededChoice], str]
STYLES: dict[str, tuple[Template, ...]] = {
    "narrative": (narrative,),
    "structured": (structured,),
    "brief": (brief,),
    "mixed": (narrative, structured, brief),
    "places": (places,),
}


def render_captions(facts: Facts, style: str, captions: int, seed: int) -> list[str]:
    """Write up to `captions` captions of one window, no two alike; fewer where the templates have no more wordings.

    They depend on the window's id, the style, the seed and each caption's number alone. `mixed` takes its templates by
    turns; the window's id says which one begins, so with one caption a window each writes a third of them.
    """
    templates = STYLES[style]
    rendered: list[str] = []
    turn = SeededChoice(facts.window_id, seed, -1).rest if templates[1:] else 0
    for number in range(captions):
        for attempt in range(ATTEMPTS):
            choice = SeededChoice(facts.window_id, seed, number, attempt)
            caption = templates[(turn + number + attempt) % len(templates)](facts, choice)
            if caption not in rendered:
                rendered.append(caption)
                break
            if not choice.was_used and not templates[1:]:
                return rendered
        else:
            return rendered
    return rendered
