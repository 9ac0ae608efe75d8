"""Events to windows: choose the sensors, split by day or session, cut, label, audit."""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from typing import Any, TypedDict, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.layouts.layout import Layout
from casita.datasets_scripts.schema import (
    EVENTS,
    WINDOWS,
    HomeFolder,
    add_folder_argument,
    home_folders,
    read_table,
    write_table,
    writes,
)
from casita.datasets_scripts.windows.events import choose_events, event_labels, segments, sensor_keys
from casita.datasets_scripts.windows.splits import PURGED, TRAIN, assign_splits, leak_audit, refuse_leaks
from casita.datasets_scripts.windows.table import SplitCounts, count_windows, windows_table
from casita.processing.event_windows import STRATEGIES, Windowing, fixed_step

CHOICES: dict[str, tuple[str | None, ...]] = {
    "presegment": (None, "fine", "coarse"),
    "unlabelled": ("keep", "drop"),
    "numeric": ("drop", "levels"),
    "unplaced": ("error", "drop"),
}
# Written out in a window's id; what else differs from the default goes in as a short hash. What `train_overlap` adds
# has ids as if it were the overlap of all.
_NAMED = {
    "strategy",
    "length",
    "duration_s",
    "durations_s",
    "overlap",
    "train_overlap",
    "max_events",
    "presegment",
    "resident",
}


@dataclass(frozen=True, kw_only=True)
class WindowSettings(Windowing):
    """Settings by which a home's windows are cut; the defaults are the reference system's FL_20.

    min_events: None stands for 8 with `fixed_length` and for 1 with durations, and is replaced by it.
    presegment: no window crosses a change of the true label, at level "fine" or "coarse".
    unlabelled: "drop" leaves out windows without a majority label.
    resident: "R1", ...: labels are this resident's (`windows.events.event_labels`); None: the most recently opened.
    types: only sensors of these types. numeric, unplaced, split, split_by: see `casita windows --help`.
    seed: of a random split, and of the durations drawn.
    train_overlap: the train split has also the windows of this larger overlap (`fixed_length`: of a step that goes
        into the step of the others). The other splits' windows, and those that train has anyway, stay what they are.
    """

    min_events: int = None  # type: ignore[assignment]
    presegment: str | None = None
    unlabelled: str = "keep"
    resident: str | None = None
    types: tuple[str, ...] | None = None
    numeric: str = "drop"
    unplaced: str = "error"
    split: str = "chronological"
    split_by: str = "auto"
    train_overlap: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}={getattr(self, name)!r} is none of {', '.join(map(str, allowed))}.")
        if self.min_events is None:
            object.__setattr__(self, "min_events", 8 if self.strategy == "fixed_length" else 1)
        super().__post_init__()
        if self.train_overlap is not None:
            self._check_train_overlap(self.train_overlap)

    def _check_train_overlap(self, share: float) -> None:
        expected = "" if self.overlap < share < 1 else f"in ({self.overlap:g}, 1): above overlap"
        if not expected and self.strategy == "fixed_length":
            step = fixed_step(self.length, self.overlap)
            train_step = fixed_step(self.length, share)
            if train_step == step or step % train_step:
                fitting = [1 - s / self.length for s in range(step - 1, 0, -1) if step % s == 0]
                allowed = ", ".join(f"{overlap:.4g}" for overlap in fitting) or "none is there"
                expected = f"of a step that divides overlap's of {step} events: {allowed}"
        if expected:
            raise ValueError(f"train_overlap={share:g}: expected a share {expected}. Leave it out to cut all alike.")

    @property
    def name(self) -> str:
        """Return the sampling as part of a window's id: another one for settings that may give other windows."""
        size = "-".join(f"{d:.12g}" for d in self.all_durations_s) or str(self.length)
        parts = [f"{self.strategy}_{size}_{self.overlap:.12g}"]
        parts += [f"max{self.max_events}"] if self.max_events else []
        parts += [word for word in (self.presegment, self.resident) if word]
        default = WindowSettings(
            strategy=self.strategy, duration_s=self.duration_s, durations_s=self.durations_s, length=self.length
        )
        unnamed = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NAMED}
        other = {name: value for name, value in unnamed.items() if value != getattr(default, name)}
        if self.split == "chronological" and self.strategy != "variable_duration":
            other.pop("seed", None)  # draws nothing
        if other:
            parts.append(sha256(json.dumps(other, sort_keys=True).encode()).hexdigest()[:8])
        return "_".join(parts)


class WindowsSummary(TypedDict):
    """A summary of the windows of a home, as home.json keeps it.

    Events left out by reason, windows left out for want of a label, the unit of the splits, the numeric sensors'
    levels, the leak audit, and counts of each split.
    """

    left_out: dict[str, int]
    windows_without_label: int
    split_unit: str
    levels: dict[str, list[float]]
    leak_audit: dict[str, int]
    splits: dict[str, SplitCounts]


def build_windows(events: pa.Table, layout: Layout, settings: WindowSettings) -> tuple[pa.Table, WindowsSummary]:
    """Cut `events` (schema `EVENTS`, sorted by session and time) into windows (schema `WINDOWS`).

    Returns:
        The windows (`sensor_keys` as dictionaries in memory), and their summary.

    Raises:
        ValueError: sensors without a position (with `unplaced="error"`), nothing left, a label without a coarse one
            (with `presegment="coarse"`), an unknown resident, or a leak.
    """
    chosen, left_out = choose_events(
        events, layout, types=settings.types, numeric=settings.numeric, unplaced=settings.unplaced
    )
    if not len(chosen):
        raise ValueError(f"none of the {len(events)} events is left ({left_out}). Loosen types, numeric or unplaced.")
    split, unit = assign_splits(
        chosen.t_us,
        chosen.session.code,
        unit=settings.split_by,
        order=settings.split,
        purge_events=settings.length if settings.strategy == "fixed_length" else 0,
        purge_s=max(settings.all_durations_s, default=0.0),
        seed=settings.seed,
    )
    label = event_labels(events, settings.resident).take(chosen.row)
    codes = [chosen.session.code, split]
    if settings.presegment:
        codes.append(segments(label, settings.presegment, layout))
    first, last = settings.cut(chosen.t_us, *codes)
    kept = split[first] != PURGED
    first, last = first[kept], last[kept]
    keys, levels = sensor_keys(chosen, train=split == TRAIN)
    windows = windows_table(chosen, keys, label, split, first, last, settings.name)
    if settings.train_overlap is not None:
        added_settings = replace(settings, overlap=settings.train_overlap, train_overlap=None)  # as if all were cut so
        added_first, added_last = added_settings.cut(chosen.t_us, *codes)
        is_new = (split[added_first] == TRAIN) & ~np.isin(added_first, first)
        added_first, added_last = added_first[is_new], added_last[is_new]
        added = windows_table(chosen, keys, label, split, added_first, added_last, added_settings.name)
        order = np.argsort(np.concatenate([first, added_first]), kind="stable")
        windows = pa.concat_tables([windows, added]).take(order)
    unlabelled = windows["activity"].null_count if settings.unlabelled == "drop" else 0
    if unlabelled and unlabelled == len(windows):
        raise ValueError(
            f"none of the {len(windows)} windows has a label, so --unlabelled drop leaves nothing. Keep them."
        )
    if unlabelled:
        windows = windows.filter(pc.is_valid(windows["activity"]))
    audited_events = pa.table({"home": chosen.home.as_arrow(), "timestamp": pa.array(chosen.t_us)})
    audit = leak_audit(windows, audited_events)
    refuse_leaks(audit)
    left_out["purged between splits"] = int((split == PURGED).sum())
    return windows, {
        "left_out": left_out,
        "windows_without_label": unlabelled,
        "split_unit": unit,
        "levels": levels,
        "leak_audit": audit,
        "splits": count_windows(windows),
    }


@writes("windows")
def cut_home(home: HomeFolder, settings: WindowSettings) -> WindowsSummary | None:
    """Write `windows.parquet` of a home folder; return the summary, or None when it was up to date."""
    home.require(home.events, "read")
    layout = home.layout
    stage_settings = {**asdict(settings), "layout": layout}
    if home.is_current("windows", stage_settings, [home.events]):
        return None
    columns = [name for name in EVENTS.names if name != ("activities" if settings.resident is None else "activity")]
    texts = [name for name in columns if EVENTS.field(name).type == pa.string()]
    windows, summary = build_windows(read_table(home.events, EVENTS, columns, texts), layout, settings)
    write_table(home.windows, windows, WINDOWS, {"sampling": asdict(settings), "levels": summary["levels"]})
    home.record("windows", stage_settings, [home.events], [home.windows], summary)
    return summary


def sampling_options(name: str) -> dict[str, Any]:
    """Return the settings that a short name of the reference system's samplings stands for, with any number in it.

    `fl_20`: windows of 20 events. `fd_60`: of 60 seconds, three events at least. `_p` after it: cut by the true
    labels, without unlabelled windows. `ValueError` for anything else.
    """
    match = re.fullmatch(r"(fl)_([1-9]\d*)(_p)?|(fd)_(\d+(?:\.\d+)?)(_p)?", name)
    if not match:
        raise ValueError(f"sampling {name!r}: expected fl_EVENTS or fd_SECONDS, with _p or without: fl_20, fd_60_p.")
    length, by_length, duration, by_duration = match.group(2, 3, 5, 6)
    options: dict[str, Any] = {"strategy": "fixed_length", "length": int(length)} if length else {}
    if duration:
        options = {"strategy": "fixed_duration", "duration_s": float(duration), "min_events": 3}
    return options | ({"presegment": "fine", "unlabelled": "drop"} if by_length or by_duration else {})


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `WindowSettings`, for `casita build` too; what is not given is not in the namespace."""
    default = WindowSettings()
    group = parser.add_argument_group("windows", argument_default=argparse.SUPPRESS)
    add = group.add_argument
    add(
        "--sampling",
        metavar="NAME",
        help="short for --strategy and its size: fl_20 (events), fd_60 (seconds, 3 events at least), any number; _p "
        "after it: --presegment fine --unlabelled drop",
    )
    add("--strategy", choices=STRATEGIES, help=f"how a window's size is given (default {default.strategy})")
    add("--length", type=int, help=f"fixed_length: events a window (default {default.length})")
    add("--duration-s", type=float, metavar="S", help="fixed_duration: seconds a window, from its first event on")
    add("--durations-s", type=float, nargs="+", metavar="S", help="variable_duration: seconds to draw from")
    add("--overlap", type=float, help=f"share, 0 <= overlap < 1 (default {default.overlap})")
    add(
        "--train-overlap",
        type=float,
        metavar="SHARE",
        help="more windows to learn from: the train split has also those of this larger overlap; what is tested stays "
        "the same (default: none)",
    )
    add("--min-events", type=int, help="windows of fewer are left out (default 8; 1 with durations)")
    add("--max-events", type=int, help="durations: a window of more events is split into even pieces (default: never)")
    add("--max-gap-min", type=_minutes, help=f"a longer silence ends a window; none (default {default.max_gap_min:g})")
    add(
        "--presegment",
        nargs="?",
        const="fine",
        choices=["fine", "coarse"],
        help="windows do not cross a change of the true label, at this level (fine if none is named)",
    )
    add("--unlabelled", choices=CHOICES["unlabelled"], help="windows whose majority has no label (default keep)")
    add("--resident", metavar="R1", help="labels of this resident (default: the most recently opened of anybody)")
    add("--types", nargs="+", metavar="TYPE", help="only sensors of these types (default: all)")
    add(
        "--numeric", choices=CHOICES["numeric"], help="numeric sensors: leave out, or read as LOW, NORMAL, HIGH (drop)"
    )
    add("--unplaced", choices=CHOICES["unplaced"], help="sensors without a position in the layout (default error)")
    add("--split", choices=["chronological", "random"], help="which days or sessions come first (chronological)")
    add("--split-by", choices=["auto", "day", "session"], help="auto: sessions where there are ten, else days")
    add("--seed", type=int, help="of a random split, and of variable durations (default 0)")


def _minutes(text: str) -> float | None:
    """Read `30` minutes, or `none`."""
    return None if text.lower() == "none" else float(text)


def settings_from(args: argparse.Namespace) -> WindowSettings:
    """Make `WindowSettings` of parsed arguments; `ValueError` where `--sampling` and another one differ."""
    given = {f.name: getattr(args, f.name) for f in fields(WindowSettings) if hasattr(args, f.name)}
    for name in ("types", "durations_s"):
        if name in given:
            given[name] = tuple(sorted(set(given[name])) if name == "types" else given[name])
    if sampling := getattr(args, "sampling", None):
        options = sampling_options(sampling)
        for name in sorted(given.keys() & options.keys()):
            if given[name] != options[name]:
                flag = f"--{name.replace('_', '-')} says {given[name]}"
                raise ValueError(f"--sampling {sampling} says {name}={options[name]}, {flag}. Leave one of them out.")
        given |= options
    strategy = given.get("strategy", "fixed_length")
    if "length" in given and strategy != "fixed_length":  # it would have no effect
        raise ValueError(f"strategy={strategy} does not read length; leave it out, or see --max-events.")
    return WindowSettings(**given)


def summary_lines(summary: WindowsSummary) -> Iterator[str]:
    """Yield the summary as lines for a person."""
    for reason, count in summary["left_out"].items():
        if count:
            yield f"  left out: {count:,} events {reason}"
    if count := summary.get("windows_without_label"):
        yield f"  left out: {count:,} windows without a label"
    for split, counts in summary["splits"].items():
        yield (
            f"  {split:<10} {counts['windows']:>8,} windows, {counts['labelled']:>8,} labelled, "
            f"{counts['sessions']} session(s), {counts['first'][:16]} to {counts['last'][:16]}"
        )
    yield f"  split by {summary['split_unit']}; leak audit: {sum(summary['leak_audit'].values())} events in two splits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `casita windows`."""
    parser.description = (
        "Cut the events of a home, or of each home in a folder of home folders, into windows, split them, and check "
        "that no event is in two splits."
    )
    parser.epilog = (
        "examples:\n"
        "  casita windows homes/milan --length 50 --overlap 0.5 --unplaced drop\n"
        "  casita windows homes/milan --length 50 --train-overlap 0.9 --unplaced drop\n"
        "  casita windows homes/milan --strategy variable_duration --durations-s 30 60 120 --max-events 256\n"
        "  casita windows homes --sampling fd_60_p"
    )
    add_folder_argument(parser)
    add_window_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Run `casita windows DIR`."""
    settings = settings_from(args)
    for home in home_folders(args.dir):
        summary = cut_home(home, settings)
        print(f"{home.windows}: {'up to date' if summary is None else 'written'}")
        print("\n".join(summary_lines(summary or cast(WindowsSummary, home.summary("windows")))))
