"""How windows are divided into what is learned from and what is tested: the evaluation's protocols, each by its name.

The encoder was trained once, on the split that its home folder holds, and saw no activity label there. A protocol that
divides the windows otherwise fits every classifier and every baseline anew; the encoder stays, and may have seen some
of the test windows' events, unlabelled, in training. `about` says of how many windows that is true (`seen_share`), for
such a number compares encoders with each other, and less with what reads nothing but the train windows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.label_prompts import coarse_of
from casita.datasets_scripts.schema import EVENTS, HomeFolder, read_metadata, read_table
from casita.datasets_scripts.splits import (
    SPLITS,
    leak_audit,
    refuse_leaks,
    share_time,
    split_randomly,
    window_units,
)
from casita.train.intervals import Units
from casita.train.material import Material, checked_splits, describe_splits
from casita.train.probes import Task, make_task

PROTOCOLS = {
    "chronological": "Whole days or sessions in the order of time: the earliest 70 % train, the next 10 % choose, the "
    "latest 20 % test.",
    "random_days": "Whole days drawn at random, 70/10/20, with a gap of a window's length where two splits meet.",
    "random_sessions": "Whole sessions drawn at random, 70/10/20; sessions that overlap in time stay together.",
    "leave_home_out": "Another home, that the encoder never saw: its sensors' pictures instead of the own, classifiers "
    "fitted on the homes of the training, labels at the coarse level that homes share.",
    "shuffled_segments": "Leaky, for comparison: segments of one activity drawn at random, 60/10/30, as much of the "
    "literature does; neighbouring windows share events and the hour across the splits.",
}
LEAKY = frozenset({"shuffled_segments"})
OTHER = "other"
SEED = 0  # of every random division: all runs are tested on the same windows


@dataclass(frozen=True)
class Home:
    """A home as an evaluation reads it: its folder, and all its windows as they were cut and split."""

    folder: HomeFolder
    material: Material

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def events(self) -> pa.Table:
        """What the leak audit reads of the log."""
        return read_table(self.folder.require(self.folder.events, "read"), EVENTS, ["home", "timestamp"])

    def coarse(self) -> dict[str, str]:
        """Each label's coarse one; `ValueError` where the layout does not tell."""
        labels = set(self.material.windows["activity"].drop_null().to_pylist())
        return coarse_of(self.folder.description.get("layout") or {"home": self.name}, sorted(labels))

    def others(self) -> set[str]:
        """The labels that only say that it was something else."""
        labels = set(self.material.windows["activity"].drop_null().to_pylist())
        try:
            coarse = self.coarse()
        except ValueError:
            coarse = {}
        return {label for label in labels if OTHER in (label.casefold(), coarse.get(label, "").casefold())}


@dataclass(frozen=True)
class Case:
    """The windows of one protocol, `N` of them: `split` and `activity` of `windows` are the protocol's own.

    Attributes:
        where: of each home that windows come from, in their order, its folder's path and its row numbers.
        tasks: by variant: `labelled`, `with_unlabelled` and, where there are such labels, `without_other`.
        runs: `(N,)` number of the stretch of consecutive windows with one label that each is from.
        units: the day or session of each test window.
        coarse: the coarse label of each label; `{}` where the layout does not tell.
    """

    name: str
    home: Home
    windows: pa.Table
    where: Mapping[str, np.ndarray]
    tasks: Mapping[str, Task]
    runs: np.ndarray
    units: Units
    coarse: Mapping[str, str]
    about: Mapping[str, Any]
    left_out: Mapping[str, str]

    @property
    def test(self) -> np.ndarray:
        """Row numbers of the test windows."""
        return np.flatnonzero(np.array(self.windows["split"].to_pylist(), dtype=object) == "test")

    @property
    def train(self) -> np.ndarray:
        """Row numbers of the train windows."""
        return np.flatnonzero(np.array(self.windows["split"].to_pylist(), dtype=object) == "train")


def check_protocols(names: Sequence[str]) -> None:
    """`ValueError` for a name that is no protocol's, or one that is there twice."""
    for name in names:
        if name not in PROTOCOLS:
            hint = " (say by what: random_days or random_sessions)" if name == "random" else ""
            raise ValueError(f"--protocol {name}: there are {', '.join(PROTOCOLS)}{hint}.")
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"--protocol {' '.join(names)}: expected each protocol once, and at least one.")


def make_case(name: str, home: Home, trained_in: bool, max_windows: int) -> Case:
    """A protocol within one home.

    Args:
        trained_in: whether the encoder was trained on this home's train windows.
        max_windows: train (and validation) windows that a classifier is fitted on at most, evenly spaced.

    Raises:
        ValueError: the home's windows were split otherwise (`chronological`), too few days or sessions, no labelled
            windows, or events in two splits of a protocol that allows none.
    """
    windows = home.material.windows
    runs = segments(windows)
    if name == "chronological":
        audit = checked_splits(home.folder, windows, name)
        split = np.array(windows["split"].to_pylist(), dtype=object)
        told = {"split_by": window_units(windows)[1]}
    elif name == "shuffled_segments":
        split, told = split_segments(runs), {"split_by": "segment", "seed": SEED}
        audit = leak_audit(with_columns(windows, split), home.events)
    else:
        unit = name.removeprefix("random_").removesuffix("s")
        split, told = _random_split(home, unit)
        audit = _audit(with_columns(windows, split), home.events)
    seen = 0.0
    if trained_in:
        stored = np.array(windows["split"].to_pylist(), dtype=object)
        test, learned = (np.flatnonzero(rows) for rows in (split == "test", stored == "train"))
        seen = float(share_time(windows.take(test), windows.take(learned)).mean()) if len(test) else 0.0
    try:
        coarse, why = home.coarse(), ""
    except ValueError as error:
        coarse, why = {}, str(error)
    about = {"told": PROTOCOLS[name], "leaky": name in LEAKY, "seen_share": seen, "level": "fine", **told}
    return _case(
        name, home, with_columns(windows, split), {str(home.folder.root): np.arange(len(windows))}, runs, about, audit,
        max_windows, home.others(), coarse, {"paraphrases": why} if why else {},
    )  # fmt: skip


def make_case_of_another_home(target: Home, sources: Sequence[Home], max_windows: int) -> Case:
    """`leave_home_out`: train and validation windows of the `sources`, every window of `target` as test.

    Raises:
        ValueError: a home without coarse labels or without labelled windows, or a target whose events the sources hold.
    """
    refuse_same(target, sources)
    tables, where, runs = [], {}, [np.zeros(0, np.int64)]
    for home in (*sources, target):
        windows, coarse = home.material.windows, home.coarse()
        split = np.array(windows["split"].to_pylist(), dtype=object)
        rows = np.arange(len(windows)) if home is target else np.flatnonzero(split != "test")
        activity = [None if label is None else coarse[label] for label in windows["activity"].to_pylist()]
        own = with_columns(windows, np.full(len(split), "test", object) if home is target else split, activity)
        tables.append(own.take(rows))
        where[str(home.folder.root)] = rows
        runs.append(segments(own)[rows] + runs[-1].max(initial=-1) + 1)
    windows = pa.concat_tables(tables)
    audit = _audit(windows, pa.concat_tables([home.events for home in (*sources, target)]))
    labels = [set(table["activity"].drop_null().to_pylist()) for table in (pa.concat_tables(tables[:-1]), tables[-1])]
    about = {
        "told": PROTOCOLS["leave_home_out"], "leaky": False, "seen_share": 0.0, "level": "coarse",
        "sources": [home.name for home in sources], "target": target.name, "split_by": "home",
        "labels_not_in_sources": sorted(labels[1] - labels[0]),
    }  # fmt: skip
    left_out = {
        "bag_of_sensors": "sensors of one home say nothing of another's; bag_of_rooms stands for it",
        "learned": "a learned table knows the sensors of its own homes only",
    }
    coarse = {label: label for label in labels[1]}
    others = {label for label in labels[0] | labels[1] if label.casefold() == OTHER}
    return _case(
        "leave_home_out", target, windows, where, np.concatenate(runs), about, audit, max_windows, others, coarse,
        left_out,
    )  # fmt: skip


def _case(
    name: str,
    home: Home,
    windows: pa.Table,
    where: Mapping[str, np.ndarray],
    runs: np.ndarray,
    about: Mapping[str, Any],
    audit: Mapping[str, int],
    max_windows: int,
    others: set[str],
    coarse: Mapping[str, str],
    left_out: Mapping[str, str],
) -> Case:
    """The tasks, and only the windows that they touch."""
    activities, splits = windows["activity"].to_pylist(), windows["split"].to_pylist()
    told = dict(left_out)
    kinds: dict[str, dict[str, Any]] = {"labelled": {"unlabelled": False}, "with_unlabelled": {"unlabelled": True}}
    if others:
        kinds["without_other"] = {"unlabelled": False, "without": others}
    else:
        told["without_other"] = "no label says that it was something else"
    tasks = {}
    for variant, how in kinds.items():
        try:
            tasks[variant] = make_task(activities, splits, max_windows=max_windows, **how)
        except ValueError:
            if variant != "without_other":
                raise
            told[variant] = f"no other labels in the train or the test split than {', '.join(sorted(others))}"
    kept = np.unique(np.concatenate([task.rows() for task in tasks.values()]))
    described = {**about, "splits": describe_splits(windows), "leak_audit": dict(audit)}
    split = np.array(splits, dtype=object)[kept]
    test = np.flatnonzero(split == "test")
    code, unit = window_units(windows.take(kept[test]))
    units = Units(code, unit)
    described["intervals"] = {"unit": unit, "units": units.count}
    return Case(
        name=name,
        home=home,
        windows=windows.take(kept),
        where=_among(where, kept),
        tasks={variant: task.among(kept) for variant, task in tasks.items()},
        runs=runs[kept],
        units=units,
        coarse=coarse,
        about=described,
        left_out=told,
    )


def _among(where: Mapping[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    """The homes' row numbers of those windows alone that were kept."""
    found, begin = {}, 0
    for root, rows in where.items():
        mine = kept[(kept >= begin) & (kept < begin + len(rows))] - begin
        found[root], begin = rows[mine], begin + len(rows)
    return found


def _random_split(home: Home, unit: str) -> tuple[np.ndarray, dict[str, Any]]:
    """The home's own split, if that is the one meant, else a new one; and what to tell of it."""
    own = read_metadata(home.folder.windows).get("sampling", {})
    if own.get("split") == "random" and home.folder.summary("windows").get("split_unit") == unit:
        return np.array(home.material.splits, dtype=object), {"split_by": unit, "seed": own.get("seed", 0)}
    split = split_randomly(home.material.windows, unit, SEED)
    purged = sum(name is None for name in split)
    return split, {"split_by": unit, "seed": SEED, "purged_windows": purged}


def _audit(windows: pa.Table, events: pa.Table) -> dict[str, int]:
    audit = leak_audit(windows.filter(pc.is_valid(windows["split"])), events)
    refuse_leaks(audit)
    return audit


def refuse_same(target: Home, sources: Sequence[Home]) -> None:
    """`ValueError` where the target is one of the sources, under another name perhaps."""
    starts = set(target.material.windows["start"].to_pylist())
    for source in sources:
        shared = len(starts & set(source.material.windows["start"].to_pylist()))
        if source.name == target.name or 2 * shared > len(starts):
            raise ValueError(
                f"leave_home_out: {target.folder.root} holds the home {target.name}, which the run was trained on"
                f"{'' if source.name == target.name else f' as {source.name}'}. Give another home with --target DIR."
            )


def segments(windows: pa.Table) -> np.ndarray:
    """`(N,)` number of the stretch of consecutive windows of a session with one label (or without) that each is of."""
    told = list(zip(windows["session"].to_pylist(), windows["activity"].to_pylist(), strict=True))
    changes = [now != before for now, before in zip(told[1:], told[:-1], strict=True)]
    return np.concatenate([np.zeros(min(1, len(told)), np.int64), np.cumsum(changes, dtype=np.int64)])


def split_segments(runs: np.ndarray, seed: int = SEED) -> np.ndarray:
    """`(N,)` object: a split for each window, its segment drawn at random: 60 % train, 10 % validation, 30 % test."""
    place = np.random.default_rng(seed).permutation(int(runs.max()) + 1)
    share = place[runs] / len(place)
    return np.array(SPLITS, dtype=object)[np.digitize(share, [0.6, 0.7])]


def with_columns(windows: pa.Table, split: np.ndarray, activity: Sequence[str | None] | None = None) -> pa.Table:
    """The table with other splits, and other labels if they are given."""
    for name, values in (("split", split.tolist()), ("activity", activity)):
        if values is not None:
            at = windows.schema.get_field_index(name)
            windows = windows.set_column(at, pa.field(name, pa.string()), pa.array(values, pa.string()))
    return windows

