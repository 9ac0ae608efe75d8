"""Sentences that stand for an activity label, for answers without training on labels.

Written by hand, a few for each label, in the `activities` of the shipped layouts; a label that nobody described is
turned into sentences from its own words. They speak of activities and are made apart from the captions, which speak of
rooms, sensors and times: a match between the two is one of meaning, not of template.
"""

import re
from collections.abc import Iterable

FALLBACK = ("Somebody is doing this: {words}.", "The activity is {words}.", "A person is busy with {words}.")


def label_words(label: str) -> str:
    """`"R1_Personal_Hygiene"` -> `"personal hygiene"`, `"prepBreakfast"` -> `"prep breakfast"`.

    `R1`, `R2`, ... in front say which resident it was and not what was done.
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    words = " ".join(re.split(r"[\s_/-]+", spaced)).strip()
    words = re.sub(r"^R\d+ (?=\S)", "", words, flags=re.IGNORECASE)
    return " ".join(word if word.isupper() and len(word) < 4 else word.lower() for word in words.split())


def label_prompts(layout: dict, activities: Iterable[str]) -> dict[str, list[str]]:
    """Sentences for each label of `activities`, in their order.

    From `layout["activities"]`, where case, blanks, underscores and a leading R1, R2 make no difference; else from the
    label's own words. `ValueError` for a label without any letter or digit.
    """
    written = {label_words(label).casefold(): told["prompts"] for label, told in layout.get("activities", {}).items()}
    # A home may tell its residents apart; then the exact label comes first.
    exact = {label: told["prompts"] for label, told in layout.get("activities", {}).items()}
    prompts = {}
    for label in dict.fromkeys(activities):
        words = label_words(label)
        if not re.search(r"\w", words):
            raise ValueError(
                f"activity label {label!r} holds no word. Give it one in the log, or leave its events unlabelled."
            )
        found = exact.get(label) or written.get(words.casefold())
        prompts[label] = list(found) if found else [sentence.format(words=words) for sentence in FALLBACK]
    return prompts
