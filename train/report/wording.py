"""The words of a report: the names of methods, metrics and protocols, and what their numbers come to."""

from collections.abc import Mapping
from typing import Any

from casita.results import METHODS, OWN_METHODS, MethodScores, ProtocolResults, Results, Scores

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced acc.",
    "macro_f1": "macro F1",
    "weighted_f1": "weighted F1",
    "ece": "ECE",
}
RETRIEVAL = {
    "recall_at_1": "R@1",
    "recall_at_5": "R@5",
    "recall_at_10": "R@10",
    "mrr": "MRR",
    "map": "mAP",
    "ndcg_at_10": "nDCG@10",
}
DIRECTIONS = {"sensor_to_text": "window → caption", "text_to_sensor": "caption → window"}
VARIANTS = {
    "labelled": "Labelled windows",
    "with_unlabelled": "With the unlabelled windows as a class of their own",
    "without_other": "Without “Other”",
}
PROTOCOLS = {
    "chronological": "Later days",
    "random_days": "Random days",
    "random_sessions": "Random sessions",
    "leave_home_out": "Another home",
    "shuffled_segments": "Shuffled segments",
}
SECTIONS = {  # a key of a protocol's results -> what is left out where it is absent
    "few_shot": "How many labels it needs",
    "paraphrases": "Written sentences that find windows",
    "retrieval": "Captions and windows",
    "caption_styles": "Captions in another style",
    "per_class": "Activity by activity",
    "clustering": "Groups without labels",
    "calibration": "How sure it is",
}


def readable(label: str) -> str:
    """Write a label as words: `R1_Bed_to_Toilet` -> `R1 bed to toilet`."""
    first, *others = label.replace("_", " ").split(" ")
    return " ".join([first, *(word.lower() if not word.isupper() else word for word in others)])


def title_of(key: str) -> str:
    """Return the title of a method, protocol, variant or section; of one that this version does not know its key as
    words."""
    if key in METHODS:
        return METHODS[key].title
    return (SECTIONS | VARIANTS | PROTOCOLS).get(key) or readable(key)


def headline_protocol(results: Results) -> str:
    """Return the protocol whose numbers come first."""
    return next(iter(results["protocols"]))


def opening(results: Results) -> str:
    """Say in a sentence or two what was evaluated on what."""
    model = results["model"]
    test = results["data"]["splits"]["test"]
    source = (
        f"pictures embedded by {model['vision_model']}"
        if model["embedding_source"] == "image"
        else "learned embeddings"
    )
    return (
        f"Preset {model['preset']} ({model['parameters'] / 1e6:.1f} M parameters), events as {source}, aligned with "
        f"{model['caption_style']} captions embedded by {model['text_model']}, seed {model['seed']}. "
        f"Tested on {test['windows']} windows ({test['labelled']} labelled) of {test['days']} days, protocol "
        f"{headline_protocol(results)}; {_seen(results)}."
    )


def headline_scores(results: Results) -> ProtocolResults:
    """Return the numbers of the headline protocol."""
    return results["protocols"][headline_protocol(results)]


def _seen(results: Results) -> str:
    """Say what the encoder knew of the test windows."""
    seen_share = headline_scores(results)["about"]["seen_share"]
    if not seen_share:
        return "the model was not trained on them"
    percent = f"{100 * seen_share:.0f}\N{NO-BREAK SPACE}%"
    return f"of {percent} of them the encoder had read events, without labels, in training"


def leaky_line(results: Results) -> str:
    """Warn where the headline itself is of a leaky protocol; empty where it is not."""
    if not headline_scores(results)["about"]["leaky"]:
        return ""
    return (
        f"The headline is of a leaky protocol ({headline_protocol(results)}): train and test windows share events or "
        "hours, and its numbers are no claim. See a protocol that divides by days, sessions or homes."
    )


def verdict(rows: MethodScores) -> str:
    """Say the comparisons that matter in one sentence: probe and best baseline, and zero-shot without labels."""
    probe = rows["linear_probe"]
    baselines = [name for name in rows if name not in OWN_METHODS]
    best = max(baselines, key=lambda name: rows[name]["macro_f1"])
    gap = 100 * (probe["macro_f1"] - rows[best]["macro_f1"])
    comparison = "level with"
    certainty = ""
    if abs(gap) >= 0.05:
        comparison = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
        certainty = _certainty(probe, rows[best])
    sentence = (
        f"From its frozen embeddings a linear probe names the activity with {_percent(probe)} macro F1, {comparison} "
        f"the best baseline ({title_of(best).lower()}, {_percent(rows[best])}){certainty}"
    )
    if "zero_shot" in rows:
        floor = next(name for name in ("nearest_prompt_tfidf", "majority", best) if name in rows)
        sentence += (
            f"; asked in words alone, without any label, it reaches {_percent(rows['zero_shot'])}, beside "
            f"{_percent(rows[floor])} for {title_of(floor).lower()}"
        )
    return f"{sentence}."


def _percent(row: Scores) -> str:
    return f"{100 * row['macro_f1']:.1f}\N{NO-BREAK SPACE}%"


def _certainty(one: Scores, other: Scores) -> str:
    """Say whether two rows' intervals of macro F1 leave their order open; empty where one has no interval."""
    if "macro_f1_ci" not in one or "macro_f1_ci" not in other:
        return ""
    low, high = one["macro_f1_ci"]
    other_low, other_high = other["macro_f1_ci"]
    if low > other_high or high < other_low:
        return ", and their intervals do not overlap"
    return ", but their intervals overlap"


def sampling_line(sampling: Mapping[str, Any]) -> str:
    """Say how the windows were cut."""
    durations_s = [d for d in (sampling.get("duration_s"), *(sampling.get("durations_s") or ())) if d]
    size = f"{' or '.join(f'{d:g}' for d in durations_s)} seconds" if durations_s else f"{sampling['length']} events"
    more = f", in the train split by {100 * share:.0f} %" if (share := sampling.get("train_overlap")) else ""
    return f"Windows of {size}, overlapping by {100 * sampling['overlap']:.0f} %{more}."


def presegmented_line(sampling: Mapping[str, Any]) -> str:
    """Warn where the cuts knew the labels; empty where they did not."""
    if not sampling["presegment"]:
        return ""
    return "They were cut where the true labels change, in the test split too: easier than a stream is."


def leak_line(audit: Mapping[str, int]) -> str:
    """Write the leak audit as a sentence."""
    return "Events shared between splits: " + ", ".join(f"{pair} {count}" for pair, count in audit.items()) + "."


def seed_note(results: Results) -> str:
    """Explain the spreads, and say how fine the numbers are."""
    rows = headline_scores(results)["classification"]["labelled"]
    settings = results["settings"]
    runs = len(settings["runs"])
    trainings = f"of this model they are {runs} trainings, " if runs > 1 else ""
    sentences = [
        f"± is the standard deviation over seeds: {trainings}of the untrained encoder {settings['seeds']} random "
        "initialisations; what has no ± has one run or nothing random."
    ]
    if any(key.endswith("_ci") for row in rows.values() for key in row):
        intervals = settings["intervals"]
        sentences.append(
            f"With a number goes its {100 * intervals['level']:g} % interval over resampled {intervals['over']}."
        )
    labelled = results["data"]["splits"]["test"]["labelled"]
    sentences.append(
        "Macro F1 and balanced accuracy are means over the activities of the test split; one of its labelled windows "
        f"is {100 / labelled:.2g} points of accuracy. Each probe was fitted on at most {settings['max_windows']} "
        "train windows, evenly spaced, and chose C on validation."
    )
    return " ".join(sentences)


def absent(results: Results) -> dict[str, str]:
    """Return what the headline protocol leaves out, by its title, and why."""
    scores = headline_scores(results)
    not_measured = dict.fromkeys(SECTIONS, "this evaluation did not measure it.")
    reasons = not_measured | dict(scores["left_out"])
    return {title_of(key): reason for key, reason in reasons.items() if key not in scores}
