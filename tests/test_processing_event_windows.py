"""Cutting: equal to a slow obvious version, and its borders."""

import numpy as np
import pytest

from casita.processing.event_windows import cut_fixed_length, fit_levels, level_of, run_starts, window_index


def slow_runs(t_us, session, max_gap_s):
    runs, current = [], [0]
    for i in range(1, len(t_us)):
        if session[i] != session[i - 1] or (t_us[i] - t_us[i - 1]) / 1e6 > max_gap_s:
            runs.append(current)
            current = []
        current.append(i)
    return [*runs, current]


def slow_cut(runs, length, stride, min_events):
    windows = []
    for run in runs:
        at = 0
        while True:
            window = run[at : at + length]
            if len(window) >= min_events:
                windows.append((window[0], window[-1] + 1))
            if at + length >= len(run):
                break
            at += stride
    return windows


@pytest.mark.parametrize("seed", range(8))
def test_cutting_equals_a_loop_over_events(seed):
    rng = np.random.default_rng(seed)
    session = np.sort(rng.integers(0, 5, 300))
    t_us = np.concatenate([np.cumsum(rng.exponential(60e6, (session == s).sum())) for s in range(5)]).astype(np.int64)
    length, overlap, min_events = (
        int(rng.integers(1, 30)),
        float(rng.choice([0, 0.25, 0.5, 0.9])),
        int(rng.integers(1, 9)),
    )
    starts = run_starts(t_us, session, max_gap_s=150)
    first, last = cut_fixed_length(starts, len(t_us), length=length, overlap=overlap, min_events=min_events)
    stride = max(1, round(length * (1 - overlap)))
    expected = slow_cut(slow_runs(t_us, session, 150), length, stride, min_events)
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == expected


def test_no_events_give_no_windows():
    starts = run_starts(np.zeros(0, dtype=np.int64))
    assert [len(x) for x in cut_fixed_length(starts, 0, length=20)] == [0, 0]


def test_a_gap_of_exactly_the_limit_does_not_end_a_run():
    t_us = np.array([0, 10, 20.000001]) * 10**6
    assert run_starts(t_us.astype(np.int64), max_gap_s=10).tolist() == [0, 2]


def test_eight_tenths_overlap_of_fifty_is_a_stride_of_ten():
    # 50 * (1 - 0.8) is 9.999... in floating point
    first, _ = cut_fixed_length(np.zeros(1, dtype=np.int64), 200, length=50, overlap=0.8)
    assert np.diff(first).tolist() == [10] * (len(first) - 1)


@pytest.mark.parametrize("bad", [{"length": 0}, {"length": 5, "overlap": 1.0}, {"length": 5, "min_events": 0}])
def test_impossible_windows_are_refused(bad):
    with pytest.raises(ValueError, match="must be at least 1"):
        cut_fixed_length(np.zeros(1, dtype=np.int64), 10, **bad)


def test_window_index_masks_what_is_not_there():
    index, mask = window_index(np.array([0, 5]), np.array([3, 7]))
    assert index.tolist() == [[0, 1, 2], [5, 6, 6]]
    assert mask.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_levels_are_quartiles_with_the_bounds_in_the_middle():
    low, high = fit_levels([10, 20, 30, 40, 50])
    assert (low, high) == (20, 40)
    assert level_of(np.array([19.9, 20, 40, 40.1]), low, high).tolist() == ["LOW", "NORMAL", "NORMAL", "HIGH"]
