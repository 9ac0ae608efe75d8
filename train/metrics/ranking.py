"""Rankings as plain functions of scores and relevance: recall, MRR, mAP and nDCG, ties by expectation. NumPy only.

Letters: `N` windows, `G` distinct captions, `Q` queries, `n` candidates, `P` width of the shared space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RECALL_AT = (1, 5, 10)
NAMES = (*(f"recall_at_{k}" for k in RECALL_AT), "mrr", "map", "ndcg_at_10")
# Equal windows leave the encoder with last-bit differences (other batch, other padding): below this, scores are ties.
TIE = 1e-6
_DISCOUNT = 1 / np.log2(np.arange(2, 12))  # of the first ten places


@dataclass(frozen=True)
class Ranked:
    """`scores` `(Q, 6)` of `NAMES` for each query among `candidates`; `rows` `(Q,)`: the window that a query is of."""

    scores: np.ndarray
    rows: np.ndarray
    candidates: int

    def mean(self) -> dict[str, float]:
        """The mean over the queries, with the numbers of queries and of candidates."""
        told = dict(zip(NAMES, self.scores.mean(axis=0).tolist(), strict=True))
        return {**told, "queries": len(self.scores), "candidates": self.candidates}


# ------------------------------------------------------------------------------------------- windows and captions
def retrieval_metrics(
    sensor: np.ndarray, text: np.ndarray, groups: np.ndarray, *, chunk: int = 1024
) -> dict[str, dict[str, float]]:
    """Recall@1/5/10, MRR, mAP and nDCG@10 both ways: the means of `rank_retrieval`."""
    return {way: ranked.mean() for way, ranked in rank_retrieval(sensor, text, groups, chunk=chunk).items()}


def rank_retrieval(
    sensor: np.ndarray, text: np.ndarray, groups: np.ndarray, *, chunk: int = 1024
) -> dict[str, Ranked]:
    """Each query's scores both ways, from unit rows `sensor` `(N, P)`, `text` `(N, P)`, caption ids `groups` `(N,)`.

    Windows with the same caption share a group, and a group is one candidate: `sensor_to_text` asks for each window
    where its caption ranks among the `G` distinct ones; `text_to_sensor` asks for each distinct caption where its
    windows rank among the `N`: recall and MRR look at the first of them, mAP and nDCG at all. Ties (scores closer than
    1e-6) count by expectation over all their orders, so an encoder that maps everything to one point scores exactly
    `retrieval_chance`. Only `chunk` rows of scores are in memory at once.
    """
    groups = np.asarray(groups)
    if not len(sensor) == len(text) == len(groups) or not len(groups):
        raise ValueError(
            f"retrieval: expected as many sensor rows, text rows and groups, at least one; "
            f"found {len(sensor)}, {len(text)} and {len(groups)}."
        )
    _, first, own = np.unique(groups, return_index=True, return_inverse=True)
    captions, numbers = text[first], np.arange(len(first))
    forth = [
        score_queries(sensor[i : i + chunk] @ captions.T, own[i : i + chunk, None] == numbers)
        for i in range(0, len(sensor), chunk)
    ]
    back = [
        score_queries(captions[i : i + chunk] @ sensor.T, numbers[i : i + chunk, None] == own)
        for i in range(0, len(first), chunk)
    ]
    return {
        "sensor_to_text": Ranked(np.concatenate(forth), np.arange(len(sensor)), len(first)),
        "text_to_sensor": Ranked(np.concatenate(back), first, len(sensor)),
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
    _, first, sizes = np.unique(groups, return_index=True, return_counts=True)
    total = int(sizes.sum())
    forth = np.tile(chance_scores(np.ones(1, np.int64), len(sizes)), (total, 1))
    return {
        "sensor_to_text": Ranked(forth, np.arange(total), len(sizes)).mean(),
        "text_to_sensor": Ranked(chance_scores(sizes, total), first, total).mean(),
    }


def rank_by_captions(text: np.ndarray, groups: np.ndarray, train: np.ndarray, test: np.ndarray) -> dict[str, Ranked]:
    """What the captions' frequency gives away: one and the same ranking for every query, no sensor read.

    A candidate stands the higher the more train windows have its caption, and of equals the nearer its caption is to
    the train captions' mean. Captions that repeat make this better than chance.

    Args:
        text: `(N, T)` unit rows of all windows' captions; groups: `(N,)` their ids; train, test: row numbers.
    """
    counts = np.bincount(groups[train], minlength=int(groups.max()) + 1)[groups[test]]
    common = (counts + 0.4 * (text[test] @ _direction(text[train])))[:, None]  # cosines decide between equal counts
    one = np.ones_like(common)
    return {
        "sensor_to_text": rank_retrieval(one, common, groups[test])["sensor_to_text"],
        "text_to_sensor": rank_retrieval(common, one, groups[test])["text_to_sensor"],
    }


def _direction(rows: np.ndarray) -> np.ndarray:
    mean = rows.mean(axis=0, dtype=np.float64)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


# -------------------------------------------------------------------------------------------------- any ranking
def score_queries(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`(Q, 6)` of `NAMES`, from scores `(Q, n)` and which candidates are right `(Q, n)`, at least one for a query.

    Ties count by expectation over all their orders, as McSherry & Najork 2008 ("Computing information retrieval
    performance measures efficiently in the presence of tied scores") work out for average precision and DCG.
    """
    distinct, which = np.unique(_ranks(scores, right), axis=0, return_inverse=True)
    found = np.array([_first_right(*map(int, row)) for row in distinct])[which.reshape(-1)]
    several = np.flatnonzero(right.sum(axis=1) > 1)  # of a single right one the first tells everything
    for part in np.array_split(several, max(1, len(several) * scores.shape[1] // 10**6)):
        found[part, 4:] = _all_right(scores[part], right[part])
    return found


def chance_scores(relevant: np.ndarray, candidates: int) -> np.ndarray:
    """`(Q, 6)` of `NAMES` that a random order gives on average, with `relevant` `(Q,)` right ones of `candidates`."""
    harmonic = float((1 / np.arange(1, candidates + 1)).sum())
    rows = []
    for count in map(int, relevant):
        spread = (count - 1) / max(1, candidates - 1)  # of the other right ones over the other places
        precision = (harmonic + spread * (candidates - harmonic)) / candidates
        gain = count / candidates * _DISCOUNT[:candidates].sum() / _ideal(count)
        rows.append([*_first_right(0, candidates - count, count)[:4], precision, float(gain)])
    return np.array(rows)


def _ideal(relevant: int) -> float:
    return float(_DISCOUNT[:relevant].sum())


def _ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Scores `(Q, n)` and which candidates are right `(Q, n)` to counts `(Q, 3)`: the wrong candidates above the best
    right one, the wrong ones that tie with it, the right ones that tie with it (itself included)."""
    gap = scores - np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    tied = np.abs(gap) <= TIE
    return np.stack([(~right & (gap > TIE)).sum(1), (~right & tied).sum(1), (right & tied).sum(1)], axis=1)


@lru_cache(maxsize=65536)
def _first_right(above: int, wrong: int, right: int) -> tuple[float, ...]:
    """`NAMES` as the first right candidate gives them, with `above` wrong ones before it and the order of `wrong`
    wrong and `right` right ones after those left to chance; mAP and nDCG as if no other were right."""
    i = np.arange(wrong + 1)
    later = np.cumprod((wrong - i) / (wrong + right - i))  # later[r]: P(the first r + 1 of the tie are all wrong)
    at = np.concatenate([[1.0], later[:-1]]) - later  # P(the first right one is number r + 1 of the tie)
    rank = above + 1 + i
    reciprocal = float((at / rank).sum())
    gain = float((at * (rank <= 10) / np.log2(1 + rank)).sum())
    return (*(float(at[rank <= k].sum()) for k in RECALL_AT), reciprocal, reciprocal, gain)


def _all_right(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """`(Q, 2)` average precision and nDCG@10 over all right candidates, `(Q, n)` both arguments."""
    order = np.argsort(-scores, axis=1, kind="stable")
    scores, right = (np.take_along_axis(array, order, axis=1) for array in (scores, right))
    place = np.arange(scores.shape[1])
    begins = np.ones(scores.shape, dtype=bool)
    begins[:, 1:] = scores[:, :-1] - scores[:, 1:] > TIE
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)  # of each place: where its tie begins
    ends = np.append(begins[:, 1:], np.ones((len(scores), 1), dtype=bool), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, len(place))[:, ::-1], axis=1)[:, ::-1] + 1
    before = np.concatenate([np.zeros((len(scores), 1)), np.cumsum(right, axis=1)], axis=1)
    above = np.take_along_axis(before, first, axis=1)
    inside, size = np.take_along_axis(before, last, axis=1) - above, last - first
    chance = inside / size  # that the candidate at this place is right
    expected = above + 1 + (place - first) * (inside - 1) / np.maximum(size - 1, 1)  # right ones so far, if it is
    total = before[:, -1]
    gain = chance[:, :10] @ _DISCOUNT[: len(place)] / np.cumsum(_DISCOUNT)[np.minimum(total, 10).astype(int) - 1]
    return np.stack([(chance * expected / (place + 1)).sum(axis=1) / total, gain], axis=1)
