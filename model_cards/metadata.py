"""What the Hub reads of a model: the card's YAML with its model-index, and `.eval_results/`, from results.json."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from casita.model_cards.pages import TAGS

# The Hub's task, and what it is called, of the methods that are this model's; the others are baselines.
METHODS = {
    "linear_probe": ("tabular-classification", "Activity recognition, linear probe of the frozen embedding"),
    "zero_shot": ("zero-shot-classification", "Activity recognition by written sentences"),
    "finetuned": ("tabular-classification", "Activity recognition, fine-tuned"),
}
METRICS = {  # of results.json: the Hub's metric, and its name
    "accuracy": ("accuracy", "Accuracy"),
    "balanced_accuracy": ("accuracy", "Balanced accuracy"),
    "macro_f1": ("f1", "Macro F1"),
    "weighted_f1": ("f1", "Weighted F1"),
}


def model_metadata(
    processor: Mapping[str, Any], results: Mapping[str, Any] | None, release: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The YAML in front of a model card."""
    dataset, revision = split_id(release["dataset"] if release else None)
    told: dict[str, Any] = {}
    if release and results:
        told = {
            "model_name": release["repo_id"].rpartition("/")[2],
            "eval_results": list(scores(results, dataset, revision)),
        }
    if dataset:
        told["datasets"] = [dataset]
    return ModelCardData(
        license="apache-2.0", library_name="transformers", pipeline_tag="feature-extraction", tags=TAGS, **told
    ).to_dict()


def split_id(dataset: str | None) -> tuple[str | None, str | None]:
    """`ORG/NAME@COMMIT` as id and commit, each None where it is not told."""
    name, _, revision = (dataset or "").partition("@")
    return name or None, revision or None


def scores(results: Mapping[str, Any], dataset: str | None, revision: str | None) -> Iterator[EvalResult]:
    """Each headline metric of the model's own methods, as results.json has it."""
    for method, metric, value in headline(results):
        task, name = METHODS[method]
        kind, metric_name = METRICS[metric]
        yield EvalResult(
            task_type=task,
            task_name=name,
            dataset_type=dataset or "casita",
            dataset_name=results["home"],
            dataset_config="windows",
            dataset_split="test",
            dataset_revision=revision,
            dataset_args={"protocol": results["settings"]["protocol"]},
            metric_type=kind,
            metric_name=metric_name,
            metric_value=value,
        )


def headline(results: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """`(method, metric, value)` of the model's own rows."""
    for row in results["headline"]:
        if row["method"] in METHODS:
            yield from ((row["method"], metric, row[metric]) for metric in METRICS)


def evaluation_entries(results: Mapping[str, Any], dataset: str) -> str:
    """The YAML of `.eval_results/casita.yaml`: a value for each task of `dataset`, a repository on the Hub."""
    name, revision = split_id(dataset)
    protocol = results["settings"]["protocol"]
    entries = [
        EvalResultEntry(
            dataset_id=str(name),
            dataset_revision=revision,
            task_id=f"{protocol}_{method}_{metric}",
            value=value,
            notes=f"{METHODS[method][1]}; {METRICS[metric][1]} of the labelled test windows, protocol {protocol}",
        )
        for method, metric, value in headline(results)
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, width=120)


def check_results(results: Mapping[str, Any] | None) -> None:
    """`ValueError` unless there are results to tell, and no event lies in two of their splits."""
    if results is None or not any(headline(results)):
        raise ValueError("model card: there are no results, so no card for a release. Run: casita evaluate RUN")
    refuse_leaks(results.get("data", {}).get("leak_audit"), "results.json", "casita evaluate RUN")


def refuse_leaks(audit: Mapping[str, Any] | None, where: str, command: str) -> None:
    """`ValueError` unless an audit is there and counts no event in two splits, in whichever home."""
    counts = dict(leak_counts(audit or {}))
    if not counts:
        raise ValueError(f"{where}: no leak audit, so nothing can be said of the splits. Run: {command}")
    if leaks := {pair: count for pair, count in counts.items() if count}:
        raise ValueError(f"{where}: events in two splits: {leaks}. No card is written. Run: {command}")


def leak_counts(audit: Mapping[str, Any], home: str = "") -> Iterator[tuple[str, int]]:
    """Events in two splits by pair of splits; those of several homes with the home's name."""
    for name, told in audit.items():
        if isinstance(told, Mapping):
            yield from leak_counts(told, f"{name}: ")
        else:
            yield f"{home}{name}", told
