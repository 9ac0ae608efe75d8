"""Windows and splits: no event in two splits, labels by majority, nothing dropped in silence."""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from event_tables import LAYOUT, make_events

from casita.datasets_scripts.layouts.layout import load_layout
from casita.datasets_scripts.readers.read import read_events
from casita.datasets_scripts.schema import EVENTS, WINDOWS, HomeFolder, read_metadata, read_table, write_table
from casita.datasets_scripts.windows.cut import WindowSettings, build_windows, cut_home
from casita.datasets_scripts.windows.splits import SPLITS, assign_splits, leak_audit


def test_days_are_split_in_time_order_seventy_ten_twenty():
    t_us = np.asarray(make_events()["timestamp"].cast(pa.int64()))
    split, unit = assign_splits(t_us, np.zeros(len(t_us), dtype=int))
    assert unit == "day"
    per_day = split.reshape(10, -1)
    assert (per_day == per_day[:, :1]).all()
    assert per_day[:, 0].tolist() == [0] * 7 + [1] + [2] * 2


def test_sessions_are_split_by_their_first_event_not_by_their_name():
    session = np.repeat(np.arange(10), 3)
    t_us = np.repeat(np.arange(10)[::-1], 3) * 10**9  # the session named first happened last
    split, unit = assign_splits(t_us, session)
    assert unit == "session"
    assert split[::3].tolist() == [2, 2, 1, *[0] * 7]


def test_sessions_that_overlap_in_time_stay_together():
    # twelve sessions of 100 s; the one named first is a second copy of part of the last
    session = np.repeat(np.arange(13), 5)
    t_us = np.concatenate([1110 + np.arange(5) * 10, *(s * 100 + np.arange(5) * 20 for s in range(12))]) * 10**6
    split, _ = assign_splits(t_us, session, unit="session")
    assert split[session == 0].tolist() == split[session == 12].tolist() == [2] * 5
    copies = np.repeat(np.arange(10), 5)
    with pytest.raises(ValueError, match=r"1 session\(s\) that do not overlap in time"):
        assign_splits(np.tile(np.arange(5), 10) * 10**6, copies, unit="session")


def test_the_audit_finds_a_recording_under_two_names():
    events = make_events()
    windows, _ = build_windows(events, LAYOUT, WindowSettings(length=10, max_gap_min=None))
    renamed = pa.array(["copy"] * len(windows))
    copy = windows.set_column(windows.column_names.index("session"), "session", renamed)
    in_train = windows.filter(pc.equal(windows["split"], "train"))
    as_test = copy.filter(pc.equal(windows["split"], "train"))
    as_test = as_test.set_column(as_test.column_names.index("split"), "split", pa.array(["test"] * len(as_test)))
    audit = leak_audit(pa.concat_tables([in_train, as_test]), events)
    assert audit["train/test"] > 100


def test_the_night_belongs_to_the_day_before():
    before, after = (int(datetime(2024, 1, d, h).timestamp()) for d, h in ((2, 2), (2, 6)))
    start = int(datetime(2024, 1, 1, 12).timestamp())
    t_us = np.array([start, before, after, after + 86400, after + 2 * 86400]) * 10**6
    split, _ = assign_splits(t_us, np.zeros(5, dtype=int), unit="day")
    assert split[0] == split[1]


def test_a_purge_gap_follows_each_border_within_a_session():
    t_us = np.asarray(make_events()["timestamp"].cast(pa.int64()))
    split, _ = assign_splits(t_us, np.zeros(len(t_us), dtype=int), purge_events=20)
    borders = [7 * 120, 8 * 120]
    assert np.flatnonzero(split == -1).tolist() == [i for b in borders for i in range(b, b + 20)]


def test_a_purge_of_seconds_takes_exactly_the_events_within_them():
    events = make_events()
    t_us = np.asarray(events["timestamp"].cast(pa.int64()))
    split, _ = assign_splits(t_us, np.zeros(len(t_us), dtype=int), purge_s=3600)
    borders = [7 * 120, 8 * 120]
    expected = [i for b in borders for i in range(b, b + 120) if t_us[i] < t_us[b] + 3600 * 10**6]
    assert 4 < len(expected) < 40
    assert np.flatnonzero(split == -1).tolist() == expected


def test_two_days_are_too_few():
    t_us = np.asarray(make_events(days=2)["timestamp"].cast(pa.int64()))
    with pytest.raises(ValueError, match=r"has 2 day\(s\).*at least 3"):
        assign_splits(t_us, np.zeros(len(t_us), dtype=int))


@pytest.mark.parametrize("order", ["chronological", "random"])
def test_no_event_is_in_two_splits(order):
    events = make_events()
    windows, summary = build_windows(events, LAYOUT, WindowSettings(length=10, max_gap_min=None, split=order))
    assert set(windows["split"].to_pylist()) == set(SPLITS)
    assert leak_audit(windows, events) == {"train/validation": 0, "train/test": 0, "validation/test": 0}
    assert summary["leak_audit"] == leak_audit(windows, events)


def test_the_audit_finds_one_planted_event():
    events = make_events()
    windows, _ = build_windows(events, LAYOUT, WindowSettings(length=10, numeric="levels", max_gap_min=None))
    first_test = windows["split"].to_pylist().index("test")
    moments = events["timestamp"].to_pylist()
    ends = windows["end"].to_pylist()
    last_train = max(i for i, s in enumerate(windows["split"].to_pylist()) if s == "train")
    starts = windows["start"].to_pylist()
    starts[first_test] = ends[last_train]  # the test window now reaches back to the last train event
    planted = windows.set_column(windows.column_names.index("start"), "start", pa.array(starts, pa.timestamp("us")))
    audit = leak_audit(planted, events)
    assert moments.count(ends[last_train]) == 1
    assert audit["train/test"] == 1


def test_the_audit_counts_like_a_loop_over_events():
    events = make_events(days=4, per_day=30)
    windows, _ = build_windows(
        events, LAYOUT, WindowSettings(length=8, min_events=2, numeric="levels", max_gap_min=None)
    )
    shuffled = np.random.default_rng(0).permutation(np.asarray(windows["split"]))
    wrong = windows.set_column(windows.column_names.index("split"), "split", pa.array(shuffled))
    inside = {name: set() for name in SPLITS}
    for window in wrong.to_pylist():
        for i, moment in enumerate(events["timestamp"].to_pylist()):
            if window["start"] <= moment <= window["end"]:
                inside[window["split"]].add(i)
    audit = leak_audit(wrong, events)
    assert audit == {pair: len(inside[pair.split("/")[0]] & inside[pair.split("/")[1]]) for pair in audit}
    assert sum(audit.values()) > 0


def test_labels_are_the_majority_and_null_where_most_events_have_none():
    events = make_events(days=3, per_day=120)
    windows, _ = build_windows(events, LAYOUT, WindowSettings(length=30, numeric="levels", max_gap_min=None))
    stamps = np.asarray(events["timestamp"].cast(pa.int64()))
    labels = events["activity"].to_pylist()
    for window in windows.to_pylist():
        start, end = (np.datetime64(window[side], "us").astype(np.int64) for side in ("start", "end"))
        inside = [labels[i] for i in np.flatnonzero((stamps >= start) & (stamps <= end))]
        counts = {label: inside.count(label) for label in set(inside)}
        assert counts[window["activity"]] == max(counts.values())
        assert window["activity_share"] == pytest.approx(max(counts.values()) / len(inside))


def test_presegmented_windows_hold_one_label_only():
    windows, _ = build_windows(make_events(), LAYOUT, WindowSettings(length=30, presegment="fine", max_gap_min=None))
    assert pc.min(windows["activity_share"]).as_py() == 1.0


def test_a_sensor_without_a_position_is_named_and_nothing_is_written(tmp_path):
    layout = {**LAYOUT, "sensors": {k: v for k, v in LAYOUT["sensors"].items() if k != "M002"}}
    home = HomeFolder(tmp_path)
    write_table(home.events, make_events(), EVENTS)
    home.describe(home="toy", layout=layout)
    with pytest.raises(
        ValueError, match=r"1 of the log's sensors have no position.*'M002'.*--unplaced drop.* 400 events"
    ):
        cut_home(home, WindowSettings())
    assert not home.windows.exists()


def test_every_event_left_out_is_counted():
    events = make_events()
    windows, summary = build_windows(
        events, LAYOUT, WindowSettings(length=10, overlap=0, min_events=1, max_gap_min=None, types=("motion",))
    )
    kept = sum(len(keys) for keys in windows["sensor_keys"].to_pylist())
    assert kept + sum(summary["left_out"].values()) == len(events)


def test_numeric_levels_are_fitted_on_the_train_days_alone():
    events = make_events()
    late = np.asarray(events["timestamp"].cast(pa.int64())) >= np.int64(
        (datetime(2024, 1, 8, 4) - datetime(1970, 1, 1)).total_seconds() * 1e6
    )
    hot = pc.if_else(pa.array(late), pc.add(events["value"], pa.scalar(100, pa.float32())), events["value"])
    heated = events.set_column(events.column_names.index("value"), "value", hot)
    settings = WindowSettings(numeric="levels", max_gap_min=None)
    (_, cool_summary), (heated_windows, hot_summary) = (build_windows(e, LAYOUT, settings) for e in (events, heated))
    assert hot_summary["levels"] == cool_summary["levels"]
    test_keys = heated_windows.filter(pc.equal(heated_windows["split"], "test"))["sensor_keys"].to_pylist()
    assert {key for keys in test_keys for key in keys if key.startswith("T001")} == {"T001_HIGH"}


def test_window_ids_are_unique_even_when_windows_start_together():
    events = make_events()
    same = pa.array([datetime(2024, 1, 1 + i // 400, 5) for i in range(len(events))], pa.timestamp("us"))
    together = events.set_column(events.column_names.index("timestamp"), "timestamp", same)
    windows, _ = build_windows(together, LAYOUT, WindowSettings(length=10))
    assert pc.count_distinct(windows["window_id"]).as_py() == len(windows) > 10


def test_a_second_run_does_nothing_and_a_changed_setting_cuts_anew(tmp_path):
    home = HomeFolder(tmp_path)
    write_table(home.events, make_events(), EVENTS)
    home.describe(home="toy", layout=LAYOUT)
    assert cut_home(home, WindowSettings()) is not None
    assert cut_home(home, WindowSettings()) is None
    assert cut_home(home, WindowSettings(length=30)) is not None
    assert read_metadata(home.windows)["sampling"]["length"] == 30
    read_table(home.windows, WINDOWS)


@pytest.mark.parametrize(
    "how",
    [
        {"length": 20, "train_overlap": 0.9},
        {"length": 50, "train_overlap": 0.9, "numeric": "levels"},
        {"strategy": "fixed_duration", "duration_s": 3600.0, "train_overlap": 0.75},
    ],
)
def test_a_larger_overlap_in_train_adds_windows_there_and_moves_none(how):
    events = make_events()
    usual, _ = build_windows(events, LAYOUT, WindowSettings(max_gap_min=None, **{**how, "train_overlap": None}))
    alike = {**how, "train_overlap": None, "overlap": how["train_overlap"]}
    dense, _ = build_windows(events, LAYOUT, WindowSettings(max_gap_min=None, **alike))
    both, summary = build_windows(events, LAYOUT, WindowSettings(max_gap_min=None, **how))
    at = pc.is_in(both["window_id"], usual["window_id"])
    assert both.filter(at).to_pylist() == usual.to_pylist()
    added = both.filter(pc.invert(at))
    assert set(added["split"].to_pylist()) == {"train"}
    known = {row["window_id"]: row for row in dense.to_pylist()}
    assert all(known[row["window_id"]] == row for row in added.to_pylist())
    in_train = {row["start"] for row in [*usual.to_pylist(), *dense.to_pylist()] if row["split"] == "train"}
    assert sorted(row["start"] for row in both.to_pylist() if row["split"] == "train") == sorted(in_train)  # each once
    starts = both["start"].to_pylist()
    assert starts == sorted(starts)
    assert summary["leak_audit"] == leak_audit(both, events)
    assert len(added) > 0.5 * sum(name == "train" for name in usual["split"].to_pylist())


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"length": 50, "train_overlap": 0.8}, r"divides overlap's of 25 events: 0\.9, 0\.98"),
        ({"train_overlap": 0.5}, r"train_overlap=0\.5: expected a share in \(0\.5, 1\): above overlap"),
        ({"train_overlap": 1.0}, r"above overlap.*Leave it out"),
        ({"length": 2, "train_overlap": 0.9}, "none is there"),
    ],
)
def test_a_train_overlap_that_does_not_fit_is_refused_with_those_that_do(how, message):
    with pytest.raises(ValueError, match=message):
        WindowSettings(**how)


def test_real_homes_are_cut_without_a_leak(real_homes):
    events, _ = read_events([real_homes / "kasteren_a"], "kasteren_a")
    windows, summary = build_windows(events, load_layout("kasteren_a"), WindowSettings())
    assert len(windows) > 100
    assert sum(summary["leak_audit"].values()) == 0
    assert summary["split_unit"] == "day"


def test_kyoto_is_cut_by_session_without_a_leak(real_homes):
    events, _ = read_events([real_homes / "kyoto"], "kyoto")
    settings = WindowSettings(length=50, types=("motion", "door", "item"), unplaced="drop")
    windows, summary = build_windows(events, load_layout("kyoto"), settings)
    assert summary["split_unit"] == "session"
    assert sum(summary["leak_audit"].values()) == 0
    assert pc.count_distinct(windows["session"]).as_py() == 265
    ends = {s: pc.max(windows.filter(pc.equal(windows["split"], s))["start"]).as_py() for s in SPLITS}
    assert ends["train"] < ends["validation"] < ends["test"]
