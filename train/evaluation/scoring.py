"""Everything that is measured under one protocol: classification, few labels, retrieval, written queries, clusters."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.preprocessing import normalize
from tqdm.auto import tqdm

from casita.datasets_scripts.captions.text_embeddings import embed_texts, load_text_model
from casita.datasets_scripts.layouts.label_prompts import label_prompts
from casita.results import OWN_METHODS
from casita.train.configs.train_config import TrainConfig
from casita.train.evaluation import probes
from casita.train.evaluation import written_queries as paraphrases
from casita.train.evaluation.bootstrap import classification_intervals, ranking_intervals
from casita.train.evaluation.encoders import LEARNED, TRAINED, UNTRAINED, Encoder, of_kind
from casita.train.evaluation.few_shot import FEW_SHOT, draw_few
from casita.train.evaluation.inputs import captions_of
from casita.train.evaluation.probes import Prediction, Task
from casita.train.evaluation.protocols import ProtocolSplit
from casita.train.evaluation.report_inputs import Query
from casita.train.evaluation.score_rows import (
    calibration_rows,
    caption_scores,
    class_rows,
    classification_rows,
    clusters,
    home_rows,
    label_rows,
    rooms_of,
)
from casita.train.inference.embedding import AlignedEmbeddings, embed_captions, label_prototypes, logit_scale
from casita.train.metrics.classification import over_seeds
from casita.train.metrics.ranking import Ranked, rank_by_captions, rank_retrieval, retrieval_chance

Answers = dict[str, dict[str, Prediction]]  # method -> seed -> what was predicted
# Each probe's row: of which encoder it reads what.
PROBES = {
    "linear_probe": (TRAINED, "base"),
    "layer_probe": (TRAINED, "layers"),
    "learned": (LEARNED, "base"),
    "random_encoder": (UNTRAINED, "base"),
    "random_layers": (UNTRAINED, "layers"),
}
ROWS = {TRAINED: "casita", LEARNED: "learned", UNTRAINED: "random_encoder"}
ONCE = "none"  # the seed of what has none


class Texts:
    """Sentences as vectors of the run's text model, which is loaded once and when it is first needed."""

    def __init__(self, name: str):
        self.name, self._model, self._known = name, cache(lambda: load_text_model(name)), dict[str, np.ndarray]()

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """`(S, T)` unit rows."""
        if new := sorted(set(texts) - set(self._known)):
            self._known |= dict(zip(new, embed_texts(self._model(), new, progress=False), strict=True))
        return np.stack([self._known[text] for text in texts])


@dataclass
class Scoring:
    """One protocol's windows with everything that reads them.

    `encoded` are the case's windows by the encoder's name; `captions` `(N,)` and `text` `(N, T)` their captions.
    `found` gathers the results, `seconds` what each part took.
    """

    case: ProtocolSplit
    config: TrainConfig
    encoders: Mapping[str, Encoder]
    encoded: Mapping[str, AlignedEmbeddings]
    captions: list[str]
    text: np.ndarray
    texts: Texts
    draws: int = 3
    progress: bool = True
    answers: dict[str, Answers] = field(default_factory=dict)
    queries: list[Query] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, styles: Sequence[str] | None) -> dict[str, Any]:
        """The protocol's entry in `results.json`; `styles` are caption styles that the run does not know."""
        case, left_out = self.case, dict(self.case.left_out)
        found: dict[str, Any] = {"about": dict(case.about)}
        if any(encoder.kind == LEARNED and name not in self.encoded for name, encoder in self.encoders.items()):
            left_out.setdefault("learned", "a learned table knows the sensors of its own homes only")
        with self._timed("classification"):
            self.answers = {variant: self._predict(task) for variant, task in case.tasks.items()}
            found["classification"] = {name: self._rows(self.answers[name], case.tasks[name]) for name in case.tasks}
            found["per_class"] = class_rows(self.answers["labelled"], case.tasks["labelled"])
            found["calibration"] = calibration_rows(self.answers["labelled"], case.tasks["labelled"])
        with self._timed("few_shot"):
            if case.name in ("leave_home_out", "shuffled_segments"):
                left_out["few_shot"] = "told of the home's own days; see another protocol"
            else:
                found["few_shot"] = {f"{share:g}": self._few(share) for share in FEW_SHOT}
        with self._timed("retrieval"):
            found["retrieval"] = self._retrieval()
        if styles is not None:
            with self._timed("caption_styles"):
                found["caption_styles"] = {style: self._style(style) for style in styles}
                if not styles:
                    del found["caption_styles"]
                    left_out["caption_styles"] = "the home has no captions in another style with embeddings"
        with self._timed("paraphrases"):
            if told := self._paraphrases():
                found["paraphrases"] = told
            else:
                left_out.setdefault("paraphrases", "no test window has a coarse label")
        with self._timed("clustering"):
            found["clustering"] = self._clustering()
        return {**found, "left_out": left_out}

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        named = f"{self.case.name}, {part}"
        self.seconds[named] = time.monotonic() - began
        if self.progress:
            print(f"  {named}: {self.seconds[named]:.0f} s", flush=True)

    # ---------------------------------------------------------------------------------------------- classification
    def _predict(self, task: Task) -> Answers:
        """Every method's answers by seed, in the report's order."""
        answers = self._probes(task)
        prompts, read = self._prompts(task), self.captions
        vectors = self.texts.vectors([text for told in prompts.values() for text in told])
        answers["zero_shot"] = {
            seed: probes.zero_shot(
                encoded.sensor,
                label_prototypes(self._model(TRAINED, seed), prompts, vectors),
                list(prompts),
                logit_scale(self._model(TRAINED, seed)),
                task,
            )
            for seed, encoded in of_kind(TRAINED, self.encoded).items()
        }
        answers["nearest_prompt_tfidf"] = {ONCE: probes.nearest_prompt_tfidf(read, prompts, task)}
        answers["majority"] = {ONCE: probes.majority(task)}
        return {name: answers[name] for name in dict.fromkeys([*OWN_METHODS, *answers]) if answers[name]}

    def _probes(self, task: Task, seed: str | None = None) -> Answers:
        """What is fitted on labels. With `seed`, of each kind of encoder the one whose turn it is, by that seed."""
        answers: Answers = {}
        for method, (kind, what) in PROBES.items():
            mine = of_kind(kind, self.encoded)
            chosen = mine if seed is None else dict([list(mine.items())[int(seed) % len(mine)]]) if mine else {}
            answers[method] = {
                name if seed is None else seed: probes.linear_probe(
                    getattr(encoded, what), task, f"{method} {name}", progress=self.progress
                )
                for name, encoded in chosen.items()
            }
        once = seed or ONCE
        if len(self.case.where) > 1:
            answers["bag_of_rooms"] = {once: probes.bag_of_rooms(rooms_of(self.case), task, progress=self.progress)}
        else:
            keys = self.case.windows["sensor_keys"].to_pylist()
            answers["bag_of_sensors"] = {once: probes.bag_of_sensors(keys, task, progress=self.progress)}
        answers["tfidf_captions"] = {once: probes.tfidf_captions(self.captions, task, progress=self.progress)}
        return {method: by_seed for method, by_seed in answers.items() if by_seed}

    def _model(self, kind: str, seed: str) -> Any:
        return self.encoders[f"{kind} {seed}"].model

    def _prompts(self, task: Task) -> dict[str, list[str]]:
        """The label prompts: of all labels in the home's windows, but those that the task leaves out."""
        labelled = self.case.tasks["labelled"]
        out = set(labelled.y[labelled.rows()]) - set(task.y[task.rows()])
        home = self.case.home
        if self.case.about["level"] == "coarse":
            return label_prompts(home.folder.layout_or_empty, sorted(set(self.case.coarse) - out), level="coarse")
        labels = sorted(set(home.material.windows["activity"].drop_null().to_pylist()) - out)
        return label_prompts(home.folder.layout_or_empty, labels)

    def _rows(self, answers: Answers, task: Task) -> dict[str, Any]:
        """Each method's metrics over its seeds, their intervals, and chance."""
        units = self.case.units.take(np.searchsorted(self.case.test, task.test))
        rows = classification_rows(answers, task)
        for method, by_seed in answers.items():
            rows[method] |= classification_intervals(by_seed.values(), task, units)
        return {**rows, "chance": probes.chance(task)}

    def _few(self, share: float) -> dict[str, Any]:
        """Rows of probes on a few of the labels; the draws are the same for all methods."""
        task = self.case.tasks["labelled"]
        answers: Answers = {}
        for draw in range(self.draws):
            few = draw_few(task, self.case.runs, share, draw)
            for method, by_seed in self._probes(few, str(draw)).items():
                answers.setdefault(method, {}).update(by_seed)
        return self._rows(answers, task)

    # --------------------------------------------------------------------------------------------------- retrieval
    def _retrieval(self) -> dict[str, Any]:
        """Windows and captions of the test split, the run's own style."""
        test = self.case.test
        _, groups = np.unique(np.array(self.captions), return_inverse=True)
        told = self._retrieved({name: each.text[test] for name, each in self.encoded.items()}, groups[test])
        alone = rank_by_captions(self.text, groups, self.case.train, test)
        return {**told, "caption_only": self._both_ways({ONCE: alone}), "chance": retrieval_chance(groups[test])}

    def _retrieved(self, text: Mapping[str, np.ndarray], groups: np.ndarray) -> dict[str, Any]:
        found = {
            name: rank_retrieval(encoded.sensor[self.case.test], text[name], groups)
            for name, encoded in tqdm(self.encoded.items(), desc="retrieval", leave=False, disable=not self.progress)
        }
        return {row: self._both_ways(mine) for kind, row in ROWS.items() if (mine := of_kind(kind, found))}

    def _both_ways(self, by_seed: Mapping[str, Mapping[str, Ranked]]) -> dict[str, Any]:
        ways = next(iter(by_seed.values()))
        return {way: self._ranked({seed: found[way] for seed, found in by_seed.items()}) for way in ways}

    def _ranked(self, by_seed: Mapping[str, Ranked]) -> dict[str, Any]:
        means = over_seeds({seed: ranked.mean() for seed, ranked in by_seed.items()})
        return {**means, **ranking_intervals(list(by_seed.values()), self.case.units)}

    def _style(self, style: str) -> dict[str, Any]:
        """The same with captions in a style that the run was not aligned with."""
        home, test = self.case.home, self.case.test
        whole = home.material.windows
        captions, text = captions_of(home.folder, whole, style, self.config.text_model, self.text.shape[1])
        rows = home_rows(self.case)
        _, groups = np.unique(np.array(captions)[rows], return_inverse=True)
        mine = {name: embed_captions(self.encoders[name].model, text[rows]) for name in self.encoded}
        assert len(rows) == len(test)
        return {**self._retrieved(mine, groups), "chance": retrieval_chance(groups)}

    def _paraphrases(self) -> dict[str, Any]:
        """Sentences written by hand against the test windows with a coarse label."""
        case, test = self.case, self.case.test
        activity = case.windows["activity"].to_pylist()
        labels = np.array([case.coarse.get(activity[i]) for i in test], dtype=object)
        told = paraphrases.queries_for([label for label in labels if label is not None])
        if not told:
            return {}
        texts, wanted = map(list, zip(*told, strict=True))
        vectors = self.texts.vectors(texts)
        scores: dict[str, dict[str, np.ndarray]] = {}
        for name, encoded in self.encoded.items():
            asked = embed_captions(self.encoders[name].model, vectors) @ encoded.sensor[test].T
            kind, _, seed = name.partition(" ")
            scores.setdefault(ROWS[kind], {})[seed] = asked
        scores["tfidf_captions"] = {ONCE: caption_scores(texts, self.captions, case.train, test)}
        self.queries = paraphrases.asked(told, next(iter(scores["casita"].values())))
        rows: dict[str, Any] = {}
        for method, by_seed in scores.items():
            found = {seed: paraphrases.rank_windows(each, wanted, labels) for seed, each in by_seed.items()}
            rows[method] = over_seeds({seed: ranked.mean() for seed, ranked in found.items()})
            rows[method] |= paraphrases.query_intervals(list(by_seed.values()), wanted, labels, case.units)
            if method == "casita":
                per_label = label_rows(found, wanted)
        return {**rows, "chance": paraphrases.rank_at_random(wanted, labels).mean(), "per_label": per_label}

    # -------------------------------------------------------------------------------------------------- clustering
    def _clustering(self) -> dict[str, Any]:
        """k-means on the labelled test windows, as many clusters as they have labels."""
        task = self.case.tasks["labelled"]
        y = task.y[task.test].astype(str)
        rows: dict[str, dict[str, dict[str, float]]] = {}
        for name, encoded in self.encoded.items():
            kind, _, seed = name.partition(" ")
            rows.setdefault(ROWS[kind], {})[seed] = clusters(normalize(encoded.base[task.test]), y)
        keys = self.case.windows["sensor_keys"].to_pylist()
        counts = CountVectorizer(analyzer=list, dtype=np.float32).fit_transform(keys[i] for i in task.test)
        words = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
        rows["bag_of_sensors"] = {ONCE: clusters(normalize(counts), y)}
        rows["tfidf_captions"] = {ONCE: clusters(words.fit_transform(self.captions[i] for i in task.test), y)}
        return {method: over_seeds(by_seed) for method, by_seed in rows.items()}
