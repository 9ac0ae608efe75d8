"""The page's charts: the map of windows, reliability, few labels, training curves, and the confusion table."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from casita.train.data.labelled_windows import UNLABELLED
from casita.train.metrics.classification import confusion
from casita.train.report.svg import Chart, Drawing, Point
from casita.train.report.wording import method_name, readable

MAP_SIDE = 520.0
COLOURS = 12  # hues of the style sheet, used with one shape after the other
SHAPES = ("disc", "square", "triangle", "diamond")
HOURS = 3  # one colour for so many hours of the day
# a mark of each shape around a point; a disc is a line of no length with round ends
MARKS = {
    "disc": "h0",
    "square": "m-3-3h6v6h-6z",
    "triangle": "m0-4l4 7h-8z",
    "diamond": "m0-4.5l4.5 4.5l-4.5 4.5l-4.5-4.5z",
}


# ------------------------------------------------------------------------------------------------------------- map
def window_map(points: np.ndarray, colourings: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """The `points` `(M, 2)` drawn once for each colouring, which the page switches, and the legends.

    Args:
        colourings: its name -> the group of each point; "activity", "room" and "hour".
    """
    drawing = Drawing(MAP_SIDE, MAP_SIDE, "Map of the test windows: near each other is alike to the model", "map")
    low, high = points.min(axis=0), points.max(axis=0)
    spread = max(float((high - low).max()), 1e-9)
    flat = 14 + (MAP_SIDE - 28) * ((points - (low + high) / 2) / spread + 0.5)
    legends = {}
    for name, groups in colourings.items():
        layer = drawing.add("g", css=f"by by-{name}")
        legends[name] = _looks(name, groups)
        for i, entry in enumerate(legends[name]):
            at = flat[np.array([group == entry["group"] for group in groups])]
            route = "".join(f"M{x:.1f} {y:.1f}{MARKS[entry['shape']]}" for x, y in at)
            marks = drawing.add("path", within=layer, css=f"{entry['shape']} {entry['css']}", d=route, data_i=i)
            drawing.add("title", f"{entry['name']} ({entry['windows']})", marks)
    return {"drawing": drawing, "legends": legends}


def _looks(colouring: str, groups: Sequence[str]) -> list[dict[str, Any]]:
    """Colour and shape of each group: hours in their order, others by size; the unlabelled first, below all, grey."""
    found = Counter(groups)
    if colouring == "hour":
        hours = [_hours(hour) for hour in range(0, 24, HOURS)]
        looks = [(hour, f"h{i}", "disc") for i, hour in enumerate(hours)]
    else:
        order = [group for group, _ in found.most_common() if group != UNLABELLED]
        looks = [(UNLABELLED, "none", "disc")]
        looks += [(g, f"c{i % COLOURS}", SHAPES[i // COLOURS % len(SHAPES)]) for i, g in enumerate(order)]
    return [
        {"group": group, "name": readable(group), "windows": found[group], "css": css, "shape": shape}
        for group, css, shape in looks
        if found[group]
    ]


def colourings(windows: Sequence[Mapping[str, Any]], rooms: Mapping[str, str]) -> dict[str, list[str]]:
    """Each window's activity, the room of most of its events, and the hours in which it began.

    Args:
        rooms: sensor -> room.
    """
    within = [Counter(rooms.get(key.rpartition("_")[0], UNLABELLED) for key in w["sensor_keys"]) for w in windows]
    return {
        "activity": [window["activity"] or UNLABELLED for window in windows],
        **({"room": [counts.most_common(1)[0][0] for counts in within]} if rooms else {}),
        "hour": [_hours(window["start"].hour) for window in windows],
    }


def _hours(hour: int) -> str:
    """The stretch of the day in which `hour` lies: `09 to 12 h`."""
    first = hour // HOURS * HOURS
    return f"{first:02d} to {first + HOURS:02d} h"


# ---------------------------------------------------------------------------------------------------------- curves
def reliability(method: str, curve: Mapping[str, Any]) -> Chart:
    """Accuracy against confidence; the larger a dot, the more windows it stands for."""
    name = method_name(method)
    chart = Chart(
        f"Reliability of {name}: ECE {100 * curve['ece']:.1f} %",
        (0, 1), (0, 1), ("confidence, %", "accuracy, %"), percent="xy", width=340, height=300,
    )  # fmt: skip
    chart.line([(0, 0), (1, 1)], "ideal", "as sure as right")
    used = [b for b in curve["bins"] if b["windows"]]
    chart.line([(b["confidence"], b["accuracy"]) for b in used], f"m-{method}")
    most = max((b["windows"] for b in used), default=1)
    for b in used:
        told = f"{b['windows']} windows: {100 * b['confidence']:.0f} % sure, {100 * b['accuracy']:.0f} % right"
        chart.dot((b["confidence"], b["accuracy"]), f"m-{method}", told, 2.5 + 6 * (b["windows"] / most) ** 0.5)
    return chart


def few_shot(scores: Mapping[str, Any]) -> Chart:
    """Macro F1 against the share of train labels, on a log axis; all labels at its right end."""
    rows = {float(share): methods for share, methods in scores["few_shot"].items()}
    rows[1.0] = scores["classification"]["labelled"]
    methods = list(dict.fromkeys(name for share in sorted(rows) if share < 1 for name in rows[share]))
    shown = [row for share in rows for name, row in rows[share].items() if name in methods]
    highest = max(row.get("macro_f1_ci", [0, row["macro_f1"]])[1] for row in shown)
    shares = sorted(rows)
    x = dict(zip(shares, np.log(shares), strict=True))
    chart = _LogChart(
        "Macro F1 by the share of the labels that were given",
        (x[shares[0]] - 0.15, 0.15), (0, highest),
        ("share of the train labels, % (log scale)", "macro F1, %"), percent="y",
        ticks=[x[share] for share in shares], width=420, height=300,
    )  # fmt: skip
    for i, name in enumerate(methods):
        aside = 0.03 * (i - (len(methods) - 1) / 2)  # else intervals of one share lie on each other
        told = [(share, x[share] + aside, rows[share][name]) for share in shares if name in rows[share]]
        chart.line([(at, row["macro_f1"]) for _, at, row in told], f"m-{name}", method_name(name))
        for share, at, row in told:
            if "macro_f1_ci" in row:
                low, high = row["macro_f1_ci"]
                chart.interval(at, low, high, f"m-{name}")
            title = f"{method_name(name)}, {100 * share:g} % of the labels: {100 * row['macro_f1']:.1f} %"
            chart.dot((at, row["macro_f1"]), f"m-{name}", title)
    return chart


class _LogChart(Chart):
    """A chart whose x axis holds natural logarithms of shares."""

    @staticmethod
    def tick(value: float, percent: bool) -> str:
        return Chart.tick(value, percent) if percent else f"{100 * np.exp(value):.3g}"


def training(lines: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """The loss over steps, and recall on validation where it was measured."""
    panels = [_curves(lines, {"loss": ("train", "validation")}, "Loss by optimizer step", "loss")]
    recalls = [name for name in ("recall_at_1_sensor_to_text", "recall_at_1_text_to_sensor") if _has(lines, name)]
    if recalls:
        panels.append(
            _curves(lines, dict.fromkeys(recalls, ("validation",)), "Recall at 1 on validation", "R@1, %", "y")
        )
    return [panel for panel in panels if panel is not None]


def _has(lines: Sequence[Mapping[str, Any]], name: str) -> bool:
    return any(name in line for line in lines)


def _curves(
    lines: Sequence[Mapping[str, Any]], names: Mapping[str, Sequence[str]], title: str, label: str, percent: str = ""
) -> Chart | None:
    """A line for each name and split; the best validation loss is marked."""
    curves: dict[tuple[str, str], list[Point]] = {
        (name, split): [(line["step"], line[name]) for line in lines if line["split"] == split and name in line]
        for name, splits in names.items()
        for split in splits
    }
    curves = {key: points for key, points in curves.items() if points}
    if not curves:
        return None
    steps, values = zip(*(point for points in curves.values() for point in points), strict=True)
    low = 0 if percent else min(values)
    chart = Chart(title, (0, max(steps)), (low, max(values)), ("step", label), percent=percent)
    for (name, split), points in curves.items():
        css = f"s-{split}" if name == "loss" else f"s-{name}"
        chart.line(points, css, f"{readable(name)}, {split}")
        for point in points if split == "validation" else []:
            chart.dot(point, css, f"{readable(name)} {point[1]:.3f}, step {point[0]}", 2.5)
        if (name, split) == ("loss", "validation"):
            best = min(points, key=lambda point: point[1])
            chart.dot(best, css, f"best validation loss {best[1]:.3f}, step {best[0]}", 5)
    return chart


# ------------------------------------------------------------------------------------------------------- confusion
def confusion_table(y_true: Sequence[str], y_pred: Sequence[str]) -> dict[str, Any]:
    """Rows of true activities, the most frequent first; each cell's share of its row, and its windows."""
    support = Counter(y_true)
    rows = [label for label, _ in support.most_common()]
    columns = rows + sorted(set(y_pred) - set(rows))
    counts = confusion(y_true, y_pred, columns)
    return {
        "columns": [readable(label) for label in columns],
        "rows": [
            {
                "name": readable(label),
                "support": support[label],
                "cells": [
                    {"windows": int(n), "share": n / support[label], "right": i == j} for j, n in enumerate(counts[i])
                ],
            }
            for i, label in enumerate(rows)
        ],
    }
