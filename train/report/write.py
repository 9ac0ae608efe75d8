"""What an evaluation leaves: `results.json`, the page, its Markdown, and plots. They tell numbers and compute none."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from casita.files import write_beside
from casita.train.data.labelled_windows import UNLABELLED
from casita.train.evaluation.report_inputs import ReportInputs
from casita.train.report import plots
from casita.train.report.markdown import report_text
from casita.train.report.page import report_page
from casita.train.report.tables import At, score
from casita.train.report.wording import METRICS, headline_protocol


def write_results(out: Path, results: dict[str, Any], evidence: ReportInputs, progress: bool) -> None:
    """Write `results.json`, `report.html`, `report.md` and `plots/` into `out`: an interruption leaves the old ones.

    The names of the plots are added to `results`.
    """
    kept, points = plots.flat_windows(evidence.base)
    with (
        write_beside(out / "plots") as folder,
        write_beside(out / "report.html") as page,
        write_beside(out / "report.md") as text,
        write_beside(out / "results.json") as numbers,
    ):
        folder.mkdir()
        drawn = figures(results, evidence, kept, points)
        for name, figure in tqdm(drawn, desc="plots", unit="plot", disable=not progress):
            plots.save(figure, folder / f"{name}.png")
        results["plots"] = sorted(f"plots/{path.name}" for path in folder.iterdir())
        page.write_text(report_page(results, evidence, kept, points), encoding="utf-8")
        text.write_text(report_text(results), encoding="utf-8")
        numbers.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def figures(
    results: Mapping[str, Any], evidence: ReportInputs, kept: np.ndarray, points: np.ndarray
) -> Iterator[tuple[str, Figure]]:
    """The plots by name, one at a time; none of what was not measured, no loss of a run without `metrics.jsonl`."""
    title, scores = f"{results['run']} on {results['home']}", results["protocols"][headline_protocol(results)]
    task, answers = evidence.tasks["labelled"], evidence.answers["labelled"]
    for method in ("linear_probe", "zero_shot"):
        called = next(iter(answers[method].values())).labels
        yield f"confusion_{method}", plots.plot_confusion(task.y[task.test].tolist(), called, f"{title}, {method}")
    activities = evidence.activities
    yield "window_map", plots.plot_map(points, [activities[i] or UNLABELLED for i in kept], title)
    if "retrieval" in scores:
        yield "retrieval", plots.plot_retrieval(scores["retrieval"], title)
    if evidence.metrics:
        yield "loss", plots.plot_loss(evidence.metrics, title)


def headline_text(results: Mapping[str, Any]) -> str:
    """The headline as aligned plain text, for a terminal; without intervals, which do not fit."""
    lines = [["%", *METRICS.values()]]
    for row in results["headline"]:
        cells = [score(At(row), metric) for metric in METRICS]
        lines.append([row["method"], *(f"{c.text} ± {c.spread}" if c.spread else c.text for c in cells)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
