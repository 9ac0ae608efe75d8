"""Made-up homes: sound, lived in, and each another one."""

from itertools import combinations

import numpy as np
import pytest

from casita.datasets_scripts.layouts.layout import check_layout, load_layout
from casita.datasets_scripts.readers.read import read_events
from casita.datasets_scripts.synthetic.home import write_synthetic_log
from casita.datasets_scripts.synthetic.layouts import draw_dwelling, draw_person
from casita.datasets_scripts.synthetic.simulator import ResidentSimulator

NUMBERS = range(1, 41)


@pytest.fixture(scope="module")
def dwellings():
    return [draw_dwelling(0, number) for number in NUMBERS]


def inside(point: tuple[float, float], polygon: list) -> bool:
    (left, top), (right, bottom) = np.min(polygon, axis=0) - 0.1, np.max(polygon, axis=0) + 0.1
    return bool(left <= point[0] <= right and top <= point[1] <= bottom)


def test_every_layout_is_sound_and_every_sensor_lies_in_its_room(dwellings):
    for dwelling in dwellings:
        layout = dwelling.layout
        assert list(check_layout(layout)) == []
        for sensor in layout["sensors"].values():
            assert inside((sensor["x"], sensor["y"]), layout["rooms"][sensor["room"]]), (layout["home"], sensor)


def test_rooms_tile_the_plan(dwellings):
    for dwelling in dwellings:
        spans = [np.ptp(np.array(polygon), axis=0) for polygon in dwelling.layout["rooms"].values()]
        # coordinates are rounded to a millimetre
        assert sum(np.prod(span) for span in spans) == pytest.approx(np.prod(dwelling.layout["size"]), rel=1e-3)


def test_there_is_a_way_from_everywhere_to_everywhere(dwellings):
    for dwelling in dwellings:
        resident = ResidentSimulator(dwelling, np.random.default_rng(0))
        motion = {name for name, sensor in dwelling.layout["sensors"].items() if sensor["type"] == "motion"}
        assert set(resident.neighbours) == motion
        for place in dwelling.places:
            resident.walk(place)
            assert resident.at == dwelling.places[place]


def test_no_two_homes_and_no_two_people_are_alike(dwellings):
    plans = [dwelling.layout["rooms"] for dwelling in dwellings]
    beds = [dwelling.places["bed"] for dwelling in dwellings]
    assert all(a != b for a, b in combinations(plans, 2))
    assert len({len(dwelling.layout["sensors"]) for dwelling in dwellings}) > 5
    assert len(set(beds)) > 5  # an id says nothing
    assert len({frozenset(dwelling.layout["sensors"]) for dwelling in dwellings}) > 20
    people = [draw_person(0, number) for number in NUMBERS]
    assert all(a != b for a, b in combinations(people, 2))
    assert np.std([person.wake_h[0] for person in people]) > 0.5


def test_activities_are_those_of_the_shipped_home(dwellings):
    assert all(d.layout["activities"] == load_layout("synthetic")["activities"] for d in dwellings)


def test_a_home_depends_on_seed_and_number_alone():
    assert draw_dwelling(3, 7) == draw_dwelling(3, 7)
    assert draw_dwelling(3, 7).layout["rooms"] != draw_dwelling(4, 7).layout["rooms"]
    assert draw_dwelling(3, 7).layout["rooms"] != draw_dwelling(3, 8).layout["rooms"]


@pytest.mark.parametrize("number", [1, 5, 9])
def test_a_month_in_a_made_up_home_has_all_activities_and_every_sensor_and_the_persons_hours(number, tmp_path):
    dwelling, person = draw_dwelling(0, number), draw_person(0, number)
    log = write_synthetic_log(
        tmp_path / "log.txt", days=28, seed=[0, number, 2], dwelling=dwelling, person=person, progress=False
    )
    events, summary = read_events([log], "home")
    assert summary.malformed == summary.ends_without_begin == summary.doubled_begins == 0
    assert 28 * 700 < summary.events < 28 * 2400
    assert set(events["sensor"].unique().to_pylist()) == set(dwelling.layout["sensors"])
    labels = events["activity"].to_pylist()
    assert {label for label in labels if label} == set(dwelling.layout["activities"])
    hours = np.asarray(events["timestamp"].cast("int64")) / 3.6e9 % 24
    weekday = (np.asarray(events["timestamp"].cast("int64")) // 86_400_000_000 + 3) % 7 < 5
    first = [label == "Bathing" and before != "Bathing" for before, label in zip(["", *labels], labels, strict=False)]
    # the first thing in the morning, unless the pills come first; the clock is drawn within an hour and a half
    assert np.median(hours[np.array(first) & weekday]) == pytest.approx(person.wake_h[0], abs=1.5)
