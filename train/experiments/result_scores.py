"""What docs/RESULTS.md tells of a row: its runs' frozen embeddings probed, asked and searched, over all seeds.

Like `casita evaluate`, with what the page asks beyond it: windows before, time since the session began, tasks that
share a room, the order of events, months. `casita evaluate` makes the report of a single configuration.
"""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix, diags, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import StandardScaler

from casita.datasets_scripts.captions.caption import caption_windows
from casita.datasets_scripts.captions.text_embeddings import embed_texts, load_text_model
from casita.datasets_scripts.layouts.label_prompts import label_prompts
from casita.datasets_scripts.schema import WINDOWS, HomeFolder, read_table
from casita.datasets_scripts.windows.table import evenly_cut
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.data.labelled_windows import load_labelled
from casita.train.evaluate_run import evaluate_run
from casita.train.evaluation import probes
from casita.train.evaluation.bootstrap import BootstrapClusters, classification_intervals, interval
from casita.train.evaluation.few_shot import draw_few
from casita.train.evaluation.finetuned import classifier_answers
from casita.train.evaluation.inputs import captions_of, load_run
from casita.train.evaluation.probes import Prediction, Task
from casita.train.evaluation.protocols import segments
from casita.train.inference.embedding import (
    LAST_LAYERS,
    WindowEmbeddings,
    embed_captions,
    embed_windows,
    label_prototypes,
    logit_scale,
    untrained,
)
from casita.train.metrics.classification import CLASSIFICATION, classification_metrics, over_seeds, table_metrics
from casita.train.metrics.ranking import retrieval_metrics

FORMAT = 5  # raised when scores mean something else or hold more
FEW = 0.05
STEPS_BEFORE = (2, 4)  # windows back: the two before that share no event with this one, where windows overlap by half
MINUTES = np.arange(5, 180, 5)  # edges of the time since the session began
MOST_PAIRS = 8
USUAL = 0.95  # of the train sessions
SILENT = ((0, 0), (1, 2), (3, 99))  # how many usual sensors, least and most
ONCE = "none"  # the seed of what has none

# What each way of asking an encoder has to beat: the best that reads the same without one.
RIVALS = {
    "probe": "bag_of_sensors",
    "layers": "bag_of_sensors",
    "few": "bag_few",
    "layers_few": "bag_few",
    "before": "bag_before",
    "before_minutes": "bag_before_minutes",
    "zero_shot": "nearest_prompt_tfidf",
    "zero_shot_named": "nearest_prompt_tfidf_named",
    "zero_shot_placed": "nearest_prompt_tfidf_placed",
}
RESTRICTED = ("_named", "_placed")  # ends of the names of what is asked of `named_task` alone

Prompts = Mapping[str, Sequence[str]]
Answers = dict[str, dict[str, Prediction]]  # method -> seed -> answers to validation windows, then to test windows


@dataclass(frozen=True)
class Labelled:
    """A home's windows, and the task of naming those that have a label."""

    home: HomeFolder
    windows: pa.Table

    @classmethod
    def of(cls, home: HomeFolder) -> "Labelled":
        windows = read_table(home.windows, WINDOWS)
        # What `train_overlap` added teaches a probe only where it has a label.
        return cls(home, windows.filter(pc.or_(evenly_cut(windows), pc.is_valid(windows["activity"]))))

    @cached_property
    def task(self) -> Task:
        """Validation windows are answered too: they come first in `test`."""
        windows = self.windows
        own = probes.make_task(windows["activity"].to_pylist(), windows["split"].to_pylist(), unlabelled=False)
        return replace(own, test=np.concatenate([own.validation, own.test]))

    @cached_property
    def usual(self) -> np.ndarray:
        """`(N,)` bool: the train windows as a day brings them, labelled or not."""
        return (np.array(self.windows["split"].to_pylist()) == "train") & evenly_cut(self.windows)

    @cached_property
    def keys(self) -> list[list[str]]:
        return self.windows["sensor_keys"].to_pylist()

    @cached_property
    def sessions(self) -> np.ndarray:
        return np.array(self.windows["session"].to_pylist(), dtype=object)

    def before(self, step: int) -> np.ndarray:
        """`(N,)` the window `step` before each in its session, -1 where there is none."""
        if self.home.settings("windows").get("train_overlap"):
            raise ValueError(f"{self.home.root}: {step} windows back is not as far in train, cut with train_overlap.")
        found = np.arange(len(self.sessions)) - step
        return np.where((found >= 0) & (self.sessions[found] == self.sessions), found, -1)

    @cached_property
    def minutes(self) -> np.ndarray:
        """`(N, M)` 0 or 1: in which five minutes after its session's first window each window begins."""
        start = self.windows["start"].to_numpy()
        _, session = np.unique(self.sessions, return_inverse=True)
        first = np.full(session.max() + 1, start.max())
        np.minimum.at(first, session, start)
        passed = (start - first[session]) / np.timedelta64(60, "s")
        return np.eye(len(MINUTES) + 1, dtype=np.float32)[np.digitize(passed, MINUTES)]

    def test_of(self, answer: Prediction) -> Prediction:
        """The answers to the test windows alone."""
        return replace(answer, probabilities=answer.probabilities[len(self.task.validation) :])

    @cached_property
    def test_task(self) -> Task:
        return replace(self.task, test=self.task.test[len(self.task.validation) :])

    @cached_property
    def hours(self) -> np.ndarray:
        """`(N, 24)` 0 or 1: the hour of the day in which each window begins."""
        start = self.windows["start"].to_numpy()
        return np.eye(24, dtype=np.float32)[(start - start.astype("datetime64[D]")) // np.timedelta64(1, "h")]

    def told(self, by_seed: Mapping[str, Prediction], task: Task | None = None) -> dict[str, Any]:
        """Mean over seeds, `_sd`, `_ci` of the test windows' metrics, and `validation_macro_f1`, to choose by."""
        answers = {seed: self.test_of(answer) for seed, answer in by_seed.items()}
        test = task or self.test_task
        _, code = np.unique(self.sessions[test.test], return_inverse=True)
        scores = {seed: answer.metrics(test) for seed, answer in answers.items()}
        validation = replace(self.task, test=self.task.validation)
        for seed, answer in by_seed.items() if task is None else ():
            first = replace(answer, probabilities=answer.probabilities[: len(validation.test)])
            scores[seed] = {**scores[seed], "validation_macro_f1": first.metrics(validation)["macro_f1"]}
        return {
            **over_seeds(scores),
            **classification_intervals(answers.values(), test, BootstrapClusters(code.reshape(-1), "session")),
            "seeds": sorted(by_seed),
        }


def score_row(
    home: HomeFolder,
    runs: Sequence[Path],
    *,
    context: bool = False,
    baselines: bool = False,
    analysis: bool = False,
    places: Prompts | None = None,
) -> dict[str, Any]:
    """The numbers of one row: `runs` are those of its seeds.

    `context`: also with the windows before, and with the time since the session began. `baselines`: also its
    `beyond`, how much more than its rival each way of asking finds; with `analysis` also the hour of the day, tasks
    that share a room, the order of events, and months. `places`: prompts of someone who knows where things are done.
    """
    data = Labelled.of(home)
    answers: Answers = {}
    retrieval, order = {}, {}
    for run in runs:
        config, model, processor = load_run(run)
        seed = str(config.seed)
        style = config.caption_style, config.text_model
        encoded = encode_all(model, processor, data)
        gather(answers, seed, probed(encoded, data, context, config.seed))
        gather(answers, seed, asked(model, encoded.sensor, data, config.text_model, places or {}))
        retrieval[seed] = searched(model, encoded.sensor, data, *style)
        if analysis:
            timed = np.hstack(
                [StandardScaler().fit(encoded.base[data.task.train]).transform(encoded.base), data.hours]
            )
            gather(answers, seed, {"hour": probes.logistic_probe(timed, data.task, "hour", progress=False)})
        if analysis and run == runs[0]:
            order = {"probe": answers["probe"][seed], "shuffled": order_blind(model, processor, data)}
    told = told_all(data, answers)
    told["retrieval"] = {way: over_seeds({s: each[way] for s, each in retrieval.items()}) for way in WAYS}
    if not baselines:
        return told
    captions, _ = captions_of(home, data.windows, *style, model.config.text_embedding_dim)
    theirs = plain(data, captions, [int(seed) for seed in answers["probe"]], context, places or {})
    told["beyond"] = {
        name: {"rival": rival, **difference(data, answers[name], theirs[rival], _task_of(name, data))}
        for name, rival in RIVALS.items()
        if name in answers
    }
    if analysis:
        compared = {
            "probe": answers["probe"],
            "bag_of_sensors": theirs["bag_of_sensors"],
            "shuffled": {ONCE: order["shuffled"]},
        }
        told |= {"pairs": pair_rows(data, compared), "months": month_rows(data, compared)}
        told["silent"] = silent_rows(data, compared)
        told["shuffled"] = data.told({ONCE: order["shuffled"]})
    return told


def finetuned_row(home: HomeFolder, configs: Sequence[FinetuneConfig]) -> dict[str, Any]:
    """The fine-tuned classifiers of a row, one a seed: their numbers over seeds, `seeds_macro_f1` that of each."""
    data = Labelled.of(home)
    found = {}
    for config in configs:
        windows = {split: load_labelled(config, split) for split in ("validation", "test")}
        found[str(config.seed)] = classifier_answers(config, windows)[1]
    each = [data.test_of(answer).metrics(data.test_task)["macro_f1"] for answer in found.values()]
    return {**data.told(found), "seeds_macro_f1": each}


WAYS = ("sensor_to_text", "text_to_sensor")


def told_all(data: Labelled, answers: Answers) -> dict[str, Any]:
    """The metrics of each method, on the windows that it was asked about."""
    return {name: data.told(by_seed, _task_of(name, data)) for name, by_seed in answers.items()}


def _task_of(method: str, data: Labelled) -> Task | None:
    return named_task(data) if method.endswith(RESTRICTED) else None


def difference(
    data: Labelled, ours: Mapping[str, Prediction], theirs: Mapping[str, Prediction], task: Task | None = None
) -> dict[str, Any]:
    """Ours less theirs on the test windows, means over seeds, `_ci` over the same drawn sessions for both.

    Two methods err on the same sessions: their difference is surer than either.
    """
    test = task or data.test_task
    y_true, (_, code) = test.y[test.test].tolist(), np.unique(data.sessions[test.test], return_inverse=True)
    units = BootstrapClusters(code.reshape(-1), "session")
    tables = [[_tables(data.test_of(a).labels, y_true, units) for a in each.values()] for each in (ours, theirs)]

    def less(draws: np.ndarray) -> np.ndarray:
        ours, theirs = (np.mean([table_metrics(np.tensordot(draws, t, 1)) for t in each], axis=0) for each in tables)
        return ours - theirs

    found = less(np.ones((1, units.count)))[0]
    bounds = interval(less, units).tolist()
    return dict(zip(CLASSIFICATION, found.tolist(), strict=True)) | {
        f"{metric}_ci": pair for metric, pair in zip(CLASSIFICATION, bounds, strict=True)
    }


def _tables(called: list[str], y_true: list[str], units: BootstrapClusters) -> np.ndarray:
    """`(U, K, K)` confusion table of each unit."""
    number = {label: i for i, label in enumerate(sorted({*y_true, *called}))}
    tables = np.zeros((units.count, len(number), len(number)))
    truth, told = (np.array([number[label] for label in labels]) for labels in (y_true, called))
    np.add.at(tables, (units.code, truth, told), 1)
    return tables


def gather(answers: Answers, seed: str, found: Mapping[str, Prediction]) -> None:
    """Put one seed's answers to the others'."""
    for name, answer in found.items():
        answers.setdefault(name, {})[seed] = answer


def encode_all(
    model: CasitaModel, processor: CasitaProcessor, data: Labelled, keys: Sequence[Sequence[str]] | None = None
) -> WindowEmbeddings:
    """All windows, with their last layers."""
    inputs = processor.encode_windows(keys or data.keys, data.windows["seconds"].to_pylist())
    return embed_windows(model, inputs, layers=LAST_LAYERS, progress=False)


def probed(encoded: WindowEmbeddings, data: Labelled, context: bool, seed: int) -> dict[str, Prediction]:
    """Linear probes of the embeddings and of the layers: with all labels, with few; and with what came before."""
    task = data.task
    few = draw_few(task, segments(data.windows), FEW, seed)
    rows, deep = (StandardScaler().fit(x[task.train]).transform(x) for x in (encoded.base, encoded.layers))
    found = {
        "probe": probes.logistic_probe(rows, task, "probe", progress=False),
        "few": probes.logistic_probe(rows, few, "few labels", progress=False),
        "layers": probes.logistic_probe(deep, task, "layers", progress=False),
        "layers_few": probes.logistic_probe(deep, few, "layers, few labels", progress=False),
    }
    if context:
        earlier = np.hstack([rows, *(_earlier(rows, data.before(step)) for step in STEPS_BEFORE)])
        found["before"] = probes.logistic_probe(earlier, task, "windows before", progress=False)
        timed = np.hstack([earlier, data.minutes])
        found["before_minutes"] = probes.logistic_probe(timed, task, "windows before, minutes", progress=False)
    return found


def _earlier(rows: np.ndarray, before: np.ndarray) -> np.ndarray:
    """`(N, C)` the rows of other windows, 0 where there is none."""
    return np.where((before >= 0)[:, None], rows[before], np.float32(0))


def asked(
    model: CasitaModel, sensor: np.ndarray, data: Labelled, text_model: str, places: Prompts
) -> dict[str, Prediction]:
    """Zero-shot from each kind of prompts, and less what the train windows usually score."""
    found = {}
    for name, prompts in kinds_of_prompts(data, places).items():
        texts = [text for told in prompts.values() for text in told]
        prototypes = label_prototypes(model, prompts, embed_texts(load_text_model(text_model), texts, progress=False))
        # How near a sentence is to any window at all says nothing of this one; the train windows tell it, unlabelled.
        usual = (sensor[data.usual] @ prototypes.T).mean(axis=0)
        for centred, offset in (("", 0 * usual), ("_centred", usual)):
            logits = logit_scale(model) * (sensor @ prototypes.T - offset)
            answer = probes.nearest(logits.__getitem__, prompts, data.task)
            found[f"zero_shot{centred}{name}"] = answer if name == "" else _restricted(data, answer)
    return found


def kinds_of_prompts(data: Labelled, places: Prompts) -> dict[str, Prompts]:
    """Prompts by label: "" of all labels; "_named" of those that somebody described, the others being mere numbers;
    "_placed" of the same labels, as somebody would tell them who knows where in the home each is done."""
    labels = sorted(set(data.task.y[data.task.train]))
    prompts, named = label_prompts(data.home.layout, labels), named_labels(data)
    kinds: dict[str, Prompts] = {"": prompts}
    if named and named != labels:
        kinds["_named"] = {label: prompts[label] for label in named}
    if named and set(named) <= set(places):
        kinds["_placed"] = {label: places[label] for label in named}
    return kinds


def named_labels(data: Labelled) -> list[str]:
    """The labels for which the layout has prompts."""
    described = data.home.layout.get("activities", {})
    return [label for label in sorted(set(data.task.y[data.task.train])) if "prompts" in described.get(label, {})]


def named_task(data: Labelled) -> Task:
    """The test windows whose label somebody described."""
    test = data.test_task
    return replace(test, test=test.test[np.isin(test.y[test.test].astype(str), named_labels(data))])


def _restricted(data: Labelled, answer: Prediction) -> Prediction:
    """Only the answers to windows of `named_task`, behind those to the validation windows."""
    kept = np.isin(data.task.test, named_task(data).test)
    kept[: len(data.task.validation)] = True
    return replace(answer, probabilities=answer.probabilities[kept])


def searched(
    model: CasitaModel, sensor: np.ndarray, data: Labelled, style: str, text_model: str
) -> dict[str, dict[str, float]]:
    """Retrieval over all test windows, labelled or not, both ways."""
    captions, text = captions_of(data.home, data.windows, style, text_model, model.config.text_embedding_dim)
    test = np.flatnonzero(np.array(data.windows["split"].to_pylist()) == "test")
    _, groups = np.unique(np.array(captions)[test], return_inverse=True)
    return retrieval_metrics(sensor[test], embed_captions(model, text[test]), groups)


# ------------------------------------------------------------------------------------------------------- analysis
def order_blind(model: CasitaModel, processor: CasitaProcessor, data: Labelled) -> Prediction:
    """The probe where every window's events stand in a random order: what does not rest on it."""
    rng = np.random.default_rng(0)
    keys = [[own[i] for i in rng.permutation(len(own))] for own in data.keys]
    return probes.linear_probe(encode_all(model, processor, data, keys).base, data.task, progress=False)


def main_rooms(data: Labelled) -> dict[str, str]:
    """Of each label the room with most events in its train windows."""
    rooms = {name: told["room"] for name, told in data.home.layout["sensors"].items()}
    counts: dict[str, Counter] = {}
    for row in data.task.train:
        counts.setdefault(data.task.y[row], Counter()).update(rooms[key.rpartition("_")[0]] for key in data.keys[row])
    return {label: count.most_common(1)[0][0] for label, count in counts.items()}


def pair_rows(data: Labelled, answers: Answers) -> list[dict[str, Any]]:
    """Pairs of labels with the same main room, the most frequent ones: balanced accuracy of telling the two apart."""
    test, rooms = data.test_task, main_rooms(data)
    often = Counter(test.y[test.test].tolist())
    shared = [pair for pair in itertools.combinations(sorted(rooms), 2) if rooms[pair[0]] == rooms[pair[1]]]
    shared.sort(key=lambda pair: -min(often[label] for label in pair))
    rows = []
    for pair in shared[:MOST_PAIRS]:
        mine = np.flatnonzero(np.isin(test.y[test.test].astype(str), pair))
        truth = test.y[test.test][mine].tolist()
        row: dict[str, Any] = {"pair": list(pair), "room": rooms[pair[0]], "windows": len(mine)}
        for method, by_seed in answers.items():
            row[method] = float(np.mean([_between(data.test_of(a), pair, mine, truth) for a in by_seed.values()]))
        rows.append(row)
    return rows


def _between(answer: Prediction, pair: Sequence[str], rows: np.ndarray, truth: list[str]) -> float:
    column = np.array([list(answer.classes).index(label) for label in pair])
    called = [pair[i] for i in answer.probabilities[np.ix_(rows, column)].argmax(axis=1)]
    return classification_metrics(truth, called)["balanced_accuracy"]


def month_rows(data: Labelled, answers: Answers) -> list[dict[str, Any]]:
    """Accuracy of the test windows by the month of their session."""
    test = data.test_task
    month = np.array([f"{start:%Y-%m}" for start in data.windows["start"].take(pa.array(test.test)).to_pylist()])
    return [{"month": name, **_accuracies(data, answers, month == name)} for name in sorted(set(month))]


def silent_rows(data: Labelled, answers: Answers) -> list[dict[str, Any]]:
    """Accuracy of the test windows by how many of the usual sensors are silent in their session; `sensors` names them.

    Usual is what speaks in nearly every session of the training (`USUAL`).
    """
    spoke: dict[str, set[str]] = {}
    for session, keys in zip(data.sessions, data.keys, strict=True):
        spoke.setdefault(session, set()).update(key.rpartition("_")[0] for key in keys)
    trained = set(data.sessions[np.array(data.windows["split"].to_pylist()) == "train"])
    count = Counter(sensor for session in trained for sensor in spoke[session])
    usual = {sensor for sensor, n in count.items() if n >= USUAL * len(trained)}
    tested = data.sessions[data.test_task.test]
    silent = {session: usual - spoke[session] for session in set(tested)}
    rows = []
    for least, most in SILENT:
        chosen = {session for session, sensors in silent.items() if least <= len(sensors) <= most}
        if chosen:
            sensors = Counter(sensor for session in chosen for sensor in silent[session])
            row = _accuracies(data, answers, np.isin(tested.astype(str), sorted(chosen)))
            rows.append({"silent": [least, most], "sensors": dict(sensors.most_common()), **row})
    return rows


def _accuracies(data: Labelled, answers: Answers, chosen: np.ndarray) -> dict[str, Any]:
    """Each method's accuracy on the `chosen` of the test windows, mean over its seeds."""
    test = data.test_task
    truth = test.y[test.test][chosen]
    told: dict[str, Any] = {"windows": len(truth), "sessions": len(set(data.sessions[test.test][chosen]))}
    for method, by_seed in answers.items():
        told[method] = float(np.mean([np.array(data.test_of(a).labels)[chosen] == truth for a in by_seed.values()]))
    return told


# ------------------------------------------------------------------------------------------------------ baselines
def baselines(
    home: HomeFolder,
    style: str,
    text_model: str,
    run: Path,
    *,
    seeds: int = 3,
    context: bool = False,
    analysis: bool = False,
    places: Prompts | None = None,
) -> dict[str, Any]:
    """What the same windows give without training an encoder; `run` tells the architecture of the untrained ones.

    With `analysis` also what the captions of each style give away.
    """
    data = Labelled.of(home)
    _, model, processor = load_run(run)
    captions, _ = captions_of(home, data.windows, style, text_model, model.config.text_embedding_dim)
    styles = ("narrative", "structured", "brief", "places") if analysis else ()
    answers: Answers = {
        "majority": {ONCE: probes.majority(data.task)},
        **plain(data, captions, range(seeds), context, places or {}),
        **{f"tfidf_{name}": {ONCE: tfidf(name, data)} for name in styles},
    }
    for seed in range(seeds):
        found = probed(encode_all(untrained(model, seed), processor, data), data, context, seed)
        gather(answers, str(seed), {f"random_{name}": each for name, each in found.items()})
    told = told_all(data, answers)
    return {**told, "chance": probes.chance(data.test_task), "chance_named": chance_among(data)}


def plain(data: Labelled, captions: Sequence[str], seeds: Sequence[int], context: bool, places: Prompts) -> Answers:
    """What answers without an encoder, by name; `seeds` draw the few labels."""
    task = data.task
    answers: Answers = {"bag_of_sensors": {ONCE: probes.bag_of_sensors(data.keys, task, progress=False)}}
    for seed in seeds:
        few = draw_few(task, segments(data.windows), FEW, seed)
        gather(answers, str(seed), {"bag_few": probes.bag_of_sensors(data.keys, few, progress=False)})
    for name, features in (bags(data) if context else {}).items():
        answers[name] = {ONCE: probes.logistic_probe(features, task, name, progress=False)}
    for name, prompts in kinds_of_prompts(data, places).items():
        found = probes.nearest_prompt_tfidf(captions, prompts, task)
        answers[f"nearest_prompt_tfidf{name}"] = {ONCE: _restricted(data, found) if name else found}
    return answers


def chance_among(data: Labelled) -> dict[str, float]:
    """A guess among the labels that somebody described, on their windows."""
    task, named = named_task(data), named_labels(data)
    train = task.train[np.isin(task.y[task.train].astype(str), named)]
    return probes.chance(replace(task, train=train)) if named else probes.chance(data.test_task)


def tfidf(style: str, data: Labelled) -> Prediction:
    """What the captions of a style give away of the labels, by words and pairs of words."""
    rows, told = data.task.rows(), np.full(len(data.keys), "", dtype=object)
    told[rows] = [captions[0] for captions in caption_windows(data.windows.take(rows), data.home.layout, style)]
    return probes.tfidf_captions(told.tolist(), data.task, progress=False)


def bags(data: Labelled) -> dict[str, csr_matrix]:
    """Bags of sensors as a probe of embeddings gets its context: `(N, F)` counts."""
    counts = CountVectorizer(analyzer=list, dtype=np.float32).fit(data.keys[i] for i in data.task.train)
    own = counts.transform(data.keys).tocsr()
    earlier = [own, *(diags((b >= 0).astype(np.float32)) @ own[b] for b in map(data.before, STEPS_BEFORE))]
    log = hstack([part.log1p() for part in earlier]).tocsr()
    return {
        "bag_log": own.log1p(),
        "bag_before": log,
        "bag_before_minutes": hstack([log, csr_matrix(data.minutes)]).tocsr(),
    }


# ------------------------------------------------------------------------------------------------------- transfer
def transfer(runs: Sequence[Path], target: Path, out: Path) -> dict[str, Any]:
    """`leave_home_out` of `casita evaluate`: classifiers fitted on the homes of the training, tested in `target`."""
    results = evaluate_run(runs, target=target, out=out, protocol="leave_home_out", progress=False)
    return {"about": {}, "classification": results["protocols"]["leave_home_out"]["classification"]}
