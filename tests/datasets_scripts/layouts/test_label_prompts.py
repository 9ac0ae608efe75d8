"""Every label finds sentences: written ones where somebody wrote them, its own words otherwise."""

import csv
import re
from datetime import datetime, timedelta

import pyarrow as pa
import pytest

from casita.datasets_scripts.captions.caption import STYLES, caption_windows
from casita.datasets_scripts.layouts.label_prompts import FALLBACK, coarse_labels, label_prompts, label_words
from casita.datasets_scripts.layouts.layout import SHIPPED, coarse_activities, load_layout
from casita.datasets_scripts.schema import WINDOWS


@pytest.mark.parametrize("home", SHIPPED)
def test_every_described_label_has_three_sentences_and_a_coarse_one(home):
    activities = load_layout(home)["activities"]
    described = {label: activity for label, activity in activities.items() if activity.keys() != {"coarse"}}
    # the assessment's tasks of which nobody says what they were
    assert activities.keys() - described.keys() == ({f"Task_{i}" for i in range(9, 17)} if home == "kyoto" else set())
    for label, activity in described.items():
        assert len(set(activity["prompts"])) >= 3, label
        assert all(re.fullmatch(r"[A-Z].*\.", text) for text in [*activity["prompts"], activity["long"]]), label
        assert 2 <= len(activity["short"].split()) <= 4, label
        assert activity["long"].count(".") <= 2, label
    assert {activity["coarse"] for activity in activities.values()} <= coarse_activities().keys()
    for style in ("prompts", "short", "long"):
        texts = {k: [v[style]] if isinstance(v[style], str) else v[style] for k, v in described.items()}
        assert label_prompts(load_layout(home), described, style) == texts


@pytest.mark.parametrize("home", SHIPPED)
def test_no_two_labels_of_a_home_share_all_their_sentences(home):
    described = [activity for activity in load_layout(home)["activities"].values() if "prompts" in activity]
    for texts in (tuple(activity["prompts"]) for activity in described), (activity["short"] for activity in described):
        assert len(set(texts)) == len(described)


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
    windows = pa.Table.from_pylist(rows, schema=WINDOWS)
    captions = [text for texts in caption_windows(windows, layout, style, captions=2) for text in texts]
    caption_words = {four for caption in captions for four in fours(caption)}
    entries = [*coarse_activities().values(), *(a for h in SHIPPED for a in load_layout(h)["activities"].values())]
    texts = [text for e in entries if "short" in e for text in (*e["prompts"], e["short"], e["long"])]
    assert len(caption_words) > 100
    assert len(texts) > 500
    assert not [text for text in texts if caption_words & fours(text)]


def fours(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}


@pytest.mark.parametrize("label", ["Bed_to_Toilet", "bed to toilet", "R1_Bed_to_Toilet", "BED-TO-TOILET"])
def test_spelling_and_resident_do_not_hide_a_description(label):
    layout = load_layout("kyoto")
    assert label_prompts(layout, [label])[label] == layout["activities"]["Bed_to_Toilet"]["prompts"]


def test_residents_that_a_layout_names_stay_apart():
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


def test_every_coarse_label_is_described_in_five_wordings_and_used_somewhere():
    used = {activity["coarse"] for home in SHIPPED for activity in load_layout(home)["activities"].values()}
    assert used == coarse_activities().keys()
    for label, activity in coarse_activities().items():
        assert len(set(activity["prompts"])) >= 5, label
        assert 2 <= len(activity["short"].split()) <= 4, label
    everything = [text for activity in coarse_activities().values() for text in activity["prompts"]]
    assert len(everything) == len(set(everything))
    assert label_prompts({}, ["Sleep"], "long", "coarse") == {"Sleep": [coarse_activities()["Sleep"]["long"]]}
    assert label_prompts({}, ["Gardening"], "short", "coarse") == {"Gardening": ["gardening"]}


@pytest.mark.parametrize(
    ("home", "labels", "coarse"),
    [  # the reference system's own map, but for one spelling of Bed_to_toilet
        ("milan", ["Morning_Meds", "Read", "Chores", "Guest_Bathroom"], ["Take_medicine", "Relax", "Work", "Bathing"]),
        ("aruba", ["Bed_to_Toilet", "Respirate", "Housekeeping"], ["Bed_to_toilet", "Other", "Work"]),
        ("cairo", ["R2 wake", "r1 sleep", "Laundry", "Dinner"], ["Other", "Sleep", "Work", "Eat"]),
        (
            "kyoto",
            ["R1_Sleep", "R2_Personal_Hygiene", "Study", "Task_9"],
            ["Sleep", "Personal_hygiene", "Other", "Other"],
        ),
        ("tulum", ["R1_Snack", "Group_Meeting", "Cook_Lunch"], ["Eat", "Other", "Cook"]),
    ],
)
def test_fine_labels_have_the_coarse_ones_of_the_literature(home, labels, coarse):
    assert list(coarse_labels(load_layout(home), labels).values()) == coarse


def test_a_label_without_a_coarse_one_is_named():
    with pytest.raises(ValueError, match=r"milan: .* no coarse label for 'Sauna'; it has Bed_to_Toilet, Chores"):
        coarse_labels(load_layout("milan"), ["Sleep", "Sauna"])
    with pytest.raises(ValueError, match=r"style='verse'.*prompts, short, long; fine or coarse"):
        label_prompts({}, ["Sleep"], "verse")


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
