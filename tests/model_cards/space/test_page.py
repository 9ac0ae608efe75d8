"""What the page computes, without the page: days, playback, search, scores, timelines."""

from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.path import Path as Outline
from space_home import make_space_home

from casita.datasets_scripts.captions.text_embeddings import embed_texts
from casita.datasets_scripts.layouts.layout import SHIPPED, load_layout
from casita.model_cards.space.home_view import (
    DAY_S,
    HomeView,
    LoadedModel,
    Windows,
    clock,
    parse_activities,
    seconds_of,
)
from casita.model_cards.space.playback import SILENT, frame, free_spot, playback, states_at
from casita.model_cards.space.timeline import BINS, binned, search_html, zero_shot_html
from casita.modeling.pipeline_casita import SensorEmbeddingPipeline, ZeroShotActivityPipeline

ACTIVITIES = {"sleep": ["somebody sleeps"], "cook": ["somebody cooks", "dinner is made"], "out": ["nobody is in"]}


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    home, run = make_space_home(tmp_path_factory.mktemp("space"))
    return HomeView.from_folder(home, LoadedModel.load(run / "model"))


@pytest.fixture(scope="module")
def day(view):
    return list(view.days)[1]


def events_of(view, day):
    return view.events.filter([str(stamp)[:10] == day for stamp in view.events["timestamp"].to_pylist()])


def replayed(view, day, second):
    """Each sensor's state by walking through all events from the first one on."""
    until = np.datetime64(day, "us") + np.timedelta64(int(second * 1e6), "us")
    states = dict.fromkeys(view.layout["sensors"], SILENT)
    for event in view.events.select(["timestamp", "sensor", "state"]).to_pylist():
        if np.datetime64(event["timestamp"]) <= until and event["sensor"] in states:
            states[event["sensor"]] = event["state"]
    return states


def test_the_days_hold_every_event_once(view):
    assert sum(day.events.num_rows for day in view.days.values()) == view.events.num_rows
    for name, day in view.days.items():
        assert {str(stamp)[:10] for stamp in day.events["timestamp"].to_pylist()} == {name}
        assert (np.diff(day.t_s) >= 0).all()


def test_a_moment_of_the_plan_is_what_a_replay_from_the_start_gives(view, day):
    for second in (0, 7 * 3600 + 11, 43_210, DAY_S - 1):
        assert states_at(view, day, second) == replayed(view, day, second)


def test_folding_what_the_browser_gets_gives_the_same_plan(view, day):
    played = playback(view, day)
    just_after, just_before = (view.day(day).t_s[400] + offset for offset in (0, -1e-4))
    for second in (0.0, just_before, just_after, played["at"], 60_000.0):
        looks = list(played["first"])
        for at, sensor, look in played["changes"]:
            if at <= second:
                looks[sensor] = look
        sensors = [sensor for sensor, _ in played["sensors"]]
        seen = {sensor: played["looks"][look]["text"] for sensor, look in zip(sensors, looks, strict=True)}
        assert seen == states_at(view, day, second)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_plan_is_sound_svg_with_a_dot_a_sensor(view, name):
    layout = load_layout(name)
    svg, _ = frame(HomeView(layout, view.events, view.loaded), next(iter(view.days)), 0)
    root = ElementTree.fromstring(svg)
    dots = [node.get("data-sensor") for node in root.iter() if node.get("data-sensor")]
    assert dots == list(layout["sensors"])


def test_names_from_a_layout_cannot_become_markup(view):
    evil = '"><img src=x onerror=alert(1)>'
    sensor = {"x": 10, "y": 10, "room": evil, "type": "motion", "description": evil}
    layout = {
        "home": evil,
        "size": [100, 100],
        "sensors": {evil: sensor},
        "rooms": {evil: [[0, 0], [99, 0], [99, 99]]},
    }
    other = HomeView(layout, view.events, view.loaded)
    assert "<img" not in frame(other, next(iter(other.days)), 0)[0]


def test_a_rooms_name_lies_inside_it_and_off_the_sensors(view):
    sensors = np.array([[sensor["x"], sensor["y"]] for sensor in view.layout["sensors"].values()])
    for polygon in view.layout["rooms"].values():
        x, y = free_spot(np.array(polygon, float), sensors, half_width=40)
        assert Outline(polygon).contains_points([[x - 40, y], [x + 40, y]]).all()
        inside = (np.abs(sensors[:, 0] - x) < 40) & (np.abs(sensors[:, 1] - y) < 14)
        assert not inside.any()


def test_a_days_vectors_are_the_pipelines(view, day):
    rows = SensorEmbeddingPipeline(model=view.loaded.model, processor=view.loaded.processor)(
        events_of(view, day).select(["timestamp", "sensor", "state", "session"]), unknown="skip"
    )
    windows = view.day(day).windows
    np.testing.assert_allclose(windows.vectors, [row["vector"] for row in rows], rtol=0, atol=1e-6)
    assert windows.events.tolist() == [row["events"] for row in rows]


def test_the_best_moment_has_the_greatest_cosine_and_none_overlaps_a_better_one(view, day):
    scores, moments = view.search("Somebody is cooking.", list(view.days), top=6)
    text = embed_texts(view.loaded.text_model, ["Somebody is cooking."], progress=False)[0]
    head = view.loaded.model.text_projection.out_proj.weight.detach().numpy() @ text
    expected = view.day(day).windows.vectors @ (head / np.linalg.norm(head))
    np.testing.assert_allclose(scores[day], expected, rtol=0, atol=1e-5)
    assert moments[0].score == pytest.approx(max(row.max() for row in scores.values()))
    assert [moment.score for moment in moments] == sorted((moment.score for moment in moments), reverse=True)
    for i, one in enumerate(moments):
        for other in moments[:i]:
            assert one.day != other.day or one.start_s > other.end_s or other.start_s > one.end_s


def test_probabilities_are_the_zero_shot_pipelines(view, day):
    ask = ZeroShotActivityPipeline(
        model=view.loaded.model, processor=view.loaded.processor, text_model=view.loaded.text_model
    )
    events = events_of(view, day).select(["timestamp", "sensor", "state", "session"])
    rows = ask(events, ACTIVITIES, unknown="skip")
    probabilities = view.zero_shot(ACTIVITIES, day)
    for row, share in zip(rows, probabilities, strict=True):
        assert dict(zip(row["labels"], row["scores"], strict=True)) == pytest.approx(
            dict(zip(ACTIVITIES, share.tolist(), strict=True)), abs=1e-5
        )


def test_bins_are_means_over_the_windows_that_touch_them():
    rng = np.random.default_rng(0)
    start = np.sort(rng.uniform(0, DAY_S - 4000, 50))
    windows = Windows(start, start + rng.uniform(0, 4000, 50), np.ones(50, int), np.zeros((50, 2)))
    scores = rng.normal(size=50)
    width = DAY_S / BINS
    expected = []
    for i in range(BINS):
        touching = [
            score
            for begin, end, score in zip(windows.start_s, windows.end_s, scores, strict=True)
            if begin < (i + 1) * width and end >= i * width
        ]
        expected.append(np.mean(touching) if touching else np.nan)
    np.testing.assert_allclose(binned(windows, scores), expected)


def test_the_timelines_show_every_moment_and_activity(view, day):
    scores, moments = view.search("asleep", [day], top=5)
    page = ElementTree.fromstring(f"<div>{search_html(view, scores, moments).replace('&#8202;', ' ')}</div>")
    marks = [node for node in page.iter("button") if node.get("class") == "mark"]
    assert [int(node.get("data-second")) for node in marks] == [round(moment.start_s) for moment in moments]
    names = ["<b>a</b>", "cook", "out"]
    timelines = zero_shot_html(view, day, names, view.zero_shot(ACTIVITIES, day))
    assert "<b>a</b>" not in timelines
    assert timelines.count("most likely in") == 3


def test_activities_are_read_a_line_each():
    text = "Sleep: asleep in bed | a nap\n\n  Somebody cooks. \nSleep: dozing"
    assert parse_activities(text) == {
        "Sleep": ["asleep in bed", "a nap", "dozing"],
        "Somebody cooks.": ["Somebody cooks."],
    }
    with pytest.raises(ValueError, match="expected a sentence"):
        parse_activities("Sleep:")


def test_a_question_that_cannot_be_answered_says_what_to_do(view, day):
    with pytest.raises(ValueError, match="Type a sentence"):
        view.search("  ", [day])
    with pytest.raises(ValueError, match="two activities or more"):
        view.zero_shot({"a": ["b"]}, day)
    with pytest.raises(ValueError, match="its days lie between"):
        view.day("1999-01-01")
    with pytest.raises(ValueError, match=r"such as 07:30"):
        seconds_of("7.30")
    assert seconds_of("23:59:59") == DAY_S - 1
    assert clock(seconds_of("07:30")) == "07:30"
