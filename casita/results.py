"""results.json, the contract between evaluation, report, results page and cards: types, and the name of each method.

A method has one key wherever its numbers stand, and one name wherever a person reads them: `METHODS` are those of
`casita evaluate`, `PAGE_METHODS` those that docs/RESULTS.md has beside them.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

# Metric -> number; `<metric>_sd` a deviation over seeds, `<metric>_ci` the two bounds of an interval, `seeds` the
# numbers of each seed. Metrics of classification: accuracy, balanced_accuracy, macro_f1, weighted_f1, ece; of one
# class: precision, recall, f1, support; of rankings: recall_at_1/5/10, mrr, map, ndcg_at_10, queries, candidates; of
# clusters: ari, nmi, clusters.
Scores = Mapping[str, Any]
MethodScores = Mapping[str, Scores]


class ModelSummary(TypedDict):
    """The settings that name a run, and the model's size."""

    preset: str
    embedding_source: str
    vision_model: str
    text_model: str
    caption_style: str
    pooling: str
    seed: int
    parameters: int


class IntervalSettings(TypedDict):
    """The intervals' level, the number of resamples, and the units that were resampled."""

    level: float
    resamples: int
    over: str


class EvaluationSettings(TypedDict):
    """The settings of an evaluation, and the command that repeats it."""

    protocol: str
    protocols: list[str]
    runs: list[str]
    learned: list[str]
    seeds: int
    max_windows: int
    c_grid: list[float]
    few_shot: list[float]
    intervals: IntervalSettings
    command: str


class SplitSummary(TypedDict):
    """The numbers of windows, labelled windows, sessions and days of a split, and the windows of each label."""

    windows: int
    labelled: int
    sessions: int
    days: int
    labels: Mapping[str, int]


class DataSummary(TypedDict):
    """Settings by which windows were cut (`sampling`), the content of each split, and events shared between splits."""

    sampling: Mapping[str, Any]
    splits: Mapping[str, SplitSummary]
    labels: list[str]
    leak_audit: Mapping[str, int]


class BootstrapUnits(TypedDict):
    """The units that intervals resample, days for example, and their number in the test split."""

    unit: str
    units: int


class ProtocolSummary(TypedDict):
    """A protocol's division of the windows: `description` in words, `seen_share` the share of the test windows whose
    events the encoder was trained on; `sources` and what follows where the test home is another one."""

    description: str
    leaky: bool
    seen_share: float
    level: Literal["fine", "coarse"]
    split_by: str
    leak_audit: Mapping[str, int]
    splits: Mapping[str, SplitSummary]
    intervals: BootstrapUnits
    seed: NotRequired[int]
    purged_windows: NotRequired[int]
    sources: NotRequired[list[str]]
    target: NotRequired[str]
    labels_not_in_sources: NotRequired[list[str]]


class CalibrationBin(TypedDict):
    """A bin of confidence that holds windows: its bounds, and their mean confidence, accuracy and number."""

    low: float
    high: float
    confidence: float
    accuracy: float
    windows: int


class ReliabilityCurve(TypedDict):
    """Accuracy by confidence, and the expected calibration error."""

    bins: list[CalibrationBin]
    ece: float


class ProtocolResults(TypedDict):
    """The numbers under one protocol; a part that it does not have is named in `left_out`, with the reason.

    Keys from outside in: `classification` variant, method; `per_class` method, label; `few_shot` share of the labels,
    method; `retrieval` method, direction; `caption_styles` style, method, direction; `paraphrases` method, and under
    `per_label` this model's scores by label.
    """

    about: ProtocolSummary
    classification: Mapping[str, MethodScores]
    per_class: NotRequired[Mapping[str, MethodScores]]
    calibration: NotRequired[Mapping[str, ReliabilityCurve]]
    few_shot: NotRequired[Mapping[str, MethodScores]]
    retrieval: NotRequired[Mapping[str, MethodScores]]
    caption_styles: NotRequired[Mapping[str, Mapping[str, MethodScores]]]
    paraphrases: NotRequired[MethodScores]
    clustering: NotRequired[MethodScores]
    left_out: Mapping[str, str]


class Results(TypedDict):
    """The content of results.json; `protocols` begins with the headline protocol."""

    casita_version: str
    run: str
    home: str
    model: ModelSummary
    settings: EvaluationSettings
    data: DataSummary
    timing_s: Mapping[str, float]
    headline: list[Scores]
    protocols: Mapping[str, ProtocolResults]
    plots: NotRequired[list[str]]


class Method(NamedTuple):
    """A method as people read of it: its name, and a sentence on what it does."""

    title: str
    description: str


OWN_METHODS = ("linear_probe", "layer_probe", "zero_shot")  # those of the evaluated model; all others are baselines

METHODS: dict[str, Method] = {
    "casita": Method("This model", "the evaluated model's embeddings as they are, with nothing fitted to them."),
    "linear_probe": Method("Linear probe", "logistic regression on this model's frozen embedding of a window."),
    "layer_probe": Method(
        "Probe of the last layers",
        "logistic regression on the means and the maxima over the window's events of the last four layers, side by "
        "side; what the first one reads counts as one. Earlier layers keep more of the window than the embedding.",
    ),
    "zero_shot": Method(
        "Zero-shot",
        "no label was used to answer; a window gets the activity whose written prompts lie nearest. One temperature, "
        "fitted on validation windows, sets how sure the answers are (ECE), and changes none.",
    ),
    "finetuned": Method("Fine-tuned classifier", "a head on the encoder, trained with it or on it frozen."),
    "learned": Method(
        "Learned embeddings",
        "linear probe on a model of the same size, trained in the same way, whose sensor embeddings are learned and "
        "not pictures.",
    ),
    "random_encoder": Method(
        "Untrained encoder",
        "linear probe on the same architecture and table before any training: what both give for free.",
    ),
    "random_layers": Method(
        "Untrained encoder, last layers",
        "the probe of the last layers on the same architecture and table before any training.",
    ),
    "bag_of_sensors": Method(
        "Bag of sensors",
        "logistic regression on how often each sensor state occurs in the window: no order, no model.",
    ),
    "bag_of_rooms": Method(
        "Bag of rooms",
        "logistic regression on the words of the rooms that events are in, which homes share though no sensor is.",
    ),
    "tfidf_captions": Method(
        "Caption words",
        "logistic regression on tf-idf of the window's caption: what the wording alone gives away.",
    ),
    "nearest_prompt_tfidf": Method(
        "Nearest prompt by words",
        "zero-shot without a model: the activity whose prompts share most words (tf-idf) with the window's caption.",
    ),
    "caption_only": Method(
        "Captions by frequency",
        "captions in the order of how many train windows have them, one and the same for every window.",
    ),
    "majority": Method("Majority", "always the most frequent activity of the train split."),
    "chance": Method("Chance", "a guess among the train split's activities."),
}
WITH_CONTEXT = "with the two windows before"
WITH_MINUTES = f"{WITH_CONTEXT} and the minutes since the session began"
PAGE_METHODS: dict[str, Method] = {
    "linear_probe_hour": Method("Linear probe, with the hour of the day", "the hour beside the embedding."),
    "linear_probe_context": Method(f"Linear probe, {WITH_CONTEXT}", "their embeddings beside the window's own."),
    "linear_probe_context_minutes": Method(f"Linear probe, {WITH_MINUTES}", "the five minutes it is in, too."),
    "linear_probe_shuffled": Method(
        "Linear probe, events of each window in random order", "fitted and asked without the order."
    ),
    "zero_shot_centred": Method(
        "Zero-shot, less each label's mean over train windows", "what a label scores anyhow counts nothing."
    ),
    "zero_shot_placed": Method(
        "Zero-shot, prompts that name places", "prompts of somebody who knows where each activity is done."
    ),
    "zero_shot_placed_centred": Method(
        "Zero-shot, prompts that name places, less each label's mean over train windows", "both of these."
    ),
    "random_encoder_context": Method(f"Untrained encoder, {WITH_CONTEXT}", "as of the linear probe."),
    "random_encoder_context_minutes": Method(f"Untrained encoder, {WITH_MINUTES}", "as of the linear probe."),
    "bag_of_sensors_log": Method("Bag of sensors, log counts", "logistic regression on log (1 + count)."),
    "bag_of_sensors_context": Method(f"Bag of sensors, log counts, {WITH_CONTEXT}", "their counts beside its own."),
    "bag_of_sensors_context_minutes": Method(f"Bag of sensors, log counts, {WITH_MINUTES}", "both beside its counts."),
    "nearest_prompt_tfidf_placed": Method(
        "Nearest prompt by words, prompts that name places", "the same prompts by tf-idf of words."
    ),
}


def method_title(method: str) -> str:
    """Return the name that people read, for use within a sentence: `Linear probe` -> `linear probe`."""
    title = (METHODS | PAGE_METHODS)[method].title
    return title[0].lower() + title[1:]
