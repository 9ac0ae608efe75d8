"""The temperature that makes zero-shot scores as sure as they are right."""

import numpy as np
import pytest
from scipy.special import softmax

from casita.train.metrics.calibration import BOUNDS, fit_temperature, negative_log_likelihood
from casita.train.metrics.classification import ece


def make_windows(n=4000, k=5, seed=0):
    """Logits whose softmax is the true distribution of the labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(n, k))
    return logits, np.array([rng.choice(k, p=row) for row in softmax(logits, axis=1)])


@pytest.mark.parametrize("factor", [0.2, 1.0, 8.0])
def test_the_factor_by_which_logits_are_too_sure_is_found(factor):
    logits, target = make_windows()
    # 4,000 windows give a temperature to a few per cent
    assert fit_temperature(logits * factor, target) == pytest.approx(factor, rel=0.05)


def test_no_other_temperature_is_likelier():
    logits, target = make_windows(n=300, seed=1)
    best = negative_log_likelihood(logits * 3, target, fit_temperature(logits * 3, target))
    grid = [negative_log_likelihood(logits * 3, target, t) for t in np.geomspace(*BOUNDS, 2000)]
    assert best <= min(grid) + 1e-9


def test_calibrated_scores_are_as_sure_as_they_are_right():
    logits, target = make_windows()
    labels = np.array(list("abcde"))
    temperature = fit_temperature(logits * 5, target)
    before, after = (ece(softmax(logits * 5 / t, axis=1), labels[target], labels) for t in (1, temperature))
    assert before > 0.1
    assert after < 0.03  # the noise of 4,000 windows in 15 bins


def test_windows_that_are_all_right_stay_within_the_bounds():
    logits, target = np.eye(4), np.arange(4)
    temperature = fit_temperature(logits, target)
    assert BOUNDS[0] <= temperature < 0.1  # below that the likelihood is 1 to the last digit
    assert negative_log_likelihood(logits, target, temperature) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (np.zeros((0, 3)), np.zeros(0, int), "N > 0"),
        (np.zeros((4, 1)), np.zeros(4, int), "K > 1"),
        (np.zeros((4, 3)), np.zeros(5, int), r"\(N, K\) and \(N,\)"),
        (np.zeros((4, 3)), np.array([0, 1, 2, 3]), "there are 3 candidates"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logits, target, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(logits, target)
