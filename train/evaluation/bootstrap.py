"""Confidence intervals for what was measured on windows: a bootstrap over whole days or sessions.

Windows of one day resemble each other (they even overlap), so that a bootstrap over windows would promise too much.
Days, or sessions, are drawn with replacement instead, with all of their windows (the cluster bootstrap: Field & Welsh
2007, "Bootstrapping clustered data"; percentile intervals: Efron & Tibshirani 1993, "An Introduction to the
Bootstrap", chapter 13). The encoders and the fitted classifiers stay as they are, and with several seeds it is the
mean over the seeds that is computed of each draw: an interval says how much other test days might have changed the
number, `<metric>_sd` how much other seeds do. Of fewer than about ten clusters an interval is too narrow.
"""

from collections.abc import Callable, Collection, Sequence
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
        """Number of clusters."""
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

    def draws(self, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
        """Count how often each cluster is drawn, `(R, U)`: the same draws for all that is measured on the clusters."""
        return np.random.default_rng(seed).multinomial(self.count, np.full(self.count, 1 / self.count), size=resamples)


def interval(statistic: Callable[[np.ndarray], np.ndarray], clusters: BootstrapClusters) -> np.ndarray:
    """Bounds `(M, 2)` of `M` numbers that `statistic` makes of draws: `(R, U)` to `(R, M)`."""
    tail = (1 - LEVEL) / 2
    return np.quantile(statistic(clusters.draws()), [tail, 1 - tail], axis=0).T


def classification_intervals(
    answers: Collection[Prediction], task: Task, clusters: BootstrapClusters
) -> dict[str, list[float]]:
    """`<metric>_ci` of the mean over seeds of each classification metric and ECE; `{}` with a single cluster.

    Args:
        answers: of each seed, to the task's test windows; clusters: of those windows.
    """
    if clusters.count < 2:
        return {}
    tables = [_confusion_of_clusters(answer, task, clusters) for answer in answers]
    gaps = [_gaps_of_clusters(answer, task, clusters) for answer in answers]

    def mean_over_seeds(draws: np.ndarray) -> np.ndarray:
        seeds = zip(tables, gaps, strict=True)
        return np.mean([_metrics_of_draws(draws, table, gap) for table, gap in seeds], axis=0)

    return _named([*CLASSIFICATION, "ece"], interval(mean_over_seeds, clusters))


def difference_scores(
    answers: Collection[Prediction], rivals: Collection[Prediction], task: Task, clusters: BootstrapClusters
) -> Scores:
    """Each metric of `answers` less that of `rivals`, means over seeds; `<metric>_ci` by the same draws for both.

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
    bounds = _named(CLASSIFICATION, interval(less, clusters)) if clusters.count > 1 else {}
    return dict(zip(CLASSIFICATION, difference.tolist(), strict=True)) | bounds


def _confusion_of_clusters(answer: Prediction, task: Task, clusters: BootstrapClusters) -> np.ndarray:
    """Confusion table of each cluster, `(U, K, K)`, over the labels that are true or predicted."""
    y_true = task.y[task.test].tolist()
    predicted = answer.labels
    number = {label: i for i, label in enumerate(sorted({*y_true, *predicted}))}
    row = np.array([number[label] for label in y_true])
    column = np.array([number[label] for label in predicted])
    tables = np.zeros((clusters.count, len(number), len(number)))
    np.add.at(tables, (clusters.code, row, column), 1)
    return tables


def _gaps_of_clusters(answer: Prediction, task: Task, clusters: BootstrapClusters) -> np.ndarray:
    """Sums of each cluster's confidence gaps by bin, `(U, BINS)`."""
    gap, bin_of_window = confidence_gaps(answer.probabilities, task.y[task.test].tolist(), answer.classes)
    gaps = np.zeros((clusters.count, BINS))
    np.add.at(gaps, (clusters.code, bin_of_window), gap)
    return gaps


def _metrics_of_draws(draws: np.ndarray, tables: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """The metrics and ECE `(R, 5)` as they are when the clusters count as often as they were drawn."""
    labels = tables.shape[1]
    drawn = (draws @ tables.reshape(len(tables), -1)).reshape(-1, labels, labels)
    error = np.abs(draws @ gaps).sum(axis=1) / drawn.sum(axis=(1, 2))
    return np.column_stack([table_metrics(drawn), error])


def ranking_intervals(ranked: Sequence[Ranked], clusters: BootstrapClusters) -> dict[str, list[float]]:
    """`<metric>_ci` of the mean over seeds: queries are drawn by their windows' clusters, the candidates stay.

    Args:
        ranked: of each seed; the same queries in all. clusters: of the windows that `Ranked.rows` number.
    """
    query_clusters = clusters.take(ranked[0].rows)
    if query_clusters.count < 2:
        return {}
    sums = query_clusters.sums(np.mean([rankings.scores for rankings in ranked], axis=0))
    queries = query_clusters.sums(np.ones(len(query_clusters.code)))

    def mean_of_draws(draws: np.ndarray) -> np.ndarray:
        return (draws @ sums) / (draws @ queries)[:, None]

    return _named(NAMES, interval(mean_of_draws, query_clusters))


def _named(names: Sequence[str], bounds: np.ndarray) -> dict[str, list[float]]:
    return {f"{name}_ci": [float(low), float(high)] for name, (low, high) in zip(names, bounds, strict=True)}
