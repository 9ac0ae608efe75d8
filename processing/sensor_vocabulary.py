"""The vocabulary: keys of sensor states, and the row of the table that an event reads.

A key is `M001_ON`, a sensor in a state; where one table holds several homes, `milan/M001_ON`. A call reads the events
of one home, so its name is put before every sensor, and from there on nothing differs.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .event_streams import EventColumns, encode_column
from .event_windows import LEVELS, level_of
from .sensor_states import normalize_state, state_value

PAD, UNK, MASK = 0, 1, 2
NUM_RESERVED_ROWS = 3  # the same number as in the model's configuration; a test holds them together
UNKNOWN = {"error": -1, "skip": -1, "unk": UNK}  # what to do with an unknown event -> its row, -1 for none


class SensorVocabulary:
    """The keys in the order of the table's rows (row 3 is the first one's) and the levels of numeric sensors.

    Args:
        keys: each once; a key twice is a `ValueError`.
        levels: numeric sensor -> (low, high), the bounds by which a reading becomes LOW, NORMAL or HIGH.
        homes: names of the homes whose keys carry them; empty: one home, whose keys carry none.
    """

    def __init__(self, keys: Sequence[str], levels: Mapping[str, Sequence[float]], homes: Sequence[str] = ()):
        if len(set(keys)) != len(keys):
            raise ValueError("vocab holds a key twice; each sensor state has one row.")
        self.keys = keys
        self.levels = levels
        self.homes = homes
        self.row = {key: NUM_RESERVED_ROWS + i for i, key in enumerate(keys)}

    def prefix(self, home: str | None) -> str:
        """Return the text that stands before the sensors of `home`."""
        return f"{home}/" if home in self.homes else ""

    def rows(self, events: EventColumns, home: str | None, unknown: str = "error") -> np.ndarray:
        """Return the `(N,)` row of each event of `home`; -1 marks one to be skipped."""
        if unknown not in UNKNOWN:
            raise ValueError(f"unknown={unknown!r} is none of {', '.join(UNKNOWN)}.")
        pairs, inverse = np.unique(events.sensor * len(events.states) + events.state, return_inverse=True)
        prefix = self.prefix(home)
        missing: dict[str, str] = {}
        rows = []
        for pair in pairs.tolist():
            sensor, state = divmod(pair, len(events.states))
            key = self.key(f"{prefix}{events.sensors[sensor]}", events.states[state])
            if key not in self.row:
                missing[key] = str(events.states[state])
            rows.append(self.row.get(key, UNKNOWN[unknown]))
        if missing and unknown == "error":
            raise ValueError(self._missing_message(missing, home))
        return np.array(rows, dtype=np.int64)[inverse]

    def key(self, sensor: str, state: Any) -> str:
        """Return `sensor_STATE` with the state normalised, and a numeric sensor's reading as its level."""
        text = normalize_state(str(state))
        if sensor in self.levels:
            reading = state_value(text)
            if reading is None:
                raise ValueError(f"sensor {sensor!r} gives numbers, but here it gave {state!r}.")
            text = str(level_of(np.asarray(reading), *self.levels[sensor]))
        return f"{sensor}_{text}"

    def key_rows(self, keys: Any, home: str | None) -> np.ndarray:
        """Return `(N,)` rows of `(N,)` keys of `home` (Arrow strings or a list); all must be known."""
        code, distinct = encode_column(keys, "key")
        full = [f"{self.prefix(home)}{key}" for key in distinct]
        if missing := {key: key.rpartition("_")[2] for key in full if key not in self.row}:
            raise ValueError(self._missing_message(missing, home))
        return np.array([self.row[key] for key in full], dtype=np.int64)[code]

    def sensors(self, prefix: str = "") -> dict[str, list[str]]:
        """Map each sensor (with its prefix) to its states, in the order of the rows."""
        states: dict[str, list[str]] = {}
        for key in self.keys:
            sensor, _, state = key.rpartition("_")
            if sensor.startswith(prefix):
                states.setdefault(sensor, []).append(state)
        return states

    def _missing_message(self, missing: Mapping[str, str], home: str | None) -> str:
        """Write one line on keys (and the states as they came) that the vocabulary lacks: what is near, ways out."""
        key, given = next(iter(missing.items()))
        sensor, _, state = key.rpartition("_")
        prefix = self.prefix(home)
        name = sensor.removeprefix(prefix)
        known = self.sensors(prefix)
        if sensor not in known:
            names = [other.removeprefix(prefix) for other in known]
            near = difflib.get_close_matches(name, names, n=3, cutoff=0.4) or names[:3]
            what = f"sensor {name!r} is unknown; nearest in name: {', '.join(near)}"
        elif set(known[sensor]) <= set(LEVELS) and state_value(normalize_state(given)) is not None:
            what = (
                f"sensor {name!r} gave {given} but its levels are not set: processor.levels[{sensor!r}] = [low, high]"
            )
        else:
            what = f"state {state!r} of sensor {name!r} is unknown; its states: {', '.join(known[sensor])}"
        more = f" ({len(missing) - 1} more such keys)" if len(missing) > 1 else ""
        return (
            f"home {home!r}: {what}{more}. Give the home's own table, or pass "
            'unknown="skip" to leave such events out, or unknown="unk" to read them as unknown.'
        )
