"""The CSV pair of pyadlml: devices and activities as intervals."""

import random
from datetime import datetime, timedelta

import pytest

from casita.cli import main
from casita.datasets_scripts.readers.read import home_name, read_events
from casita.datasets_scripts.schema import EVENTS


@pytest.fixture
def pair(tmp_path):
    """Write a pair into a folder `flat`: rows as text, without their headers."""

    def write(devices, activities, header="time,device,value"):
        folder = tmp_path / "flat"
        folder.mkdir(exist_ok=True)
        (folder / "devices.csv").write_text("\n".join([header, *devices]) + "\n")
        (folder / "activities.csv").write_text("\n".join(["start_time,end_time,activity", *activities]) + "\n")
        return folder

    return write


def test_an_event_belongs_to_every_interval_that_holds_its_time(pair):
    folder = pair(
        [f"2008-02-25 00:00:{s:02d},Hall_door,{'ON' if s % 20 else 'OFF'}" for s in (0, 10, 20, 30, 40, 50)],
        ["2008-02-25 00:00:10,2008-02-25 00:00:40,sleep", "2008-02-25 00:00:15,2008-02-25 00:00:30,use_toilet"],
    )
    table, summary = read_events([folder], "flat")
    assert table.schema == EVENTS
    assert table["activity"].to_pylist() == [None, "sleep", "use_toilet", "use_toilet", "sleep", None]
    assert table["activities"].to_pylist()[2] == ["sleep", "use_toilet"]
    assert table["sensor"].unique().to_pylist() == ["Hall_door"]
    assert table["session"].unique().to_pylist() == ["flat"]
    assert (summary.intervals, summary.lines, summary.malformed) == (2, 8, 0)


def test_values_may_be_words_truths_or_numbers(pair):
    values = ["ON", "true", "False", "21.5", "-3", "Heating_up", "off"]
    folder = pair([f"2008-02-25 00:00:0{i},d,{value}" for i, value in enumerate(values)], [])
    table, _ = read_events([folder], "flat")
    assert table["state"].to_pylist() == ["ON", "ON", "OFF", "21.5", "-3", "HEATING-UP", "OFF"]
    assert table["value"].to_pylist() == [None, None, None, 21.5, -3, None, None]


def test_malformed_rows_are_counted_and_shown_with_their_line(pair):
    folder = pair(
        [
            "2008-02-25 00:00:01,a,ON",
            "2008-02-25 00:00:02,a",
            "",
            "soon,a,ON",
            "2008-02-25 00:00:03,,ON",
            "2008-02-25 00:00:04,a,",
        ],
        ["2008-02-25 00:00:05,2008-02-25 00:00:01,backwards", "2008-02-25 00:10:00,2008-02-25 00:11:00,no_event"],
    )
    table, summary = read_events([folder], "flat")
    assert len(table) == 1
    assert (summary.malformed, summary.blank, summary.empty_intervals) == (5, 1, 1)
    shown = {":".join(text.split(":")[:2]) for text in summary.malformed_shown}
    assert shown == {"devices.csv:3", "devices.csv:5", "devices.csv:6", "devices.csv:7", "activities.csv:2"}


def test_other_columns_orders_fractions_and_quotes_do_not_matter(pair):
    folder = pair(
        ['0,"Hall, left",2008-02-25 00:00:01.25,ON,x', "1,b,2008-02-25T00:00:00,OFF,y"],
        [],
        header="id,device,time,value,note",
    )
    table, summary = read_events([folder], "flat")
    assert table["sensor"].to_pylist() == ["b", "Hall, left"]
    assert table["timestamp"].to_pylist()[1] == datetime(2008, 2, 25, 0, 0, 1, 250000)
    assert summary.out_of_order == 1


def test_the_devices_file_finds_the_activities_beside_it(pair):
    folder = pair(["2008-02-25 00:00:01,a,ON"], ["2008-02-25 00:00:00,2008-02-25 00:00:02,cook"])
    table, _ = read_events([folder / "devices.csv"], "flat")
    assert table["activity"].to_pylist() == ["cook"]
    assert home_name([folder]) == home_name([folder / "devices.csv"]) == "flat"


def test_what_is_no_pair_is_an_error_that_says_so(pair, capsys, tmp_path):
    folder = pair(["2008-02-25 00:00:01,a,ON"], [])
    with pytest.raises(ValueError, match="--columns"):
        read_events([folder], "flat", columns=["date", "time", "sensor", "state"])
    with pytest.raises(ValueError, match="one by one"):
        read_events([folder, folder / "devices.csv"], "flat")
    (folder / "activities.csv").write_text("from,to,what\n")
    with pytest.raises(ValueError, match="start_time,end_time,activity"):
        read_events([folder], "flat")
    (folder / "activities.csv").unlink()
    assert main(["read", str(tmp_path / "home"), "--log", str(folder)]) == 2
    assert "activities.csv" in capsys.readouterr().err
    pair(["2008-02-25 00:00:01+01:00,a,ON"], [])
    with pytest.raises(ValueError, match="zone"):
        read_events([folder], "flat")


@pytest.mark.parametrize("seed", range(5))
def test_random_pairs_read_as_by_a_slow_reader(pair, seed):
    rng = random.Random(seed)
    zero = datetime(2010, 1, 1)
    stamps = [zero + timedelta(seconds=rng.randrange(2000)) for _ in range(300)]
    devices = [(when, f"d_{rng.randrange(9)}", rng.choice(["ON", "OFF"])) for when in stamps]
    activities = []
    for _ in range(40):
        start = zero + timedelta(seconds=rng.randrange(-100, 2000))
        activities.append((start, start + timedelta(seconds=rng.randrange(120)), rng.choice("abcd")))
    folder = pair([f"{t},{d},{v}" for t, d, v in devices], [f"{s},{e},{a}" for s, e, a in activities])
    table, summary = read_events([folder], "flat")
    expected = []
    for when, device, value in sorted(devices, key=lambda event: event[0]):
        held = [a for s, e, a in sorted(activities, key=lambda one: one[0]) if s <= when <= e]
        expected.append((when, device, value, held[-1] if held else None, list(dict.fromkeys(held))))
    names = ("timestamp", "sensor", "state", "activity", "activities")
    assert list(zip(*(table[name].to_pylist() for name in names), strict=True)) == expected
    assert summary.intervals + summary.empty_intervals == 40


@pytest.mark.parametrize(
    "home, events, sensors, malformed",
    [("kasteren_a", 2458, 14, 0), ("kasteren_b", 38150, 23, 0), ("ordonez_a", 818, 12, 3)],
)
def test_real_pairs_are_read_whole(real_homes, home, events, sensors, malformed):
    table, summary = read_events([real_homes / home], home)
    assert (len(table), summary.sensors, summary.malformed) == (events, sensors, malformed)
    lines = sum(
        len((real_homes / home / f"{name}.csv").read_text().split("\n")) - 2 for name in ("devices", "activities")
    )
    assert summary.lines == lines
    assert set(table["state"].to_pylist()) == {"ON", "OFF"}
    assert 0.5 < summary.labelled_share < 1
