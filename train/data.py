"""A home folder as tensors in memory, and the order in which training reads them.

No DataLoader: a split is a few tensors of some hundred megabytes, and cutting a permutation into batches is 50 times
faster than collating rows. The order is a function of (seed, epoch) alone, so a run resumes at any step by asking for
the batches from there on.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from casita.datasets_scripts.label_prompts import label_prompts
from casita.datasets_scripts.schema import CAPTIONS, WINDOWS, HomeFolder, read_table, text_embeddings_schema
from casita.datasets_scripts.text_embeddings import PROMPT_NAMES, TEXT_MODELS
from casita.files import hash_file, hash_json
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.config import TrainConfig


@dataclass(frozen=True)
class Split:
    """`N` windows of one split with their captions' embeddings.

    `inputs` holds the model's own argument names: `input_ids` `(N, L)` int64, `attention_mask` `(N, L)`, and where the
    config wants them `time_deltas` `(N, L)` s, `coordinates` `(N, L, 2)` in [0, 1], `timestamps` `(N, L)` s.
    `texts` `(U, T)` float32 has a row for each distinct caption; window i's captions are rows
    `caption_rows[caption_starts[i]:caption_starts[i + 1]]`. A row's number is also the caption's group: windows with
    equal groups are each other's positives.
    """

    inputs: dict[str, Tensor]
    texts: Tensor
    caption_rows: np.ndarray
    caption_starts: np.ndarray
    window_ids: np.ndarray

    def __len__(self) -> int:
        return len(self.window_ids)

    def choose_captions(self, seed: int, epoch: int) -> np.ndarray:
        """One caption row `(N,)` for each window: each epoch draws anew where a window has several."""
        counts = np.diff(self.caption_starts)
        drawn = np.random.default_rng([seed, epoch, 1]).random(len(self))
        return self.caption_rows[self.caption_starts[:-1] + (drawn * counts).astype(np.int64)]

    def batch(self, windows: np.ndarray, captions: np.ndarray, device: torch.device | str = "cpu") -> "Batch":
        """The rows `windows` `(b,)` with the caption rows `captions` `(b,)`, cut to the longest of these windows."""
        rows = torch.from_numpy(windows)
        used = self.inputs["attention_mask"][rows].bool().any(dim=0).nonzero()
        length = int(used[-1]) + 1
        groups = torch.from_numpy(captions)
        inputs = {name: tensor[rows, :length].to(device) for name, tensor in self.inputs.items()}
        return Batch(inputs, self.texts[groups].to(device), groups.to(device))


@dataclass(frozen=True)
class Batch:
    """`inputs` for the model; `texts` `(b, T)`; `groups` `(b,)` int64, equal for equal captions."""

    inputs: dict[str, Tensor]
    texts: Tensor
    groups: Tensor


@dataclass(frozen=True)
class Batches:
    """Which windows each step reads: `size` of `num_windows` a batch over all ranks, this rank's slice of each.

    The incomplete batch at an epoch's end is left out: other windows come last in the next epoch. The global batch is
    the same for any number of ranks, which makes N ranks comparable with one.
    """

    num_windows: int
    size: int
    seed: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.size > self.num_windows:
            raise ValueError(f"batch_size={self.size}, but there are {self.num_windows} windows. Give a smaller one.")
        if self.size % self.ranks:
            raise ValueError(f"batch_size={self.size} must be a multiple of the {self.ranks} processes.")

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.num_windows // self.size

    def order(self, epoch: int) -> np.ndarray:
        """All windows `(num_windows,)` int64 in the order of this epoch."""
        return np.random.default_rng([self.seed, epoch, 0]).permutation(self.num_windows)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """This rank's `(size / ranks,)` windows of batch `start`, `start + 1`, ... of the epoch."""
        order, share = self.order(epoch), self.size // self.ranks
        for batch in range(start, len(self)):
            first = batch * self.size + self.rank * share
            yield order[first : first + share]


def load_table(folder: HomeFolder, config: TrainConfig) -> SensorEmbeddingTable | None:
    """The home's picture embeddings by `config.vision_model`; None with `embedding_source: learned`.

    Raises:
        FileNotFoundError: no home folder, or no table in it yet. ValueError: it is the table of another home.
    """
    home = folder.name
    if config.embedding_source == "learned":
        return None
    path = folder.image_embeddings(config.vision_model)
    table = SensorEmbeddingTable.load(folder.require(path, f"embed-images --vision-model {config.vision_model}"))
    if table.home != home:
        raise ValueError(
            f"{path}: these are the pictures of home {table.home!r}, {folder.root} is home {home!r}. "
            f"Run: casita embed-images {folder.root} --vision-model {config.vision_model}"
        )
    return table


def build_processor(folder: HomeFolder, config: TrainConfig, table: SensorEmbeddingTable | None) -> CasitaProcessor:
    """The home's processor: keys in the order of the table's rows, or of the alphabet where there is no table.

    Without a table the vocabulary is that of all windows: states that only later splits show keep a row, untrained.
    """
    windows = read_table(_windows_of(folder), WINDOWS, ["sensor_keys", "activity"])
    layout = folder.layout
    width, height = layout["size"]
    settings = folder.settings("windows")
    text_model = TEXT_MODELS.get(config.text_model, config.text_model)  # what a user without casita can look up
    return CasitaProcessor(
        vocab=table.keys if table else sorted(pc.unique(pc.list_flatten(windows["sensor_keys"])).to_pylist()),
        home=folder.name,
        coordinates={name: [s["x"] / width, s["y"] / height] for name, s in layout["sensors"].items()},
        rooms={name: s["room"] for name, s in layout["sensors"].items()},
        levels=folder.summary("windows").get("levels"),
        use_time_deltas=config.use_time_deltas,
        use_coordinates=config.use_coordinates,
        use_timestamps=config.alibi_distance == "time",
        text_model=text_model,
        text_prompt_name=PROMPT_NAMES.get(text_model),
        label_prompts=label_prompts(layout, sorted(pc.unique(windows["activity"]).drop_null().to_pylist())),
        vision_model=table.vision_model if table else None,
        **{key: settings[key] for key in ("length", "overlap", "max_gap_min") if key in settings},
    )


def load_split(folder: HomeFolder, split: str, config: TrainConfig, processor: CasitaProcessor) -> Split:
    """The windows of `split` (train | validation | test) with their captions' embeddings, as tensors in memory.

    Raises:
        FileNotFoundError: a stage has not run; the message names the command.
        ValueError: captions or embeddings are of other windows than the home has now.
    """
    windows = read_table(_windows_of(folder), WINDOWS, ["window_id", "split", "sensor_keys", "seconds"])
    windows = windows.filter(pc.field("split") == split)
    texts, rows = _caption_embeddings(folder, config)
    ids = windows["window_id"].to_numpy()
    counts = rows.groupby("window_id", sort=False).size().reindex(ids)
    if counts.isna().any():
        raise ValueError(
            f"{folder.root}: {int(counts.isna().sum())} of {len(ids)} {split} windows have no caption of style "
            f"{config.caption_style!r}, the first {counts.index[counts.isna()][0]!r}. "
            "Run casita caption and casita embed-text again."
        )
    position = pd.Index(ids).get_indexer(rows["window_id"])  # -1: a window of another split
    order = np.argsort(position, kind="stable")[np.count_nonzero(position < 0) :]
    used, caption_rows = np.unique(rows["row"].to_numpy()[order], return_inverse=True)
    inputs = processor.encode_windows(windows["sensor_keys"], windows["seconds"]) if len(ids) else {}
    return Split(
        inputs={name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in inputs.items()},
        texts=torch.from_numpy(texts[used]),
        caption_rows=caption_rows.astype(np.int64),
        caption_starts=np.concatenate([[0], np.cumsum(counts.to_numpy(dtype=np.int64))]),
        window_ids=ids,
    )


def _windows_of(folder: HomeFolder) -> Path:
    return folder.require(folder.windows, "windows")


def _caption_embeddings(folder: HomeFolder, config: TrainConfig) -> tuple[np.ndarray, pd.DataFrame]:
    """Distinct captions' embeddings `(U, T)`, and a frame `window_id`, `row` with a line for each window's caption.

    A window's k-th caption belongs to its k-th embedding.
    """
    style, model = config.caption_style, config.text_model
    captions_file = folder.require(folder.captions(style), f"caption --caption-style {style}")
    vectors_file = folder.require(
        folder.text_embeddings(style, model), f"embed-text --text-model {model} --caption-style {style}"
    )
    captions = read_table(captions_file, CAPTIONS, ["window_id", "caption"]).to_pandas()
    width = pq.read_schema(vectors_file).field("embedding").type.list_size
    embedded = read_table(vectors_file, text_embeddings_schema(width), ["window_id", "embedding"])
    captions["of_window"] = captions.groupby("window_id").cumcount()
    vectors = pd.DataFrame({"window_id": embedded["window_id"].to_pandas()})
    vectors["of_window"] = vectors.groupby("window_id").cumcount()
    vectors["vector"] = np.arange(len(vectors))
    both = captions.merge(vectors, on=["window_id", "of_window"], validate="one_to_one")
    if not len(both) == len(captions) == len(vectors):
        raise ValueError(
            f"{vectors_file}: {len(vectors)} embeddings for {len(captions)} captions, {len(both)} of them in common. "
            f"Run: casita embed-text {folder.root} --text-model {model} --caption-style {style}"
        )
    both["row"], _ = pd.factorize(both["caption"])
    matrix = embedded["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, width)
    return matrix[both.drop_duplicates("row")["vector"].to_numpy()], both[["window_id", "row"]]


def fingerprint(folder: HomeFolder, config: TrainConfig, table: SensorEmbeddingTable | None) -> dict[str, str]:
    """A hash of each thing that a run reads, by name: what must not change between a run and its resumption."""
    texts = folder.text_embeddings(config.caption_style, config.text_model)
    files = (folder.windows, folder.captions(config.caption_style), texts)
    hashes = {str(file.relative_to(folder.root)): hash_file(file) for file in files}
    if table:  # its content, not its file: safetensors writes a header's entries in any order
        rows = hashlib.sha256(table.embeddings.tobytes()).hexdigest()
        hashes["the table of image embeddings"] = hash_json([table.keys, rows])
    return hashes
