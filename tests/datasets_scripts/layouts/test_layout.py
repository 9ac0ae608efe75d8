"""Layouts: the shipped ones are sound and fit their homes, and each kind of mistake is named."""

import copy
import json
from pathlib import Path

import pytest

from casita.cli import main
from casita.datasets_scripts.layouts.layout import (
    NATURAL_STATES,
    SHIPPED,
    check_layout,
    load_layout,
    unmatched_sensors,
)

FLAT = {
    "home": "flat",
    "size": [400, 200],
    "rooms": {"kitchen": [[0, 0], [200, 0], [200, 200], [0, 200]]},
    "sensors": {
        "M001": {"x": 50, "y": 60, "room": "kitchen", "type": "motion"},
        "D001": {"x": 400, "y": 0, "room": "hall", "type": "door", "description": "front door"},
    },
}


@pytest.fixture
def flat() -> dict:
    return copy.deepcopy(FLAT)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_layout_is_sound_and_its_rooms_hold_their_sensors(name):
    layout = load_layout(name)
    assert list(check_layout(layout)) == []
    assert layout["home"] == name
    assert layout["source"]
    assert layout["residents"]
    assert layout["redistribution"] == ("open" if name == "synthetic" else "restricted")
    assert ("citation" in layout) == (name != "synthetic")
    assert {sensor["type"] for sensor in layout["sensors"].values()} <= set(NATURAL_STATES)
    inside = sum(
        _in_box(sensor, layout["rooms"][sensor["room"]])
        for sensor in layout["sensors"].values()
        if sensor["room"] in layout["rooms"]
    )
    # not all: doors lie in walls, and Kyoto's cabinet is drawn beside the house
    assert inside >= 0.85 * len(layout["sensors"]) - 2


def _in_box(sensor: dict, polygon: list) -> bool:
    xs, ys = zip(*polygon, strict=True)
    return min(xs) - 12 <= sensor["x"] <= max(xs) + 12 and min(ys) - 12 <= sensor["y"] <= max(ys) + 12


def test_facts_of_shipped_layouts_are_those_of_the_homes():
    assert {name: len(load_layout(name)["sensors"]) for name in ("milan", "aruba", "cairo", "tulum")} == {
        "milan": 33,
        "aruba": 40,
        "cairo": 32,
        "tulum": 36,
    }
    fridge = load_layout("milan")["sensors"]["M015"]
    assert fridge == {"x": 454, "y": 1067, "room": "kitchen", "type": "motion", "description": "fridge"}
    assert load_layout("ordonez_a")["sensors"]["Kitchen_Toaster_Electric"]["approximate"] is True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda flat: flat.pop("size"), "'size' is missing"),
        (lambda flat: flat.update(size=[0, 5]), "size should be [width, height]"),
        (lambda flat: flat.update(scale=3), "'scale' is not a known key"),
        (lambda flat: flat["sensors"]["M001"].pop("room"), "sensor 'M001': 'room' is missing"),
        (lambda flat: flat["sensors"]["M001"].update(x=401), "(401, 60) lies outside the plan of 400 x 200"),
        (lambda flat: flat["sensors"]["M001"].update(x=float("nan")), "two numbers"),
        (lambda flat: flat["sensors"]["M001"].update(x="50"), "two numbers"),
        (lambda flat: flat["sensors"]["M001"].update(type="Motion"), "unknown type 'Motion'"),
        (lambda flat: flat["sensors"]["M001"].update(type=["motion"]), "unknown type ['motion']"),
        (lambda flat: flat["sensors"]["M001"].update(colour="red"), "'colour' is not a known key"),
        (lambda flat: flat["sensors"].update(m001=FLAT["sensors"]["M001"]), "by upper and lower case alone"),
        (lambda flat: flat["sensors"].update(M002=[1, 2]), "sensor 'M002' should be an object"),
        (lambda flat: flat["rooms"].update(hall=[[0, 0], [1, 1]]), "polygon of 3 points"),
        (lambda flat: flat["rooms"]["kitchen"].append([0, 201]), "room 'kitchen': (0, 201) lies outside"),
        (lambda flat: flat.update(activities={"Cook": {"prompts": ["a person cooks"]}}), "activity 'Cook' should be"),
        (lambda flat: flat.update(activities={"Nap": {"coarse": "sleep"}}), "coarse 'sleep' is written 'Sleep'"),
        (lambda flat: flat.update(activities={"Nap": {"coarse": "Sleep", "prompts": []}}), "a list of sentences"),
        (lambda flat: flat.update(activities={"Nap": {"coarse": "Sleep", "short": 3}}), "short should be words"),
        (lambda flat: flat.update(activities={"Nap": {"coarse": "Sleep", "lang": "a"}}), "'lang' is not a known key"),
        (lambda flat: flat.update(redistribution="yes", terms="Do."), "should be open or restricted, found 'yes'"),
        (lambda flat: flat.update(redistribution="open"), "redistribution is 'open', but terms is missing"),
        (lambda flat: flat.update(residents=2), "residents should be words, found 2"),
    ],
)
def test_each_mistake_is_named_and_nothing_else(flat, change, message):
    assert list(check_layout(flat)) == []
    change(flat)
    found = list(check_layout(flat))
    assert len(found) == 1
    assert message in found[0]


def test_all_mistakes_come_in_one_error_with_the_files_name(flat, tmp_path):
    flat["sensors"]["M001"].update(x=-1, type="radar")
    path = _write(tmp_path, flat)
    with pytest.raises(ValueError, match=r"flat\.json: 2 thing\(s\).*-1.*radar"):
        load_layout(path)


def test_a_sensor_written_twice_is_an_error_though_json_would_keep_the_last(tmp_path):
    path = tmp_path / "flat.json"
    path.write_text('{"home": "a", "size": [1, 1], "sensors": {"M1": {"x": 0}, "M1": {"x": 1}}}')
    with pytest.raises(ValueError, match=r"written twice.*M1"):
        load_layout(path)


def test_a_layout_that_is_not_there_or_names_a_picture_that_is_not_there(flat, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"shipped name.*milan"):
        load_layout("milano")
    with pytest.raises(FileNotFoundError, match=r"plan\.png.*floor_plan"):
        load_layout(_write(tmp_path, {**flat, "floor_plan": "plan.png"}))


def test_a_floor_plan_is_found_beside_its_layout(flat, tmp_path):
    (tmp_path / "plan.png").touch()
    layout = load_layout(_write(tmp_path, {**flat, "floor_plan": "plan.png"}))
    assert Path(layout["floor_plan"]) == (tmp_path / "plan.png").resolve()


def test_unmatched_sensors_are_those_of_both_directions(flat):
    assert unmatched_sensors(flat, ["M001", "M999", "M002", "M001"]) == (["M002", "M999"], ["D001"])


def test_check_counts_the_events_without_a_position(flat, tmp_path, capsys):
    log = tmp_path / "log.txt"
    log.write_text("".join(f"2020-01-01 10:00:0{i} {s} ON\n" for i, s in enumerate(["M001", "M077", "M077", "M088"])))
    assert main(["layout", "check", str(log), str(_write(tmp_path, flat))]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "without a position: 2 sensors with 3 events (75.0%)" in lines
    assert [line.split()[:2] for line in lines if line.startswith("  M")] == [["M077", "2"], ["M088", "1"]]
    assert "positions that no sensor uses: 1" in lines


@pytest.mark.parametrize(("home", "unplaced"), [("kasteren_a", 0), ("ordonez_a", 0), ("kasteren_b", 5)])
def test_shipped_layouts_fit_the_logs_of_their_homes(real_homes, capsys, home, unplaced):
    assert main(["layout", "check", str(real_homes / home), home]) == (1 if unplaced else 0)
    assert f"without a position: {unplaced} sensors" in capsys.readouterr().out


def _write(folder: Path, layout: dict) -> Path:
    path = folder / "flat.json"
    path.write_text(json.dumps(layout))
    return path
