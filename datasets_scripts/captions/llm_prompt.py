"""Prompts that ask a language model about a window, and the reading of its answers.

The prompt is made from the window's facts, the same that the templates use: no gold label, no split, no window id. So
windows of equal facts share one prompt.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from casita.datasets_scripts.captions import wording as words
from casita.datasets_scripts.captions.facts import Facts
from casita.datasets_scripts.captions.templates import MOST_SENSORS, QUIET_S, action_clauses, route

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


def facts_as_json(facts: Facts) -> dict[str, Any]:
    """Return the content of `facts` as a person would note it; what there is nothing to say about is left out."""
    part = words.part_of_day(facts.start.weekday(), facts.start.hour)
    content = {
        "when": f"{words.clock(facts.start.hour, facts.start.minute)} {part}",
        "how_long": words.duration(facts.duration_s),
        "where": route(tuple(facts.rooms)) if facts.rooms[1:] else " ".join(map(words.in_room, facts.rooms)),
        "what_was_touched": action_clauses(facts.actions),
        "movement_sensed": facts.places,
        "busiest_sensors": [f"{noun} ({words.times(often)})" for noun, often in facts.reports[:MOST_SENSORS]],
        "longest_silence": words.duration(facts.quiet_s) if facts.quiet_s >= QUIET_S else "",
    }
    stated = {name: value for name, value in content.items() if value}
    return stated if facts.rooms else stated | {"where": "nobody seen"}


def messages(facts: Facts, captions: int | None) -> Messages:
    """Return the chat that asks for `captions` descriptions as JSON; None: for one, as a plain line."""
    request = ONE if captions is None else SEVERAL.format(captions=captions)
    content = f"{json.dumps(facts_as_json(facts), indent=1, ensure_ascii=False)}\n\n{request}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def read_answer(text: str | None, captions: int) -> list[str]:
    """Return the `captions` captions of an answer in JSON (a fence of backticks around it is forgiven).

    Raises:
        ValueError: it is no such JSON, has too few captions, equal ones, or one that is no caption.
    """
    unfenced = re.sub(r"^```(?:json)?\s*|\s*```$", "", (text or "").strip())
    try:
        content = json.loads(unfenced)
    except json.JSONDecodeError as error:
        raise ValueError(f"no JSON ({error}): {unfenced[:60]!r}") from None
    answered = content.get("captions") if isinstance(content, Mapping) else content
    if not isinstance(answered, list) or not all(isinstance(caption, str) for caption in answered):
        raise ValueError(f"no list of captions: {unfenced[:60]!r}")
    usable = [checked(caption) for caption in answered[:captions]]
    different = len(set(usable))
    if different < captions:
        raise ValueError(f"{different} different captions instead of {captions}")
    return usable


def read_line(text: str) -> str:
    """Return the caption in a plain answer: its first line with words, cut behind the last sentence that ends.

    Raises:
        ValueError: it is no caption.
    """
    lines = [line.strip(" \t-*\"'") for line in text.splitlines()]
    line = next((line for line in lines if re.search(r"\w", line)), "")
    ended = re.match(r".*[.!?](?=\s|$)", line)
    return checked(ended[0] if ended else line)


def checked(caption: str) -> str:
    """Return the caption with single blanks; raise `ValueError` unless it has a sentence's number of words."""
    text = " ".join(caption.split())
    count = text.count(" ") + 1 if text else 0
    if not FEWEST_WORDS <= count <= MOST_WORDS:
        raise ValueError(f"a caption of {count} words, {FEWEST_WORDS} to {MOST_WORDS} are expected: {text[:60]!r}")
    return text
