"""The results page: its numbers are those of the runs, made once, and written between the page's marks only."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from evaluation_home import LAYOUT, SENSORS, make_home
from event_tables import LAYOUT as THREE_SENSORS
from event_tables import make_events
from paths import ROOT
from train_home import tiny, write_pictures

from casita.datasets_scripts.schema import EVENTS, WINDOWS, HomeFolder, read_table, write_table
from casita.datasets_scripts.windows.cut import WindowSettings, build_windows, cut_home
from casita.files import read_json
from casita.train.configs.train_config import save_config
from casita.train.evaluation import probes
from casita.train.evaluation.inputs import load_run
from casita.train.experiments.grid import load_grid
from casita.train.experiments.result_scores import Labelled, silent_rows
from casita.train.experiments.result_tables import TABLES, fill_page
from casita.train.experiments.results import PAGE, PLAN, make_results
from casita.train.inference.embedding import LAST_LAYERS, embed_windows

PAGE_TEXT = (
    "# Title\n\n<!-- table toy.frozen -->\nold\n<!-- end -->\n\nProse 12.\n\n<!-- table other.few -->\n<!-- end -->\n"
    "<!-- table other.frozen -->\nof earlier work\n<!-- end -->\n"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path, dict]:
    """A row with two seeds, of two steps each, in a work folder that has the home already."""
    work = tmp_path_factory.mktemp("results")
    home = make_home(work / "homes" / "toy")
    named = {"Sleep": {"prompts": ["Somebody sleeps."]}, "Cook": {"prompts": ["Cooking."]}}
    home.describe(home="small", layout={**LAYOUT, "activities": named})
    write_pictures(home, "small", sorted(f"{sensor}_{state}" for sensor in SENSORS for state in ("ON", "OFF")))
    base = tiny(HomeFolder(Path("homes/toy")), Path("unused"), max_steps=2)
    save_config(base, work / "base.yaml")
    rows = {"image": {"finetune": {"mode": "frozen", "epochs": 1}}}
    (work / "grid.yaml").write_text(yaml.safe_dump({"base": str(work / "base.yaml"), "rows": rows, "seeds": [0, 1]}))
    section = {"kind": "rows", "grid": str(work / "grid.yaml"), "homes": ["toy"], "baselines": True, "context": True}
    shutil.copytree(home.root, work / "homes" / "relabelled")
    relabel(HomeFolder(work / "homes" / "relabelled"))
    other = section | {"homes": ["toy", "relabelled"], "scored_in": "relabelled"}
    plan = {
        "homes": {"toy": {"commands": []}, "relabelled": {"copy_of": "toy", "commands": []}},
        "sections": {"toy": section | {"analysis": True}, "relabelled": other},
    }
    (work / "plan.yaml").write_text(yaml.safe_dump(plan))
    page = work / "page.md"
    page.write_text(PAGE_TEXT)
    make_results(home.root, work, page, plan=work / "plan.yaml")
    return work, page, read_json(work / "results.json")


def relabel(home: HomeFolder) -> None:
    """Every third window loses its label."""
    windows = read_table(home.windows, WINDOWS)
    told = [None if i % 3 == 0 else label for i, label in enumerate(windows["activity"].to_pylist())]
    column = windows.schema.get_field_index("activity")
    pq.write_table(windows.set_column(column, WINDOWS.field("activity"), pa.array(told, pa.string())), home.windows)


@pytest.mark.parametrize("section", ["toy", "relabelled"])
def test_a_rows_numbers_are_those_of_its_runs_frozen_embeddings(made, section):
    work, _, found = made
    runs = sorted(work.glob("runs/image-*/seed_[01]"))
    assert len(runs) == 2
    windows = read_table(work / "homes" / section / "windows.parquet", WINDOWS)
    task = probes.make_task(windows["activity"].to_pylist(), windows["split"].to_pylist(), unlabelled=False)
    scores, deep = [], []
    for run in runs:
        _, model, processor = load_run(run)
        inputs = processor.encode_windows(windows["sensor_keys"].to_pylist(), windows["seconds"].to_pylist())
        encoded = embed_windows(model, inputs, layers=LAST_LAYERS, progress=False)
        scores.append(probes.linear_probe(encoded.base, task, progress=False).metrics(task)["macro_f1"])
        deep.append(probes.linear_probe(encoded.layers, task, progress=False).metrics(task)["macro_f1"])
    assert found[section]["rows"]["image"]["layers"]["macro_f1"] == pytest.approx(np.mean(deep), abs=1e-6)
    row = found[section]["rows"]["image"]["probe"]
    assert row["macro_f1"] == pytest.approx(np.mean(scores), abs=1e-6)
    assert row["macro_f1_sd"] == pytest.approx(np.std(scores, ddof=1), abs=1e-6)
    bag = probes.bag_of_sensors(windows["sensor_keys"].to_pylist(), task, progress=False).metrics(task)
    assert found[section]["baselines"]["bag_of_sensors"]["accuracy"] == pytest.approx(bag["accuracy"])
    beyond = found[section]["rows"]["image"]["beyond"]["probe"]
    assert beyond["accuracy"] == pytest.approx(found[section]["rows"]["image"]["probe"]["accuracy"] - bag["accuracy"])
    low, high = beyond["accuracy_ci"]
    assert low <= beyond["accuracy"] <= high
    tuned = found[section]["rows"]["image"]["finetuned"]
    own = [read_json(path)["scores"] for path in sorted(work.glob("runs/image-*/seed_[01]_finetune_*/results.json"))]
    assert tuned["seeds"] == ["0", "1"]
    assert tuned["seeds_macro_f1"] == pytest.approx([each["test"]["finetuned"]["macro_f1"] for each in own])
    assert tuned["macro_f1"] == pytest.approx(np.mean(tuned["seeds_macro_f1"]))
    assert tuned["validation_macro_f1"] == pytest.approx(
        np.mean([each["validation"]["finetuned"]["macro_f1"] for each in own])
    )


def test_the_page_gets_its_tables_and_keeps_its_prose(made):
    _, page, found = made
    text = page.read_text()
    assert text.startswith("# Title\n")
    assert "\nProse 12.\n" in text
    assert "old" not in text
    told = 100 * found["toy"]["rows"]["image"]["probe"]["macro_f1"]
    assert f"| image: linear probe | {100 * found['toy']['rows']['image']['probe']['accuracy']:.1f}" in text
    assert f"{told:.1f} ±" in text
    assert text.count("*Not measured.*") == 1
    assert "\nof earlier work\n" in text


def test_what_is_done_is_not_done_again(made):
    work, page, found = made
    files = {path: path.stat().st_mtime_ns for path in [*work.glob("runs/*/*/model/*"), *work.glob("scores/toy/*")]}
    before = page.read_text()
    assert make_results(work, work, page, plan=work / "plan.yaml") == found
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert page.read_text() == before


def test_windows_before_are_of_the_same_session_and_minutes_of_its_start(made):
    data = Labelled.of(HomeFolder(made[0] / "homes" / "toy"))
    assert data.before(2)[:4].tolist() == [-1, -1, 0, 1]
    assert data.minutes.sum(axis=1).tolist() == [1.0] * len(data.sessions)
    assert data.minutes[0].argmax() == 0
    assert data.minutes[-1].argmax() == data.minutes.shape[1] - 1  # days after the first
    hours = [start.hour for start in data.windows["start"].to_pylist()]
    assert data.hours.sum() == len(hours)
    assert data.hours.argmax(axis=1).tolist() == hours


def test_of_the_windows_added_to_train_those_with_a_label_are_scored(tmp_path):
    home = HomeFolder(tmp_path)
    write_table(home.events, make_events(), EVENTS)
    home.describe(home="toy", layout=THREE_SENSORS)
    usual = build_windows(make_events(), THREE_SENSORS, WindowSettings(numeric="levels"))[0]
    cut_home(home, WindowSettings(numeric="levels", train_overlap=0.9))
    whole, data = read_table(home.windows, WINDOWS), Labelled.of(home)
    even = set(usual["window_id"].to_pylist())
    wanted = [row for row in whole.to_pylist() if row["window_id"] in even or row["activity"] is not None]
    assert data.windows.to_pylist() == wanted
    assert len(usual) < len(wanted) < len(whole)
    train = usual.filter(pc.equal(usual["split"], "train"))
    assert data.windows.filter(pa.array(data.usual))["window_id"].to_pylist() == train["window_id"].to_pylist()
    with pytest.raises(ValueError, match="2 windows back is not as far in train"):
        data.before(2)


def test_zero_shot_is_told_among_all_labels_and_among_those_with_a_name(made):
    _, _, found = made
    told = found["toy"]["rows"]["image"]
    assert {"zero_shot", "zero_shot_named", "zero_shot_centred_named"} <= set(told)
    assert {"nearest_prompt_tfidf", "nearest_prompt_tfidf_named"} <= set(found["toy"]["baselines"])
    windows = read_table(made[0] / "homes" / "toy" / "windows.parquet", WINDOWS).to_pylist()
    named = [w for w in windows if w["split"] == "test" and w["activity"] in ("Sleep", "Cook")]
    pair = next(p for p in told["pairs"] if set(p["pair"]) == {"Cook", "Sleep"}) if told["pairs"] else None
    assert pair is None or pair["windows"] == len(named)
    assert sum(m["windows"] for m in told["months"]) == sum(
        w["split"] == "test" and bool(w["activity"]) for w in windows
    )


def test_sessions_are_told_apart_by_the_usual_sensors_that_are_silent_in_them():
    kinds = [("train", "A B C"), ("train", "A B"), ("test", "A B"), ("test", "B"), ("test", "C")]
    windows = pa.table(
        {
            "session": [f"s{i}" for i in range(5)],
            "split": [split for split, _ in kinds],
            "sensor_keys": [[f"{sensor}_ON" for sensor in told.split()] for _, told in kinds],
            "activity": ["Cook", "Sleep", "Cook", "Sleep", "Cook"],
        }
    )
    data = Labelled(HomeFolder(Path("none")), windows)
    answer = probes.Prediction(np.array([[1.0, 0.0]] * 3), ["Cook", "Sleep"])
    rows = silent_rows(data, {"probe": {"0": answer}})
    assert [(row["silent"], row["sessions"], row["sensors"], row["probe"]) for row in rows] == [
        ([0, 0], 1, {}, 1.0),
        ([1, 2], 2, {"A": 2, "B": 1}, 0.5),  # C is not usual: half of the train sessions lack it
    ]


def test_mistakes_are_told(made, tmp_path):
    work, page, _ = made
    with pytest.raises(ValueError, match=r"sections \['kyoto'\] are unknown; there are: relabelled, toy"):
        make_results(work, work, page, ["kyoto"], plan=work / "plan.yaml")
    (tmp_path / "page.md").write_text("<!-- table toy.poem -->\n<!-- end -->\n")
    with pytest.raises(ValueError, match=r"there is no table 'toy.poem'"):
        fill_page(tmp_path / "page.md", {})


def test_the_shipped_plan_is_whole_and_the_page_asks_for_nothing_else():
    plan = yaml.safe_load(PLAN.read_text())
    for section in plan["sections"].values():
        grid = load_grid(section["grid"])
        assert set(section["homes"]) <= set(plan["homes"])
        folders = {row.config().data.removeprefix("homes/") for row in grid.rows}
        assert all(any(h == f or h.startswith(f"{f}/") for h in section["homes"]) for f in folders)
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    for line in text.splitlines():
        if line.startswith("<!-- table "):
            section, _, kind = line.split()[2].partition(".")
            assert section in plan["sections"]
            assert kind in TABLES


def test_a_wrong_section_is_one_line_and_touches_nothing(tmp_path):
    words = ["--data", str(tmp_path), "--work", str(tmp_path / "work"), "--only", "kyoto_wde"]
    told = subprocess.run(
        [sys.executable, "-m", "casita.train.experiments.results", *words], capture_output=True, text=True
    )
    assert told.returncode == 2
    assert told.stderr.splitlines()[-1].endswith(
        "error: sections ['kyoto_wde'] are unknown; there are: "
        + ", ".join(yaml.safe_load(PLAN.read_text())["sections"])
        + "."
    )
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "work").exists()
