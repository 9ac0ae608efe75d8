"""A whole evaluation on a small home with a planted signal, its parts against slow versions, and what it refuses."""

import copy
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from evaluation_home import LAYOUT, PLACES, SENSORS, made_events, make_home
from PIL import Image
from sklearn.linear_model import LogisticRegression
from typed_dicts import mismatches

from casita import cli
from casita.datasets_scripts.captions.text_embeddings import embed_texts, load_text_model
from casita.datasets_scripts.layouts.label_prompts import label_prompts
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
from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.results import Results
from casita.train.configs.train_config import TrainConfig, save_config
from casita.train.evaluate_run import HomeLoader, evaluate_run
from casita.train.evaluation.inputs import RUN_FILES, EvaluationInputs, load_inputs, load_run
from casita.train.evaluation.probes import (
    C_GRID,
    bag_of_sensors,
    linear_probe,
    majority,
    make_task,
    tfidf_captions,
    zero_shot,
)
from casita.train.evaluation.protocols import EvaluationHome
from casita.train.inference.embedding import LAST_LAYERS, embed_windows, label_prototypes, logit_scale, untrained
from casita.train.metrics.classification import classification_metrics


def made_table(keys, home):
    """The same rows for the same keys in every home."""
    rows = np.stack([np.random.default_rng(list(key.encode())).normal(size=24) for key in keys]).astype(np.float32)
    return SensorEmbeddingTable(
        keys=keys, embeddings=rows / np.linalg.norm(rows, axis=1, keepdims=True), home=home, vision_model="made up",
        revision=None, output="rows", image_size=224, pictures_hash="", normalization="l2", mean=None,
    )  # fmt: skip


def make_run(run, home):
    """A run whose model was drawn at random and never trained, laid out as training leaves it."""
    keys = sorted({f"{sensor}_{state}" for sensor in SENSORS for state in ("ON", "OFF")})
    config = CasitaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, projection_dim=16,
        vocab_size=3 + len(keys), image_embedding_dim=24, text_embedding_dim=384, use_time_deltas=True,
    )  # fmt: skip
    torch.manual_seed(5)
    model = CasitaModel(config)
    model.set_sensor_embeddings(made_table(keys, "small"))
    model.save_pretrained(run / "model")
    told = {"text_model": "minilm", "vision_model": "made up"}
    CasitaProcessor(keys, "small", use_time_deltas=True, **told).save_pretrained(run / "model")
    save_config(
        TrainConfig(data=str(home.root), out=str(run), preset="tiny", text_model="minilm"), run / "config.yaml"
    )
    lines = [{"step": s, "split": "train" if s % 4 else "validation", "loss": 3 / s, "lr": 1e-3} for s in range(1, 21)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


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
    """Model, the processor's arrays of all windows, and the material they come from."""
    config, model, processor = load_run(run)
    material = load_inputs(home, config, model)
    inputs = processor.encode_windows(material.windows["sensor_keys"], material.windows["seconds"])
    return SimpleNamespace(model=model, inputs=inputs, material=material, config=config)


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
    for split, told in results["data"]["splits"].items():
        mine = windows[windows["split"] == split]
        assert told["windows"] == len(mine)
        assert told["labels"] == mine["activity"].value_counts().to_dict()
        assert told["days"] == len({t.date() for t in mine["start"]})
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
def test_embeddings_do_not_depend_on_batches_or_padding(loaded):
    rows = np.random.default_rng(0).permutation(len(loaded.material.captions))[:40]
    some = {name: array[rows] for name, array in loaded.inputs.items()}
    base, projected, layers = embed_windows(loaded.model, some, layers=LAST_LAYERS, batch_size=7, progress=False)
    left = {name: np.pad(array, ((0, 0), (9, 4))) for name, array in some.items()}
    other_base, other_projected, other_layers = embed_windows(
        loaded.model, left, layers=LAST_LAYERS, batch_size=40, progress=False
    )
    np.testing.assert_allclose(other_base, base, atol=1e-5)  # float32 sums in another order
    np.testing.assert_allclose(other_projected, projected, atol=1e-5)
    np.testing.assert_allclose(other_layers, layers, atol=1e-5)
    without = embed_windows(loaded.model, some, batch_size=7, progress=False)
    np.testing.assert_array_equal(without.base, base)
    np.testing.assert_array_equal(without.sensor, projected)
    assert without.layers.shape == (40, 0)
    for i in (0, 17, 39):
        length = int(some["attention_mask"][i].sum())
        alone = {name: torch.from_numpy(array[i : i + 1, :length]) for name, array in some.items()}
        with torch.inference_mode():
            found = loaded.model(**alone).sensor_embeds[0].numpy()
            states = loaded.model.sensor_model(**alone, output_hidden_states=True).hidden_states
        np.testing.assert_allclose(projected[i], found, atol=1e-5)
        events = [state[0, 1:] for state in states][-LAST_LAYERS:]  # the CLS token is the first
        pooled = [*(e.mean(dim=0).numpy() for e in events), *(e.amax(dim=0).numpy() for e in events)]
        np.testing.assert_allclose(layers[i], np.concatenate(pooled), atol=1e-5)


def test_a_probe_of_layers_reads_the_input_too_and_of_a_deep_model_the_last_four(loaded):
    some = {name: array[:3] for name, array in loaded.inputs.items()}
    for depth in (1, 2, 3, 6):
        config = copy.deepcopy(loaded.model.config)
        config.num_hidden_layers = depth
        model = CasitaModel(config).eval()
        model.load_state_dict(dict(loaded.model.named_buffers()), strict=False)
        layers = embed_windows(model, some, layers=LAST_LAYERS, progress=False).layers
        assert layers.shape == (3, 2 * config.hidden_size * min(depth + 1, LAST_LAYERS))
        own = {name: torch.from_numpy(array) for name, array in some.items()}
        times, places = own.get("time_deltas"), own.get("coordinates")
        entering = model.sensor_model.embeddings(own["input_ids"], None, times, places)[:1, 1:]
        length = int(some["attention_mask"][0].sum())
        first = entering[0, :length].mean(dim=0).detach().numpy()
        assert np.allclose(layers[0, : config.hidden_size], first, atol=1e-5) == (depth < LAST_LAYERS)


def test_an_untrained_encoder_has_the_same_table_other_weights_and_leaves_the_random_state_alone(loaded):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, same, other = (untrained(loaded.model, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    table = loaded.model.get_input_embeddings().weight
    weights = [m.sensor_model.layers[0].state_dict() for m in (first, same, other, loaded.model)]
    matrix = next(name for name, tensor in weights[0].items() if tensor.ndim == 2)
    assert all(torch.equal(m.get_input_embeddings().weight, table) for m in (first, other))
    assert torch.equal(weights[0][matrix], weights[1][matrix])
    assert not torch.equal(weights[0][matrix], weights[2][matrix])
    assert not torch.equal(weights[0][matrix], weights[3][matrix])


def test_an_untrained_learned_encoder_knows_the_same_sensors():
    config = CasitaConfig.from_preset(
        "tiny", embedding_source="learned", vocab_size=6, num_sensors=2, num_states=2, num_rooms=2, num_hidden_layers=1
    )
    torch.manual_seed(9)
    model = CasitaModel(config)
    model.set_sensor_vocabulary(["A_ON", "A_OFF", "B_ON"], ["hall", "hall", "bath"])
    table, fresh = (m.get_input_embeddings() for m in (model, untrained(model, 0)))
    assert torch.equal(table.parts, fresh.parts)
    assert not torch.equal(table.sensor.weight, fresh.sensor.weight)


def test_zero_shot_is_the_models_own_softmax_over_prompts(loaded):
    labels, model = sorted(PLACES), loaded.model
    inputs = {name: torch.from_numpy(array[:30]) for name, array in loaded.inputs.items()}
    text = torch.from_numpy(embed_texts(load_text_model("minilm", device="cpu"), labels, progress=False))
    with torch.inference_mode():
        out = model(**inputs, text_embeds=text)
    one_prompt_each = {**LAYOUT, "activities": {name: {"coarse": name, "prompts": [name]} for name in labels}}
    prompts = label_prompts(one_prompt_each, labels)
    prototypes = label_prototypes(model, prompts, text.numpy())
    task = make_task(labels[:1] * 30, ["train"] * 5 + ["test"] * 25, unlabelled=False)
    found = zero_shot(out.sensor_embeds.numpy(), prototypes, labels, logit_scale(model), task)
    np.testing.assert_allclose(found.probabilities, out.logits_per_sensor.softmax(dim=1)[5:].numpy(), atol=1e-5)


def test_zero_shot_is_tempered_by_the_validation_windows_alone():
    rng = np.random.default_rng(0)
    labels, y = ["a", "b", "c"], rng.integers(0, 3, size=900)
    prototypes = np.eye(3, dtype=np.float32)
    # Each window lies near a prototype that is right in half of the cases: a scale of 30 makes every answer sure.
    near = np.where(rng.random(900) < 0.5, y, (y + 1) % 3)
    sensor = (prototypes[near] + rng.normal(0, 0.05, size=(900, 3))).astype(np.float32)
    sensor /= np.linalg.norm(sensor, axis=1, keepdims=True)
    names = [labels[i] for i in y]
    splits = ["train"] * 100 + ["validation"] * 400 + ["test"] * 400
    task = make_task(names, splits, unlabelled=False)
    tempered = zero_shot(sensor, prototypes, labels, 30.0, task)
    untempered = zero_shot(
        sensor, prototypes, labels, 30.0, make_task(names, ["train"] * 500 + ["test"] * 400, unlabelled=False)
    )
    assert untempered.settings["temperature"] == 1.0
    assert tempered.labels == untempered.labels
    assert untempered.metrics(task)["ece"] > 0.4  # sure, and right in half of the cases
    assert tempered.metrics(task)["ece"] < 0.1
    # Other test labels fit no other temperature.
    other = make_task(names[:500] + names[500:][::-1], splits, unlabelled=False)
    assert zero_shot(sensor, prototypes, labels, 30.0, other).settings == tempered.settings


def test_a_prototype_is_the_mean_direction_of_its_prompts(loaded):
    labels = ["Sleep", "Cook"]
    prompts = label_prompts(LAYOUT, labels)
    text_model = load_text_model("minilm", device="cpu")
    vectors = embed_texts(text_model, [text for told in prompts.values() for text in told], progress=False)
    prototypes = label_prototypes(loaded.model, prompts, vectors)
    for label, prototype in zip(labels, prototypes, strict=True):
        text = torch.from_numpy(embed_texts(text_model, prompts[label], progress=False))
        with torch.inference_mode():
            rows = torch.nn.functional.normalize(loaded.model.get_text_features(text).pooler_output, dim=-1)
        mean = rows.mean(dim=0)
        np.testing.assert_allclose(prototype, (mean / mean.norm()).numpy(), atol=1e-6)


@pytest.fixture(scope="module")
def labelled(loaded):
    """The labelled task and the windows it touches."""
    material = loaded.material
    task = make_task(material.activities, material.splits, unlabelled=False)
    keys = material.windows["sensor_keys"].to_pylist()
    counts = counted(keys, sorted({key for window in keys for key in window}))
    return SimpleNamespace(task=task, keys=keys, counts=counts, captions=material.captions)


def counted(keys, vocabulary):
    return np.array([[window.count(key) for key in vocabulary] for window in keys], dtype=np.float32)


def test_the_bag_of_sensors_equals_counts_and_the_best_of_separate_fits(labelled):
    task, keys = labelled.task, labelled.keys
    vocabulary = sorted({key for i in task.train for key in keys[i]})
    x, y = counted(keys, vocabulary), task.y.astype(str)
    x /= x[task.train].max(axis=0)
    fits = [LogisticRegression(C=C, max_iter=3000, tol=1e-6).fit(x[task.train], y[task.train]) for C in C_GRID]
    on_validation = [
        classification_metrics(y[task.validation], fit.predict(x[task.validation]))["macro_f1"] for fit in fits
    ]
    best = int(np.argmax(on_validation))
    found = bag_of_sensors(keys, task, progress=False)
    assert found.settings["C"] == C_GRID[best]
    assert found.settings["converged"]
    np.testing.assert_allclose(found.probabilities, fits[best].predict_proba(x[task.test]), atol=0.02)


def test_sensors_that_only_later_splits_show_count_nothing(labelled):
    task = labelled.task
    others = set(task.test.tolist())
    keys = [[*window, "M999_ON", "M999_ON"] if i in others else window for i, window in enumerate(labelled.keys)]
    plain, with_new = (bag_of_sensors(k, task, progress=False) for k in (labelled.keys, keys))
    np.testing.assert_array_equal(plain.probabilities, with_new.probabilities)


def test_with_shuffled_labels_nothing_beats_the_majority(labelled):
    task = labelled.task
    y = task.y.copy()
    rows = task.rows()
    y[rows] = np.random.default_rng(0).permutation(y[rows])
    shuffled = type(task)(y, task.train, task.validation, task.test)
    floor = majority(shuffled).metrics(shuffled)["accuracy"]
    noise = 3 * np.sqrt(0.25 / len(task.test))
    for found in (
        bag_of_sensors(labelled.keys, shuffled, progress=False),
        tfidf_captions(labelled.captions, shuffled, progress=False),
        linear_probe(labelled.counts, shuffled, progress=False),
    ):
        assert found.metrics(shuffled)["accuracy"] < floor + noise
        assert found.metrics(shuffled)["balanced_accuracy"] < 1 / len(PLACES) + noise


def test_a_probe_does_not_care_for_the_scale_of_a_dimension(labelled):
    x = labelled.counts
    scaled = x * np.geomspace(1e-3, 1e3, x.shape[1], dtype=np.float32) + 5
    plain, other = (linear_probe(features, labelled.task, progress=False) for features in (x, scaled))
    np.testing.assert_allclose(plain.probabilities, other.probabilities, atol=0.02)


def test_a_train_split_with_one_label_predicts_it_and_one_without_validation_says_so():
    features = np.random.default_rng(0).normal(size=(6, 2))
    one = make_task(["a"] * 4 + ["a", "b"], ["train"] * 4 + ["test"] * 2, unlabelled=False)
    assert linear_probe(features, one, progress=False).labels == ["a", "a"]
    two = make_task(["a", "b"] * 3, ["train"] * 4 + ["test"] * 2, unlabelled=False)
    settings = linear_probe(features, two, progress=False).settings
    assert settings["C"] == 1.0
    assert "no usable validation window" in settings["chosen_on"]


def test_thinning_spares_the_test_split_and_keeping_some_rows_keeps_their_labels():
    rng = np.random.default_rng(0)
    activities = [None if x < 0.3 else f"label {int(9 * x)}" for x in rng.random(500)]
    splits = rng.choice(["train", "validation", "test"], size=500).tolist()
    whole = make_task(activities, splits, unlabelled=False)
    thin = make_task(activities, splits, unlabelled=False, max_windows=40)
    assert (len(thin.train), len(thin.validation)) == (40, 40)
    assert set(thin.train) <= set(whole.train)
    np.testing.assert_array_equal(thin.test, whole.test)
    kept = np.union1d(thin.rows(), [0, 7, 499])
    small = thin.among(kept)
    for name in ("train", "validation", "test"):
        assert [activities[i] for i in getattr(thin, name)] == small.y[getattr(small, name)].tolist()


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
    with pytest.raises(ValueError, match="its rows are not those of narrative"):
        evaluate_run(run, other_home.root, tmp_path / "out", progress=False)
    write_table(style, captions, CAPTIONS)
    vectors = other_home.text_embeddings("narrative", "minilm")
    narrow = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(8 * len(captions), dtype=np.float32)), 8)
    narrow_rows = pq.read_table(vectors).set_column(2, "embedding", narrow)
    write_table(vectors, narrow_rows, text_embeddings_schema(8))
    with pytest.raises(ValueError, match="embeddings of width 8, the model was aligned with width 384"):
        evaluate_run(run, other_home.root, tmp_path / "out", progress=False)


# ----------------------------------------------------------------------------------- several runs, protocols, homes
@pytest.fixture(scope="module")
def runs(run, home, tmp_path_factory):
    """Two runs that differ in their seed, one of another size, and a learned twin."""
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


def learned_model(keys):
    sensors = sorted({key.rsplit("_", 1)[0] for key in keys})
    config = CasitaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, projection_dim=16,
        vocab_size=3 + len(keys), embedding_source="learned", num_sensors=len(sensors), num_states=2, num_rooms=7,
        text_embedding_dim=384, use_time_deltas=True,
    )  # fmt: skip
    model = CasitaModel(config)
    model.set_sensor_vocabulary(keys, [LAYOUT["sensors"][key.rsplit("_", 1)[0]]["room"] for key in keys])
    return model


@pytest.fixture(scope="module")
def several(runs, tmp_path_factory):
    """Two seeds beside a learned twin, by three protocols."""
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
    twin = several["protocols"]["chronological"]["classification"]["labelled"]["learned"]
    assert list(twin["seeds"]) == ["0"]


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
    for method, told in scores["calibration"].items():
        assert sum(row["windows"] for row in told["bins"]) == test, method
        gap = sum(abs(row["confidence"] - row["accuracy"]) * row["windows"] for row in told["bins"]) / test
        assert gap == pytest.approx(told["ece"], abs=1e-6), method


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
    homes.read.append(
        EvaluationHome(again, EvaluationInputs(read_table(again.windows, WINDOWS), [], np.zeros((0, 2))))
    )
    stored = read_table(home.windows, WINDOWS).to_pylist()
    trained = [(w["start"], w["end"]) for w in stored if w["split"] == "train"]
    test = [w for w in read_table(again.windows, WINDOWS).to_pylist() if w["split"] == "test"]
    seen = [any(a <= w["end"] and w["start"] <= b for a, b in trained) for w in test]
    assert np.mean(seen) > 0.3
    assert homes.case("random_days", 20_000).about["seen_share"] == pytest.approx(np.mean(seen))


@pytest.mark.parametrize(
    ("words", "told"),
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
def test_contradicting_arguments_are_one_line_and_write_nothing(runs, tmp_path, capsys, words, told):
    given = [str(runs.get(word, word)) for word in words]
    assert cli.main(["evaluate", *given, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(told, error), error
    assert not (tmp_path / "out").exists()
