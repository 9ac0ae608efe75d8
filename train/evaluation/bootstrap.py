"""Confidence intervals for what was measured on windows: a bootstrap over whole days or sessions.

Windows of one day resemble each other (they even overlap), so that a bootstrap over windows would promise too much.
Days, or sessions, are drawn with replacement instead, with all of their windows (the cluster bootstrap: Field & Welsh
2007, "Bootstrapping clustered data"; percentile intervals: Efron & Tibshirani 1993, "An Introduction to the
Bootstrap", chapter 13). The encoders and the fitted classifiers stay as they are, and with several seeds it is the
mean over the seeds that is computed of each draw: an interval says how much other test days might have changed the
number, `<metric>_sd` how much other seeds do. Of fewer than about ten units an interval is too narrow.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from casita.train.evaluation.probes import Prediction, Task
from casita.train.metrics.classification import BINS, CLASSIFICATION, confidence_gaps, table_metrics
from casita.train.metrics.ranking import NAMES, Ranked

RESAMPLES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class BootstrapClusters:
    """Which day or session each of `N` windows is of: `code` `(N,)` 0..U-1, of the kind `unit`."""

    code: np.ndarray
    unit: str

    @property
    def count(self) -> int:
        return int(self.code.max(initial=-1)) + 1

    def take(self, rows: np.ndarray) -> "BootstrapClusters":
        """Those of some windows, numbered anew."""
        _, code = np.unique(self.code[rows], return_inverse=True)
        return BootstrapClusters(code.reshape(-1), self.unit)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """`(U, ...)` sums of `values` `(N, ...)` over each unit's windows."""
        total = np.zeros((self.count, *values.shape[1:]))
        np.add.at(total, self.code, values)
        return total

    def draws(self, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
        """`(R, U)` how often each unit is drawn; the same draws for whatever is measured on the same units."""
        return np.random.default_rng(seed).multinomial(self.count, np.full(self.count, 1 / self.count), size=resamples)


def interval(statistic: Callable[[np.ndarray], np.ndarray], units: BootstrapClusters) -> np.ndarray:
    """`(M, 2)` bounds of `M` numbers that `statistic` makes of draws: `(R, U)` to `(R, M)`."""
    tail = (1 - LEVEL) / 2
    return np.quantile(statistic(units.draws()), [tail, 1 - tail], axis=0).T


def classification_intervals(
    answers: Iterable[Prediction], task: Task, units: BootstrapClusters
) -> dict[str, list[float]]:
    """`<metric>_ci` of the mean over seeds of each of the classification metrics and ECE; `{}` with a single unit.

    Args:
        answers: of each seed, to the task's test windows; units: of those windows.
    """
    if units.count < 2:
        return {}
    y_true = task.y[task.test].tolist()
    counted = [_counted(answer, y_true, units) for answer in answers]

    def mean_over_seeds(draws: np.ndarray) -> np.ndarray:
        return np.mean([_of_draws(draws, *each) for each in counted], axis=0)

    return _named([*CLASSIFICATION, "ece"], interval(mean_over_seeds, units))


def _counted(answer: Prediction, y_true: list[str], units: BootstrapClusters) -> tuple[np.ndarray, np.ndarray]:
    """Of each unit its confusion table `(U, K, K)` and its sums of confidence gaps by bin `(U, BINS)`."""
    called = answer.labels
    number = {label: i for i, label in enumerate(sorted({*y_true, *called}))}
    tables = np.zeros((units.count, len(number), len(number)))
    row, column = (np.array([number[label] for label in labels]) for labels in (y_true, called))
    np.add.at(tables, (units.code, row, column), 1)
    gap, own_bin = confidence_gaps(answer.probabilities, y_true, answer.classes)
    gaps = np.zeros((units.count, BINS))
    np.add.at(gaps, (units.code, own_bin), gap)
    return tables, gaps


def _of_draws(draws: np.ndarray, tables: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """`(R, 5)`: the metrics as they are when the units count as often as they were drawn."""
    labels = tables.shape[1]
    drawn = (draws @ tables.reshape(len(tables), -1)).reshape(-1, labels, labels)
    error = np.abs(draws @ gaps).sum(axis=1) / drawn.sum(axis=(1, 2))
    return np.column_stack([table_metrics(drawn), error])


def ranking_intervals(ranked: Sequence[Ranked], units: BootstrapClusters) -> dict[str, list[float]]:
    """`<metric>_ci` of the mean over seeds: queries are drawn by their windows' units, the candidates stay.

    Args:
        ranked: of each seed; the same queries in all. units: of the windows that `Ranked.rows` number.
    """
    mine = units.take(ranked[0].rows)
    if mine.count < 2:
        return {}
    sums = mine.sums(np.mean([each.scores for each in ranked], axis=0))
    queries = mine.sums(np.ones(len(mine.code)))

    def mean_of_draws(draws: np.ndarray) -> np.ndarray:
        return (draws @ sums) / (draws @ queries)[:, None]

    return _named(NAMES, interval(mean_of_draws, mine))


def _named(names: Sequence[str], bounds: np.ndarray) -> dict[str, list[float]]:
    return {f"{name}_ci": [float(low), float(high)] for name, (low, high) in zip(names, bounds, strict=True)}
