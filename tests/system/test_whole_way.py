"""The commands as a user types them, one after the other, from another directory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from casita.commands.ask import score_sentences
from casita.commands.demo import reload
from casita.datasets_scripts.schema import HomeFolder
from casita.train.inference.model_directory import load_published

BUILD = ["build", "--synthetic", "days=6", "--out", "home", "--vision-model", "pixels", "--text-model", "minilm"]
SMALL = ["--hidden-size", "32", "--num-hidden-layers", "2", "--intermediate-size", "64", "--projection-dim", "32"]


def casita(*arguments, cwd):
    """The finished process of one command, text captured."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "casita.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def refused_in_one_line(done, *words):
    """Return whether a command refused with exit code 2 and one line that holds all `words`."""
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in lines[0], lines[0]
    return True


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("user")


@pytest.fixture(scope="module")
def home(place):
    done = casita(*BUILD, cwd=place)
    assert done.returncode == 0, done.stderr
    assert "leak audit: 0 events in two splits" in done.stdout
    return place / "home"


@pytest.fixture(scope="module")
def run(place, home):
    done = casita("train", "--config", "demo", "--data", "home", "--out", "run", "--epochs", "1", *SMALL, cwd=place)
    assert done.returncode == 0, done.stderr
    return place / "run"


@pytest.fixture(scope="module")
def results(place, run):
    done = casita("evaluate", "run", "--seeds", "2", cwd=place)
    assert done.returncode == 0, done.stderr
    return json.loads((run / "results.json").read_text())


def test_a_real_home_goes_the_whole_way(place, real_homes):
    raw, models = real_homes / "kasteren_a", ["--vision-model", "pixels", "--text-model", "minilm"]
    done = casita("build", "--log", raw, "--layout", "kasteren_a", "--out", "real", *models, cwd=place)
    assert "leak audit: 0 events in two splits" in done.stdout, done.stderr
    settings = ["--config", "kasteren_a_pixels", "--data", "real", "--max-steps", "80", *SMALL]
    for source in ("image", "learned"):
        done = casita("train", *settings, "--out", source, "--embedding-source", source, cwd=place)
        assert done.returncode == 0, done.stderr
        done = casita("evaluate", source, "--seeds", "1", cwd=place)
        assert done.returncode == 0, done.stderr
        results = json.loads((place / source / "results.json").read_text())
        assert sum(results["data"]["leak_audit"].values()) == 0
        retrieval = results["protocols"]["chronological"]["retrieval"]
        # 80 steps of a small model on 134 windows: not much, but it must beat a shuffled deck
        assert retrieval["casita"]["sensor_to_text"]["mrr"] > 1.5 * retrieval["chance"]["sensor_to_text"]["mrr"]


def test_building_again_makes_nothing_anew(place, home):
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*.parquet")}
    done = casita(*BUILD, cwd=place)
    assert done.stdout.count("(up to date)") == 6
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*.parquet")} == before


def test_the_evaluation_has_every_baseline_and_the_card_shows_it(run, results):
    assert results["data"]["leak_audit"] == {"train/validation": 0, "train/test": 0, "validation/test": 0}
    methods = [row["method"] for row in results["headline"]]
    assert {"linear_probe", "zero_shot", "bag_of_sensors", "random_encoder", "majority"} <= set(methods)
    card = (run / "model" / "README.md").read_text()
    assert "Not evaluated yet" not in card
    probe = next(row for row in results["headline"] if row["method"] == "linear_probe")
    assert f"| Linear probe | {100 * probe['accuracy']:.1f} |" in card


def test_the_demos_fresh_process_gets_the_same_vectors_from_relative_paths(place, run, monkeypatch, capsys):
    monkeypatch.chdir(place)
    reload(HomeFolder("home"), Path("run/model"), Path("reload"))
    assert "largest difference of the embeddings" in capsys.readouterr().out


def test_every_window_of_the_raw_log_gets_a_unit_vector(place, home, run):
    done = casita("embed", "run", home / "synthetic.txt", "--unknown", "skip", "--out", "vectors.parquet", cwd=place)
    assert done.returncode == 0, done.stderr
    table = pq.read_table(place / "vectors.parquet")
    assert table.column_names == ["session", "start", "end", "events", "embedding"]
    assert all(abs(sum(x * x for x in row) - 1) < 1e-5 for row in table["embedding"].to_pylist())
    assert all(start <= end for start, end in zip(table["start"].to_pylist(), table["end"].to_pylist(), strict=True))


def test_sentences_share_the_probability_of_a_window(place, home, run):
    sentences = ["somebody sleeps", "somebody cooks", "nobody is at home"]
    log = home / "synthetic.txt"
    done = casita(
        "ask", "run", log, *sentences, "--unknown", "skip", "--out", "scores.parquet", "--show", 3, cwd=place
    )
    assert done.returncode == 0, done.stderr
    scores = pq.read_table(place / "scores.parquet").select(sentences).to_pylist()
    assert all(abs(sum(row.values()) - 1) < 1e-5 for row in scores)
    assert f"{len(scores) - 3:,} more windows" in done.stdout


def test_the_evaluation_leaves_its_temperature_with_the_model(run, results):
    classification = results["protocols"]["chronological"]["classification"]
    (seed,) = classification["labelled"]["zero_shot"]["seeds"].values()
    assert seed["settings"]["fitted_on"] == "validation"
    assert load_published(run)[0].config.zero_shot_temperature == seed["settings"]["temperature"] != 1.0


def test_a_stored_temperature_tempers_the_answers(run):
    model, processor = load_published(run)
    embeds = np.eye(model.config.projection_dim, dtype=np.float32)[:4]
    model.config.zero_shot_temperature = 1.0
    sure = score_sentences(model, processor, embeds, ["somebody sleeps", "somebody cooks"])
    model.config.zero_shot_temperature = 2.0
    tempered = score_sentences(model, processor, embeds, ["somebody sleeps", "somebody cooks"])
    # half the difference of the logits; cosines over 0.07 in float32
    np.testing.assert_allclose(2 * np.diff(np.log(tempered)), np.diff(np.log(sure)), rtol=1e-3, atol=1e-4)


def test_a_sensor_that_the_model_does_not_know_is_named(place, run):
    (place / "other.txt").write_text("2024-01-01 08:00:00.0\tM999\tON\n2024-01-01 08:00:01.0\tM001\tON\n")
    done = casita("embed", "run", "other.txt", "--out", "never.parquet", cwd=place)
    assert refused_in_one_line(done, "'M999' is unknown", "nearest in name", 'unknown="skip"')
    assert not (place / "never.parquet").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["read", "new", "--log", "nowhere.txt"], ["nowhere.txt", "no such log"]),
        (["windows", "new"], ["new", "casita read"]),
        (["layout", "check", "home/synthetic.txt", "atlantis"], ["atlantis"]),
        (["windows", "home", "--lenght", "30"], ["--lenght", "did you mean --length"]),
        (["caption", "home", "--caption-style", "structured", "--seed", "1.5"], ["--seed"]),
        (["embed-text", "home", "--text-model", "no/such/folder"], ["no/such/folder"]),
        (["train", "--config", "demo", "--data", "home", "--out", "r", "--epoch", "2"], ["epoch", "did you mean"]),
        (["train", "--config", "nope", "--data", "home", "--out", "r"], ["nope", "no such config"]),
        (
            ["train", "--config", "demo", "--data", "home", "--out", "r", "--vision-model", "clip"],
            ["casita embed-images"],
        ),
        (["evaluate", "home"], ["config.yaml"]),
        (["embed", "home", "home/synthetic.txt"], ["config.json", "neither a run nor a model directory"]),
    ],
)
def test_a_mistake_is_refused_in_one_line(place, home, arguments, words):
    assert refused_in_one_line(casita(*arguments, cwd=place), *words)
    assert not (place / "r").exists()
    assert not (place / "new").exists()


def test_an_incomplete_checkpoint_is_named_by_its_missing_file(place, run, tmp_path):
    copy = tmp_path / "cut"
    copy.mkdir()
    (copy / "config.yaml").write_text((run / "config.yaml").read_text())
    (copy / "model").mkdir()
    (copy / "model" / "config.json").write_text((run / "model" / "config.json").read_text())
    assert refused_in_one_line(casita("evaluate", copy, cwd=place), "model.safetensors")
