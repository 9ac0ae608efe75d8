"""Rows of an evaluation's tables: answers, rankings and clusters as numbers, means over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from casita.train.evaluation.probes import Prediction, Task
from casita.train.evaluation.protocols import ProtocolSplit
from casita.train.metrics.classification import calibration_bins, over_seeds, per_class
from casita.train.metrics.ranking import Ranked


def classification_rows(answers: Mapping[str, Mapping[str, Prediction]], task: Task) -> dict[str, Any]:
    """Each method's metrics: mean over its seeds, `<metric>_sd`, and under `seeds` each seed's own and settings."""
    rows = {}
    for method, by_seed in answers.items():
        scores = {seed: prediction.metrics(task) for seed, prediction in by_seed.items()}
        each = {seed: {**scores[seed], "settings": dict(by_seed[seed].settings)} for seed in by_seed}
        rows[method] = {**over_seeds(scores), "seeds": each}
    return rows


def class_rows(answers: Mapping[str, Mapping[str, Prediction]], task: Task) -> dict[str, Any]:
    """Precision, recall, F1 (means over seeds) and support of each activity, for every method."""
    y_true = task.y[task.test].tolist()
    rows: dict[str, Any] = {}
    for method, by_seed in answers.items():
        found = {seed: per_class(y_true, answer.labels) for seed, answer in by_seed.items()}
        rows[method] = {
            label: {
                name: value
                for name, value in over_seeds({seed: each[label] for seed, each in found.items()}).items()
                if not name.endswith("_sd")
            }
            for label in next(iter(found.values()))
        }
    return rows


def calibration_rows(answers: Mapping[str, Mapping[str, Prediction]], task: Task) -> dict[str, Any]:
    """The reliability curve of each method's first seed, with its ECE."""
    y_true, rows = task.y[task.test].tolist(), {}
    for method, by_seed in answers.items():
        first = next(iter(by_seed.values()))
        bins = calibration_bins(first.probabilities, y_true, first.classes)
        rows[method] = {"bins": bins, "ece": first.metrics(task)["ece"]}
    return rows


def label_rows(found: Mapping[str, Ranked], wanted: Sequence[str]) -> dict[str, Any]:
    """The queries' scores by the label that they ask for, means over seeds."""
    rows = {}
    for label in dict.fromkeys(wanted):
        mine = np.flatnonzero([name == label for name in wanted])
        scores = np.mean([ranked.scores[mine] for ranked in found.values()], axis=0)
        rows[label] = Ranked(scores, mine, next(iter(found.values())).candidates).mean()
    return rows


def caption_scores(queries: Sequence[str], captions: Sequence[str], train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """`(Q, N)` cosines of queries and test captions by tf-idf of words, weighted by the train captions."""
    words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit(captions[i] for i in train)
    return (words.transform(queries) @ words.transform([captions[i] for i in test]).T).toarray()


def clusters(features: Any, y: np.ndarray) -> dict[str, float]:
    """Adjusted Rand index and normalised mutual information of k-means with the labels, and how many clusters."""
    count = len(set(y))
    found = KMeans(count, n_init=5, random_state=0).fit_predict(features)
    return {
        "ari": float(adjusted_rand_score(y, found)),
        "nmi": float(normalized_mutual_info_score(y, found)),
        "clusters": count,
    }


def home_rows(case: ProtocolSplit) -> np.ndarray:
    """Of each test window its row among all windows of the case's home, which comes last among the case's homes."""
    mine = case.where[str(case.home.folder.root)]
    return mine[case.test - (len(case.windows) - len(mine))]


def rooms_of(case: ProtocolSplit) -> list[list[str]]:
    """Of each window the rooms of its events, in words that homes share: `bedroom_2` is a bedroom."""
    words: dict[str, list[str]] = {}
    for home in case.homes:
        for sensor, told in home.folder.layout["sensors"].items():
            words[f"{home.name}/{sensor}"] = [word for word in told["room"].lower().split("_") if not word.isdigit()]
    rows = zip(case.windows["home"].to_pylist(), case.windows["sensor_keys"].to_pylist(), strict=True)
    return [[word for key in keys for word in words[f"{home}/{key.rpartition('_')[0]}"]] for home, keys in rows]
