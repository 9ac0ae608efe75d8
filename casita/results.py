"""results.json, the contract between evaluation, report, results page and cards: types, and the name of each method.

A method has one key wherever its numbers stand, and one name wherever a person reads them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, NotRequired, TypedDict

# Metric -> number; `<metric>_sd` a deviation over seeds, `<metric>_ci` the two bounds of an interval, `seeds` the
# numbers of each seed. Metrics of classification: accuracy, balanced_accuracy, macro_f1, weighted_f1, ece; of
# rankings: recall_at_1/5/10, mrr, map, ndcg_at_10, queries, candidates.
Scores = Mapping[str, Any]
MethodScores = Mapping[str, Scores]


class SplitSummary(TypedDict):
    """What a split holds: numbers of windows, labelled windows, sessions and days, and windows of each label."""

    windows: int
    labelled: int
    sessions: int
    days: int
    labels: dict[str, int]


class DataSummary(TypedDict):
    """How the windows were cut (`sampling`), what each split holds, and events shared between splits."""

    sampling: Mapping[str, Any]
    splits: Mapping[str, SplitSummary]
    labels: list[str]
    leak_audit: Mapping[str, int]


class ProtocolResults(TypedDict):
    """The numbers under one protocol; a part that it does not have is named in `left_out`, with the reason."""

    about: Mapping[str, Any]
    classification: Mapping[str, MethodScores]
    per_class: NotRequired[Mapping[str, MethodScores]]
    calibration: NotRequired[MethodScores]
    few_shot: NotRequired[Mapping[str, MethodScores]]
    retrieval: NotRequired[Mapping[str, MethodScores]]
    caption_styles: NotRequired[Mapping[str, Mapping[str, MethodScores]]]
    paraphrases: NotRequired[MethodScores]
    clustering: NotRequired[MethodScores]
    left_out: NotRequired[Mapping[str, str]]


class Results(TypedDict):
    """The content of results.json; `protocols` begins with the headline protocol."""

    casita_version: str
    run: str
    home: str
    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    data: DataSummary
    timing_s: Mapping[str, float]
    headline: list[Scores]
    protocols: Mapping[str, ProtocolResults]
    plots: NotRequired[list[str]]


class Method(NamedTuple):
    """What people read of a method: its name, and a sentence on what it does."""

    title: str
    description: str


OWN_METHODS = ("linear_probe", "layer_probe", "zero_shot")  # those of the evaluated model; all others are baselines

METHODS: dict[str, Method] = {
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
    "majority": Method("Majority", "always the most frequent activity of the train split."),
    "chance": Method("Chance", "a guess among the train split's activities."),
}
