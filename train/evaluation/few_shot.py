"""A few labels to learn from, the same for every method: whole stretches of a recording, as somebody labels them."""

from dataclasses import replace

import numpy as np

from casita.train.evaluation.probes import Task

FEW_SHOT = (0.05, 0.3)


def draw_few(task: Task, runs: np.ndarray, share: float, seed: int) -> Task:
    """The same task with `share` of the labels of train and validation, those of test as they are.

    Of each label so many windows, at least one, drawn by whole stretches (`runs` `(N,)`: neighbours with one label);
    the last stretch is cut at the number wanted. Single windows would be drawn from nearly every stretch, and with
    windows that overlap they tell more than their share.
    """
    rng = np.random.default_rng([seed, 5])
    train, validation = (_drawn(task.y, rows, runs, share, rng) for rows in (task.train, task.validation))
    return replace(task, train=train, validation=validation)


def _drawn(y: np.ndarray, rows: np.ndarray, runs: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    chosen = [np.zeros(0, np.int64)]
    for label in sorted(set(y[rows])):
        own = rows[y[rows] == label]
        _, run = np.unique(runs[own], return_inverse=True)
        place = rng.permutation(run.max() + 1)  # of each stretch in the order drawn
        chosen.append(own[np.argsort(place[run], kind="stable")][: max(1, round(share * len(own)))])
    return np.sort(np.concatenate(chosen))
