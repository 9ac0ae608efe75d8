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

from casita.datasets_scripts.layouts.label_prompts import coarse_labels
from casita.datasets_scripts.schema import EVENTS, HomeFolder, read_metadata, read_table
from casita.datasets_scripts.windows.splits import (
    SPLITS,
    bootstrap_clusters,
    leak_audit,
    refuse_leaks,
    share_time,
    split_randomly,
)
from casita.datasets_scripts.windows.table import evenly_cut
from casita.train.evaluation.bootstrap import BootstrapClusters
from casita.train.evaluation.inputs import EvaluationInputs, checked_splits, describe_splits
from casita.train.evaluation.probes import Task, make_task

PROTOCOLS = {
    "chronological": "Whole days or sessions in the order of time: the earliest 70 % train, the next 10 % choose, the "
    "latest 20 % test.",
    "random_days": "Whole days drawn at random, 70/10/20, with a gap of a window's length where two splits meet.",
    "random_sessions": "Whole sessions drawn at random, 70/10/20; sessions that overlap in time stay together.",
    "leave_home_out": "Another home, that the encoder never saw: its sensors' pictures instead of the own, "
    "classifiers fitted on the homes of the training, labels at the coarse level that homes share.",
    "shuffled_segments": "Leaky, for comparison: segments of one activity drawn at random, 60/10/30, as much of the "
    "literature does; neighbouring windows share events and the hour across the splits.",
}
LEAKY = frozenset({"shuffled_segments"})
OTHER = "other"
VARIANTS = ("labelled", "with_unlabelled")
SEED = 0  # of every random division: all runs are tested on the same windows


@dataclass(frozen=True)
class EvaluationHome:
    """A home as an evaluation reads it: its folder, and all its windows as they were cut and split."""

    folder: HomeFolder
    material: EvaluationInputs

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def events(self) -> pa.Table:
        """What the leak audit reads of the log."""
        return read_table(self.folder.require(self.folder.events, "read"), EVENTS, ["home", "timestamp"])

    @property
    def cut(self) -> dict[str, Any]:
        """The settings by which the windows were cut, as far as their file tells."""
        return read_metadata(self.folder.windows).get("sampling", {})

    def evenly_cut(self) -> np.ndarray:
        """Row numbers of the windows that every split would have: without those that `train_overlap` adds to train."""
        return np.flatnonzero(evenly_cut(self.material.windows))

    def coarse(self) -> dict[str, str]:
        """Each label's coarse one; `ValueError` where the layout does not tell."""
        labels = set(self.material.windows["activity"].drop_null().to_pylist())
        return coarse_labels(self.folder.layout_or_empty, sorted(labels))

    def others(self) -> set[str]:
        """The labels that only say that it was something else."""
        labels = set(self.material.windows["activity"].drop_null().to_pylist())
        try:
            coarse = self.coarse()
        except ValueError:
            coarse = {}
        return {label for label in labels if OTHER in (label.casefold(), coarse.get(label, "").casefold())}


@dataclass(frozen=True)
class ProtocolSplit:
    """The windows of one protocol, `N` of them: `split` and `activity` of `windows` are the protocol's own.

    Attributes:
        homes: those that windows come from; the one that is tested, `home`, last.
        where: of each of them its folder's path and its row numbers, in the order of the windows.
        tasks: by variant: `labelled`, `with_unlabelled` and, where there are such labels, `without_other`.
        runs: `(N,)` number of the stretch of consecutive windows with one label that each is from.
        units: the day or session of each test window.
        coarse: the coarse label of each label; `{}` where the layout does not tell.
    """

    name: str
    homes: tuple[EvaluationHome, ...]
    windows: pa.Table
    where: Mapping[str, np.ndarray]
    tasks: Mapping[str, Task]
    runs: np.ndarray
    units: BootstrapClusters
    coarse: Mapping[str, str]
    about: Mapping[str, Any]
    left_out: Mapping[str, str]

    @property
    def home(self) -> EvaluationHome:
        """The home that is tested."""
        return self.homes[-1]

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


@dataclass(frozen=True)
class _Division:
    """A protocol's division of windows, by the names of `ProtocolSplit`, before tasks are made of it; `others`:
    labels of anything else."""

    name: str
    homes: tuple[EvaluationHome, ...]
    windows: pa.Table
    where: Mapping[str, np.ndarray]
    runs: np.ndarray
    coarse: Mapping[str, str]
    others: set[str]
    about: Mapping[str, Any]
    left_out: Mapping[str, str]


def make_split(
    name: str, home: EvaluationHome, trained_in: bool, max_windows: int, lesson: pa.Table | None = None
) -> ProtocolSplit:
    """A protocol within one home.

    Args:
        trained_in: whether the encoder was trained on this home's train windows.
        lesson: the windows of the home's folder that it was trained in, where that is another one than `home.folder`.
        max_windows: train (and validation) windows that a classifier is fitted on at most, evenly spaced.

    Raises:
        ValueError: the home's windows were split otherwise (`chronological`), too few days or sessions, no labelled
            windows, or events in two splits of a protocol that allows none.
    """
    unit = name.removeprefix("random_").removesuffix("s")
    own = name == "chronological" or _split_so(home, unit)
    # Splits drawn anew want windows that were cut alike: which of them are for training is not known before.
    rows = np.arange(len(home.material.windows)) if own else home.evenly_cut()
    whole = home.material.windows.take(rows)
    runs = segments(whole)
    told: dict[str, Any] = {"split_by": "segment", "seed": SEED}
    if name == "chronological":
        split, told = np.array(home.material.splits, dtype=object), {"split_by": _unit_of(home)}
        audit = checked_splits(home.folder, whole, name)
    elif name in LEAKY:
        split = split_segments(runs)
        audit = leak_audit(with_columns(whole, split), home.events)
    else:
        split, told = _random_split(home, whole, unit, own)
        audit = _audit(with_columns(whole, split), home.events)
    coarse, left_out = dict[str, str](), dict[str, str]()
    try:
        coarse = home.coarse()
    except ValueError as error:
        left_out["paraphrases"] = str(error)
    about = {
        "told": PROTOCOLS[name],
        "leaky": name in LEAKY,
        "seen_share": _seen(whole, split, home.material.windows if lesson is None else lesson) if trained_in else 0.0,
        "level": "fine",
        **told,
        "leak_audit": audit,
    }
    windows, where = with_columns(whole, split), {str(home.folder.root): rows}
    return _case(_Division(name, (home,), windows, where, runs, coarse, home.others(), about, left_out), max_windows)


def make_unseen_home_split(
    target: EvaluationHome, sources: Sequence[EvaluationHome], max_windows: int
) -> ProtocolSplit:
    """`leave_home_out`: train and validation windows of the `sources`, every window of `target` as test.

    Raises:
        ValueError: a home without coarse labels or without labelled windows, or a target that is one of the sources.
    """
    refuse_same(target, sources)
    homes = (*sources, target)
    tables, where, runs = [], {}, [np.zeros(0, np.int64)]
    for home in homes:
        whole, coarse = home.material.windows, home.coarse()
        split = np.array(home.material.splits, dtype=object)
        rows = home.evenly_cut() if home is target else np.flatnonzero(split != "test")
        activity = [None if label is None else coarse[label] for label in home.material.activities]
        own = with_columns(whole, np.full(len(split), "test", object) if home is target else split, activity)
        tables.append(own.take(rows).replace_schema_metadata(None))
        where[str(home.folder.root)] = rows
        runs.append(segments(own)[rows] + runs[-1].max(initial=-1) + 1)
    windows = pa.concat_tables(tables)
    known, asked = (set(t["activity"].drop_null().to_pylist()) for t in (pa.concat_tables(tables[:-1]), tables[-1]))
    about = {
        "told": PROTOCOLS["leave_home_out"],
        "leaky": False,
        "seen_share": 0.0,
        "level": "coarse",
        "split_by": "home",
        "sources": [home.name for home in sources],
        "target": target.name,
        "labels_not_in_sources": sorted(asked - known),
        "leak_audit": _audit(windows, pa.concat_tables([home.events for home in homes])),
    }
    left_out = {
        "bag_of_sensors": "sensors of one home say nothing of another's; bag_of_rooms stands for it",
        "learned": "a learned table knows the sensors of its own homes only",
    }
    others = {label for label in known | asked if label.casefold() == OTHER}
    coarse = {label: label for label in asked}
    division = _Division(
        "leave_home_out", homes, windows, where, np.concatenate(runs), coarse, others, about, left_out
    )
    return _case(division, max_windows)


def _case(division: _Division, max_windows: int) -> ProtocolSplit:
    """The tasks, and only the windows that they touch."""
    windows, left_out = division.windows, dict(division.left_out)
    tasks = {name: _task(windows, max_windows, unlabelled=name != "labelled") for name in VARIANTS}
    if not division.others:
        left_out["without_other"] = "no label says that it was something else"
    else:
        try:
            tasks["without_other"] = _task(windows, max_windows, unlabelled=False, without=division.others)
        except ValueError:
            left_out["without_other"] = f"the train or the test split has no label but {', '.join(division.others)}"
    kept = np.unique(np.concatenate([task.rows() for task in tasks.values()]))
    chosen = windows.take(kept)
    code, unit = bootstrap_clusters(chosen.filter(pc.equal(chosen["split"], "test")))
    units = BootstrapClusters(code, unit)
    told = {"splits": describe_splits(windows), "intervals": {"unit": unit, "units": units.count}}
    return ProtocolSplit(
        name=division.name,
        homes=division.homes,
        windows=chosen,
        where=_among(division.where, kept),
        tasks={variant: task.among(kept) for variant, task in tasks.items()},
        runs=division.runs[kept],
        units=units,
        coarse=division.coarse,
        about={**division.about, **told},
        left_out=left_out,
    )


def _task(windows: pa.Table, max_windows: int, **how: Any) -> Task:
    return make_task(windows["activity"].to_pylist(), windows["split"].to_pylist(), max_windows=max_windows, **how)


def _seen(windows: pa.Table, split: np.ndarray, lesson: pa.Table) -> float:
    """Share of the test windows that share time with a train window of `lesson`, what the encoder was trained on."""
    test, learned = np.flatnonzero(split == "test"), lesson.filter(pc.equal(lesson["split"], "train"))
    return float(share_time(windows.take(test), learned).mean()) if len(test) else 0.0


def _unit_of(home: EvaluationHome) -> str:
    """By what the home's windows were split: as `casita windows` noted, else as it would choose."""
    return home.folder.summary("windows").get("split_unit") or bootstrap_clusters(home.material.windows)[1]


def _among(where: Mapping[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    """The homes' row numbers of those windows alone that were kept."""
    found, begin = {}, 0
    for root, rows in where.items():
        mine = kept[(kept >= begin) & (kept < begin + len(rows))] - begin
        found[root], begin = rows[mine], begin + len(rows)
    return found


def _split_so(home: EvaluationHome, unit: str) -> bool:
    """Whether the home's own split is a random one by `unit`."""
    return home.cut.get("split") == "random" and home.folder.summary("windows").get("split_unit") == unit


def _random_split(home: EvaluationHome, windows: pa.Table, unit: str, own: bool) -> tuple[np.ndarray, dict[str, Any]]:
    """The home's `own` split, or a new one of `windows`; and what to tell of it."""
    if own:
        return np.array(home.material.splits, dtype=object), {"split_by": unit, "seed": home.cut.get("seed", 0)}
    split = split_randomly(windows, unit, SEED)
    purged = sum(name is None for name in split)
    return split, {"split_by": unit, "seed": SEED, "purged_windows": purged}


def _audit(windows: pa.Table, events: pa.Table) -> dict[str, int]:
    audit = leak_audit(windows.filter(pc.is_valid(windows["split"])), events)
    refuse_leaks(audit)
    return audit


def refuse_same(target: EvaluationHome, sources: Sequence[EvaluationHome]) -> None:
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
