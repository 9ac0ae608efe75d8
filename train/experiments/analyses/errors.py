"""Answers by subsets of the test windows, and without the order of events: rooms, months, dropped sensors."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import pyarrow as pa

from casita.train.evaluation.encoders import TRAINED
from casita.train.evaluation.probes import Prediction, Task, linear_probe
from casita.train.evaluation.scoring import Answers, Scoring
from casita.train.metrics.classification import classification_metrics

MOST_PAIRS = 8
USUAL = 0.95  # of the train sessions
DROPPED = ((0, 0), (1, 2), (3, 99))  # how many usual sensors, least and most


class PairRow(TypedDict):
    """Two labels with one main room: their test windows, and each method's balanced accuracy between the two."""

    pair: list[str]
    room: str
    windows: int
    balanced_accuracy: dict[str, float]


class SubsetRow(TypedDict):
    """A subset of the test windows: its size, and each method's accuracy on it."""

    windows: int
    sessions: int
    accuracy: dict[str, float]


class MonthRow(SubsetRow):
    """The test windows of one month."""

    month: str


class DroppedSensorsRow(SubsetRow):
    """The test windows of sessions that lack `dropped[0]` to `dropped[1]` usual sensors; `sensors` counts each."""

    dropped: list[int]
    sensors: dict[str, int]


def predict_shuffled(scoring: Scoring, task: Task) -> Answers:
    """Answer by `linear_probe_shuffled`: the first run's probe where every window's events are in a random order."""
    split = scoring.split
    (rows,) = split.where.values()
    rng = np.random.default_rng(0)
    keys = [[of_window[i] for i in rng.permutation(len(of_window))] for of_window in _keys(split.windows)]
    encoder = next(encoder for encoder in scoring.encoders.values() if encoder.kind == TRAINED)
    shuffled = encoder.encode(split.home, rows, sensor_keys=keys, progress=False)
    answer = linear_probe(shuffled.base, task, "linear_probe_shuffled", progress=False)
    return {"linear_probe_shuffled": {encoder.seed: answer}}


def main_rooms(windows: pa.Table, task: Task, rooms: dict[str, str]) -> dict[str, str]:
    """Name the room with most events in each label's train windows; `rooms` are the sensors'."""
    keys = _keys(windows)
    counts: dict[str, Counter[str]] = {}
    for row in task.train:
        counts.setdefault(task.y[row], Counter()).update(rooms[_sensor(key)] for key in keys[row])
    return {label: count.most_common(1)[0][0] for label, count in counts.items()}


def pair_rows(windows: pa.Table, task: Task, answers: Answers, rooms: dict[str, str]) -> list[PairRow]:
    """Compute the balanced accuracy of choosing between two labels with one main room, for the most frequent pairs."""
    room_of = main_rooms(windows, task, rooms)
    y_test = task.y[task.test].astype(str)
    frequency = Counter(y_test.tolist())
    shared = [pair for pair in itertools.combinations(sorted(room_of), 2) if room_of[pair[0]] == room_of[pair[1]]]
    shared.sort(key=lambda pair: -min(frequency[label] for label in pair))
    rows: list[PairRow] = []
    for pair in shared[:MOST_PAIRS]:
        chosen = np.flatnonzero(np.isin(y_test, pair))
        y_true = y_test[chosen].tolist()
        scores = {
            method: float(np.mean([_between(answer, pair, chosen, y_true) for answer in by_seed.values()]))
            for method, by_seed in answers.items()
        }
        rows.append(
            {"pair": list(pair), "room": room_of[pair[0]], "windows": len(chosen), "balanced_accuracy": scores}
        )
    return rows


def _between(answer: Prediction, pair: Sequence[str], rows: np.ndarray, y_true: list[str]) -> float:
    columns = np.array([list(answer.classes).index(label) for label in pair])
    called = [pair[i] for i in answer.probabilities[np.ix_(rows, columns)].argmax(axis=1)]
    return classification_metrics(y_true, called)["balanced_accuracy"]


def month_rows(windows: pa.Table, task: Task, answers: Answers) -> list[MonthRow]:
    """Compute the accuracy of the test windows by their month."""
    starts = windows["start"].take(pa.array(task.test)).to_pylist()
    month = np.array([f"{start:%Y-%m}" for start in starts])
    return [{"month": name, **_subset(windows, task, answers, month == name)} for name in sorted(set(month.tolist()))]


def dropped_sensor_rows(windows: pa.Table, task: Task, answers: Answers) -> list[DroppedSensorsRow]:
    """Compute the accuracy of the test windows by how many usual sensors their session lacks; `sensors` names them.

    Usual is what speaks in nearly every session of the training (`USUAL`).
    """
    sessions = _sessions(windows)
    spoke: dict[str, set[str]] = {}
    for session, keys in zip(sessions, _keys(windows), strict=True):
        spoke.setdefault(session, set()).update(map(_sensor, keys))
    trained = set(sessions[np.array(windows["split"].to_pylist(), dtype=object) == "train"])
    count = Counter(sensor for session in trained for sensor in spoke[session])
    usual = {sensor for sensor, speaks in count.items() if speaks >= USUAL * len(trained)}
    tested = sessions[task.test]
    dropped = {session: usual - spoke[session] for session in set(tested)}
    rows: list[DroppedSensorsRow] = []
    for least, most in DROPPED:
        chosen = {session for session, sensors in dropped.items() if least <= len(sensors) <= most}
        if chosen:
            sensors = Counter(sensor for session in chosen for sensor in dropped[session])
            subset = _subset(windows, task, answers, np.isin(tested.astype(str), sorted(chosen)))
            rows.append({"dropped": [least, most], "sensors": dict(sensors.most_common()), **subset})
    return rows


def _subset(windows: pa.Table, task: Task, answers: Answers, chosen: np.ndarray) -> SubsetRow:
    """Score the `chosen` of the test windows, mean over seeds."""
    y_true = task.y[task.test][chosen]
    sessions = _sessions(windows)[task.test][chosen]
    accuracy = {
        method: float(np.mean([np.array(answer.labels)[chosen] == y_true for answer in by_seed.values()]))
        for method, by_seed in answers.items()
    }
    return {"windows": len(y_true), "sessions": len(set(sessions)), "accuracy": accuracy}


def _sensor(key: str) -> str:
    return key.rpartition("_")[0]


def _keys(windows: pa.Table) -> list[list[str]]:
    return windows["sensor_keys"].to_pylist()


def _sessions(windows: pa.Table) -> np.ndarray:
    return np.array(windows["session"].to_pylist(), dtype=object)
