"""Everything that is measured under one protocol: classification, few labels, retrieval, written queries, clusters.

`Scoring` is the one engine: `casita evaluate` takes all of it, docs/RESULTS.md takes the same functions and analyses
on top of them (`casita.train.experiments.analyses`).
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TypeAlias

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.preprocessing import normalize
from tqdm.auto import tqdm

from casita.datasets_scripts.captions.text_embeddings import embed_texts, load_text_model
from casita.datasets_scripts.layouts.label_prompts import label_prompts
from casita.results import METHODS, MethodScores, ProtocolResults, Scores
from casita.train.configs.train_config import TrainConfig
from casita.train.evaluation import probes, written_queries
from casita.train.evaluation.bootstrap import ranking_intervals
from casita.train.evaluation.encoders import LEARNED, TRAINED, UNTRAINED, Encoder, T, of_kind
from casita.train.evaluation.inputs import captions_of
from casita.train.evaluation.probes import Prediction, Task
from casita.train.evaluation.protocol_split import ProtocolSplit
from casita.train.evaluation.report_inputs import Query
from casita.train.evaluation.score_rows import (
    calibration_rows,
    caption_scores,
    class_rows,
    cluster_agreement,
    label_rows,
    method_scores,
    rooms_of,
)
from casita.train.inference.embedding import AlignedEmbeddings, embed_captions, label_prototypes, logit_scale
from casita.train.metrics.classification import over_seeds
from casita.train.metrics.ranking import Ranked, rank_by_captions, rank_retrieval, retrieval_chance

Answers: TypeAlias = dict[str, dict[str, Prediction]]  # method -> seed -> what was predicted
Prompts: TypeAlias = Mapping[str, Sequence[str]]  # label -> sentences
# The encoders that a probe is of, and which of their embeddings it reads.
PROBES = {
    "linear_probe": (TRAINED, "base"),
    "layer_probe": (TRAINED, "layers"),
    "learned": (LEARNED, "base"),
    "random_encoder": (UNTRAINED, "base"),
    "random_layers": (UNTRAINED, "layers"),
}
FITTED = (*PROBES, "bag_of_sensors", "bag_of_rooms", "tfidf_captions")  # on labels, few of them too
ENCODER_ROWS = {TRAINED: "casita", LEARNED: "learned", UNTRAINED: "random_encoder"}
ONCE = "none"  # the seed of what has none


def by_row(by_encoder: Mapping[str, T]) -> dict[str, dict[str, T]]:
    """Group what there is of each encoder by the row of its kind, then by seed; a kind without encoders has no row."""
    rows = {row: of_kind(kind, by_encoder) for kind, row in ENCODER_ROWS.items()}
    return {row: by_seed for row, by_seed in rows.items() if by_seed}


class Texts:
    """Sentences as vectors of the run's text model, which is loaded once and when it is first needed."""

    def __init__(self, name: str):
        self.name = name
        self._model = cache(lambda: load_text_model(name))
        self._known = dict[str, np.ndarray]()

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Embed sentences as unit rows, `(S, T)`."""
        if new := sorted(set(texts) - set(self._known)):
            self._known |= dict(zip(new, embed_texts(self._model(), new, progress=False), strict=True))
        return np.stack([self._known[text] for text in texts])


@dataclass
class Scoring:
    """One protocol's windows with everything that reads them.

    `encoded` are the split's windows by the encoder's name. `answers` keeps what was predicted by variant, `queries`
    the written sentences, `seconds` what each part took.
    """

    split: ProtocolSplit
    config: TrainConfig
    encoders: Mapping[str, Encoder]
    encoded: Mapping[str, AlignedEmbeddings]
    texts: Texts
    progress: bool = True
    answers: dict[str, Answers] = field(default_factory=dict)
    queries: list[Query] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, styles: Sequence[str] | None) -> ProtocolResults:
        """Measure all: the protocol's entry in `results.json`; `styles` are caption styles that the run lacks."""
        split = self.split
        left_out = dict(split.left_out)
        if any(encoder.kind == LEARNED and name not in self.encoded for name, encoder in self.encoders.items()):
            left_out.setdefault("learned", "a learned table knows the sensors of its own homes only")
        with self._timed("classification"):
            self.answers = {variant: self.predict(task) for variant, task in split.tasks.items()}
            labelled = split.tasks["labelled"]
            scores: ProtocolResults = {
                "about": split.about,
                "classification": {
                    variant: self.scores_beside_chance(self.answers[variant], task)
                    for variant, task in split.tasks.items()
                },
                "per_class": class_rows(self.answers["labelled"], labelled),
                "calibration": calibration_rows(self.answers["labelled"], labelled),
                "left_out": left_out,
            }
        with self._timed("few_shot"):
            if split.few_tasks:
                scores["few_shot"] = {
                    f"{share:g}": self.scores_beside_chance(self.predict_few(share), labelled)
                    for share in split.few_tasks
                }
        with self._timed("retrieval"):
            scores["retrieval"] = self.retrieval()
        if styles is not None:
            with self._timed("caption_styles"):
                if styles:
                    scores["caption_styles"] = {style: self._retrieval_in_style(style) for style in styles}
                else:
                    left_out["caption_styles"] = "the home has no captions in another style with embeddings"
        with self._timed("paraphrases"):
            if found_by_queries := self._written_queries():
                scores["paraphrases"] = found_by_queries
            else:
                left_out.setdefault("paraphrases", "no test window has a coarse label")
        with self._timed("clustering"):
            scores["clustering"] = self._clustering()
        return scores

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        name = f"{self.split.name}, {part}"
        self.seconds[name] = time.monotonic() - began
        if self.progress:
            print(f"  {name}: {self.seconds[name]:.0f} s", flush=True)

    # ---------------------------------------------------------------------------------------------- classification
    def predict(self, task: Task, methods: Collection[str] = tuple(METHODS)) -> Answers:
        """Answer the task by those of `methods` that this protocol has, by seed, in the report's order."""
        answers = {method: self._predict(method, task, self.encoded) for method in METHODS if method in methods}
        return {method: by_seed for method, by_seed in answers.items() if by_seed}

    def predict_few(self, share: float, methods: Collection[str] = FITTED) -> Answers:
        """Answer by what is fitted on a share of the labels, by the draw's seed; the draws are those of all methods.

        Of each kind of encoder the k-th one learns from the k-th draw.
        """
        answers: Answers = {}
        by_kind = [[name for name in self.encoded if name.partition(" ")[0] == kind] for kind in ENCODER_ROWS]
        for turn, (seed, task) in enumerate(self.split.few_tasks[share].items()):
            in_turn = [names[turn % len(names)] for names in by_kind if names]
            encoded = {name: self.encoded[name] for name in in_turn}
            for method in FITTED:
                by_encoder = self._predict(method, task, encoded) if method in methods else {}
                for answer in by_encoder.values():
                    answers.setdefault(method, {})[seed] = answer
        return answers

    def _predict(self, method: str, task: Task, encoded: Mapping[str, AlignedEmbeddings]) -> dict[str, Prediction]:
        """Return one method's answers by seed; none where the protocol or the encoders have no such method."""
        if method == "zero_shot":
            return self.zero_shot(task, self.prompts(task))
        if method in PROBES:
            kind, reads = PROBES[method]
            return {
                seed: probes.linear_probe(getattr(embeddings, reads), task, f"{method} {seed}", progress=self.progress)
                for seed, embeddings in of_kind(kind, encoded).items()
            }
        answer = self._predict_without_encoder(method, task)
        return {} if answer is None else {ONCE: answer}

    def _predict_without_encoder(self, method: str, task: Task) -> Prediction | None:
        one_home = len(self.split.where) == 1
        match method:
            case "bag_of_sensors" if one_home:
                keys = self.split.windows["sensor_keys"].to_pylist()
                return probes.bag_of_sensors(keys, task, progress=self.progress)
            case "bag_of_rooms" if not one_home:
                return probes.bag_of_sensors(rooms_of(self.split), task, progress=self.progress, name=method)
            case "tfidf_captions":
                return probes.tfidf_captions(self.split.captions, task, progress=self.progress)
            case "nearest_prompt_tfidf":
                return probes.nearest_prompt_tfidf(self.split.captions, self.prompts(task), task)
            case "majority":
                return probes.majority(task)
        return None

    def zero_shot(self, task: Task, prompts: Prompts, *, centre_on: np.ndarray | None = None) -> dict[str, Prediction]:
        """Answer from prompts by each trained encoder; `centre_on` as in `probes.zero_shot`."""
        vectors = self.texts.vectors([sentence for sentences in prompts.values() for sentence in sentences])
        answers = {}
        for seed, embeddings in of_kind(TRAINED, self.encoded).items():
            model = self.encoders[f"{TRAINED} {seed}"].model
            prototypes = label_prototypes(model, prompts, vectors)
            answers[seed] = probes.zero_shot(
                embeddings.sensor, prototypes, list(prompts), logit_scale(model), task, centre_on=centre_on
            )
        return answers

    def prompts(self, task: Task) -> dict[str, list[str]]:
        """Return the label prompts: of all labels in the home's windows, but those that the task leaves out."""
        labelled = self.split.tasks["labelled"]
        out = set(labelled.y[labelled.rows()]) - set(task.y[task.rows()])
        home = self.split.home
        if self.split.about["level"] == "coarse":
            return label_prompts(home.folder.layout_or_empty, sorted(set(self.split.coarse) - out), level="coarse")
        return label_prompts(home.folder.layout_or_empty, sorted(home.labels() - out))

    def scores_beside_chance(self, answers: Answers, task: Task) -> dict[str, Scores]:
        """Return each method's metrics with their intervals, and those of a guess."""
        return {**method_scores(answers, task, self.split.clusters_of(task)), "chance": probes.chance(task)}

    # --------------------------------------------------------------------------------------------------- retrieval
    def retrieval(self) -> dict[str, MethodScores]:
        """Rank captions of the test split by windows and back, the run's own style."""
        test = self.split.test
        _, caption_ids = np.unique(np.array(self.split.captions), return_inverse=True)
        text = {name: embeddings.text[test] for name, embeddings in self.encoded.items()}
        by_frequency = rank_by_captions(self.split.text, caption_ids, self.split.train, test)
        return {
            **self._ranked_by_encoders(text, caption_ids[test]),
            "caption_only": self._both_ways({ONCE: by_frequency}),
            "chance": retrieval_chance(caption_ids[test]),
        }

    def _ranked_by_encoders(
        self, text: Mapping[str, np.ndarray], caption_ids: np.ndarray
    ) -> dict[str, dict[str, Scores]]:
        ranked = {
            name: rank_retrieval(embeddings.sensor[self.split.test], text[name], caption_ids)
            for name, embeddings in tqdm(
                self.encoded.items(), desc="retrieval", leave=False, disable=not self.progress
            )
        }
        return {row: self._both_ways(by_seed) for row, by_seed in by_row(ranked).items()}

    def _both_ways(self, by_seed: Mapping[str, Mapping[str, Ranked]]) -> dict[str, Scores]:
        rows: dict[str, Scores] = {}
        for direction in next(iter(by_seed.values())):
            ranked = [ways[direction] for ways in by_seed.values()]
            means = over_seeds({seed: ways[direction].mean() for seed, ways in by_seed.items()})
            rows[direction] = {**means, **ranking_intervals(ranked, self.split.clusters)}
        return rows

    def _retrieval_in_style(self, style: str) -> dict[str, MethodScores]:
        """Rank captions in a style that the run was not aligned with."""
        home = self.split.home
        rows = self.split.home_rows
        captions, text = captions_of(
            home.folder, home.inputs.windows, style, self.config.text_model, self.split.text.shape[1]
        )
        _, caption_ids = np.unique(np.array(captions)[rows], return_inverse=True)
        embedded = {name: embed_captions(self.encoders[name].model, text[rows]) for name in self.encoded}
        return {**self._ranked_by_encoders(embedded, caption_ids), "chance": retrieval_chance(caption_ids)}

    def _written_queries(self) -> dict[str, Scores]:
        """Rank the test windows with a coarse label by sentences written by hand; `{}` where there is none."""
        split = self.split
        test = split.test
        activity = split.windows["activity"].to_pylist()
        labels = np.array([split.coarse.get(activity[i]) for i in test], dtype=object)
        queries = written_queries.queries_for([label for label in labels if label is not None])
        if not queries:
            return {}
        texts = [text for text, _ in queries]
        wanted = [label for _, label in queries]
        vectors = self.texts.vectors(texts)
        scores = by_row(
            {
                name: embed_captions(self.encoders[name].model, vectors) @ embeddings.sensor[test].T
                for name, embeddings in self.encoded.items()
            }
        )
        scores["tfidf_captions"] = {ONCE: caption_scores(texts, split.captions, split.train, test)}
        first_run = next(iter(scores["casita"].values()))
        self.queries = [Query(text, label, row) for (text, label), row in zip(queries, first_run, strict=True)]
        rows: dict[str, Scores] = {}
        for method, by_seed in scores.items():
            ranked = {seed: written_queries.rank_windows(cosines, wanted, labels) for seed, cosines in by_seed.items()}
            means = over_seeds({seed: rankings.mean() for seed, rankings in ranked.items()})
            bounds = written_queries.query_intervals(list(by_seed.values()), wanted, labels, split.clusters)
            rows[method] = {**means, **bounds}
            if method == "casita":
                per_label = label_rows(ranked, wanted)
        chance = written_queries.rank_at_random(wanted, labels).mean()
        return {**rows, "chance": chance, "per_label": per_label}

    # -------------------------------------------------------------------------------------------------- clustering
    def _clustering(self) -> dict[str, Scores]:
        """Compare k-means on the labelled test windows with their labels, as many clusters as labels."""
        task = self.split.tasks["labelled"]
        y = task.y[task.test].astype(str)
        rows = by_row(
            {
                name: cluster_agreement(normalize(embeddings.base[task.test]), y)
                for name, embeddings in self.encoded.items()
            }
        )
        keys = self.split.windows["sensor_keys"].to_pylist()
        counts = CountVectorizer(analyzer=list, dtype=np.float32).fit_transform(keys[i] for i in task.test)
        words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
        tfidf = words.fit_transform(self.split.captions[i] for i in task.test)
        rows["bag_of_sensors"] = {ONCE: cluster_agreement(normalize(counts), y)}
        rows["tfidf_captions"] = {ONCE: cluster_agreement(tfidf, y)}
        return {method: over_seeds(by_seed) for method, by_seed in rows.items()}
