"""Windows as an Arrow table: ids, keys and seconds as lists, majority labels; and counts of each split."""

from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.windows.events import ChosenEvents, Codes
from casita.datasets_scripts.windows.splits import SPLITS
from casita.processing.event_windows import places_in_group

CHUNK = 8192  # windows whose events fit a core's cache


class SplitCounts(TypedDict):
    """Numbers of windows, labelled windows and sessions of a split, its time range, and windows of each label."""

    windows: int
    labelled: int
    sessions: int
    first: str
    last: str
    labels: dict[str, int]


def windows_table(
    events: ChosenEvents, keys: Codes, label: Codes, split: np.ndarray, first: np.ndarray, last: np.ndarray, name: str
) -> pa.Table:
    """Make the table of the windows `(B,)` with the columns of `WINDOWS`.

    Keys stand as a dictionary, which `write_table` casts away.

    Args:
        split: `(N,)` index into `SPLITS`.
        first: `(B,)` first event of each window; last: `(B,)` one past the last.
        name: the sampling, as part of each id.
    """
    offsets, key, seconds = _list_columns(events.t_us, keys.code, first, last)
    home = events.home.code[first]
    session = events.session.code[first]
    start = pa.array(events.t_us[first]).cast(pa.timestamp("us"))
    majority, share = _majority(label, first, last)
    home_session = home.astype(np.int64) * len(events.session.names) + session
    prefix = pa.array([f"{h}/{s}/{name}/" for h in events.home.names for s in events.session.names])
    ids = pc.binary_join_element_wise(prefix.take(pa.array(home_session)), start.cast(pa.string()), "")
    return pa.table(
        {
            "window_id": _unique_ids(ids, home_session, events.t_us[first]),
            "home": pa.array(events.home.names).take(pa.array(home)),
            "session": pa.array(events.session.names).take(pa.array(session)),
            "split": pa.array(SPLITS).take(pa.array(split[first])),
            "start": start,
            "end": pa.array(events.t_us[last - 1]).cast(pa.timestamp("us")),
            "sensor_keys": pa.ListArray.from_arrays(offsets, Codes(key, keys.names).as_arrow()),
            "seconds": pa.ListArray.from_arrays(offsets, pa.array(seconds)),
            "activity": pa.array([None, *label.names[1:]], pa.string()).take(pa.array(majority)),
            "activity_share": pa.array(share),
        }
    )


def _list_columns(
    t_us: np.ndarray, key: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Return offsets of the list columns, and keys and seconds (since the window's start) of all windows' events."""
    ends = np.concatenate([[0], np.cumsum(last - first)])
    keys = np.empty(ends[-1], dtype=key.dtype)
    seconds = np.empty(ends[-1], dtype=np.float32)
    for at in range(0, len(first), CHUNK):
        begin = first[at : at + CHUNK]
        bounds = ends[at : at + CHUNK + 1]
        part = slice(bounds[0], bounds[-1])
        size = np.diff(bounds)
        index = np.arange(bounds[0], bounds[-1])  # of the values, and by the next line of their events
        index += np.repeat(begin - bounds[:-1], size)
        keys[part] = key[index]
        seconds[part] = (t_us[index] - np.repeat(t_us[begin], size)) / 1e6
    return pa.array(ends, pa.int32()), keys, seconds


def _majority(label: Codes, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `(B,)` code of each window's most frequent label, the lowest of equals, and `(B,)` float32 its share."""
    best = label.code[first].astype(np.int64)
    share = np.ones(len(first), dtype=np.float32)
    change = np.concatenate([[False], label.code[1:] != label.code[:-1]])
    stretch = np.cumsum(change, dtype=np.int32)  # of equal labels; most windows lie in one, the others in few
    bounds = np.concatenate([[0], np.flatnonzero(change), [len(change)]])
    mixed = np.flatnonzero(stretch[first] != stretch[last - 1])
    for at in range(0, len(mixed), CHUNK):
        which = mixed[at : at + CHUNK]
        first_stretch = stretch[first[which]]
        size = stretch[last[which] - 1] - first_stretch + 1  # in stretches
        window = np.repeat(np.arange(len(which)), size)
        part = first_stretch[window] + places_in_group(size)  # each window's stretches
        begin = np.maximum(bounds[part], first[which][window])
        end = np.minimum(bounds[part + 1], last[which][window])
        counts = np.zeros((len(which), len(label.names)), dtype=np.int64)
        np.add.at(counts, (window, label.code[bounds[part]]), end - begin)
        best[which] = counts.argmax(axis=1)
        share[which] = counts.max(axis=1) / (last - first)[which]
    return best, share


def evenly_cut(windows: pa.Table) -> np.ndarray:
    """Return `(N,)` bool: the windows that every split would have, without those that `train_overlap` added to train.

    The sampling in a test window's id is that of all splits. Without a test window all are evenly cut.
    """
    ids = windows["window_id"].to_pylist()
    sampling = np.array([name.rpartition("/")[0].rpartition("/")[2] for name in ids], dtype=object)
    of_test = sampling[np.array(windows["split"].to_pylist(), dtype=object) == "test"]
    return sampling == of_test[0] if len(of_test) else np.ones(len(sampling), dtype=bool)


def _unique_ids(ids: pa.Array, home_session: np.ndarray, t_us: np.ndarray) -> pa.Array:
    """Make ids unique: where windows of a session start at the same microsecond, the later ones get `+1`, `+2`, ...

    Windows `(B,)` come in the order of their first events, so those that start together are neighbours.
    """
    same_start = (np.diff(t_us) == 0) & (np.diff(home_session) == 0)
    if not same_start.any():
        return ids
    position = np.arange(len(ids))
    first_of_group = np.maximum.accumulate(np.where(np.concatenate([[False], same_start]), 0, position))
    nth = position - first_of_group
    suffix = np.where(nth > 0, np.char.add("+", nth.astype(str)), "")
    return pc.binary_join_element_wise(ids, pa.array(suffix), "")


def count_windows(windows: pa.Table) -> dict[str, SplitCounts]:
    """Count the windows of each split."""
    split_counts: dict[str, SplitCounts] = {}
    columns = windows.select(["split", "session", "start", "end", "activity"])
    for split in SPLITS:
        part = columns.filter(pc.equal(columns["split"], split))
        counts = part["activity"].drop_null().value_counts().to_pylist()
        split_counts[split] = {
            "windows": len(part),
            "labelled": len(part) - part["activity"].null_count,
            "sessions": pc.count_distinct(part["session"]).as_py(),
            "first": str(pc.min(part["start"]).as_py()),
            "last": str(pc.max(part["end"]).as_py()),
            "labels": {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: -c["counts"])},
        }
    return split_counts
