"""The table of a comparison: a row a configuration, mean and standard deviation over seeds, the baselines once."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from casita import __version__
from casita.files import read_json, write_beside
from casita.results import Results
from casita.train.experiments.grid import Grid, Job, has_results
from casita.train.metrics.classification import over_seeds
from casita.train.report import plots

METRICS = {
    "probe_accuracy": "probe accuracy",
    "probe_macro_f1": "probe macro F1",
    "zero_shot_accuracy": "zero-shot accuracy",
    "zero_shot_macro_f1": "zero-shot macro F1",
    "recall_at_1_sensor_to_text": "R@1 window → caption",
    "recall_at_1_text_to_sensor": "R@1 caption → window",
    "finetuned_accuracy": "fine-tuned accuracy",
    "finetuned_macro_f1": "fine-tuned macro F1",
    "bag_macro_f1": "bag of sensors, the same labels, macro F1",
}
BASELINES = ("random_encoder", "bag_of_sensors", "tfidf_captions", "majority")


def comparison_results(grid: Grid, jobs: Sequence[Job], failed: Mapping[Path, str], protocol: str) -> dict[str, Any]:
    """Make the content of `compare.json` from the runs' own `results.json`; `failed` says why a run has none."""
    data: dict[str, Any] = {}  # of each data folder: what its first run was evaluated on
    baselines: list[dict[str, Any]] = []
    rows: dict[str, dict[str, Any]] = {row.name: {} for row in grid.rows}
    for job in jobs:
        why = None if job.is_evaluated(protocol) else failed.get(job.run, "was not run")
        results: Results | None = None if why else read_json(job.run / "results.json")
        if results and job.config.data not in data:
            data[job.config.data] = results["data"]
            baselines += baseline_rows(results, job.config.data, protocol)
        elif results and results["data"] != data[job.config.data]:
            why = f"evaluated on other windows than the rows before it. Remove {job.run} and run the command again"
        for name in job.rows:
            tuned = job.finetunes.get(name)
            lost = why or (failed.get(job.run, "was not run") if tuned and not has_results(tuned) else None)
            if lost or results is None:
                scores: Mapping[str, Any] = {"failed": lost}
            else:
                scores = metrics_of(results, Path(tuned.out) if tuned else None, protocol)
            rows[name][str(job.seed)] = {"run": str(job.run), **scores}
    return {
        "casita_version": __version__,
        "protocol": protocol,
        "left_out": grid.left_out,
        "data": data,
        "rows": [
            {
                "name": row.name,
                "settings": dict(row.settings),
                "finetune": row.finetune,
                "seeds": rows[row.name],
                **_summary(rows[row.name]),
            }
            for row in grid.rows
        ],
        "baselines": baselines,
    }


def metrics_of(results: Results, tuned: Path | None, protocol: str) -> dict[str, float]:
    """Pick the table's numbers of one run: of `casita evaluate`, and of the fine-tuned run `tuned` if there is one."""
    of_protocol = results["protocols"][protocol]
    labelled = of_protocol["classification"]["labelled"]
    retrieval = of_protocol["retrieval"]["casita"]
    metrics: dict[str, float] = {}
    for short, method in (("probe", "linear_probe"), ("zero_shot", "zero_shot")):
        metrics |= {f"{short}_{metric}": labelled[method][metric] for metric in ("accuracy", "macro_f1")}
    metrics |= {f"recall_at_1_{way}": retrieval[way]["recall_at_1"] for way in ("sensor_to_text", "text_to_sensor")}
    if tuned is not None:
        scores = read_json(tuned / "results.json")["scores"]["test"]
        metrics |= {f"finetuned_{metric}": scores["finetuned"][metric] for metric in ("accuracy", "macro_f1")}
        metrics["bag_macro_f1"] = scores["bag_of_sensors"]["macro_f1"]
    return metrics


def baseline_rows(results: Results, data: str, protocol: str) -> Iterator[dict[str, Any]]:
    """Yield what the same windows give without training; of one data folder. Chance where nothing is ranked."""
    scores = results["protocols"][protocol]
    for method in BASELINES:
        row = scores["classification"]["labelled"][method]
        stored = {name: row[name] for name in ("accuracy", "macro_f1", "accuracy_sd", "macro_f1_sd") if name in row}
        yield {"name": method, "data": data, **{f"probe_{name}": value for name, value in stored.items()}}
    chance = scores["retrieval"]["chance"]
    yield {"name": "chance", "data": data, **{f"recall_at_1_{way}": chance[way]["recall_at_1"] for way in chance}}


def _summary(seeds: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean and `_sd` over the seeds that did not fail."""
    metrics = {
        seed: {name: value for name, value in scores.items() if name in METRICS}
        for seed, scores in seeds.items()
        if "failed" not in scores
    }
    return over_seeds(metrics) if metrics else {}


def comparison_text(results: Mapping[str, Any]) -> str:
    """Render the table as Markdown: percent, `mean ± sd`; a row that failed says why."""
    rows = [*results["rows"], *results["baselines"]]
    shown = [name for name in METRICS if any(name in row for row in rows)]
    several = len(results["data"]) > 1
    lines = ["| % | " + " | ".join(["seeds", *(METRICS[name] for name in shown)]) + " |"]
    lines.append("|---" * (len(shown) + 2) + "|")
    for row in results["rows"]:
        done = [seed for seed, scores in row["seeds"].items() if "failed" not in scores]
        cells = [str(len(done)), *(_cell(row, name) for name in shown)]
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    for row in results["baselines"]:
        name = f"*{row['name']}*" + (f" ({row['data']})" if several else "")
        lines.append(f"| {name} | " + " | ".join(["", *(_cell(row, metric) for metric in shown)]) + " |")
    failures = [
        f"- {row['name']}, seed {seed}: failed: {scores['failed']}"
        for row in results["rows"]
        for seed, scores in row["seeds"].items()
        if "failed" in scores
    ]
    return "\n".join([*lines, *(["", *failures] if failures else [])])


def _cell(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return ""
    spread = f" ± {100 * row[f'{name}_sd']:.1f}" if f"{name}_sd" in row else ""
    return f"{100 * row[name]:.1f}{spread}"


def write_comparison(out: Path, results: Mapping[str, Any]) -> None:
    """Write `compare.json`, `compare.md` and `compare.png`, each whole or not at all."""
    left_out = [f"- {line}" for line in results["left_out"]]
    text = [
        "# Comparison",
        "",
        f"Test windows, protocol `{results['protocol']}`: mean and standard deviation over seeds. All rows of one "
        "data folder are tested on the same windows.",
        "",
        comparison_text(results),
        "",
        *(["Combinations that are no row of their own:", "", *left_out, ""] if left_out else []),
    ]
    with (
        write_beside(out / "compare.json") as numbers,
        write_beside(out / "compare.md") as table,
        write_beside(out / "compare.png") as plot,
    ):
        numbers.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        table.write_text("\n".join(text), encoding="utf-8")
        plots.save(plot_comparison(results), plot)


def plot_comparison(results: Mapping[str, Any]) -> Figure:
    """Draw a panel a metric, a line a row: each seed a dot, the mean a bar; grey: the best baseline, if any."""
    rows = results["rows"]
    shown = [name for name in METRICS if any(name in row for row in rows)] or ["probe_accuracy"]
    with matplotlib.rc_context(plots.STYLE):
        figure = Figure(figsize=(2.2 + 2.1 * len(shown), 1.4 + 0.4 * len(rows)))
        for axes, name in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
            for y, row in enumerate(rows):
                points = [100 * scores[name] for scores in row["seeds"].values() if name in scores]
                axes.plot(points, [y] * len(points), "o", color=plots.COLOURS["casita"], alpha=0.5, markersize=5)
                if name in row:
                    axes.plot([100 * row[name]], [y], "|", color=plots.COLOURS["casita"], markersize=18)
            baselines = [row[name] for row in results["baselines"] if name in row]
            if baselines and len(results["data"]) == 1:  # else the rows have other baselines each
                axes.axvline(100 * max(baselines), color=plots.COLOURS["chance"], linestyle="--", zorder=0)
            axes.set(xlim=(0, 100))
            axes.set_title(METRICS[name], fontsize=9)
            axes.grid(axis="x", alpha=0.3)
            axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
    return figure
