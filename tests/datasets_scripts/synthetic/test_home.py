"""The made-up home: its log is one that real sensors could have written."""

import hashlib
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from casita.datasets_scripts.layouts.layout import load_layout
from casita.datasets_scripts.readers.read import read_events
from casita.datasets_scripts.synthetic.home import DAMAGED, write_synthetic_log
from casita.datasets_scripts.synthetic.simulator import ResidentSimulator, synthetic_dwelling

DAYS = 14


@pytest.fixture(scope="module")
def layout() -> dict:
    return load_layout("synthetic")


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    return write_synthetic_log(tmp_path_factory.mktemp("synthetic") / "log.txt", days=DAYS, progress=False)


@pytest.fixture(scope="module")
def flawless(tmp_path_factory) -> list[list[str]]:
    path = tmp_path_factory.mktemp("synthetic") / "flawless.txt"
    write_synthetic_log(path, days=DAYS, damaged_share=0, progress=False)
    return fields(path)


def fields(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_the_same_seed_writes_the_same_bytes_and_another_seed_another_life(tmp_path):
    logs = [
        write_synthetic_log(tmp_path / f"{i}", days=2, seed=seed, progress=False) for i, seed in enumerate((3, 3, 4))
    ]
    first, again, other = (path.read_bytes() for path in logs)
    assert first == again
    assert first != other


def test_the_shipped_homes_log_is_the_one_that_the_demo_and_the_docs_were_made_with(tmp_path):
    log = write_synthetic_log(tmp_path / "log.txt", days=6, progress=False)
    # NumPy keeps the streams of its generators; should it ever not, the demo's figures are to be measured anew
    assert hashlib.sha256(log.read_bytes()).hexdigest()[:16] == "6ac7362c762b6741"


def test_days_differ_although_the_person_is_the_same(flawless):
    activities = defaultdict(list)
    for line in flawless:
        if len(line) == 4 and line[3].endswith(" begin"):
            activities[line[0][:10]].append(line[3])
    assert len({tuple(day) for day in activities.values()}) >= DAYS - 1


def test_every_sensor_of_the_layout_reports_and_no_other(log, layout):
    assert {line[1] for line in fields(log)} == set(layout["sensors"])


def test_a_day_has_the_events_of_a_real_home(log):
    assert 1200 * DAYS < len(fields(log)) < 2200 * DAYS


def test_every_begin_finds_its_end_and_every_label_has_prompts(flawless, layout):
    opened, seen = [], set()
    for line in flawless:
        if len(line) == 4:
            label, mark = line[3].rsplit(" ", 1)
            if mark == "begin":
                opened.append(label)
            else:
                opened.remove(label)  # raises for an end without a begin
                seen.add(label)
    assert opened == []
    assert seen == set(layout["activities"])


def test_lines_come_in_order_and_motion_ends_before_it_begins_again(flawless):
    assert all(a[0] <= b[0] for a, b in pairwise(flawless))
    states = defaultdict(list)
    for _, sensor, state, *_ in flawless:
        states[sensor].append(state)
    for sensor in (sensor for sensor in states if sensor.startswith("M")):
        assert states[sensor][0::2] == ["ON"] * len(states[sensor][0::2]), sensor
        assert states[sensor][1::2] == ["OFF"] * len(states[sensor][1::2]), sensor


def test_faults_are_rare_but_there(log, flawless):
    lines = fields(log)
    damaged = {state for spellings in DAMAGED.values() for state in spellings}
    faults = sum(line[2] in damaged for line in lines)
    late = sum(b[0] < a[0] for a, b in pairwise(lines))
    assert 0 < faults < 0.005 * len(lines)
    assert 0 < late < 0.005 * len(lines)
    assert not damaged & {line[2] for line in flawless}


def test_the_reader_mends_every_fault(log, tmp_path):
    events, summary = read_events([log], "synthetic")
    flawless, _ = read_events(
        [write_synthetic_log(tmp_path / "f.txt", days=DAYS, damaged_share=0, progress=False)], "s"
    )
    assert summary.malformed == 0
    assert summary.out_of_order > 0
    # The same life: the faults are sown after it has been lived.
    assert events.select(["timestamp", "sensor", "state", "activity"]).equals(
        flawless.select(["timestamp", "sensor", "state", "activity"])
    )


def test_a_walk_passes_the_sensors_on_the_way_at_walking_pace():
    dwelling = synthetic_dwelling()
    bed, stove, armchair = (dwelling.places[place] for place in ("bed", "stove", "armchair"))
    resident = ResidentSimulator(dwelling, np.random.default_rng(0))
    resident.walk("stove")
    assert [sensor for sensor, _, _ in resident.pulses] == ["M012", "M002", "M005", stove]
    length_cm = sum(resident.distance_cm(a, b) for a, b in pairwise([bed, "M012", "M002", "M005", stove]))
    assert 50 < length_cm / resident.now_s < 100
    resident.walk("armchair")
    assert [sensor for sensor, _, _ in resident.pulses][4:] == ["M005", "M007", "M009", armchair]


def test_the_bed_is_pressed_while_the_person_sleeps_and_no_longer(flawless):
    asleep, pressed = False, None
    for _, sensor, state, *mark in flawless:
        if mark == ["Sleep begin"]:
            asleep = True
        if sensor == "B001":
            assert asleep, "the bed was touched outside of sleep"
            pressed = state
        if mark == ["Sleep end"]:
            assert pressed == "OFF"
            asleep = False


def test_the_kitchen_warms_up_when_somebody_cooks(flawless):
    cooking, readings = False, {True: [], False: []}
    for _, sensor, state, *mark in flawless:
        if sensor == "T001":
            readings[cooking].append(float(state))
        if mark and mark[0].startswith("Cook"):
            cooking = mark[0].endswith("begin")
    assert np.mean(readings[True]) > np.mean(readings[False]) + 1.5


def test_work_is_for_weekdays(flawless):
    minutes = {False: 0.0, True: 0.0}
    begun = None
    for stamp, _, _, *mark in flawless:
        if mark == ["Work_at_Desk begin"]:
            begun = np.datetime64(stamp)
        elif mark == ["Work_at_Desk end"]:
            weekend = not np.is_busday(begun.astype("datetime64[D]"))
            minutes[weekend] += (np.datetime64(stamp) - begun) / np.timedelta64(1, "m")
    assert minutes[False] / 10 > 2 * minutes[True] / 4  # two weeks: ten weekdays, four days of weekend


def test_no_days_are_refused(tmp_path):
    with pytest.raises(ValueError, match="days=0"):
        write_synthetic_log(tmp_path / "log.txt", days=0)
    assert list(tmp_path.iterdir()) == []
