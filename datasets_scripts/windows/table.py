"""Windows as an Arrow table: ids, keys and seconds as lists, majority labels, and what a person wants to know."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.windows.events import ChosenEvents, Codes
from casita.datasets_scripts.windows.splits import SPLITS

CHUNK = 8192  # windows whose events fit a core's cache


def windows_table(
    events: ChosenEvents, keys: Codes, label: Codes, split: np.ndarray, first: np.ndarray, last: np.ndarray, name: str
) -> pa.Table:
    """The windows `(B,)` with the columns of `WINDOWS`; keys stand as a dictionary, which `write_table` casts away.

    Args:
        split: `(N,)` index into `SPLITS`; name: the strategy, as part of each id.
    """
    offsets, key, seconds = _lists(events.t_us, keys.code, first, last)
    home, session = events.home.code[first], events.session.code[first]
    start = pa.array(events.t_us[first]).cast(pa.timestamp("us"))
    majority, share = _majority(label, first, last)
    where = home.astype(np.int64) * len(events.session.names) + session
    prefix = [f"{h}/{s}/{name}/" for h in events.home.names for s in events.session.names]
    ids = pc.binary_join_element_wise(pa.array(prefix).take(pa.array(where)), start.cast(pa.string()), "")
    return pa.table(
        {
            "window_id": _numbered(ids, where, events.t_us[first]),
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


def _lists(
    t_us: np.ndarray, key: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[pa.Array, np.ndarray, np.ndarray]:
    """Offsets of the list columns, and the keys and seconds (since the window's start) of all windows' events."""
    ends = np.concatenate([[0], np.cumsum(last - first)])
    keys, seconds = np.empty(ends[-1], dtype=key.dtype), np.empty(ends[-1], dtype=np.float32)
    for at in range(0, len(first), CHUNK):
        begin, bounds = first[at : at + CHUNK], ends[at : at + CHUNK + 1]
        part, size = slice(bounds[0], bounds[-1]), np.diff(bounds)
        index = np.arange(bounds[0], bounds[-1])
        index += np.repeat(begin - bounds[:-1], size)
        keys[part] = key[index]
        seconds[part] = (t_us[index] - np.repeat(t_us[begin], size)) / 1e6
    return pa.array(ends, pa.int32()), keys, seconds


def _majority(label: Codes, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`(B,)` code of each window's most frequent label, the lowest of equals, and `(B,)` float32 its share."""
    best, share = label.code[first].astype(np.int64), np.ones(len(first), dtype=np.float32)
    change = np.concatenate([[False], label.code[1:] != label.code[:-1]])
    stretch = np.cumsum(change, dtype=np.int32)  # of equal labels; most windows lie in one, the others in few
    bounds = np.concatenate([[0], np.flatnonzero(change), [len(change)]])
    mixed = np.flatnonzero(stretch[first] != stretch[last - 1])
    for at in range(0, len(mixed), CHUNK):
        which = mixed[at : at + CHUNK]
        size = stretch[last[which] - 1] - stretch[first[which]] + 1
        window = np.repeat(np.arange(len(which)), size)
        part = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size - stretch[first[which]], size)
        inside = np.minimum(bounds[part + 1], last[which][window]) - np.maximum(bounds[part], first[which][window])
        counts = np.zeros((len(which), len(label.names)), dtype=np.int64)
        np.add.at(counts, (window, label.code[bounds[part]]), inside)
        best[which], share[which] = counts.argmax(axis=1), counts.max(axis=1) / (last - first)[which]
    return best, share


def evenly_cut(windows: pa.Table) -> np.ndarray:
    """`(N,)` bool: the windows that every split would have, without those that `train_overlap` added to train.

    Ids tell: a test window's cut is that of all splits. Without a test window all are.
    """
    ids = windows["window_id"].to_pylist()
    cut = np.array([name.rpartition("/")[0].rpartition("/")[2] for name in ids], dtype=object)
    tested = cut[np.array(windows["split"].to_pylist(), dtype=object) == "test"]
    return cut == tested[0] if len(tested) else np.ones(len(cut), dtype=bool)


def _numbered(ids: pa.Array, where: np.ndarray, t_us: np.ndarray) -> pa.Array:
    """Ids made unique: where windows of a session start at the same microsecond, the later ones get `+1`, `+2`, ...

    Windows `(B,)` come in the order of their first events, so those that start together are neighbours.
    """
    together = (np.diff(t_us) == 0) & (np.diff(where) == 0)
    if not together.any():
        return ids
    at = np.arange(len(ids))
    nth = at - np.maximum.accumulate(np.where(np.concatenate([[False], together]), 0, at))
    suffix = np.where(nth > 0, np.char.add("+", nth.astype(str)), "")
    return pc.binary_join_element_wise(ids, pa.array(suffix), "")


def count_windows(windows: pa.Table) -> dict[str, Any]:
    """Windows, labelled share, time range and label counts of each split."""
    told = {}
    plain = windows.select(["split", "session", "start", "end", "activity"])
    for name in SPLITS:
        part = plain.filter(pc.equal(plain["split"], name))
        counts = part["activity"].drop_null().value_counts().to_pylist()
        told[name] = {
            "windows": len(part),
            "labelled": len(part) - part["activity"].null_count,
            "sessions": pc.count_distinct(part["session"]).as_py(),
            "first": str(pc.min(part["start"]).as_py()),
            "last": str(pc.max(part["end"]).as_py()),
            "labels": {c["values"]: c["counts"] for c in sorted(counts, key=lambda c: -c["counts"])},
        }
    return {"splits": told}
