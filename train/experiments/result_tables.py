"""The tables of docs/RESULTS.md, from the numbers that `casita.train.experiments.results` has found.

A line `<!-- table SECTION.KIND -->` is followed by that table, up to `<!-- end -->`; everything else on the page is
left as it is. A table whose numbers are not there stays too; if it was never written it says so.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from casita.files import write_beside

MARK = re.compile(r"(<!-- table (?P<name>\S+) -->\n)(?P<lines>.*?)(<!-- end -->)", re.DOTALL)
Section = Mapping[str, Any]

NAMES = {
    "shuffled": "linear probe, events of each window in random order",
    "probe": "linear probe",
    "layers": "linear probe of the last layers",
    "layers_few": "linear probe of the last layers, 5 % of the labels",
    "few": "linear probe, 5 % of the labels",
    "hour": "probe, with the hour of the day",
    "before": "probe, with the two windows before",
    "before_minutes": "probe, with the two windows before and the minutes since the session began",
    "zero_shot": "zero-shot",
    "zero_shot_centred": "zero-shot, less each label's mean over train windows",
    "zero_shot_named": "zero-shot among labels with a name",
    "zero_shot_centred_named": "the same, less each label's mean",
    "zero_shot_placed": "zero-shot, prompts that tell places",
    "zero_shot_centred_placed": "the same, less each label's mean",
    "nearest_prompt_tfidf_placed": "nearest prompt by TF-IDF, prompts that tell places",
    "chance_named": "chance among labels with a name",
    "random_probe": "untrained encoder",
    "random_layers": "untrained encoder, last layers",
    "random_layers_few": "untrained encoder, last layers, 5 % of the labels",
    "random_few": "untrained encoder, 5 % of the labels",
    "random_before": "untrained encoder, with the two windows before",
    "random_before_minutes": "untrained encoder, with windows before and minutes",
    "bag_of_sensors": "bag of sensors",
    "bag_log": "bag of sensors, log counts",
    "bag_few": "bag of sensors, 5 % of the labels",
    "bag_before": "bag of sensors, log counts, with the two windows before",
    "bag_before_minutes": "bag of sensors, log counts, with windows before and minutes",
    "tfidf_places": "TF-IDF of captions, style places",
    "tfidf_narrative": "TF-IDF of captions, style narrative",
    "tfidf_structured": "TF-IDF of captions, style structured",
    "tfidf_brief": "TF-IDF of captions, style brief",
    "nearest_prompt_tfidf": "nearest prompt by TF-IDF of the caption",
    "nearest_prompt_tfidf_named": "nearest prompt by TF-IDF, labels with a name",
    "majority": "majority",
    "chance": "chance",
}
METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
LATER = ("sessions", "test windows", "probe", "bag of sensors")


def fill_page(page: Path, found: Mapping[str, Section]) -> None:
    """Write the tables between their marks, the page whole or not at all.

    Raises:
        ValueError: the page asks for a table that nobody makes.
    """
    text = page.read_text(encoding="utf-8")

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        section, _, kind = name.partition(".")
        if kind not in TABLES:
            raise ValueError(
                f"{page}: there is no table {name!r}; expected SECTION.KIND, KIND of {', '.join(TABLES)}."
            )
        if section not in found and match["lines"].strip():
            return match[0]
        lines = TABLES[kind](found[section]) if section in found else ["*Not measured.*"]
        return match[1] + "\n".join(["", *lines, ""]) + "\n" + match[4]

    filled = MARK.sub(table, text)
    with write_beside(page) as temporary:
        temporary.write_text(filled, encoding="utf-8")


def percent(row: Mapping[str, Any], metric: str) -> str:
    """`"44.9 ± 0.3 (41.0 to 48.2)"`: mean, deviation over seeds, 95 % interval over sessions, if any."""
    told = f"{100 * row[metric]:.1f}"
    if f"{metric}_sd" in row:
        told += f" ± {100 * row[f'{metric}_sd']:.1f}"
    if f"{metric}_ci" in row:
        told += " ({:.1f} to {:.1f})".format(*(100 * bound for bound in row[f"{metric}_ci"]))
    return told


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table whose first column is text and whose others are numbers."""
    return [
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _methods(methods: Sequence[str], metrics: Sequence[str] = METRICS) -> Any:
    """A table of these methods: of each row of the section, then of its baselines."""

    def table(section: Section) -> list[str]:
        rows = []
        for name, row in section["rows"].items():
            for m in (m for m in methods if m in row):
                rows.append([f"{name}: {NAMES[m]}", *(percent(row[m], x) for x in metrics)])
                if less := row.get("beyond", {}).get(m):
                    rows.append([f"{name}: that less {NAMES[less['rival']]}", *(percent(less, x) for x in metrics)])
        beside = section["baselines"]
        rows += [[NAMES[m], *(percent(beside[m], x) for x in metrics)] for m in methods if m in beside]
        return markdown(["%", *(metric.replace("_", " ").replace("f1", "F1") for metric in metrics)], rows)

    return table


def screening(section: Section) -> list[str]:
    """All rows by validation, which chooses, and by test, which tells; best first."""
    rows = sorted(section["rows"].items(), key=lambda item: -item[1]["probe"]["validation_macro_f1"])
    told = [
        [
            name,
            f"{100 * row['probe']['validation_macro_f1']:.1f}",
            percent(row["probe"], "macro_f1"),
            percent(row["probe"], "accuracy"),
            percent(row["zero_shot_named"], "macro_f1") if "zero_shot_named" in row else "",
            f"{100 * row['retrieval']['sensor_to_text']['recall_at_1']:.1f}",
            str(len(row["probe"]["seeds"])),
        ]
        for name, row in rows
    ]
    head = ["row", "probe, validation macro F1", "probe, test macro F1", "accuracy", "zero-shot macro F1, named"]
    return markdown([*head, "R@1 window to caption", "seeds"], told)


def retrieval(section: Section) -> list[str]:
    """Both ways."""
    rows = [
        [f"{name}: {way.replace('_', ' ').replace('sensor', 'window')}", *(percent(told, m) for m in told_of)]
        for name, row in section["rows"].items()
        for way, told in row["retrieval"].items()
        for told_of in [("recall_at_1", "recall_at_5", "recall_at_10", "mrr")]
    ]
    return markdown(["%", "R@1", "R@5", "R@10", "MRR"], rows)


def finetuned(section: Section) -> list[str]:
    """Every row's fine-tuned classifiers."""
    rows = []
    for name, row in section["rows"].items():
        if told := row.get("finetuned"):
            each = ", ".join(f"{100 * score:.1f}" for score in told["seeds_macro_f1"])
            rows.append([name, *(percent(told, metric) for metric in METRICS), each])
    return markdown(["%", "accuracy", "balanced accuracy", "macro F1", "macro F1 of each seed"], rows)


def pairs(section: Section) -> list[str]:
    """Of the rows that were analysed: telling apart two labels of one room."""
    rows = [
        [
            f"{name}: {' or '.join(pair['pair'])} ({pair['room']})",
            str(pair["windows"]),
            *(f"{100 * pair[m]:.1f}" for m in ("probe", "shuffled", "bag_of_sensors")),
        ]
        for name, pair in _each(section, "pairs")
    ]
    return markdown(
        ["balanced accuracy, %", "test windows", "probe", "probe, events shuffled", "bag of sensors"], rows
    )


def months(section: Section) -> list[str]:
    """Of the rows that were analysed: accuracy by month."""
    rows = [[f"{name}, {told['month']}", *_accuracies(told)] for name, told in _each(section, "months")]
    return markdown(["accuracy, %", *LATER], rows)


def silent(section: Section) -> list[str]:
    """Of the rows that were analysed: accuracy by how many usual sensors were silent, and which."""
    rows = []
    for name, told in _each(section, "silent"):
        least, most = told["silent"]
        many = "none" if not most else f"{least} or {most}" if most < 10 else f"{least} or more"
        which = ", ".join(f"{sensor} ({n})" for sensor, n in list(told["sensors"].items())[:6])
        rows.append([f"{name}: {many}{f': {which}' if which else ''}", *_accuracies(told)])
    return markdown(["accuracy, %, by silent sensors (sessions)", *LATER], rows)


def _accuracies(told: Mapping[str, Any]) -> list[str]:
    counts = [str(told["sessions"]), str(told["windows"])]
    return [*counts, *(f"{100 * told[method]:.1f}" for method in ("probe", "bag_of_sensors"))]


def _each(section: Section, kind: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, row in section["rows"].items():
        for told in row.get(kind, []):
            yield name, told


def transfer(section: Section) -> list[str]:
    """Methods in a home that nobody trained in."""
    rows = []
    for name, row in section["rows"].items():
        for variant, methods in row["classification"].items():
            for method, told in methods.items():
                if all(metric in told for metric in METRICS):
                    called = f"{name}, {variant.replace('_', ' ')}: {NAMES.get(method, method.replace('_', ' '))}"
                    rows.append([called, *(percent(told, metric) for metric in METRICS)])
    return markdown(["%", "accuracy", "balanced accuracy", "macro F1"], rows)


def cost(section: Section) -> list[str]:
    """How long trainings and scoring took."""
    rows = [
        [name, ", ".join(f"{each['seconds'] / 60:.0f}" for each in row["training"] if each.get("seconds"))]
        for name, row in section["rows"].items()
        if "training" in row
    ]
    return markdown(["row", "minutes of each seed's training"], rows)


TABLES = {
    "frozen": _methods(
        ("probe", "layers", "random_probe", "random_layers", "bag_of_sensors", "bag_log", "majority", "chance")
    ),
    "captions": _methods(("tfidf_places", "tfidf_structured", "tfidf_narrative", "tfidf_brief")),
    "context": _methods(
        (
            "hour",
            "before",
            "before_minutes",
            "random_before",
            "random_before_minutes",
            "bag_before",
            "bag_before_minutes",
        )
    ),
    "few": _methods(("few", "layers_few", "random_few", "random_layers_few", "bag_few")),
    "zero_shot": _methods(("zero_shot", "zero_shot_centred", "nearest_prompt_tfidf", "chance")),
    "zero_shot_named": _methods(
        ("zero_shot_named", "zero_shot_centred_named", "nearest_prompt_tfidf_named", "chance_named")
    ),
    "zero_shot_placed": _methods(
        ("zero_shot_placed", "zero_shot_centred_placed", "nearest_prompt_tfidf_placed", "chance_named")
    ),
    "shuffled": _methods(("probe", "shuffled")),
    "screening": screening,
    "retrieval": retrieval,
    "finetuned": finetuned,
    "pairs": pairs,
    "months": months,
    "silent": silent,
    "transfer": transfer,
    "cost": cost,
}
