"""The one draw of a few labels, the same for every method: probes, baselines and fine-tuning learn from it.

It is made from all labelled windows of the train split and of the validation split, before anything is thinned: with
one home, one set of labels, one amount and one seed the same windows are drawn, whoever asks.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def label_stretches(windows: pa.Table) -> np.ndarray:
    """Number the stretches of consecutive windows of one session with one label (or without): `(N,)` int64.

    Args:
        windows: all windows of a home in their order, with the columns `session` and `activity`.
    """
    pairs = list(zip(windows["session"].to_pylist(), windows["activity"].to_pylist(), strict=True))
    changes = [now != before for now, before in zip(pairs[1:], pairs[:-1], strict=True)]
    return np.concatenate([np.zeros(min(1, len(pairs)), np.int64), np.cumsum(changes, dtype=np.int64)])


def draw_few(parts: Sequence[tuple[np.ndarray, np.ndarray]], amount: float | int, seed: int) -> list[np.ndarray]:
    """Draw a few rows of each part, sorted: of each label a share (float) or a number (int), at least one.

    Whole stretches are drawn, as somebody labels who watches a recording; the last one is cut at the number wanted.
    Single windows would be drawn from nearly every stretch, and with windows that overlap they give away more than
    their share.

    Args:
        parts: labels `(N,)` and stretches `(N,)` of all labelled windows of the train split, then of the validation
            split: the second draw goes on where the first one ended.
    """
    rng = np.random.default_rng([seed, 5])
    return [_draw_part(labels, stretches, amount, rng) for labels, stretches in parts]


def _draw_part(labels: np.ndarray, stretches: np.ndarray, amount: float | int, rng: np.random.Generator) -> np.ndarray:
    chosen = [np.zeros(0, np.int64)]
    for label in sorted(set(labels)):
        rows = np.flatnonzero(labels == label)
        wanted = amount if isinstance(amount, int) else max(1, round(amount * len(rows)))
        _, stretch = np.unique(stretches[rows], return_inverse=True)
        place = rng.permutation(stretch.max() + 1)  # of each stretch in the order drawn
        chosen.append(rows[np.argsort(place[stretch], kind="stable")][:wanted])
    return np.sort(np.concatenate(chosen))
