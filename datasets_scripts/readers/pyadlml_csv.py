"""pyadlml's pair of CSV files -> events: devices (time,device,value) and activities (start_time,end_time,activity).

Activities are intervals and may overlap. An event belongs to every interval with start <= time <= end. The pair is one
recording: one session, named by its folder.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv

from casita.datasets_scripts.readers.events_table import (
    MALFORMED_SHOWN,
    Interval,
    RawEvents,
    ReadSummary,
    build_table,
    labels_from_intervals,
    mend_state,
)

DEVICE_COLUMNS = ("time", "device", "value")
ACTIVITY_COLUMNS = ("start_time", "end_time", "activity")


def find_pair(path: Path) -> tuple[Path, Path] | None:
    """Find the devices and the activities file that `path` means; None if it is no such pair.

    `path` is the folder that holds both, or the devices file with the activities beside it (`devices` -> `activities`
    in its name). `FileNotFoundError` if only the devices are there.
    """
    devices = path / "devices.csv" if path.is_dir() else path
    if not devices.is_file() or ".csv" not in devices.suffixes or set(DEVICE_COLUMNS) - set(_header(devices)):
        return None
    activities = devices.with_name(devices.name.replace("devices", "activities"))
    if activities == devices or not activities.is_file():
        raise FileNotFoundError(
            f"{devices}: the activities are missing; expected activities.csv in the same folder (of an unlabelled "
            f"home: just the header {','.join(ACTIVITY_COLUMNS)})."
        )
    return devices, activities


def read_pyadlml(devices: Path, activities: Path, home: str) -> tuple[pa.Table, ReadSummary]:
    """Read the pair as one home and session: a table with schema EVENTS, sorted by time, and its summary."""
    summary = ReadSummary(home=home, files=2, columns=",".join(DEVICE_COLUMNS))
    table, lines = _read_csv(devices, DEVICE_COLUMNS, summary)
    time_us, valid = _microseconds(table["time"], devices)
    sensor, state = (table[name].combine_chunks().dictionary_encode() for name in ("device", "value"))
    is_sensor = [bool(text.strip()) for text in sensor.dictionary.to_pylist()]
    is_state = [mend_state(text) is not None for text in state.dictionary.to_pylist()]
    sensor_code = sensor.indices.to_numpy()
    state_code = state.indices.to_numpy()
    valid &= np.array(is_sensor, bool)[sensor_code] & np.array(is_state, bool)[state_code]
    _count_malformed(devices, table, lines, valid, summary)
    if not valid.any():
        raise ValueError(
            f"{devices}: expected {','.join(DEVICE_COLUMNS)}, found no such line. Give a log with events."
        )
    raw = RawEvents(
        [devices.resolve().parent.name],
        np.zeros(int(valid.sum()), np.int32),
        time_us[valid],
        [text.strip() for text in sensor.dictionary.to_pylist()],
        sensor_code[valid],
        state.dictionary.to_pylist(),
        state_code[valid],
    )
    order, summary.out_of_order = raw.order()
    intervals = _intervals(activities, raw.time_us[order], summary)
    return build_table(raw, order, *labels_from_intervals(intervals, len(order)), summary), summary


def _intervals(path: Path, time_us: np.ndarray, summary: ReadSummary) -> list[Interval]:
    """Read the activities as positions among the sorted events (N,), in order of opening."""
    table, lines = _read_csv(path, ACTIVITY_COLUMNS, summary)
    start, valid = _microseconds(table["start_time"], path)
    end, valid_end = _microseconds(table["end_time"], path)
    labels = [label.strip() for label in table["activity"].to_pylist()]
    valid &= valid_end & (start <= end) & np.array([bool(label) for label in labels], bool)
    _count_malformed(path, table, lines, valid, summary)
    first = np.searchsorted(time_us, start, side="left")
    last = np.searchsorted(time_us, end, side="right") - 1
    summary.empty_intervals = int((first > last)[valid].sum())
    filled = [k for k in np.argsort(start, kind="stable").tolist() if valid[k] and first[k] <= last[k]]
    summary.intervals = len(filled)
    return [Interval(labels[k], int(first[k]), int(last[k])) for k in filled]


def _header(path: Path) -> list[str]:
    with path.open("rb") as file:
        line = file.readline(4096).removeprefix(b"\xef\xbb\xbf")
    return [name.strip().strip('"') for name in line.decode("utf-8", "replace").split(",")]


def _read_csv(path: Path, columns: Sequence[str], summary: ReadSummary) -> tuple[pa.Table, np.ndarray]:
    """Read the named columns (N,) as text, and each row's line number (N,); `summary` counts lines that are no row."""
    header = _header(path)
    if missing := set(columns) - set(header):
        raise ValueError(
            f"{path}: expected the header {','.join(columns)}, found {','.join(header)[:80]!r} without "
            f"{', '.join(sorted(missing))}. Rename the columns."
        )
    not_rows: dict[int, str] = {}  # line number -> text; Arrow knows the number only without threads

    def note(row: pacsv.InvalidRow) -> str:
        not_rows[row.number] = row.text
        return "skip"

    try:
        table = pacsv.read_csv(
            path,
            # one thread: with several, Arrow loses the numbers of the lines
            read_options=pacsv.ReadOptions(column_names=header, skip_rows=1, use_threads=False),
            parse_options=pacsv.ParseOptions(invalid_row_handler=note, ignore_empty_lines=False),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(columns),
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise ValueError(f"{path}: expected CSV with {','.join(columns)}; {error}. Mend the file.") from None
        table = pa.table({name: pa.array([], pa.string()) for name in columns})
    rows = table.num_rows + len(not_rows)
    summary.lines += rows
    summary.malformed += len(not_rows)
    shown = [f"{path.name}:{number}: {text[:80]}" for number, text in not_rows.items()]
    summary.malformed_shown += shown[: MALFORMED_SHOWN - len(summary.malformed_shown)]
    return table, np.setdiff1d(np.arange(2, rows + 2), list(not_rows))


def _microseconds(column: pa.ChunkedArray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Convert ISO times to microseconds since 1970 (N,) int64, and return which are valid.

    A time zone is a `ValueError`.
    """
    try:
        times = pd.to_datetime(pd.Series(column.to_pandas(), dtype=str), format="ISO8601", errors="coerce")
    except ValueError:
        times = None
    if times is None or times.dt.tz is not None:
        raise ValueError(f"{path}: expected the home's wall-clock time, found times with a zone. Take the zone away.")
    valid = times.notna().to_numpy(copy=True)
    return np.where(valid, times.to_numpy().astype("datetime64[us]").astype(np.int64), 0), valid


def _count_malformed(path: Path, table: pa.Table, lines: np.ndarray, valid: np.ndarray, summary: ReadSummary) -> None:
    """Count the rows that are not valid, as blank or malformed, and keep the first of these."""
    for k in np.flatnonzero(~valid).tolist():  # few
        row = ",".join(table.slice(k, 1).to_pylist()[0].values())
        blank = not row.strip(", ")  # Arrow fills an empty line with empty columns
        summary.blank += blank
        summary.malformed += not blank
        if not blank and len(summary.malformed_shown) < MALFORMED_SHOWN:
            summary.malformed_shown.append(f"{path.name}:{lines[k]}: {row[:80]}")
