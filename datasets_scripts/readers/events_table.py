"""Parts that all readers share: the summary, labels from intervals, and the assembly of the events table."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.schema import EVENTS
from casita.processing.sensor_states import normalize_state_by_rule, state_value

MALFORMED_SHOWN = 5
# How long an activity lasts that begins and never ends: option -> words of the summary.
UNCLOSED = {
    "next": "closed where the next activity begins; without one, left out",
    "session": "closed at the session's end",
}


@dataclass
class ReadSummary:
    """Counts of what a reader found and mended: every line is an event, blank or malformed."""

    home: str
    files: int = 0
    lines: int = 0
    blank: int = 0
    malformed: int = 0
    malformed_shown: list[str] = field(default_factory=list)  # the first few, "file:line: text"
    skipped_files: list[str] = field(default_factory=list)  # of a directory: those that are no event log
    columns: str = ""  # as they were detected or named
    unclosed: str = "next"  # one of UNCLOSED
    events: int = 0
    sessions: int = 0
    sensors: int = 0
    numeric_sensors: int = 0
    first: str = ""
    last: str = ""
    out_of_order: int = 0  # events earlier than the one before them; sorted
    repeated: dict[str, int] = field(default_factory=dict)  # "P011 = P369" -> events that both sessions hold
    mended_states: dict[str, dict[str, int]] = field(default_factory=dict)  # rule -> {"raw -> state": events}
    activities: int = 0
    intervals: int = 0  # stretches of an activity, from its begin to its end
    doubled_begins: int = 0  # the activity was open already; ignored
    ends_without_begin: int = 0  # ignored
    begins_without_end: int = 0  # closed as `unclosed` says
    empty_intervals: int = 0  # of the CSV pair: no event between start and end
    notes: int = 0  # text behind the state that is no mark, in a log with marks; ignored
    labelled_share: float = 0.0

    def __str__(self) -> str:
        return "\n  ".join(self._lines())

    def _lines(self) -> Iterable[str]:
        yield (
            f"{self.home}: {self.lines:,} lines of {self.files} file(s) -> {self.events:,} events, {self.sessions} "
            f"session(s), {self.sensors} sensors ({self.numeric_sensors} numeric), {self.first} to {self.last}"
        )
        yield (
            f"labels: {self.activities} activities, {self.intervals:,} intervals, "
            f"{100 * self.labelled_share:.1f} % of the events; columns: {self.columns}"
        )
        for rule, states in self.mended_states.items():
            examples = ", ".join(text[:40] for text in sorted(states, key=lambda text: -states[text])[:4])
            yield f"states mended, {rule}: {sum(states.values()):,} events ({examples})"
        counted = {
            "events out of order, sorted": self.out_of_order,
            "begins of an activity already open, ignored": self.doubled_begins,
            "ends without a begin, ignored": self.ends_without_begin,
            f"begins without an end, {UNCLOSED[self.unclosed]}": self.begins_without_end,
            "intervals of an activity without any event": self.empty_intervals,
            "notes behind the state that are no begin or end, ignored": self.notes,
            "blank lines": self.blank,
            "malformed lines, skipped": self.malformed,
        }
        yield from (f"{description}: {count:,}" for description, count in counted.items() if count)
        yield from (f"  {shown}" for shown in self.malformed_shown)
        if self.repeated:
            examples = ", ".join(f"{pair}: {n:,}" for pair, n in list(self.repeated.items())[:4])
            yield f"sessions that hold the same events, a leak if they come into different splits: {examples}"
        if self.skipped_files:
            yield f"files that are no event log, skipped: {', '.join(self.skipped_files)}"


@dataclass
class RawEvents:
    """N events in the order of their files; codes are int32 indices into the list of names beside them."""

    sessions: Sequence[str]
    session: np.ndarray  # (N,) codes, not decreasing
    time_us: np.ndarray  # (N,) int64, microseconds since 1970 on the home's wall clock
    sensors: Sequence[str]
    sensor: np.ndarray  # (N,) codes
    states: Sequence[str]  # as they stood in the log
    state: np.ndarray  # (N,) codes

    def order(self) -> tuple[np.ndarray, int]:
        """Return positions that sort stably by time within each session, and how many events went back in time."""
        back = (np.diff(self.time_us) < 0) & (np.diff(self.session) == 0)
        order = np.arange(len(self.time_us))
        bounds = np.searchsorted(self.session, np.arange(len(self.sessions) + 1))
        for session in np.unique(self.session[1:][back]):  # the others are in order already
            part = slice(bounds[session], bounds[session + 1])
            order[part] = part.start + np.argsort(self.time_us[part], kind="stable")
        return order, int(back.sum())

    def repeated(self) -> dict[str, int]:
        """Count the events (time, sensor, state) that two sessions share, for each such pair of sessions."""
        if len(self.sessions) == 1:
            return {}
        # The product spends 12 bits on sensor and state: enough beside an equal microsecond, and 2041 still fits.
        key = self.time_us * 4096 + (self.sensor.astype(np.int64) * 31 + self.state) % 4096
        order = np.argsort(key, kind="stable")
        session = self.session[order]
        same = np.flatnonzero((np.diff(key[order]) == 0) & (np.diff(session) != 0))
        pairs = Counter(zip(session[same].tolist(), session[same + 1].tolist(), strict=True))
        return {f"{self.sessions[a]} = {self.sessions[b]}": count for (a, b), count in pairs.most_common()}


@dataclass(frozen=True)
class Interval:
    """An activity from its first to its last event, both included, as positions in the sorted table."""

    label: str
    first: int
    last: int


def mend_state(raw: str) -> tuple[str, str] | None:
    """Return the normalised state and the rule that made it; None for what is no state."""
    try:
        return normalize_state_by_rule(raw)
    except ValueError:
        return None


def intervals_from_marks(
    marks: Iterable[tuple[int, str, bool]], session: np.ndarray, summary: ReadSummary
) -> list[Interval]:
    """Pair begins with ends, in order of opening; unmatched marks are counted in `summary`.

    `marks` are (position, label, whether it begins), sorted by position; `session` (N,) codes of the sorted events.
    `summary.unclosed` says whether a begin without an end makes an interval, and how long a one.
    """
    intervals: dict[int, Interval] = {}  # by the serial number of their opening
    opened: dict[str, tuple[int, int]] = {}  # label -> (serial number, position)
    followed: dict[str, int] = {}  # label that is open -> where the next activity began
    current = -1
    serial = 0

    def close(label: str, last: int) -> None:
        number, first = opened.pop(label)
        followed.pop(label, None)
        intervals[number] = Interval(label, first, max(first, last))  # two may begin at one event

    def close_session() -> None:
        summary.begins_without_end += len(opened)
        end = int(np.searchsorted(session, current, side="right"))
        ends = dict.fromkeys(opened, end) if summary.unclosed == "session" else dict(followed)
        for label in list(opened):
            if label in ends:
                close(label, ends[label] - 1)
        opened.clear()
        followed.clear()

    for position, label, begins in marks:
        if session[position] != current:
            close_session()
            current = int(session[position])
        if begins and label in opened:
            summary.doubled_begins += 1
        elif begins:
            for other in opened:
                followed.setdefault(other, position)
            opened[label] = (serial, position)
            serial += 1
        elif label in opened:
            close(label, position)
        else:
            summary.ends_without_begin += 1
    close_session()
    return [intervals[number] for number in sorted(intervals)]


def labels_from_intervals(intervals: Sequence[Interval], n: int) -> tuple[pa.Array, pa.Array]:
    """Make the columns `activity` and `activities` of n events; `intervals` in order of opening."""
    # At one position ends come before begins: an interval closes behind its last event.
    changes = sorted(
        [(interval.last + 1, 0, k) for k, interval in enumerate(intervals)]
        + [(interval.first, 1, k) for k, interval in enumerate(intervals)]
    )
    opened: dict[int, str] = {}  # in order of opening
    known: dict[tuple[str, ...], int] = {(): 0}
    positions = [0]
    codes = [0]
    for position, begins, k in changes:
        if begins:
            opened[k] = intervals[k].label
        else:
            del opened[k]
        positions.append(position)
        codes.append(known.setdefault(tuple(opened.values()), len(known)))
    # Several changes at one position: their stretches have length 0 but for the last one.
    code = np.repeat(np.array(codes, np.int32), np.diff([*positions, n]))
    return label_columns(known, code)


def label_columns(known: Collection[tuple[str, ...]], code: np.ndarray) -> tuple[pa.Array, pa.Array]:
    """Make the columns `activity` and `activities`: codes (N,) into `known`, labels that are open at the same time."""
    latest = pa.array([labels[-1] if labels else None for labels in known], pa.string())
    # The same activity may be open twice (two residents' intervals that overlap); it stands there once.
    every = pa.array([list(dict.fromkeys(labels)) for labels in known], pa.list_(pa.string()))
    return latest.take(pa.array(code)), every.take(pa.array(code))


def build_table(
    raw: RawEvents, order: np.ndarray, activity: pa.Array, activities: pa.Array, summary: ReadSummary
) -> pa.Table:
    """Make the events table (schema EVENTS) in `order`; set what `summary` has of events, states and labels."""
    rules = [mend_state(state) or ("", "") for state in raw.states]  # no event has one that cannot be mended
    state = raw.state[order]
    sensor = raw.sensor[order]
    time_us = raw.time_us[order]
    reading = [state_value(mended) if rule == "number" else None for mended, rule in rules]
    table = pa.Table.from_arrays(
        [
            pa.repeat(pa.scalar(summary.home), len(order)),
            pa.array(raw.sessions, pa.string()).take(pa.array(raw.session)),  # sorting keeps each session's place
            pa.array(time_us).view(pa.timestamp("us")),
            pa.array(raw.sensors, pa.string()).take(pa.array(sensor)),
            pa.array([mended for mended, _ in rules], pa.string()).take(pa.array(state)),
            pa.array(reading, pa.float32()).take(pa.array(state)),
            activity,
            activities,
        ],
        schema=EVENTS,
    )
    numeric = np.array([value is not None for value in reading], dtype=bool)[state]
    summary.events = len(order)
    summary.sessions = len(np.unique(raw.session))
    summary.sensors = len(np.unique(sensor))
    summary.numeric_sensors = len(np.unique(sensor[numeric]))
    summary.repeated = raw.repeated()
    summary.first, summary.last = (str(np.datetime64(int(t), "us"))[:19] for t in (time_us.min(), time_us.max()))
    summary.mended_states = _mended(raw.states, rules, np.bincount(state, minlength=len(rules)))
    summary.activities = len(pc.unique(activities.flatten()))
    summary.labelled_share = round(1 - activity.null_count / len(order), 6)
    return table


def _mended(raw: Sequence[str], rules: Sequence[tuple[str, str]], counts: np.ndarray) -> dict[str, dict[str, int]]:
    mended: dict[str, Counter[str]] = {}
    for text, (state, rule), count in zip(raw, rules, counts.tolist(), strict=True):
        if state != text and count:
            mended.setdefault(rule, Counter())[f"{text} -> {state}"] += count
    return {rule: dict(states) for rule, states in mended.items()}
