"""Confidence intervals for what was measured on windows: a bootstrap over whole days or sessions.

Windows of one day resemble each other (they even overlap), so that a bootstrap over windows would promise too much.
Days, or sessions, are drawn with replacement instead, with all of their windows (the cluster bootstrap: Field & Welsh
2007, "Bootstrapping clustered data"; percentile intervals: Efron & Tibshirani 1993, "An Introduction to the
Bootstrap", chapter 13). The encoders and the fitted classifiers stay as they are, and with several seeds it is the
mean over the seeds that is computed of each draw: an interval says how much other test days might have changed the
number, `<metric>_sd` how much other seeds do. Of fewer than about ten clusters an interval is too narrow.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from casita.results import Scores
from casita.train.evaluation.probes import Prediction, Task
from casita.train.metrics.classification import BINS, CLASSIFICATION, confidence_gaps, table_metrics
from casita.train.metrics.ranking import NAMES, Ranked

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class BootstrapClusters:
    """The day or session of each of `N` windows: `code` `(N,)` 0..U-1, of the kind `unit`."""

    code: np.ndarray
    unit: str

    @property
    def count(self) -> int:
        """Count the clusters."""
        return int(self.code.max(initial=-1)) + 1

    def take(self, rows: np.ndarray) -> "BootstrapClusters":
        """Keep those of some windows, numbered anew."""
        _, code = np.unique(self.code[rows], return_inverse=True)
        return BootstrapClusters(code.reshape(-1), self.unit)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum `values` `(N, ...)` over each cluster's windows: `(U, ...)`."""
        total = np.zeros((self.count, *values.shape[1:]))
        np.add.at(total, self.code, values)
        return total

    def draws(self, resamples: int = RESAMPLES) -> np.ndarray:
        """Count how often each cluster is drawn, `(R, U)`: the same draws for all that is measured on the clusters."""
        return np.random.default_rng(0).multinomial(self.count, np.full(self.count, 1 / self.count), size=resamples)


def intervals(names: Sequence[str], values: np.ndarray) -> dict[str, list[float]]:
    """Return `<name>_ci`, the two bounds of each of `M` numbers, from what they were in `R` draws: `(R, M)`."""
    tail = (1 - LEVEL) / 2
    bounds = np.quantile(values, [tail, 1 - tail], axis=0).T
    return {f"{name}_ci": low_high for name, low_high in zip(names, bounds.tolist(), strict=True)}


def classification_intervals(
    answers: Collection[Prediction], task: Task, clusters: BootstrapClusters
) -> dict[str, list[float]]:
    """Return `<metric>_ci` of the mean over seeds of each classification metric and ECE; `{}` with a single cluster.

    Args:
        answers: of each seed, to the task's test windows; clusters: of those windows.
    """
    if clusters.count < 2:
        return {}
    draws = clusters.draws()
    by_seed = [_metrics_of_draws(draws, answer, task, clusters) for answer in answers]
    return intervals([*CLASSIFICATION, "ece"], np.mean(by_seed, axis=0))


def difference_scores(
    answers: Collection[Prediction], rivals: Collection[Prediction], task: Task, clusters: BootstrapClusters
) -> Scores:
    """Subtract the metrics of `rivals` from those of `answers`, means over seeds; `<metric>_ci` by the same draws.

    Two methods err on the same days: their difference is surer than either number. Args as in
    `classification_intervals`.
    """
    sides = [[_confusion_of_clusters(answer, task, clusters) for answer in side] for side in (answers, rivals)]

    def less(draws: np.ndarray) -> np.ndarray:
        first, second = (
            np.mean([table_metrics(np.tensordot(draws, table, 1)) for table in tables], axis=0) for tables in sides
        )
        return first - second

    difference = less(np.ones((1, clusters.count)))[0]
    bounds = intervals(CLASSIFICATION, less(clusters.draws())) if clusters.count > 1 else {}
    return dict(zip(CLASSIFICATION, difference.tolist(), strict=True)) | bounds


def _confusion_of_clusters(answer: Prediction, task: Task, clusters: BootstrapClusters) -> np.ndarray:
    """Count the confusion table of each cluster, `(U, K, K)`, over the labels that are true or predicted."""
    labels, codes = np.unique([*task.y[task.test], *answer.labels], return_inverse=True)
    row, column = np.split(codes, 2)  # of the true labels, then of the predicted ones
    tables = np.zeros((clusters.count, len(labels), len(labels)))
    np.add.at(tables, (clusters.code, row, column), 1)
    return tables


def _metrics_of_draws(draws: np.ndarray, answer: Prediction, task: Task, clusters: BootstrapClusters) -> np.ndarray:
    """Return the metrics and ECE `(R, 5)` as they are when the clusters count as often as they were drawn."""
    tables = _confusion_of_clusters(answer, task, clusters)
    labels = tables.shape[1]
    drawn = (draws @ tables.reshape(len(tables), -1)).reshape(-1, labels, labels)
    gap, bin_of_window = confidence_gaps(answer.probabilities, task.y[task.test].tolist(), answer.classes)
    gaps = np.zeros((clusters.count, BINS))  # each cluster's sums by bin
    np.add.at(gaps, (clusters.code, bin_of_window), gap)
    error = np.abs(draws @ gaps).sum(axis=1) / drawn.sum(axis=(1, 2))
    return np.column_stack([table_metrics(drawn), error])


def ranking_intervals(ranked: Sequence[Ranked], clusters: BootstrapClusters) -> dict[str, list[float]]:
    """Return `<metric>_ci` of the mean over seeds: queries are drawn by their windows' clusters, the candidates stay.

    Args:
        ranked: of each seed; the same queries in all. clusters: of the windows that `Ranked.rows` number.
    """
    query_clusters = clusters.take(ranked[0].rows)
    if query_clusters.count < 2:
        return {}
    sums = query_clusters.sums(np.mean([rankings.scores for rankings in ranked], axis=0))
    queries = query_clusters.sums(np.ones(len(query_clusters.code)))
    draws = query_clusters.draws()
    return intervals(NAMES, (draws @ sums) / (draws @ queries)[:, None])
