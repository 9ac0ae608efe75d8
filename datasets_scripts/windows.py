"""Events to windows: choose the sensors, split by day or session, cut, label, audit."""

import argparse
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.schema import EVENTS, WINDOWS, HomeFolder, add_folder_argument, read_table, write_table
from casita.datasets_scripts.splits import PURGED, SPLITS, assign_splits, leak_audit, refuse_leaks
from casita.processing.event_windows import cut_fixed_length, fit_levels, level_of, run_starts


@dataclass(frozen=True, kw_only=True)
class WindowSettings:
    """How windows are cut; the defaults are the reference system's FL_20."""

    strategy: str = "fixed_length"
    length: int = 20
    overlap: float = 0.5
    min_events: int = 8
    max_gap_min: float | None = 30.0
    presegment: bool = False
    types: tuple[str, ...] | None = None
    numeric: str = "drop"
    unplaced: str = "error"
    split: str = "chronological"
    split_by: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (
            ("strategy", ("fixed_length",)),
            ("numeric", ("drop", "levels")),
            ("unplaced", ("error", "drop")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(allowed)}.")
        if self.min_events < 1:
            raise ValueError(f"min_events={self.min_events} must be at least 1.")

    @property
    def name(self) -> str:
        """The strategy as part of a window's id."""
        return f"{self.strategy}_{self.length}_{self.overlap:g}{'_presegmented' if self.presegment else ''}"


def build_windows(
    events: pa.Table, layout: dict[str, Any], settings: WindowSettings
) -> tuple[pa.Table, dict[str, Any]]:
    """Cut `events` (schema `EVENTS`, sorted by session and time) into windows (schema `WINDOWS`).

    Returns:
        The windows, and a summary: events left out by reason, windows and labels of each split, the numeric sensors'
        levels, the leak audit.

    Raises:
        ValueError: sensors without a position (with `unplaced="error"`), nothing left to cut, or a leak.
    """
    chosen, left_out = choose_events(events, layout, settings)
    if not len(chosen):
        raise ValueError(f"none of the {len(events)} events is left ({left_out}). Loosen types, numeric or unplaced.")
    t_us = np.asarray(chosen["timestamp"].cast(pa.int64()))
    session = np.asarray(chosen["session"].combine_chunks().dictionary_encode().indices)
    split, unit = assign_splits(
        t_us, session, unit=settings.split_by, order=settings.split, purge_events=settings.length, seed=settings.seed
    )
    label, labels = _label_codes(chosen["activity"])
    codes = (session, split, label) if settings.presegment else (session, split)
    gap_s = None if settings.max_gap_min is None else settings.max_gap_min * 60
    first, last = cut_fixed_length(
        run_starts(t_us, *codes, max_gap_s=gap_s),
        len(t_us),
        length=settings.length,
        overlap=settings.overlap,
        min_events=min(settings.min_events, settings.length),
    )
    kept = split[first] != PURGED
    first, last = first[kept], last[kept]
    keys, levels = sensor_keys(chosen, train=split == 0)
    activity, share = _majority(label, labels, first, last)
    windows = _table(chosen, keys, t_us, first, last, split, activity, share, settings)
    audit = leak_audit(windows, chosen)
    refuse_leaks(audit)
    left_out["purged between splits"] = int((split == PURGED).sum())
    return windows, {
        "left_out": left_out,
        "split_unit": unit,
        "levels": levels,
        "leak_audit": audit,
        **_count(windows),
    }


def choose_events(
    events: pa.Table, layout: dict[str, Any], settings: WindowSettings
) -> tuple[pa.Table, dict[str, int]]:
    """The events of placed sensors of the wanted types; and how many were left out, by reason."""
    encoded = events["sensor"].combine_chunks().dictionary_encode()
    names, code = encoded.dictionary.to_pylist(), np.asarray(encoded.indices)
    count = np.bincount(code, minlength=len(names))
    is_number = np.asarray(pc.is_valid(events["value"]))
    numeric = np.bincount(code, weights=is_number, minlength=len(names)) > count / 2
    placed = np.array([name in layout["sensors"] for name in names], dtype=bool)
    if not placed.all() and settings.unplaced == "error":
        lacking = sorted((name for name, there in zip(names, placed, strict=True) if not there))
        raise ValueError(
            f"{layout['home']}: {len(lacking)} of the log's sensors have no position in the layout "
            f"({', '.join(repr(name) for name in lacking[:5])}{', ...' if len(lacking) > 5 else ''}). Add them to the "
            f"layout, or pass --unplaced drop to leave out their {int(count[~placed].sum()):,} events."
        )
    if settings.types:
        known = sorted({told["type"] for told in layout["sensors"].values()})
        if unknown := set(settings.types) - set(known):
            raise ValueError(f"types {sorted(unknown)} are not in the layout; it has: {', '.join(known)}.")
        wanted = np.array([layout["sensors"].get(name, {}).get("type") in settings.types for name in names])
    else:
        wanted = np.ones(len(names), dtype=bool)
    reasons = {
        "of sensors without a position": ~placed[code],
        "of other sensor types": ~wanted[code],
        "of numeric sensors": numeric[code] & (settings.numeric == "drop"),
        # A motion sensor that once reports a number is noise, a numeric one that once reports a word likewise.
        "with a reading that does not fit the sensor": numeric[code] != is_number,
    }
    keep = np.ones(len(events), dtype=bool)
    left_out = {}
    for reason, hit in reasons.items():
        left_out[reason] = int((hit & keep).sum())
        keep &= ~hit
    return events.filter(pa.array(keep)), left_out


def sensor_keys(events: pa.Table, train: np.ndarray) -> tuple[pa.DictionaryArray, dict[str, list[float]]]:
    """`(N,)` keys "M001_ON", numeric readings as levels; and each numeric sensor's bounds, from the `train` events."""
    states = events["state"].combine_chunks()
    values = np.asarray(events["value"].combine_chunks(), dtype=np.float64)
    sensor = events["sensor"].combine_chunks().dictionary_encode()
    code, levels = np.asarray(sensor.indices), {}
    numeric = ~np.isnan(values)
    if numeric.any():
        low, high = np.zeros(len(sensor.dictionary)), np.zeros(len(sensor.dictionary))
        for i in np.unique(code[numeric]):
            readings = values[numeric & train & (code == i)]
            if not len(readings):
                raise ValueError(
                    f"numeric sensor {sensor.dictionary[int(i)].as_py()!r} has no reading in the train split, so its "
                    "levels cannot be fitted. Leave it out of the layout, or pass --numeric drop."
                )
            low[i], high[i] = fit_levels(readings)
            levels[sensor.dictionary[int(i)].as_py()] = [float(low[i]), float(high[i])]
        level = level_of(values, low[code], high[code])
        states = pc.if_else(pa.array(numeric), pa.array(level), states)
    return pc.binary_join_element_wise(events["sensor"].combine_chunks(), states, "_").dictionary_encode(), levels


def _label_codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """`(N,)` code of each event's activity, 0 for none; and the names, `names[code - 1]`."""
    encoded = column.combine_chunks().dictionary_encode()
    return np.asarray(pc.fill_null(encoded.indices, -1)) + 1, encoded.dictionary.to_pylist()


def _majority(
    label: np.ndarray, labels: list[str], first: np.ndarray, last: np.ndarray, chunk: int = 65536
) -> tuple[pa.Array, np.ndarray]:
    """`(B,)` most frequent label of each window (null when most events have none) and `(B,)` its share."""
    best, share = np.zeros(len(first), dtype=np.int64), np.zeros(len(first), dtype=np.float32)
    for at in range(0, len(first), chunk):
        size = (last - first)[at : at + chunk]
        index, window = _expand(first[at : at + chunk], size)
        counts = np.bincount(window * (len(labels) + 1) + label[index], minlength=len(size) * (len(labels) + 1))
        counts = counts.reshape(len(size), -1)
        best[at : at + chunk] = counts.argmax(axis=1)
        share[at : at + chunk] = counts.max(axis=1) / size
    return pa.array([None, *labels]).cast(pa.string()).take(pa.array(best)), share


def _expand(first: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All events of all windows, one after the other: index of the event, and which window it is of."""
    window = np.repeat(np.arange(len(first)), size)
    return np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size) + first[window], window


def _table(
    events: pa.Table,
    keys: pa.DictionaryArray,
    t_us: np.ndarray,
    first: np.ndarray,
    last: np.ndarray,
    split: np.ndarray,
    activity: pa.Array,
    share: np.ndarray,
    settings: WindowSettings,
) -> pa.Table:
    """The windows as Arrow, list columns built from offsets."""
    index, window = _expand(first, last - first)
    offsets = pa.array(np.concatenate([[0], np.cumsum(last - first)]), pa.int32())
    seconds = ((t_us[index] - t_us[first][window]) / 1e6).astype(np.float32)
    home = events["home"].combine_chunks().take(pa.array(first))
    session = events["session"].combine_chunks().take(pa.array(first))
    start = pa.array(t_us[first]).cast(pa.timestamp("us"))
    strategy = pa.array([settings.name]).take(pa.array(np.zeros(len(first), dtype=np.int64)))
    window_id = pc.binary_join_element_wise(home, session, strategy, start.cast(pa.string()), "/")
    return pa.table(
        {
            "window_id": _numbered(window_id),
            "home": home,
            "session": session,
            "split": pa.array(SPLITS).take(pa.array(split[first])),
            "start": start,
            "end": pa.array(t_us[last - 1]).cast(pa.timestamp("us")),
            "sensor_keys": pa.ListArray.from_arrays(offsets, keys.take(pa.array(index)).cast(pa.string())),
            "seconds": pa.ListArray.from_arrays(offsets, pa.array(seconds)),
            "activity": activity,
            "activity_share": pa.array(share),
        }
    )


def _numbered(ids: pa.Array) -> pa.Array:
    """Ids made unique: where windows of a session start at the same microsecond, the later ones get `+1`, `+2`, ..."""
    code = np.asarray(ids.dictionary_encode().indices)
    order = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[order], prepend=-1))
    nth = np.empty(len(code), dtype=np.int64)
    nth[order] = np.arange(len(code)) - np.repeat(starts, np.diff(np.append(starts, len(code))))
    if not nth.any():
        return ids
    suffix = np.where(nth > 0, np.char.add("+", nth.astype(str)), "")
    return pc.binary_join_element_wise(ids, pa.array(suffix), "")


def _count(windows: pa.Table) -> dict[str, Any]:
    """Windows, labelled share, time range and label counts of each split."""
    told = {}
    for name in SPLITS:
        part = windows.filter(pc.equal(windows["split"], name))
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


def cut_home(home: HomeFolder, settings: WindowSettings) -> dict[str, Any] | None:
    """Write `windows.parquet` of a home folder; returns the summary, or None when it was up to date."""
    home.require(home.events, "read")
    stage, layout = {**asdict(settings), "layout": home.layout}, home.layout
    if home.is_current("windows", stage, [home.events]):
        return None
    windows, summary = build_windows(read_table(home.events, EVENTS), layout, settings)
    write_table(home.windows, windows, WINDOWS, {"sampling": asdict(settings), "levels": summary["levels"]})
    home.record("windows", stage, [home.events], [home.windows], summary)
    return summary


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `WindowSettings`; shared with `casita build`."""
    default = WindowSettings()
    group = parser.add_argument_group("windows")
    group.add_argument("--strategy", default=default.strategy, choices=["fixed_length"])
    group.add_argument("--length", type=int, default=default.length, help="events a window (default %(default)s)")
    group.add_argument("--overlap", type=float, default=default.overlap, help="share, 0 <= overlap < 1 (%(default)s)")
    group.add_argument("--min-events", type=int, default=default.min_events, help="shorter windows are left out")
    group.add_argument("--max-gap-min", type=float, default=default.max_gap_min, help="a longer silence ends a window")
    group.add_argument("--presegment", action="store_true", help="windows do not cross a change of label")
    group.add_argument("--types", nargs="+", metavar="TYPE", help="only sensors of these types (default: all)")
    group.add_argument(
        "--numeric",
        default=default.numeric,
        choices=["drop", "levels"],
        help="numeric sensors: leave out, or read as LOW, NORMAL, HIGH (default %(default)s)",
    )
    group.add_argument(
        "--unplaced",
        default=default.unplaced,
        choices=["error", "drop"],
        help="sensors without a position in the layout (default %(default)s)",
    )
    group.add_argument("--split", default=default.split, choices=["chronological", "random"])
    group.add_argument("--split-by", default=default.split_by, choices=["auto", "day", "session"])
    group.add_argument("--seed", type=int, default=default.seed, help="of a random split")


def settings_from(args: argparse.Namespace) -> WindowSettings:
    """`WindowSettings` from parsed arguments."""
    options = {name: getattr(args, name) for name in asdict(WindowSettings())}
    options["types"] = tuple(options["types"]) if options["types"] else None
    return WindowSettings(**options)


def describe(summary: dict[str, Any]) -> Iterable[str]:
    """The summary as lines for a person."""
    for reason, count in summary["left_out"].items():
        if count:
            yield f"  left out: {count:,} events {reason}"
    for name, told in summary["splits"].items():
        yield (
            f"  {name:<10} {told['windows']:>8,} windows, {told['labelled']:>8,} labelled, "
            f"{told['sessions']} session(s), {told['first'][:16]} to {told['last'][:16]}"
        )
    yield f"  split by {summary['split_unit']}; leak audit: {sum(summary['leak_audit'].values())} events in two splits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Cut a home's events into windows, split them, and check that no event is in two splits."
    parser.epilog = "example:\n  casita windows homes/milan --length 50 --overlap 0.5 --unplaced drop"
    add_folder_argument(parser)
    add_window_arguments(parser)


def run(args: argparse.Namespace) -> None:
    home = HomeFolder(args.dir)
    summary = cut_home(home, settings_from(args))
    print(f"{home.windows}: {'up to date' if summary is None else 'written'}")
    print("\n".join(describe(summary or home.summary("windows"))))
