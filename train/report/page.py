"""The HTML page of an evaluation: one file with nothing to fetch, rendered from `results.json` and `ReportInputs`.

Text and pictures are readable without JavaScript; a few lines of it choose the sensor whose likeness is drawn and
point out a group on the map. Everything in the template is escaped; a hole in it is an error.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from casita.results import METHODS, Results
from casita.train.evaluation.report_inputs import ReportInputs
from casita.train.report import tables
from casita.train.report.examples import caption_examples, written_examples
from casita.train.report.floor_plan import FloorPlan, similarity
from casita.train.report.palette import DAY, METHOD_COLOURS, NIGHT
from casita.train.report.svg import figure_svg
from casita.train.report.tables import At
from casita.train.report.window_map import Group
from casita.train.report.wording import (
    absent,
    headline_protocol,
    leak_line,
    leaky_line,
    opening,
    presegmented_line,
    readable,
    sampling_line,
    seed_note,
    title_of,
    verdict,
)

TITLES = {  # of the sections, in the page's order; one whose content is None is not on the page
    "activity": "Which activity is it?",
    "classes": "Activity by activity",
    "few_shot": "How many labels it needs",
    "sentences": "Written sentences that find windows",
    "retrieval": "Captions and windows",
    "map": "The windows as the model sees them",
    "clustering": "Groups without labels",
    "calibration": "How sure it is",
    "similarity": "What the pictures say of the sensors",
    "protocols": "Other protocols",
    "training": "Training",
    "data": "Data sheet",
    "again": "These numbers again",
    "left_out": "Not measured here",
}


def report_page(
    results: Results, inputs: ReportInputs, figures: Mapping[str, Figure], groups: Mapping[str, Sequence[Group]]
) -> str:
    """Return the page as HTML.

    Args:
        figures: the plots by name (`draw_figures`).
        groups: colouring of the map -> its groups (`group_windows`).
    """
    root = At(results)
    at = root["protocols"][headline_protocol(results)]
    plan = FloorPlan(inputs.layout) if inputs.layout["sensors"] else None
    alike = _similarity(inputs, plan)
    sections: dict[str, Any] = {
        "activity": _activity(results, at),
        "classes": _classes(at, inputs),
        "few_shot": _few_shot(at),
        "sentences": _sentences(at, inputs, plan),
        "retrieval": _retrieval(at, inputs, plan),
        "map": groups,
        "clustering": tables.clustering(at["clustering"]) if "clustering" in at else None,
        "calibration": _calibration(at),
        "similarity": alike,
        "protocols": _protocols(root),
        "training": [name for name in ("loss", "recall") if name in figures] or None,
        "data": _data(root),
        "again": {**results["settings"], "timing_s": results["timing_s"]},
        "left_out": absent(results) | _undrawn(inputs, plan, alike) or None,
    }
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            results=results,
            verdict=verdict(at["classification"]["labelled"].value),
            opening=opening(results),
            leaky=leaky_line(results),
            facts=_facts(results),
            plan=plan.symbol() if plan else "",
            figures={name: figure_svg(figure, name, _css(name)) for name, figure in figures.items()},
            titles={key: title for key, title in TITLES.items() if sections[key] is not None},
            **sections,
        )
    )


def _css(figure: str) -> str:
    """Return a figure's classes; a map's say which colouring it has, for the page shows one at a time."""
    if not figure.startswith("window_map"):
        return "chart"
    return f"chart by by-{figure.removeprefix('window_map').removeprefix('_by_') or 'activity'}"


def _facts(results: Results) -> list[tuple[str, str]]:
    """Return the few numbers that a reader wants to see first, each with its name."""
    test = results["data"]["splits"]["test"]
    shared_events = sum(results["data"]["leak_audit"].values())
    return [
        (f"{test['windows']:,}", "test windows"),
        (f"{test['labelled']:,}", "of them labelled"),
        (str(test["days"]), "test days"),
        (str(len(results["data"]["labels"])), "activities"),
        (f"{results['model']['parameters'] / 1e6:.1f} M", "parameters"),
        (str(shared_events), "events shared by splits"),
    ]


def _undrawn(inputs: ReportInputs, plan: FloorPlan | None, alike: Mapping[str, Any] | None) -> dict[str, str]:
    """Return what could not be drawn, and why."""
    reasons = {}
    if plan is None:
        reasons["Windows on the floor plan"] = "the home has no layout with sensors."
    if alike is None and plan is not None:
        reason = "there is no table of this home's pictures." if inputs.table is None else "too few placed sensors."
        reasons[TITLES["similarity"]] = f"{reason} A model that learns its own sensor embeddings has none."
    if not inputs.metrics:
        reasons[TITLES["training"]] = "the run has no metrics.jsonl."
    return reasons


def _activity(results: Results, scores: At) -> dict[str, Any]:
    variants = _variant_tables(scores["classification"])
    methods = {row.key for _, table in variants for row in table.rows}
    return {
        "first": variants[0][1],
        "others": variants[1:],
        "methods": [(name, method.description) for name, method in METHODS.items() if name in methods],
        "note": seed_note(results),
    }


def _variant_tables(variants: At) -> list[tuple[str, tables.Table]]:
    """Return the variants of classification with their tables."""
    return [(name, tables.classification(rows, title_of(name), "macro_f1")) for name, rows in variants.items()]


def _classes(scores: At, inputs: ReportInputs) -> dict[str, Any] | None:
    if "per_class" not in scores:
        return None
    return {
        "table": tables.classes(scores["per_class"]),
        "methods": tables.class_methods(scores["per_class"].value),
        "details": tables.class_details(scores["per_class"]),
        "confusions": {
            method: _most_confused(*inputs.true_and_predicted(method)) for method in ("linear_probe", "zero_shot")
        },
    }


def _most_confused(y_true: Sequence[str], y_pred: Sequence[str]) -> list[str]:
    """Name the pairs of activities that were confused most often, for those who do not see the plot."""
    pairs = Counter((true, called) for true, called in zip(y_true, y_pred, strict=True) if true != called)
    support = Counter(y_true)
    return [
        f"{readable(true)} called {readable(called)} ({count} of {support[true]})"
        for (true, called), count in pairs.most_common(3)
    ]


def _few_shot(scores: At) -> dict[str, Any] | None:
    if not scores.value.get("few_shot"):
        return None
    table = tables.few_shot(scores)
    return {
        "table": table,
        "methods": [row.key for row in table.rows],
        "details": [
            tables.classification(rows, f"{100 * float(share):g} % of the train labels", "macro_f1")
            for share, rows in sorted(scores["few_shot"].items(), key=lambda item: float(item[0]))
        ],
    }


def _sentences(scores: At, inputs: ReportInputs, plan: FloorPlan | None) -> dict[str, Any] | None:
    if "paraphrases" not in scores:
        return None
    rows = scores["paraphrases"]
    return {
        "table": tables.paraphrases(rows),
        "by_label": tables.by_label(rows["per_label"]) if "per_label" in rows else None,
        **written_examples(inputs, plan),
    }


def _retrieval(scores: At, inputs: ReportInputs, plan: FloorPlan | None) -> dict[str, Any] | None:
    if "retrieval" not in scores:
        return None
    styles = scores["caption_styles"].items() if "caption_styles" in scores else ()
    return {
        "methods": list(scores["retrieval"].value),
        "tables": tables.retrieval(scores["retrieval"]),
        "styles": [table for style, rows in styles for table in tables.retrieval(rows, style)],
        "examples": caption_examples(inputs, plan),
    }


def _calibration(scores: At) -> list[dict[str, Any]] | None:
    if "calibration" not in scores:
        return None
    return [
        {"method": method, "ece": tables.score(curve, "ece"), "table": tables.bins(curve, method)}
        for method, curve in scores["calibration"].items()
    ]


def _similarity(inputs: ReportInputs, plan: FloorPlan | None) -> dict[str, Any] | None:
    if plan is None or inputs.table is None:
        return None
    windows = inputs.windows["sensor_keys"].to_pylist()
    events = Counter(key.rpartition("_")[0] for keys in windows for key in keys)
    return similarity(plan, inputs.table, events)


def _protocols(root: At) -> dict[str, Any] | None:
    if len(root["protocols"].value) < 2:
        return None
    others = list(root["protocols"].items())[1:]
    return {
        "table": tables.protocols(root),
        "details": [(title_of(name), dict(_variant_tables(at["classification"]))) for name, at in others],
        "left_out": {title_of(name): at.value["left_out"] for name, at in others if at.value["left_out"]},
    }


def _data(root: At) -> dict[str, Any]:
    data = root["data"]
    return {
        "tables": [tables.splits(data), tables.leaks(data), tables.labels(data)],
        "sampling": sampling_line(data["sampling"].value),
        "warning": presegmented_line(data["sampling"].value),
        "leaks": leak_line(data["leak_audit"].value),
        "settings": data["sampling"].value,
    }


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"readable": readable, "title_of": title_of}
    environment.globals |= {"day": DAY, "night": NIGHT, "method_colours": METHOD_COLOURS, "all_methods": list(METHODS)}
    return environment
