"""Classifiers that say what an embedding knows: the linear probe, the baselines beside it, and zero-shot from prompts.

All are fitted on the train split, choose their strength of regularisation on the validation split and predict the test
split, so that they differ in what they read and in nothing else.
"""

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.special import softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler, normalize
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from casita.train.data.labelled_windows import UNLABELLED
from casita.train.metrics.calibration import fit_temperature
from casita.train.metrics.classification import CLASSIFICATION, classification_metrics, ece, table_metrics

# Weights from strongly to weakly held down, a step a decade. Hundreds of standardised dimensions want 0.001 to 0.1,
# counts of a few sensors in [0, 1] 1 or more. The weak ones cost the most iterations: see `PATIENCE`.
C_GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0)
PATIENCE = 2  # so many values in a row without a better validation score end the search
MAX_ITER = 300  # of each value
MORE_ITER = 1000  # of the chosen one, where it has not converged by then


@dataclass(frozen=True)
class Task:
    """Labels `y` `(N,)` of all windows, and the row numbers of the windows to fit, to choose with and to predict."""

    y: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    def only(self, labels: Collection[str]) -> "Task":
        """Return the same task without the windows of any other label."""
        parts = {name: rows[np.isin(self.y[rows].astype(str), list(labels))] for name, rows in self._parts().items()}
        return replace(self, **parts)

    def thinned(self, max_windows: int | None) -> "Task":
        """Return the same task with at most `max_windows` evenly spaced windows each of train and validation."""
        if max_windows is None:
            return self
        return replace(
            self, train=_thinned(self.train, max_windows), validation=_thinned(self.validation, max_windows)
        )

    def _parts(self) -> dict[str, np.ndarray]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    def rows(self) -> np.ndarray:
        """List every row that the task touches, sorted."""
        return np.unique(np.concatenate([self.train, self.validation, self.test]))

    def among(self, rows: np.ndarray) -> "Task":
        """Return the same task where only `rows` (sorted, holding all of the task's) were kept."""
        parts = {name: np.searchsorted(rows, part) for name, part in self._parts().items()}
        return replace(self, y=self.y[rows], **parts)


@dataclass(frozen=True)
class Prediction:
    """`probabilities` `(N, K)` over `classes` for a task's test windows, `validation` `(V, K)` for its validation
    windows, and `settings`, chosen on the way."""

    probabilities: np.ndarray
    classes: Sequence[str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    validation: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def labels(self) -> list[str]:
        """Name the most probable class of each window."""
        return [self.classes[i] for i in self.probabilities.argmax(axis=1)]

    def metrics(self, task: Task) -> dict[str, float]:
        """Compute accuracy, balanced accuracy, macro and weighted F1, and ECE on the task's test windows."""
        y_true = task.y[task.test].tolist()
        return {
            **classification_metrics(y_true, self.labels),
            "ece": ece(self.probabilities, y_true, self.classes),
        }

    def validation_metrics(self, task: Task) -> dict[str, float]:
        """Compute the same metrics on the task's validation windows."""
        return replace(self, probabilities=self.validation).metrics(replace(task, test=task.validation))


def make_task(
    activities: Sequence[str | None],
    splits: Sequence[str],
    *,
    unlabelled: bool,
    max_windows: int | None = None,
    without: Collection[str] = (),
) -> Task:
    """Make the task of naming each window's activity; with `unlabelled` those without one form a class of that name.

    Windows labelled as one of `without` take no part. Train and validation are thinned to at most `max_windows` evenly
    spaced windows each; test never is.
    """
    y = np.array([UNLABELLED if label is None else label for label in activities], dtype=object)
    usable = np.array([(unlabelled or a is not None) and a not in without for a in activities], dtype=bool)
    split = np.asarray(splits, dtype=object)
    rows = {name: np.flatnonzero(usable & (split == name)) for name in ("train", "validation", "test")}
    for name in ("train", "test"):
        if not len(rows[name]):
            raise ValueError(
                f"no labelled windows to evaluate in the {name} split ({int((split == name).sum())} windows). "
                "Probes need activities in the log: build the home from a log with begin/end marks or an activity "
                "column, or split it otherwise."
            )
    return Task(y, **rows).thinned(max_windows)


def majority(task: Task) -> Prediction:
    """Answer always the most frequent label of the train split, with the label's share there as confidence."""
    classes, counts = np.unique(task.y[task.train].astype(str), return_counts=True)
    shares = counts / counts.sum()
    return Prediction(
        np.tile(shares, (len(task.test), 1)), classes.tolist(), validation=np.tile(shares, (len(task.validation), 1))
    )


def bag_of_sensors(
    sensor_keys: Sequence[Sequence[str]], task: Task, *, progress: bool = True, name: str = "bag_of_sensors"
) -> Prediction:
    """Fit logistic regression on how often each sensor state occurs in a window, as a share of the most in train.

    States unseen there count nothing. The words of rooms in the place of states make a bag of rooms.
    """
    counts = make_pipeline(CountVectorizer(analyzer=list, dtype=np.float32), MaxAbsScaler())  # unscaled: slow to fit
    counts.fit([sensor_keys[i] for i in task.train])
    rows = task.rows()
    features = counts.transform([sensor_keys[i] for i in rows])
    return logistic_probe(features, task.among(rows), name, progress=progress)


def tfidf_captions(captions: Sequence[str], task: Task, *, progress: bool = True) -> Prediction:
    """Fit logistic regression on tf-idf of the captions' words and pairs of words: all that a caption gives away."""
    words = TfidfVectorizer(ngram_range=(1, 2), max_features=5000, sublinear_tf=True, dtype=np.float32)
    words.fit(captions[i] for i in task.train)
    rows = task.rows()
    features = words.transform(captions[i] for i in rows)
    return logistic_probe(features, task.among(rows), "tfidf_captions", progress=progress)


def nearest_prompt_tfidf(captions: Sequence[str], prompts: Mapping[str, Sequence[str]], task: Task) -> Prediction:
    """Answer zero-shot without any encoder: the label whose prompts share most with the caption, by tf-idf of words.

    The words' weights are the train captions'; temperature and unlabelled windows are as in `zero_shot`.
    """
    words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    texts = [text for label in prompts for text in prompts[label]]
    words.fit([*(captions[i] for i in task.train), *texts])
    label_of = np.repeat(np.arange(len(prompts)), [len(sentences) for sentences in prompts.values()])
    sums = csr_matrix((np.ones(len(texts), np.float32), (label_of, np.arange(len(texts))))) @ words.transform(texts)
    prototypes = normalize(sums)
    return nearest(lambda rows: (words.transform(captions[i] for i in rows) @ prototypes.T).toarray(), prompts, task)


def linear_probe(
    embeddings: np.ndarray, task: Task, name: str = "linear_probe", *, progress: bool = True
) -> Prediction:
    """Fit logistic regression on frozen embeddings `(N, C)`, each dimension standardised by the train windows."""
    scaler = StandardScaler().fit(embeddings[task.train])
    return logistic_probe(scaler.transform(embeddings), task, name, progress=progress)


def logistic_probe(features: Any, task: Task, name: str, *, progress: bool = True) -> Prediction:
    """Fit multinomial logistic regression on `features` `(N, F)`, dense or sparse; C has the best validation macro F1.

    Without a usable validation window C is 1, and `settings` says so, as it says whether the solver converged. A train
    split with one label gives that label.
    """
    y_train = task.y[task.train].astype(str)
    y_validation = task.y[task.validation].astype(str)
    if len(set(y_train)) == 1:
        settings = {"C": None, "chosen_on": "one label in train"}
        return Prediction(
            np.ones((len(task.test), 1)), [y_train[0]], settings, validation=np.ones((len(task.validation), 1))
        )
    grid = C_GRID if len(y_validation) else (1.0,)
    x_train = features[task.train]
    x_validation = features[task.validation]
    best: tuple[float, dict[str, Any], LogisticRegression] | None = None
    model = LogisticRegression(max_iter=MAX_ITER, warm_start=True)  # each from the weights before
    worse = 0
    for strength in tqdm(grid, desc=f"probe {name}", unit="fit", leave=False, disable=not progress):
        model.set_params(C=strength)
        converged = _fit(model, x_train, y_train)
        score = 0.0
        if len(y_validation):
            score = classification_metrics(y_validation, model.predict(x_validation).tolist())["macro_f1"]
        if best is None or score > best[0]:
            best = score, {"C": strength, "converged": converged}, copy.deepcopy(model)
            worse = 0
        else:
            worse += 1
        if worse == PATIENCE:
            break
    assert best is not None
    _, chosen, model = best
    if not chosen["converged"]:
        chosen["converged"] = _fit(model.set_params(max_iter=MORE_ITER), x_train, y_train)
    chosen["chosen_on"] = "validation macro F1" if len(y_validation) else "default: no usable validation window"
    validation = model.predict_proba(x_validation) if len(y_validation) else np.zeros((0, len(model.classes_)))
    return Prediction(model.predict_proba(features[task.test]), model.classes_.tolist(), chosen, validation)


def _fit(model: LogisticRegression, features: Any, labels: np.ndarray) -> bool:
    """Fit, and return whether the solver reached its tolerance within `MAX_ITER` steps.

    One BLAS thread: products with a few classes are too narrow to share (two threads took three to four times as long
    on windows of the demo), and the same weights come out whatever machine it is.
    """
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(features, labels)
    return not any(issubclass(warning.category, ConvergenceWarning) for warning in caught)


def zero_shot(
    sensor: np.ndarray,
    prototypes: np.ndarray,
    classes: Sequence[str],
    scale: float,
    task: Task,
    *,
    centre_on: np.ndarray | None = None,
) -> Prediction:
    """Answer by softmax over scaled cosines of windows `sensor` `(N, P)` and label `prototypes` `(K, P)`, unit rows.

    With row numbers `centre_on` each label's mean over those windows is subtracted: how near a sentence is to any
    window at all says nothing of this one.
    """

    def logits(rows: np.ndarray) -> np.ndarray:
        return scale * sensor[rows] @ prototypes.T

    usual = np.float32(0) if centre_on is None else logits(centre_on).mean(axis=0)
    return nearest(lambda rows: logits(rows) - usual, classes, task)


def nearest(logits: Callable[[np.ndarray], np.ndarray], classes: Iterable[str], task: Task) -> Prediction:
    """Answer by softmax over `logits` of row numbers, `(n,)` to `(n, K)`, at the temperature that suits validation.

    One temperature, fitted on the labelled validation windows, divides the logits: it moves no window to another
    label, only how sure the answers are. Without such windows it is 1. No prompt says "unlabelled": where that is a
    label, such windows count as misses.
    """
    classes = list(classes)
    number = {label: i for i, label in enumerate(classes)}
    known = np.array([row for row in task.validation if task.y[row] in number], dtype=np.int64)
    settings: dict[str, Any] = {"temperature": 1.0, "fitted_on": "default: no usable validation window"}
    if len(known) and len(classes) > 1:
        target = np.array([number[label] for label in task.y[known]])
        settings = {"temperature": fit_temperature(logits(known), target), "fitted_on": "validation"}
    validation = logits(task.validation) if len(task.validation) else np.zeros((0, len(classes)))
    answers = [softmax(rows / settings["temperature"], axis=1) for rows in (logits(task.test), validation)]
    return Prediction(answers[0], classes, settings, answers[1])


def chance(task: Task) -> dict[str, float]:
    """Score a guess among the train labels, all equally likely: by the confusion table expected of it."""
    classes = sorted(set(task.y[task.train]))
    y_true = task.y[task.test].tolist()
    labels = sorted({*classes, *y_true})
    guessed = np.isin(labels, classes) / len(classes)
    table = np.outer([y_true.count(label) for label in labels], guessed)
    scores = dict(zip(CLASSIFICATION, table_metrics(table).tolist(), strict=True))
    return {**scores, "ece": abs(scores["accuracy"] - 1 / len(classes))}  # a guess is as sure as one of so many is


def _thinned(rows: np.ndarray, most: int) -> np.ndarray:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]
