"""Temperature scaling: zero-shot scores that are as sure as they are right."""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

BOUNDS = (0.01, 100.0)  # when every window is right, the likelihood grows for ever as the temperature falls


def fit_temperature(logits: np.ndarray, target: np.ndarray) -> float:
    """Find the temperature T within `BOUNDS` at which softmax(logits / T) makes the right labels likeliest.

    One number, so no window's best candidate changes (Guo et al. 2017, "On Calibration of Modern Neural Networks").
    Fit it on validation windows and store it as `config.zero_shot_temperature`. The log-likelihood is concave in 1/T,
    so it has one maximum.

    Args:
        logits: `(N, K)` scaled cosines of windows and candidates, before any temperature.
        target: `(N,)` integer number of each window's right candidate.

    Raises:
        ValueError: no windows, fewer than two candidates, or a target that is no candidate.
    """
    logits = np.asarray(logits, dtype=np.float64)
    target = np.asarray(target)
    if logits.ndim != 2 or 0 in logits.shape or logits.shape[1] < 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            f"logits of shape {logits.shape} and targets of shape {target.shape}: expected (N, K) and (N,) with N > 0 "
            "windows and K > 1 candidates."
        )
    if target.min() < 0 or target.max() >= logits.shape[1]:
        raise ValueError(
            f"targets run from {target.min()} to {target.max()}, but there are {logits.shape[1]} candidates. Leave "
            "windows whose label is none of them out."
        )
    low, high = np.log(BOUNDS)
    optimum = minimize_scalar(lambda log_t: negative_log_likelihood(logits, target, np.exp(log_t)), bounds=(low, high))
    return float(np.exp(optimum.x))


def negative_log_likelihood(logits: np.ndarray, target: np.ndarray, temperature: float = 1.0) -> float:
    """Compute the mean over windows of -log softmax(logits / temperature) at the right candidate."""
    scaled = logits / temperature
    return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(target)), target]))
