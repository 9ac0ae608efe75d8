"""The HTML page of an evaluation: one file with nothing to fetch, rendered from `results.json` and its evidence.

Text and pictures are readable without JavaScript; a few lines of it choose the sensor whose likeness is drawn and
point out a group on the map. Everything in the template is escaped; a hole in it is an error.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from casita.results import METHODS
from casita.train.evaluation.report_inputs import ReportInputs
from casita.train.report import charts, tables
from casita.train.report.examples import caption_examples, written_examples
from casita.train.report.floor_plan import FloorPlan, similarity
from casita.train.report.tables import At
from casita.train.report.wording import (
    VARIANTS,
    absent,
    headline_protocol,
    leak_line,
    leaky_line,
    method_name,
    opening,
    part_name,
    presegmented_line,
    protocol_name,
    readable,
    sampling_line,
    seed_note,
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


def report_page(results: Mapping[str, Any], evidence: ReportInputs, kept: np.ndarray, points: np.ndarray) -> str:
    """The page as HTML.

    Args:
        results: the content of `results.json`.
        kept, points: the rows of the test windows on the map, and where they lie (`flat_windows`).
    """
    root = At(results)
    scores = root["protocols"][headline_protocol(results)]
    plan = FloorPlan(evidence.layout) if evidence.layout["sensors"] else None
    alike = _similarity(evidence, plan)
    missing = absent(results) | _undrawn(evidence, plan, alike)
    sections: dict[str, Any] = {
        "activity": _activity(results, scores),
        "classes": _classes(scores, evidence),
        "few_shot": _few_shot(scores),
        "sentences": _sentences(scores, evidence, plan),
        "retrieval": _retrieval(scores, evidence, plan),
        "map": charts.window_map(points, _colourings(evidence, kept)),
        "clustering": tables.clustering(scores["clustering"]) if "clustering" in scores else None,
        "calibration": _calibration(scores),
        "similarity": alike,
        "protocols": _protocols(root),
        "training": charts.training(evidence.metrics) or None,
        "data": _data(root),
        "again": {**results["settings"], "timing_s": results.get("timing_s", {})},
        "left_out": missing or None,
    }
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            results=results,
            verdict=verdict(scores["classification"]["labelled"].value),
            opening=opening(results),
            leaky=leaky_line(results),
            facts=_facts(results),
            plan=plan.symbol() if plan else "",
            titles={key: title for key, title in TITLES.items() if sections[key] is not None},
            **sections,
        )
    )


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few numbers that a reader wants to see first."""
    test, audit = results["data"]["splits"]["test"], results["data"]["leak_audit"]
    return [
        (f"{test['windows']:,}", "test windows"),
        (f"{test['labelled']:,}", "of them labelled"),
        (str(test["days"]), "test days"),
        (str(len(results["data"]["labels"])), "activities"),
        (f"{results['model']['parameters'] / 1e6:.1f} M", "parameters"),
        (str(sum(audit.values())), "events shared by splits"),
    ]


def _undrawn(evidence: ReportInputs, plan: FloorPlan | None, alike: Mapping[str, Any] | None) -> dict[str, str]:
    """What could not be drawn, and why."""
    found = {}
    if plan is None:
        found["Windows on the floor plan"] = "the home has no layout with sensors."
    if alike is None and plan is not None:
        reason = "there is no table of this home's pictures." if evidence.table is None else "too few placed sensors."
        found[TITLES["similarity"]] = f"{reason} A model that learns its own sensor embeddings has none."
    if not evidence.metrics:
        found[TITLES["training"]] = "the run has no metrics.jsonl."
    return found


def _activity(results: Mapping[str, Any], scores: At) -> dict[str, Any]:
    variants = [
        (name, tables.classification(rows, VARIANTS.get(name, readable(name)), "macro_f1"))
        for name, rows in scores["classification"].items()
    ]
    names = {row.key for _, table in variants for row in table.rows}
    return {
        "first": variants[0][1],
        "others": variants[1:],
        "methods": [(name, told) for name, (_, told) in METHODS.items() if name in names],
        "note": seed_note(results),
    }


def _classes(scores: At, evidence: ReportInputs) -> dict[str, Any] | None:
    if "per_class" not in scores:
        return None
    task = evidence.tasks["labelled"]
    y_true = task.y[task.test].tolist()
    first = {method: next(iter(by_seed.values())) for method, by_seed in evidence.answers["labelled"].items()}
    called = {method: first[method].labels for method in ("linear_probe", "zero_shot") if method in first}
    return {
        "table": tables.classes(scores["per_class"]),
        "methods": tables.class_methods(scores["per_class"].value),
        "details": tables.class_details(scores["per_class"]),
        "confusions": [(method, charts.confusion_table(y_true, labels)) for method, labels in called.items()],
    }


def _few_shot(scores: At) -> dict[str, Any] | None:
    if not scores.value.get("few_shot"):
        return None
    table = tables.few_shot(scores)
    return {
        "table": table,
        "chart": charts.few_shot(scores.value),
        "methods": [row.key for row in table.rows],
        "details": [
            tables.classification(rows, f"{100 * float(share):g} % of the train labels", "macro_f1")
            for share, rows in sorted(scores["few_shot"].items(), key=lambda item: float(item[0]))
        ],
    }


def _sentences(scores: At, evidence: ReportInputs, plan: FloorPlan | None) -> dict[str, Any] | None:
    if "paraphrases" not in scores:
        return None
    rows = scores["paraphrases"]
    return {
        "table": tables.paraphrases(rows),
        "by_label": tables.by_label(rows["per_label"]) if "per_label" in rows else None,
        **written_examples(evidence, plan),
    }


def _retrieval(scores: At, evidence: ReportInputs, plan: FloorPlan | None) -> dict[str, Any] | None:
    if "retrieval" not in scores:
        return None
    styles = scores["caption_styles"].items() if "caption_styles" in scores else ()
    return {
        "tables": tables.retrieval(scores["retrieval"]),
        "styles": [table for style, rows in styles for table in tables.retrieval(rows, style)],
        "examples": caption_examples(evidence, plan),
    }


def _colourings(evidence: ReportInputs, kept: np.ndarray) -> dict[str, list[str]]:
    rooms = {name: sensor["room"] for name, sensor in evidence.layout["sensors"].items()}
    return charts.colourings(evidence.windows.take(kept).to_pylist(), rooms)


def _calibration(scores: At) -> list[dict[str, Any]] | None:
    if "calibration" not in scores:
        return None
    return [
        {
            "name": method_name(method),
            "ece": tables.score(curve, "ece"),
            "chart": charts.reliability(method, curve.value),
            "table": tables.bins(curve, method),
        }
        for method, curve in scores["calibration"].items()
    ]


def _similarity(evidence: ReportInputs, plan: FloorPlan | None) -> dict[str, Any] | None:
    if plan is None or evidence.table is None:
        return None
    keys = evidence.windows["sensor_keys"].to_pylist()
    seen = Counter(key.rpartition("_")[0] for window in keys for key in window)
    return similarity(plan, evidence.table, seen)


def _protocols(root: At) -> dict[str, Any] | None:
    if len(root["protocols"].value) < 2:
        return None
    headline = headline_protocol(root.value)
    details = [
        (
            protocol_name(name),
            [tables.classification(rows, VARIANTS.get(v, readable(v)), "macro_f1") for v, rows in variants],
        )
        for name, at in root["protocols"].items()
        if name != headline and "classification" in at and (variants := list(at["classification"].items()))
    ]
    left = {
        protocol_name(name): at.value["left_out"]
        for name, at in root["protocols"].items()
        if name != headline and at.value.get("left_out")
    }
    return {"table": tables.protocols(root), "details": details, "left_out": left}


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
    environment.filters |= {"readable": readable, "method": method_name, "part": part_name}
    return environment
