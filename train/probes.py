"""Classifiers that say what an embedding knows: the linear probe, the baselines beside it, and zero-shot from prompts.

All are fitted on the train split, choose their strength of regularisation on the validation split and predict the test
split, so that they differ in what they read and in nothing else.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from casita.train.calibration import fit_temperature
from casita.train.metrics import classification_metrics, ece

C_GRID = (0.01, 0.1, 1.0, 10.0)  # two decades around scikit-learn's default of 1, one step a decade
MAX_ITER = 300
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Task:
    """Labels `y` `(N,)` of all windows, and the row numbers of the windows to fit, to choose with and to predict."""

    y: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def rows(self) -> np.ndarray:
        """Every row that the task touches, sorted."""
        return np.unique(np.concatenate([self.train, self.validation, self.test]))

    def among(self, rows: np.ndarray) -> "Task":
        """The same task where only `rows` (sorted, holding all of the task's) were kept."""
        parts = {name: np.searchsorted(rows, getattr(self, name)) for name in ("train", "validation", "test")}
        return replace(self, y=self.y[rows], **parts)


@dataclass(frozen=True)
class Prediction:
    """`probabilities` `(N, K)` over `classes` for a task's test windows, and what was chosen on the way."""

    probabilities: np.ndarray
    classes: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The most probable class of each window."""
        return [self.classes[i] for i in self.probabilities.argmax(axis=1)]

    def metrics(self, task: Task) -> dict[str, float]:
        """Accuracy, balanced accuracy, macro and weighted F1, and ECE on the task's test windows."""
        y_true = task.y[task.test].tolist()
        return {
            **classification_metrics(y_true, self.labels),
            "ece": ece(self.probabilities, y_true, self.classes),
        }


def make_task(
    activities: Sequence[str | None], splits: Sequence[str], *, unlabelled: bool, max_windows: int | None = None
) -> Task:
    """The task of naming each window's activity; with `unlabelled` those without one form a class of that name.

    Train and validation are thinned to at most `max_windows` evenly spaced windows each; test never is.
    """
    y = np.array([UNLABELLED if label is None else label for label in activities], dtype=object)
    usable = np.array([unlabelled or label is not None for label in activities], dtype=bool)
    split = np.asarray(splits, dtype=object)
    rows = {name: np.flatnonzero(usable & (split == name)) for name in ("train", "validation", "test")}
    for name in ("train", "test"):
        if not len(rows[name]):
            raise ValueError(
                f"no labelled windows to evaluate in the {name} split ({int((split == name).sum())} windows). "
                "Probes need activities in the log: build the home from a log with begin/end marks or an activity "
                "column, or split it otherwise."
            )
    if max_windows is not None:
        rows |= {name: _thinned(rows[name], max_windows) for name in ("train", "validation")}
    return Task(y, **rows)


def majority(task: Task) -> Prediction:
    """Always the most frequent label of the train split, with the label's share there as confidence."""
    classes, counts = np.unique(task.y[task.train].astype(str), return_counts=True)
    return Prediction(np.tile(counts / counts.sum(), (len(task.test), 1)), classes.tolist())


def bag_of_sensors(sensor_keys: Sequence[Sequence[str]], task: Task, *, progress: bool = True) -> Prediction:
    """Logistic regression on how often each sensor state occurs in a window; states unseen in train count nothing."""
    counts = CountVectorizer(analyzer=list, dtype=np.float32)
    counts.fit(sensor_keys[i] for i in task.train)
    return logistic_probe(counts.transform(sensor_keys), task, "bag_of_sensors", progress=progress)


def tfidf_captions(captions: Sequence[str], task: Task, *, progress: bool = True) -> Prediction:
    """Logistic regression on tf-idf of the captions' words and pairs of words: what the caption alone gives away."""
    words = TfidfVectorizer(ngram_range=(1, 2), max_features=5000, sublinear_tf=True, dtype=np.float32)
    words.fit(captions[i] for i in task.train)
    return logistic_probe(words.transform(captions), task, "tfidf_captions", progress=progress)


def linear_probe(
    embeddings: np.ndarray, task: Task, name: str = "linear_probe", *, progress: bool = True
) -> Prediction:
    """Logistic regression on frozen embeddings `(N, C)`, each dimension standardised by the train windows."""
    scaler = StandardScaler().fit(embeddings[task.train])
    return logistic_probe(scaler.transform(embeddings), task, name, progress=progress)


def logistic_probe(features: Any, task: Task, name: str, *, progress: bool = True) -> Prediction:
    """Multinomial logistic regression on `features` `(N, F)`, dense or sparse; C has the best validation macro F1.

    Without a usable validation window C is 1, and `settings` says so. A train split with one label gives that label.
    """
    y_train, y_validation = task.y[task.train].astype(str), task.y[task.validation].astype(str)
    if len(set(y_train)) == 1:
        return Prediction(np.ones((len(task.test), 1)), [y_train[0]], {"C": None, "chosen_on": "one label in train"})
    grid = C_GRID if len(y_validation) else (1.0,)
    best: tuple[float, float, LogisticRegression] | None = None
    model = LogisticRegression(max_iter=MAX_ITER, warm_start=True)  # from weak to strong weights, each from the last
    for strength in tqdm(grid, desc=f"probe {name}", unit="fit", leave=False, disable=not progress):
        model.set_params(C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # told in `settings` instead
            model.fit(features[task.train], y_train)
        score = 0.0
        if len(y_validation):
            score = classification_metrics(y_validation, model.predict(features[task.validation]).tolist())["macro_f1"]
        if best is None or score > best[0]:
            best = (score, strength, copy.deepcopy(model))
    assert best is not None
    score, strength, model = best
    settings = {
        "C": strength,
        "chosen_on": "validation macro F1" if len(y_validation) else "default: no usable validation window",
        "converged": bool(model.n_iter_.max() < MAX_ITER),
    }
    return Prediction(model.predict_proba(features[task.test]), model.classes_.tolist(), settings)


def zero_shot(
    sensor: np.ndarray, prototypes: np.ndarray, classes: Sequence[str], scale: float, task: Task
) -> Prediction:
    """Softmax over scaled cosines of windows `sensor` `(N, P)` and label prototypes `(K, P)`, unit rows both.

    One temperature, fitted on the labelled validation windows, divides the logits: it moves no window to another
    label, only how sure the answers are. Without such windows it is 1. No prompt says "unlabelled": where that is a
    label, such windows count as misses.
    """
    number = {label: i for i, label in enumerate(classes)}
    known = np.array([row for row in task.validation if task.y[row] in number], dtype=np.int64)
    settings: dict[str, Any] = {"temperature": 1.0, "fitted_on": "default: no usable validation window"}
    if len(known) and len(classes) > 1:
        target = np.array([number[label] for label in task.y[known]])
        fitted = fit_temperature(scale * sensor[known] @ prototypes.T, target)
        settings = {"temperature": fitted, "fitted_on": "validation"}
    logits = scale / settings["temperature"] * sensor[task.test] @ prototypes.T
    return Prediction(softmax(logits, axis=1), list(classes), settings)


def _thinned(rows: np.ndarray, most: int) -> np.ndarray:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
