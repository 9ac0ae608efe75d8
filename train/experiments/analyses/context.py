"""Probes and bags of sensors that read more than the window: the windows before, the session's clock, the hour."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix, diags, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import StandardScaler

from casita.datasets_scripts.windows.table import evenly_cut
from casita.train.evaluation.encoders import of_kind
from casita.train.evaluation.probes import Task, logistic_probe
from casita.train.evaluation.scoring import ONCE, PROBES, Answers, Scoring

STEPS_BEFORE = (2, 4)  # windows back: the two before that share no event with this one, where windows overlap by half
MINUTES = np.arange(5, 180, 5)  # edges of the time since the session began


def windows_before(windows: pa.Table, step: int) -> np.ndarray:
    """Return the row number `(N,)` of the window `step` before each in its session, -1 where there is none.

    Raises:
        ValueError: windows of which train has more than the other splits.
    """
    if not evenly_cut(windows).all():
        home = windows["home"][0]
        raise ValueError(f"home {home}: {step} windows back is not as far in train, cut with train_overlap.")
    session = np.array(windows["session"].to_pylist(), dtype=object)
    before = np.arange(len(session)) - step
    return np.where((before >= 0) & (session[before] == session), before, -1)


def minutes_of_session(windows: pa.Table) -> np.ndarray:
    """Mark in which five minutes after its session's first window each window begins: `(N, M)` 0 or 1."""
    start = windows["start"].to_numpy()
    _, session = np.unique(np.array(windows["session"].to_pylist(), dtype=object), return_inverse=True)
    first = np.full(session.max() + 1, start.max())
    np.minimum.at(first, session, start)
    passed = (start - first[session]) / np.timedelta64(60, "s")
    return np.eye(len(MINUTES) + 1, dtype=np.float32)[np.digitize(passed, MINUTES)]


def hours_of_day(windows: pa.Table) -> np.ndarray:
    """Mark the hour of the day in which each window begins: `(N, 24)` 0 or 1."""
    start = windows["start"].to_numpy()
    return np.eye(24, dtype=np.float32)[(start - start.astype("datetime64[D]")) // np.timedelta64(1, "h")]


def predict_with_context(scoring: Scoring, task: Task) -> Answers:
    """Answer by `<method>_context` and `<method>_context_minutes` of each encoder, trained or not.

    Beside the window's embedding a probe reads those of the windows before, zeros where there is none.
    """
    windows = scoring.split.windows
    before = [windows_before(windows, step) for step in STEPS_BEFORE]
    minutes = minutes_of_session(windows)
    answers: Answers = {}
    for method in ("linear_probe", "random_encoder"):
        for seed, embedding in _standardised(scoring, method, task).items():
            earlier = [np.where((rows >= 0)[:, None], embedding[rows], np.float32(0)) for rows in before]
            context = np.hstack([embedding, *earlier])
            features = {"context": context, "context_minutes": np.hstack([context, minutes])}
            _add_fitted(answers, method, features, task, seed)
    return answers


def predict_with_hour(scoring: Scoring, task: Task) -> Answers:
    """Answer by `linear_probe_hour`: the hour of the day beside the embedding."""
    hours = hours_of_day(scoring.split.windows)
    answers: Answers = {}
    for seed, embedding in _standardised(scoring, "linear_probe", task).items():
        _add_fitted(answers, "linear_probe", {"hour": np.hstack([embedding, hours])}, task, seed)
    return answers


def predict_by_bags(scoring: Scoring, task: Task) -> Answers:
    """Answer by `bag_of_sensors_log` and, with the context of the probes, `_context` and `_context_minutes`."""
    windows = scoring.split.windows
    keys = windows["sensor_keys"].to_pylist()
    counter = CountVectorizer(analyzer=list, dtype=np.float32).fit(keys[i] for i in task.train)
    counts = counter.transform(keys).tocsr()
    before = [windows_before(windows, step) for step in STEPS_BEFORE]
    there = [diags((rows >= 0).astype(np.float32)) for rows in before]
    earlier = [mask @ counts[rows] for mask, rows in zip(there, before, strict=True)]
    context = hstack([part.log1p() for part in (counts, *earlier)]).tocsr()
    minutes = csr_matrix(minutes_of_session(windows))
    features = {
        "log": counts.log1p(),
        "context": context,
        "context_minutes": hstack([context, minutes]).tocsr(),
    }
    answers: Answers = {}
    _add_fitted(answers, "bag_of_sensors", features, task, ONCE)
    return answers


def _standardised(scoring: Scoring, method: str, task: Task) -> dict[str, np.ndarray]:
    """Return the embeddings that a probe reads, by seed, each dimension standardised by the train windows."""
    kind, reads = PROBES[method]
    rows = {seed: getattr(embeddings, reads) for seed, embeddings in of_kind(kind, scoring.encoded).items()}
    return {seed: StandardScaler().fit(array[task.train]).transform(array) for seed, array in rows.items()}


def _add_fitted(
    answers: Answers, method: str, features: Mapping[str, np.ndarray | csr_matrix], task: Task, seed: str
) -> None:
    """Fit a probe on each of the `features` by name, and add its answer as that of `<method>_<name>`."""
    for name, array in features.items():
        answer = logistic_probe(array, task, f"{method}_{name}", progress=False)
        answers.setdefault(f"{method}_{name}", {})[seed] = answer
