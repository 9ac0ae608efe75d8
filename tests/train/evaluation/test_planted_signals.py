"""Activities that differ in one thing alone are found by what can see that thing, and by nothing else.

A simulated person (`ResidentSimulator`) does the two activities of a pair by turns, with two stray sensors in each:
they differ in the place, in the order of the same places, in the pace, or in the hour of the day. Encoders are
untrained: what a probe finds behind them, they let through.
"""

from datetime import datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.preprocessing import normalize

from casita.datasets_scripts.captions.caption import caption_windows
from casita.datasets_scripts.schema import WINDOWS
from casita.datasets_scripts.synthetic.home import merge_pulses
from casita.datasets_scripts.synthetic.simulator import ResidentSimulator, synthetic_dwelling
from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.data.few_labels import draw_few
from casita.train.evaluation import probes
from casita.train.evaluation.probes import Task, make_task
from casita.train.evaluation.score_rows import cluster_agreement
from casita.train.inference.embedding import embed_windows

HERE, THERE = "M011", "M015"  # the bed, the desk
DWELLING = synthetic_dwelling()
VOCAB = sorted(f"{sensor}_{state}" for sensor in DWELLING.layout["sensors"] for state in ("ON", "OFF"))
SIZES = {"train": 400, "validation": 80, "test": 240}


class Planted(ResidentSimulator):
    """An activity is a method, as in `ResidentSimulator`; two of a pair leave the same trace but for one thing."""

    def see(self, sensors, every_s=6.0):
        others = [sensor for sensor in sorted(self.neighbours) if sensor not in (HERE, THERE)]
        for _ in range(2):
            sensors = [*sensors]
            sensors.insert(int(self.rng.integers(len(sensors) + 1)), str(self.rng.choice(others)))
        for sensor in sensors:
            self.now_s += every_s * self.rng.uniform(0.9, 1.1)
            self.pulses.append((sensor, self.now_s, self.now_s + 1.5))

    def in_bed(self):
        self.see([HERE] * 4 + [THERE] * 2)

    def at_desk(self):
        self.see([HERE] * 2 + [THERE] * 4)

    def there(self):
        self.see([HERE] * 3 + [THERE] * 3)

    def back(self):
        self.see([THERE] * 3 + [HERE] * 3)

    def slowly(self):
        self.see([HERE, THERE] * 3, every_s=20.0)

    def quickly(self):
        self.see([HERE, THERE] * 3, every_s=5.0)

    def by_morning(self):
        self.see([HERE, THERE] * 3)

    def by_evening(self):
        self.see([HERE, THERE] * 3)


def lived(pair):
    """Windows of the two activities in turn by chance, with their captions."""
    resident = Planted(DWELLING, np.random.default_rng(0))
    rows = []
    for i in range(sum(SIZES.values())):
        label = pair[resident.rng.integers(2)]
        resident.pulses.clear()
        resident.perform(label)
        events = sorted(event for event in merge_pulses(resident.pulses))
        events = events[: 2 * 8]  # an errand may follow
        hour = {"by_morning": 8, "by_evening": 20}.get(label, 12)
        start = datetime(2024, 1, 1, hour) + timedelta(days=i % 7, seconds=float(resident.rng.uniform(0, 3000)))
        seconds = [time - events[0][0] for time, _, _ in events]
        rows.append(
            {"window_id": f"w{i}", "home": "synthetic", "session": "s", "split": "train", "start": start}
            | {"end": start + timedelta(seconds=seconds[-1]), "seconds": seconds, "activity": label}
            | {"sensor_keys": [f"{sensor}_{state}" for _, sensor, state in events], "activity_share": 1.0}
        )
    windows = pa.Table.from_pylist([{name: row[name] for name in WINDOWS.names} for row in rows], schema=WINDOWS)
    captions = [texts[0] for texts in caption_windows(windows, DWELLING.layout, "brief")]
    splits = [name for name, size in SIZES.items() for _ in range(size)]
    task = make_task(windows["activity"].to_pylist(), splits, unlabelled=False)
    return SimpleNamespace(windows=windows, captions=captions, task=task, keys=windows["sensor_keys"].to_pylist())


def encoder(**config):
    """An untrained encoder with a table of random rows."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    model = CasitaModel(
        CasitaConfig(
            **sizes,
            projection_dim=16,
            vocab_size=3 + len(VOCAB),
            image_embedding_dim=24,
            text_embedding_dim=384,
            **config,
        )
    ).eval()
    rows = normalize(np.random.default_rng(0).normal(size=(len(VOCAB), 24))).astype(np.float32)
    model.set_sensor_embeddings(
        SensorEmbeddingTable.build(VOCAB, rows, home="synthetic", vision_model="made up", output="rows")
    )
    reads = {"use_time_deltas": model.config.use_time_deltas, "use_timestamps": model.config.alibi_distance == "time"}
    return model, CasitaProcessor(VOCAB, "synthetic", **reads)


ENCODERS = {
    "sees order": {},
    "sees pace": {"use_time_deltas": True},
    "sees places alone": {"alibi_distance": "time", "alibi_time_scale": 1e-9},  # no distance fades: a bag of events
}


@pytest.fixture(scope="module")
def accuracies():
    """Of each pair each method's accuracy."""
    found = {}
    for pair in (("in_bed", "at_desk"), ("there", "back"), ("slowly", "quickly"), ("by_morning", "by_evening")):
        home = lived(pair)
        methods = {
            "bag_of_sensors": probes.bag_of_sensors(home.keys, home.task, progress=False),
            "tfidf_captions": probes.tfidf_captions(home.captions, home.task, progress=False),
        }
        for name, config in ENCODERS.items():
            model, processor = encoder(**config)
            inputs = processor.encode_windows(home.windows["sensor_keys"], home.windows["seconds"])
            base = embed_windows(model, inputs, progress=False).base
            methods[name] = probes.linear_probe(base, home.task, progress=False)
        found[pair] = {name: answer.metrics(home.task)["accuracy"] for name, answer in methods.items()}
    return found


# Which of them see what the pair's two activities differ in.
SEEN_BY = {
    ("in_bed", "at_desk"): {"bag_of_sensors", "sees order", "sees pace", "sees places alone"},
    ("there", "back"): {"sees order"},
    ("slowly", "quickly"): {"sees pace"},
    ("by_morning", "by_evening"): {"tfidf_captions"},
}
# Captions name rooms, and those in an order; what sees the pace sees the order too, through more noise.
NOT_COUNTED = {
    ("tfidf_captions", ("in_bed", "at_desk")),
    ("tfidf_captions", ("there", "back")),
    ("sees pace", ("there", "back")),
}


@pytest.mark.parametrize("pair", SEEN_BY)
def test_a_planted_signal_is_found_by_those_that_see_it_and_by_no_other(accuracies, pair):
    chance = 0.5 + 3.5 * np.sqrt(0.25 / SIZES["test"])
    for method, accuracy in accuracies[pair].items():
        if method in SEEN_BY[pair]:
            assert accuracy > 0.75, (method, accuracy)
        elif (method, pair) not in NOT_COUNTED:
            assert accuracy < chance, (method, accuracy)


@pytest.mark.parametrize(("reads", "same"), [({}, True), ({"use_time_deltas": True}, False)])
def test_a_window_and_its_mirror_image_are_one_to_an_encoder_without_time_deltas(reads, same):
    model, processor = encoder(**reads)
    keys = ["M011_ON", "M011_ON", "M015_ON", "M001_ON", "M002_ON"]
    seconds = [0.0, 3.0, 60.0, 70.0, 75.0]
    there, back = (
        embed_windows(model, processor.encode_windows([k], [s]), progress=False).base
        for k, s in ((keys, seconds), (keys[::-1], [75.0 - s for s in seconds[::-1]]))
    )
    assert np.allclose(there, back, atol=1e-5) == same


def test_with_shuffled_labels_every_method_is_at_chance():
    home = lived(("in_bed", "at_desk"))
    y = home.task.y.copy()
    y[home.task.rows()] = np.random.default_rng(1).permutation(y[home.task.rows()])
    task = Task(y, home.task.train, home.task.validation, home.task.test)
    model, processor = encoder()
    base, sensor, _ = embed_windows(
        model, processor.encode_windows(home.windows["sensor_keys"], home.windows["seconds"]), progress=False
    )
    prototypes = normalize(np.random.default_rng(2).normal(size=(2, 16)))
    prompts = {"at_desk": ["Somebody works in the office."], "in_bed": ["Somebody is in the bedroom."]}
    train, validation = draw_few([(y[rows], rows) for rows in (task.train, task.validation)], 0.3, 0)
    few = Task(y, task.train[train], task.validation[validation], task.test)
    answers = {
        "linear_probe": probes.linear_probe(base, task, progress=False),
        "few labels": probes.linear_probe(base, few, progress=False),
        "zero_shot": probes.zero_shot(sensor, prototypes, list(prompts), 10.0, task),
        "bag_of_sensors": probes.bag_of_sensors(home.keys, task, progress=False),
        "bag_of_rooms": probes.bag_of_sensors(
            [["bedroom"] * key.count("M011") for key in map(str, home.keys)], task, progress=False
        ),
        "tfidf_captions": probes.tfidf_captions(home.captions, task, progress=False),
        "nearest_prompt_tfidf": probes.nearest_prompt_tfidf(home.captions, prompts, task),
        "majority": probes.majority(task),
    }
    noise = 3.5 * np.sqrt(0.25 / len(task.test))
    for method, answer in answers.items():
        assert abs(answer.metrics(task)["balanced_accuracy"] - 0.5) < noise, method
    assert probes.chance(task)["balanced_accuracy"] == 0.5
    assert abs(cluster_agreement(normalize(base[task.test]), y[task.test].astype(str))["ari"]) < 0.05


def test_clusters_that_are_there_are_found():
    rng = np.random.default_rng(0)
    y = rng.choice(["a", "b", "c"], size=120)
    centres = {"a": (1, 0, 0), "b": (0, 1, 0), "c": (0, 0, 1)}
    points = np.array([centres[label] for label in y]) + rng.normal(0, 0.05, size=(120, 3))
    assert cluster_agreement(points, y) == pytest.approx({"ari": 1.0, "nmi": 1.0, "clusters": 3})


def test_the_nearest_prompt_by_words_is_the_one_that_shares_them():
    captions = ["they cook in the kitchen", "she lay in the bedroom", "nothing was seen", "a kitchen, a pan"]
    prompts = {"Cook": ["Making food in the kitchen."], "Sleep": ["In bed, in the bedroom."]}
    task = Task(np.array(["Cook", "Sleep", "Cook", "Cook"], dtype=object), *map(np.array, ([0, 1], [0], [1, 3])))
    found = probes.nearest_prompt_tfidf(captions, prompts, task)
    assert found.labels == ["Sleep", "Cook"]
    assert "fitted_on" in found.settings


def test_chance_is_what_a_guess_scores_on_average():
    rng = np.random.default_rng(0)
    y = rng.choice(["a", "b", "c", "unseen"], size=4000, p=[0.6, 0.2, 0.15, 0.05]).astype(object)
    task = Task(y, np.flatnonzero(y != "unseen"), np.zeros(0, np.int64), np.arange(4000))
    guesses = [
        probes.Prediction(np.eye(3)[rng.integers(3, size=4000)], ["a", "b", "c"]).metrics(task) for _ in range(30)
    ]
    found = probes.chance(task)
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"):
        assert found[name] == pytest.approx(np.mean([guess[name] for guess in guesses]), abs=0.005)
