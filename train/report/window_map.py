"""The map of the test windows: t-SNE of their embeddings, coloured by activity, by room or by hour of the day."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from casita.train.data.labelled_windows import UNLABELLED
from casita.train.report.palette import DAY
from casita.train.report.plots import STYLE, add_legend, new_plot
from casita.train.report.svg import mark
from casita.train.report.wording import readable

MOST = 2000  # windows; t-SNE's time grows faster than their number, and more would lie on each other anyway
COLOURS = 12  # of the palette, used with one shape after the other
SHAPES = {"disc": "o", "square": "s", "triangle": "^", "diamond": "D"}
HOURS = 3  # one colour for so many hours of the day


@dataclass(frozen=True)
class Group:
    """Windows of one colour on the map: `rows` those of the map, `colour` a name of the palette."""

    name: str
    rows: np.ndarray
    colour: str
    shape: str = "disc"


def flat_windows(embeddings: np.ndarray, most: int = MOST) -> tuple[np.ndarray, np.ndarray]:
    """Lay windows `(N, C)` out on a plane: the rows kept, at most `most` evenly spaced, and their points `(M, 2)`.

    By 50 principal components, then t-SNE; a handful of windows by the components alone.
    """
    kept = np.linspace(0, len(embeddings) - 1, min(len(embeddings), most)).round().astype(int)
    shown = embeddings[kept]
    left, strength, _ = np.linalg.svd(shown - shown.mean(axis=0), full_matrices=False)
    components = np.pad((left * strength)[:, :50], ((0, 0), (0, 2)))
    if len(components) < 10:
        return kept, components[:, :2]
    # Not init="pca": it divides by a spread of 0 where an encoder maps everything to one point.
    start = 1e-4 * components[:, :2] / max(components[:, 0].std(), 1e-12)
    perplexity = min(30, (len(components) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init=start.astype(np.float32), random_state=0)
    return kept, tsne.fit_transform(components)


def group_windows(windows: Sequence[Mapping[str, Any]], rooms: Mapping[str, str]) -> dict[str, list[Group]]:
    """Group windows in each way that the map is coloured: activity, the room of most events, and the hour they began.

    Args:
        windows: rows of WINDOWS.
        rooms: sensor -> room; without any there is no colouring by room.
    """
    groups = {"activity": group_by_name([window["activity"] or UNLABELLED for window in windows])}
    if rooms:
        sensors = [[key.rpartition("_")[0] for key in window["sensor_keys"]] for window in windows]
        counts = [Counter(rooms.get(sensor, UNLABELLED) for sensor in names) for names in sensors]
        groups["room"] = group_by_name([count.most_common(1)[0][0] for count in counts])
    spans = np.array([window["start"].hour // HOURS for window in windows])
    groups["hour"] = [
        Group(f"{HOURS * i:02d} to {HOURS * (i + 1):02d} h", np.flatnonzero(spans == i), f"h{i}")
        for i in np.unique(spans)
    ]
    return groups


def group_by_name(names: Sequence[str]) -> list[Group]:
    """Group windows by name, the largest group first; before it the unlabelled, below all others and grey."""
    order = [name for name, _ in Counter(names).most_common() if name != UNLABELLED]
    shapes = list(SHAPES)
    looks = {name: (f"c{i % COLOURS}", shapes[i // COLOURS % len(shapes)]) for i, name in enumerate(order)}
    if UNLABELLED in names:
        looks = {UNLABELLED: ("none", "disc")} | looks
    array = np.array(names, dtype=object)
    return [
        Group(readable(name), np.flatnonzero(array == name), colour, shape) for name, (colour, shape) in looks.items()
    ]


@matplotlib.rc_context(STYLE)
def plot_map(points: np.ndarray, groups: Sequence[Group], title: str) -> Figure:
    """Plot the `points` `(M, 2)` of `flat_windows` in a colour for each group."""
    size = float(np.clip(6000 / len(points), 12, 60))
    figure, axes = new_plot(7.2, 7.2, f"{title}: {len(points)} windows of the test split, t-SNE")
    for i, group in enumerate(groups):
        x, y = points[group.rows].T
        name = f"{group.name} ({len(group.rows)})"
        dots = axes.scatter(x, y, s=size, label=name, color=DAY[group.colour], marker=SHAPES[group.shape], alpha=0.85)
        dots.set_linewidth(0)
        mark(dots, name, **{"data-i": str(i)})
    add_legend(axes, markerscale=(60 / size) ** 0.5, ncols=1 + len(groups) // 28)
    low = points.min(axis=0)
    high = points.max(axis=0)
    # never flatter than one to two, for two windows lie on a line
    half = 0.53 * np.maximum(high - low, max((high - low).max() / 2, 1e-6))
    (left, bottom), (right, top) = (low + high) / 2 - half, (low + high) / 2 + half
    axes.set(aspect="equal", xlim=(left, right), ylim=(bottom, top))
    axes.set_axis_off()
    return figure
