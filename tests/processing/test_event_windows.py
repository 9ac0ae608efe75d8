"""Cutting: equal to a slow obvious version, and its borders."""

import numpy as np
import pytest

from casita.processing.event_windows import (
    Windowing,
    cut_fixed_length,
    draw_durations,
    fit_levels,
    level_of,
    run_starts,
    split_long,
    window_index,
)


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


def slow_durations(runs, t_us, duration_of, overlap, min_events):
    windows = []
    for run in runs:
        at = run[0]
        while at is not None:
            duration = duration_of(at)
            window = [i for i in run if t_us[at] <= t_us[i] < t_us[at] + duration and i >= at]
            if len(window) >= min_events:
                windows.append((window[0], window[-1] + 1))
            later = [i for i in run if t_us[i] >= t_us[at] + max(1, round(duration * (1 - overlap)))]
            at = later[0] if later else None
    return windows


def random_stream(seed, events=250):
    """Five sessions, one of them earlier than the one before it, with bursts, silences and equal times."""
    rng = np.random.default_rng(seed)
    session = np.sort(rng.integers(0, 5, events))
    starts = rng.permutation(5) * 10**9
    steps = [rng.choice([0, 1, 10**6, 20 * 10**6, 200 * 10**6], (session == s).sum()) for s in range(5)]
    t_us = np.concatenate([starts[s] + np.cumsum(steps[s]) for s in range(5)]).astype(np.int64)
    return t_us, session, rng


@pytest.mark.parametrize("strategy", ["fixed_duration", "variable_duration"])
@pytest.mark.parametrize("seed", range(6))
def test_cutting_by_time_equals_a_loop_over_events(seed, strategy):
    t_us, session, rng = random_stream(seed)
    several = strategy == "variable_duration"
    durations = {"durations_s": (5.0, 60.0, 400.0)} if several else {"duration_s": float(rng.choice([0.5, 60, 1e4]))}
    how = Windowing(
        strategy=strategy,
        **durations,
        overlap=float(rng.choice([0, 0.25, 0.5, 0.9])),
        min_events=int(rng.integers(1, 5)),
        max_gap_min=2.5,
        seed=seed,
    )
    drawn = draw_durations(t_us, how.all_durations_s, seed)
    expected = slow_durations(slow_runs(t_us, session, 150), t_us, drawn.__getitem__, how.overlap, how.min_events)
    first, last = how.cut(t_us, session)
    assert list(zip(first.tolist(), last.tolist(), strict=True)) == expected
    assert len(expected) > 5


def test_a_silence_longer_than_the_window_changes_nothing():
    t_us, session, _ = random_stream(3)
    cuts = [
        Windowing(strategy="fixed_duration", duration_s=60.0, max_gap_min=gap).cut(t_us, session)
        for gap in (1.5, None)
    ]
    assert (np.diff(t_us) > 1.5 * 60e6).sum() > 5
    np.testing.assert_array_equal(cuts[0], cuts[1])


def test_variable_windows_of_a_run_do_not_know_the_other_runs():
    t_us, session, _ = random_stream(4)
    how = Windowing(strategy="variable_duration", durations_s=(5.0, 60.0, 400.0), seed=9)
    first, last = how.cut(t_us, session)
    for s in range(5):
        begin, end = np.searchsorted(session, [s, s + 1])
        alone = np.stack(how.cut(t_us[begin:end], session[begin:end])) + begin
        inside = (first >= begin) & (first < end)
        np.testing.assert_array_equal(alone, np.stack([first[inside], last[inside]]))


def test_durations_are_drawn_evenly_and_anew_for_each_seed():
    t_us = np.arange(30_000, dtype=np.int64) * 10**6  # whole seconds, as many logs have them
    drawn = np.stack([draw_durations(t_us, (30, 60, 120), seed) for seed in range(3)])
    for one in drawn:
        counts = [(one == d * 10**6).sum() for d in (30, 60, 120)]
        assert sum(counts) == 30_000
        assert max(abs(count - 10_000) for count in counts) < 330  # 4 standard deviations of a binomial
    assert abs((drawn[0] == drawn[1]).mean() - 1 / 3) < 0.011  # independent of each other, again 4 deviations
    assert abs((drawn[0][1:] == drawn[0][:-1]).mean() - 1 / 3) < 0.011


def test_long_windows_are_split_without_losing_an_event():
    rng = np.random.default_rng(0)
    first = np.sort(rng.integers(0, 500, 60))
    last = first + rng.integers(1, 90, 60)
    pieces = list(zip(*(x.tolist() for x in split_long(first, last, 7)), strict=True))
    expected = []
    for a, b in zip(first.tolist(), last.tolist(), strict=True):
        expected += [(part[0], part[-1] + 1) for part in np.array_split(np.arange(a, b), -(-(b - a) // 7))]
    sizes = [b - a for a, b in pieces]
    assert max(sizes) == 7
    assert pieces == sorted(pieces, key=lambda piece: piece[0])
    assert sorted((i for a, b in pieces for i in range(a, b))) == sorted(i for a, b in expected for i in range(a, b))
    assert len(pieces) == len(expected)


@pytest.mark.parametrize(("max_events", "least"), [(1, 1), (2, 1), (7, 4), (50, 25)])
def test_no_piece_is_shorter_than_half_of_the_most(max_events, least):
    size = np.arange(max_events + 1, 400)
    first, last = split_long(np.zeros(len(size), dtype=np.int64), size, max_events)
    assert (last - first).min() == least


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"strategy": "by_feel"}, "none of fixed_length, fixed_duration, variable_duration"),
        ({"duration_s": 30}, "fixed_length does not read duration_s"),
        ({"strategy": "fixed_duration"}, "needs duration_s"),
        ({"strategy": "variable_duration", "duration_s": 30, "durations_s": (30,)}, "does not read duration_s"),
        ({"strategy": "variable_duration", "durations_s": ()}, r"0.0001 or more, found \[\]"),
        ({"strategy": "fixed_duration", "duration_s": float("nan")}, "0.0001 or more"),
        ({"max_events": 30}, "fixed_length does not read max_events"),
        (
            {"strategy": "fixed_duration", "duration_s": 9, "max_events": 6, "min_events": 4},
            "pieces of 3 events or more",
        ),
        ({"overlap": 1.0}, r"overlap=1.0 in \[0, 1\)"),
        ({"max_gap_min": 0}, "must be above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Windowing(**wrong)
