"""The Markdown report: the same tables as the page, with the plots that lie in `plots/` beside it."""

import json
from collections.abc import Iterator

from casita.results import METHODS, Results
from casita.train.report import tables
from casita.train.report.tables import At
from casita.train.report.wording import (
    absent,
    headline_protocol,
    leak_line,
    leaky_line,
    opening,
    presegmented_line,
    sampling_line,
    seed_note,
    title_of,
    verdict,
)

CHANCE_NOTE = (
    "Equal captions count as one candidate; a caption has found its window when any window with that caption is "
    "found. `chance` is exact: the mean over all rankings."
)


def report_text(results: Results) -> str:
    """Return the Markdown report of `results.json`; a section that was not measured is named with its reason."""
    return "\n\n".join(_sections(results)) + "\n"


def _sections(results: Results) -> Iterator[str]:
    root = At(results)
    scores = root["protocols"][headline_protocol(results)]
    yield f"# {results['run']} on {results['home']}"
    if warning := leaky_line(results):
        yield f"**{warning}**"
    yield opening(results)
    yield from _classification(results, scores)
    yield from _retrieval(scores)
    if "clustering" in scores:
        yield "## Groups without labels"
        yield tables.clustering(scores["clustering"]).markdown()
    yield "## The windows as the model sees them"
    yield "![map of the test windows by activity](plots/window_map.png)"
    yield from _protocols(root)
    if "plots/loss.png" in results["plots"]:
        yield "## Training"
        yield "![loss curves](plots/loss.png)"
    yield "## What it was measured on"
    yield tables.splits(root["data"]).markdown()
    sampling = results["data"]["sampling"]
    warning = presegmented_line(sampling)
    yield sampling_line(sampling) + (f" **{warning}**" if warning else "")
    yield leak_line(results["data"]["leak_audit"])
    if missing := absent(results):
        yield "## Not measured here"
        yield "\n".join(f"- {name}: {why}" for name, why in missing.items())
    yield "## How to get these numbers again"
    yield f"```\n{results['settings']['command']}\n```"
    yield "Settings: " + json.dumps(results["settings"], ensure_ascii=False)


def _classification(results: Results, scores: At) -> Iterator[str]:
    variants = scores["classification"]
    yield "## Which activity is it?"
    yield verdict(variants["labelled"].value)
    yield tables.classification(variants["labelled"], "").markdown(keys=True)
    known = [name for name in METHODS if name in variants["labelled"]]
    yield "\n".join(f"- `{name}`: **{METHODS[name].title}**, {METHODS[name].description}" for name in known)
    yield seed_note(results)
    yield "![confusion matrix of the linear probe](plots/confusion_linear_probe.png)"
    if "per_class" in scores:
        yield "### Activity by activity (F1, %)"
        yield tables.classes(scores["per_class"]).markdown()
    yield "![confusion matrix of zero-shot](plots/confusion_zero_shot.png)"
    for variant, rows in variants.items():
        if variant != "labelled":
            yield f"### {title_of(variant)}"
            yield tables.classification(rows, "").markdown(keys=True)
    if "with_unlabelled" in variants:
        yield 'No prompt says "unlabelled", so zero-shot misses all of those windows.'
    if "few_shot" in scores:
        yield "### With few labels (macro F1, %)"
        yield tables.few_shot(scores).markdown(keys=True)


def _retrieval(scores: At) -> Iterator[str]:
    if "paraphrases" in scores:
        yield "## Does a written sentence find its windows?"
        yield tables.paraphrases(scores["paraphrases"]).markdown()
        if "per_label" in scores["paraphrases"]:
            yield tables.by_label(scores["paraphrases"]["per_label"]).markdown()
    if "retrieval" in scores:
        yield "## Does a window find its caption, and a caption its window?"
        for table in tables.retrieval(scores["retrieval"]):
            yield f"{table.caption}\n\n{table.markdown()}"
        yield CHANCE_NOTE
        yield "![retrieval beside chance](plots/retrieval.png)"
    if "caption_styles" in scores:
        yield "### Captions in a style that the model was not aligned with"
        for style, rows in scores["caption_styles"].items():
            for table in tables.retrieval(rows, style):
                yield f"{table.caption}\n\n{table.markdown()}"


def _protocols(root: At) -> Iterator[str]:
    if len(root["protocols"].value) > 1:
        table = tables.protocols(root)
        yield "## Other protocols"
        yield table.markdown()
        yield "\n".join(
            f"- {row.name}: {row.note}{' **Leaky, for comparison only.**' if row.css else ''}" for row in table.rows
        )
