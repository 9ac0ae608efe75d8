"""Protocols divide windows as they say: whole days, no shared event, and a planted leak of one event is found."""

import shutil
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from casita.datasets_scripts.schema import EVENTS, WINDOWS, HomeFolder, write_table
from casita.datasets_scripts.windows.cut import WindowSettings, build_windows
from casita.datasets_scripts.windows.splits import (
    DAY_STARTS_AT_H,
    bootstrap_clusters,
    leak_audit,
    share_time,
    split_randomly,
)
from casita.train.evaluation.inputs import EvaluationInputs
from casita.train.evaluation.protocol_split import EvaluationHome
from casita.train.evaluation.protocols import (
    check_protocols,
    make_split,
    make_unseen_home_split,
    split_segments,
    with_columns,
)

LAYOUT = {
    "home": "small",
    "size": [100, 100],
    "sensors": {f"M{i}": {"x": 10 * i, "y": 10, "room": "hall", "type": "motion"} for i in range(5)},
    "activities": {
        "cooking": {"coarse": "Cook", "prompts": ["cooking"]},
        "asleep": {"coarse": "Sleep", "prompts": ["asleep"]},
        "misc": {"coarse": "Other", "prompts": ["something"]},
    },
}
LABELS = ["cooking", "asleep", None, "misc"]


def made_events(days=12, name="small", first=datetime(2026, 1, 1), sessions=1):
    """An event a minute on average, all day and night, so that windows cross the border of days."""
    rng, rows = np.random.default_rng(days), []
    for session in range(sessions):
        now = first + timedelta(days=days * session)
        while now < first + timedelta(days=days * (session + 1)):
            now += timedelta(seconds=float(rng.exponential(600)))
            label = LABELS[(now.hour // 2) % 4]
            rows.append((name, f"s{session}", now, f"M{rng.integers(5)}", "ON", None, label, [label] if label else []))
    return pa.table(dict(zip(EVENTS.names, zip(*rows, strict=True), strict=True)), schema=EVENTS)


def make_home(root, name="small", train_overlap=None, **how):
    folder, events = HomeFolder(root), made_events(name=name, **how)
    folder.describe(home=name, layout={**LAYOUT, "home": name})
    write_table(folder.events, events, EVENTS)
    settings = WindowSettings(length=10, overlap=0.5, train_overlap=train_overlap)
    windows, summary = build_windows(events, LAYOUT, settings)
    write_table(folder.windows, windows, WINDOWS, {"sampling": asdict(settings)})
    folder.record("windows", {}, [], [folder.windows], summary)
    windows = windows.cast(WINDOWS)
    return EvaluationHome(
        folder, EvaluationInputs(windows, [""] * len(windows), np.zeros((len(windows), 2), np.float32))
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("protocols") / "small")


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    folder = tmp_path_factory.mktemp("protocols") / "another"
    return make_home(folder, "another", days=5, first=datetime(2025, 3, 1))


def microseconds(windows, column):
    return np.asarray(windows[column].cast(pa.int64()))


# ------------------------------------------------------------------------------------------------ windows split again
@pytest.mark.parametrize("seed", range(5))
def test_random_days_stay_whole_and_no_two_splits_share_time(home, seed):
    windows = home.inputs.windows
    split = split_randomly(windows, "day", seed)
    start, end = microseconds(windows, "start"), microseconds(windows, "end")
    day = [(t - timedelta(hours=DAY_STARTS_AT_H)).date() for t in windows["start"].to_pylist()]
    for one in set(day):
        assert len({s for s, d in zip(split, day, strict=True) if d == one and s is not None}) <= 1
    kept = np.flatnonzero(split != None)  # noqa: E711
    for i in kept:
        for j in kept:
            if split[i] != split[j]:
                assert start[i] > end[j] or start[j] > end[i]
    assert set(split[kept]) == {"train", "validation", "test"}


def test_a_windows_length_lies_between_two_splits_of_a_session(home):
    windows = home.inputs.windows
    split, start, end = split_randomly(windows, "day", 1), *(microseconds(windows, c) for c in ("start", "end"))
    times = np.sort(np.unique(np.asarray(home.events["timestamp"].cast(pa.int64()))))
    kept = np.flatnonzero(split != None)  # noqa: E711
    borders = [(i, j) for i, j in pairwise(kept) if split[i] != split[j]]
    assert len(borders) > 3
    for i, j in borders:
        between = ((times > end[i]) & (times < start[j])).sum()
        assert between >= 8  # of ten events; a run's last window may have eight


def test_a_recording_under_two_names_has_the_gap_of_one_under_a_single_name():
    starts = [datetime(2026, 1, 1, 5) + timedelta(minutes=10 * i) for i in range(6 * 24 * 8)]
    rows = [{"session": "a", "start": t, "end": t + timedelta(minutes=9)} for t in starts]
    schema = pa.schema([WINDOWS.field(n) for n in ("session", "start", "end")])
    twice = [{**row, "session": name} for row in rows for name in "ab"]
    for seed in range(5):
        once = split_randomly(pa.Table.from_pylist(rows, schema=schema), "day", seed)
        both = split_randomly(pa.Table.from_pylist(twice, schema=schema), "day", seed)
        assert (once == None).any()  # noqa: E711
        for name in (0, 1):
            assert not ((once == None) & (both[name::2] != None)).any()  # noqa: E711


def test_random_sessions_keep_those_that_overlap_in_time_together():
    first = [datetime(2026, 1, 1) + timedelta(hours=10 * i) for i in range(12)]
    first[7] = first[6] + timedelta(minutes=5)  # the same recording under two names
    rows = [
        {"session": f"s{i}", "start": start + timedelta(minutes=m), "end": start + timedelta(minutes=m + 10)}
        for i, start in enumerate(first)
        for m in (0, 5, 10)
    ]
    windows = pa.Table.from_pylist(rows, schema=pa.schema([WINDOWS.field(n) for n in ("session", "start", "end")]))
    code, unit = bootstrap_clusters(windows)
    assert unit == "session"
    assert code.max() == 10
    for seed in range(20):
        split = split_randomly(windows, "session", seed)
        of = {name: set(split[3 * i : 3 * i + 3]) for i, name in enumerate(f"s{i}" for i in range(12))}
        assert of["s6"] == of["s7"]
        assert all(len(found) == 1 and None not in found for found in of.values())


def test_two_days_are_too_few():
    rows = [{"session": "s", "start": datetime(2026, 1, d, 9), "end": datetime(2026, 1, d, 10)} for d in (1, 2)]
    windows = pa.Table.from_pylist(rows, schema=pa.schema([WINDOWS.field(n) for n in ("session", "start", "end")]))
    with pytest.raises(ValueError, match=r"2 day\(s\); train, validation and test need at least 3"):
        split_randomly(windows, "day")


@pytest.mark.parametrize("seed", range(5))
def test_windows_that_share_time_are_found_as_by_comparing_all(home, seed):
    rng, windows = np.random.default_rng(seed), home.inputs.windows
    some, others = (windows.take(rng.choice(len(windows), size=n)) for n in (60, 25))
    found = share_time(some, others)
    start, end, first, last = (microseconds(t, c) for t in (some, others) for c in ("start", "end"))
    np.testing.assert_array_equal(found, [((first <= e) & (last >= s)).any() for s, e in zip(start, end, strict=True)])
    assert not share_time(some, others.slice(0, 0)).any()


def test_the_audit_finds_a_planted_leak_of_one_event(home):
    windows, events = home.inputs.windows, home.events
    split = split_randomly(windows, "day", 0)
    clean = with_columns(windows, split).filter(pa.array(split != None))  # noqa: E711
    assert set(leak_audit(clean, events).values()) == {0}
    # The last test window that another split follows gets one event more: the first one of that split.
    kept = clean.to_pylist()
    i = next(i for i in range(len(kept) - 1) if kept[i]["split"] == "test" != kept[i + 1]["split"])
    times = sorted(events["timestamp"].to_pylist())
    assert sum(kept[i + 1]["start"] == t for t in times) == 1
    kept[i]["end"] = kept[i + 1]["start"]
    found = leak_audit(pa.Table.from_pylist(kept, schema=clean.schema), events)
    assert sorted(found.values()) == [0, 0, 1]
    pair = {"test", kept[i + 1]["split"]}
    assert next(count for name, count in found.items() if set(name.split("/")) == pair) == 1


# ------------------------------------------------------------------------------------------------------- the protocols
def test_the_chronological_protocol_is_the_homes_own_split_and_the_encoder_has_seen_no_test_window(home):
    case = make_split("chronological", home, trained_in=True, max_windows=20_000)
    windows = home.inputs.windows
    assert case.about["seen_share"] == 0
    assert set(case.about["leak_audit"].values()) == {0}
    assert case.windows.num_rows == len(windows)
    test = np.flatnonzero(np.array(windows["split"].to_pylist()) == "test")
    np.testing.assert_array_equal(next(iter(case.where.values()))[case.test], test)
    assert case.about["splits"]["test"]["windows"] == len(test)
    assert case.clusters.unit == "day"
    assert len(case.clusters.code) == len(test)


@pytest.mark.parametrize("name", ["random_days", "shuffled_segments"])
def test_splits_drawn_anew_are_those_of_a_home_without_added_train_windows(home, tmp_path, name):
    dense = make_home(tmp_path / "small", train_overlap=0.9)
    assert len(dense.inputs.windows) > 1.5 * len(home.inputs.windows)
    usual, drawn = (make_split(name, each, trained_in=True, max_windows=20_000) for each in (home, dense))
    assert drawn.windows.to_pylist() == usual.windows.to_pylist()
    np.testing.assert_array_equal(drawn.stretches, usual.stretches)
    (rows,) = drawn.where.values()
    assert dense.inputs.windows["window_id"].take(rows).to_pylist() == drawn.windows["window_id"].to_pylist()


def test_added_train_windows_are_learned_from_and_never_tested(home, another, tmp_path):
    dense = make_home(tmp_path / "small", train_overlap=0.9)
    usual, more = (make_split("chronological", each, trained_in=True, max_windows=20_000) for each in (home, dense))
    assert len(more.train) > 1.7 * len(usual.train)
    tested = [case.windows.take(case.test)["window_id"].to_pylist() for case in (usual, more)]
    assert tested[0] == tested[1]
    cases = [make_unseen_home_split(each, [another], 20_000) for each in (home, dense)]
    tested = [case.windows.take(case.test)["window_id"].to_pylist() for case in cases]
    assert tested[0] == tested[1]


def test_the_share_of_test_windows_that_the_encoder_has_seen_is_counted(home):
    case = make_split("random_days", home, trained_in=True, max_windows=20_000)
    assert set(case.about["leak_audit"].values()) == {0}
    stored = np.array(home.inputs.splits, dtype=object)
    rows = next(iter(case.where.values()))[case.test]
    expected = share_time(home.inputs.windows.take(rows), home.inputs.windows.take(np.flatnonzero(stored == "train")))
    assert case.about["seen_share"] == pytest.approx(expected.mean())
    assert 0.3 < case.about["seen_share"] < 1
    assert make_split("random_days", home, trained_in=False, max_windows=20_000).about["seen_share"] == 0


def test_the_unit_in_the_results_is_the_one_by_which_the_windows_were_split(tmp_path):
    small = make_home(tmp_path / "days", days=1, sessions=12)  # of so many sessions `auto` would not choose days
    assert make_split("chronological", small, trained_in=True, max_windows=20_000).about["split_by"] == "session"
    summary = small.folder.summary("windows")
    small.folder.record("windows", {}, [], [small.folder.windows], {**summary, "split_unit": "day"})
    assert make_split("chronological", small, trained_in=True, max_windows=20_000).about["split_by"] == "day"


def test_shuffled_segments_are_marked_as_leaky_and_their_leaks_are_counted(home):
    case = make_split("shuffled_segments", home, trained_in=True, max_windows=20_000)
    assert case.about["leaky"]
    assert "comparison" in case.about["description"]
    assert sum(case.about["leak_audit"].values()) > 10
    split_of_stretch = {}
    for stretch, split in zip(case.stretches, case.windows["split"].to_pylist(), strict=True):
        assert split_of_stretch.setdefault(stretch, split) == split  # segments stay whole


def test_shuffled_segments_have_their_shares():
    split = split_segments(np.arange(1000))
    assert [(split == name).sum() for name in ("train", "validation", "test")] == [600, 100, 300]


def test_other_labels_are_left_out_of_one_variant(home):
    case = make_split("chronological", home, trained_in=True, max_windows=20_000)
    found = {name: set(task.y[task.rows()]) for name, task in case.tasks.items()}
    assert found["labelled"] == {"cooking", "asleep", "misc"}
    assert found["without_other"] == {"cooking", "asleep"}
    assert found["with_unlabelled"] == {"cooking", "asleep", "misc", "unlabelled"}


def test_a_layout_without_coarse_labels_leaves_out_what_needs_them_and_says_so(home, another, tmp_path):
    folder = HomeFolder(tmp_path / "plain")
    shutil.copytree(home.folder.root, folder.root)
    folder.describe(layout={name: value for name, value in LAYOUT.items() if name != "activities"})
    plain = EvaluationHome(folder, home.inputs)
    case = make_split("chronological", plain, trained_in=True, max_windows=20_000)
    assert case.coarse == {}
    assert "the layout has no coarse label for 'asleep'" in case.left_out["paraphrases"]
    assert set(case.tasks) == {"labelled", "with_unlabelled"}
    with pytest.raises(ValueError, match="no coarse label"):
        make_unseen_home_split(another, [plain], 20_000)


def test_another_home_is_tested_whole_at_the_coarse_level(home, another):
    case = make_unseen_home_split(another, [home], 20_000)
    assert case.about["level"] == "coarse"
    split = np.array(case.windows["split"].to_pylist(), dtype=object)
    names = np.array(case.windows["home"].to_pylist(), dtype=object)
    assert set(names[split == "test"]) == {"another"}
    assert (split == "test").sum() == another.inputs.windows.num_rows
    assert set(names[split != "test"]) == {"small"}
    assert set(case.windows["activity"].drop_null().to_pylist()) == {"Cook", "Sleep", "Other"}
    stored = np.array(home.inputs.splits, dtype=object)
    assert (split == "train").sum() == (stored == "train").sum()  # the home's own test windows stay out of it
    for source, rows in zip(case.homes, case.where.values(), strict=True):
        ids = source.inputs.windows["window_id"].take(rows).to_pylist()
        assert ids == [i for i in case.windows["window_id"].to_pylist() if i.startswith(f"{source.name}/")]


def test_the_same_recording_under_another_name_is_no_other_home(home, tmp_path):
    renamed = make_home(tmp_path / "renamed", "renamed")
    with pytest.raises(ValueError, match="was trained on as small"):
        make_unseen_home_split(renamed, [home], 20_000)
    with pytest.raises(ValueError, match=r"which the run was trained on\. Give another home"):
        make_unseen_home_split(home, [home], 20_000)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["random"], "random_days or random_sessions"),
        (["Chronological"], "there are chronological, random_days"),
        (["chronological", "chronological"], "each protocol once"),
        ([], "at least one"),
    ],
)
def test_a_wrong_protocol_is_one_line(names, message):
    with pytest.raises(ValueError, match=message):
        check_protocols(names)
