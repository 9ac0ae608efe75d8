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
    """A ranking: `scores` `(Q, 6)` of `NAMES` of each query among `candidates`; `rows` `(Q,)`, each query's window."""

    scores: np.ndarray
    rows: np.ndarray
    candidates: int

    def mean(self) -> dict[str, float]:
        """Average over the queries; with the numbers of queries and of candidates."""
        means = dict(zip(NAMES, self.scores.mean(axis=0).tolist(), strict=True))
        return {**means, "queries": len(self.scores), "candidates": self.candidates}


# ------------------------------------------------------------------------------------------- windows and captions
def retrieval_metrics(
    sensor: np.ndarray, text: np.ndarray, caption_ids: np.ndarray, *, chunk: int = 1024
) -> dict[str, dict[str, float]]:
    """Compute Recall@1/5/10, MRR, mAP and nDCG@10 in both directions: the means of `rank_retrieval`."""
    return {
        direction: ranked.mean()
        for direction, ranked in rank_retrieval(sensor, text, caption_ids, chunk=chunk).items()
    }


def rank_retrieval(
    sensor: np.ndarray, text: np.ndarray, caption_ids: np.ndarray, *, chunk: int = 1024
) -> dict[str, Ranked]:
    """Score each query in both directions, from unit rows `sensor` and `text` `(N, P)`, and `caption_ids` `(N,)`.

    Windows with the same caption share its id, and an id is one candidate: `sensor_to_text` asks for each window
    where its caption ranks among the `G` distinct ones; `text_to_sensor` asks for each distinct caption where its
    windows rank among the `N`: recall and MRR look at the first of them, mAP and nDCG at all. Ties (scores closer than
    1e-6) count by expectation over all their orders, so an encoder that maps everything to one point scores exactly
    `retrieval_chance`. Only `chunk` rows of scores are in memory at once.
    """
    caption_ids = np.asarray(caption_ids)
    if not len(sensor) == len(text) == len(caption_ids) or not len(caption_ids):
        raise ValueError(
            f"retrieval: expected as many sensor rows, text rows and caption ids, at least one; "
            f"found {len(sensor)}, {len(text)} and {len(caption_ids)}."
        )
    _, first, caption_of = np.unique(caption_ids, return_index=True, return_inverse=True)
    captions = text[first]
    numbers = np.arange(len(first))
    sensor_to_text = [
        score_queries(sensor[i : i + chunk] @ captions.T, caption_of[i : i + chunk, None] == numbers)
        for i in range(0, len(sensor), chunk)
    ]
    text_to_sensor = [
        score_queries(captions[i : i + chunk] @ sensor.T, numbers[i : i + chunk, None] == caption_of)
        for i in range(0, len(first), chunk)
    ]
    return {
        "sensor_to_text": Ranked(np.concatenate(sensor_to_text), np.arange(len(sensor)), len(first)),
        "text_to_sensor": Ranked(np.concatenate(text_to_sensor), first, len(sensor)),
    }


def recall_by_home(
    sensor: np.ndarray, text: np.ndarray, caption_ids: np.ndarray, homes: np.ndarray, names: Sequence[str]
) -> dict[str, float]:
    """Compute `recall_at_1_sensor_to_text/<home>` of several homes, each home's windows among its captions alone.

    Of one home there is nothing, since that is the recall over all.

    Args:
        homes: `(N,)` number of each window's home in `names`. The others as in `retrieval_metrics`.
    """
    recalls = {}
    for number, name in enumerate(names if len(names) > 1 else ()):
        if (rows := homes == number).any():
            recall = retrieval_metrics(sensor[rows], text[rows], caption_ids[rows])["sensor_to_text"]["recall_at_1"]
            recalls[f"recall_at_1_sensor_to_text/{name}"] = recall
    return recalls


def retrieval_chance(caption_ids: np.ndarray) -> dict[str, dict[str, float]]:
    """Compute what a random ranking scores on average, exactly: the same names as `retrieval_metrics`."""
    _, first, sizes = np.unique(caption_ids, return_index=True, return_counts=True)
    total = int(sizes.sum())
    one_right = np.tile(chance_scores(np.ones(1, np.int64), len(sizes)), (total, 1))
    return {
        "sensor_to_text": Ranked(one_right, np.arange(total), len(sizes)).mean(),
        "text_to_sensor": Ranked(chance_scores(sizes, total), first, total).mean(),
    }


def rank_by_captions(
    text: np.ndarray, caption_ids: np.ndarray, train: np.ndarray, test: np.ndarray
) -> dict[str, Ranked]:
    """Rank by the captions' frequency: one and the same ranking for every query, no sensor read.

    A candidate stands the higher the more train windows have its caption, and of equals the nearer its caption is to
    the train captions' mean. Captions that repeat make this better than chance.

    Args:
        text: `(N, T)` unit rows of all windows' captions; caption_ids: `(N,)`; train, test: row numbers.
    """
    counts = np.bincount(caption_ids[train], minlength=int(caption_ids.max()) + 1)[caption_ids[test]]
    mean = text[train].mean(axis=0, dtype=np.float64)
    direction = mean / max(float(np.linalg.norm(mean)), 1e-12)
    common = (counts + 0.4 * (text[test] @ direction))[:, None]  # cosines decide between equal counts
    one = np.ones_like(common)
    return {
        "sensor_to_text": rank_retrieval(one, common, caption_ids[test])["sensor_to_text"],
        "text_to_sensor": rank_retrieval(common, one, caption_ids[test])["text_to_sensor"],
    }


# -------------------------------------------------------------------------------------------------- any ranking
def score_queries(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Score queries, `(Q, 6)` of `NAMES`, by scores `(Q, n)` and right candidates `(Q, n)` bool, at least one each.

    Ties count by expectation over all their orders, as McSherry & Najork 2008 ("Computing information retrieval
    performance measures efficiently in the presence of tied scores") work out for average precision and DCG.
    """
    distinct, which = np.unique(_ranks(scores, right), axis=0, return_inverse=True)
    metrics = np.array([_first_right(*map(int, row)) for row in distinct])[which.reshape(-1)]
    several = np.flatnonzero(right.sum(axis=1) > 1)  # a single right one is the first
    for part in np.array_split(several, max(1, len(several) * scores.shape[1] // 10**6)):
        metrics[part, 4:] = _all_right(scores[part], right[part])
    return metrics


def chance_scores(relevant: np.ndarray, candidates: int) -> np.ndarray:
    """Score a random order on average, `(Q, 6)` of `NAMES`, with `relevant` `(Q,)` right ones of `candidates`."""
    harmonic = float((1 / np.arange(1, candidates + 1)).sum())
    rows = []
    for count in map(int, relevant):
        spread = (count - 1) / max(1, candidates - 1)  # of the other right ones over the other places
        precision = (harmonic + spread * (candidates - harmonic)) / candidates
        gain = count / candidates * _DISCOUNT[:candidates].sum() / _DISCOUNT[:count].sum()
        rows.append([*_first_right(0, candidates - count, count)[:4], precision, float(gain)])
    return np.array(rows)


def _ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Count, from scores `(Q, n)` and which candidates are right `(Q, n)`, the places around the best right one.

    Returns:
        `(Q, 3)`: wrong candidates above it, wrong ones that tie with it, right ones that tie with it (it too).
    """
    gap = scores - np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
    tied = np.abs(gap) <= TIE
    wrong_above = (~right & (gap > TIE)).sum(1)
    return np.stack([wrong_above, (~right & tied).sum(1), (right & tied).sum(1)], axis=1)


@lru_cache(maxsize=65536)
def _first_right(above: int, wrong: int, right: int) -> tuple[float, ...]:
    """Compute `NAMES` by the first right candidate, which has `above` wrong ones before it.

    The order of `wrong` wrong and `right` right ones after those is left to chance; mAP and nDCG as if no other were
    right.
    """
    i = np.arange(wrong + 1)
    later = np.cumprod((wrong - i) / (wrong + right - i))  # later[r]: P(the first r + 1 of the tie are all wrong)
    at = np.concatenate([[1.0], later[:-1]]) - later  # P(the first right one is number r + 1 of the tie)
    rank = above + 1 + i
    reciprocal = float((at / rank).sum())
    gain = float((at * (rank <= 10) / np.log2(1 + rank)).sum())
    return (*(float(at[rank <= k].sum()) for k in RECALL_AT), reciprocal, reciprocal, gain)


def _all_right(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Compute average precision and nDCG@10 `(Q, 2)` over all right candidates, `(Q, n)` both arguments."""
    order = np.argsort(-scores, axis=1, kind="stable")
    scores = np.take_along_axis(scores, order, axis=1)
    right = np.take_along_axis(right, order, axis=1)
    place = np.arange(scores.shape[1])
    begins = np.ones(scores.shape, dtype=bool)
    begins[:, 1:] = scores[:, :-1] - scores[:, 1:] > TIE
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)  # of each place: where its tie begins
    ends = np.append(begins[:, 1:], np.ones((len(scores), 1), dtype=bool), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, len(place))[:, ::-1], axis=1)[:, ::-1] + 1
    before = np.concatenate([np.zeros((len(scores), 1)), np.cumsum(right, axis=1)], axis=1)
    above = np.take_along_axis(before, first, axis=1)
    inside = np.take_along_axis(before, last, axis=1) - above
    size = last - first
    chance = inside / size  # that the candidate at this place is right
    expected = above + 1 + (place - first) * (inside - 1) / np.maximum(size - 1, 1)  # right ones so far, if it is
    total = before[:, -1]
    gain = chance[:, :10] @ _DISCOUNT[: len(place)] / np.cumsum(_DISCOUNT)[np.minimum(total, 10).astype(int) - 1]
    return np.stack([(chance * expected / (place + 1)).sum(axis=1) / total, gain], axis=1)
