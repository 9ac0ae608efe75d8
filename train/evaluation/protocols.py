"""The evaluation's protocols, each by its name: which windows are learned from, and which are tested.

The encoder was trained once, on the split that its home folder holds, and saw no activity label there. A protocol that
divides the windows otherwise fits every classifier and every baseline anew; the encoder stays, and may have seen some
of the test windows' events, unlabelled, in training. `about` says of how many windows that is true (`seen_share`), for
such a number compares encoders with each other, and less with what reads nothing but the train windows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from casita.datasets_scripts.windows.splits import (
    SPLITS,
    bootstrap_clusters,
    leak_audit,
    refuse_leaks,
    share_time,
    split_randomly,
)
from casita.train.data.few_labels import label_stretches
from casita.train.evaluation.inputs import checked_splits
from casita.train.evaluation.protocol_split import DRAWS, OTHER, Division, EvaluationHome, ProtocolSplit, pose

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
SEED = 0  # of every random division: all runs are tested on the same windows
NO_FEW_SHOT = "measured on the home's own days; see another protocol"


def check_protocols(names: Sequence[str]) -> None:
    """Raise `ValueError` for a name that is no protocol's, or one that is there twice."""
    for name in names:
        if name not in PROTOCOLS:
            hint = " (say by what: random_days or random_sessions)" if name == "random" else ""
            raise ValueError(f"--protocol {name}: there are {', '.join(PROTOCOLS)}{hint}.")
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"--protocol {' '.join(names)}: expected each protocol once, and at least one.")


def make_split(
    name: str,
    home: EvaluationHome,
    trained_in: bool,
    max_windows: int | None,
    training_windows: pa.Table | None = None,
    *,
    draws: Sequence[int] = DRAWS,
    for_analysis: bool = False,
) -> ProtocolSplit:
    """Divide the windows of one home by a protocol.

    Args:
        trained_in: whether the encoder was trained on this home's train windows.
        training_windows: the windows of the home's folder that it was trained in, where that is another one than
            `home.folder`.
        max_windows: train (and validation) windows that a classifier is fitted on at most, evenly spaced; None: all.
        draws: seeds of the draws of few labels.
        for_analysis: pose the task `labelled` alone, and keep every evenly cut window though no task touches it.

    Raises:
        ValueError: the home's windows were split otherwise (`chronological`), too few days or sessions, no labelled
            windows, or events in two splits of a protocol that allows none.
    """
    unit = name.removeprefix("random_").removesuffix("s")
    stored_unit = home.folder.summary("windows").get("split_unit")
    is_stored_draw = home.cut.get("split") == "random" and stored_unit == unit
    as_stored = name == "chronological" or is_stored_draw
    # Splits drawn anew want windows that were cut alike: which of them are for training is not known before.
    rows = np.arange(len(home.inputs.windows)) if as_stored else home.evenly_cut()
    windows = home.inputs.windows.take(rows)
    stretches = label_stretches(windows)
    divided_by: dict[str, Any] = {"split_by": "segment", "seed": SEED}
    if name == "chronological":
        split = np.array(home.inputs.splits, dtype=object)
        # As `casita windows` noted, else as it would choose.
        divided_by = {"split_by": stored_unit or bootstrap_clusters(home.inputs.windows)[1]}
        audit = checked_splits(home.folder, windows, name)
    elif name in LEAKY:
        split = split_segments(stretches)
        audit = leak_audit(with_columns(windows, split), home.events)
    else:
        split, divided_by = _random_split(home, windows, unit, as_stored)
        audit = _audit(with_columns(windows, split), home.events)
    coarse = dict[str, str]()
    left_out = dict[str, str]()
    try:
        coarse = home.coarse()
    except ValueError as error:
        left_out["paraphrases"] = str(error)
    if name in LEAKY:
        left_out["few_shot"] = NO_FEW_SHOT
    learned_from = home.inputs.windows if training_windows is None else training_windows
    about = {
        "description": PROTOCOLS[name],
        "leaky": name in LEAKY,
        "seen_share": _seen(windows, split, learned_from) if trained_in else 0.0,
        "level": "fine",
        **divided_by,
        "leak_audit": audit,
    }
    division = Division(
        name=name,
        homes=(home,),
        windows=with_columns(windows, split),
        where={str(home.folder.root): rows},
        stretches=stretches,
        coarse=coarse,
        others=home.others(),
        about=about,
        left_out=left_out,
    )
    return pose(division, max_windows, draws, for_analysis)


def make_unseen_home_split(
    target: EvaluationHome, sources: Sequence[EvaluationHome], max_windows: int | None
) -> ProtocolSplit:
    """Divide for `leave_home_out`: train and validation windows of the `sources`, every window of `target` as test.

    Raises:
        ValueError: a home without coarse labels or without labelled windows, or a target that is one of the sources.
    """
    refuse_same(target, sources)
    homes = (*sources, target)
    tables = []
    where = {}
    stretches = [np.zeros(0, np.int64)]
    for home in homes:
        coarse = home.coarse()
        split = np.array(home.inputs.splits, dtype=object)
        rows = home.evenly_cut() if home is target else np.flatnonzero(split != "test")
        activity = [None if label is None else coarse[label] for label in home.inputs.activities]
        new_split = np.full(len(split), "test", object) if home is target else split
        relabelled = with_columns(home.inputs.windows, new_split, activity)
        tables.append(relabelled.take(rows).replace_schema_metadata(None))
        where[str(home.folder.root)] = rows
        stretches.append(label_stretches(relabelled)[rows] + stretches[-1].max(initial=-1) + 1)
    windows = pa.concat_tables(tables)
    known = set(pa.concat_tables(tables[:-1])["activity"].drop_null().to_pylist())
    wanted = set(tables[-1]["activity"].drop_null().to_pylist())
    about = {
        "description": PROTOCOLS["leave_home_out"],
        "leaky": False,
        "seen_share": 0.0,
        "level": "coarse",
        "split_by": "home",
        "sources": [home.name for home in sources],
        "target": target.name,
        "labels_not_in_sources": sorted(wanted - known),
        "leak_audit": _audit(windows, pa.concat_tables([home.events for home in homes])),
    }
    left_out = {
        "bag_of_sensors": "sensors of one home say nothing of another's; bag_of_rooms stands for it",
        "learned": "a learned table knows the sensors of its own homes only",
        "few_shot": NO_FEW_SHOT,
    }
    division = Division(
        name="leave_home_out",
        homes=homes,
        windows=windows,
        where=where,
        stretches=np.concatenate(stretches),
        coarse={label: label for label in wanted},
        others={label for label in known | wanted if label.casefold() == OTHER},
        about=about,
        left_out=left_out,
    )
    return pose(division, max_windows)


def _seen(windows: pa.Table, split: np.ndarray, training_windows: pa.Table) -> float:
    """Compute the share of the test windows that share time with a window that the encoder was trained on."""
    test = np.flatnonzero(split == "test")
    learned = training_windows.filter(pc.equal(training_windows["split"], "train"))
    return float(share_time(windows.take(test), learned).mean()) if len(test) else 0.0


def _random_split(
    home: EvaluationHome, windows: pa.Table, unit: str, as_stored: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the home's stored split, or a new one of `windows`; and how it was made."""
    if as_stored:
        return np.array(home.inputs.splits, dtype=object), {"split_by": unit, "seed": home.cut.get("seed", 0)}
    split = split_randomly(windows, unit, SEED)
    purged = sum(name is None for name in split)
    return split, {"split_by": unit, "seed": SEED, "purged_windows": purged}


def _audit(windows: pa.Table, events: pa.Table) -> dict[str, int]:
    audit = leak_audit(windows.filter(pc.is_valid(windows["split"])), events)
    refuse_leaks(audit)
    return audit


def refuse_same(target: EvaluationHome, sources: Sequence[EvaluationHome]) -> None:
    """Raise `ValueError` where the target is one of the sources, under another name perhaps."""
    starts = set(target.inputs.windows["start"].to_pylist())
    for source in sources:
        shared = len(starts & set(source.inputs.windows["start"].to_pylist()))
        if source.name == target.name or 2 * shared > len(starts):
            raise ValueError(
                f"leave_home_out: {target.folder.root} holds the home {target.name}, which the run was trained on"
                f"{'' if source.name == target.name else f' as {source.name}'}. Give another home with --target DIR."
            )


def split_segments(stretches: np.ndarray) -> np.ndarray:
    """Draw a split for each window by its stretch, `(N,)` object: 60 % train, 10 % validation, 30 % test."""
    place = np.random.default_rng(SEED).permutation(int(stretches.max()) + 1)
    share = place[stretches] / len(place)
    return np.array(SPLITS, dtype=object)[np.digitize(share, [0.6, 0.7])]


def with_columns(windows: pa.Table, split: np.ndarray, activity: Sequence[str | None] | None = None) -> pa.Table:
    """Return the table with other splits, and other labels if they are given."""
    for name, values in (("split", split.tolist()), ("activity", activity)):
        if values is not None:
            at = windows.schema.get_field_index(name)
            windows = windows.set_column(at, pa.field(name, pa.string()), pa.array(values, pa.string()))
    return windows
