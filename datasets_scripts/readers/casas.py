"""CASAS text logs -> events. A line is `date time sensor [room area] state [type] [label]`, blanks or tabs between.

One tokeniser serves all dialects: tokens are what blanks, tabs, carriage returns (and a byte-order mark) leave, found
by NumPy over a whole block of bytes, many small files to a block. Sensors, states and labels are then dictionaries of
few strings, so that no Python runs per line.

Labels come in two forms, and one home has one of them: marks (`Sleep begin`, `Sleep="end"`), by which activities open
and close, or, where no line has a mark, the label of each event itself.
"""

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from casita.datasets_scripts.readers.casas_columns import DATE, EXPECTED, Columns, detect_columns, parse_columns
from casita.datasets_scripts.readers.events_table import (
    MALFORMED_SHOWN,
    RawEvents,
    ReadSummary,
    build_table,
    intervals_from_marks,
    label_columns,
    labels_from_intervals,
    mend_state,
)

BLOCK_BYTES = 4 << 20  # what the processor's cache holds: 30 % faster than 32 MiB, and less memory
SAMPLE_LINES = 2000

_MARK = re.compile(r"\s*(\S.*?)(?:\s*=\s*|\s+)[\"']?(begin|end)[\"']?(?=[\s,;]|$)[\s,;]*", re.IGNORECASE)
_BOM = b"\xef\xbb\xbf"


def looks_like_a_log(path: Path) -> bool:
    """Return whether one of a file's first lines holds a date, as a session does and a README beside it does not."""
    with _open(path) as file:
        head = file.read(4096)
    return b"\0" not in head and any(DATE.match(token) for token in head.decode("utf-8-sig", "replace").split())


def read_casas(
    logs: Sequence[tuple[str, Path]], home: str, columns: Sequence[str] | None, unclosed: str
) -> tuple[pa.Table, ReadSummary]:
    """Read (session, file) pairs as one home: a table with schema EVENTS, sorted by session and time, and its summary.

    `columns` names the columns in the file's order (see COLUMNS); without it they are detected. `unclosed` is one of
    UNCLOSED. `ValueError` for a file that is empty, binary or of another format; single malformed lines are skipped,
    counted and shown.
    """
    summary = ReadSummary(home=home, files=len(logs), unclosed=unclosed)
    reader = _Reader(logs, summary, columns)
    raw, label_code = reader.read_all()
    if not len(raw.time_us):
        raise ValueError(f"{logs[0][1]}: {EXPECTED}; no line reads like that. First: {summary.malformed_shown[:1]}.")
    order, summary.out_of_order = raw.order()
    activity, activities = _activity_columns(reader.labels.texts(), label_code[order], raw.session, summary)
    return build_table(raw, order, activity, activities, summary), summary


def _activity_columns(
    texts: list[str], code: np.ndarray, session: np.ndarray, summary: ReadSummary
) -> tuple[pa.Array, pa.Array]:
    """Make `activity` and `activities` of the sorted events from the codes (N,) of their label texts, -1 for none."""
    labels = [" ".join(text.split()) for text in texts]
    marks = [[(label.strip("\"'"), mark.lower() == "begin") for label, mark in _MARK.findall(text)] for text in labels]
    if not any(marks):
        summary.intervals = int((np.diff(code, prepend=-1) != 0)[code >= 0].sum())
        known = [*((label,) for label in labels), ()]
        return label_columns(known, np.where(code < 0, len(labels), code).astype(np.int32))
    positions = np.flatnonzero(code >= 0).tolist()
    summary.notes = sum(not marks[code[position]] for position in positions)
    placed_marks = ((position, label, begins) for position in positions for label, begins in marks[code[position]])
    intervals = intervals_from_marks(placed_marks, session, summary)
    summary.intervals = len(intervals)
    return labels_from_intervals(intervals, len(code))


class _Names:
    """Strings numbered in order of their first appearance."""

    def __init__(self) -> None:
        self.codes: dict[bytes, int] = {}

    def encode(self, buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return codes (N,) int32 of the strings `buffer[starts[i]:ends[i]]`; spans ascend and do not overlap."""
        if not len(starts):
            return np.empty(0, np.int32)
        # Token, gap, token, gap ... are an Arrow array over the bytes as they lie; only the tokens are then taken.
        offsets = np.column_stack([starts, ends]).astype(np.int32).ravel()
        spans = pa.Array.from_buffers(
            pa.binary(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(buffer)]
        )
        encoded = spans.take(pa.array(np.arange(0, len(offsets), 2))).dictionary_encode()
        codes = [self.codes.setdefault(text, len(self.codes)) for text in encoded.dictionary.to_pylist()]
        return np.array(codes, np.int32)[encoded.indices.to_numpy()]

    def texts(self) -> list[str]:
        """Return the strings, each at the index that is its code."""
        return [text.decode("utf-8", "replace") for text in self.codes]


@dataclass
class _Part:
    """A stretch of one file within a block."""

    log: int
    first_line: int  # number of its first line in the file, from 1
    starts_at: int  # byte in the block


class _Reader:
    """A reader of blocks of bytes into columns of codes, with the dictionaries and counts of all blocks."""

    def __init__(self, logs: Sequence[tuple[str, Path]], summary: ReadSummary, columns: Sequence[str] | None):
        self.logs = logs
        self.summary = summary
        self.named_columns = columns
        self.columns: Columns | None = None
        self.sensors = _Names()
        self.states = _Names()
        self.labels = _Names()
        self.is_state: list[bool] = []  # of each name in `states`

    def read_all(self) -> tuple[RawEvents, np.ndarray]:
        """Read all events in the order of the files, and the code (N,) of each one's label text, -1 for none."""
        blocks = [self._read_block(block, parts) for block, parts in _blocks(self.logs)]
        session, time_us, sensor, state, label = map(np.concatenate, zip(*blocks, strict=True))
        names = [name for name, _ in self.logs]
        return RawEvents(names, session, time_us, self.sensors.texts(), sensor, self.states.texts(), state), label

    def _read_block(self, block: bytes, parts: list[_Part]) -> tuple[np.ndarray, ...]:
        """Read session, microseconds, sensor, state and label of a block's events, each (N,)."""
        buffer = np.frombuffer(block, np.uint8)
        blank = buffer <= 32
        edges = np.flatnonzero(blank[1:] != blank[:-1]) + 1  # a block is blank at both ends: start, end, start ...
        starts = edges[::2]
        ends = edges[1::2]
        line_ends = np.flatnonzero(buffer == 10)  # the first is the block's guard, so line i lies between i and i + 1
        first_token = np.searchsorted(starts, line_ends)  # of each line, and one more behind the last
        num_tokens = np.diff(first_token)
        columns = self._columns_of(block, parts)
        part_first = np.searchsorted(line_ends, [part.starts_at for part in parts]) - 1
        part_of = np.repeat(np.arange(len(parts)), np.diff([*part_first, len(num_tokens)]))

        lines = np.flatnonzero(num_tokens >= columns.fewest_tokens)
        token = first_token[lines]
        time_us, valid = _times(buffer, starts, ends, token, columns)
        state = self.states.encode(buffer, starts[token + columns.state], ends[token + columns.state])
        for text in self.states.texts()[len(self.is_state) :]:
            self.is_state.append(mend_state(text) is not None)
        valid &= np.array(self.is_state, dtype=bool)[state]
        lines = lines[valid]
        token = token[valid]
        time_us = time_us[valid]
        state = state[valid]
        self._count(block, parts, part_first, line_ends, num_tokens, lines)

        sensor = self.sensors.encode(buffer, starts[token + columns.sensor], ends[token + columns.sensor])
        label = np.full(len(lines), -1, np.int32)
        if columns.label is not None:
            labelled = np.flatnonzero(num_tokens[lines] > columns.label + columns.behind_label)
            line_token = token[labelled]
            last_token = line_token + num_tokens[lines[labelled]] - 1 - columns.behind_label
            label[labelled] = self.labels.encode(buffer, starts[line_token + columns.label], ends[last_token])
        session = np.array([part.log for part in parts], np.int32)[part_of[lines]]
        return session, time_us, sensor, state, label

    def _columns_of(self, block: bytes, parts: list[_Part]) -> Columns:
        """Return the columns, named by the caller or detected in the first block."""
        if self.columns is None:
            head = block[: SAMPLE_LINES * 100].split(b"\n")[:SAMPLE_LINES]
            sample = [line.decode("utf-8", "replace").split() for line in head]
            path = self.logs[parts[0].log][1]
            named = self.named_columns
            self.columns = parse_columns(named, sample) if named else detect_columns(sample, path)
            self.summary.columns = self.columns.names
        return self.columns

    def _count(
        self,
        block: bytes,
        parts: list[_Part],
        part_first: np.ndarray,
        line_ends: np.ndarray,
        num_tokens: np.ndarray,
        event_lines: np.ndarray,
    ) -> None:
        """Count lines, keep the first malformed ones, and refuse a file that is mostly not what it should be."""
        blank = num_tokens == 0
        malformed = ~blank
        malformed[event_lines] = False
        self.summary.lines += len(num_tokens)
        self.summary.blank += int(blank.sum())
        self.summary.malformed += int(malformed.sum())
        part_end = [*part_first[1:], len(num_tokens)]
        for part, begin, end in zip(parts, part_first, part_end, strict=True):
            path = self.logs[part.log][1]
            bad = np.flatnonzero(malformed[begin:end])
            shown = []
            for line in bad[:MALFORMED_SHOWN]:
                text = block[line_ends[begin + line] + 1 : line_ends[begin + line + 1]].decode("utf-8", "replace")
                shown.append(f"{path.name}:{part.first_line + line}: {text.strip()[:80]}")
            if part.first_line == 1 and 2 * len(bad) > end - begin - blank[begin:end].sum():
                raise ValueError(
                    f"{path}: {EXPECTED}; {len(bad)} of {end - begin} lines are not, such as {shown[0]!r}. "
                    f"Columns were read as {self.summary.columns}: name them with --columns if they are others."
                )
            self.summary.malformed_shown += shown[: MALFORMED_SHOWN - len(self.summary.malformed_shown)]


def _times(
    buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray, token: np.ndarray, columns: Columns
) -> tuple[np.ndarray, np.ndarray]:
    """Read microseconds since 1970 (N,) int64 of the lines with first tokens `token`, and which of them are valid."""
    date = starts[token + columns.date]
    date_end = ends[token + columns.date]
    if columns.time is None:  # one token, 2009-10-16T08:00:01: the time begins behind ten characters and the T
        time = date + 11
        time_end = date_end
        date_end = np.minimum(date_end, date + 10)
    else:
        time = starts[token + columns.time]
        time_end = ends[token + columns.time]
    days = _Names()
    code = days.encode(buffer, date, date_end)  # few days, many lines
    day = np.array([_days_since_1970(text) for text in days.texts()], dtype="datetime64[D]")
    width = (time_end - time).astype(np.int32)
    digits = int(np.clip(width.max(initial=0), 15, 18)) - 9  # of the fraction; behind six they are read and dropped
    hour, valid_hour = _number(buffer, time, (0, 1), width)
    minute, valid_minute = _number(buffer, time, (3, 4), width)
    second, valid_second = _number(buffer, time, (6, 7), width)
    fraction, valid = _number(buffer, time, range(9, 9 + digits), width)
    valid &= ~np.isnat(day)[code] & ((width == 8) | ((width >= 10) & (width <= 18)))
    valid &= valid_hour & valid_minute & valid_second & (hour < 24) & (minute < 60) & (second < 60)
    for place, mark in ((2, ":"), (5, ":"), (8, ".")):
        valid &= (buffer.take(time + place, mode="clip") == ord(mark)) | (width <= place)
    seconds = day.astype(np.int64)[code] * 86400 + (hour * 3600 + minute * 60 + second)
    return seconds * 1_000_000 + fraction // 10 ** (digits - 6), valid


def _number(
    buffer: np.ndarray, at: np.ndarray, places: Iterable[int], width: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Read the number (N,) int32 in ASCII at `at + places`, with 0 from `width` on, and whether all are digits."""
    number = np.zeros(len(at), np.int32)
    valid = np.ones(len(at), bool)
    for place in places:
        digit = buffer.take(at + place, mode="clip") - np.uint8(48)  # wraps around below "0", and is so no digit
        digit[width <= place] = 0  # a fraction may be short or missing
        valid &= digit < 10
        number *= 10
        number += digit
    return number, valid


def _days_since_1970(date: str) -> np.datetime64:
    """Return the day of `2009-10-16` or `2009/10/16`; NaT for what is no day of the calendar."""
    try:
        return np.datetime64(date.replace("/", "-") if DATE.fullmatch(date) else "NaT", "D")
    except ValueError:
        return np.datetime64("NaT", "D")


def _blocks(logs: Sequence[tuple[str, Path]]) -> Iterator[tuple[bytes, list[_Part]]]:
    """Yield the lines of all files in blocks of about BLOCK_BYTES, uncut; a block begins and ends with a line feed."""
    buffer = bytearray(b"\n")
    parts: list[_Part] = []
    packed = any(_is_packed(path) for _, path in logs)  # then the number of bytes to come is not known
    total = None if packed else sum(path.stat().st_size for _, path in logs)
    with tqdm(total=total, desc="read", unit="B", unit_scale=True, leave=False) as bar:
        for log, (_, path) in enumerate(logs):
            first_line = 1
            for chunk in _chunks(path):
                parts.append(_Part(log, first_line, len(buffer)))
                buffer += chunk
                first_line += chunk.count(b"\n")
                bar.update(len(chunk))
                if len(buffer) >= BLOCK_BYTES:
                    yield bytes(buffer), parts
                    buffer = bytearray(b"\n")
                    parts = []
    if parts:
        yield bytes(buffer), parts


def _chunks(path: Path) -> Iterator[bytes]:
    """Read a text file in pieces that end with a line feed; `ValueError` for an empty or a binary file."""
    rest = b""
    first = True
    try:
        with _open(path) as file:
            while piece := file.read(BLOCK_BYTES):
                if first and not (piece := piece.removeprefix(_BOM)).strip():
                    break
                if b"\0" in piece:
                    raise ValueError(f"{path}: {EXPECTED}; found binary data. Give the log as UTF-8 text or .gz.")
                lines, feed, rest = (rest + piece).rpartition(b"\n")
                first = False
                if feed:
                    yield lines + feed
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: the .gz file is cut short or damaged ({error}). Fetch it again.") from None
    if first:
        raise ValueError(f"{path}: {EXPECTED}; the file is empty. Give a log with events.")
    if rest:
        yield rest + b"\n"


def _open(path: Path) -> BinaryIO:
    """Open a file's bytes, unpacked if it is gzip."""
    return gzip.open(path, "rb") if _is_packed(path) else path.open("rb")  # type: ignore[return-value]


def _is_packed(path: Path) -> bool:
    """Return whether a file is gzip, by its first bytes and not by its name."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"
