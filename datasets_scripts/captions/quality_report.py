"""Measure the quality of captions: repeated ones, their length, and what they mention beside what the sensors saw."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from casita.datasets_scripts.captions import wording as words
from casita.datasets_scripts.captions.facts import COLUMNS, facts_of
from casita.datasets_scripts.captions.join import caption_rows, join_captions
from casita.datasets_scripts.layouts.layout import Layout
from casita.datasets_scripts.schema import CAPTIONS, WINDOWS, HomeFolder, read_table
from casita.files import write_json

SAMPLES = 10
BLOCK = 1000  # words of which the type-token ratio is taken
STOPWORDS = {"a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "other", "the", "to", "with"}


class Names:
    """Names to find in a text, whatever their case; where two overlap the longer one counts."""

    def __init__(self, names: Iterable[str]):
        self.name_of = {name.lower(): name for name in names}
        longest_first = sorted(self.name_of, key=len, reverse=True)
        self.pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b" if longest_first else r"(?!)")

    def in_text(self, text: str) -> set[str]:
        """Return the names that stand in `text`."""
        return {self.name_of[match] for match in self.pattern.findall(text.lower())}


def count_names(mentioned: set[str], true: set[str]) -> Counter[str]:
    """Count the names that a caption mentions, those that are true of its window, and those that are both."""
    return Counter(mentioned=len(mentioned), true=len(true), both=len(mentioned & true))


def recall_and_precision(counts: Counter[str]) -> dict[str, float | None]:
    """Return shares of the true and of the mentioned names, over all captions together; None where there are none."""
    both = counts["both"]
    return {"recall": _share(both, counts["true"]), "precision": _share(both, counts["mentioned"])}


def _share(part: int, total: int) -> float | None:
    return round(part / total, 4) if total else None


def label_words(label: str | None) -> set[str]:
    """Split a label into words: `"Bed_to_Toilet"` -> `{"bed", "toilet"}`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label or "")
    return {word for word in re.findall(r"[a-z]+", spaced.lower()) if word not in STOPWORDS}


def report_captions(
    windows: pa.Table, layout: Layout, captions: Sequence[Sequence[str]], wanted: int | None = None
) -> dict[str, Any]:
    """Measure the `captions` of each row of `windows` (schema.WINDOWS), of which `wanted` were asked for.

    Rooms and things are compared caption by caption: rooms visited are those in which somebody was present, things
    touched those whose state says that something was done to them. A caption mentions its label when it holds a word
    of it; that is no fault, since sensors and labels share words, and only for information.
    """
    texts = [text for of_window in captions for text in of_window]
    rooms = Names(words.room_name(s["room"]) for s in layout["sensors"].values() if not words.is_nameless(s["room"]))
    things = Names(
        words.thing_name(sensor) for sensor in layout["sensors"].values() if not sensor["type"].startswith("motion")
    )
    of_rooms: Counter[str] = Counter()
    of_things: Counter[str] = Counter()
    labelled = 0
    mention = 0
    labels = windows["activity"].to_pylist()
    all_facts = (facts for chunk in facts_of(windows, layout) for facts in chunk)
    for facts, of_window, label in zip(all_facts, captions, labels, strict=True):
        sought = label_words(label)
        visited = {words.room_name(room) for room in facts.rooms}
        touched = {thing.removesuffix(" reading") for thing, _, _ in facts.actions}
        for text in of_window:
            of_rooms += count_names(rooms.in_text(text), visited)
            of_things += count_names(things.in_text(text), touched)
            labelled += bool(label)
            mention += bool(sought & set(re.findall(r"[a-z]+", text.lower())))
    return {
        **count_captions(captions, wanted or 0),
        "duplicate_share_without_numbers": duplicate_share([re.sub(r"\d+", "#", text) for text in texts]),
        "words": count_words(texts),
        **_diversity(texts),
        "rooms": recall_and_precision(of_rooms),
        "things": recall_and_precision(of_things),
        "mention_a_word_of_their_label": _share(mention, labelled),
        "samples": [texts[i] for i in np.linspace(0, len(texts) - 1, min(SAMPLES, len(texts))).astype(int)],
    }


def duplicate_share(texts: Sequence[str]) -> float:
    """Return the share of texts that repeat another one."""
    return round(1 - len(set(texts)) / max(1, len(texts)), 4)


def count_captions(captions: Sequence[Sequence[str]], wanted: int) -> dict[str, Any]:
    """Count windows, their captions and the windows with fewer than `wanted`; and the share of repeated captions."""
    texts = [text for of_window in captions for text in of_window]
    return {
        "windows": len(captions),
        "captions": len(texts),
        "windows_with_fewer": sum(len(of_window) < wanted for of_window in captions),
        "duplicate_share": duplicate_share(texts),
    }


def count_words(texts: Sequence[str]) -> dict[str, float]:
    """Count the words of each text: their mean, and the 5th and 95th percentile."""
    counts = [len(text.split()) for text in texts] or [0]
    low, high = np.percentile(counts, [5, 95])
    return {"mean": round(float(np.mean(counts)), 1), "p5": float(low), "p95": float(high)}


def _diversity(texts: Sequence[str]) -> dict[str, Any]:
    """Count different words, and their mean share in `BLOCK` words on end: over all texts it would tend to 0."""
    all_words = [word for text in texts for word in re.findall(r"[\w']+", text.lower())]
    blocks = [all_words[first : first + BLOCK] for first in range(0, len(all_words), BLOCK)]
    full_blocks = [block for block in blocks if len(block) == BLOCK] or blocks
    ratios = [len(set(block)) / len(block) for block in full_blocks]
    return {
        "different_words": len(set(all_words)),
        "type_token_ratio": round(float(np.mean(ratios)), 4) if ratios else None,
    }


def report_home(folder: HomeFolder, style: str, wanted: int | None = None) -> dict[str, Any]:
    """Measure a home's captions of `style` and write `captions/<style>.report.json`; return its content."""
    windows = read_table(folder.require(folder.windows, "windows"), WINDOWS, [*COLUMNS, "activity"])
    path = folder.require(folder.captions(style), f"caption --caption-style {style}")
    table = read_table(path, CAPTIONS)
    window_ids = windows["window_id"].combine_chunks()
    joined = join_captions(window_ids, caption_rows(folder, style, table), only_these=True)
    texts = table["caption"].take(joined.rows[0]).to_pylist()
    captions = [texts[first : first + count] for first, count in zip(joined.first, joined.counts, strict=True)]
    report = {"home": folder.name, "style": style, **report_captions(windows, folder.layout, captions, wanted)}
    write_json(path.with_suffix(".report.json"), report)
    return report


def describe_report(report: dict[str, Any]) -> str:
    """Render the report as a table of two columns, and its samples."""
    rows: list[tuple[str, Any]] = []
    for name, value in report.items():
        if isinstance(value, dict):
            rows += [(f"{name} {part}", number) for part, number in value.items()]
        elif name != "samples":
            rows.append((name.replace("_", " "), value))
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {_cell(value)}" for name, value in rows]
    return "\n".join([*lines, *(f"  {i}. {text}" for i, text in enumerate(report["samples"], start=1))])


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
