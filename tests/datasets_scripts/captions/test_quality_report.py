"""The report of caption quality counts what a reader would count by hand."""

import json
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from casita import cli
from casita.datasets_scripts.captions.caption import caption_home, caption_windows
from casita.datasets_scripts.captions.quality_report import (
    Names,
    describe_report,
    label_words,
    report_captions,
    report_home,
)
from casita.datasets_scripts.layouts.layout import load_layout
from casita.datasets_scripts.schema import CAPTIONS, WINDOWS, HomeFolder, write_table

START = datetime(2024, 1, 2, 7, 10)


def windows_of(*keys: list[str], activity: str | None = "Cook_Lunch") -> pa.Table:
    rows = [
        {
            "window_id": f"w{i}",
            "home": "synthetic",
            "session": "s",
            "split": "train",
            "start": START,
            "sensor_keys": window_keys,
        }
        | {"end": START + timedelta(seconds=9), "seconds": list(range(len(window_keys))), "activity_share": 1.0}
        | {"activity": activity}
        for i, window_keys in enumerate(keys)
    ]
    return pa.Table.from_pylist(rows, schema=WINDOWS)


@pytest.fixture(scope="module")
def layout() -> dict:
    return load_layout("synthetic")


def test_rooms_and_things_are_counted_caption_by_caption(layout):
    windows = windows_of(["M005_ON", "M002_ON", "D002_OPEN"], ["M012_ON"])
    captions = [
        [
            "Someone was in the kitchen; the fridge was opened.",
            "In the kitchen and the hallway.",
        ],  # 1 of 2, 2 of 2 rooms
        ["The stove was on in the kitchen.", "Somebody was in the bedroom near the bed."],  # wrong; right
    ]
    report = report_captions(windows, layout, captions)
    assert report["rooms"] == {"recall": round(4 / 6, 4), "precision": round(4 / 5, 4)}
    assert report["things"] == {"recall": 0.5, "precision": round(1 / 3, 4)}


def test_repetition_length_and_diversity(layout):
    windows = windows_of(["M005_ON"], ["M005_ON"], ["M005_ON"])
    report = report_captions(
        windows, layout, [["At 7 in here."], ["At 9 in here."], ["At 7 in here.", "Again!"]], wanted=2
    )
    assert (report["windows"], report["captions"], report["windows_with_fewer"]) == (3, 4, 2)
    assert report["duplicate_share"] == 0.25
    assert report["duplicate_share_without_numbers"] == 0.5
    assert report["words"] == {"mean": 3.2, "p5": float(np.percentile([4, 4, 4, 1], 5)), "p95": 4.0}
    assert report["different_words"] == 6  # at 7 9 in here again
    assert report["type_token_ratio"] == round(6 / 13, 4)


def test_words_of_the_label_are_looked_for(layout):
    assert label_words("Bed_to_Toilet") == {"bed", "toilet"}
    assert label_words("Task_7") == {"task"}
    assert label_words("WatchTV") == {"watch", "tv"}
    windows = windows_of(["M005_ON"], ["M005_ON"])
    report = report_captions(windows, layout, [["Somebody may cook here."], ["A cookie was moved."]])
    assert report["mention_a_word_of_their_label"] == 0.5
    unlabelled = windows_of(["M005_ON"], activity=None)
    assert report_captions(unlabelled, layout, [["Cook lunch."]])["mention_a_word_of_their_label"] is None


def test_the_longer_of_two_overlapping_names_counts():
    names = Names(["the bed", "the bedroom", "the bed in the bedroom"])
    assert names.in_text("By The Bed in the bedroom, then in the bedroom.") == {
        "the bed in the bedroom",
        "the bedroom",
    }
    assert names.in_text("the bedrooms") == set()
    assert Names([]).in_text("the bed") == set()


@pytest.mark.parametrize("style", ["narrative", "structured"])
def test_the_templates_name_every_room_and_no_other(layout, style):
    rng = np.random.default_rng(0)
    motion = [f"{name}_ON" for name, sensor in layout["sensors"].items() if sensor["type"] == "motion"]
    windows = windows_of(*(rng.choice(motion, 12).tolist() for _ in range(100)))
    report = report_captions(windows, layout, caption_windows(windows, layout, style))
    assert report["rooms"] == {"recall": 1.0, "precision": 1.0}


def test_a_home_is_reported_in_a_file_and_a_table(tmp_path, layout, capsys):
    home = HomeFolder(tmp_path)
    home.describe(home="synthetic", layout=layout)
    write_table(home.windows, windows_of(*[["M005_ON", "D002_OPEN"]] * 30), WINDOWS)
    assert cli.main(["caption", str(tmp_path), "--captions", "2", "--report"]) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "captions" / "narrative.report.json").read_text())
    assert (report["captions"], len(report["samples"])) == (60, 10)
    assert describe_report(report) in out
    assert report["samples"][0] in out
    caption_home(home, "narrative")
    assert report_home(home, "narrative", 1)["captions"] == 30


def test_captions_of_other_windows_are_refused(tmp_path, layout):
    home = HomeFolder(tmp_path)
    home.describe(home="synthetic", layout=layout)
    write_table(home.windows, windows_of(["M005_ON"]), WINDOWS)
    rows = {"window_id": ["gone"], "style": ["narrative"], "number": [0], "caption": ["Nobody."]}
    write_table(home.captions("narrative"), pa.table(rows), CAPTIONS)
    with pytest.raises(ValueError, match="window 'gone' is none of the home's"):
        report_home(home, "narrative")
