"""The tree of a model repository: loaded without casita, its card's code run, its numbers those that were measured."""

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from snippets import run_page

from casita.datasets_scripts.captions.text_embeddings import MINILM, minilm_directory
from casita.datasets_scripts.schema import HomeFolder
from casita.files import hash_file, read_json, write_json
from casita.model_cards.model_tree import evaluation_record
from casita.model_cards.pages import method_title
from casita.model_cards.trees import write_dataset_tree, write_embeddings_tree, write_model_tree
from casita.train.inference.model_directory import load_published

REPO, DATASET, TABLES = "org/casita-flat", "org/flat", "org/flat-embeddings"
METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")


@pytest.fixture(scope="module")
def trees(released, tmp_path_factory):
    """The tree of each repository, by its id."""
    home, run = released
    root = tmp_path_factory.mktemp("trees")
    return {
        REPO: write_model_tree(run, root / "model", REPO, dataset=DATASET, watts=65.0),
        DATASET: write_dataset_tree(home.root, root / "dataset", DATASET),
        TABLES: write_embeddings_tree(home.root, root / "embeddings", TABLES),
    }


@pytest.fixture(scope="module")
def card(trees):
    return ModelCard.load(trees[REPO] / "README.md")


@pytest.fixture(scope="module")
def results(released):
    return read_json(released[1] / "results.json")


@pytest.fixture
def run(released, tmp_path):
    """A copy of the run that a test may change; its home is where it was."""
    return shutil.copytree(released[1], tmp_path / "run")


def cached(cache: Path, repo_id: str, tree: Path, kind: str = "models") -> None:
    """Put a repository into a cache of huggingface_hub as a download would."""
    folder = cache / f"{kind}--{repo_id.replace('/', '--')}"
    (folder / "snapshots").mkdir(parents=True)
    (folder / "snapshots" / ("0" * 40)).symlink_to(tree)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0" * 40)


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


FACTS = """
import json
print(json.dumps({"rows": [row["vector"].tolist() for row in rows], "window": window.tolist(), "index": len(index),
    "module": type(model).__module__, "first": first["split"], "shape": list(vectors.shape), "keys": keys}))
"""


def test_the_code_of_all_three_cards_runs_where_casita_is_not_installed(trees, released, tmp_path):
    for repo_id, kind in ((REPO, "models"), (DATASET, "datasets"), (TABLES, "datasets")):
        cached(tmp_path / "hub", repo_id, trees[repo_id], kind)
    cached(tmp_path / "hub", MINILM, minilm_directory())
    code_of = {repo_id: blocks(tree / "README.md") for repo_id, tree in trees.items()}
    assert {repo_id: len(code) for repo_id, code in code_of.items()} == {REPO: 3, DATASET: 3, TABLES: 3}
    # Offline, `load_dataset` wants a folder: its cache is not that of the files.
    data = [code.replace(f'"{DATASET}"', repr(str(trees[DATASET]))) for code in code_of[DATASET]]
    script = "\n".join(['import sys; sys.modules["casita"] = None', *code_of[REPO], *data, *code_of[TABLES], FACTS])
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_DATASETS_CACHE": str(tmp_path / "datasets")}
    command = [sys.executable, "-I", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["module"].startswith("transformers_modules.")
    assert answer["first"] == "test"
    model, processor = load_published(released[1])
    with torch.inference_mode():
        events = re.search(r"events = (\[.*?^\])", code_of[REPO][0], flags=re.M | re.S)[1]
        expected = model(**processor([eval(events)], return_tensors="pt")).sensor_embeds.numpy()
    np.testing.assert_allclose(answer["window"], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(answer["rows"], expected, rtol=0, atol=1e-6)
    assert answer["shape"] == [len(answer["keys"]), 768]
    assert "`SensorEmbeddingTable.from_pretrained(" in (trees[TABLES] / "README.md").read_text()


def test_the_tree_has_what_the_model_directory_has_and_the_evidence(trees, released):
    tree, run = trees[REPO], released[1]
    names = {path.name for path in (run / "model").iterdir()} - {"README.md", "training.json", "evaluation.json"}
    for name in names:
        assert hash_file(tree / name) == hash_file(run / "model" / name)
    assert {p.name for p in (tree / "plots").iterdir()} == {p.name for p in (run / "plots").iterdir()}
    assert hash_file(tree / "floor_plan.png") == hash_file(released[0].root / "contact_sheet.png")
    text = (tree / "README.md").read_text()
    for _, picture in re.findall(r"!\[(.*?)\]\((.*?)\)", text):
        assert (tree / picture).is_file(), picture


def test_writing_again_gives_the_same_bytes(trees, released, tmp_path):
    again = write_model_tree(released[1], tmp_path / "model", REPO, dataset=DATASET, watts=65.0)
    assert hash_file(again) == hash_file(trees[REPO])


def tables(section):
    """The tables of a text by the second cell of their header: first cell of a row -> the numbers in the others."""
    found = {}
    for table in re.findall(r"^\|.*?(?=\n\n|\Z)", section, flags=re.M | re.S):
        header, _, *rows = [[cell.strip("` ") for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
        found[header[1]] = {row[0]: [re.match(r"[\d.,]*", cell)[0] for cell in row[1:]] for row in rows}
    return found


def percents(values):
    return [f"{100 * value:.1f}" for value in values]


def test_every_number_of_the_evaluation_is_that_of_results_json(results, card):
    section = card.text.split("## Evaluation\n")[1].split("\n## ")[0]
    shown = tables(section)
    assert shown["accuracy"] == {
        method_title(row["method"]): percents(row[m] for m in METRICS) for row in results["headline"]
    }
    scores = results["protocols"][results["settings"]["protocol"]]
    assert shown["window to caption, first"] == {
        method_title(name): percents(
            row[direction][f"recall_at_{k}"] for direction in ("sensor_to_text", "text_to_sensor") for k in (1, 10)
        )
        for name, row in scores["retrieval"].items()
    }
    assert shown["mAP"] == {
        method_title(name): percents(row[metric] for metric in ("map", "recall_at_1", "recall_at_10"))
        for name, row in scores["paraphrases"].items()
        if "map" in row
    }
    assert shown["windows"] == {
        split: [f"{counts[name]:,}" for name in ("windows", "labelled", "days", "sessions")]
        for split, counts in results["data"]["splits"].items()
    }
    for pair, count in results["data"]["leak_audit"].items():
        assert f"{pair} {count}" in section
    assert len(shown) == 4


def test_the_metadata_is_what_the_hub_reads(card, results, trees):
    data = card.data
    assert (data.pipeline_tag, data.library_name, data.license) == ("feature-extraction", "transformers", "apache-2.0")
    assert data.datasets == [DATASET]
    assert {"casita", "smart-home"} <= set(data.tags)
    own = {row["method"]: row for row in results["headline"] if row["method"] in ("linear_probe", "zero_shot")}
    reported = [(each.task_type, each.metric_name, each.metric_value) for each in data.eval_results]
    names = ("Accuracy", "Balanced accuracy", "Macro F1", "Weighted F1")
    tasks = {"linear_probe": "tabular-classification", "zero_shot": "zero-shot-classification"}
    assert reported == [(tasks[m], n, own[m][k]) for m in own for n, k in zip(names, METRICS, strict=True)]
    assert {each.task_name for each in data.eval_results} == {f"Activity recognition: {method_title(m)}" for m in own}
    assert {each.dataset_type for each in data.eval_results} == {DATASET}
    entries = yaml.safe_load((trees[REPO] / ".eval_results" / "casita.yaml").read_text())
    assert {entry["dataset"]["task_id"]: entry["value"] for entry in entries} == {
        f"chronological_{method}_{metric}": own[method][metric] for method in own for metric in METRICS
    }
    assert {entry["dataset"]["id"] for entry in entries} == {DATASET}


def test_the_cost_is_what_the_run_measured_and_energy_comes_with_its_assumption(card, trees, released, tmp_path):
    seconds = read_json(released[1] / "model" / "training.json")["wall_s"]
    assert seconds > 0
    section = card.text.split("## What the training cost\n")[1].split("\n## ")[0]
    assert f"{seconds:.0f} s of wall time" in section
    assert f"an assumption and not a measurement, that was {seconds / 3600 * 65 / 1000:.4f} kWh" in section
    plain = write_model_tree(released[1], tmp_path / "model", REPO)
    text = (plain / "README.md").read_text()
    assert "no energy is given" in text
    assert "kWh" not in text
    assert not (plain / ".eval_results").exists()


def test_the_card_states_terms_limits_and_privacy(card, released):
    layout = released[0].layout
    for words in (
        layout["terms"],
        layout["residents"],
        "27 sensors in 7 rooms",
        "## Privacy",
        "## Citation",
        "control",
    ):
        assert words in card.text
    assert "PATH_OR_HUB_ID" not in card.text


# ---------------------------------------------------------------------------------------------------- what is refused
def test_no_card_without_results(run, tmp_path):
    (run / "results.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"results\.json.*Run: casita evaluate"):
        write_model_tree(run, tmp_path / "out", REPO)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda results: results["data"]["leak_audit"].update({"train/test": 7}),
            r"results\.json: events in two splits \(train/test: 7\).*casita evaluate RUN",
        ),
        (lambda results: results["data"].pop("leak_audit"), "no leak audit"),
        (lambda results: results.update(headline=[]), "there are no results"),
        (lambda results: results["headline"][0].update(accuracy=0.99), "not what these weights gave"),
    ],
)
def test_no_card_for_results_that_are_leaky_empty_or_touched_up(run, tmp_path, change, message):
    results = read_json(run / "results.json")
    change(results)
    write_json(run / "results.json", results)
    with pytest.raises(ValueError, match=message):
        write_model_tree(run, tmp_path / "out", REPO)
    assert not (tmp_path / "out").exists()


def test_results_of_release_0_1_give_a_card(run, tmp_path):
    results = read_json(run / "results.json")
    (about,) = (scores["about"] for scores in results["protocols"].values())
    sentence = about.pop("description")
    about["told"] = sentence  # its name then
    write_json(run / "results.json", results)
    write_json(run / "model" / "evaluation.json", evaluation_record(run / "model", results))
    card = (write_model_tree(run, tmp_path / "out", REPO) / "README.md").read_text(encoding="utf-8")
    assert sentence in card


def test_no_card_for_weights_that_were_trained_after_the_evaluation(run, tmp_path):
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match=r"not what these weights gave.*casita evaluate"):
        write_model_tree(run, tmp_path / "out", REPO)


def test_a_pickle_beside_the_model_is_not_taken_along(run, tmp_path):
    (run / "model" / "optimizer.pt").write_bytes(b"\x80\x04N.")
    with pytest.raises(ValueError, match=r"optimizer\.pt: a \.pt file has no place"):
        write_model_tree(run, tmp_path / "out", REPO)
    assert not (tmp_path / "out").exists()


def test_a_home_that_moved_can_be_named_and_another_home_is_refused(run, released, tmp_path):
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(released[0].root), str(tmp_path / "gone")))
    with pytest.raises(FileNotFoundError, match="Name the home folder"):
        write_model_tree(run, tmp_path / "out", REPO)
    assert write_model_tree(run, tmp_path / "out", REPO, home=released[0].root).is_dir()
    other = HomeFolder(shutil.copytree(released[0].root, tmp_path / "other"))
    other.describe(home="other")
    with pytest.raises(ValueError, match=r"holds other, the model was trained on synthetic"):
        write_model_tree(run, tmp_path / "out", REPO, home=other.root)


def test_a_run_on_a_data_set_from_the_hub_names_it_with_its_commit(run, released, tmp_path):
    config, commit = run / "config.yaml", "c" * 40
    config.write_text(config.read_text().replace(str(released[0].root), f"{DATASET}@{commit}"))
    tree = write_model_tree(run, tmp_path / "out", REPO, home=released[0].root)
    data = ModelCard.load(tree / "README.md").data
    assert (data.datasets, {each.dataset_revision for each in data.eval_results}) == ([DATASET], {commit})
    entries = yaml.safe_load((tree / ".eval_results" / "casita.yaml").read_text())
    assert {(e["dataset"]["id"], e["dataset"]["revision"]) for e in entries} == {(DATASET, commit)}


def test_of_a_restricted_home_nothing_that_shows_single_windows_goes(run, released, tmp_path):
    home = HomeFolder(shutil.copytree(released[0].root, tmp_path / "home"))
    home.describe(layout={**copy.deepcopy(home.layout), "redistribution": "restricted", "terms": "Ask the lab."})
    (run / "report.html").write_text("<p>Tuesday, 7:02</p>")
    tree = write_model_tree(run, tmp_path / "out", REPO, home=home.root)
    assert not (tree / "report.html").exists()
    assert not (tree / "plots" / "window_map.png").exists()
    assert (tree / "plots" / "confusion_linear_probe.png").is_file()
    text = (tree / "README.md").read_text()
    assert "Ask the lab." in text
    assert "report.html" not in text
    allowed = write_model_tree(run, tmp_path / "out", REPO, home=home.root, permission=True)
    assert (allowed / "report.html").is_file()
    assert "[report.html](report.html)" in (allowed / "README.md").read_text()


def test_a_text_model_that_only_this_machine_has_is_refused(run, tmp_path):
    path = run / "model" / "processor_config.json"
    write_json(path, {**read_json(path), "text_model": "/models/minilm"})
    with pytest.raises(ValueError, match=r"/models/minilm, which nobody else has"):
        write_model_tree(run, tmp_path / "out", REPO)


def test_the_page_of_cards_does_what_it_says(released, trees, tmp_path):
    for name, folder in (("homes", released[0].root), ("runs", released[1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flat").symlink_to(folder)
    run_page("docs/cards.md", tmp_path)
    assert hash_file(tmp_path / "homes" / "flat_again" / "windows.parquet") == hash_file(released[0].windows)
    assert (tmp_path / "trees" / "model" / ".eval_results" / "casita.yaml").is_file()
    weights = [tree / "model.safetensors" for tree in (tmp_path / "trees" / "model", trees[REPO])]
    assert hash_file(weights[0]) == hash_file(weights[1])
