"""Probes, bags and zero-shot answers equal slow versions, and degenerate tasks have an answer."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from evaluation_home import LAYOUT, PLACES, make_home
from evaluation_run import load_all, make_run
from sklearn.linear_model import LogisticRegression

from casita.datasets_scripts.captions.text_embeddings import embed_texts, load_text_model
from casita.datasets_scripts.layouts.label_prompts import label_prompts
from casita.train.evaluation.probes import (
    C_GRID,
    bag_of_sensors,
    linear_probe,
    majority,
    make_task,
    tfidf_captions,
    zero_shot,
)
from casita.train.inference.embedding import label_prototypes, logit_scale
from casita.train.metrics.classification import classification_metrics


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    home = make_home(tmp_path_factory.mktemp("small"))
    return load_all(make_run(tmp_path_factory.mktemp("runs") / "first", home), home)


def test_zero_shot_is_the_models_own_softmax_over_prompts(loaded):
    labels, model = sorted(PLACES), loaded.model
    inputs = {name: torch.from_numpy(array[:30]) for name, array in loaded.arrays.items()}
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


@pytest.fixture(scope="module")
def labelled(loaded):
    """The labelled task and the windows it touches."""
    material = loaded.data
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
