"""What a fine-tuned classifier is worth: validation and test windows, beside baselines on the same train windows."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from casita import __version__
from casita.files import read_json
from casita.modeling.modeling_casita import CasitaForSequenceClassification
from casita.processing.processing_casita import CasitaProcessor
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.data.labelled_windows import LabelledWindows, choose_few, labelled_split, load_labelled
from casita.train.evaluation.probes import Prediction, Task, bag_of_sensors, majority
from casita.train.metrics.classification import per_class
from casita.train.training.classifier import probabilities


def evaluate_classifier(config: FinetuneConfig, audit: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `results.json` for the run's published model; `audit` are the events in two splits, by home.

    Raises:
        ValueError: no labelled window in the test split.
    """
    windows = {name: load_labelled(config, name) for name in ("train", "validation", "test")}
    windows["train"] = choose_few(windows["train"], config)
    if not len(windows["test"]):
        raise ValueError(f"{config.data}: no labelled window in the test split, so there is nothing to evaluate on.")
    task, sizes = _task(windows), [len(windows["validation"]), len(windows["test"])]
    classes, ours = classifier_answers(config, windows)
    keys = [own for part in windows.values() for own in part.keys]
    methods = {"finetuned": ours, "bag_of_sensors": bag_of_sensors(keys, task), "majority": majority(task)}
    scores = {
        split: {method: _part(answer, rows).metrics(_part_of(task, rows)) for method, answer in methods.items()}
        for split, rows in zip(("validation", "test"), _slices(sizes), strict=True)
        if rows.stop > rows.start
    }
    test = _slices(sizes)[1]
    y_test = task.y[task.test[test]].tolist()
    return {
        "casita_version": __version__,
        "run": Path(config.out).resolve().name,
        "home": ", ".join(audit),
        "settings": config.as_dict(),
        "data": {
            "windows": {name: len(part) for name, part in windows.items()},
            "train_labels": {label: int((windows["train"].labels == label).sum()) for label in classes},
            "test_labels_not_in_train": sorted(set(windows["test"].labels) - set(classes)),
            "leak_audit": dict(audit),
        },
        "headline": [{"method": method, **metrics} for method, metrics in scores["test"].items()],
        "scores": scores,
        "per_class": {method: per_class(y_test, _part(answer, test).labels) for method, answer in methods.items()},
        "training": _training(config),
    }


def _task(windows: Mapping[str, LabelledWindows]) -> Task:
    """All windows one after the other, where validation is answered too: it comes first in `test`."""
    labels = np.concatenate([part.labels for part in windows.values()])
    train, validation, test = (np.arange(a, b) for a, b in pairwise(np.cumsum([0, *map(len, windows.values())])))
    return Task(labels, train, validation, np.concatenate([validation, test]))


def classifier_answers(config: FinetuneConfig, windows: Mapping[str, LabelledWindows]) -> tuple[list[str], Prediction]:
    """The classes, and the published model's answers to validation and test windows."""
    directory = Path(config.out) / "model"
    model = CasitaForSequenceClassification.from_pretrained(directory).eval()
    nn.Module.to(model, "cuda" if torch.cuda.is_available() and not config.cpu else "cpu")
    processor = CasitaProcessor.from_pretrained(directory)
    classes = [str(model.config.id2label[i]) for i in range(len(model.config.id2label))]
    parts = [windows[name] for name in ("validation", "test") if len(windows[name])]
    found = [probabilities(model, labelled_split(part, classes, processor)) for part in parts]
    return classes, Prediction(np.concatenate(found), classes)


def _slices(sizes: list[int]) -> list[slice]:
    return [slice(a, b) for a, b in pairwise(np.cumsum([0, *sizes]).tolist())]


def _part(answer: Prediction, rows: slice) -> Prediction:
    return Prediction(answer.probabilities[rows], answer.classes, answer.settings)


def _part_of(task: Task, rows: slice) -> Task:
    return Task(task.y, task.train, task.validation, task.test[rows])


def _training(config: FinetuneConfig) -> dict[str, Any]:
    """Which step was kept, and what validation told of it."""
    told = read_json(Path(config.out) / "model" / "training.json")
    return {name: told[name] for name in ("step", "validation")}
