"""Tables of a report, made once and told twice (Markdown, HTML); every number knows its place in `results.json`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from casita.results import METHODS, OWN_METHODS
from casita.train.report.wording import (
    DIRECTIONS,
    METRICS,
    RETRIEVAL,
    RETRIEVERS,
    method_name,
    protocol_name,
    readable,
)

SHOWN_BY_CLASS = ("linear_probe", "zero_shot", "learned", "bag_of_sensors", "bag_of_rooms")
SHOWN_BY_PROTOCOL = (
    "linear_probe",
    "layer_probe",
    "zero_shot",
    "learned",
    "random_encoder",
    "bag_of_sensors",
    "bag_of_rooms",
    "majority",
)


@dataclass(frozen=True)
class At:
    """A value within `results.json` and the JSON pointer (RFC 6901) that leads to it."""

    value: Any
    pointer: str = ""

    def __getitem__(self, key: str) -> "At":
        return At(self.value[key], f"{self.pointer}/{key.replace('~', '~0').replace('/', '~1')}")

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def items(self) -> Iterator[tuple[str, "At"]]:
        return ((key, self[key]) for key in self.value)


@dataclass(frozen=True)
class Cell:
    """A table's cell. `at` points to the number it tells, `low` and `high` are its interval as text.

    `share` and `ends` are both once more as numbers, in 0..1 where a bar can be drawn.
    """

    text: str
    at: str = ""
    spread: str = ""
    low: str = ""
    high: str = ""
    share: float | None = None
    ends: tuple[float, float] | None = None

    def __str__(self) -> str:
        told = f"{self.text} ± {self.spread}" if self.spread else self.text
        return f"{told} [{self.low}, {self.high}]" if self.low else told


@dataclass(frozen=True)
class Row:
    """`key` is the row's name in the files, `name` its name for people, `css` what kind of row it is."""

    key: str
    name: str
    cells: Sequence[Cell]
    css: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """`head` has a word for the row names and one for each column."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Row] = field(default_factory=list)

    def markdown(self, *, keys: bool = False) -> str:
        """As Markdown; `keys`: the rows by their names in the files, as code."""
        lines = [list(self.head), ["---", *(["---:"] * (len(self.head) - 1))]]
        lines += [
            [f"`{row.key}`" if keys else _plain(row.name), *(_plain(str(c)) for c in row.cells)] for row in self.rows
        ]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Text that stays within its cell, and stays text."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


DASH = "\N{EN DASH}"
NOTHING = Cell(DASH)


def score(row: At, name: str, *, percent: bool = True) -> Cell:
    """The cell of a metric with its deviation and interval, as far as the row has them."""
    if name not in row or row[name].value is None:
        return NOTHING
    factor, digits = (100, 1) if percent else (1, 2)

    def told(value: float) -> str:
        return f"{factor * value:.{digits}f}"

    ends = row.value.get(f"{name}_ci")
    return Cell(
        told(row[name].value),
        row[name].pointer,
        told(row[f"{name}_sd"].value) if f"{name}_sd" in row else "",
        *((told(ends[0]), told(ends[1])) if ends else ("", "")),
        share=row[name].value,
        ends=(ends[0], ends[1]) if ends else None,
    )


def count(at: At) -> Cell:
    """The cell of a whole number."""
    return Cell(str(at.value), at.pointer)


def classification(rows: At, caption: str, first: str = "accuracy") -> Table:
    """Methods by metrics, of which `first` comes first."""
    metrics = sorted(METRICS, key=lambda name: name != first)
    body = [Row(name, method_name(name), [score(row, m) for m in metrics], _kind(name)) for name, row in rows.items()]
    return Table(caption, ["%", *(METRICS[name] for name in metrics)], body)


def _kind(method: str) -> str:
    return "own" if method in (*OWN_METHODS, "casita") else ""


def class_methods(per_class: Mapping[str, Any]) -> list[str]:
    """The few methods whose classes are compared side by side."""
    return [name for name in SHOWN_BY_CLASS if name in per_class] or list(per_class)[:4]


def classes(per_class: At) -> Table:
    """F1 of each activity, the most frequent first."""
    methods = class_methods(per_class.value)
    first = per_class[methods[0]]
    order = sorted(first.value, key=lambda label: -first.value[label]["support"])
    body = [
        Row(
            label,
            readable(label),
            [
                count(first[label]["support"]),
                *(score(per_class[m][label], "f1") if label in per_class[m] else NOTHING for m in methods),
            ],
        )
        for label in order
    ]
    return Table("F1 of each activity, %", ["activity", "test windows", *map(method_name, methods)], body)


def class_details(per_class: At) -> list[Table]:
    """Precision, recall and F1 of each activity, a table a method."""
    return [
        Table(
            f"{method_name(method)}: each activity, %",
            ["activity", "precision", "recall", "F1", "test windows"],
            [
                Row(
                    label,
                    readable(label),
                    [*(score(row, m) for m in ("precision", "recall", "f1")), count(row["support"])],
                )
                for label, row in rows.items()
            ],
        )
        for method, rows in per_class.items()
    ]


def retrieval(rows: At, style: str = "") -> list[Table]:
    """A table each way; only metrics that some row has. `style` of the captions, where it is not the run's own."""
    tables = []
    for direction, told in DIRECTIONS.items():
        shown = {m: name for m, name in RETRIEVAL.items() if any(m in row[direction] for _, row in rows.items())}
        body = [
            Row(name, RETRIEVERS.get(name, readable(name)), [score(row[direction], m) for m in shown], _kind(name))
            for name, row in rows.items()
        ]
        size = next(iter(rows.value.values()))[direction]
        said = f", {readable(style)} captions" if style else ""
        caption = f"{told}{said}, %: {size['queries']} queries, {size['candidates']} candidates"
        tables.append(Table(caption, ["%", *shown.values()], body))
    return tables


def paraphrases(rows: At) -> Table:
    """How well written sentences find windows of their activity."""
    methods = [name for name in rows.value if name != "per_label"]
    shown = {m: name for m, name in RETRIEVAL.items() if any(m in rows[name] for name in methods)}
    body = [
        Row(name, RETRIEVERS.get(name, readable(name)), [score(rows[name], m) for m in shown], _kind(name))
        for name in methods
    ]
    size = rows.value[methods[0]]
    told = f": {size['queries']} sentences, {size['candidates']} windows" if "queries" in size else ""
    return Table(f"Written sentence → window, %{told}", ["%", *shown.values()], body)


def by_label(per_label: At) -> Table:
    """How well each activity's sentences find its windows."""
    shown = {m: name for m, name in RETRIEVAL.items() if any(m in row for _, row in per_label.items())}
    body = [
        Row(label, readable(label), [score(row, m) for m in shown])
        for label, row in sorted(per_label.items(), key=lambda item: -item[1].value.get("map", 0))
    ]
    return Table("Written sentence → window by activity, %", ["activity", *shown.values()], body)


def clustering(rows: At) -> Table:
    """Agreement of clusters with activities."""
    names = {"casita": "this model", **{key: told for key, (told, _) in METHODS.items()}}
    body = [
        Row(
            name,
            names.get(name, readable(name)),
            [score(row, "ari", percent=False), score(row, "nmi", percent=False), count(row["clusters"])],
            _kind(name),
        )
        for name, row in rows.items()
    ]
    return Table(
        "Agreement of k-means clusters with the activities (0: none, 1: perfect)",
        ["", "ARI", "NMI", "clusters"],
        body,
    )


def few_shot(scores: At) -> Table:
    """Macro F1 by the share of the train labels that were given, all of them last."""
    shares = sorted(scores["few_shot"].value, key=float)
    columns = {f"{100 * float(share):g} %": scores["few_shot"][share] for share in shares}
    methods = list(dict.fromkeys(name for column in columns.values() for name in column.value))
    if "labelled" in scores["classification"]:
        columns["100 %"] = scores["classification"]["labelled"]
    body = [
        Row(
            name,
            method_name(name),
            [score(rows[name], "macro_f1") if name in rows else NOTHING for rows in columns.values()],
            _kind(name),
        )
        for name in methods
    ]
    return Table("Macro F1, %, by the share of the train labels", ["labels given", *columns], body)


def protocols(results: At) -> Table:
    """Every protocol beside the headline: macro F1 of the methods that matter, what it shares, whether it leaks."""
    scores = dict(results["protocols"].items())
    variants = {name: at["classification"] for name, at in scores.items() if "classification" in at}
    labelled = {name: rows["labelled"] for name, rows in variants.items() if "labelled" in rows}
    methods = [m for m in SHOWN_BY_PROTOCOL if any(m in rows for rows in labelled.values())]
    body = []
    for name, rows in labelled.items():
        about = scores[name]["about"] if "about" in scores[name] else At({})
        seen = [score(about, "seen_share")]
        shared = Cell(str(sum(about.value["leak_audit"].values()))) if "leak_audit" in about else NOTHING
        cells = [score(rows[m], "macro_f1") if m in rows else NOTHING for m in methods]
        leaky = "leaky" if about.value.get("leaky") else ""
        told = about.value.get("told", "") + " Coarse labels." * (about.value.get("level") == "coarse")
        body.append(Row(name, protocol_name(name), [*cells, *seen, shared], leaky, told))
    facts = ["seen in training, %", "shared events"]
    head = ["protocol", *map(method_name, methods), *facts]
    return Table("Macro F1 on labelled windows, %, by protocol", head, body)


def splits(data: At) -> Table:
    """Windows, labelled ones, sessions and days of each split."""
    names = ("windows", "labelled", "sessions", "days")
    body = [
        Row(name, name, [*(count(split[key]) for key in names), Cell(str(len(split["labels"].value)))])
        for name, split in data["splits"].items()
    ]
    return Table("The splits", ["split", *names, "activities"], body)


def labels(data: At) -> Table:
    """How often each activity occurs in each split."""
    found = {name: split["labels"] for name, split in data["splits"].items()}
    order = sorted(data["labels"].value, key=lambda label: -sum(at.value.get(label, 0) for at in found.values()))
    body = [
        Row(label, readable(label), [count(at[label]) if label in at else Cell("0") for at in found.values()])
        for label in order
    ]
    return Table("Labelled windows of each activity", ["activity", *found], body)


def leaks(data: At) -> Table:
    """Events that two splits share."""
    body = [Row(pair, pair, [count(at)]) for pair, at in data["leak_audit"].items()]
    return Table("Leak audit", ["splits", "events in both"], body)


def bins(at: At, method: str) -> Table:
    """The bins of a reliability curve."""
    body = [
        Row(
            str(i),
            f"{100 * each['low']:.0f}{DASH}{100 * each['high']:.0f} %",
            [
                *(
                    NOTHING if each[key] is None else Cell(f"{100 * each[key]:.1f}", f"{at.pointer}/bins/{i}/{key}")
                    for key in ("confidence", "accuracy")
                ),
                Cell(str(each["windows"]), f"{at.pointer}/bins/{i}/windows"),
            ],
        )
        for i, each in enumerate(at.value["bins"])
        if each["windows"]
    ]
    return Table(f"{method_name(method)}: bins", ["confidence", "mean confidence, %", "accuracy, %", "windows"], body)
