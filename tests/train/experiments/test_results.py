"""The results page: its numbers are those of the runs, made once, and written between the page's marks only."""

import re
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
from paths import ROOT
from train_home import tiny, write_pictures

from casita.datasets_scripts.schema import WINDOWS, HomeFolder, read_metadata, read_table, write_table
from casita.datasets_scripts.windows.splits import bootstrap_clusters
from casita.files import read_json
from casita.results import METHODS, PAGE_METHODS, method_title
from casita.train.configs.train_config import save_config
from casita.train.evaluate_run import evaluate_run
from casita.train.evaluation import probes
from casita.train.evaluation.bootstrap import BootstrapClusters, classification_intervals
from casita.train.evaluation.inputs import load_run
from casita.train.experiments.grid import load_grid
from casita.train.experiments.result_scores import score_row
from casita.train.experiments.result_tables import PARTS, TABLES, fill_page
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
    labels = [None if i % 3 == 0 else label for i, label in enumerate(windows["activity"].to_pylist())]
    column = windows.schema.get_field_index("activity")
    pq.write_table(windows.set_column(column, WINDOWS.field("activity"), pa.array(labels, pa.string())), home.windows)


@pytest.fixture(scope="module", params=["toy", "relabelled"])
def evaluated(made, request, tmp_path_factory) -> tuple[dict, dict, dict]:
    """A section's row and baselines, and what `casita evaluate` says of the same runs in the same home."""
    work, _, sections = made
    runs = sorted(work.glob("runs/image-*/seed_[01]"))
    assert len(runs) == 2
    out = tmp_path_factory.mktemp("evaluated")
    results = evaluate_run(runs, work / "homes" / request.param, out, seeds=2, progress=False)
    section = sections[request.param]
    return section["rows"]["image"], section["baselines"], results["protocols"]["chronological"]


def same_scores(of_page, of_evaluate):
    """Equal but for the last bits of embeddings that were computed in other batches."""
    assert list(of_page.get("seeds", {})) == list(of_evaluate.get("seeds", {}))
    for name, value in of_evaluate.items():
        if name != "seeds":
            assert of_page[name] == pytest.approx(value, abs=1e-5), name


def test_a_row_has_the_numbers_of_casita_evaluate(evaluated):
    row, baselines, scores = evaluated
    labelled = scores["classification"]["labelled"]
    for method in ("linear_probe", "layer_probe", "zero_shot"):
        same_scores(row["classification"]["labelled"][method], labelled[method])
    for method in ("bag_of_sensors", "nearest_prompt_tfidf", "majority"):
        same_scores(baselines["classification"]["labelled"][method], labelled[method])
    assert baselines["classification"]["labelled"]["chance"] == labelled["chance"]
    for direction in ("sensor_to_text", "text_to_sensor"):
        same_scores(row["retrieval"]["casita"][direction], scores["retrieval"]["casita"][direction])


def test_a_row_learns_from_the_few_labels_of_casita_evaluate(evaluated):
    row, baselines, scores = evaluated
    for method in ("linear_probe", "layer_probe"):
        same_scores(row["few_shot"]["0.05"][method], scores["few_shot"]["0.05"][method])
    same_scores(baselines["few_shot"]["0.05"]["bag_of_sensors"], scores["few_shot"]["0.05"]["bag_of_sensors"])


def test_a_difference_is_that_of_the_two_methods(evaluated):
    row, baselines, _ = evaluated
    difference = row["differences"]["labelled"]["linear_probe"]
    assert difference["rival"] == "bag_of_sensors"
    probe = row["classification"]["labelled"]["linear_probe"]
    bag = baselines["classification"]["labelled"]["bag_of_sensors"]
    assert difference["accuracy"] == pytest.approx(probe["accuracy"] - bag["accuracy"])
    low, high = difference["accuracy_ci"]
    assert low <= difference["accuracy"] <= high
    assert {"linear_probe_context", "zero_shot"} <= set(row["differences"]["labelled"])
    assert set(row["differences"]["0.05"]) == {"linear_probe", "layer_probe"}


def test_sessions_that_are_one_recording_are_drawn_together(made, tmp_path):
    work, _, _ = made
    home = HomeFolder(shutil.copytree(work / "homes" / "toy", tmp_path / "toy"))
    windows = read_table(home.windows, WINDOWS)
    # Every day is twelve sessions of an hour under two names each, whose windows come by turns.
    names = [f"{start:%d %H}{'ab'[i % 2]}" for i, start in enumerate(windows["start"].to_pylist())]
    column = windows.schema.get_field_index("session")
    metadata = {"sampling": read_metadata(home.windows)["sampling"]}
    write_table(home.windows, windows.set_column(column, WINDOWS.field("session"), pa.array(names)), WINDOWS, metadata)
    runs = sorted(work.glob("runs/image-*/seed_0"))
    split = read_table(home.windows, WINDOWS)
    test = split.filter(pc.equal(split["split"], "test"))
    code, unit = bootstrap_clusters(test)
    assert unit == "session"
    assert len(set(code)) < len(set(test["session"].to_pylist()))  # one recording has two names
    row = score_row(home, runs)
    labelled = np.flatnonzero(pc.is_valid(test["activity"]).to_numpy(zero_copy_only=False))
    answers = predicted(home, runs[0])
    y = np.array(test["activity"].to_pylist(), dtype=object)
    task = probes.Task(y, labelled[:0], labelled[:0], labelled)
    clusters = BootstrapClusters(code, unit).take(labelled)
    expected = classification_intervals([answers], task, clusters)["accuracy_ci"]
    assert row["classification"]["labelled"]["linear_probe"]["accuracy_ci"] == pytest.approx(expected, abs=1e-5)


def predicted(home, run):
    """The linear probe's answers to the labelled test windows, by hand."""
    windows = read_table(home.windows, WINDOWS)
    task = probes.make_task(windows["activity"].to_pylist(), windows["split"].to_pylist(), unlabelled=False)
    _, model, processor = load_run(run)
    inputs = processor.encode_windows(windows["sensor_keys"].to_pylist(), windows["seconds"].to_pylist())
    embedded = embed_windows(model, inputs, layers=LAST_LAYERS, progress=False)
    return probes.linear_probe(embedded.base, task, progress=False)


def test_a_fine_tuned_row_has_the_numbers_of_its_runs(made):
    work, _, sections = made
    tuned = sections["toy"]["rows"]["image"]["finetuned"]
    own = [read_json(path)["scores"] for path in sorted(work.glob("runs/image-*/seed_[01]_finetune_*/results.json"))]
    assert list(tuned["seeds"]) == ["0", "1"]
    scores = [of_seed["macro_f1"] for of_seed in tuned["seeds"].values()]
    assert scores == pytest.approx([of_run["test"]["finetuned"]["macro_f1"] for of_run in own])
    assert tuned["macro_f1"] == pytest.approx(np.mean(scores))
    assert tuned["validation_macro_f1"] == pytest.approx(
        np.mean([of_run["validation"]["finetuned"]["macro_f1"] for of_run in own])
    )
    low, high = tuned["accuracy_ci"]
    assert low <= tuned["accuracy"] <= high


def test_the_page_gets_its_tables_and_keeps_its_prose(made):
    _, page, sections = made
    text = page.read_text()
    assert text.startswith("# Title\n")
    assert "\nProse 12.\n" in text
    assert "old" not in text
    probe = sections["toy"]["rows"]["image"]["classification"]["labelled"]["linear_probe"]
    assert f"| image: linear probe | {100 * probe['accuracy']:.1f}" in text
    assert f"{100 * probe['macro_f1']:.1f} ±" in text
    assert text.count("*Not measured.*") == 1
    assert "\nof earlier work\n" in text


def test_what_is_done_is_not_done_again(made):
    work, page, sections = made
    files = {path: path.stat().st_mtime_ns for path in [*work.glob("runs/*/*/model/*"), *work.glob("scores/toy/*")]}
    before = page.read_text()
    assert make_results(work, work, page, plan=work / "plan.yaml") == sections
    assert {path: path.stat().st_mtime_ns for path in files} == files
    assert page.read_text() == before


def test_mistakes_are_one_line(made, tmp_path):
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


def test_the_shipped_page_calls_each_method_by_its_one_name():
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    titles = {method_title(method) for method in METHODS | PAGE_METHODS}
    tables = re.findall(
        r"<!-- table \S+\.(?:frozen|context|few|zero_shot\w*|shuffled|transfer) -->(.*?)<!-- end", text, re.S
    )
    labels = [line.split(" | ")[0][2:] for table in tables for line in table.splitlines() if line.startswith("| ")]
    for label in (label for label in labels if label != "%"):
        name = label.partition(": ")[2] or label
        for part in PARTS.values():
            name = name.removesuffix(part)
        assert name.removeprefix("that less ") in titles, label


def test_a_wrong_section_is_one_line_and_touches_nothing(tmp_path):
    words = ["--data", str(tmp_path), "--work", str(tmp_path / "work"), "--only", "kyoto_wde"]
    process = subprocess.run(
        [sys.executable, "-m", "casita.train.experiments.results", *words], capture_output=True, text=True
    )
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].endswith(
        "error: sections ['kyoto_wde'] are unknown; there are: "
        + ", ".join(yaml.safe_load(PLAN.read_text())["sections"])
        + "."
    )
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "work").exists()
