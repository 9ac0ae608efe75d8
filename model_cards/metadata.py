"""The Hub's metadata of a model: the card's YAML with its model-index, and `.eval_results/`, from results.json."""

from collections.abc import Iterator
from typing import Any, TypedDict

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from casita.datasets_scripts.windows.splits import LeakAudit, count_leaks, refuse_leaks
from casita.model_cards.homes import HomeFacts
from casita.model_cards.pages import TAGS, method_title
from casita.results import Results

# The Hub's task of the methods that go there. It takes one result a task, so the probe of the last layers stays out.
TASKS = {
    "linear_probe": "tabular-classification",
    "zero_shot": "zero-shot-classification",
    "finetuned": "tabular-classification",
}
METRICS = {  # of results.json: the Hub's metric, and its name
    "accuracy": ("accuracy", "Accuracy"),
    "balanced_accuracy": ("accuracy", "Balanced accuracy"),
    "macro_f1": ("f1", "Macro F1"),
    "weighted_f1": ("f1", "Weighted F1"),
}


class Release(TypedDict):
    """Facts that only a repository knows of a model."""

    repo_id: str
    dataset: str | None  # its id on the Hub, `ORG/NAME` or `ORG/NAME@COMMIT`
    homes: list[HomeFacts]
    plans: list[tuple[str, str]]  # home and file in the tree
    plots: list[str]  # files in the tree
    report: bool  # report.html is in the tree
    watts: float | None  # assumed of each device


def model_metadata(results: Results | None, release: Release | None) -> dict[str, Any]:
    """Return the YAML in front of a model card."""
    dataset, revision = split_id(release["dataset"] if release else None)
    known: dict[str, Any] = {}
    if release and results:
        known = {
            "model_name": release["repo_id"].rpartition("/")[2],
            "eval_results": list(eval_results(results, dataset, revision)),
        }
    if dataset:
        known["datasets"] = [dataset]
    return ModelCardData(
        license="apache-2.0", library_name="transformers", pipeline_tag="feature-extraction", tags=TAGS, **known
    ).to_dict()


def split_id(dataset: str | None) -> tuple[str | None, str | None]:
    """Split `ORG/NAME@COMMIT` into id and commit, each None where it is missing."""
    name, _, revision = (dataset or "").partition("@")
    return name or None, revision or None


def eval_results(results: Results, dataset: str | None, revision: str | None) -> Iterator[EvalResult]:
    """Yield each headline metric of the methods in `TASKS`, as results.json has it."""
    for method, metric, value in hub_scores(results):
        hub_metric, metric_name = METRICS[metric]
        yield EvalResult(
            task_type=TASKS[method],
            task_name=f"Activity recognition: {method_title(method)}",
            dataset_type=dataset or "casita",
            dataset_name=results["home"],
            dataset_config="windows",
            dataset_split="test",
            dataset_revision=revision,
            dataset_args={"protocol": results["settings"]["protocol"]},
            metric_type=hub_metric,
            metric_name=metric_name,
            metric_value=value,
        )


def hub_scores(results: Results) -> Iterator[tuple[str, str, float]]:
    """Yield `(method, metric, value)` of the headline's rows that go to the Hub."""
    for row in results["headline"]:
        if row["method"] in TASKS:
            yield from ((row["method"], metric, row[metric]) for metric in METRICS)


def evaluation_entries(results: Results, dataset: str) -> str:
    """Return the YAML of `.eval_results/casita.yaml`: a value for each task of `dataset`, a repository on the Hub."""
    name, revision = split_id(dataset)
    protocol = results["settings"]["protocol"]
    entries = [
        EvalResultEntry(
            dataset_id=str(name),
            dataset_revision=revision,
            task_id=f"{protocol}_{method}_{metric}",
            value=value,
            notes=f"{method_title(method)}; {METRICS[metric][1]} of the labelled test windows, protocol {protocol}",
        )
        for method, metric, value in hub_scores(results)
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, width=120)


def check_results(results: Results | None) -> None:
    """Raise `ValueError` unless there are results of the model, and no event lies in two of their splits."""
    if results is None or not any(hub_scores(results)):
        raise ValueError("model card: there are no results, so no card for a release. Run: casita evaluate RUN")
    check_audit(results.get("data", {}).get("leak_audit"), "results.json", "casita evaluate RUN")


def check_audit(audit: LeakAudit | None, where: str, command: str) -> None:
    """Raise `ValueError` unless there is an audit, and it counts no event in two splits."""
    if audit is None or not count_leaks(audit):
        raise ValueError(f"{where}: no leak audit, so nothing can be said of the splits. Run: {command}")
    refuse_leaks(audit, where, command)
