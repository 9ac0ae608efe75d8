"""Tables of a report, made once for Markdown and HTML; every number knows its place in `results.json`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from casita.results import OWN_METHODS, MethodScores
from casita.train.report.wording import DIRECTIONS, METRICS, RETRIEVAL, readable, title_of

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
        """Yield the keys with what lies at them."""
        return ((key, self[key]) for key in self.value)


@dataclass(frozen=True)
class Cell:
    """A table's cell. `at` points to the number in `text`, `low` and `high` are its interval as text.

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
        text = f"{self.text} ± {self.spread}" if self.spread else self.text
        return f"{text} [{self.low}, {self.high}]" if self.low else text


@dataclass(frozen=True)
class Row:
    """A table's row: `key` is its name in the files, `name` its name for people, `css` what kind of row it is."""

    key: str
    name: str
    cells: Sequence[Cell]
    css: str = ""
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose `head` has a word for the row names and one for each column."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Row] = field(default_factory=list)

    def markdown(self, *, keys: bool = False) -> str:
        """Render as Markdown; `keys`: the rows by their names in the files, as code."""
        lines = [list(self.head), ["---", *(["---:"] * (len(self.head) - 1))]]
        lines += [
            [f"`{row.key}`" if keys else _plain(row.name), *(_plain(str(c)) for c in row.cells)] for row in self.rows
        ]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Escape text so that it stays within its cell, and stays text."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


DASH = "\N{EN DASH}"
NOTHING = Cell(DASH)


def score(row: At, name: str, *, percent: bool = True) -> Cell:
    """Return the cell of a metric with its deviation and interval, as far as the row has them."""
    if name not in row:
        return NOTHING

    def text(value: float) -> str:
        return f"{100 * value:.1f}" if percent else f"{value:.2f}"

    low, high = row.value.get(f"{name}_ci", (None, None))
    return Cell(
        text(row[name].value),
        row[name].pointer,
        spread=text(row[f"{name}_sd"].value) if f"{name}_sd" in row else "",
        low="" if low is None else text(low),
        high="" if high is None else text(high),
        share=row[name].value,
        ends=None if low is None else (low, high),
    )


def count(at: At) -> Cell:
    """Return the cell of a whole number."""
    return Cell(str(at.value), at.pointer)


def classification(rows: At, caption: str, first: str = "accuracy") -> Table:
    """Return methods by metrics, of which `first` comes first."""
    metrics = sorted(METRICS, key=lambda name: name != first)
    body = [_method_row(name, [score(row, metric) for metric in metrics]) for name, row in rows.items()]
    return Table(caption, ["%", *(METRICS[name] for name in metrics)], body)


def _method_row(method: str, cells: Sequence[Cell]) -> Row:
    """Return a method's row, marked where it is this model's."""
    return Row(method, title_of(method), cells, "own" if method in (*OWN_METHODS, "casita") else "")


def class_methods(per_class: Mapping[str, MethodScores]) -> list[str]:
    """Return the few methods whose classes are compared side by side."""
    return [name for name in SHOWN_BY_CLASS if name in per_class] or list(per_class)[:4]


def classes(per_class: At) -> Table:
    """Return F1 of each activity, the most frequent first."""
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
    return Table("F1 of each activity, %", ["activity", "test windows", *map(title_of, methods)], body)


def class_details(per_class: At) -> list[Table]:
    """Return precision, recall and F1 of each activity, a table a method."""
    return [
        Table(
            f"{title_of(method)}: each activity, %",
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


def _measured(rows: Sequence[At]) -> dict[str, str]:
    """Return the names of the metrics of rankings that some row has."""
    return {metric: name for metric, name in RETRIEVAL.items() if any(metric in row for row in rows)}


def retrieval(rows: At, style: str = "") -> list[Table]:
    """Return a table each way; `style` of the captions, where it is not the run's own."""
    tables = []
    of_style = f", {readable(style)} captions" if style else ""
    for direction, direction_name in DIRECTIONS.items():
        scores = {method: row[direction] for method, row in rows.items()}
        metrics = _measured(list(scores.values()))
        body = [_method_row(method, [score(row, m) for m in metrics]) for method, row in scores.items()]
        size = next(iter(scores.values())).value
        caption = f"{direction_name}{of_style}, %: {size['queries']} queries, {size['candidates']} candidates"
        tables.append(Table(caption, ["%", *metrics.values()], body))
    return tables


def paraphrases(rows: At) -> Table:
    """Return how well written sentences find windows of their activity."""
    scores = {method: row for method, row in rows.items() if method != "per_label"}
    metrics = _measured(list(scores.values()))
    body = [_method_row(method, [score(row, m) for m in metrics]) for method, row in scores.items()]
    size = next(iter(scores.values())).value
    caption = f"Written sentence → window, %: {size['queries']} sentences, {size['candidates']} windows"
    return Table(caption, ["%", *metrics.values()], body)


def by_label(per_label: At) -> Table:
    """Return how well each activity's sentences find its windows."""
    rows = dict(sorted(per_label.items(), key=lambda item: -item[1].value["map"]))
    metrics = _measured(list(rows.values()))
    body = [Row(label, readable(label), [score(row, m) for m in metrics]) for label, row in rows.items()]
    return Table("Written sentence → window by activity, %", ["activity", *metrics.values()], body)


def clustering(rows: At) -> Table:
    """Return the agreement of clusters with activities."""
    body = [
        _method_row(method, [*(score(row, name, percent=False) for name in ("ari", "nmi")), count(row["clusters"])])
        for method, row in rows.items()
    ]
    caption = "Agreement of k-means clusters with the activities (0: none, 1: perfect)"
    return Table(caption, ["", "ARI", "NMI", "clusters"], body)


def few_shot(scores: At) -> Table:
    """Return macro F1 by the share of the train labels that were given, all of them last."""
    shares = sorted(scores["few_shot"].value, key=float)
    columns = {f"{100 * float(share):g} %": scores["few_shot"][share] for share in shares}
    methods = list(dict.fromkeys(name for column in columns.values() for name in column.value))
    columns["100 %"] = scores["classification"]["labelled"]
    body = [
        _method_row(name, [score(rows[name], "macro_f1") if name in rows else NOTHING for rows in columns.values()])
        for name in methods
    ]
    return Table("Macro F1, %, by the share of the train labels", ["labels given", *columns], body)


def protocols(results: At) -> Table:
    """Return macro F1 of the methods that matter under every protocol, the headline first; what a protocol shares, and
    whether it leaks."""
    labelled = {name: at["classification"]["labelled"] for name, at in results["protocols"].items()}
    methods = [method for method in SHOWN_BY_PROTOCOL if any(method in rows for rows in labelled.values())]
    body = []
    for name, rows in labelled.items():
        about = results["protocols"][name]["about"]
        cells = [score(rows[method], "macro_f1") if method in rows else NOTHING for method in methods]
        shared_events = Cell(str(sum(about.value["leak_audit"].values())))
        css = "leaky" if about.value["leaky"] else ""
        note = about.value["description"] + " Coarse labels." * (about.value["level"] == "coarse")
        body.append(Row(name, title_of(name), [*cells, score(about, "seen_share"), shared_events], css, note))
    head = ["protocol", *map(title_of, methods), "seen in training, %", "shared events"]
    return Table("Macro F1 on labelled windows, %, by protocol", head, body)


def splits(data: At) -> Table:
    """Return windows, labelled ones, sessions and days of each split."""
    names = ("windows", "labelled", "sessions", "days")
    body = [
        Row(name, name, [*(count(split[key]) for key in names), Cell(str(len(split["labels"].value)))])
        for name, split in data["splits"].items()
    ]
    return Table("The splits", ["split", *names, "activities"], body)


def labels(data: At) -> Table:
    """Return how often each activity occurs in each split."""
    by_split = {name: split["labels"] for name, split in data["splits"].items()}
    order = sorted(data["labels"].value, key=lambda label: -sum(at.value.get(label, 0) for at in by_split.values()))
    body = [
        Row(label, readable(label), [count(at[label]) if label in at else Cell("0") for at in by_split.values()])
        for label in order
    ]
    return Table("Labelled windows of each activity", ["activity", *by_split], body)


def leaks(data: At) -> Table:
    """Return the events that two splits share."""
    body = [Row(pair, pair, [count(at)]) for pair, at in data["leak_audit"].items()]
    return Table("Leak audit", ["splits", "events in both"], body)


def bins(curve: At, method: str) -> Table:
    """Return the bins of a reliability curve."""
    body = []
    for i, values in enumerate(curve.value["bins"]):
        at = At(values, f"{curve.pointer}/bins/{i}")
        name = f"{100 * values['low']:.0f}{DASH}{100 * values['high']:.0f} %"
        body.append(Row(str(i), name, [score(at, "confidence"), score(at, "accuracy"), count(at["windows"])]))
    return Table(f"{title_of(method)}: bins", ["confidence", "mean confidence, %", "accuracy, %", "windows"], body)
