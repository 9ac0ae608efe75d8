"""Every way to cut windows, on made-up and real homes: recomputed slowly, without a leak, with the right labels."""

import argparse
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from casita.cli import main
from casita.datasets_scripts.layouts.label_prompts import coarse_labels
from casita.datasets_scripts.layouts.layout import load_layout
from casita.datasets_scripts.readers.read import read_events
from casita.datasets_scripts.schema import EVENTS, WINDOWS, HomeFolder, read_metadata, read_table, write_table
from casita.datasets_scripts.windows.cut import WindowSettings, add_window_arguments, build_windows, settings_from
from casita.datasets_scripts.windows.splits import SPLITS, assign_splits, leak_audit
from casita.processing.event_windows import draw_durations

DURATION = {"strategy": "fixed_duration", "duration_s": 60.0}
VARIABLE = {"strategy": "variable_duration", "durations_s": (30.0, 60.0, 120.0)}
LAYOUT = {
    "home": "pair",
    "size": [100, 100],
    "sensors": {f"M00{i}": {"x": 10 * i, "y": 10, "room": "hall", "type": "motion"} for i in range(4)},
    "activities": {"Sleep": {"coarse": "Sleep"}, "Nap": {"coarse": "Sleep"}, "Work": {"coarse": "Work"}},
}
# what is open in turn: nothing, one resident's, both residents', somebody's
OPEN = ([], ["R1_Sleep"], ["R1_Sleep", "R2_Work"], ["R2_Work"], ["R2_Work", "Nap"], ["Nap", "R1_Work"])
OF_R1 = (None, "Sleep", "Sleep", None, "Nap", "Work")
OF_R2 = (None, None, "Work", "Work", "Nap", "Nap")


def make_events(days=10, per_day=180, home="pair", seed=0):
    rng, rows = np.random.default_rng(seed), []
    for day in range(days):
        offsets_s = np.cumsum(rng.choice([1, 7, 45, 2400], per_day, p=[0.4, 0.4, 0.17, 0.03]))
        for i, offset_s in enumerate(offsets_s.tolist()):
            stamp = datetime(2024, 1, 1, 4) + timedelta(days=day, seconds=offset_s)
            sensor, state = f"M00{rng.integers(4)}", ("ON", "OFF")[i % 2]
            open_ones = OPEN[i // 13 % len(OPEN)]
            last = open_ones[-1] if open_ones else None
            rows.append((home, "log", stamp, sensor, state, None, last, open_ones))
    columns = zip(*rows, strict=True)
    arrays = [pa.array(c, f.type) for c, f in zip(columns, EVENTS, strict=True)]
    return pa.table(dict(zip(EVENTS.names, arrays, strict=True)))


def slow_windows(rows, settings, splits, segments):
    """`(first, last)` bounds of the windows of `rows`, a list of events, by the definition and one event at a time."""
    found, run = [], []
    for i in range(len(rows) + 1):
        same = run and i < len(rows) and all(x[i] == x[i - 1] for x in (splits, segments))
        if not (same and rows[i]["session"] == rows[i - 1]["session"] and settings_gap(rows, i, settings)):
            if run and splits[run[0]] >= 0:
                found += slow_run(rows, run, settings)
            run = []
        run.append(i)
    return found


def settings_gap(rows, i, settings):
    gap = rows[i]["timestamp"] - rows[i - 1]["timestamp"]
    return settings.max_gap_min is None or gap <= timedelta(minutes=settings.max_gap_min)


def slow_run(rows, run, settings):
    if settings.strategy == "fixed_length":
        stride = max(1, round(settings.length * (1 - settings.overlap)))
        starts = [s for s in range(0, len(run), stride) if s == 0 or s - stride + settings.length < len(run)]
        parts = [run[s : s + settings.length] for s in starts]
        return [(p[0], p[-1] + 1) for p in parts if len(p) >= min(settings.min_events, settings.length)]
    windows, at = [], 0
    while at < len(run):
        t0 = rows[run[at]]["timestamp"]
        moment = np.array([np.datetime64(t0, "us").astype(np.int64)])
        drawn = timedelta(microseconds=int(draw_durations(moment, settings.all_durations_s, settings.seed)[0]))
        end, after = at, at
        while end < len(run) and rows[run[end]]["timestamp"] < t0 + drawn:
            end += 1
        while after < len(run) and rows[run[after]]["timestamp"] < t0 + drawn * (1 - settings.overlap):
            after += 1
        if end - at >= settings.min_events:
            pieces = -(-(end - at) // (settings.max_events or 10**9))
            bounds = [run[at] + k * (end - at) // pieces for k in range(pieces + 1)]
            windows += pairwise(bounds)
        at = after
    return windows


def assert_as_by_hand(events, layout, settings):
    """The windows equal the slow ones in bounds, keys, seconds and label; no leak. Returns the bounds."""
    windows, summary = build_windows(events, layout, settings)
    assert sum(summary["leak_audit"].values()) == sum(leak_audit(windows, events).values()) == 0
    assert pc.count_distinct(windows["window_id"]).as_py() == len(windows)
    rows = events.to_pylist()
    t_us = np.asarray(events["timestamp"].cast(pa.int64()))
    session = np.asarray(events["session"].combine_chunks().dictionary_encode().indices)
    purge = {"purge_s": max(settings.all_durations_s, default=0)}
    if settings.strategy == "fixed_length":
        purge = {"purge_events": settings.length}
    splits, _ = assign_splits(t_us, session, order=settings.split, seed=settings.seed, **purge)
    label = [row["activity"] for row in rows]
    if settings.presegment == "coarse":
        coarse = coarse_labels(layout, {name for name in label if name})
        label = [coarse.get(name) for name in label]
    segments = label if settings.presegment else [0] * len(rows)
    bounds = sorted(slow_windows(rows, settings, splits.tolist(), segments), key=lambda window: window[0])
    if settings.unlabelled == "drop":
        bounds = [(a, b) for a, b in bounds if majority([rows[i]["activity"] for i in range(a, b)])]
    assert len(windows) == len(bounds) > 0
    for window, (a, b) in zip(windows.to_pylist(), bounds, strict=True):
        inside = rows[a:b]
        assert window["sensor_keys"] == [f"{row['sensor']}_{row['state']}" for row in inside]
        assert (window["start"], window["end"]) == (inside[0]["timestamp"], inside[-1]["timestamp"])
        after = [(row["timestamp"] - inside[0]["timestamp"]).total_seconds() for row in inside]
        assert window["seconds"] == np.array(after, dtype=np.float32).tolist()
        assert window["split"] == SPLITS[splits[a]]
        found = [row["activity"] for row in inside]
        assert found.count(window["activity"]) == max(map(found.count, found))
    return bounds


def majority(labels):
    """The most frequent label, None winning a tie as in the windows."""
    return max(sorted(set(labels), key=lambda name: (name is not None, name)), key=labels.count)


STRATEGIES = [
    {"length": 7},
    {"length": 12, "overlap": 0.8, "split": "random", "seed": 4},
    DURATION,
    DURATION | {"overlap": 0.0, "max_events": 5, "min_events": 2},
    VARIABLE | {"seed": 3, "max_gap_min": None},
    {"length": 7, "presegment": "fine", "min_events": 3, "unlabelled": "drop"},
    DURATION | {"presegment": "coarse", "unlabelled": "drop"},
    VARIABLE | {"presegment": "fine", "split": "random"},
]


@pytest.mark.parametrize("how", STRATEGIES, ids=str)
def test_windows_equal_those_cut_by_hand(how):
    layout = LAYOUT | {"activities": {**LAYOUT["activities"], "R1_Work": {"coarse": "Work"}}}
    assert_as_by_hand(make_events(days=4, per_day=120), layout, WindowSettings(**how))


@pytest.mark.parametrize("how", STRATEGIES, ids=str)
@pytest.mark.parametrize("home", ["kasteren_a", "ordonez_a", "kyoto", "tm000"])
def test_windows_of_real_homes_equal_those_cut_by_hand(real_homes, home, how):
    if home == "kyoto":  # a tenth of its sessions, and the sensors that the plan shows
        layout = load_layout(home)
        events = kyoto(tuple(sorted((real_homes / home).glob("*.txt"))[::24]), tuple(layout["sensors"]))
    else:
        events, _ = read_events([real_homes / home], home)
        sensors = events["sensor"].unique().to_pylist()
        placed = {name: {"x": 1, "y": 1, "room": "hall", "type": "motion"} for name in sensors}
        layout = load_layout(home) if home != "tm000" else {"home": home, "size": [2, 2], "sensors": placed}
    if home == "tm000" and how.get("unlabelled") == "drop":
        with pytest.raises(ValueError, match=r"none of the \d+ windows has a label"):
            build_windows(events, layout, WindowSettings(**how))
        return
    bounds = assert_as_by_hand(events, layout, WindowSettings(**how))
    if how.get("presegment"):
        fine = events["activity"].to_pylist()
        coarse = coarse_labels(layout, {name for name in fine if name})
        level = fine if how["presegment"] == "fine" else [coarse.get(name) for name in fine]
        assert {len(set(level[a:b])) for a, b in bounds} == {1}


_KYOTO: dict = {}


def kyoto(paths, sensors):
    """Sessions of Kyoto, read once."""
    if not _KYOTO:
        events, _ = read_events(list(paths), "kyoto")
        chosen = pc.and_(pc.is_in(events["sensor"], pa.array(sensors)), pc.is_null(events["value"]))
        _KYOTO["events"] = events.filter(chosen)
    return _KYOTO["events"]


def test_each_resident_has_own_labels_and_nobody_has_more_events():
    events = make_events()
    cut = {who: build_windows(events, LAYOUT, WindowSettings(length=9, resident=who)) for who in (None, "R1", "r2")}
    plain = cut[None][0]
    for windows, summary in cut.values():
        assert sum(summary["leak_audit"].values()) == 0
        for name in ("sensor_keys", "seconds", "start", "split"):
            assert windows[name].equals(plain[name])
    for who, of_open in (("R1", OF_R1), ("r2", OF_R2)):
        truth = {tuple(names): label for names, label in zip(OPEN, of_open, strict=True)}
        label_at = dict(
            zip(
                events["timestamp"].to_pylist(),
                (truth[tuple(a)] for a in events["activities"].to_pylist()),
                strict=True,
            )
        )
        for window in cut[who][0].to_pylist():
            moments = [window["start"] + timedelta(seconds=round(s)) for s in window["seconds"]]
            labels = [label_at[moment] for moment in moments]
            assert labels.count(window["activity"]) == max(map(labels.count, labels))
            assert window["activity_share"] == np.float32(labels.count(window["activity"]) / len(labels))


def test_a_resident_can_be_presegmented_at_the_coarse_level():
    windows, _ = build_windows(make_events(), LAYOUT, WindowSettings(resident="R1", presegment="coarse", min_events=2))
    of_open = {tuple(names): label for names, label in zip(OPEN, OF_R1, strict=True)}
    assert {None, "Sleep", "Nap", "Work"} == set(of_open.values()) == set(windows["activity"].to_pylist())


def test_an_unknown_resident_and_an_unmapped_label_are_named():
    with pytest.raises(ValueError, match=r"resident='R3': residents in the labels: R1, R2"):
        build_windows(make_events(3), LAYOUT, WindowSettings(resident="R3"))
    events = make_events(3)
    alone = events.set_column(7, "activities", pa.array([["Nap"]] * len(events)))
    with pytest.raises(ValueError, match="no label names a resident"):
        build_windows(alone, LAYOUT, WindowSettings(resident="R1"))
    layout = LAYOUT | {"activities": {"Sleep": {"coarse": "Sleep"}, "Nap": {"coarse": "Sleep"}}}
    with pytest.raises(ValueError, match=r"pair: .*no coarse label for 'R2_Work', 'R1_Work'; it has Nap, Sleep"):
        build_windows(events, layout, WindowSettings(presegment="coarse"))


def parse(*words):
    parser = argparse.ArgumentParser()
    add_window_arguments(parser)
    return settings_from(parser.parse_args(words))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fl_20", WindowSettings()),
        ("fl_128", WindowSettings(length=128)),
        ("fl_50_p", WindowSettings(length=50, presegment="fine", unlabelled="drop")),
        ("fd_45", WindowSettings(strategy="fixed_duration", duration_s=45.0, min_events=3)),
        (
            "fd_0.5_p",
            WindowSettings(**DURATION | {"duration_s": 0.5, "min_events": 3}, presegment="fine", unlabelled="drop"),
        ),
    ],
)
def test_short_names_stand_for_the_reference_samplings(name, expected):
    assert parse("--sampling", name) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sampling fl_20 --length 50", "--sampling fl_20 says length=20, --length says 50"),
        ("--sampling fd_60_p --presegment coarse", "says presegment=fine, --presegment says coarse"),
        ("--sampling fd_60 --length 50", "fixed_duration does not read length"),
        ("--sampling fd_60 --durations-s 30 60", "fixed_duration does not read durations_s"),
        ("--sampling fl20", "expected fl_EVENTS or fd_SECONDS"),
        ("--sampling fl_0", "expected fl_EVENTS"),
        ("--duration-s 60", "fixed_length does not read duration_s"),
        ("--strategy variable_duration", "variable_duration needs durations_s"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse(*words.split())


def test_options_arrive_as_given():
    words = (
        "--strategy variable_duration --durations-s 30 60 120 --max-gap-min none --max-events 64 --presegment --seed 3"
    )
    assert parse(*words.split()) == WindowSettings(
        **VARIABLE, max_gap_min=None, max_events=64, presegment="fine", seed=3, min_events=1
    )
    assert parse("--sampling", "fl_20", "--length", "20") == parse() == WindowSettings()


def test_windows_that_may_differ_have_names_that_differ():
    changes = [
        {"length": 21}, {"overlap": 0.51}, {"overlap": 0.5000001}, {"min_events": 7}, {"max_gap_min": 29},
        {"presegment": "fine"}, {"presegment": "coarse"}, {"unlabelled": "drop"}, {"resident": "R1"},
        {"max_gap_min": None}, {"types": ("door",)},
        {"numeric": "levels"}, {"unplaced": "drop"}, {"split": "random"}, {"split": "random", "seed": 1},
        {"split_by": "day"},
        DURATION, DURATION | {"duration_s": 60.0001}, DURATION | {"min_events": 2}, DURATION | {"max_events": 9},
        VARIABLE, VARIABLE | {"seed": 1}, VARIABLE | {"durations_s": (60.0, 30.0, 120.0)},
    ]  # fmt: skip
    names = [WindowSettings(**change).name for change in ({}, *changes)]
    assert len(set(names)) == len(names)
    assert names[0] == "fixed_length_20_0.5"
    assert WindowSettings(**DURATION).name == "fixed_duration_60_0.5"
    assert WindowSettings(seed=7).name == names[0]  # nothing is drawn


def test_a_folder_of_homes_is_cut_home_by_home(tmp_path, capsys):
    for seed, name in enumerate(("east", "west")):
        home = HomeFolder(tmp_path / name)
        write_table(home.events, make_events(home=name, seed=seed), EVENTS)
        home.describe(home=name, layout=LAYOUT | {"home": name})
    command = ["windows", str(tmp_path), "--sampling", "fd_60"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert [line.split(": ") for line in output.splitlines() if ".parquet" in line] == [
        [str(tmp_path / name / "windows.parquet"), "written"] for name in ("east", "west")
    ]
    assert output.count("leak audit: 0 events in two splits") == 2
    for seed, name in enumerate(("east", "west")):
        path = tmp_path / name / "windows.parquet"
        settings = WindowSettings(**DURATION, min_events=3)
        alone, _ = build_windows(make_events(home=name, seed=seed), LAYOUT | {"home": name}, settings)
        assert read_table(path, WINDOWS).equals(alone.cast(WINDOWS))
        assert read_metadata(path)["sampling"]["duration_s"] == 60.0
    assert main(command) == 0
    assert capsys.readouterr().out.count("up to date") == 2


def test_a_mistake_on_the_command_line_is_one_line(tmp_path, capsys):
    assert main(["windows", str(tmp_path), "--strategy", "fixed_duration"]) == 2
    assert capsys.readouterr().err == "casita windows: error: strategy=fixed_duration needs duration_s.\n"
