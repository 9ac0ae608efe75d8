"""Scores of a fine-tuned classifier on validation and test windows, beside baselines on the same train windows."""

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
    """Make the content of `results.json` for the run's published model; `audit` are the events in two splits, by home.

    Raises:
        ValueError: no labelled window in the test split.
    """
    windows = load_chosen(config)
    if not len(windows["test"]):
        raise ValueError(f"{config.data}: no labelled window in the test split, so there is nothing to evaluate on.")
    task = make_chosen_task(windows)
    answer = predict_finetuned(config, windows)
    keys = [window_keys for part in windows.values() for window_keys in part.keys]
    methods = {"finetuned": answer, "bag_of_sensors": bag_of_sensors(keys, task), "majority": majority(task)}
    scores = {"test": {method: prediction.metrics(task) for method, prediction in methods.items()}}
    if len(task.validation):
        scores["validation"] = {method: prediction.validation_metrics(task) for method, prediction in methods.items()}
    y_test = task.y[task.test].tolist()
    kept_step = read_json(Path(config.out) / "model" / "training.json")
    return {
        "casita_version": __version__,
        "run": Path(config.out).resolve().name,
        "home": ", ".join(audit),
        "settings": config.as_dict(),
        "data": {
            "windows": {name: len(part) for name, part in windows.items()},
            "train_labels": {label: int((windows["train"].labels == label).sum()) for label in answer.classes},
            "test_labels_not_in_train": sorted(set(windows["test"].labels) - set(answer.classes)),
            "leak_audit": dict(audit),
        },
        "headline": [{"method": method, **metrics} for method, metrics in scores["test"].items()],
        "scores": scores,
        "per_class": {method: per_class(y_test, prediction.labels) for method, prediction in methods.items()},
        "training": {name: kept_step[name] for name in ("step", "validation")},
    }


def load_chosen(config: FinetuneConfig) -> dict[str, LabelledWindows]:
    """Read the labelled windows by split, of train and validation those that `few_shot` leaves."""
    return choose_few({name: load_labelled(config, name) for name in ("train", "validation", "test")}, config)


def make_chosen_task(windows: Mapping[str, LabelledWindows]) -> Task:
    """Make the task of all windows, one split after the other."""
    labels = np.concatenate([part.labels for part in windows.values()])
    starts = np.cumsum([0, *map(len, windows.values())])
    train, validation, test = (np.arange(begin, end) for begin, end in pairwise(starts))
    return Task(labels, train, validation, test)


def predict_finetuned(config: FinetuneConfig, windows: Mapping[str, LabelledWindows]) -> Prediction:
    """Answer test and validation windows by the published model."""
    directory = Path(config.out) / "model"
    model = CasitaForSequenceClassification.from_pretrained(directory).eval()
    nn.Module.to(model, "cuda" if torch.cuda.is_available() and not config.cpu else "cpu")
    processor = CasitaProcessor.from_pretrained(directory)
    classes = [str(model.config.id2label[i]) for i in range(len(model.config.id2label))]
    answers = {
        name: probabilities(model, labelled_split(windows[name], classes, processor))
        if len(windows[name])
        else np.zeros((0, len(classes)), np.float32)
        for name in ("validation", "test")
    }
    return Prediction(answers["test"], classes, validation=answers["validation"])
