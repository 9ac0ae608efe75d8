"""Retrieval as examples: a written sentence, or a caption, and the test windows that it finds first."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score

from casita.datasets_scripts.layouts.label_prompts import coarse_labels
from casita.train.evaluation.report_inputs import Query, ReportInputs
from casita.train.report.floor_plan import FloorPlan, draw_window
from casita.train.report.wording import readable

SHOWN = 4  # windows of an example
CAPTIONS = 3  # examples of captions
OPEN = 8  # activities whose example is not folded away
FIRST = 10  # hits are counted among so many
# right -> css class and mark; the words for it under a sentence and under a caption
MARKS = {True: ("right", "✓"), False: ("wrong", "✗")}
SENTENCE = {True: "right", False: "wrong"}
CAPTION = {True: "this caption", False: "another caption"}


@dataclass(frozen=True)
class Ranking:
    """A ranking of the N test windows by falling score: `order` their rows, `right` `(N,)` bool by row."""

    order: np.ndarray
    right: np.ndarray

    @property
    def hits(self) -> int:
        """Return the number of right windows among the first ten."""
        return int(self.right[self.order[:FIRST]].sum())


def written_examples(inputs: ReportInputs, plan: FloorPlan | None) -> dict[str, Any]:
    """Return one example an activity, the sentence of median average precision, so neither its best nor its worst; and
    how many of the first ten windows are right for every sentence. Windows without a label are not ranked."""
    windows = inputs.windows.to_pylist()
    window_labels = _labels(inputs)
    labelled = np.array([label is not None for label in inputs.activities], dtype=bool)
    by_label: dict[str, list[tuple[Query, Ranking]]] = defaultdict(list)
    for query in inputs.queries:
        right = np.array([query.label in labels for labels in window_labels], dtype=bool)
        by_label[query.label].append((query, _rank(query.scores, right, labelled)))
    examples = []
    rows = []
    for label, ranked in sorted(by_label.items(), key=lambda item: -int(item[1][0][1].right.sum())):
        possible = int(ranked[0][1].right.sum())
        rows += [{"text": q.text, "label": readable(label), "hits": r.hits, "possible": possible} for q, r in ranked]
        if possible:
            ranked = sorted(ranked, key=lambda pair: _average_precision(*pair))
            query, ranking = ranked[(len(ranked) - 1) // 2]
            hits = _first_windows(windows, inputs.captions, query.scores, ranking, plan, SENTENCE)
            examples.append({"text": query.text, "label": readable(label), "hits": ranking.hits, "windows": hits})
    return {"examples": examples, "sentences": rows, "first": FIRST, "open": OPEN}


def _labels(inputs: ReportInputs) -> list[set[str]]:
    """Return the label of each window and its coarse one: a sentence may stand for either."""
    known: dict[str | None, set[str]] = {None: set()}
    for label in {label for label in inputs.activities if label is not None}:
        try:
            known[label] = {label, coarse_labels(inputs.layout, [label])[label]}
        except ValueError:  # the layout does not describe it, so it stands for itself
            known[label] = {label}
    return [known[label] for label in inputs.activities]


def _rank(scores: np.ndarray, right: np.ndarray, candidates: np.ndarray) -> Ranking:
    rows = np.flatnonzero(candidates)
    return Ranking(rows[np.argsort(-np.asarray(scores)[rows], kind="stable")], right)


def _average_precision(query: Query, ranking: Ranking) -> float:
    rows = ranking.order
    return float(average_precision_score(ranking.right[rows], np.asarray(query.scores)[rows]))


def caption_examples(inputs: ReportInputs, plan: FloorPlan | None) -> list[dict[str, Any]]:
    """Return captions of windows evenly spaced over the test split, and the windows that rank first for them; right is
    a window of that caption."""
    windows = inputs.windows.to_pylist()
    captions = np.array(inputs.captions, dtype=object)
    everything = np.ones(len(windows), dtype=bool)
    examples = []
    for row in np.linspace(0, len(windows) - 1, CAPTIONS + 2).round().astype(int)[1:-1]:
        scores = inputs.sensor @ inputs.text[row]
        ranking = _rank(scores, captions == captions[row], everything)
        hits = _first_windows(windows, inputs.captions, scores, ranking, plan, CAPTION)
        first = int(np.flatnonzero(ranking.right[ranking.order])[0]) + 1
        examples.append({"text": captions[row], "first": first, "windows": hits})
    return examples


def _first_windows(
    windows: Sequence[Mapping[str, Any]],
    captions: Sequence[str],
    scores: np.ndarray,
    ranking: Ranking,
    plan: FloorPlan | None,
    words: Mapping[bool, str],
) -> list[dict[str, Any]]:
    """Return the first windows that do not overlap in time, with rank and drawing, and whether each is right."""
    kept: list[int] = []
    shown = []
    for rank, row in enumerate(map(int, ranking.order), start=1):
        window = windows[row]
        if any(_overlap(window, windows[other]) for other in kept):
            continue
        kept.append(row)
        right = bool(ranking.right[row])
        css, mark = MARKS[right]
        label = readable(window["activity"]) if window["activity"] else "no label"
        title = f"Rank {rank}, {words[right]}: {label}, {when(window['start'])}"
        shown.append(
            {
                "rank": rank, "css": css, "mark": mark, "word": words[right], "label": label,
                "score": float(scores[row]), "when": when(window["start"]),
                "took": took(window["start"], window["end"]), "events": len(window["sensor_keys"]),
                "caption": captions[row], "drawing": None if plan is None else draw_window(plan, window, title),
            }
        )  # fmt: skip
        if len(shown) == SHOWN:
            break
    return shown


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    together = all(one[name] == other[name] for name in ("home", "session"))
    return together and one["start"] <= other["end"] and other["start"] <= one["end"]


def when(start: datetime) -> str:
    """Write a moment as `Tue 3 Mar 2009, 08:12:03`."""
    return f"{start:%a} {start.day} {start:%b %Y, %H:%M:%S}"


def took(start: datetime, end: datetime) -> str:
    """Write the time between in its two largest units: `2 min 37 s`."""
    hours, rest = divmod(round((end - start).total_seconds()), 3600)
    minutes, seconds = divmod(rest, 60)
    parts = [(hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next((i for i, (value, _) in enumerate(parts) if value), 2)
    return " ".join(f"{value} {unit}" for value, unit in parts[first : first + 2])
