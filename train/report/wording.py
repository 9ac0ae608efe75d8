"""The words of a report: what methods, metrics and protocols are called, and what their numbers come to."""

from collections.abc import Mapping
from typing import Any

from casita.results import METHODS, OWN_METHODS

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
RETRIEVERS = {
    "casita": "this model",
    "learned": "learned twin",
    "random_encoder": "untrained encoder",
    "caption_only": "captions by frequency",
    "tfidf_captions": "caption words",
    "chance": "chance",
}
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
    """A label as words: `R1_Bed_to_Toilet` -> `R1 bed to toilet`."""
    first, *others = label.replace("_", " ").split(" ")
    return " ".join([first, *(word.lower() if not word.isupper() else word for word in others)])


def method_name(method: str) -> str:
    """What a method is called; one that this version does not know by its own name."""
    return METHODS.get(method, (readable(method), ""))[0]


def protocol_name(protocol: str) -> str:
    return PROTOCOLS.get(protocol, readable(protocol))


def headline_protocol(results: Mapping[str, Any]) -> str:
    """The protocol whose numbers come first."""
    return next(iter(results["protocols"]))


def opening(results: Mapping[str, Any]) -> str:
    """What was evaluated on what, in a sentence or two."""
    model, test = results["model"], results["data"]["splits"]["test"]
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


def _about(results: Mapping[str, Any]) -> Mapping[str, Any]:
    return results["protocols"][headline_protocol(results)].get("about", {})


def _seen(results: Mapping[str, Any]) -> str:
    """What the encoder knew of the test windows."""
    seen = _about(results).get("seen_share") or 0
    if not seen:
        return "the model was not trained on them"
    return f"of {100 * seen:.0f}\N{NO-BREAK SPACE}% of them the encoder had read events, without labels, in training"


def leaky_line(results: Mapping[str, Any]) -> str:
    """A warning where the headline itself is of a leaky protocol, else nothing."""
    if not _about(results).get("leaky"):
        return ""
    return (
        f"The headline is of a leaky protocol ({headline_protocol(results)}): train and test windows share events or "
        "hours, and its numbers are no claim. See a protocol that divides by days, sessions or homes."
    )


def verdict(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The comparisons that matter, as one sentence: the probe and the best baseline, and zero-shot without labels."""
    probe = rows["linear_probe"]
    others = [name for name in rows if name not in OWN_METHODS]
    best = max(others, key=lambda name: rows[name]["macro_f1"])
    gap = 100 * (probe["macro_f1"] - rows[best]["macro_f1"])
    stands, surely = "level with", ""
    if abs(gap) >= 0.05:
        stands = f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'}"
        surely = _how_surely(probe, rows[best])
    told = (
        f"From its frozen embeddings a linear probe names the activity with {_percent(probe)} macro F1, {stands} the "
        f"best baseline ({method_name(best).lower()}, {_percent(rows[best])}){surely}"
    )
    if "zero_shot" in rows:
        floor = next(name for name in ("nearest_prompt_tfidf", "majority", best) if name in rows)
        told += (
            f"; asked in words alone, without any label, it reaches {_percent(rows['zero_shot'])}, beside "
            f"{_percent(rows[floor])} for {method_name(floor).lower()}"
        )
    return f"{told}."


def _percent(row: Mapping[str, Any]) -> str:
    return f"{100 * row['macro_f1']:.1f}\N{NO-BREAK SPACE}%"


def _how_surely(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Whether two rows' intervals of macro F1 leave their order open; nothing where one has no interval."""
    if "macro_f1_ci" not in one or "macro_f1_ci" not in other:
        return ""
    (low, high), (other_low, other_high) = one["macro_f1_ci"], other["macro_f1_ci"]
    if low > other_high or high < other_low:
        return ", and their intervals do not overlap"
    return ", but their intervals overlap"


def sampling_line(sampling: Mapping[str, Any]) -> str:
    """How the windows were cut."""
    durations_s = [d for d in (sampling.get("duration_s"), *(sampling.get("durations_s") or ())) if d]
    size = f"{' or '.join(f'{d:g}' for d in durations_s)} seconds" if durations_s else f"{sampling['length']} events"
    more = f", in the train split by {100 * share:.0f} %" if (share := sampling.get("train_overlap")) else ""
    return f"Windows of {size}, overlapping by {100 * sampling['overlap']:.0f} %{more}."


def presegmented_line(sampling: Mapping[str, Any]) -> str:
    """A warning where the cuts knew the labels, else nothing."""
    if not sampling["presegment"]:
        return ""
    return "They were cut where the true labels change, in the test split too: easier than a stream is."


def leak_line(audit: Mapping[str, int]) -> str:
    """The leak audit in a sentence."""
    return "Events shared between splits: " + ", ".join(f"{pair} {count}" for pair, count in audit.items()) + "."


def seed_note(results: Mapping[str, Any]) -> str:
    """What the spreads mean, and how fine the numbers are."""
    rows = results["protocols"][headline_protocol(results)]["classification"]["labelled"]
    settings = results["settings"]
    runs = len(settings.get("runs", [""]))
    own = f"of this model they are {runs} trainings, " if runs > 1 else ""
    told = [
        f"± is the standard deviation over seeds: {own}of the untrained encoder {settings['seeds']} random "
        "initialisations; what has no ± has one run or nothing random."
    ]
    if any(key.endswith("_ci") for row in rows.values() for key in row):
        how = settings.get("intervals", {})
        level = f"{100 * how['level']:g} % " if "level" in how else ""
        told.append(f"With a number goes its {level}interval over resampled {how.get('over', 'test windows')}.")
    labelled, most = results["data"]["splits"]["test"]["labelled"], settings["max_windows"]
    told.append(
        "Macro F1 and balanced accuracy are means over the activities of the test split; one of its labelled windows "
        f"is {100 / labelled:.2g} points of accuracy. Each probe was fitted on at most {most} train windows, evenly "
        "spaced, and chose C on validation."
    )
    return " ".join(told)


def absent(results: Mapping[str, Any]) -> dict[str, str]:
    """What the headline protocol leaves out, by its title, and why."""
    scores = results["protocols"][headline_protocol(results)]
    reasons = scores.get("left_out", {})
    missing = {key: reasons.get(key, "this evaluation did not measure it.") for key in SECTIONS if key not in scores}
    others = {key: told for key, told in reasons.items() if key not in SECTIONS and key not in scores}
    return {part_name(key): told for key, told in (missing | others).items()}


def part_name(key: str) -> str:
    """What a part of a protocol's results is called."""
    return SECTIONS.get(key) or VARIANTS.get(key) or readable(key)
