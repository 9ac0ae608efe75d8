"""Sensor states as they should read: one spelling for each, so that a vocabulary does not hold a typing error.

Pure Python on single strings: map the unique states of a log, not its lines. The rules come from noise that is really
in recordings (CASAS Kyoto and Milan); each is tried in turn and the first that fits decides.

    rule            raw                                         becomes
    number          2.79637  -3.5  034                          itself (a reading keeps its text)
    trailing noise  ON` ON0 ON+ ON12-end OFF5 OFFc CLOSE7.3     the word before the noise
    cut short       O OF                                        ON OFF
    spelling        CLOSED OPENED true FALSE                    CLOSE OPEN ON OFF
    case and signs  on START_INSTRUCT <do>idle</do> ERROR:      upper case, "-" for all but letters, digits, . and +

No state ever holds an underscore (a key is `sensor_STATE`) nor anything that a file name could not hold.
"""

import re

WORDS = ("ON", "OFF", "OPEN", "CLOSE", "PRESENT", "ABSENT", "MOVED", "STILL")

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
# Annotators typed notes right behind the state ("ON12-end"). A hyphen, blank or underscore there makes a new word.
_NOISE_BEHIND_WORD = re.compile(rf"({'|'.join(WORDS)})[^A-Z_\s-].*", re.DOTALL)
# One stray small letter behind a word in capitals ("OFFc"); "ONE" in capitals is left alone.
_LETTER_BEHIND_WORD = re.compile(rf"({'|'.join(WORDS)})[a-z]")
# "O" could be ON or OFF; ON is what the reference system takes it for, and there is no other evidence.
_CUT_SHORT = {"O": "ON", "OF": "OFF"}
_SPELLING = {"CLOSED": "CLOSE", "OPENED": "OPEN", "TRUE": "ON", "FALSE": "OFF"}
_UNSAFE = re.compile(r"(?:[^\w.+]|_)+")


def normalize_state(raw: str) -> str:
    """Return the state that `raw` means, in upper case, without noise and "_"; `ValueError` if nothing is left."""
    return normalize_state_by_rule(raw)[0]


def normalize_state_by_rule(raw: str) -> tuple[str, str]:
    """Return the state as `normalize_state`, and the name of the rule that decided (see the module's table)."""
    text = raw.strip()
    upper = text.upper()
    if _NUMBER.fullmatch(text):
        return upper, "number"
    if match := _LETTER_BEHIND_WORD.fullmatch(text) or _NOISE_BEHIND_WORD.fullmatch(upper):
        return match[1], "trailing noise"
    if upper in _CUT_SHORT:
        return _CUT_SHORT[upper], "cut short"
    if upper in _SPELLING:
        return _SPELLING[upper], "spelling"
    plain = _UNSAFE.sub("-", upper).strip("-")
    if not plain:
        raise ValueError(
            f"state {raw!r}: expected a word or a number, such as ON or 21.5; mend or leave out the event."
        )
    # Once more without the unsafe characters: "O~" is an O, which is cut short. So a normal state always stays.
    return (plain, "case and signs") if plain == upper else normalize_state_by_rule(plain)


def state_value(state: str) -> float | None:
    """Return the reading of a numeric state, `"21.5"` -> 21.5; None for a word."""
    return float(state) if _NUMBER.fullmatch(state) else None
