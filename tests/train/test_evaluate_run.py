"""A whole evaluation on a small home with a planted signal, of several runs and homes, and what it refuses."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_home import PLACES, made_events, make_home
from evaluation_run import learned_model, load_all, made_table, make_run
from PIL import Image
from typed_dicts import mismatches

from casita import cli
from casita.datasets_scripts.schema import (
    CAPTIONS,
    WINDOWS,
    HomeFolder,
    read_metadata,
    read_table,
    text_embeddings_schema,
    write_table,
)
from casita.datasets_scripts.windows.cut import WindowSettings, cut_home
from casita.files import read_json
from casita.modeling.modeling_casita import CasitaModel
from casita.results import Results
from casita.train.configs.train_config import TrainConfig, save_config
from casita.train.evaluate_run import evaluate_run
from casita.train.evaluation.home_loader import HomeLoader
from casita.train.evaluation.inputs import RUN_FILES, EvaluationInputs
from casita.train.evaluation.protocol_split import EvaluationHome
from casita.train.inference.embedding import untrained


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return make_home(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def run(home, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "first", home)


@pytest.fixture(scope="module")
def results(run):
    return evaluate_run(run, progress=False)


@pytest.fixture(scope="module")
def loaded(run, home):
    return load_all(run, home)


# ------------------------------------------------------------------------------------------------ the whole of it
def test_the_files_hold_what_the_function_returns_and_every_link_leads_to_a_picture(run, results):
    assert json.loads((run / "results.json").read_text()) == results
    report = (run / "report.md").read_text()
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", report)
    assert sorted(pictures) == results["plots"] == sorted(f"plots/{p.name}" for p in (run / "plots").iterdir())
    for name in pictures:
        with Image.open(run / name) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 200
    for row in results["headline"]:
        assert f"| `{row['method']}` | {100 * row['accuracy']:.1f}" in report


def test_results_are_what_their_types_promise(results):
    assert list(mismatches(results, Results)) == []


def test_all_baselines_stand_beside_the_model_in_both_variants(results):
    methods = ["linear_probe", "layer_probe", "zero_shot", "random_encoder", "random_layers", "bag_of_sensors"]
    methods += ["tfidf_captions", "nearest_prompt_tfidf", "majority", "chance"]
    variants = results["protocols"]["chronological"]["classification"]
    assert [row["method"] for row in results["headline"]] == methods
    for rows in variants.values():
        assert list(rows) == methods
        for row in rows.values():
            assert {"accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "ece"} <= set(row)
    assert variants["labelled"]["random_encoder"]["seeds"].keys() == {"0", "1", "2"}
    assert variants["labelled"]["random_encoder"]["ece_sd"] > 0
    assert "ece_sd" not in variants["labelled"]["bag_of_sensors"]


def test_the_planted_signal_is_found_by_the_bag_and_by_a_probe_on_an_untrained_encoder(results):
    rows = results["protocols"]["chronological"]["classification"]["labelled"]
    assert rows["bag_of_sensors"]["accuracy"] > 0.8
    assert rows["linear_probe"]["accuracy"] > 0.7  # its model was never trained either
    assert rows["random_encoder"]["accuracy"] > 0.7
    assert rows["tfidf_captions"]["accuracy"] > 0.7  # the caption names the sensor
    assert rows["majority"]["accuracy"] < 0.5
    assert rows["majority"]["balanced_accuracy"] == pytest.approx(1 / len(PLACES))


def test_unlabelled_windows_are_a_class_of_their_own_that_zero_shot_misses(results, loaded):
    rows = results["protocols"]["chronological"]["classification"]
    test = results["data"]["splits"]["test"]
    zero = {variant: rows[variant]["zero_shot"]["accuracy"] for variant in rows}
    hits = zero["labelled"] * test["labelled"]
    assert zero["with_unlabelled"] * test["windows"] == pytest.approx(hits)
    assert test["windows"] > test["labelled"] == sum(test["labels"].values())


def test_retrieval_by_an_untrained_model_is_near_chance(results):
    retrieval = results["protocols"]["chronological"]["retrieval"]
    for direction in ("sensor_to_text", "text_to_sensor"):
        chance = retrieval["chance"][direction]
        assert retrieval["casita"][direction]["queries"] == chance["queries"]
        assert abs(retrieval["casita"][direction]["recall_at_10"] - chance["recall_at_10"]) < 0.25
    test = results["data"]["splits"]["test"]["windows"]
    assert retrieval["chance"]["sensor_to_text"]["queries"] == test
    assert retrieval["chance"]["sensor_to_text"]["candidates"] < test  # equal captions are one


def test_the_data_sheet_counts_what_the_windows_hold(results, home):
    windows = read_table(home.windows, WINDOWS).to_pandas()
    for split, summary in results["data"]["splits"].items():
        mine = windows[windows["split"] == split]
        assert summary["windows"] == len(mine)
        assert summary["labels"] == mine["activity"].value_counts().to_dict()
        assert summary["days"] == len({t.date() for t in mine["start"]})
    assert set(results["data"]["leak_audit"].values()) == {0}


def test_a_second_evaluation_gives_the_same_numbers_in_another_folder(run, home, results, tmp_path, capsys):
    assert cli.main(["evaluate", str(run), "--data", str(home.root), "--out", str(tmp_path / "again")]) == 0
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["headline"] == results["headline"]
    assert again["protocols"] == results["protocols"]
    printed = capsys.readouterr().out
    assert str(tmp_path / "again" / "report.md") in printed
    assert "bag_of_sensors" in printed


def test_a_failed_evaluation_leaves_the_old_report_whole(run, results, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != "metrics.jsonl"}
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "spl')  # as a killed training leaves it; read when the other plots are drawn already
    with pytest.raises(ValueError, match=r"metrics\.jsonl:21: expected a JSON object"):
        evaluate_run(copy, seeds=1, progress=False)
    after = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != "metrics.jsonl"}
    assert after == before


# ---------------------------------------------------------------------------------------------------- its parts
# -------------------------------------------------------------------------------------------------- what it refuses
@pytest.mark.parametrize("name", RUN_FILES)
def test_an_incomplete_run_is_refused_and_the_missing_file_named(run, results, tmp_path, capsys, name):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / name).unlink()
    assert cli.main(["evaluate", str(copy)]) == 2
    error = capsys.readouterr().err
    assert f"{name}: no such file" in error
    assert error.count("\n") == 1


@pytest.fixture
def other_home(home, tmp_path):
    """A copy of the home folder that a test may spoil, and how to rewrite its windows."""
    shutil.copytree(home.root, tmp_path / "other")
    return HomeFolder(tmp_path / "other")


def rewrite_windows(home, change, **metadata):
    windows = read_table(home.windows, WINDOWS).to_pandas()
    change(windows)
    sampling = {**read_metadata(home.windows)["sampling"], **metadata}
    write_table(home.windows, pa.Table.from_pandas(windows, preserve_index=False), WINDOWS, {"sampling": sampling})


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_home_without_labels_in_a_split_is_refused(run, other_home, tmp_path, split):
    def forget(windows):
        windows.loc[windows["split"] == split, "activity"] = None

    rewrite_windows(other_home, forget)
    with pytest.raises(ValueError, match=f"no labelled windows to evaluate in the {split} split"):
        evaluate_run(run, other_home.root, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_splits_that_share_events_are_refused(run, other_home, tmp_path):
    def leak(windows):
        windows.loc[windows.index[20:40], "split"] = "test"

    rewrite_windows(other_home, leak)
    with pytest.raises(ValueError, match="leak audit: events in two splits"):
        evaluate_run(run, other_home.root, tmp_path / "out", progress=False)


def test_windows_split_otherwise_than_the_protocol_says_are_refused(run, other_home, tmp_path):
    rewrite_windows(other_home, lambda windows: None, split="random")
    with pytest.raises(ValueError, match=r"split by 'random', the evaluation asks for 'chronological'.*--protocol"):
        evaluate_run(run, other_home.root, tmp_path / "out", progress=False)


def test_captions_of_other_windows_and_embeddings_of_another_width_are_refused(run, other_home, tmp_path):
    style = other_home.captions("narrative")
    captions = read_table(style, CAPTIONS)
    write_table(style, captions.slice(1), CAPTIONS)
    with pytest.raises(ValueError, match=r"narrative.parquet: 1 of \d+ windows have no captions.*casita caption"):
        evaluate_run(run, other_home.root, tmp_path / "out", progress=False)
    write_table(style, captions, CAPTIONS)
    vectors = other_home.text_embeddings("narrative", "minilm")
    narrow = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(8 * len(captions), dtype=np.float32)), 8)
    narrow_rows = pq.read_table(vectors).drop_columns("embedding").append_column("embedding", narrow)
    write_table(vectors, narrow_rows, text_embeddings_schema(8))
    with pytest.raises(ValueError, match="embeddings of width 8, the model was aligned with width 384"):
        evaluate_run(run, other_home.root, tmp_path / "out", progress=False)


# ----------------------------------------------------------------------------------- several runs, protocols, homes
@pytest.fixture(scope="module")
def runs(run, home, tmp_path_factory):
    """Two runs that differ in their seed, one of another size, and a learned-embedding baseline."""
    folder = tmp_path_factory.mktemp("several")
    made = {"first": run}
    for name, seed, settings in (
        ("second", 1, {}),
        ("wide", 3, {"hidden_size": 48}),
        ("learned", 0, {"embedding_source": "learned"}),
    ):
        shutil.copytree(run, folder / name)
        (folder / name / "config.yaml").unlink()
        config = TrainConfig(
            data=str(home.root), out=str(folder / name), preset="tiny", text_model="minilm", seed=seed, **settings
        )
        save_config(config, folder / name / "config.yaml")
        keys = read_json(run / "model" / "processor_config.json")["vocab"]
        torch.manual_seed(seed)
        if config.embedding_source == "learned":
            model = learned_model(keys)
        else:
            model = untrained(CasitaModel.from_pretrained(run / "model"), seed)
        model.save_pretrained(folder / name / "model")
        made[name] = folder / name
    return made


@pytest.fixture(scope="module")
def several(runs, tmp_path_factory):
    """Two seeds beside a learned-embedding baseline, by three protocols."""
    return evaluate_run(
        [runs["first"], runs["second"]],
        out=tmp_path_factory.mktemp("out"),
        protocol=["chronological", "random_days", "shuffled_segments"],
        learned=[runs["learned"]],
        seeds=1,
        progress=False,
    )


def test_several_runs_are_one_method_with_mean_deviation_and_interval(several, results):
    row = several["protocols"]["chronological"]["classification"]["labelled"]["linear_probe"]
    assert list(row["seeds"]) == ["42", "1"]
    values = [each["macro_f1"] for each in row["seeds"].values()]
    assert row["macro_f1"] == pytest.approx(np.mean(values))
    assert row["macro_f1_sd"] == pytest.approx(np.std(values, ddof=1))
    low, high = row["accuracy_ci"]
    assert low <= row["accuracy"] <= high
    alone = results["protocols"]["chronological"]["classification"]["labelled"]["linear_probe"]
    assert row["seeds"]["42"] == alone["seeds"]["42"]  # a run's own numbers do not depend on its company
    baseline = several["protocols"]["chronological"]["classification"]["labelled"]["learned"]
    assert list(baseline["seeds"]) == ["0"]


def test_every_protocol_has_every_part_or_says_why_not(several):
    parts = {"classification", "few_shot", "retrieval", "paraphrases", "clustering", "calibration", "per_class"}
    assert list(several["protocols"]) == ["chronological", "random_days", "shuffled_segments"]
    for name, scores in several["protocols"].items():
        assert parts <= set(scores) | set(scores["left_out"]), name
        assert scores["about"]["leaky"] == (name == "shuffled_segments")
        leaks = sum(scores["about"]["leak_audit"].values())
        assert (leaks > 0) == scores["about"]["leaky"]
    assert several["protocols"]["chronological"]["about"]["seen_share"] == 0
    assert several["protocols"]["random_days"]["about"]["seen_share"] > 0.3
    assert several["settings"]["protocol"] == "chronological"
    assert several["data"]["splits"] == several["protocols"]["chronological"]["about"]["splits"]


def test_few_labels_are_fewer_labels_of_the_same_test_windows(several):
    scores = several["protocols"]["chronological"]
    for share, rows in scores["few_shot"].items():
        assert list(rows) == [
            "linear_probe",
            "layer_probe",
            "learned",
            "random_encoder",
            "random_layers",
            "bag_of_sensors",
            "tfidf_captions",
            "chance",
        ]
        assert len(rows["bag_of_sensors"]["seeds"]) == 2, share  # draws, though nothing else is random in a bag
    few, more = (scores["few_shot"][share]["bag_of_sensors"]["accuracy"] for share in ("0.05", "0.3"))
    assert few < more <= scores["classification"]["labelled"]["bag_of_sensors"]["accuracy"] + 0.02


def test_a_reliability_curve_holds_all_windows_and_gives_the_ece(several):
    scores = several["protocols"]["chronological"]
    test = scores["about"]["splits"]["test"]["labelled"]
    for method, curve in scores["calibration"].items():
        assert sum(row["windows"] for row in curve["bins"]) == test, method
        gap = sum(abs(row["confidence"] - row["accuracy"]) * row["windows"] for row in curve["bins"]) / test
        assert gap == pytest.approx(curve["ece"], abs=1e-6), method


def test_the_command_in_the_results_is_the_whole_command(several, runs):
    words = several["settings"]["command"].split()
    assert words[:2] == ["casita", "evaluate"]
    assert [str(runs[name]) for name in ("first", "second")] == words[2:4]
    assert "--learned" in words
    assert words[words.index("--protocol") + 1 :][:3] == ["chronological", "random_days", "shuffled_segments"]


@pytest.fixture(scope="module")
def away(run, runs, tmp_path_factory):
    """Another home, whose pictures look like the first one's, evaluated by another home's labels and by its own."""
    root = tmp_path_factory.mktemp("homes") / "other"
    other = make_home(root, made_events("other", days=6, year=2025), "other")
    keys = read_json(run / "model" / "processor_config.json")["vocab"]
    made_table(keys, "other").save(other.image_embeddings("made up"))
    protocols = ["leave_home_out", "chronological"]
    how = {"learned": [runs["learned"]], "seeds": 1, "progress": False}
    results = evaluate_run(run, root, root / "out", protocol=protocols, **how)
    return SimpleNamespace(home=other, results=results)


def test_an_unknown_home_is_read_by_its_own_table_and_tested_by_labels_of_the_known_one(away):
    scores = away.results["protocols"]["leave_home_out"]
    assert away.results["home"] == "other"
    assert scores["about"]["sources"] == ["small"]
    assert scores["about"]["splits"]["test"]["windows"] == read_table(away.home.windows, WINDOWS).num_rows
    rows = scores["classification"]["labelled"]
    assert {"bag_of_sensors", "learned"} <= set(scores["left_out"])
    assert "bag_of_sensors" not in rows
    # The same sensor at the same picture means the same activity in both homes: probe and bag of rooms carry over.
    assert rows["linear_probe"]["accuracy"] > 0.7
    assert rows["bag_of_rooms"]["accuracy"] > 0.7
    assert rows["majority"]["accuracy"] < 0.5
    assert set(scores["per_class"]["linear_probe"]) == {"Sleep", "Cook", "Relax", "Work"}


def test_within_an_unknown_home_its_own_labels_are_learned(away):
    scores = away.results["protocols"]["chronological"]
    assert scores["about"]["seen_share"] == 0
    assert "learned" not in scores["classification"]["labelled"]
    assert "sensors of its own homes only" in scores["left_out"]["learned"]  # asked for, and no row: it says why
    assert set(scores["per_class"]["linear_probe"]) == set(PLACES)
    assert scores["classification"]["labelled"]["linear_probe"]["accuracy"] > 0.7


def test_a_home_of_the_training_is_no_other_home(run, home, tmp_path):
    with pytest.raises(ValueError, match="which the run was trained on"):
        evaluate_run(run, home.root, tmp_path / "out", protocol="leave_home_out", progress=False)


def test_the_home_cut_anew_in_another_folder_does_not_hide_what_the_encoder_has_seen(run, home, loaded, tmp_path):
    again = HomeFolder(tmp_path / "again")
    shutil.copytree(home.root, again.root)
    cut_home(again, WindowSettings(length=12, overlap=0.5, split="random", split_by="day"))
    encoder = SimpleNamespace(model=loaded.model, knows=lambda name: name == "small")
    homes = HomeLoader(loaded.config, [encoder], again.root, None, ["random_days"])
    homes.homes.append(
        EvaluationHome(again, EvaluationInputs(read_table(again.windows, WINDOWS), [], np.zeros((0, 2))))
    )
    stored = read_table(home.windows, WINDOWS).to_pylist()
    trained = [(w["start"], w["end"]) for w in stored if w["split"] == "train"]
    test = [w for w in read_table(again.windows, WINDOWS).to_pylist() if w["split"] == "test"]
    seen = [any(a <= w["end"] and w["start"] <= b for a, b in trained) for w in test]
    assert np.mean(seen) > 0.3
    assert homes.split("random_days", 20_000).about["seen_share"] == pytest.approx(np.mean(seen))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["first", "wide"], r"wide: differs from .*first in more than the seed: hidden_size None -> 48\. Evaluate it"),
        (["first", "first"], "another trained run has the seed 42 too"),
        (["first", "--learned", "second"], "--learned .*second: embedding_source image"),
        (["learned", "--learned", "learned"], "expected a learned run beside one that reads pictures"),
        (["first", "--protocol", "random"], "random_days or random_sessions"),
        (["first", "--protocol", "random_sessions"], r"1 session\(s\)"),
        (["first", "--protocol", "leave_home_out"], "say which home with --target DIR"),
        (["first", "--target", "nowhere"], "only read with --protocol leave_home_out"),
        (["first", "--caption-style", "narrative"], "the run was aligned with that style"),
        (["first", "--caption-style", "brief"], "Run: casita caption --caption-style brief"),
        (["first", "--seeds", "0"], "seeds=0"),
    ],
)
def test_contradicting_arguments_are_one_line_and_write_nothing(runs, tmp_path, capsys, words, message):
    given = [str(runs.get(word, word)) for word in words]
    assert cli.main(["evaluate", *given, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()
