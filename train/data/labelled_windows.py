"""Windows with their activities: all of a split, the few to learn from, and both as a trainer reads them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from casita.datasets_scripts.hub.named_data import named_homes
from casita.datasets_scripts.layouts.label_prompts import coarse_labels
from casita.datasets_scripts.schema import WINDOWS, HomeFolder, check_columns
from casita.processing.processing_casita import CasitaProcessor
from casita.train.configs.finetune_config import FinetuneConfig
from casita.train.data.dataset import WindowDataset
from casita.train.data.few_labels import draw_few, label_stretches
from casita.train.data.home_arrays import HomeArrays, encode_events, flat_strings, starts_of
from casita.train.data.tensor_cache import read_split

COLUMNS = ["window_id", "split", "session", "sensor_keys", "seconds", "activity"]
UNLABELLED = "unlabelled"  # the label of a window without one, where such windows are a class
UNKNOWN = -100  # the class of a window whose label the train windows do not show; no loss counts it


@dataclass(frozen=True)
class LabelledWindows:
    """A table of `N` windows of one split, home after home.

    `homes` `(N,)` are their homes' names, `labels` `(N,)` their activities, `runs` `(N,)` int64 the numbers of the
    stretches of consecutive windows with one activity that they are from.
    """

    table: pa.Table
    homes: np.ndarray
    labels: np.ndarray
    runs: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> "LabelledWindows":
        """Keep only the windows `rows`, ascending."""
        return LabelledWindows(self.table.take(rows), self.homes[rows], self.labels[rows], self.runs[rows])

    @property
    def keys(self) -> list[list[str]]:
        """Return each window's sensor states; with the home's name before them, where there are several homes."""
        keys = self.table["sensor_keys"].to_pylist()
        if len(set(self.homes)) < 2:
            return keys
        return [[f"{home}/{key}" for key in states] for home, states in zip(self.homes, keys, strict=True)]


def load_labelled(config: FinetuneConfig, split: str) -> LabelledWindows:
    """Load the windows of `split` in all homes that have a label by `level` and `unlabelled`.

    Raises:
        FileNotFoundError: a home has no windows yet. ValueError: an activity without a coarse label.
    """
    parts = [_of_home(folder, split, config) for folder in named_homes(config.data)]
    bases = np.cumsum([0, *(part.runs.max(initial=-1) + 1 for part in parts)])
    return LabelledWindows(
        pa.concat_tables([part.table for part in parts]),
        np.concatenate([part.homes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.runs + base for part, base in zip(parts, bases, strict=False)]),
    )


def _of_home(folder: HomeFolder, split: str, config: FinetuneConfig) -> LabelledWindows:
    path = check_columns(folder.require(folder.windows, "windows"), WINDOWS, COLUMNS)
    empty = pa.schema([WINDOWS.field(name) for name in COLUMNS]).empty_table()
    parts = [part.replace_schema_metadata(None) for part in read_split(path, split, COLUMNS)]
    table = pa.concat_tables([empty, *parts])
    activities = table["activity"].to_pylist()
    # Over all splits: windows of one split with others between them are no neighbours.
    everything = pq.read_table(path, columns=["split", "session", "activity"])
    stretches = label_stretches(everything)[np.asarray(everything["split"].to_pylist(), dtype=object) == split]
    coarse = {}
    if config.level == "coarse":
        coarse = coarse_labels(folder.layout, {label for label in activities if label is not None})
    labels = np.array([UNLABELLED if a is None else coarse.get(a, a) for a in activities], dtype=object)
    kept = np.flatnonzero([config.unlabelled or a is not None for a in activities])
    homes = np.full(len(labels), folder.name, dtype=object)
    return LabelledWindows(table, homes, labels, stretches).take(kept)


def choose_few(windows: Mapping[str, LabelledWindows], config: FinetuneConfig) -> dict[str, LabelledWindows]:
    """Keep of train and validation the windows to learn from and to choose with, as many as `few_shot` says.

    They are those of `draw_few`, by the seed and the windows alone: the same for every model, and those that the
    few-label probes of `casita evaluate` learn from. `few_shot_unit: window` draws single windows.

    Args:
        windows: by split, train before validation; those of the test split stay as they are.
    """
    drawn = {name: part for name, part in windows.items() if name != "test"}
    single = config.few_shot_unit == "window"
    parts = [(part.labels, np.arange(len(part)) if single else part.runs) for part in drawn.values()]
    rows = draw_few(parts, config.few_shot, config.seed)
    return {**windows, **{name: part.take(few) for (name, part), few in zip(drawn.items(), rows, strict=True)}}


def labelled_split(windows: LabelledWindows, classes: list[str], processor: CasitaProcessor) -> WindowDataset:
    """Make a `WindowDataset` in which a window's caption is its label and `caption_ids` are numbers of `classes`.

    Its texts have width 0, until `store_embeddings` fills them.
    """
    class_number = {label: i for i, label in enumerate(classes)}
    caption_ids = np.array([class_number.get(label, UNKNOWN) for label in windows.labels], dtype=np.int64)
    names = list(dict.fromkeys(windows.homes)) or [processor.home or processor.homes[0]]
    return WindowDataset([_arrays(windows, caption_ids, name) for name in names], processor)


def _arrays(windows: LabelledWindows, caption_ids: np.ndarray, home: str) -> HomeArrays:
    rows = np.flatnonzero(windows.homes == home)
    table = windows.table.take(rows)
    key_codes: dict[str, int] = {}
    codes, seconds, lengths = encode_events(table, key_codes)
    caption_starts = np.arange(len(rows) + 1)  # one caption a window
    return HomeArrays(
        home=home,
        keys=list(key_codes),
        codes=codes,
        seconds=seconds,
        starts=starts_of(lengths),
        ids=flat_strings(table["window_id"]),
        texts=np.zeros((len(rows), 0), np.float32),
        caption_ids=caption_ids[rows],
        caption_rows=caption_starts[:-1].astype(np.int32),
        caption_starts=caption_starts,
    )


def store_embeddings(split: WindowDataset, embeddings: np.ndarray) -> None:
    """Make a vector of each window, `(N, C)` float32, the `texts` of the batches of a labelled split."""
    pieces = np.split(embeddings, np.cumsum([len(part) for part in split.parts])[:-1])
    split.parts[:] = [dataclasses.replace(p, texts=rows) for p, rows in zip(split.parts, pieces, strict=True)]


def class_counts(split: WindowDataset, classes: list[str]) -> torch.Tensor:
    """Count the windows of each class `(K,)`."""
    caption_ids = torch.from_numpy(split.caption_ids)
    return torch.bincount(caption_ids[caption_ids >= 0], minlength=len(classes))
