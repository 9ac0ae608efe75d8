"""Zero-shot by other prompts: centred, of labels with a name alone, and with places named."""

import numpy as np

from casita.datasets_scripts.windows.table import evenly_cut
from casita.train.evaluation.probes import Task, nearest_prompt_tfidf
from casita.train.evaluation.protocol_split import ProtocolSplit
from casita.train.evaluation.scoring import ONCE, Answers, Prompts, Scoring


def named_task(split: ProtocolSplit) -> Task | None:
    """Return the task of the labels with a name alone; None where there are none, or no others.

    Those are the labels for which the layout has prompts; the others are mere numbers.
    """
    labelled = split.tasks["labelled"]
    described = split.home.folder.layout_or_empty.get("activities", {})
    labels = sorted(set(labelled.y[labelled.train]))
    names = [label for label in labels if "prompts" in described.get(label, {})]
    return labelled.only(names) if names and names != labels else None


def usual_windows(split: ProtocolSplit) -> np.ndarray:
    """Return the row numbers of the train windows as a day brings them, labelled or not."""
    trained = np.array(split.windows["split"].to_pylist(), dtype=object) == "train"
    return np.flatnonzero(trained & evenly_cut(split.windows))


def predict_centred(scoring: Scoring, task: Task) -> Answers:
    """Answer by `zero_shot_centred`: less each label's mean over the usual train windows, whose labels it ignores."""
    prompts = scoring.prompts(task)
    answers = scoring.zero_shot(task, prompts, centre_on=usual_windows(scoring.split))
    return {"zero_shot_centred": answers} if answers else {}


def predict_placed(scoring: Scoring, task: Task, places: Prompts) -> Answers:
    """Answer from prompts of somebody who knows where each activity is done; `{}` where `places` lacks a label."""
    labels = sorted(set(task.y[task.train]))
    if not set(labels) <= set(places):
        return {}
    prompts = {label: places[label] for label in labels}
    answers = {
        "zero_shot_placed": scoring.zero_shot(task, prompts),
        "zero_shot_placed_centred": scoring.zero_shot(task, prompts, centre_on=usual_windows(scoring.split)),
        "nearest_prompt_tfidf_placed": {ONCE: nearest_prompt_tfidf(scoring.split.captions, prompts, task)},
    }
    return {method: by_seed for method, by_seed in answers.items() if by_seed}
