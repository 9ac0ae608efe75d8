"""What a language model is asked about a window, and how its answer is read.

The prompt is made from the window's facts, the same that the templates tell: no gold label, no split, no window id. So
windows of equal facts share one prompt.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from casita.datasets_scripts.captions import wording as words
from casita.datasets_scripts.captions.facts import Facts
from casita.datasets_scripts.captions.templates import MOST_SENSORS, QUIET_S, deed_clauses, way

Messages = list[dict[str, str]]  # as the chat protocol has them: role, content

SYSTEM = (
    "You put into words what the ambient sensors of a home noticed during a short while. The facts are given as JSON. "
    "Tell only what they say: who was where and in which order, what was touched, when and for how long. Do not guess "
    "what it was for, and invent nothing. Each description is plain English, one or two sentences of 15 to 50 words, "
    "without sensor names, lists or headings."
)
SEVERAL = (
    'Write {captions} descriptions of it that differ in wording. Answer with JSON alone: {{"captions": ["...", ...]}}'
    ", with exactly {captions} strings."
)
ONE = "Write one description of it. Answer with the description alone, on one line."
PROMPT = (SYSTEM, SEVERAL, ONE)  # the fixed text: another one makes other captions
FEWEST_WORDS, MOST_WORDS = 3, 120  # of a usable caption


def told_facts(facts: Facts) -> dict[str, Any]:
    """The content of `facts` as a person would note it; what there is nothing to say about is left out."""
    part = words.part_of_day(facts.start.weekday(), facts.start.hour)
    told = {
        "when": f"{words.clock(facts.start.hour, facts.start.minute)} {part}",
        "how_long": words.duration(facts.duration_s),
        "where": way(tuple(facts.rooms)) if facts.rooms[1:] else " ".join(map(words.in_room, facts.rooms)),
        "what_was_touched": deed_clauses(facts.deeds),
        "movement_sensed": facts.places,
        "busiest_sensors": [f"{noun} ({words.times(often)})" for noun, often in facts.reports[:MOST_SENSORS]],
        "longest_silence": words.duration(facts.quiet_s) if facts.quiet_s >= QUIET_S else "",
    }
    return {name: value for name, value in told.items() if value} | ({} if facts.rooms else {"where": "nobody seen"})


def messages(facts: Facts, captions: int | None) -> Messages:
    """The chat that asks for `captions` descriptions as JSON; None: for one, as a plain line."""
    asked = ONE if captions is None else SEVERAL.format(captions=captions)
    content = f"{json.dumps(told_facts(facts), indent=1, ensure_ascii=False)}\n\n{asked}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def read_answer(text: str | None, captions: int) -> list[str]:
    """The `captions` captions of an answer in JSON (a fence of backticks around it is forgiven).

    Raises:
        ValueError: it is no such JSON, has too few captions, equal ones, or one that is no caption.
    """
    bare = re.sub(r"^```(?:json)?\s*|\s*```$", "", (text or "").strip())
    try:
        content = json.loads(bare)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error}): {bare[:60]!r}") from None
    found = content.get("captions") if isinstance(content, Mapping) else content
    if not isinstance(found, list) or not all(isinstance(caption, str) for caption in found):
        raise ValueError(f"no list of captions: {bare[:60]!r}")
    told = [checked(caption) for caption in found[:captions]]
    if len(set(told)) < captions:
        raise ValueError(f"{len(set(told))} different captions instead of {captions}")
    return told


def read_line(text: str) -> str:
    """The caption in a plain answer: its first line with words, cut behind the last sentence that ends.

    Raises:
        ValueError: it is no caption.
    """
    lines = [line.strip(" \t-*\"'") for line in text.splitlines()]
    line = next((line for line in lines if re.search(r"\w", line)), "")
    ended = re.match(r".*[.!?](?=\s|$)", line)
    return checked(ended[0] if ended else line)


def checked(caption: str) -> str:
    """The caption with single blanks; `ValueError` unless it has a sentence's number of words."""
    told = " ".join(caption.split())
    count = told.count(" ") + 1 if told else 0
    if not FEWEST_WORDS <= count <= MOST_WORDS:
        raise ValueError(f"a caption of {count} words, {FEWEST_WORDS} to {MOST_WORDS} are expected: {told[:60]!r}")
    return told
