"""The files that an evaluation leaves: `results.json`, the page, its Markdown, and plots. None computes a number."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from casita.files import write_beside
from casita.results import Results, Scores
from casita.train.evaluation.report_inputs import ReportInputs
from casita.train.report import plots
from casita.train.report.markdown import report_text
from casita.train.report.page import report_page
from casita.train.report.tables import At, score
from casita.train.report.window_map import Group, flat_windows, group_windows, plot_map
from casita.train.report.wording import METRICS, headline_scores, title_of

# Figures that lie in `plots/` as PNG; the page has them too, and more.
SAVED = ("confusion_linear_probe", "confusion_zero_shot", "window_map", "retrieval", "loss")


def write_results(out: Path, results: Results, inputs: ReportInputs, progress: bool) -> None:
    """Write `results.json`, `report.html`, `report.md` and `plots/` into `out`: an interruption leaves the old ones.

    The names of the plots are added to `results`.
    """
    kept, points = flat_windows(inputs.base)
    groups = group_windows(inputs.windows.take(kept).to_pylist(), inputs.rooms)
    with (
        write_beside(out / "plots") as folder,
        write_beside(out / "report.html") as page,
        write_beside(out / "report.md") as text,
        write_beside(out / "results.json") as numbers,
    ):
        folder.mkdir()
        figures = draw_figures(results, inputs, points, groups)
        saved = sorted(set(SAVED) & set(figures))
        for name in tqdm(saved, desc="plots", unit="plot", disable=not progress):
            plots.save(figures[name], folder / f"{name}.png")
        results["plots"] = [f"plots/{name}.png" for name in saved]
        page.write_text(report_page(results, inputs, figures, groups), encoding="utf-8")
        text.write_text(report_text(results), encoding="utf-8")
        numbers.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def draw_figures(
    results: Results, inputs: ReportInputs, points: np.ndarray, groups: Mapping[str, Sequence[Group]]
) -> dict[str, Figure]:
    """Draw the plots by name; none of what was not measured, no loss of a run without `metrics.jsonl`.

    Args:
        points: `(M, 2)` the windows of the map (`flat_windows`).
        groups: colouring of the map -> its groups; the first is the PNG's.
    """
    title = f"{results['run']} on {results['home']}"
    scores = headline_scores(results)
    figures = {}
    for method in ("linear_probe", "zero_shot"):
        y_true, y_pred = inputs.true_and_predicted(method)
        figures[f"confusion_{method}"] = plots.plot_confusion(y_true, y_pred, f"{title}, {title_of(method)}")
    for i, (colouring, by_colour) in enumerate(groups.items()):
        figures[f"window_map_by_{colouring}" if i else "window_map"] = plot_map(points, by_colour, title)
    if "retrieval" in scores:
        figures["retrieval"] = plots.plot_retrieval(scores["retrieval"], title)
    if scores.get("few_shot"):
        figures["few_shot"] = plots.plot_few_shot(scores, title)
    for method, curve in scores.get("calibration", {}).items():
        figures[f"reliability_{method}"] = plots.plot_reliability(method, curve)
    if inputs.metrics:
        figures["loss"] = plots.plot_loss(inputs.metrics, title)
    if any("recall_at_1_sensor_to_text" in line for line in inputs.metrics):
        figures["recall"] = plots.plot_recall(inputs.metrics, title)
    return figures


def headline_text(headline: Sequence[Scores]) -> str:
    """Render the headline as aligned plain text, for a terminal; without intervals, which do not fit."""
    lines = [["%", *METRICS.values()]]
    for row in headline:
        cells = [score(At(row), metric) for metric in METRICS]
        lines.append([row["method"], *(f"{c.text} ± {c.spread}" if c.spread else c.text for c in cells)])
    first, *others = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, others, strict=True))])
        for name, *cells in lines
    )
