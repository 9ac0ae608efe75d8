"""A whole evaluation in small: every section of results.json and the report's inputs, computed from windows with a
planted signal (each activity has its room), so that numbers are of the size that real ones have."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from casita.datasets_scripts.layouts.layout import load_layout
from casita.datasets_scripts.schema import WINDOWS
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.results import ProtocolResults, ProtocolSummary, ReliabilityCurve, Results, SplitSummary
from casita.train.evaluation import probes
from casita.train.evaluation.probes import Prediction, Task, make_task
from casita.train.evaluation.report_inputs import Query, ReportInputs
from casita.train.metrics.classification import calibration_bins, ece, over_seeds, per_class
from casita.train.metrics.ranking import retrieval_chance, retrieval_metrics

ROOMS = {
    "Cook": "kitchen",
    "Sleep": "bedroom",
    "Watch_TV": "living_room",
    "Work_at_Desk": "office",
    "Bathing": "bathroom",
    "Other": "hallway",
}
COUNTS = {"train": 150, "validation": 40, "test": 130}
LENGTH = 14
SENTENCES = ("{} is going on.", "It looks like {}.", "The person does {}.", "Busy with {}.", "Time for {}.")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class Case:
    """`results` and `inputs` of one made-up evaluation; `rename` changes labels, `caption` changes captions."""

    def __init__(
        self, rename: Callable[[str], str] = str, caption: str = "Somebody was in the {room}, near {sensor}."
    ):
        self.rng = np.random.default_rng(0)
        self.layout = load_layout("synthetic")
        self.layout["activities"] = {}
        self.labels = [rename(label) for label in ROOMS]
        self.rooms = dict(zip(self.labels, ROOMS.values(), strict=True))
        self.windows = self.make_windows()
        self.splits = self.windows["split"].to_pylist()
        self.activities = self.windows["activity"].to_pylist()
        self.keys = self.windows["sensor_keys"].to_pylist()
        self.captions = [self.caption(caption, keys) for keys in self.keys]
        self.base = self.embed(0.6)
        self.sensor = unit(self.base)
        self.text = unit(self.sensor + 0.12 * self.rng.normal(size=self.sensor.shape))
        self.tasks = self.make_tasks()
        self.answers = {variant: self.predict(task) for variant, task in self.tasks.items()}
        self.queries = self.make_queries()
        self.results = self.make_results()
        self.inputs = self.make_inputs()

    # ------------------------------------------------------------------------------------------------- the windows
    def make_windows(self) -> pa.Table:
        by_room: dict[str, list[str]] = {}
        for name, sensor in self.layout["sensors"].items():
            by_room.setdefault(sensor["room"], []).append(name)
        rows, start = [], datetime(2024, 1, 1, 6)
        for i, split in enumerate(np.repeat(list(COUNTS), list(COUNTS.values()))):
            label = str(self.rng.choice(self.labels, p=[0.3, 0.25, 0.15, 0.12, 0.1, 0.08]))
            own = self.rng.random(LENGTH) < 0.45
            choice = [by_room[self.rooms[label]] if near else list(self.layout["sensors"]) for near in own]
            seconds = np.cumsum(self.rng.integers(1, 90, size=LENGTH)).astype(float)
            seconds -= seconds[0]
            rows.append(
                {
                    "window_id": f"synthetic/all/{i}", "home": "synthetic", "session": "all", "split": str(split),
                    "start": start, "end": start + timedelta(seconds=float(seconds[-1])),
                    "sensor_keys": [f"{self.rng.choice(sensors)}_ON" for sensors in choice],
                    "seconds": seconds.tolist(),
                    "activity": None if i % 9 == 8 else label, "activity_share": 1.0,
                }
            )  # fmt: skip
            start += timedelta(minutes=int(self.rng.integers(20, 150)))
        return pa.Table.from_pylist(rows, schema=WINDOWS)

    def caption(self, template: str, keys: list[str]) -> str:
        sensors = [key.rpartition("_")[0] for key in keys]
        rooms = [self.layout["sensors"][sensor]["room"] for sensor in sensors]
        return template.format(room=max(sorted(rooms), key=rooms.count), sensor=sensors[0])

    def embed(self, noise: float) -> np.ndarray:
        """`(N, 24)`: how often each sensor occurs, projected, and noise."""
        names = list(self.layout["sensors"])
        counts = np.array([[sum(key.startswith(f"{name}_") for key in keys) for name in names] for keys in self.keys])
        mixed = counts @ self.rng.normal(size=(len(names), 24)) / 3
        return (mixed + noise * self.rng.normal(size=mixed.shape)).astype(np.float32)

    def make_tasks(self) -> dict[str, Task]:
        named = [None if label == self.labels[-1] else label for label in self.activities]
        return {
            "labelled": make_task(self.activities, self.splits, unlabelled=False),
            "with_unlabelled": make_task(self.activities, self.splits, unlabelled=True),
            "without_other": make_task(named, self.splits, unlabelled=False),
        }

    # ------------------------------------------------------------------------------------------------- the answers
    def prototypes(self, noise: float) -> np.ndarray:
        y = np.array(self.activities, dtype=object)
        means = unit(np.stack([self.sensor[y == label].mean(axis=0) for label in self.labels]))
        return unit(means + noise * self.rng.normal(size=means.shape))

    def predict(self, task: Task) -> dict[str, dict[str, Prediction]]:
        task = replace(task, validation=task.validation[:0])  # one strength of regularisation: a quarter of the time
        quiet = {"progress": False}
        chance = self.rng.dirichlet(np.ones(len(self.labels)), size=len(task.test))
        return {
            "linear_probe": {str(s): probes.linear_probe(self.embed(0.4), task, **quiet) for s in range(3)},
            "zero_shot": {"0": probes.zero_shot(self.sensor, self.prototypes(0.1), self.labels, 12.0, task)},
            "learned": {"0": probes.linear_probe(self.embed(1.0), task, **quiet)},
            "random_encoder": {str(s): probes.linear_probe(self.embed(1.6), task, **quiet) for s in range(3)},
            "bag_of_sensors": {"none": probes.bag_of_sensors(self.keys, task, **quiet)},
            "tfidf_captions": {"none": probes.tfidf_captions(self.captions, task, **quiet)},
            "nearest_prompt_tfidf": {
                "none": probes.zero_shot(self.sensor, self.prototypes(1.5), self.labels, 5.0, task)
            },
            "majority": {"none": probes.majority(task)},
            "chance": {"none": Prediction(chance, self.labels)},
        }

    def rows(self, answers: dict[str, dict[str, Prediction]], task: Task) -> dict[str, Any]:
        found = {}
        for method, by_seed in answers.items():
            each = {seed: prediction.metrics(task) for seed, prediction in by_seed.items()}
            intervals = self.intervals(next(iter(by_seed.values())), task)
            found[method] = {**over_seeds(each), **intervals, "seeds": each}
        return found

    def intervals(self, prediction: Prediction, task: Task, rounds: int = 40) -> dict[str, list[float]]:
        y, called = task.y[task.test], np.array(prediction.labels, dtype=object)
        draws = [self.rng.integers(0, len(y), size=len(y)) for _ in range(rounds)]
        accuracy = [(y[rows] == called[rows]).mean() for rows in draws]
        f1 = [
            np.mean([row["f1"] for row in per_class(y[rows].tolist(), called[rows].tolist()).values()])
            for rows in draws
        ]
        return {
            name: np.quantile(values, [0.025, 0.975]).tolist()
            for name, values in (("accuracy_ci", accuracy), ("macro_f1_ci", f1))
        }

    def make_queries(self) -> list[Query]:
        test = np.array(self.splits) == "test"
        return [
            Query(
                sentence.format(label.replace("_", " ").lower()), label, self.sensor[test] @ self.prototypes(0.25)[k]
            )
            for k, label in enumerate(self.labels)
            for sentence in SENTENCES
        ]

    # ------------------------------------------------------------------------------------------------- the results
    def make_results(self) -> Results:
        scores = self.scores()
        leaky = {
            "about": self.about(
                "Segments cut at the labels' borders and shuffled, as in the literature.", True, 1.0, 96
            ),
            "classification": {"labelled": self.rows(self.predict(self.leaky_task()), self.leaky_task())},
            "left_out": {"few_shot": "the literature's protocol has none."},
        }
        labelled = scores["classification"]["labelled"]
        return {
            "casita_version": "0.1.0",
            "run": "case",
            "home": "synthetic",
            "model": {
                "preset": "tiny", "embedding_source": "image", "vision_model": "pixels", "text_model": "minilm",
                "caption_style": "narrative", "pooling": "cls_mean", "seed": 42, "parameters": 1_234_567,
            },
            "settings": {
                "protocol": "chronological", "protocols": ["chronological", "shuffled_segments"],
                "runs": ["runs/case"], "learned": [], "few_shot": [0.05, 0.3], "seeds": 3, "max_windows": 20_000,
                "c_grid": [0.01, 1.0],
                "intervals": {"level": 0.95, "resamples": 40, "over": "single windows"},
                "command": "casita evaluate runs/case --seeds 3",
            },
            "data": {
                "sampling": {"presegment": False, "length": LENGTH, "overlap": 0.5, "split": "chronological"},
                "splits": scores["about"]["splits"],
                "labels": sorted(self.labels),
                "leak_audit": scores["about"]["leak_audit"],
            },
            "headline": [{"method": k, **v} for k, v in labelled.items()],
            "protocols": {"chronological": scores, "shuffled_segments": leaky},
            "timing_s": {"encode": 1.5},
            "plots": [],
        }  # fmt: skip

    def scores(self) -> ProtocolResults:
        task, answers = self.tasks["labelled"], self.answers["labelled"]
        y_true = task.y[task.test].tolist()
        shown = ("linear_probe", "zero_shot", "learned", "bag_of_sensors")
        return {
            "about": self.about("Whole days in time order, with a purge gap.", False, 0.0, 0),
            "classification": {v: self.rows(self.answers[v], self.tasks[v]) for v in self.tasks},
            "per_class": {m: per_class(y_true, next(iter(answers[m].values())).labels) for m in shown},
            "few_shot": {share: self.few_shot(float(share)) for share in ("0.05", "0.3")},
            "retrieval": self.retrieval(),
            "caption_styles": {"brief": self.retrieval()},
            "paraphrases": self.paraphrases(),
            "clustering": self.clustering(),
            "calibration": {m: self.calibration(answers[m], task) for m in ("linear_probe", "zero_shot")},
            "left_out": {},
        }

    def about(self, description: str, leaky: bool, seen: float, shared: int) -> ProtocolSummary:
        frame = self.windows.to_pandas()
        splits: dict[str, SplitSummary] = {}
        for name in COUNTS:
            mine = frame[frame["split"] == name]
            splits[name] = {
                "windows": len(mine), "labelled": int(mine["activity"].notna().sum()), "sessions": 1,
                "days": int(mine["start"].dt.date.nunique()), "labels": mine["activity"].value_counts().to_dict(),
            }  # fmt: skip
        audit = {"train/validation": 0, "train/test": shared, "validation/test": 0}
        return {
            "description": description, "leaky": leaky, "seen_share": seen, "level": "fine", "split_by": "day",
            "splits": splits, "leak_audit": audit, "intervals": {"unit": "window", "units": COUNTS["test"]},
        }  # fmt: skip

    def leaky_task(self) -> Task:
        splits = np.random.default_rng(1).choice(list(COUNTS), p=[0.6, 0.1, 0.3], size=len(self.splits))
        return make_task(self.activities, splits.tolist(), unlabelled=False)

    def few_shot(self, share: float) -> dict[str, Any]:
        task = self.tasks["labelled"]
        few = Task(task.y, task.train[:: round(1 / share)], task.validation, task.test)
        answers = self.predict(few)
        return self.rows({m: answers[m] for m in ("linear_probe", "learned", "bag_of_sensors", "majority")}, few)

    def retrieval(self) -> dict[str, Any]:
        test = np.array(self.splits) == "test"
        _, groups = np.unique(np.array(self.captions)[test], return_inverse=True)
        random = {
            str(seed): retrieval_metrics(unit(self.rng.normal(size=self.sensor[test].shape)), self.text[test], groups)
            for seed in range(3)
        }
        chance = retrieval_chance(groups)
        return {
            "casita": retrieval_metrics(self.sensor[test], self.text[test], groups),
            "random_encoder": {way: over_seeds({s: each[way] for s, each in random.items()}) for way in chance},
            "chance": chance,
        }

    def paraphrases(self) -> dict[str, Any]:
        task = self.tasks["labelled"]
        y = task.y[np.array(self.splits) == "test"]
        found: dict[str, list[float]] = {label: [] for label in self.labels}
        for query in self.queries:
            first = y[np.argsort(-query.scores, kind="stable")] == query.label
            found[query.label].append(float(first[:10].mean()))
        per_label = {label: {"map": float(np.mean(values))} for label, values in found.items()}
        rows = {"map": float(np.mean([row["map"] for row in per_label.values()])), "map_ci": [0.4, 0.8], "mrr": 0.61}
        size = {"queries": len(self.queries), "candidates": len(task.test)}
        return {
            "casita": {**rows, **size},
            "tfidf_captions": {"map": 0.31, "mrr": 0.4, **size},
            "chance": {"map": 0.17, "mrr": 0.3, **size},
            "per_label": per_label,
        }

    def clustering(self) -> dict[str, Any]:
        task = self.tasks["labelled"]
        y = task.y[task.test].astype(str)
        found = {}
        for name, rows in (("casita", self.base), ("random_encoder", self.embed(2.0))):
            groups = KMeans(len(self.labels), random_state=0, n_init=3).fit_predict(rows[task.test])
            scores = {"ari": adjusted_rand_score(y, groups), "nmi": normalized_mutual_info_score(y, groups)}
            found[name] = {**{k: float(v) for k, v in scores.items()}, "clusters": len(self.labels)}
        return found

    def calibration(self, by_seed: dict[str, Prediction], task: Task) -> ReliabilityCurve:
        prediction = next(iter(by_seed.values()))
        answers = prediction.probabilities, task.y[task.test].tolist(), prediction.classes
        return {"bins": calibration_bins(*answers), "ece": ece(*answers)}

    def make_inputs(self) -> ReportInputs:
        test = np.flatnonzero(np.array(self.splits) == "test")
        lines = [
            {"step": step, "split": "train" if step % 4 else "validation", "loss": 1 + 3 / step**0.5}
            | ({} if step % 4 else {f"recall_at_1_{way}": step / 90 for way in ("sensor_to_text", "text_to_sensor")})
            for step in range(1, 41)
        ]
        return ReportInputs(
            windows=self.windows.take(test),
            captions=[self.captions[i] for i in test],
            base=self.base[test],
            sensor=self.sensor[test],
            text=self.text[test],
            layout=self.layout,
            table=self.table(),
            answers=self.answers,
            tasks=self.tasks,
            metrics=lines,
            queries=self.queries,
        )

    def table(self) -> SensorEmbeddingTable:
        """Rows whose cosine falls with the distance on the plan."""
        keys = [f"{sensor}_{state}" for sensor in self.layout["sensors"] for state in ("OFF", "ON")]
        places = [self.layout["sensors"][key.rpartition("_")[0]] for key in keys]
        at = np.array([(place["x"], place["y"]) for place in places]) / max(self.layout["size"])
        centres = self.rng.random((64, 2))
        rows = np.exp(-20 * ((at[:, None] - centres) ** 2).sum(axis=-1)).astype(np.float32)
        return SensorEmbeddingTable.build(
            keys, rows, home="synthetic", vision_model="made up", output="rows", normalization="l2"
        )
