"""Analyses read the engine's windows and answers: contexts, prompts, and subsets of the test windows by hand."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from evaluation_home import LAYOUT, made_events
from event_tables import LAYOUT as THREE_SENSORS
from event_tables import make_events

from casita.datasets_scripts.schema import EVENTS, WINDOWS, HomeFolder, read_table, write_table
from casita.datasets_scripts.windows.cut import WindowSettings, build_windows, cut_home
from casita.train.evaluation.inputs import EvaluationInputs
from casita.train.evaluation.probes import Prediction, Task
from casita.train.evaluation.protocol_split import EvaluationHome
from casita.train.evaluation.protocols import make_split
from casita.train.experiments.analyses.context import hours_of_day, minutes_of_session, windows_before
from casita.train.experiments.analyses.errors import dropped_sensor_rows, month_rows, pair_rows
from casita.train.experiments.analyses.prompts import named_task, predict_placed, usual_windows

NOTHING = np.zeros(0, np.int64)


def analysed(root, layout, events, settings):
    """The windows of a home as an analysis gets them."""
    home = HomeFolder(root)
    write_table(home.events, events, EVENTS)
    home.describe(home="small", layout=layout)
    cut_home(home, settings)
    windows = read_table(home.windows, WINDOWS)
    evaluated = EvaluationHome(home, EvaluationInputs(windows, [], np.zeros((0, 0))))
    return make_split("chronological", evaluated, trained_in=True, max_windows=None, for_analysis=True)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    described = {"Sleep": {"prompts": ["Somebody sleeps."]}, "Cook": {"prompts": ["Cooking."]}}
    layout = {**LAYOUT, "activities": described}
    folder = tmp_path_factory.mktemp("analyses") / "home"
    return analysed(folder, layout, made_events(), WindowSettings(length=12, overlap=0.5))


def test_windows_before_are_of_the_same_session_and_minutes_of_its_start(split):
    windows = split.windows
    assert windows_before(windows, 2)[:4].tolist() == [-1, -1, 0, 1]
    minutes = minutes_of_session(windows)
    assert minutes.sum(axis=1).tolist() == [1.0] * len(windows)
    assert minutes[0].argmax() == 0
    assert minutes[-1].argmax() == minutes.shape[1] - 1  # days after the first
    hours = [start.hour for start in windows["start"].to_pylist()]
    assert hours_of_day(windows).sum() == len(hours)
    assert hours_of_day(windows).argmax(axis=1).tolist() == hours
    table = pa.table({"session": list("aabb"), "home": ["h"] * 4, "window_id": list("wxyz"), "split": ["train"] * 4})
    assert windows_before(table, 1).tolist() == [-1, 0, -1, 2]


def test_of_the_windows_added_to_train_those_with_a_label_are_scored(tmp_path):
    usual = build_windows(make_events(), THREE_SENSORS, WindowSettings(numeric="levels"))[0]
    split = analysed(tmp_path, THREE_SENSORS, make_events(), WindowSettings(numeric="levels", train_overlap=0.9))
    whole = split.home.inputs.windows
    even = set(usual["window_id"].to_pylist())
    wanted = [row for row in whole.to_pylist() if row["window_id"] in even or row["activity"] is not None]
    assert split.windows.to_pylist() == wanted
    assert len(usual) < len(wanted) < len(whole)
    train = usual.filter(pc.equal(usual["split"], "train"))
    kept = split.windows.take(pa.array(usual_windows(split)))
    assert kept["window_id"].to_pylist() == train["window_id"].to_pylist()
    with pytest.raises(ValueError, match="2 windows back is not as far in train"):
        windows_before(split.windows, 2)


def test_the_task_of_named_labels_leaves_the_others_out_everywhere(split):
    labelled, named = split.tasks["labelled"], named_task(split)
    for name in ("train", "validation", "test"):
        rows, everything = getattr(named, name), getattr(labelled, name)
        assert set(named.y[rows]) == {"Sleep", "Cook"}
        assert len(rows) == int(np.isin(labelled.y[everything].astype(str), ["Sleep", "Cook"]).sum())
    every = SimpleNamespace(tasks={"labelled": named}, home=split.home)
    assert named_task(every) is None  # no label is without a name


def test_prompts_that_name_places_want_one_for_each_label(split):
    assert predict_placed(SimpleNamespace(split=split), named_task(split), {"Sleep": ["In the bedroom."]}) == {}


def test_sessions_are_set_apart_by_the_usual_sensors_that_dropped_out_of_them():
    kinds = [("train", "A B C"), ("train", "A B"), ("test", "A B"), ("test", "B"), ("test", "C")]
    windows = pa.table(
        {
            "session": [f"s{i}" for i in range(5)],
            "split": [split for split, _ in kinds],
            "sensor_keys": [[f"{sensor}_ON" for sensor in sensors.split()] for _, sensors in kinds],
        }
    )
    y = np.array(["Cook", "Sleep", "Cook", "Sleep", "Cook"], dtype=object)
    task = Task(y, np.arange(2), NOTHING, np.arange(2, 5))
    answer = Prediction(np.array([[1.0, 0.0]] * 3), ["Cook", "Sleep"])
    rows = dropped_sensor_rows(windows, task, {"linear_probe": {"0": answer}})
    assert [(row["dropped"], row["sessions"], row["sensors"], row["accuracy"]["linear_probe"]) for row in rows] == [
        ([0, 0], 1, {}, 1.0),
        ([1, 2], 2, {"A": 2, "B": 1}, 0.5),  # C is not usual: half of the train sessions lack it
    ]


def test_pairs_share_the_room_of_most_events_and_months_hold_every_labelled_test_window(split):
    task = split.tasks["labelled"]
    rooms = dict.fromkeys(LAYOUT["sensors"], "kitchen")
    classes = sorted(set(task.y[task.train]))
    right = np.array([[label == name for name in classes] for label in task.y[task.test]], dtype=float)
    answers = {"linear_probe": {"0": Prediction(right, classes)}}
    pairs = pair_rows(split.windows, task, answers, rooms)
    assert len(pairs) == 6  # of four labels
    y_test = task.y[task.test].astype(str)
    for row in pairs:
        assert row["room"] == "kitchen"
        assert row["windows"] == int(np.isin(y_test, row["pair"]).sum())
        assert row["balanced_accuracy"] == {"linear_probe": 1.0}
    smaller = [min((y_test == label).sum() for label in row["pair"]) for row in pairs]
    assert smaller == sorted(smaller, reverse=True)
    months = month_rows(split.windows, task, answers)
    assert sum(row["windows"] for row in months) == len(task.test)
    assert {row["accuracy"]["linear_probe"] for row in months} == {1.0}
