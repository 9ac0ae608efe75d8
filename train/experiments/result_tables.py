"""The tables of docs/RESULTS.md, from the numbers of `casita.train.experiments.results`.

A line `<!-- table SECTION.KIND -->` is followed by that table, up to `<!-- end -->`; everything else on the page is
left as it is. A table whose numbers are not there stays too; if it was never written it says so. Methods have the
names of `casita.results`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypeAlias, TypedDict

from casita.files import write_beside
from casita.results import MethodScores, Scores, method_title
from casita.train.experiments.analyses.errors import SubsetRow
from casita.train.experiments.result_scores import COMPARED, PageRow

MARK = re.compile(r"(<!-- table (?P<name>\S+) -->\n)(?P<lines>.*?)(<!-- end -->)", re.DOTALL)
# What a table adds to a method's name, by the variant or the share of labels that its numbers are of.
PARTS = {"labelled": "", "named": ", labels with a name", "0.05": ", 5 % of the labels"}
METRICS = ("accuracy", "balanced_accuracy", "macro_f1")
HEAD = ["%", "accuracy", "balanced accuracy", "macro F1"]
SUBSET_METHODS = ("linear_probe", "bag_of_sensors")
SUBSET_HEAD = ["sessions", "test windows", *map(method_title, SUBSET_METHODS)]


class Section(TypedDict):
    """The numbers of a section of the plan: its rows by name, and what stands beside all of them."""

    rows: Mapping[str, PageRow]
    baselines: NotRequired[PageRow]


Table: TypeAlias = Callable[[Section], list[str]]


def fill_page(page: Path, sections: Mapping[str, Section]) -> None:
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
        if section not in sections and match["lines"].strip():
            return match[0]
        lines = TABLES[kind](sections[section]) if section in sections else ["*Not measured.*"]
        return match[1] + "\n".join(["", *lines, ""]) + "\n" + match[4]

    filled = MARK.sub(table, text)
    with write_beside(page) as temporary:
        temporary.write_text(filled, encoding="utf-8")


def percent(row: Scores, metric: str) -> str:
    """Write `"44.9 ± 0.3 (41.0 to 48.2)"`: mean, deviation over seeds, 95 % interval over sessions, if any."""
    text = f"{100 * row[metric]:.1f}"
    if f"{metric}_sd" in row:
        text += f" ± {100 * row[f'{metric}_sd']:.1f}"
    if f"{metric}_ci" in row:
        text += " ({:.1f} to {:.1f})".format(*(100 * bound for bound in row[f"{metric}_ci"]))
    return text


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Render a table whose first column is text and whose others are numbers."""
    return [
        f"| {' | '.join(head)} |",
        f"|---|{'---:|' * (len(head) - 1)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _percents(scores: Scores) -> list[str]:
    return [percent(scores, metric) for metric in METRICS]


def _scores_of(row: PageRow, part: str) -> MethodScores:
    """Return a row's scores of a variant, or of a share of the labels."""
    return {**row.get("classification", {}), **row.get("few_shot", {})}.get(part, {})


def _methods(methods: Sequence[str], part: str = "labelled") -> Table:
    """Make a table of these methods: of each row of the section, then of its baselines."""

    def table(section: Section) -> list[str]:
        lines = []
        for name, row in section["rows"].items():
            scores = _scores_of(row, part)
            differences = row.get("differences", {}).get(part, {})
            for method in (method for method in methods if method in scores):
                lines.append([f"{name}: {method_title(method)}{PARTS[part]}", *_percents(scores[method])])
                if less := differences.get(method):
                    rival = f"{method_title(less['rival'])}{PARTS[part]}"
                    lines.append([f"{name}: that less {rival}", *_percents(less)])
        beside = _scores_of(section.get("baselines", {}), part)
        lines += [[f"{method_title(m)}{PARTS[part]}", *_percents(beside[m])] for m in methods if m in beside]
        return markdown(HEAD, lines)

    return table


def caption_words(section: Section) -> list[str]:
    """List by style how much the captions' words give away."""
    styles = section.get("baselines", {}).get("caption_styles", {})
    title = method_title("tfidf_captions")
    lines = [[f"{title}, style {style}", *_percents(scores["tfidf_captions"])] for style, scores in styles.items()]
    return markdown(HEAD, lines)


def screening(section: Section) -> list[str]:
    """List all rows by validation, which chooses, and by test; best first."""
    lines = []
    for name, row in section["rows"].items():
        probe = row["classification"]["labelled"]["linear_probe"]
        zero_shot = row["classification"].get("named", {}).get("zero_shot")
        cells = [
            name,
            f"{100 * probe['validation_macro_f1']:.1f}",
            percent(probe, "macro_f1"),
            percent(probe, "accuracy"),
            percent(zero_shot, "macro_f1") if zero_shot else "",
            f"{100 * row['retrieval']['casita']['sensor_to_text']['recall_at_1']:.1f}",
            str(len(probe["seeds"])),
        ]
        lines.append((probe["validation_macro_f1"], cells))
    probe_title = method_title("linear_probe")
    head = ["row", f"{probe_title}, validation macro F1", f"{probe_title}, test macro F1", "accuracy"]
    head += [f"{method_title('zero_shot')} macro F1{PARTS['named']}", "R@1 window to caption", "seeds"]
    return markdown(head, [cells for _, cells in sorted(lines, key=lambda line: -line[0])])


def retrieval(section: Section) -> list[str]:
    """List how well windows find captions, and captions windows."""
    metrics = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr")
    lines = []
    for name, row in section["rows"].items():
        for direction, scores in row["retrieval"]["casita"].items():
            title = direction.replace("_", " ").replace("sensor", "window")
            lines.append([f"{name}: {title}", *(percent(scores, metric) for metric in metrics)])
    return markdown(["%", "R@1", "R@5", "R@10", "MRR"], lines)


def finetuned(section: Section) -> list[str]:
    """List every row's fine-tuned classifiers."""
    lines = []
    for name, row in section["rows"].items():
        if scores := row.get("finetuned"):
            seeds = ", ".join(f"{100 * of_seed['macro_f1']:.1f}" for of_seed in scores["seeds"].values())
            lines.append([name, *_percents(scores), seeds])
    return markdown([*HEAD, "macro F1 of each seed"], lines)


def pairs(section: Section) -> list[str]:
    """List, of rows that were analysed, how well they choose between two labels of one room."""
    lines = [
        [
            f"{name}: {' or '.join(pair['pair'])} ({pair['room']})",
            str(pair["windows"]),
            *(f"{100 * pair['balanced_accuracy'][method]:.1f}" for method in COMPARED),
        ]
        for name, row in section["rows"].items()
        for pair in row.get("pairs", [])
    ]
    return markdown(["balanced accuracy, %", "test windows", *map(method_title, COMPARED)], lines)


def months(section: Section) -> list[str]:
    """List, of rows that were analysed, the accuracy by month."""
    lines = [
        [f"{name}, {month['month']}", *_accuracies(month)]
        for name, row in section["rows"].items()
        for month in row.get("months", [])
    ]
    return markdown(["accuracy, %", *SUBSET_HEAD], lines)


def dropped_sensors(section: Section) -> list[str]:
    """List, of rows that were analysed, the accuracy by how many usual sensors had dropped out, and which."""
    lines = []
    for name, row in section["rows"].items():
        for subset in row.get("dropped_sensors", []):
            least, most = subset["dropped"]
            many = "none" if not most else f"{least} or {most}" if most < 10 else f"{least} or more"
            which = ", ".join(f"{sensor} ({count})" for sensor, count in list(subset["sensors"].items())[:6])
            lines.append([f"{name}: {many}{f': {which}' if which else ''}", *_accuracies(subset)])
    return markdown(["accuracy, %, by dropped sensors (sessions)", *SUBSET_HEAD], lines)


def _accuracies(subset: SubsetRow) -> list[str]:
    counts = [str(subset["sessions"]), str(subset["windows"])]
    return [*counts, *(f"{100 * subset['accuracy'][method]:.1f}" for method in SUBSET_METHODS)]


def transfer(section: Section) -> list[str]:
    """List the methods in a home that nobody trained in."""
    lines = []
    for name, row in section["rows"].items():
        for variant, methods in row["classification"].items():
            for method, scores in methods.items():
                lines.append([f"{name}, {variant.replace('_', ' ')}: {method_title(method)}", *_percents(scores)])
    return markdown(HEAD, lines)


def cost(section: Section) -> list[str]:
    """List the minutes that trainings took."""
    lines = [
        [name, ", ".join(f"{seed['seconds'] / 60:.0f}" for seed in row["training"] if seed.get("seconds"))]
        for name, row in section["rows"].items()
        if "training" in row
    ]
    return markdown(["row", "minutes of each seed's training"], lines)


FROZEN = ("linear_probe", "layer_probe", "random_encoder", "random_layers", "bag_of_sensors", "bag_of_sensors_log")
CONTEXT_OF = ("linear_probe", "random_encoder", "bag_of_sensors")
CONTEXT = [f"{method}_{what}" for method in CONTEXT_OF for what in ("context", "context_minutes")]
PROMPTED = ("zero_shot", "zero_shot_centred", "nearest_prompt_tfidf", "chance")
PLACED = ("zero_shot_placed", "zero_shot_placed_centred", "nearest_prompt_tfidf_placed", "chance")
TABLES: dict[str, Table] = {
    "frozen": _methods((*FROZEN, "majority", "chance")),
    "captions": caption_words,
    "context": _methods(("linear_probe_hour", *CONTEXT)),
    "few": _methods(FROZEN, "0.05"),
    "zero_shot": _methods(PROMPTED),
    "zero_shot_named": _methods(PROMPTED, "named"),
    "zero_shot_placed": _methods(PLACED, "named"),
    "shuffled": _methods(("linear_probe", "linear_probe_shuffled")),
    "screening": screening,
    "retrieval": retrieval,
    "finetuned": finetuned,
    "pairs": pairs,
    "months": months,
    "silent": dropped_sensors,
    "transfer": transfer,
    "cost": cost,
}
