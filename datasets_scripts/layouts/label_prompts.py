"""Sentences that stand for an activity label, for answers without training on labels; and labels' coarse ones.

Written by hand, for each label of the shipped layouts (`activities`) and for each coarse label
(`layouts/coarse_activities.json`): `prompts`, several wordings; `short`, two to four words; `long`, a sentence or two.
A label that nobody described is turned into sentences from its own words. They speak of activities and are made apart
from the captions, which speak of rooms, sensors and times: a match between the two is one of meaning, not of template.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from casita.datasets_scripts.layouts.layout import ActivityTexts, Layout, coarse_activities

FALLBACK = ("Somebody is doing this: {words}.", "The activity is {words}.", "A person is busy with {words}.")
STYLES = ("prompts", "short", "long")
LEVELS = ("fine", "coarse")

Texts = TypeVar("Texts", bound=ActivityTexts)


def label_words(label: str) -> str:
    """Return a label as words: `"R1_Personal_Hygiene"` -> `"personal hygiene"`, `"prepLunch"` -> `"prep lunch"`.

    `R1`, `R2`, ... in front say which resident it was and not what was done.
    """
    words = re.sub(r"^R\d+ (?=\S)", "", _spaced(label), flags=re.IGNORECASE)
    return " ".join(word if word.isupper() and len(word) < 4 else word.lower() for word in words.split())


def _spaced(label: str) -> str:
    return " ".join(re.split(r"[\s_/-]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label))).strip()


def _find(activities: Mapping[str, Texts], label: str) -> Texts | None:
    """Return the entry of `activities` for a label, where case, blanks and underscores make no difference.

    A home may have entries for each resident; else a leading R1, R2 makes no difference either.
    """
    if label in activities:
        return activities[label]
    for spelling in (lambda name: _spaced(name).casefold(), lambda name: label_words(name).casefold()):
        for name, activity in activities.items():
            if spelling(name) == spelling(label):
                return activity
    return None


def coarse_labels(layout: Layout, labels: Iterable[str]) -> dict[str, str]:
    """Map each label to its coarse one, by `layout["activities"]`: `{"Morning_Meds": "Take_medicine", ...}`.

    Raises:
        ValueError: labels that the layout does not map; the message names them.
    """
    activities = layout.get("activities", {})
    activity_of = {label: _find(activities, label) for label in dict.fromkeys(labels)}
    if lacking := [label for label, activity in activity_of.items() if activity is None]:
        raise ValueError(
            f"{layout.get('home')}: the layout has no coarse label for {', '.join(map(repr, lacking[:5]))}"
            f"{', ...' if len(lacking) > 5 else ''}; it has {', '.join(sorted(activities)) or 'none'}. Add "
            f'activities: {{{lacking[0]!r}: {{"coarse": ...}}}} to the layout, or use the fine labels.'
        )
    return {label: activity["coarse"] for label, activity in activity_of.items() if activity is not None}


def label_prompts(
    layout: Layout, labels: Iterable[str], style: str = "prompts", level: str = "fine"
) -> dict[str, list[str]]:
    """Return texts for each of `labels`, in their order: several sentences, or one text with `short` and `long`.

    Args:
        labels: as in the log, with `level="fine"`, described by `layout["activities"]`; or coarse ones (the values of
            `coarse_labels`), with `level="coarse"`, described for all homes alike.

    Raises:
        ValueError: a label without any letter or digit, or an unknown style or level.
    """
    if style not in STYLES or level not in LEVELS:
        raise ValueError(
            f"style={style!r}, level={level!r}: expected one of {', '.join(STYLES)}; {' or '.join(LEVELS)}."
        )
    activities: Mapping[str, ActivityTexts]
    activities = coarse_activities() if level == "coarse" else layout.get("activities", {})
    texts = {}
    for label in dict.fromkeys(labels):
        words = label_words(label)
        if not re.search(r"\w", words):
            raise ValueError(
                f"activity label {label!r} holds no word. Give it one in the log, or leave its events unlabelled."
            )
        activity: Mapping[str, Any] = _find(activities, label) or {}
        sentences = [sentence.format(words=words) for sentence in FALLBACK]  # where nobody described the label
        written = activity.get(style) or {"prompts": sentences, "short": words, "long": sentences[0]}[style]
        texts[label] = [written] if isinstance(written, str) else list(written)
    return texts
