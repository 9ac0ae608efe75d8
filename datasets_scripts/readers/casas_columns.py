"""Which column of a CASAS text log is what: named by the caller, or detected from its first lines.

Columns are tokens: what lies between blanks or tabs. Known orders are

    date time sensor state [label]                         milan, aruba, kyoto ...
    date time sensor state type [label]                    with the maker's sensor type, "Control4-Motion"
    date time sensor room [area] state [type] [label]      the hh homes and UCI 506
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from casita.datasets_scripts.readers.events_table import mend_state
from casita.processing.sensor_states import WORDS

EXPECTED = (
    "expected CASAS text, `date time sensor state [label]` such as `2009-10-16 08:00:01.5 M017 ON`, or the CSV pair "
    "devices.csv (time,device,value) + activities.csv"
)
COLUMNS = ("date", "time", "timestamp", "sensor", "room", "area", "state", "type", "activity", "marker", "-")
DATE = re.compile(r"[0-9]{4}[-/][0-9]{2}[-/][0-9]{2}")
_ISO_START = re.compile(DATE.pattern + "T[0-9]")


@dataclass(frozen=True)
class Columns:
    """The meaning of a line's tokens, counted from 0; `time` is None where date and time are one token (`...T...`)."""

    date: int
    time: int | None
    sensor: int
    state: int
    label: int | None  # the first token of the label
    behind_label: int  # tokens behind the label
    names: str  # as `--columns` would name them

    @property
    def fewest_tokens(self) -> int:
        """Return how many tokens a line must have at least."""
        return 1 + max(self.date, self.time or 0, self.sensor, self.state)


def parse_columns(names: Sequence[str], sample: Sequence[list[str]]) -> Columns:
    """Return the `Columns` that a caller names; by `sample`, lines as tokens, `timestamp` is one token or two."""
    joined_names = ",".join(names)
    tokens: list[str] = []
    for name in names:
        if name not in COLUMNS:
            raise ValueError(f"--columns {joined_names}: {name!r} is unknown; names are {','.join(COLUMNS)}.")
        tokens += [name]
        if name == "timestamp" and not any(_ISO_START.match(token) for line in sample for token in line):
            tokens[-1:] = ["date", "time"]  # a blank between them makes two tokens
    for name in set(tokens) - {"-"}:
        if tokens.count(name) > 1:
            raise ValueError(
                f"--columns {joined_names}: {name!r} is there {tokens.count(name)} times; once is enough."
            )
    one_token = "timestamp" in tokens
    required = {"sensor", "state"} | (set() if one_token else {"date", "time"})
    if missing := required - set(tokens):
        raise ValueError(
            f"--columns {joined_names}: {' and '.join(sorted(missing))} missing; - stands for an unused column."
        )
    label = tokens.index("activity") if "activity" in tokens else None
    behind = [] if label is None else tokens[label + 1 :]
    if "marker" in tokens and behind[:1] != ["marker"]:
        raise ValueError(f"--columns {joined_names}: marker has to come right behind activity.")
    return Columns(
        date=tokens.index("timestamp" if one_token else "date"),
        time=None if one_token else tokens.index("time"),
        sensor=tokens.index("sensor"),
        state=tokens.index("state"),
        label=label,
        behind_label=len(behind) - ("marker" in behind),
        names=joined_names,
    )


def detect_columns(sample: Sequence[list[str]], path: Path) -> Columns:
    """Detect `Columns` in lines as tokens; the state is the first column behind the sensor that reads like one."""
    dated = [line for line in sample if line and DATE.match(line[0])]
    if not dated:
        first = " ".join(next((line for line in sample if line), ["nothing"]))
        raise ValueError(f"{path}: {EXPECTED}; found {first[:80]!r}. Give a log, or name its columns with --columns.")
    start = ["timestamp"] if _ISO_START.match(dated[0][0]) else ["date", "time"]
    sensor = len(start)
    for places in ([], ["room"], ["room", "area"]):
        state = sensor + 1 + len(places)
        reading = [_reads_like_a_state(line[state]) for line in dated if len(line) > state]
        if sum(reading) > len(dated) / 2:
            break
    else:
        raise ValueError(
            f"{path}: no column behind the sensor reads like a state ({', '.join(WORDS)} or a number); found "
            f"{' '.join(dated[0])[:80]!r}. Name the columns: --columns date,time,sensor,room,area,state,activity."
        )
    behind = [line[state + 1] for line in dated if len(line) > state + 1]
    kind = ["type"] if behind and all(re.match("Control4[-_]", token) for token in behind) else []
    return parse_columns([*start, "sensor", *places, "state", *kind, "activity", "marker"], dated)


def _reads_like_a_state(token: str) -> bool:
    state, rule = mend_state(token) or ("", "")
    return rule == "number" or state in WORDS
