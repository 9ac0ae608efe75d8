"""The report's plots as PNG, for Markdown and cards; the page draws its own (casita.train.report.svg)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # not pyplot: no screen, and no figures kept behind the scenes
from sklearn.manifold import TSNE

from casita.train.data.labelled_windows import UNLABELLED
from casita.train.metrics.classification import confusion
from casita.train.report.wording import DIRECTIONS, RETRIEVAL, RETRIEVERS, readable

COLOURS = {
    "casita": "#1f6f8b",
    "learned": "#7a5ea8",
    "random_encoder": "#e0a458",
    "caption_only": "#8a9a5b",
    "chance": "#b8b8b8",
}
BARS = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr")
MAP_WINDOWS = 2000  # t-SNE's time grows faster than the number of points; more would not be told apart anyway
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}
# Colours of tab20 without its two greys, strong ones first, with one marker after the other; grey is the unlabelled's.
_STRONG_FIRST = [i for i in (*range(0, 20, 2), *range(1, 20, 2)) if i not in (14, 15)]
MAP_LOOKS = [(matplotlib.colormaps["tab20"](i), marker) for marker in "o^sD" for i in _STRONG_FIRST]
GREY = "#d9d9d9"


def plot_confusion(y_true: Sequence[str], y_pred: Sequence[str], title: str) -> Figure:
    """Share of each true activity's windows (row) that was called what (column), the most frequent activity on top."""
    support = Counter(y_true)
    rows = [label for label, _ in support.most_common()]
    columns = rows + sorted(set(y_pred) - set(rows))
    share = confusion(y_true, y_pred, columns)[: len(rows)] / np.array([[support[label]] for label in rows])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(2.8 + 0.46 * len(columns), 1.8 + 0.42 * len(rows)))
        axes = figure.subplots()
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for i, j in np.argwhere(share >= 0.005):
            colour = "white" if share[i, j] > 0.55 else "#1a2a3a"
            axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(len(columns)), [readable(label) for label in columns], rotation=45, ha="right")
        axes.set_yticks(range(len(rows)), [f"{readable(label)} ({support[label]})" for label in rows])
        axes.set(xlabel="called", ylabel="true activity (test windows)")
        axes.set_title(f"{title}\n% of each row", loc="left")
        axes.spines[:].set_visible(False)
    return figure


def plot_map(points: np.ndarray, activities: Sequence[str], title: str) -> Figure:
    """The `points` `(M, 2)` of `flat_windows`, coloured by activity; grey is the unlabelled."""
    labels = np.array(activities)
    order = [label for label, _ in Counter(labels.tolist()).most_common() if label != UNLABELLED]
    size = float(np.clip(6000 / len(points), 12, 60))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 7))
        axes = figure.subplots()
        for i, label in enumerate([UNLABELLED, *order]):
            x, y = points[labels == label].T
            if not len(x):  # no unlabelled window
                continue
            colour, marker = MAP_LOOKS[i % len(MAP_LOOKS)] if i else (GREY, "o")
            axes.scatter(
                x, y, s=size, color=colour, marker=marker, linewidths=0, label=f"{readable(label)} ({len(x)})"
            )
        columns = 1 + len(order) // 28
        axes.legend(
            loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=(60 / size) ** 0.5, ncols=columns
        )
        axes.set_title(f"{title}: {len(points)} windows of the test split, t-SNE", loc="left")
        axes.set_axis_off()
    return figure


def plot_loss(lines: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Training and validation loss over steps, from the lines of `metrics.jsonl`; the best validation is marked."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2))
        axes = figure.subplots()
        for split, colour, marker in (
            ("train", COLOURS["random_encoder"], ""),
            ("validation", COLOURS["casita"], "o"),
        ):
            mine = [(line["step"], line["loss"]) for line in lines if line["split"] == split]
            if mine:
                axes.plot(*zip(*mine, strict=True), color=colour, label=split, marker=marker, markersize=3)
        if mine:
            step, loss = min(mine, key=lambda point: point[1])
            axes.annotate(
                f"best {loss:.3f}, step {step}", (step, loss), (0, 12), textcoords="offset points", ha="center"
            )
            axes.plot(step, loss, marker="o", markersize=9, markerfacecolor="none", markeredgecolor=COLOURS["casita"])
        axes.set(xlabel="optimizer step", ylabel="contrastive loss")
        axes.set_title(title, loc="left")
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
    return figure


def plot_retrieval(retrieval: Mapping[str, Mapping[str, Mapping[str, float]]], title: str) -> Figure:
    """Bars of R@1/5/10 and MRR both ways: the model, what stands beside it, and chance."""
    width = 0.82 / len(retrieval)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.2))
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (direction, told) in zip(panels, DIRECTIONS.items(), strict=True):
            for i, (row, scores) in enumerate(retrieval.items()):
                heights = [100 * scores[direction][name] for name in BARS]
                spread = [100 * scores[direction].get(f"{name}_sd", 0) for name in BARS]
                bars = axes.bar(
                    np.arange(len(BARS)) + (i - (len(retrieval) - 1) / 2) * width,
                    heights,
                    0.93 * width,
                    color=COLOURS.get(row, "#666666"),
                    label=RETRIEVERS.get(row, readable(row)),
                    yerr=spread if any(spread) else None,
                )
                axes.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=6, padding=2)
            size = retrieval["casita"][direction]
            axes.set_title(f"{told}: {size['queries']} queries, {size['candidates']} candidates", fontsize=10)
            axes.set_xticks(range(len(BARS)), [RETRIEVAL[name] for name in BARS])
        panels[0].set_ylim(bottom=0)
        panels[0].set_ylabel("%")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="upper right", ncols=5, frameon=False)
        figure.suptitle(title, x=0.09, y=0.98, ha="left")
        figure.subplots_adjust(top=0.82)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a plot as PNG, cut to its content."""
    figure.savefig(path, dpi=130, bbox_inches="tight")


def flat_windows(embeddings: np.ndarray, most: int = MAP_WINDOWS) -> tuple[np.ndarray, np.ndarray]:
    """Windows `(N, C)` on a plane: the rows kept, at most `most` evenly spaced, and their points `(M, 2)`."""
    kept = np.linspace(0, len(embeddings) - 1, min(len(embeddings), most)).round().astype(int)
    return kept, _flat(embeddings[kept])


def _flat(embeddings: np.ndarray) -> np.ndarray:
    """`(N, C)` to `(N, 2)` by 50 principal components, then t-SNE; a handful of windows by the components alone."""
    left, strength, _ = np.linalg.svd(embeddings - embeddings.mean(axis=0), full_matrices=False)
    components = np.pad((left * strength)[:, :50], ((0, 0), (0, 2)))
    if len(components) < 10:
        return components[:, :2]
    # Not init="pca": it divides by a spread of 0 where an encoder maps everything to one point.
    start = 1e-4 * components[:, :2] / max(components[:, 0].std(), 1e-12)
    perplexity = min(30, (len(components) - 1) / 3)
    return TSNE(perplexity=perplexity, init=start.astype(np.float32), random_state=0).fit_transform(components)
