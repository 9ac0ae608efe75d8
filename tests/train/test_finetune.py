"""Classifiers from checkpoints: what learns and what does not, from which windows, and that test windows wait."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import set_seed
from labelled_home import make_labelled_home, rewrite
from paths import ROOT
from safetensors.torch import load_file, save_file
from torch import nn
from train_home import LAYOUT, tiny, write_pictures
from transformers import get_cosine_schedule_with_warmup

from casita import cli
from casita.datasets_scripts.schema import WINDOWS, HomeFolder, read_table
from casita.modeling.modeling_casita import CasitaForSequenceClassification, CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_vocabulary import NUM_RESERVED_ROWS
from casita.train.align import train
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.data.batch_sampler import BatchSampler
from casita.train.data.labelled_windows import (
    choose_few,
    class_counts,
    labelled_split,
    load_labelled,
    store_embeddings,
)
from casita.train.evaluation.inputs import load_run
from casita.train.finetune import ClassificationData, ClassificationTask, finetune, starting_point
from casita.train.metrics.classification import classification_metrics
from casita.train.training.checkpoint import checkpoints, read_progress
from casita.train.training.classifier import (
    ClassificationObjective,
    Classifier,
    add_head,
    drop_sensors,
    encode_split,
    row_sensors,
)
from casita.train.training.loop import make_accelerator

ROOMS = ["in_Bedroom", "in_Hall", "in_Kitchen"]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> HomeFolder:
    return make_labelled_home(tmp_path_factory.mktemp("toy") / "home")


@pytest.fixture(scope="module")
def aligned(home, tmp_path_factory) -> Path:
    """An aligned run that reads pictures."""
    out = tmp_path_factory.mktemp("runs") / "aligned"
    return train(tiny(home, out, epochs=2, learning_rate=3e-3, use_time_deltas=True, use_coordinates=True))


@pytest.fixture(scope="module")
def masked(home, tmp_path_factory) -> Path:
    """A run on masked events alone, with learned embeddings."""
    out = tmp_path_factory.mktemp("runs") / "masked"
    return train(tiny(home, out, epochs=1, embedding_source="learned", contrast_weight=0.0, masked_weight=1.0))


def settings(home: HomeFolder, model: Path, out: Path, **changed: Any) -> FinetuneConfig:
    defaults: dict[str, Any] = {"epochs": 5, "batch_size": 10, "log_every": 1, "tracker": None, "cpu": True}
    defaults |= {"encoder_learning_rate": 3e-3} if changed.get("mode") != "frozen" else {}
    return FinetuneConfig(model=str(model), data=str(home.root), out=str(out), **(defaults | changed))


@pytest.fixture(scope="module")
def full(home, aligned, tmp_path_factory) -> Path:
    """A finished classifier of 20 steps, 4 an epoch, with dropout."""
    return finetune(settings(home, aligned, tmp_path_factory.mktemp("runs") / "full", learning_rate=1e-2))


def results_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text(encoding="utf-8"))


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def rows_of(home: HomeFolder, split: str) -> list[dict[str, Any]]:
    """The labelled windows of a split."""
    return [w for w in read_table(home.windows, WINDOWS).to_pylist() if w["split"] == split and w["activity"]]


def inputs_of(run: Path, windows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    processor = CasitaProcessor.from_pretrained(run / "model")
    arrays = processor.encode_windows([w["sensor_keys"] for w in windows], [w["seconds"] for w in windows])
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def test_a_fine_tuned_classifier_beats_majority_and_its_numbers_are_those_of_its_published_model(home, full):
    windows = rows_of(home, "test")
    model = CasitaForSequenceClassification.from_pretrained(full / "model").eval()
    with torch.inference_mode():
        logits = model(**inputs_of(full, windows)).logits
    predictions = [model.config.id2label[int(i)] for i in logits.argmax(dim=1)]
    results = results_of(full)
    expected = classification_metrics([w["activity"] for w in windows], predictions)
    ours = results["scores"]["test"]["finetuned"]
    assert {name: ours[name] for name in expected} == pytest.approx(expected)
    assert ours["accuracy"] > results["scores"]["test"]["majority"]["accuracy"] + 0.2
    assert ours["macro_f1"] > results["scores"]["test"]["majority"]["macro_f1"] + 0.2
    assert [row["method"] for row in results["headline"]] == ["finetuned", "bag_of_sensors", "majority"]
    counts = {split: len(rows_of(home, split)) for split in ("train", "validation", "test")}
    assert results["data"]["windows"] == counts
    assert results["data"]["leak_audit"] == {"toy": {"train/validation": 0, "train/test": 0, "validation/test": 0}}
    card = (full / "model" / "README.md").read_text(encoding="utf-8")
    assert "AutoModelForSequenceClassification" in card
    assert f"| Fine-tuned classifier | {100 * ours['accuracy']:.1f} |" in card


def test_the_model_that_is_kept_is_the_best_by_validation_macro_f1(full):
    lines = [json.loads(line) for line in (full / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    validations = [line for line in lines if line["split"] == "validation"]
    assert [line["step"] for line in validations] == list(range(4, 21, 4))  # each epoch
    best = max(validations, key=lambda line: line["macro_f1"])
    assert results_of(full)["training"]["step"] == best["step"]
    scores = results_of(full)["scores"]["validation"]["finetuned"]
    assert scores["macro_f1"] == pytest.approx(best["macro_f1"]) == read_progress(checkpoints(full)[-1]).best


def test_frozen_is_a_head_fitted_on_stored_embeddings_and_the_encoder_stays(home, aligned, tmp_path):
    config = settings(home, aligned, tmp_path / "run", mode="frozen", dropout=0.0, epochs=3, weight_decay=0.1)
    run = finetune(config)
    model = CasitaModel.from_pretrained(aligned / "model").eval()
    windows = rows_of(home, "train")
    with torch.inference_mode():
        embeddings = model.sensor_model(**inputs_of(aligned, windows)).pooler_output.clone()
    classes = torch.tensor([ROOMS.index(w["activity"]) for w in windows])

    set_seed(config.seed)
    add_head(model, ROOMS)
    head = model.classifier
    groups = [{"params": [head.weight], "weight_decay": 0.1}, {"params": [head.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, config.learning_rate, (config.adam_beta1, config.adam_beta2))
    scheduler = get_cosine_schedule_with_warmup(optimizer, round(12 * config.warmup_ratio), 12)
    for epoch in range(3):
        for rows in BatchSampler(40, 10, config.seed).epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(head(embeddings[rows]), classes[rows]).backward()
            nn.utils.clip_grad_norm_(head.parameters(), config.max_grad_norm)
            optimizer.step()
            scheduler.step()
    last = load_file(checkpoints(run)[-1] / "model.safetensors")
    # The embeddings were computed in batches of other padding: last bits of numbers of size 1.
    torch.testing.assert_close(last["model.classifier.weight"], head.weight.detach(), rtol=0, atol=1e-5)
    torch.testing.assert_close(last["model.classifier.bias"], head.bias.detach(), rtol=0, atol=1e-5)
    start, end = weights_of(aligned), weights_of(run)
    assert {name for name in end if name not in start} == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(start[name], end[name]) for name in start)


def test_full_moves_the_encoder_at_its_own_rate_and_neither_table_nor_projections(home, aligned, full, tmp_path):
    start, end = weights_of(aligned), weights_of(full)
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert "sensor_model.layers.0.mlp.up_proj.weight" in moved
    assert "sensor_model.embeddings.cls_token" in moved
    assert all(name.startswith("sensor_model.") for name in moved)
    assert "sensor_model.embeddings.table.weight" not in moved
    slow = finetune(settings(home, aligned, tmp_path / "slow", encoder_learning_rate=1e-7, epochs=1, weight_decay=0.0))
    end = weights_of(slow)
    # 4 steps of at most the rate each (Adam's steps are about as long as it)
    assert max(float((start[name] - end[name]).abs().max()) for name in start) < 1e-6
    assert json.loads((slow / "metrics.jsonl").read_text().splitlines()[0])["lr"] == pytest.approx(
        1e-3 * (1 + np.cos(np.pi / 4)) / 2  # the head's, after 1 of 4 steps
    )


def test_from_scratch_keeps_the_architecture_and_the_table_alone(home, aligned, tmp_path):
    config = settings(home, aligned, tmp_path / "run", from_scratch=True, epochs=1, encoder_learning_rate=1e-7)
    start, end = weights_of(aligned), weights_of(finetune(config))
    assert {name: t.shape for name, t in start.items()}.items() <= {name: t.shape for name, t in end.items()}.items()
    table = "sensor_model.embeddings.table.weight"
    assert torch.equal(start[table], end[table])
    for name in [other for other in end if other.endswith("up_proj.weight")]:
        assert (start[name] - end[name]).abs().max() > 0.01, name
    assert any(name.endswith("up_proj.weight") for name in end)


def test_the_few_windows_are_the_same_for_every_model_and_other_ones_for_another_seed(home, aligned, masked, tmp_path):
    def chosen(model: Path, seed: int) -> str:
        config = settings(home, model, tmp_path, few_shot=0.3, seed=seed, few_shot_unit="window")
        _, processor, table = starting_point(config)
        return ClassificationData(config, processor, table).fingerprint()["the chosen train windows"]

    assert chosen(aligned, 1) == chosen(masked, 1) != chosen(aligned, 2)


@pytest.mark.parametrize("unit", ["run", "window"])
@pytest.mark.parametrize("amount", [0.05, 0.3, 1.0, 1, 5, 1000])
def test_few_windows_are_stratified(home, aligned, tmp_path, unit, amount):
    config = settings(home, aligned, tmp_path, few_shot=amount, few_shot_unit=unit)
    everything = load_labelled(config, "train")
    few = choose_few({"train": everything}, config)["train"]
    for label in ROOMS:
        there = int((everything.labels == label).sum())
        wanted = max(1, round(amount * there)) if isinstance(amount, float) else min(there, amount)
        assert int((few.labels == label).sum()) == wanted
    ids = everything.table["window_id"].to_pylist()
    places = [ids.index(name) for name in few.table["window_id"].to_pylist()]
    assert places == sorted(set(places))


def test_runs_are_drawn_whole_and_only_the_last_is_cut(home, aligned, tmp_path):
    folder = HomeFolder(shutil.copytree(home.root, tmp_path / "home"))
    windows = read_table(folder.windows, WINDOWS).to_pylist()
    for i, row in enumerate(windows):  # runs of 4; between two of them with one label, a window without
        row["activity"] = None if i % 5 == 4 else ROOMS[i // 10 % 3]
    rewrite(folder, windows)
    config = settings(folder, aligned, tmp_path / "out", few_shot=6)
    everything = load_labelled(config, "train")
    runs, sizes = np.unique(everything.runs, return_counts=True)
    assert set(sizes) == {4}
    assert len(runs) == 12
    few = choose_few({"train": everything}, config)["train"]
    for label in ROOMS:
        _, sizes = np.unique(few.runs[few.labels == label], return_counts=True)
        assert sorted(sizes) == [2, 4]


def test_labels_coarse_fine_and_unlabelled(home, aligned, tmp_path):
    folder = HomeFolder(shutil.copytree(home.root, tmp_path / "home"))
    coarse = {"in_Kitchen": "Cook", "in_Hall": "Other", "in_Bedroom": "Other"}
    folder.describe(layout=LAYOUT | {"activities": {name: {"coarse": label} for name, label in coarse.items()}})
    config = settings(folder, aligned, tmp_path / "out", level="coarse", unlabelled=True)
    windows = [w for w in read_table(folder.windows, WINDOWS).to_pylist() if w["split"] == "validation"]
    expected = [coarse.get(w["activity"], "unlabelled") for w in windows]
    assert load_labelled(config, "validation").labels.tolist() == expected
    assert set(expected) == {"Cook", "Other", "unlabelled"}
    with pytest.raises(ValueError, match="no coarse label for 'in_"):
        load_labelled(settings(home, aligned, tmp_path / "out", level="coarse"), "train")


def test_test_windows_are_read_by_nothing_before_the_last_evaluation(home, aligned, full, tmp_path):
    folder = HomeFolder(shutil.copytree(home.root, tmp_path / "home"))
    windows = read_table(folder.windows, WINDOWS).to_pylist()
    for row in windows:
        if row["split"] == "test":
            row["activity"] = "in_a_room_that_train_never_saw"
            row["sensor_keys"] = row["sensor_keys"][::-1]
    rewrite(folder, windows)
    again = finetune(settings(folder, aligned, tmp_path / "run", learning_rate=1e-2))
    assert (again / "model/model.safetensors").read_bytes() == (full / "model/model.safetensors").read_bytes()
    assert results_of(again)["scores"]["validation"] == results_of(full)["scores"]["validation"]
    assert results_of(again)["scores"]["test"]["finetuned"]["accuracy"] == 0
    assert results_of(again)["data"]["test_labels_not_in_train"] == ["in_a_room_that_train_never_saw"]


def test_resuming_changes_nothing_and_a_finished_run_trains_nothing(home, aligned, full, tmp_path, capsys):
    resumed = Path(shutil.copytree(full, tmp_path / "resumed"))
    shutil.rmtree(checkpoints(resumed)[-1])
    shutil.rmtree(resumed / "model")
    # as if the best model so far had been published before the interruption, which came after the last checkpoint
    shutil.copytree(full / "model", resumed / "model")
    (resumed / "results.json").unlink()
    config = settings(home, aligned, resumed, learning_rate=1e-2)
    finetune(config)
    for name in ("model.safetensors", "rng.safetensors"):
        assert (checkpoints(resumed)[-1] / name).read_bytes() == (checkpoints(full)[-1] / name).read_bytes()
    assert results_of(resumed)["scores"] == results_of(full)["scores"]
    before = {path: path.stat().st_mtime_ns for path in resumed.rglob("*") if path.is_file()}
    capsys.readouterr()
    finetune(config)
    assert "this run is finished, all 20 steps. Nothing to do." in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in resumed.rglob("*") if path.is_file()}


PROGRAM = """
import sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification
directory, inputs, out = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(directory, trust_remote_code=True).eval()
AutoModel.from_pretrained(directory, trust_remote_code=True)
assert "casita" not in sys.modules
assert model.config.label2id == {"in_Bedroom": 0, "in_Hall": 1, "in_Kitchen": 2}, model.config.label2id
assert [model.config.id2label[i] for i in range(3)] == list(model.config.label2id)
with torch.inference_mode():
    save_file({"logits": model(**load_file(inputs)).logits}, out)
"""


def test_the_published_classifier_gives_the_same_logits_in_a_process_without_casita(home, full, tmp_path):
    inputs = inputs_of(full, rows_of(home, "test"))
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, tmp_path / "inputs.safetensors")
    files = [str(tmp_path / name) for name in ("inputs.safetensors", "logits.safetensors")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-P", "-c", PROGRAM, str(full / "model"), *files]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "newly" not in done.stderr  # AutoModel finds all its weights, and says nothing of the head's
    assert "UNEXPECTED" not in done.stderr
    with torch.inference_mode():
        expected = CasitaForSequenceClassification.from_pretrained(full / "model").eval()(**inputs).logits
    torch.testing.assert_close(load_file(files[1])["logits"], expected)


def test_a_checkpoint_that_reads_pictures_moves_into_another_home_and_a_learned_one_does_not(
    home, aligned, masked, tmp_path
):
    folder = make_labelled_home(tmp_path / "other", seed=3)
    folder.describe(home="other")
    write_pictures(folder, "other")
    windows = [row | {"home": "other"} for row in read_table(folder.windows, WINDOWS).to_pylist()]
    rewrite(folder, windows)
    run = finetune(settings(folder, aligned, tmp_path / "run", learning_rate=1e-2))
    processor = CasitaProcessor.from_pretrained(run / "model")
    assert (processor.home, processor.length) == ("other", 8)
    scores = results_of(run)["scores"]["test"]
    assert scores["finetuned"]["accuracy"] > scores["majority"]["accuracy"]
    with pytest.raises(ValueError, match=r"knows home toy, not other: its learned embeddings"):
        finetune(settings(folder, masked, tmp_path / "refused"))
    assert not (tmp_path / "refused").exists()
    for table in (folder.root / "image_embeddings").iterdir():
        table.unlink()
    with pytest.raises(FileNotFoundError, match=r"casita embed-images .* --vision-model pixels"):
        finetune(settings(folder, aligned, tmp_path / "refused"))


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"few_shot": 0}, "few_shot=0: expected a share above 0"),
        ({"few_shot": 1.5}, "few_shot=1.5: expected a share above 0"),
        ({"mode": "frozen", "encoder_learning_rate": 1e-4}, "encoder_learning_rate=0.0001: expected only with mode"),
        ({"mode": "frozen", "sensor_dropout": 0.1}, "sensor_dropout=0.1: expected only with mode"),
        ({"sensor_dropout": 1.0}, "sensor_dropout=1.0: expected in"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0: expected in"),
        ({"eval_every": 0}, "eval_every=0: expected at least 1, or none"),
    ],
)
def test_settings_that_make_no_sense_are_refused(home, aligned, tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        settings(home, aligned, tmp_path, **changed)


def test_the_command_says_in_one_line_what_is_wrong(home, aligned, tmp_path, capsys):
    def refused(*words: object) -> str:
        assert cli.main(["finetune", *map(str, words)]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    out = ["--out", tmp_path / "run", "--tracker", "none"]
    assert "neither a run nor a model directory" in refused(tmp_path, "--data", home.root, *out)
    assert "no run folder, whose config.yaml would name its data: give --data DIR" in refused(aligned / "model", *out)
    assert "no argument '--few-shots'; did you mean --few-shot?" in refused(aligned, "--few-shots", 1, *out)
    assert "--few-shot should be int | float, found 'x'" in refused(aligned, "--few-shot", "x", *out)
    assert "holds an alignment run. Give another --out." in refused(aligned, "--out", aligned)
    assert "split by 'chronological'" in refused(aligned, "--protocol", "random_days", *out)
    assert not (tmp_path / "run").exists()


def test_dropped_sensors_lose_every_event_and_the_others_none():
    keys = ["M001_OFF", "M001_ON", "D_1_OPEN", "M002_ON"]
    sensors = row_sensors(keys)
    assert len(sensors) == NUM_RESERVED_ROWS + len(keys)
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(NUM_RESERVED_ROWS, len(sensors), (4000, 12), generator=generator)
    mask = (torch.arange(12) < torch.randint(6, 13, (4000, 1), generator=generator)).long()
    shown = drop_sensors(rows, mask, sensors, 0.1, generator)
    lost = total = 0
    for row, before, after in zip(rows.tolist(), mask.tolist(), shown.tolist(), strict=True):
        event_sensors = [keys[i - NUM_RESERVED_ROWS].rpartition("_")[0] for i in row]
        seen = {name for name, was in zip(event_sensors, before, strict=True) if was}
        left = {name for name, now in zip(event_sensors, after, strict=True) if now}
        assert left
        assert after == [was * (name in left) for name, was in zip(event_sensors, before, strict=True)]
        total += len(seen)
        lost += len(seen) - len(left)
    assert lost / total == pytest.approx(0.1, abs=0.01)
    assert torch.equal(drop_sensors(rows, mask, sensors, 1.0), mask)  # of nothing there is nothing to learn


def test_sensor_dropout_learns_from_windows_that_lack_sensors(home, aligned, tmp_path):
    config = settings(home, aligned, tmp_path, mode="full", sensor_dropout=0.5, dropout=0.0)
    encoder, processor, table = starting_point(config)
    data = ClassificationData(config, processor, table)
    task = ClassificationTask(config, encoder, data.classes, data.class_counts, processor.vocab)
    classifier = task.model(fresh=True).train()
    objective = task.objective(make_accelerator(config), classifier)
    rows = np.arange(7)
    batch = data.train.batch(rows, rows)
    set_seed(3)
    loss = objective.backward(batch)["loss"]
    set_seed(3)
    sensors = row_sensors(processor.vocab)
    shown = drop_sensors(batch.inputs["input_ids"], batch.inputs["attention_mask"], sensors, 0.5)
    assert (shown < batch.inputs["attention_mask"]).any()
    logits = classifier({**batch.inputs, "attention_mask": shown}, batch.texts)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, batch.caption_ids).detach())


def test_balanced_weights_and_smoothing_are_those_of_cross_entropy(home, aligned, tmp_path):
    config = settings(home, aligned, tmp_path, mode="frozen", class_weights=True, label_smoothing=0.1)
    model = CasitaModel.from_pretrained(aligned / "model", hidden_dropout=0.0)
    add_head(model, ROOMS)
    windows = load_labelled(config, "train")
    split = labelled_split(windows, ROOMS, CasitaProcessor.from_pretrained(aligned / "model"))
    store_embeddings(split, encode_split(model.sensor_model.eval(), split, "test"))
    counts = class_counts(split, ROOMS)
    assert counts.tolist() == [int((windows.labels == label).sum()) for label in ROOMS]
    objective = ClassificationObjective(config, make_accelerator(config), Classifier(config, model), ROOMS, counts)
    rows = np.arange(13)
    batch = split.batch(rows, rows)
    loss = objective.backward(batch)["loss"]
    weight = torch.tensor([40 / (3 * int(n)) for n in counts])
    labels = torch.tensor([ROOMS.index(label) for label in windows.labels[:13]])
    logits = nn.functional.linear(batch.texts, model.classifier.weight, model.classifier.bias)
    expected = nn.functional.cross_entropy(logits, labels, weight, label_smoothing=0.1)
    torch.testing.assert_close(loss, expected.detach())
    (gradient,) = torch.autograd.grad(expected, [model.classifier.weight])
    torch.testing.assert_close(model.classifier.weight.grad, gradient)


def test_alignment_starts_from_another_runs_weights_but_with_its_own_scale_and_table(home, aligned, tmp_path):
    changed = {"use_time_deltas": True, "use_coordinates": True, "temperature": 0.1, "loss": "sigmoid"}
    out = train(
        tiny(home, tmp_path / "run", init_from=str(aligned), max_steps=1, learning_rate=1e-9, seed=7, **changed)
    )
    start, end = weights_of(aligned), weights_of(out)
    for name in start:
        if name.startswith("logit_"):
            assert not torch.equal(start[name], end[name]), name
        else:  # one step of 1e-9
            torch.testing.assert_close(start[name], end[name], rtol=0, atol=1e-7)
    assert end["logit_scale"].exp().item() == pytest.approx(10.0)
    assert f"init_from: {aligned}" in (out / "config.yaml").read_text(encoding="utf-8")


def test_a_masked_run_hands_its_head_on_to_alignment_and_its_encoder_to_a_classifier(home, masked, tmp_path):
    changed = {"embedding_source": "learned", "masked_weight": 0.5, "max_steps": 1, "learning_rate": 1e-9, "seed": 7}
    out = train(tiny(home, tmp_path / "run", init_from=str(masked), **changed))
    torch.testing.assert_close(weights_of(out)["head.dense.weight"], weights_of(masked)["head.dense.weight"])
    tuned = weights_of(finetune(settings(home, masked, tmp_path / "tuned", mode="frozen", epochs=1)))
    encoder = [name for name in tuned if name.startswith("sensor_model.")]
    assert all(torch.equal(tuned[name], weights_of(masked)[name]) for name in encoder)
    assert tuned["classifier.weight"].shape == (3, 32)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"num_hidden_layers": 1}, r"do not fit: .*layers\.1\..*, here none"),
        ({"hidden_size": 64}, r"do not fit: .*cls_token \(\d+.*, here \(.*64"),
        ({"embedding_source": "learned"}, r"do not fit: rows of pixels\|pixels\|l2, here learned"),
        ({"init_from": "/nowhere/at/all"}, r"nowhere"),
    ],
)
def test_weights_that_do_not_fit_are_refused(home, aligned, tmp_path, changed, message):
    config = {"init_from": str(aligned), "use_time_deltas": True, "use_coordinates": True, **changed}
    with pytest.raises((ValueError, OSError), match=message):  # transformers has OSError for what is not on the Hub
        train(tiny(home, tmp_path / "run", **config))
    assert not (tmp_path / "run" / "train_state").exists()


def test_several_homes_are_one_task_and_a_checkpoint_of_several_is_fine_tuned_on_one(tmp_path):
    for name, seed in (("toy", 0), ("other", 3)):
        folder = make_labelled_home(tmp_path / "homes" / name, seed)
        folder.describe(home=name)
        write_pictures(folder, name)
        rewrite(folder, [row | {"home": name} for row in read_table(folder.windows, WINDOWS).to_pylist()])
    both = HomeFolder(tmp_path / "homes")
    aligned = train(tiny(both, tmp_path / "aligned", epochs=1))
    run = finetune(settings(both, aligned, tmp_path / "both", epochs=1, few_shot=20))
    results = results_of(run)
    assert results["data"]["train_labels"] == dict.fromkeys(ROOMS, 20)
    assert set(results["data"]["leak_audit"]) == {"toy", "other"}
    one = HomeFolder(both.root / "other")
    run = finetune(settings(one, aligned, tmp_path / "one", epochs=1))
    processor = CasitaProcessor.from_pretrained(run / "model")
    assert processor.homes == ["other", "toy"]
    windows = rows_of(one, "test")
    encoded = processor.encode_windows([w["sensor_keys"] for w in windows], [w["seconds"] for w in windows], "other")
    model = CasitaForSequenceClassification.from_pretrained(run / "model").eval()
    with torch.inference_mode():
        predictions = model(**{name: torch.from_numpy(array) for name, array in encoded.items()}).logits.argmax(dim=1)
    right = [model.config.id2label[int(i)] == w["activity"] for i, w in zip(predictions, windows, strict=True)]
    assert results_of(run)["scores"]["test"]["finetuned"]["accuracy"] == pytest.approx(np.mean(right))


def test_casita_evaluate_says_that_a_fine_tuned_run_is_one(full):
    with pytest.raises(ValueError, match=r"a fine-tuned classifier; its own results\.json .*Evaluate the run that it"):
        load_run(full)


def test_two_processes_fine_tune_as_one_does(home, aligned, tmp_path):
    same = {"dropout": 0.0, "max_grad_norm": 1e6, "learning_rate": 1e-2, "epochs": 3}
    one = finetune(settings(home, aligned, tmp_path / "one", **same))
    options = settings(home, aligned, tmp_path / "two", **same).as_dict()
    given = [f"--{name}={value}" for name, value in options.items() if name != "model" and value is not None]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "casita.train.finetune", str(aligned), *given, "--tracker=none"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_progress(checkpoints(tmp_path / "two")[-1]).processes == 2
    lines = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (one, tmp_path / "two")
    ]
    assert [line["loss"] for line in lines[1]] == pytest.approx([line["loss"] for line in lines[0]], rel=1e-3)
    scores, expected = (results_of(run)["scores"]["test"]["finetuned"] for run in (tmp_path / "two", one))
    assert scores == pytest.approx(expected, rel=1e-2)
