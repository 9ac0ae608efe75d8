"""Rankings equal slow obvious versions and scikit-learn's; ties are the mean over all their orders."""

import itertools

import numpy as np
import pytest
from paths import ROOT
from sklearn.metrics import average_precision_score, ndcg_score

from casita.train.metrics.ranking import (
    NAMES,
    chance_scores,
    rank_by_captions,
    rank_retrieval,
    retrieval_chance,
    score_queries,
)


def obvious(right):
    """All of `NAMES` from a list of hits in the order of the ranking."""
    ranks = [i for i, hit in enumerate(right, start=1) if hit]
    precision = np.mean([(i + 1) / rank for i, rank in enumerate(ranks)])
    gain = sum(1 / np.log2(1 + rank) for rank in ranks if rank <= 10)
    best = sum(1 / np.log2(1 + rank) for rank in range(1, min(10, len(ranks)) + 1))
    return [*(float(ranks[0] <= k) for k in (1, 5, 10)), 1 / ranks[0], precision, gain / best]


def over_all_orders(scores, right):
    """The mean of `obvious` over every order in which equal scores may stand."""
    found = []
    for order in itertools.permutations(range(len(scores))):
        ranked = [scores[i] for i in order]
        if ranked == sorted(ranked, reverse=True):
            found.append(obvious([right[i] for i in order]))
    return np.mean(found, axis=0)


@pytest.mark.parametrize("seed", range(20))
def test_ties_count_as_the_mean_over_all_their_orders(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 8))
    scores, right = rng.integers(0, 4, size=n) / 4, rng.random(n) < 0.5
    right[rng.integers(n)] = True
    found = score_queries(scores[None].astype(np.float32), right[None])
    np.testing.assert_allclose(found[0], over_all_orders(scores.tolist(), right.tolist()), atol=1e-9)


def test_rankings_without_ties_agree_with_the_obvious_version_and_with_scikit_learn():
    rng = np.random.default_rng(0)
    scores, right = rng.permuted(np.tile(np.arange(40.0), (50, 1)), axis=1), rng.random((50, 40)) < 0.2
    right[:, 0] = True
    found = score_queries(scores, right)
    order = np.argsort(-scores, axis=1)
    expected = [obvious(hits) for hits in np.take_along_axis(right, order, axis=1)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    precision = [average_precision_score(r, s) for r, s in zip(right, scores, strict=True)]
    np.testing.assert_allclose(found[:, NAMES.index("map")], precision, atol=1e-12)
    assert found[:, NAMES.index("ndcg_at_10")].mean() == pytest.approx(ndcg_score(right, scores, k=10))


def test_ndcg_with_ties_is_scikit_learns():
    rng = np.random.default_rng(1)
    scores, right = rng.integers(0, 5, size=(30, 25)).astype(float), rng.random((30, 25)) < 0.3
    right[:, 0] = True
    assert score_queries(scores, right)[:, 5].mean() == pytest.approx(ndcg_score(right, scores, k=10))


@pytest.mark.parametrize(("relevant", "candidates"), [(1, 1), (1, 7), (3, 7), (7, 7), (4, 30)])
def test_chance_is_a_ranking_in_which_everything_ties(relevant, candidates):
    right = np.arange(candidates)[None] < relevant
    tied = score_queries(np.zeros((1, candidates)), right)
    np.testing.assert_allclose(chance_scores(np.array([relevant]), candidates), tied, atol=1e-12)


def test_chance_is_what_random_orders_score_on_average():
    rng = np.random.default_rng(0)
    right = np.tile(np.arange(12) < 3, (20_000, 1))
    found = score_queries(rng.random((20_000, 12)), right)
    error = found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - chance_scores(np.array([3]), 12)[0]) < 4 * error + 1e-12).all()


def test_a_single_right_candidate_has_its_reciprocal_rank_as_average_precision():
    rng = np.random.default_rng(0)
    right = np.eye(9, dtype=bool)
    found = score_queries(rng.random((9, 9)), right)
    np.testing.assert_allclose(found[:, 3], found[:, 4])


def test_retrieval_of_captions_counts_all_windows_that_share_one():
    text = np.eye(2, dtype=np.float32)[[0, 0, 1]]
    sensor = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], dtype=np.float32)
    found = rank_retrieval(sensor, text, np.array([0, 0, 1]))["text_to_sensor"]
    # Caption 0 ranks windows 0 (right), 2, 1 (right); caption 1 ranks windows 1, 2 (right), 0.
    np.testing.assert_allclose(found.scores[:, 4], [(1 + 2 / 3) / 2, 1 / 2])
    np.testing.assert_array_equal(found.rows, [0, 2])


def test_captions_alone_beat_chance_where_they_repeat_and_equal_it_where_none_was_seen_before():
    rng = np.random.default_rng(0)
    caption_ids = np.concatenate([rng.choice(5, size=100, p=[0.6, 0.1, 0.1, 0.1, 0.1]), rng.choice(5, size=40)])
    caption_ids[100:130] = 0  # the most frequent caption of train is that of test too
    text = np.linalg.qr(rng.normal(size=(8, 5)))[0].T[caption_ids]
    train, test = np.arange(100), np.arange(100, 140)
    alone, chance = rank_by_captions(text, caption_ids, train, test), retrieval_chance(caption_ids[test])
    assert alone["sensor_to_text"].mean()["recall_at_1"] == pytest.approx((caption_ids[test] == 0).mean())
    assert alone["sensor_to_text"].mean()["recall_at_1"] > 3 * chance["sensor_to_text"]["recall_at_1"]
    new = rank_by_captions(np.ones((140, 2)) / np.sqrt(2), np.arange(140), train, test)
    assert new["sensor_to_text"].mean() == pytest.approx(retrieval_chance(np.arange(40))["sensor_to_text"])


def test_the_modules_for_the_evaluate_library_give_the_same_numbers(tmp_path):
    evaluate = pytest.importorskip("evaluate")
    from casita.train.metrics.classification import classification_metrics

    folder = ROOT / "train" / "evaluation" / "evaluate_modules"
    cache = {"cache_dir": str(tmp_path)}
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 5, size=(6, 9)).astype(np.float32), rng.random((6, 9)) < 0.4
    right[:, 0] = True
    retrieval = evaluate.load(str(folder / "casita_retrieval"), **cache)
    for rows in (slice(0, 2), slice(2, 6)):  # as batches of a long evaluation
        retrieval.add_batch(predictions=scores[rows], references=right[rows].astype(int))
    found = retrieval.compute()
    assert [found[name] for name in NAMES] == pytest.approx(score_queries(scores, right).mean(axis=0).tolist())
    y_true, y_pred = rng.choice(list("abc"), size=30).tolist(), rng.choice(list("abcd"), size=30).tolist()
    classification = evaluate.load(str(folder / "casita_classification"), **cache)
    assert classification.compute(predictions=y_pred, references=y_true) == classification_metrics(y_true, y_pred)
