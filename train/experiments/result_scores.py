"""The numbers of docs/RESULTS.md: a row's runs scored by the engine of `casita evaluate`, and analyses on top of it.

A row is scored on all labelled windows of its home, by the same functions, the same bootstrap clusters and the same
draws of few labels as `casita evaluate`; `casita.train.experiments.analyses` adds what the page asks beyond it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np

from casita.datasets_scripts.captions.caption import caption_windows
from casita.datasets_scripts.schema import WINDOWS, HomeFolder, read_table
from casita.files import read_json
from casita.results import OWN_METHODS, MethodScores, Scores
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.data.labelled_windows import LabelledWindows
from casita.train.evaluate_run import evaluate_run
from casita.train.evaluation.bootstrap import difference_scores
from casita.train.evaluation.encoders import UNTRAINED, EmbeddingCache, load_encoders
from casita.train.evaluation.finetuned import load_chosen, make_chosen_task, predict_finetuned
from casita.train.evaluation.home_loader import HomeLoader
from casita.train.evaluation.inputs import EvaluationInputs
from casita.train.evaluation.probes import Prediction, Task, chance, tfidf_captions
from casita.train.evaluation.protocol_split import EvaluationHome
from casita.train.evaluation.protocols import make_split
from casita.train.evaluation.score_rows import method_scores
from casita.train.evaluation.scoring import ONCE, Answers, Prompts, Scoring, Texts
from casita.train.experiments.analyses.context import predict_by_bags, predict_with_context, predict_with_hour
from casita.train.experiments.analyses.errors import (
    DroppedSensorsRow,
    MonthRow,
    PairRow,
    dropped_sensor_rows,
    month_rows,
    pair_rows,
    predict_shuffled,
)
from casita.train.experiments.analyses.prompts import named_task, predict_centred, predict_placed

FORMAT = 6  # raised when scores mean something else or hold more
FEW = 0.05
CAPTION_STYLES = ("places", "structured", "narrative", "brief")
# What each method of an encoder has to beat: the best that reads the same without one.
RIVALS = {
    "linear_probe": "bag_of_sensors",
    "layer_probe": "bag_of_sensors",
    "linear_probe_context": "bag_of_sensors_context",
    "linear_probe_context_minutes": "bag_of_sensors_context_minutes",
    "zero_shot": "nearest_prompt_tfidf",
    "zero_shot_placed": "nearest_prompt_tfidf_placed",
}
COMPARED = ("linear_probe", "linear_probe_shuffled", "bag_of_sensors")  # by pairs, months and dropped sensors
BASELINES = ("random_encoder", "random_layers", "bag_of_sensors", "nearest_prompt_tfidf", "majority")


class PageRow(TypedDict, total=False):
    """The numbers of a row, or of the baselines beside the rows; parts as in `ProtocolResults`.

    `classification` has the variants `labelled` and `named` (labels with a name alone), `differences` for each variant
    and share of labels each method less its rival, `caption_styles` what the words of each style give away, `training`
    the seconds of each seed.
    """

    classification: Mapping[str, MethodScores]
    few_shot: Mapping[str, MethodScores]
    retrieval: Mapping[str, MethodScores]
    caption_styles: Mapping[str, MethodScores]
    differences: Mapping[str, MethodScores]
    pairs: list[PairRow]
    months: list[MonthRow]
    dropped_sensors: list[DroppedSensorsRow]
    finetuned: Scores
    training: list[Mapping[str, float]]


@dataclass
class _Answered:
    """The tasks of a row and each method's answers, by the variant or the share of labels."""

    tasks: dict[str, Task] = field(default_factory=dict)
    answers: dict[str, Answers] = field(default_factory=dict)

    def add(self, name: str, task: Task, *answers: Answers) -> None:
        """Add answers to a task's."""
        self.tasks[name] = task
        for methods in answers:
            self.answers.setdefault(name, {}).update(methods)


def score_row(
    home: HomeFolder,
    runs: Sequence[Path],
    *,
    context: bool = False,
    baselines: bool = False,
    analysis: bool = False,
    places: Prompts | None = None,
) -> PageRow:
    """Score one row, whose seeds are `runs`.

    Args:
        context: also with the windows before, and with the time since the session began.
        baselines: also how much more than its rival each method finds.
        analysis: with `baselines`, also the hour of the day, tasks that share a room, the order of events, months.
        places: prompts of someone who knows where things are done.
    """
    scoring = _load_scoring(home, runs)
    split = scoring.split
    labelled = split.tasks["labelled"]
    methods = (*OWN_METHODS, *RIVALS.values()) if baselines else OWN_METHODS
    answered = _answer(scoring, methods, context, places or {})
    if analysis:
        answered.add("labelled", labelled, predict_with_hour(scoring, labelled), predict_shuffled(scoring, labelled))
    row = _page_row(scoring, answered, leave_out=(*RIVALS.values(), "bag_of_sensors_log"))
    row["retrieval"] = scoring.retrieval()
    if baselines:
        row["differences"] = {name: _differences(scoring, answered, name) for name in answered.tasks}
    if analysis:
        answers = answered.answers["labelled"]
        compared = {method: answers[method] for method in COMPARED if method in answers}
        rooms = {name: sensor["room"] for name, sensor in split.home.folder.layout["sensors"].items()}
        row["pairs"] = pair_rows(split.windows, labelled, compared, rooms)
        row["months"] = month_rows(split.windows, labelled, compared)
        row["dropped_sensors"] = dropped_sensor_rows(split.windows, labelled, compared)
    return row


def score_baselines(
    home: HomeFolder,
    run: Path,
    *,
    untrained: int = 3,
    draws: Sequence[int] = (0, 1, 2),
    context: bool = False,
    analysis: bool = False,
    places: Prompts | None = None,
) -> PageRow:
    """Score what the same windows give without training an encoder; the `untrained` ones have the run's architecture.

    With `analysis` also what the captions of each style give away. `draws`: seeds of the draws of few labels.
    """
    scoring = _load_scoring(home, [run], untrained, draws)
    answered = _answer(scoring, BASELINES, context, places or {})
    row = _page_row(scoring, answered)
    row["classification"] = {
        name: {**scores, "chance": chance(answered.tasks[name])} for name, scores in row["classification"].items()
    }
    if analysis:
        row["caption_styles"] = {style: _caption_words(scoring, style) for style in CAPTION_STYLES}
    return row


def _load_scoring(
    home: HomeFolder, runs: Sequence[Path], untrained: int = 0, draws: Sequence[int] | None = None
) -> Scoring:
    """Load the engine on all labelled windows of a home's split; of trained runs, or of `untrained` encoders alone.

    `draws`: seeds of the draws of few labels; None: those of the runs, as fine-tuning draws by its seed.
    """
    config, encoders = load_encoders(runs, [], untrained, None)
    if draws is None:
        draws = [int(encoder.seed) for encoder in encoders]
    loader = HomeLoader(config, encoders, home.root, None, ["chronological"])
    split = loader.split("chronological", None, draws, for_analysis=True)
    compared = [encoder for encoder in encoders if not untrained or encoder.kind == UNTRAINED]
    cache = EmbeddingCache(compared, [split], loader.homes, progress=False)
    by_name = {encoder.name: encoder for encoder in compared}
    return Scoring(split, config, by_name, cache.of_split(split), Texts(config.text_model), progress=False)


def _answer(scoring: Scoring, methods: Sequence[str], context: bool, places: Prompts) -> _Answered:
    """Answer the labelled task, the one of the labels with a name, and the labelled one from a few labels."""
    labelled = scoring.split.tasks["labelled"]
    answered = _Answered()
    answered.add("labelled", labelled, scoring.predict(labelled, methods), predict_centred(scoring, labelled))
    if context:
        answered.add("labelled", labelled, predict_with_context(scoring, labelled))
    if context and "bag_of_sensors" in methods:
        answered.add("labelled", labelled, predict_by_bags(scoring, labelled))
    if named := named_task(scoring.split):
        unlearned = scoring.predict(named, {"zero_shot", "nearest_prompt_tfidf"} & set(methods))
        answered.add("named", named, unlearned, predict_centred(scoring, named))
    if placed := predict_placed(scoring, named or labelled, places):
        answered.add("named", named or labelled, placed)
    answered.add(f"{FEW:g}", labelled, scoring.predict_few(FEW, methods))
    return answered


def _page_row(scoring: Scoring, answered: _Answered, leave_out: Sequence[str] = ()) -> PageRow:
    """Return each method's scores; the rivals of a row stand in the baselines once, and not in each row."""
    scores = {}
    for name, task in answered.tasks.items():
        answers = {m: by_seed for m, by_seed in answered.answers[name].items() if m not in leave_out}
        scores[name] = method_scores(answers, task, scoring.split.clusters_of(task))
        if name != f"{FEW:g}" and len(task.validation):
            for method, by_seed in answers.items():  # the number by which rows are chosen
                validation = [answer.validation_metrics(task)["macro_f1"] for answer in by_seed.values()]
                scores[name][method] = {**scores[name][method], "validation_macro_f1": float(np.mean(validation))}
    few = {f"{FEW:g}": scores.pop(f"{FEW:g}")}
    return {"classification": scores, "few_shot": few}


def _differences(scoring: Scoring, answered: _Answered, name: str) -> MethodScores:
    """Subtract from each method its rival, which is named, on the same drawn days or sessions."""
    task = answered.tasks[name]
    answers = answered.answers[name]
    clusters = scoring.split.clusters_of(task)
    return {
        method: {
            "rival": rival,
            **difference_scores(answers[method].values(), answers[rival].values(), task, clusters),
        }
        for method, rival in RIVALS.items()
        if method in answers and rival in answers
    }


def _caption_words(scoring: Scoring, style: str) -> MethodScores:
    """Score what the captions of a style give away of the labels, by words and pairs of words."""
    split = scoring.split
    task = split.tasks["labelled"]
    rows = task.rows()
    captions = np.full(len(split.windows), "", dtype=object)
    texts = caption_windows(split.windows.take(rows), split.home.folder.layout, style)
    captions[rows] = [of_window[0] for of_window in texts]
    answer = tfidf_captions(captions.tolist(), task, progress=False)
    return method_scores({"tfidf_captions": {ONCE: answer}}, task, split.clusters_of(task))


def score_finetuned(home: HomeFolder, configs: Sequence[FinetuneConfig]) -> Scores:
    """Score a row's fine-tuned classifiers, one a seed: their numbers over seeds, and under `seeds` each one's."""
    windows = read_table(home.windows, WINDOWS)
    evaluated = EvaluationHome(home, EvaluationInputs(windows, [], np.zeros((0, 0))))
    split = make_split("chronological", evaluated, trained_in=True, max_windows=None, for_analysis=True)
    row_of = {name: row for row, name in enumerate(split.windows["window_id"].to_pylist())}
    answers: dict[str, Prediction] = {}
    validation = []
    for config in configs:
        chosen = load_chosen(config)
        _refuse_other_windows(config, chosen)
        answer = predict_finetuned(config, chosen)
        answers[str(config.seed)] = answer
        validation.append(answer.validation_metrics(make_chosen_task(chosen))["macro_f1"])
    rows = np.array([row_of[name] for name in chosen["test"].table["window_id"].to_pylist()])
    y = np.full(len(split.windows), None, dtype=object)
    y[rows] = chosen["test"].labels
    nothing = np.zeros(0, dtype=np.int64)
    task = Task(y, nothing, nothing, rows)
    scores = method_scores({"finetuned": answers}, task, split.clusters_of(task))["finetuned"]
    return {**scores, "validation_macro_f1": float(np.mean(validation))}


def _refuse_other_windows(config: FinetuneConfig, chosen: Mapping[str, LabelledWindows]) -> None:
    """Refuse a run that learned from other few windows, as those did that an older version drew."""
    learned_from = read_json(Path(config.out) / "results.json")["data"]["windows"]
    counts = {name: len(part) for name, part in chosen.items()}
    if learned_from != counts:
        raise ValueError(
            f"{config.out}: learned from {learned_from} windows, few_shot {config.few_shot} draws {counts} by now. "
            "Remove the folder and run the command again."
        )


def score_transfer(runs: Sequence[Path], target: Path, out: Path) -> PageRow:
    """Score `leave_home_out` by `casita evaluate`: fitted on the homes of the training, tested in `target`."""
    results = evaluate_run(runs, target=target, out=out, protocol="leave_home_out", progress=False)
    return {"classification": results["protocols"]["leave_home_out"]["classification"]}
