"""The report's plots as matplotlib figures, each drawn once: for a PNG (`save`) and for the page (`figure_svg`).

Colours are those of the page by day; what is marked (`svg.mark`) says more on the page when it is pointed at.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: no screen, and no figures kept behind the scenes
from matplotlib.patches import Rectangle

from casita.results import MethodScores, ProtocolResults, ReliabilityCurve
from casita.train.metrics.classification import confusion
from casita.train.report.palette import DAY, METHOD_COLOURS
from casita.train.report.svg import PNG_ONLY, mark
from casita.train.report.wording import DIRECTIONS, RETRIEVAL, readable, title_of

BARS = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr")
COLOURS = {method: DAY[name] for method, name in METHOD_COLOURS.items()}
CELL = 0.36  # inches, of the confusion table
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "text.parse_math": False,  # a label may have a dollar sign
    "text.color": DAY["ink"],
    "axes.labelcolor": DAY["soft"],
    "axes.edgecolor": DAY["soft"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "grid.color": DAY["line"],
    "xtick.color": DAY["soft"],
    "ytick.color": DAY["soft"],
    "figure.facecolor": DAY["card"],
    "legend.frameon": False,
}


def save(figure: Figure, path: Path) -> None:
    """Write a plot as PNG, cut to its content."""
    figure.savefig(path, dpi=130, bbox_inches="tight")


def new_plot(width: float, height: float, title: str) -> tuple[Figure, Axes]:
    """Return a figure of one panel (inches); the page has a heading in the place of the title."""
    figure = Figure(figsize=(width, height))
    figure.set_label(title)
    axes = figure.subplots()
    axes.set_title(title, loc="left").set_gid(PNG_ONLY)
    return figure, axes


def add_legend(axes: Axes, **options: Any) -> None:
    """Name what is drawn, to the right of the panel; the page has a list in its place."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), **options).set_gid(PNG_ONLY)


def _colour(method: str) -> str:
    return COLOURS.get(method, DAY["grey"])


def _panel(width: float, height: float, title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """Return a panel with lines across at round numbers, and no axis but the lower one."""
    figure, axes = new_plot(width, height, title)
    axes.set(xlabel=x, ylabel=y)
    axes.grid(axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(length=0, pad=6)
    return figure, axes


def _dot(axes: Axes, x: float, y: float, title: str, **look: Any) -> None:
    look = {"markeredgecolor": DAY["paper"], "markersize": 7, **look}
    (dot,) = axes.plot(x, y, "o", clip_on=False, zorder=3, **look)
    mark(dot, title)


# ------------------------------------------------------------------------------------------------------- confusion
@matplotlib.rc_context(STYLE)
def plot_confusion(y_true: Sequence[str], y_pred: Sequence[str], title: str) -> Figure:
    """Plot the share of each true activity's windows (row) that was called what (column), the most frequent on top."""
    support = Counter(y_true)
    rows = [label for label, _ in support.most_common()]
    columns = rows + sorted(set(y_pred) - set(rows))
    counts = confusion(y_true, y_pred, columns)
    figure, axes = new_plot(CELL * len(columns) / 0.775, CELL * len(rows) / 0.77, title)
    axes.set(aspect="equal", xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5), facecolor=DAY["wash"])
    for i, j in np.argwhere(counts):
        share = counts[i, j] / support[rows[i]]
        colour = DAY["own" if i == j else "bad"]  # columns begin with the rows' labels
        cell = Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=colour, alpha=share, linewidth=0)
        words = f"{readable(rows[i])} called {readable(columns[j])}: {counts[i, j]} of {support[rows[i]]}"
        mark(axes.add_patch(cell), words)
        if share >= 0.005:
            on_colour = DAY["paper" if share > 0.55 else "ink"]
            axes.text(j, i, f"{100 * share:.0f}", ha="center", va="center", fontsize=9, color=on_colour)
    axes.set_xticks(range(len(columns)), [readable(label) for label in columns], rotation=90)
    axes.set_yticks(range(len(rows)), [f"{readable(label)} ({support[label]})" for label in rows])
    axes.set_xticks(np.arange(1, len(columns)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(rows)) - 0.5, minor=True)
    axes.grid(which="minor", color=DAY["paper"])
    axes.set_axisbelow(False)  # the gaps between cells
    axes.tick_params(which="both", length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.xaxis.set_label_position("top")
    axes.set_xlabel("called, % of the row", labelpad=8, gid=PNG_ONLY)
    axes.set_ylabel("true activity (test windows)", gid=PNG_ONLY)
    axes.spines[:].set_visible(False)
    return figure


# -------------------------------------------------------------------------------------------------------- training
@matplotlib.rc_context(STYLE)
def plot_loss(lines: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Plot training and validation loss over steps, from lines of `metrics.jsonl`; the best validation is marked."""
    figure, axes = _panel(5.2, 3.4, title, "optimizer step", "contrastive loss")
    points: list[tuple[int, float]] = []
    for split, colour in (("train", DAY["grey"]), ("validation", DAY["own"])):
        points = [(line["step"], line["loss"]) for line in lines if line["split"] == split]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, label=split)
    for step, loss in points:
        _dot(axes, step, loss, f"validation loss {loss:.3f}, step {step}", color=DAY["own"], markersize=5)
    if points:
        step, loss = min(points, key=lambda point: point[1])
        words = f"best {loss:.3f}, step {step}"
        side = "right" if step > np.mean(axes.get_xlim()) else "left"
        axes.annotate(words, (step, loss), (0, 24), textcoords="offset points", ha=side)
        _dot(axes, step, loss, words, markersize=10, markerfacecolor="none", markeredgecolor=DAY["own"])
    add_legend(axes)
    return figure


@matplotlib.rc_context(STYLE)
def plot_recall(lines: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Plot recall at 1 on validation over steps, both ways, from lines of `metrics.jsonl`."""
    figure, axes = _panel(5.2, 3.4, title, "optimizer step", "R@1 on validation, %")
    for direction, colour in zip(DIRECTIONS, (DAY["own"], DAY["own-2"]), strict=True):
        name = f"recall_at_1_{direction}"
        points = [(line["step"], 100 * line[name]) for line in lines if name in line]
        axes.plot(*zip(*points, strict=True), color=colour, label=DIRECTIONS[direction])
        for step, recall in points:
            words = f"{DIRECTIONS[direction]}: {recall:.1f} %, step {step}"
            _dot(axes, step, recall, words, color=colour, markersize=5)
    axes.set_ylim(bottom=0)
    add_legend(axes)
    return figure


# ------------------------------------------------------------------------------------------------------- retrieval
@matplotlib.rc_context(STYLE)
def plot_retrieval(retrieval: Mapping[str, MethodScores], title: str) -> Figure:
    """Plot bars of R@1/5/10 and MRR both ways: the model, what stands beside it, and chance."""
    width = 0.82 / len(retrieval)
    figure = Figure(figsize=(10.5, 3.6))
    figure.set_label(title)
    figure.suptitle(title, x=0.125, y=1.0, ha="left").set_gid(PNG_ONLY)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (direction, direction_name) in zip(panels, DIRECTIONS.items(), strict=True):
        for i, (method, scores) in enumerate(retrieval.items()):
            heights = [100 * scores[direction][name] for name in BARS]
            spread = [100 * scores[direction].get(f"{name}_sd", 0) for name in BARS]
            bars = axes.bar(
                np.arange(len(BARS)) + (i - (len(retrieval) - 1) / 2) * width,
                heights,
                0.93 * width,
                color=_colour(method),
                label=title_of(method),
                yerr=spread if any(spread) else None,
                ecolor=DAY["ink"],
            )
            for bar, name, height in zip(bars, BARS, heights, strict=True):
                mark(bar, f"{title_of(method)}, {RETRIEVAL[name]}: {height:.1f} %")
            axes.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=6.5, padding=2)
        size = retrieval["casita"][direction]
        axes.set_title(f"{direction_name}: {size['queries']} queries, {size['candidates']} candidates", fontsize=10)
        axes.set_xticks(range(len(BARS)), [RETRIEVAL[name] for name in BARS])
        axes.grid(axis="y")
        axes.spines["left"].set_visible(False)
        axes.tick_params(length=0, pad=6)
    panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel("%")
    add_legend(panels[1])
    return figure


# --------------------------------------------------------------------------------------- few labels and confidence
@matplotlib.rc_context(STYLE)
def plot_few_shot(scores: ProtocolResults, title: str) -> Figure:
    """Plot macro F1 against the share of train labels, on a log axis; all labels at its right end."""
    rows = {float(share): methods for share, methods in scores["few_shot"].items()}
    methods = list(dict.fromkeys(name for share in sorted(rows) for name in rows[share]))
    rows[1.0] = scores["classification"]["labelled"]
    shares = sorted(rows)
    figure, axes = _panel(6.2, 4.0, title, "share of the train labels, % (log scale)", "macro F1, %")
    axes.set_xscale("log")
    for i, method in enumerate(methods):
        aside = np.exp(0.03 * (i - (len(methods) - 1) / 2))  # else intervals of one share lie on each other
        measured = [share for share in shares if method in rows[share]]
        values = [100 * rows[share][method]["macro_f1"] for share in measured]
        x = [100 * share * aside for share in measured]
        axes.plot(x, values, color=_colour(method), label=title_of(method), linewidth=2)
        for at, share, value in zip(x, measured, values, strict=True):
            if "macro_f1_ci" in rows[share][method]:
                low, high = rows[share][method]["macro_f1_ci"]
                axes.plot([at, at], [100 * low, 100 * high], color=_colour(method), alpha=0.6, linewidth=1.25)
            words = f"{title_of(method)}, {100 * share:g} % of the labels: {value:.1f} %"
            _dot(axes, at, value, words, color=_colour(method))
    axes.set_xticks([100 * share for share in shares], [f"{100 * share:g}" for share in shares])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    add_legend(axes)
    return figure


@matplotlib.rc_context(STYLE)
def plot_reliability(method: str, curve: ReliabilityCurve) -> Figure:
    """Plot accuracy against confidence; the larger a dot, the more windows it stands for."""
    title = f"Reliability of {title_of(method)}: ECE {100 * curve['ece']:.1f} %"
    figure, axes = _panel(4.4, 3.8, title, "confidence, %", "accuracy, %")
    axes.set(xlim=(0, 100), ylim=(0, 100))
    axes.plot([0, 100], [0, 100], ":", color=DAY["soft"], linewidth=1)
    bins = curve["bins"]
    confidence = [100 * values["confidence"] for values in bins]
    accuracy = [100 * values["accuracy"] for values in bins]
    axes.plot(confidence, accuracy, color=_colour(method), linewidth=2)
    most = max(values["windows"] for values in bins)
    for x, y, values in zip(confidence, accuracy, bins, strict=True):
        words = f"{values['windows']} windows: {x:.0f} % sure, {y:.0f} % right"
        size = 5 + 12 * (values["windows"] / most) ** 0.5
        _dot(axes, x, y, words, color=_colour(method), markersize=size)
    return figure
