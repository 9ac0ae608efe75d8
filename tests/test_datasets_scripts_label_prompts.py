"""Every label finds sentences: written ones where somebody wrote them, its own words otherwise."""

import csv
import re
from datetime import datetime, timedelta

import pyarrow as pa
import pytest

from casita.datasets_scripts.captions import STYLES, caption_windows
from casita.datasets_scripts.label_prompts import FALLBACK, label_prompts, label_words
from casita.datasets_scripts.layouts import SHIPPED, load_layout
from casita.datasets_scripts.schema import WINDOWS


@pytest.mark.parametrize("home", SHIPPED)
def test_every_described_label_has_three_sentences_and_a_coarse_one(home):
    activities = load_layout(home)["activities"]
    for label, told in activities.items():
        assert len(set(told["prompts"])) >= 3, label
        assert all(re.fullmatch(r"[A-Z].*\.", prompt) for prompt in told["prompts"]), label
        assert told["coarse"]
    assert label_prompts(load_layout(home), activities) == {k: v["prompts"] for k, v in activities.items()}


@pytest.mark.parametrize("home", SHIPPED)
def test_no_two_labels_of_a_home_share_all_their_sentences(home):
    activities = load_layout(home)["activities"]
    assert len({tuple(told["prompts"]) for told in activities.values()}) == len(activities)


@pytest.mark.parametrize("style", STYLES)
def test_prompts_and_captions_share_no_template(style):
    """No four words in a row of any prompt occur in captions of any sensor at any hour."""
    layout = load_layout("synthetic")
    keys = [f"{sensor}_{state}" for sensor in layout["sensors"] for state in ("ON", "OFF", "OPEN", "ABSENT")]
    begin = datetime(2024, 1, 1)
    rows = [
        {
            "window_id": f"w{i}",
            "home": "synthetic",
            "session": "s",
            "split": "train",
            "start": begin + timedelta(hours=i),
        }
        | {
            "end": begin + timedelta(hours=i, minutes=i % 90),
            "sensor_keys": [keys[i % len(keys)], keys[-i % len(keys)]],
        }
        | {"seconds": [0.0, 60.0 * (i % 90)], "activity": None, "activity_share": 0.0}
        for i in range(400)
    ]
    captions = caption_windows(pa.Table.from_pylist(rows, schema=WINDOWS), layout, style)
    told = {four for caption in captions for four in fours(caption)}
    prompts = [p for home in SHIPPED for act in load_layout(home)["activities"].values() for p in act["prompts"]]
    assert len(told) > 300
    assert not [prompt for prompt in prompts if told & fours(prompt)]


def fours(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}


@pytest.mark.parametrize("label", ["Bed_to_Toilet", "bed to toilet", "R1_Bed_to_Toilet", "BED-TO-TOILET"])
def test_spelling_and_resident_do_not_hide_a_description(label):
    layout = load_layout("kyoto")
    assert label_prompts(layout, [label])[label] == layout["activities"]["Bed_to_Toilet"]["prompts"]


def test_residents_that_a_layout_tells_apart_stay_apart():
    prompts = label_prompts(load_layout("tulum"), ["R1_Eat_Breakfast", "R2_Eat_Breakfast"])
    assert "first resident" in prompts["R1_Eat_Breakfast"][0]
    assert "second resident" in prompts["R2_Eat_Breakfast"][0]


def test_a_label_that_nobody_described_speaks_for_itself():
    prompts = label_prompts(load_layout("kyoto"), ["Task_9", "Water_Plants"])
    assert prompts["Task_9"] == [sentence.format(words="task 9") for sentence in FALLBACK]
    assert prompts["Water_Plants"][0] == "Watering the plants."
    assert label_prompts({"sensors": {}}, ["Baking"])["Baking"][1] == "The activity is baking."


@pytest.mark.parametrize(
    "label, words",
    [
        ("R2_Personal_Hygiene", "personal hygiene"),
        ("prepBreakfast", "prep breakfast"),
        ("Spare_Time/TV", "spare time TV"),
        ("  Wash__Dishes ", "wash dishes"),
        ("R1", "R1"),
    ],
)
def test_labels_are_read_as_words(label, words):
    assert label_words(label) == words


def test_a_label_without_words_is_refused():
    with pytest.raises(ValueError, match="'__' holds no word"):
        label_prompts({}, ["__"])


def test_real_homes_use_only_described_labels_but_kyotos_nameless_tasks(real_homes):
    marks = set()
    for path in sorted((real_homes / "kyoto").glob("*.txt"))[::20]:
        for line in path.read_text(encoding="utf-8-sig", errors="replace").splitlines():
            if (fields := line.split()) and fields[-1] == "begin" and len(fields) > 5:
                marks.add(fields[4])
    described = set(load_layout("kyoto")["activities"])
    assert len(marks) > 20
    assert {label for label in marks - described if not re.fullmatch(r"Task_(9|1[0-6])", label)} == set()
    for home in ("kasteren_a", "kasteren_b", "ordonez_a"):
        with (real_homes / home / "activities.csv").open(encoding="utf-8") as file:
            labels = {row["activity"] for row in csv.DictReader(file)}
        assert labels == set(load_layout(home)["activities"]), home
