"""Rows of an evaluation's tables: answers, rankings and clusters as numbers, means over seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from casita.results import MethodScores, ReliabilityCurve, Scores
from casita.train.evaluation.bootstrap import BootstrapClusters, classification_intervals
from casita.train.evaluation.probes import Prediction, Task
from casita.train.evaluation.protocol_split import ProtocolSplit
from casita.train.metrics.classification import calibration_bins, over_seeds, per_class
from casita.train.metrics.ranking import Ranked

PredictionsBySeed = Mapping[str, Prediction]


def method_scores(
    answers: Mapping[str, PredictionsBySeed], task: Task, clusters: BootstrapClusters
) -> dict[str, Scores]:
    """Return each method's metrics: mean over seeds, `<metric>_sd`, `<metric>_ci`, and under `seeds` those of each.

    `clusters` are those of the task's test windows.
    """
    rows: dict[str, Scores] = {}
    for method, by_seed in answers.items():
        scores = {seed: prediction.metrics(task) for seed, prediction in by_seed.items()}
        seeds = {seed: {**scores[seed], "settings": dict(by_seed[seed].settings)} for seed in by_seed}
        bounds = classification_intervals(by_seed.values(), task, clusters)
        rows[method] = {**over_seeds(scores), "seeds": seeds, **bounds}
    return rows


def class_rows(answers: Mapping[str, PredictionsBySeed], task: Task) -> dict[str, MethodScores]:
    """Return precision, recall, F1 (means over seeds) and support of each activity, for every method."""
    y_true = task.y[task.test].tolist()
    rows: dict[str, MethodScores] = {}
    for method, by_seed in answers.items():
        classes = {seed: per_class(y_true, answer.labels) for seed, answer in by_seed.items()}
        rows[method] = {
            label: {
                name: value
                for name, value in over_seeds({seed: scores[label] for seed, scores in classes.items()}).items()
                if not name.endswith("_sd")
            }
            for label in next(iter(classes.values()))
        }
    return rows


def calibration_rows(answers: Mapping[str, PredictionsBySeed], task: Task) -> dict[str, ReliabilityCurve]:
    """Return the reliability curve of each method's first seed, with its ECE."""
    y_true = task.y[task.test].tolist()
    rows: dict[str, ReliabilityCurve] = {}
    for method, by_seed in answers.items():
        first = next(iter(by_seed.values()))
        bins = calibration_bins(first.probabilities, y_true, first.classes)
        rows[method] = {"bins": bins, "ece": first.metrics(task)["ece"]}
    return rows


def label_rows(by_seed: Mapping[str, Ranked], wanted: Sequence[str]) -> dict[str, Scores]:
    """Average the queries' scores by the label that they ask for, means over seeds."""
    rows: dict[str, Scores] = {}
    for label in dict.fromkeys(wanted):
        queries = np.flatnonzero([name == label for name in wanted])
        scores = np.mean([ranked.scores[queries] for ranked in by_seed.values()], axis=0)
        rows[label] = Ranked(scores, queries, next(iter(by_seed.values())).candidates).mean()
    return rows


def caption_scores(queries: Sequence[str], captions: Sequence[str], train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Compute cosines `(Q, N)` of queries and test captions by tf-idf of words, weighted by the train captions."""
    words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32).fit(captions[i] for i in train)
    return (words.transform(queries) @ words.transform([captions[i] for i in test]).T).toarray()


def cluster_agreement(features: np.ndarray | csr_matrix, y: np.ndarray) -> dict[str, float]:
    """Compare k-means with the labels: adjusted Rand index, normalised mutual information, number of clusters."""
    count = len(set(y))
    assigned = KMeans(count, n_init=5, random_state=0).fit_predict(features)
    return {
        "ari": float(adjusted_rand_score(y, assigned)),
        "nmi": float(normalized_mutual_info_score(y, assigned)),
        "clusters": count,
    }


def rooms_of(split: ProtocolSplit) -> list[list[str]]:
    """List the rooms of each window's events, in words that homes share: `bedroom_2` is a bedroom."""
    words: dict[str, list[str]] = {}
    for home in split.homes:
        for sensor, placed in home.folder.layout["sensors"].items():
            words[f"{home.name}/{sensor}"] = [word for word in placed["room"].lower().split("_") if not word.isdigit()]
    rows = zip(split.windows["home"].to_pylist(), split.windows["sensor_keys"].to_pylist(), strict=True)
    return [[word for key in keys for word in words[f"{home}/{key.rpartition('_')[0]}"]] for home, keys in rows]
