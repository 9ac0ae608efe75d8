"""Metrics as plain functions: retrieval between windows and captions, classification, calibration. NumPy only.

Letters: `N` windows, `G` distinct captions, `K` classes, `P` width of the shared space.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

RECALL_AT = (1, 5, 10)
# Equal windows leave the encoder with last-bit differences (other batch, other padding): below this, scores are ties.
TIE = 1e-6


# ---------------------------------------------------------------------------------------------------- retrieval
def retrieval_metrics(
    sensor: np.ndarray, text: np.ndarray, groups: np.ndarray, *, chunk: int = 1024
) -> dict[str, dict[str, float]]:
    """Recall@1/5/10 and MRR both ways, from unit rows `sensor` `(N, P)`, `text` `(N, P)`, caption ids `groups` `(N,)`.

    Windows with the same caption share a group, and a group is one candidate: `sensor_to_text` asks for each window
    where its caption ranks among the `G` distinct ones; `text_to_sensor` asks for each distinct caption where the
    first of its windows ranks among the `N`. Ties (scores closer than 1e-6) count by expectation over all their
    orders, so an encoder that maps everything to one point scores exactly `retrieval_chance`. Only `chunk` rows of
    scores are in memory at once.
    """
    groups = np.asarray(groups)
    if not len(sensor) == len(text) == len(groups) or not len(groups):
        raise ValueError(
            f"retrieval: expected as many sensor rows, text rows and groups, at least one; "
            f"found {len(sensor)}, {len(text)} and {len(groups)}."
        )
    _, first, own = np.unique(groups, return_index=True, return_inverse=True)
    captions = text[first]
    sensor_to_text = [
        _ranks(sensor[i : i + chunk] @ captions.T, own[i : i + chunk, None] == np.arange(len(first)))
        for i in range(0, len(sensor), chunk)
    ]
    text_to_sensor = [
        _ranks(captions[i : i + chunk] @ sensor.T, np.arange(len(first))[i : i + chunk, None] == own)
        for i in range(0, len(first), chunk)
    ]
    return {
        "sensor_to_text": _summary(np.concatenate(sensor_to_text), candidates=len(first)),
        "text_to_sensor": _summary(np.concatenate(text_to_sensor), candidates=len(sensor)),
    }


def recall_by_home(
    sensor: np.ndarray, text: np.ndarray, groups: np.ndarray, homes: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """`recall_at_1_sensor_to_text/<home>` of each of several homes, its windows among its own captions alone; of one
    home nothing, since that is the recall over all.

    Args:
        homes: `(N,)` number of each window's home in `names`. The others as in `retrieval_metrics`.
    """
    found = {}
    for number, name in enumerate(names if len(names) > 1 else ()):
        if (rows := homes == number).any():
            recall = retrieval_metrics(sensor[rows], text[rows], groups[rows])["sensor_to_text"]["recall_at_1"]
            found[f"recall_at_1_sensor_to_text/{name}"] = recall
    return found


def retrieval_chance(groups: np.ndarray) -> dict[str, dict[str, float]]:
    """What a ranking drawn at random scores on average, exactly: the same names as `retrieval_metrics`."""
    _, sizes = np.unique(groups, return_counts=True)
    total = int(sizes.sum())
    windows = np.tile([0, len(sizes) - 1, 1], (total, 1))
    captions = np.stack([np.zeros_like(sizes), total - sizes, sizes], axis=1)
    return {
        "sensor_to_text": _summary(windows, candidates=len(sizes)),
        "text_to_sensor": _summary(captions, candidates=total),
    }


def _ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Scores `(Q, n)` and which candidates are right `(Q, n)` to counts `(Q, 3)`: the wrong candidates above the best
    right one, the wrong ones that tie with it, the right ones that tie with it (itself included)."""
    gap = scores - np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    tied = np.abs(gap) <= TIE
    return np.stack([(~right & (gap > TIE)).sum(1), (~right & tied).sum(1), (right & tied).sum(1)], axis=1)


def _summary(ranks: np.ndarray, candidates: int) -> dict[str, float]:
    distinct, counts = np.unique(ranks, axis=0, return_counts=True)
    scores = np.array([_expected_scores(*map(int, row)) for row in distinct])
    mean = counts @ scores / counts.sum()
    names = [*(f"recall_at_{k}" for k in RECALL_AT), "mrr"]
    return {**dict(zip(names, mean.tolist(), strict=True)), "queries": len(ranks), "candidates": candidates}


@lru_cache(maxsize=65536)
def _expected_scores(above: int, wrong: int, right: int) -> tuple[float, ...]:
    """Recall@1/5/10 and reciprocal rank of the first right candidate, `above` wrong ones before it and the order of
    `wrong` wrong and `right` right ones after those left to chance."""
    i = np.arange(wrong + 1)
    later = np.cumprod((wrong - i) / (wrong + right - i))  # later[r]: P(the first r + 1 of the tie are all wrong)
    at = np.concatenate([[1.0], later[:-1]]) - later  # P(the first right one is number r + 1 of the tie)
    rank = above + 1 + i
    return (*(float(at[rank <= k].sum()) for k in RECALL_AT), float((at / rank).sum()))


# ----------------------------------------------------------------------------------------------- classification
def confusion(y_true: Sequence[str], y_pred: Sequence[str], labels: Sequence[str]) -> np.ndarray:
    """Counts `(K, K)` int: row = true label, column = predicted label, in the order of `labels`.

    Pairs with a label that is not in `labels` are left out.
    """
    index = {label: i for i, label in enumerate(labels)}
    table = np.zeros((len(labels), len(labels)), dtype=np.int64)
    pairs = [(index[t], index[p]) for t, p in zip(y_true, y_pred, strict=True) if t in index and p in index]
    if pairs:
        np.add.at(table, tuple(np.array(pairs).T), 1)
    return table


def per_class(y_true: Sequence[str], y_pred: Sequence[str]) -> dict[str, dict[str, float]]:
    """`precision`, `recall`, `f1` and `support` of every label in `y_true`; 0 where a quotient has no denominator."""
    if not len(y_true):
        raise ValueError("classification: expected at least one labelled window, found none.")
    everything = sorted({*y_true, *y_pred})
    table = confusion(y_true, y_pred, everything)
    hits, predicted, support = np.diag(table), table.sum(axis=0), table.sum(axis=1)
    return {
        label: {
            "precision": _ratio(hits[i], predicted[i]),
            "recall": _ratio(hits[i], support[i]),
            "f1": _ratio(2 * hits[i], predicted[i] + support[i]),
            "support": int(support[i]),
        }
        for i, label in enumerate(everything)
        if support[i]
    }


def classification_metrics(y_true: Sequence[str], y_pred: Sequence[str]) -> dict[str, float]:
    """`accuracy`, `balanced_accuracy`, `macro_f1`, `weighted_f1` over the labels that occur in `y_true`.

    A label that occurs in `y_pred` only is no class of its own (it would enter the macro mean as a 0 whatever its
    window counted); each such prediction is a miss of its true label. A label never predicted scores 0.
    """
    rows = per_class(y_true, y_pred).values()
    support = np.array([row["support"] for row in rows])
    recall, f1 = np.array([row["recall"] for row in rows]), np.array([row["f1"] for row in rows])
    return {
        "accuracy": float(recall @ support / support.sum()),
        "balanced_accuracy": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "weighted_f1": float(f1 @ support / support.sum()),
    }


def ece(probabilities: np.ndarray, y_true: Sequence[str], classes: Sequence[str], *, bins: int = 15) -> float:
    """Expected calibration error of `(N, K)` probabilities over `classes`: mean gap of confidence and accuracy.

    Confidence is the largest probability, put into `bins` equal bins of (0, 1] (15 as in Guo et al. 2017, "On
    Calibration of Modern Neural Networks"). A true label outside `classes` makes its window a miss.
    """
    confidence = probabilities.max(axis=1)
    right = np.asarray(classes, dtype=object)[probabilities.argmax(axis=1)] == np.asarray(y_true, dtype=object)
    own_bin = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(own_bin, weights=confidence - right, minlength=bins)  # a bin's count cancels: |sum| / N
    return float(np.abs(gaps).sum() / len(confidence))


def over_seeds(by_seed: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Mean of each metric over seeds, and for two seeds or more its standard deviation (n - 1) as `<metric>_sd`.

    Whole numbers are counts, the same for every seed, and stay as they are.
    """
    first, merged = next(iter(by_seed.values())), {}
    for name, value in first.items():
        values = [metrics[name] for metrics in by_seed.values()]
        merged[name] = value if isinstance(value, int) else float(np.mean(values))
        if len(values) > 1 and not isinstance(value, int):
            merged[f"{name}_sd"] = float(np.std(values, ddof=1))
    return merged


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0
