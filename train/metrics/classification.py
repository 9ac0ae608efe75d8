"""Metrics as plain functions: classification and calibration; means over seeds. NumPy only. Rankings: `ranking.py`.

Letters: `N` windows, `K` classes, `R` tables at once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from casita.results import CalibrationBin

CLASSIFICATION = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")
BINS = 15
_LEAST = 1e-12  # stands for an empty denominator, whose numerator is 0


# ----------------------------------------------------------------------------------------------- classification
def confusion(y_true: Sequence[str], y_pred: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Count pairs of labels, `(K, K)` int: row = true label, column = predicted label, in the order of `labels`.

    Pairs with a label that is not in `labels` are left out.
    """
    index = {label: i for i, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)), dtype=np.int64)
    pairs = [(index[t], index[p]) for t, p in zip(y_true, y_pred, strict=True) if t in index and p in index]
    if pairs:
        np.add.at(table, tuple(np.array(pairs).T), 1)
    return table


def per_class(y_true: Sequence[str], y_pred: Sequence[str]) -> dict[str, dict[str, float]]:
    """Compute `precision`, `recall`, `f1`, `support` of each label in `y_true`; 0 where there is no denominator."""
    if not len(y_true):
        raise ValueError("classification: expected at least one labelled window, found none.")
    labels = sorted({*y_true, *y_pred})
    table = confusion(y_true, y_pred, labels)
    hits = np.diag(table)
    predicted = table.sum(axis=0)
    support = table.sum(axis=1)
    return {
        label: {
            "precision": float(hits[i] / max(predicted[i], 1)),  # what was never predicted has no hits
            "recall": float(hits[i] / support[i]),
            "f1": float(2 * hits[i] / (predicted[i] + support[i])),
            "support": int(support[i]),
        }
        for i, label in enumerate(labels)
        if support[i]
    }


def classification_metrics(y_true: Sequence[str], y_pred: Sequence[str]) -> dict[str, float]:
    """Compute `accuracy`, `balanced_accuracy`, `macro_f1`, `weighted_f1` over the labels that occur in `y_true`.

    A label that occurs in `y_pred` only is no class of its own (it would enter the macro mean as a 0 whatever its
    window counted); each such prediction is a miss of its true label. A label never predicted scores 0.
    """
    if not len(y_true):
        raise ValueError("classification: expected at least one labelled window, found none.")
    values = table_metrics(confusion(y_true, y_pred, sorted({*y_true, *y_pred})))
    return dict(zip(CLASSIFICATION, values.tolist(), strict=True))


def table_metrics(tables: np.ndarray) -> np.ndarray:
    """Compute `CLASSIFICATION` `(..., 4)` of tables `(..., K, K)` of confusion, row = true label; zeros if empty."""
    hits = np.diagonal(tables, axis1=-2, axis2=-1)
    support = tables.sum(axis=-1)
    predicted = tables.sum(axis=-2)
    recall = hits / np.maximum(support, _LEAST)
    f1 = np.where(support > 0, 2 * hits / np.maximum(support + predicted, _LEAST), 0.0)
    windows = np.maximum(support.sum(-1), _LEAST)
    labels = np.maximum((support > 0).sum(-1), 1)
    means = [hits.sum(-1) / windows, recall.sum(-1) / labels, f1.sum(-1) / labels, (f1 * support).sum(-1) / windows]
    return np.stack(means, axis=-1)


# -------------------------------------------------------------------------------------------------- calibration
def ece(probabilities: np.ndarray, y_true: Sequence[str], classes: Sequence[str], *, bins: int = BINS) -> float:
    """Compute the expected calibration error of `(N, K)` probabilities: mean gap of confidence and accuracy.

    Confidence is the largest probability, put into `bins` equal bins of (0, 1] (15 as in Guo et al. 2017, "On
    Calibration of Modern Neural Networks"). A true label outside `classes` makes its window a miss.
    """
    gap, bin_of = confidence_gaps(probabilities, y_true, classes, bins)
    gaps = np.bincount(bin_of, weights=gap, minlength=bins)  # a bin's count cancels: |sum| / N
    return float(np.abs(gaps).sum() / len(gap))


def confidence_gaps(
    probabilities: np.ndarray, y_true: Sequence[str], classes: Sequence[str], bins: int = BINS
) -> tuple[np.ndarray, np.ndarray]:
    """Return the confidence minus hit (0 or 1) of each window `(N,)`, and the number of its bin `(N,)`."""
    confidence = probabilities.max(axis=1)
    right = np.asarray(classes, dtype=object)[probabilities.argmax(axis=1)] == np.asarray(y_true, dtype=object)
    return confidence - right, np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def calibration_bins(
    probabilities: np.ndarray, y_true: Sequence[str], classes: Sequence[str], bins: int = BINS
) -> list[CalibrationBin]:
    """Draw a reliability curve: of each bin that holds windows its bounds, mean confidence, accuracy and `windows`."""
    gap, bin_of = confidence_gaps(probabilities, y_true, classes, bins)
    curve: list[CalibrationBin] = []
    for number in np.unique(bin_of).tolist():
        in_bin = bin_of == number
        confidence = float(probabilities.max(axis=1)[in_bin].mean())
        curve.append(
            {
                "low": number / bins,
                "high": (number + 1) / bins,
                "confidence": confidence,
                "accuracy": confidence - float(gap[in_bin].mean()),
                "windows": int(in_bin.sum()),
            }
        )
    return curve


# -------------------------------------------------------------------------------------------------------- seeds
def over_seeds(by_seed: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Average each metric over seeds, and for two seeds or more its standard deviation (n - 1) as `<metric>_sd`.

    Whole numbers are counts, the same for every seed, and stay as they are.
    """
    first = next(iter(by_seed.values()))
    merged: dict[str, Any] = {}
    for name, value in first.items():
        values = [metrics[name] for metrics in by_seed.values()]
        merged[name] = value if isinstance(value, int) else float(np.mean(values))
        if len(values) > 1 and not isinstance(value, int):
            merged[f"{name}_sd"] = float(np.std(values, ddof=1))
    return merged
