"""Metrics equal slow obvious versions of themselves, scikit-learn's where it has them, and for chance a simulation."""

import itertools
import warnings

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, recall_score

from casita.train.metrics.classification import classification_metrics, confusion, ece, over_seeds, per_class
from casita.train.metrics.ranking import retrieval_chance, retrieval_metrics

NAMES = ("recall_at_1", "recall_at_5", "recall_at_10", "mrr")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def home(seed, n=60, captions=23, width=8):
    """Random unit rows; windows of a group share their text row, as identical captions do."""
    rng = np.random.default_rng(seed)
    caption_ids = rng.integers(captions, size=n)
    return unit(rng.normal(size=(n, width))), unit(rng.normal(size=(captions, width)))[caption_ids], caption_ids


def scores_of_rank(rank):
    return np.array([rank <= 1, rank <= 5, rank <= 10, 1 / rank], dtype=float)


def obvious_retrieval(sensor, text, caption_ids):
    """Sort every query's candidates and walk down the list; no ties."""
    distinct = sorted(set(caption_ids.tolist()))
    caption = {g: text[caption_ids.tolist().index(g)] for g in distinct}
    forth, back = [], []
    for row, group in zip(sensor, caption_ids, strict=True):
        order = sorted(distinct, key=lambda g: -float(row @ caption[g]))
        forth.append(scores_of_rank(order.index(group) + 1))
    for group in distinct:
        order = sorted(range(len(sensor)), key=lambda i: -float(sensor[i] @ caption[group]))
        back.append(scores_of_rank([caption_ids[i] == group for i in order].index(True) + 1))
    return {"sensor_to_text": np.mean(forth, axis=0), "text_to_sensor": np.mean(back, axis=0)}


@pytest.mark.parametrize("chunk", [1, 7, 1024])
@pytest.mark.parametrize("captions", [1, 2, 23, 500])
def test_retrieval_equals_the_obvious_version_in_any_chunks(captions, chunk):
    sensor, text, caption_ids = home(captions, captions=captions)
    found = retrieval_metrics(sensor, text, caption_ids, chunk=chunk)
    for direction, expected in obvious_retrieval(sensor, text, caption_ids).items():
        np.testing.assert_allclose([found[direction][name] for name in NAMES], expected, atol=1e-12)


def test_a_tie_counts_as_the_mean_over_all_its_orders():
    sensor = unit(np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [0.0, 1.0]]))
    text, caption_ids = unit(np.array([[0.6, 0.8]] * 3 + [[0.0, 1.0]] * 2)), np.array([0, 0, 0, 1, 1])
    found = retrieval_metrics(sensor, text, caption_ids)["text_to_sensor"]
    # Caption 0 (0.6, 0.8): windows 1, 2 (right) and 3 (wrong) tie at the top, all orders equally likely.
    orders = [scores_of_rank(order.index(True) + 1) for order in itertools.permutations([True, True, False])]
    # Caption 1 (0, 1): window 4 (right) wins alone.
    expected = (np.mean(orders, axis=0) + scores_of_rank(1)) / 2
    np.testing.assert_allclose([found[name] for name in NAMES], expected)


@pytest.mark.parametrize("sizes", [[1], [4], [1, 1, 1], [1, 2, 3, 10], [7] * 9])
def test_an_encoder_that_maps_everything_to_one_point_scores_exactly_chance(sizes):
    caption_ids = np.repeat(np.arange(len(sizes)), sizes)
    point = np.tile(unit(np.ones(4)), (len(caption_ids), 1))
    found, chance = retrieval_metrics(point, point, caption_ids), retrieval_chance(caption_ids)
    for direction in chance:
        assert found[direction] == pytest.approx(chance[direction])


def test_the_last_bits_of_a_score_do_not_break_a_tie():
    caption_ids = np.arange(40)
    point = np.tile(unit(np.ones(4)), (40, 1)) + np.random.default_rng(0).normal(scale=1e-8, size=(40, 4))
    found = retrieval_metrics(point, point, caption_ids)["sensor_to_text"]
    assert found == pytest.approx(retrieval_chance(caption_ids)["sensor_to_text"])


def test_chance_is_what_random_embeddings_score_on_average():
    caption_ids = np.repeat(np.arange(30), [1] * 20 + [3] * 8 + [8, 8])
    runs = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        # Independent scores for every pair need as many dimensions as windows.
        rows = retrieval_metrics(
            unit(rng.normal(size=(60, 60))), unit(rng.normal(size=(30, 60)))[caption_ids], caption_ids
        )
        runs.append([[rows[d][name] for name in NAMES] for d in ("sensor_to_text", "text_to_sensor")])
    mean, error = np.mean(runs, axis=0), np.std(runs, axis=0) / np.sqrt(len(runs))
    chance = retrieval_chance(caption_ids)
    expected = np.array([[chance[d][name] for name in NAMES] for d in ("sensor_to_text", "text_to_sensor")])
    assert (np.abs(mean - expected) < 4 * error + 1e-3).all()
    assert chance["sensor_to_text"]["recall_at_5"] == pytest.approx(5 / 30)


def test_a_perfect_encoder_finds_everything():
    _, text, caption_ids = home(0)
    found = retrieval_metrics(text, text, caption_ids)
    assert all(found[direction][name] == 1 for direction in found for name in NAMES)
    assert found["sensor_to_text"]["queries"] == 60
    assert (
        found["sensor_to_text"]["candidates"] == found["text_to_sensor"]["queries"] == len(set(caption_ids.tolist()))
    )


def test_retrieval_refuses_rows_that_do_not_belong_together():
    with pytest.raises(ValueError, match="found 3, 2 and 3"):
        retrieval_metrics(np.eye(3), np.eye(3)[:2], np.arange(3))
    with pytest.raises(ValueError, match="found 0, 0 and 0"):
        retrieval_metrics(np.eye(3)[:0], np.eye(3)[:0], np.arange(0))


CASES = {
    "many classes": (np.random.default_rng(1).integers(6, size=200), np.random.default_rng(2).integers(6, size=200)),
    "one class, all right": (np.zeros(5, int), np.zeros(5, int)),
    "one class, all wrong": (np.zeros(5, int), np.ones(5, int)),
    "a class never predicted": (np.array([0, 1, 2, 2]), np.array([0, 1, 1, 1])),
    "predictions of a class that never occurs": (np.array([0, 0, 1, 1]), np.array([0, 3, 1, 3])),
    "one window": (np.array([4]), np.array([4])),
}


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_classification_agrees_with_scikit_learn(case):
    y_true, y_pred = ([f"label {i}" for i in side] for side in CASES[case])
    present = sorted(set(y_true))
    f1 = {"labels": present, "zero_division": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of labels that only y_pred has: the case meant here
        expected = {
            "accuracy": accuracy_score(y_true, y_pred),
            "balanced_accuracy": balanced_accuracy_score(y_true, y_pred),
            "macro_f1": f1_score(y_true, y_pred, average="macro", **f1),
            "weighted_f1": f1_score(y_true, y_pred, average="weighted", **f1),
        }
        recalls = recall_score(y_true, y_pred, average=None, **f1)
    assert classification_metrics(y_true, y_pred) == pytest.approx(expected)
    assert [row["recall"] for row in per_class(y_true, y_pred).values()] == pytest.approx(list(recalls))
    everything = sorted({*y_true, *y_pred})
    np.testing.assert_array_equal(
        confusion(y_true, y_pred, everything), confusion_matrix(y_true, y_pred, labels=everything)
    )


def test_no_windows_are_not_a_score_of_zero():
    with pytest.raises(ValueError, match="at least one labelled window"):
        classification_metrics([], [])


def obvious_ece(probabilities, y_true, classes, bins):
    total = 0.0
    for b in range(bins):
        members = [
            (p.max(), classes[int(p.argmax())] == y)
            for p, y in zip(probabilities, y_true, strict=True)
            if b / bins < p.max() <= (b + 1) / bins
        ]
        if members:
            confidence, right = np.mean(members, axis=0)
            total += len(members) / len(y_true) * abs(confidence - right)
    return total


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_ece_equals_the_obvious_version(bins):
    rng = np.random.default_rng(bins)
    probabilities = rng.dirichlet(np.ones(4) / 2, size=300)
    y_true = [*rng.choice(["a", "b", "c", "d"], size=290), *["never trained on"] * 10]
    expected = obvious_ece(probabilities, y_true, ["a", "b", "c", "d"], bins)
    assert ece(probabilities, y_true, ["a", "b", "c", "d"], bins=bins) == pytest.approx(expected)


def test_a_calibrated_classifier_has_almost_no_ece_and_a_boastful_one_much():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(3), size=20_000)
    classes = ["a", "b", "c"]
    y_true = [classes[(p.cumsum() > u).argmax()] for p, u in zip(probabilities, rng.random(20_000), strict=True)]
    assert ece(probabilities, y_true, classes) < 0.02
    boastful = np.eye(3)[probabilities.argmax(axis=1)]
    assert ece(boastful, y_true, classes) == pytest.approx(
        1 - np.mean([classes[i] == y for i, y in zip(probabilities.argmax(axis=1), y_true, strict=True)])
    )


def test_seeds_give_mean_and_sample_deviation():
    merged = over_seeds({str(seed): {"mrr": mrr, "queries": 7} for seed, mrr in enumerate([0.1, 0.2, 0.6])})
    assert merged == pytest.approx({"mrr": 0.3, "mrr_sd": np.std([0.1, 0.2, 0.6], ddof=1), "queries": 7})
    assert over_seeds({"0": {"mrr": 0.1}}) == {"mrr": 0.1}
