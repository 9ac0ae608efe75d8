"""A home as an evaluation reads it, and the windows of one protocol with the tasks that they pose."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.layouts.label_prompts import coarse_labels
from casita.datasets_scripts.schema import EVENTS, HomeFolder, read_metadata, read_table
from casita.datasets_scripts.windows.splits import bootstrap_clusters
from casita.datasets_scripts.windows.table import evenly_cut
from casita.results import ProtocolSummary
from casita.train.data.few_labels import draw_few
from casita.train.evaluation.bootstrap import BootstrapClusters
from casita.train.evaluation.inputs import EvaluationInputs, describe_splits
from casita.train.evaluation.probes import Task, make_task

OTHER = "other"
VARIANTS = ("labelled", "with_unlabelled")
FEW_SHOT = (0.05, 0.3)  # shares of the labels of train and validation
DRAWS = (0, 1, 2)  # seeds of the draws of few labels


@dataclass(frozen=True)
class EvaluationHome:
    """A home as an evaluation reads it: its folder, and all its windows as they were cut and split."""

    folder: HomeFolder
    inputs: EvaluationInputs

    @property
    def name(self) -> str:
        """Return the home's name."""
        return self.folder.name

    @property
    def events(self) -> pa.Table:
        """Read what the leak audit needs of the log."""
        return read_table(self.folder.require(self.folder.events, "read"), EVENTS, ["home", "timestamp"])

    @property
    def cut(self) -> dict[str, Any]:
        """Read the settings by which the windows were cut, as far as their file has them."""
        return read_metadata(self.folder.windows).get("sampling", {})

    def evenly_cut(self) -> np.ndarray:
        """Return the rows of the windows that every split would have, not those that `train_overlap` adds to train."""
        return np.flatnonzero(evenly_cut(self.inputs.windows))

    def labels(self) -> set[str]:
        """Return the activities of all windows."""
        return set(self.inputs.windows["activity"].drop_null().to_pylist())

    def coarse(self) -> dict[str, str]:
        """Return each label's coarse one; `ValueError` where the layout has none for one of them."""
        return coarse_labels(self.folder.layout_or_empty, sorted(self.labels()))

    def others(self) -> set[str]:
        """Return the labels that only say that it was something else."""
        try:
            coarse = self.coarse()
        except ValueError:
            coarse = {}
        return {label for label in self.labels() if OTHER in (label.casefold(), coarse.get(label, "").casefold())}


@dataclass(frozen=True)
class Division:
    """A protocol's division of `N` windows: `split` and `activity` of `windows` are the protocol's own.

    Attributes:
        homes: those that windows come from; the one that is tested last.
        where: of each of them its folder's path and its row numbers, in the order of the windows.
        stretches: `(N,)` number of the stretch of consecutive windows with one label that each is from.
        coarse: the coarse label of each label; `{}` where the layout has none.
        others: the labels of anything else.
    """

    name: str
    homes: tuple[EvaluationHome, ...]
    windows: pa.Table
    where: Mapping[str, np.ndarray]
    stretches: np.ndarray
    coarse: Mapping[str, str]
    others: set[str]
    about: Mapping[str, Any]
    left_out: Mapping[str, str]


@dataclass(frozen=True)
class ProtocolSplit(Division):
    """A division with the tasks that it poses, of the windows that they touch.

    Attributes:
        train: row numbers of the train windows, without those that only a draw of few labels has.
        tasks: by variant: `labelled`, `with_unlabelled` and, where there are such labels, `without_other`.
        few_tasks: by share and by the draw's seed: the labelled task with that share of its labels.
        clusters: the day or session of each test window.
    """

    about: ProtocolSummary
    train: np.ndarray
    tasks: Mapping[str, Task]
    few_tasks: Mapping[float, Mapping[str, Task]]
    clusters: BootstrapClusters

    @property
    def home(self) -> EvaluationHome:
        """Return the home that is tested."""
        return self.homes[-1]

    @property
    def test(self) -> np.ndarray:
        """Return the row numbers of the test windows."""
        return rows_of(self.windows, "test")

    @property
    def home_rows(self) -> np.ndarray:
        """Return the row number of each test window among all windows of the home that is tested."""
        rows = self.where[str(self.home.folder.root)]
        return rows[self.test - (len(self.windows) - len(rows))]  # the tested home's windows come last

    @cached_property
    def captions(self) -> list[str]:
        """Return a caption of each window, `(N,)`."""
        return [caption for inputs in self._inputs() for caption in inputs.captions]

    @cached_property
    def text(self) -> np.ndarray:
        """Return the captions' embeddings, `(N, T)`."""
        return np.concatenate([inputs.text for inputs in self._inputs()])

    def _inputs(self) -> list[EvaluationInputs]:
        return [home.inputs.take(rows) for home, rows in zip(self.homes, self.where.values(), strict=True)]

    def clusters_of(self, task: Task) -> BootstrapClusters:
        """Return the days or sessions of a task's test windows."""
        return self.clusters.take(np.searchsorted(self.test, task.test))


def rows_of(windows: pa.Table, split: str) -> np.ndarray:
    return np.flatnonzero(np.array(windows["split"].to_pylist(), dtype=object) == split)


def pose(
    division: Division, max_windows: int | None, draws: Sequence[int] = DRAWS, for_analysis: bool = False
) -> ProtocolSplit:
    """Pose the tasks, and keep only the windows that they touch."""
    windows = division.windows
    left_out = dict(division.left_out)
    variants = VARIANTS[:1] if for_analysis else VARIANTS
    tasks = {name: _task(windows, max_windows, unlabelled=name != "labelled") for name in variants}
    if not division.others:
        left_out["without_other"] = "no label says that it was something else"
    elif not for_analysis:
        try:
            tasks["without_other"] = _task(windows, max_windows, unlabelled=False, without=division.others)
        except ValueError:
            left_out["without_other"] = f"the train or the test split has no label but {', '.join(division.others)}"
    few_tasks = {} if "few_shot" in left_out else _few_tasks(windows, division.stretches, draws, max_windows)
    posed = [task.rows() for task in tasks.values()]
    if for_analysis:
        posed.append(np.flatnonzero(evenly_cut(windows)))
    drawn = [task.rows() for by_seed in few_tasks.values() for task in by_seed.values()]
    kept = np.unique(np.concatenate([*posed, *drawn]))
    train = np.intersect1d(np.concatenate(posed), rows_of(windows, "train"))
    chosen = windows.take(kept)
    code, unit = bootstrap_clusters(chosen.filter(pc.equal(chosen["split"], "test")))
    clusters = BootstrapClusters(code, unit)
    counts = {"splits": describe_splits(windows), "intervals": {"unit": unit, "units": clusters.count}}
    return ProtocolSplit(
        name=division.name,
        homes=division.homes,
        windows=chosen,
        where=_among(division.where, kept),
        train=np.searchsorted(kept, train),
        tasks={variant: task.among(kept) for variant, task in tasks.items()},
        few_tasks={
            share: {seed: task.among(kept) for seed, task in by_seed.items()} for share, by_seed in few_tasks.items()
        },
        stretches=division.stretches[kept],
        clusters=clusters,
        coarse=division.coarse,
        others=division.others,
        about=cast(ProtocolSummary, {**division.about, **counts}),
        left_out=left_out,
    )


def _few_tasks(
    windows: pa.Table, stretches: np.ndarray, draws: Sequence[int], max_windows: int | None
) -> dict[float, dict[str, Task]]:
    """Make the labelled task with each share of its labels; what is drawn is thinned, and not what is drawn from."""
    task = _task(windows, None, unlabelled=False)
    parts = [(task.y[rows], stretches[rows]) for rows in (task.train, task.validation)]
    tasks: dict[float, dict[str, Task]] = {share: {} for share in FEW_SHOT}
    for share, by_seed in tasks.items():
        for seed in draws:
            train, validation = draw_few(parts, share, seed)
            few = replace(task, train=task.train[train], validation=task.validation[validation])
            by_seed[str(seed)] = few.thinned(max_windows)
    return tasks


def _task(windows: pa.Table, max_windows: int | None, *, unlabelled: bool, without: Collection[str] = ()) -> Task:
    activities = windows["activity"].to_pylist()
    splits = windows["split"].to_pylist()
    return make_task(activities, splits, unlabelled=unlabelled, max_windows=max_windows, without=without)


def _among(where: Mapping[str, np.ndarray], kept: np.ndarray) -> dict[str, np.ndarray]:
    """Return the homes' row numbers of those windows alone that were kept."""
    rows = np.concatenate(list(where.values()))[kept]
    ends = np.cumsum([len(of_home) for of_home in where.values()])
    parts = np.split(rows, np.searchsorted(kept, ends[:-1]))
    return dict(zip(where, parts, strict=True))
