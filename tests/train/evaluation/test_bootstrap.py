"""Intervals equal a slow bootstrap over the drawn days' windows, and hold the truth as often as they say."""

import numpy as np
import pytest

from casita.train.evaluation.bootstrap import LEVEL, BootstrapClusters, classification_intervals, ranking_intervals
from casita.train.evaluation.probes import Prediction, Task
from casita.train.metrics.classification import CLASSIFICATION, classification_metrics, ece
from casita.train.metrics.ranking import NAMES, Ranked

CLASSES = ["a", "b", "c"]
DAYS = BootstrapClusters(np.repeat(np.arange(7), [3, 9, 1, 12, 5, 8, 2]), "day")


@pytest.fixture(scope="module")
def answered():
    """A task of 40 windows on 7 days, and two seeds' answers to it."""
    rng = np.random.default_rng(0)
    y = rng.choice(CLASSES, size=40).astype(object)
    nothing = np.zeros(0, np.int64)
    answers = [Prediction(rng.dirichlet(np.ones(3), size=40), CLASSES) for _ in range(2)]
    return Task(y, nothing, nothing, np.arange(40)), answers


def quantiles(values):
    return np.quantile(values, [(1 - LEVEL) / 2, 1 - (1 - LEVEL) / 2])


def test_classification_intervals_equal_the_slow_bootstrap(answered):
    task, answers = answered
    found = classification_intervals(answers, task, DAYS)
    drawn = []
    for draw in DAYS.draws():
        rows = np.concatenate([np.repeat(np.flatnonzero(DAYS.code == day), often) for day, often in enumerate(draw)])
        y_true, seeds = task.y[rows].tolist(), []
        for answer in answers:
            called = [answer.labels[i] for i in rows]
            metrics = classification_metrics(y_true, called)
            seeds.append([*metrics.values(), ece(answer.probabilities[rows], y_true, CLASSES)])
        drawn.append(np.mean(seeds, axis=0))
    for i, name in enumerate([*CLASSIFICATION, "ece"]):
        assert found[f"{name}_ci"] == pytest.approx(quantiles(np.array(drawn)[:, i]))


def test_ranking_intervals_equal_the_slow_bootstrap():
    rng = np.random.default_rng(1)
    rows = rng.integers(0, 40, size=25)  # captions share windows' days, and some days have none
    scores = [rng.random((25, len(NAMES))) for _ in range(3)]
    found = ranking_intervals([Ranked(each, rows, 40) for each in scores], DAYS)
    days = DAYS.take(rows)
    mean, drawn = np.mean(scores, axis=0), []
    for draw in days.draws():
        chosen = np.concatenate([np.repeat(np.flatnonzero(days.code == day), often) for day, often in enumerate(draw)])
        drawn.append(mean[chosen].mean(axis=0))
    for i, name in enumerate(NAMES):
        assert found[f"{name}_ci"] == pytest.approx(quantiles(np.array(drawn)[:, i]))


def test_days_that_resemble_each_other_within_make_a_wider_interval_than_windows_would():
    rng = np.random.default_rng(2)
    right = np.repeat(rng.random(30) < 0.6, 20)  # all windows of a day are right, or all wrong
    y = np.full(600, "a", dtype=object)
    answer = Prediction(np.where(right[:, None], [0.9, 0.1], [0.1, 0.9]), ["a", "b"])
    task = Task(y, *(np.zeros(0, np.int64),) * 2, np.arange(600))
    days, windows = (
        classification_intervals([answer], task, BootstrapClusters(code, "day"))["accuracy_ci"]
        for code in (np.repeat(np.arange(30), 20), np.arange(600))
    )
    assert np.ptp(days) > 3 * np.ptp(windows)


def test_nineteen_of_twenty_intervals_hold_the_truth():
    rng, held = np.random.default_rng(3), 0
    for _ in range(200):
        share = rng.beta(6, 4, size=40)  # days differ; 0.6 is right on average
        right = rng.random((40, 10)) < share[:, None]
        ranked = Ranked(right.reshape(-1, 1) * np.ones(len(NAMES)), np.arange(400), 9)
        low, high = ranking_intervals([ranked], BootstrapClusters(np.repeat(np.arange(40), 10), "day"))["mrr_ci"]
        held += low <= 0.6 <= high
    assert 0.9 <= held / 200 <= 0.99


def test_a_single_day_has_no_interval(answered):
    task, answers = answered
    assert classification_intervals(answers, task, BootstrapClusters(np.zeros(40, np.int64), "day")) == {}
