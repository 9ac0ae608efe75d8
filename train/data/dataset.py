"""Data of a run: the table and processor of its homes, and a split's windows with their captions.

No DataLoader: a split is a few flat arrays, memory-mapped from a cache (casita.train.data.tensor_cache), and cutting a
permutation into batches is many times faster than collating rows. The order is a function of (seed, epoch) alone, so a
run resumes at any step by asking for the batches from there on.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from casita.datasets_scripts.captions.text_embeddings import TEXT_MODELS, stored_prompt_name
from casita.datasets_scripts.hub.named_data import data_folder, named_homes
from casita.datasets_scripts.layouts.label_prompts import label_prompts
from casita.datasets_scripts.schema import WINDOWS, HomeFolder, home_folders, read_table
from casita.files import hash_json
from casita.processing.event_windows import STREAM_SETTINGS
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.configs.train_config import TrainConfig
from casita.train.data.home_arrays import HomeArrays, SplitFiles, Strings, join_strings
from casita.train.data.tensor_cache import content_hash, load_arrays, read_keys


class WindowDataset:
    """A data set of `N` windows of one split, of one home or several, with their captions' embeddings.

    `homes` `(N,)` says of which of `home_names` a window is. A window's captions are rows of all texts put together
    (`choose_captions`), `caption_ids` their ids: captions with equal text have equal ones, in any home.
    """

    def __init__(self, parts: Sequence[HomeArrays], processor: CasitaProcessor):
        self.parts = list(parts)
        self.home_names = list(dict.fromkeys(part.home for part in parts))
        sizes = [len(part) for part in parts]
        home_numbers = [self.home_names.index(part.home) for part in parts]
        self.homes = np.repeat(np.array(home_numbers, np.int64), sizes)
        self._part = np.repeat(np.arange(len(parts)), sizes)
        self._first = np.concatenate([part.starts[:-1] for part in parts])
        self._length = np.concatenate([np.diff(part.starts) for part in parts])
        self._text_base = np.cumsum([0, *(len(part.texts) for part in parts)])
        self._captions = np.concatenate([part.caption_rows + base for part, base in self._based(self._text_base)])
        ends = np.cumsum([0, *(len(part.caption_rows) for part in parts)])
        self._first_caption = np.concatenate([part.caption_starts[:-1] + base for part, base in self._based(ends)])
        self._caption_count = np.concatenate([np.diff(part.caption_starts) for part in parts])
        self.caption_ids = np.concatenate([part.caption_ids for part in parts])
        self._input_names = processor.model_input_names
        self._code_base = np.cumsum([1, *(len(part.keys) for part in parts)])  # code 0 is padding
        self._table_rows, self._coordinates = code_tables(parts, processor)

    def __len__(self) -> int:
        return len(self.homes)

    def _based(self, bases: np.ndarray) -> Iterator[tuple[HomeArrays, Any]]:
        return zip(self.parts, bases[:-1], strict=True)

    @property
    def num_captions(self) -> int:
        """Count different captions."""
        return len(np.unique(self.caption_ids))

    @property
    def text_width(self) -> int:
        """Return T, the width of the captions' embeddings."""
        return self.parts[0].texts.shape[1]

    @cached_property
    def window_ids(self) -> Strings:
        """Return the `N` ids; indexed by rows they are an array of `str`."""
        return join_strings([part.ids for part in self.parts])

    def choose_captions(self, seed: int, epoch: int, *draw: int) -> np.ndarray:
        """Choose one caption row `(N,)` for each window: each epoch (and `draw`) anew where a window has several."""
        share = np.random.default_rng([seed, epoch, 1, *draw]).random(len(self))  # of the window's captions, in [0, 1)
        return self._captions[self._first_caption + (share * self._caption_count).astype(np.int64)]

    def neighbours(self, step: int) -> np.ndarray:
        """Find the windows `step` before and after each in its session `(N, 2)`; itself where there is none."""
        sessions = np.array([name.rsplit("/", 2)[0] for name in self.window_ids], dtype=object)
        rows = np.arange(len(self))
        candidates = np.stack([rows - step, rows + step], axis=1)
        inside = candidates.clip(0, len(self) - 1)
        same_session = sessions[inside] == sessions[:, None]
        return np.where((inside == candidates) & same_session, candidates, rows[:, None])

    def batch(
        self,
        windows: np.ndarray,
        captions: np.ndarray,
        device: torch.device | str = "cpu",
        neighbours: np.ndarray | None = None,
    ) -> "Batch":
        """Batch the rows `windows` `(b,)` with the caption rows `captions` `(b,)`, padded to the longest window.

        The numbers are those of `CasitaProcessor.encode_windows`. `neighbours` `(b, 2)` are caption
        rows of the windows before and after.
        """
        first = self._first[windows]
        length = self._length[windows]
        offset = np.arange(length.max(initial=0))
        mask = offset < length[:, None]
        # (b, L) events in their part's flat arrays; padding repeats the window's last one, and is masked below.
        event = np.minimum(first[:, None] + offset, (first + length - 1)[:, None])
        codes = np.empty(event.shape, np.int32)
        seconds = np.empty(event.shape, np.float32)
        caption_rows = captions[:, None] if neighbours is None else np.column_stack([captions, neighbours])
        texts = torch.empty(*caption_rows.shape, self.text_width)
        for number, at in self._by_part(windows):
            part = self.parts[number]
            codes[at] = part.codes[event[at]] + self._code_base[number]
            seconds[at] = part.seconds[event[at]]
            rows = torch.from_numpy(caption_rows[at] - self._text_base[number])
            # torch: it lets other threads run
            vectors = torch.from_numpy(part.texts).index_select(0, rows.flatten()).view(*rows.shape, -1)
            texts = vectors if len(rows) == len(windows) else texts.index_copy_(0, torch.from_numpy(at), vectors)
        inputs = self._features(np.where(mask, codes, 0), mask, np.where(mask, seconds, np.float32(0)))
        tensors = {name: to_device(torch.from_numpy(inputs[name]), device) for name in self._input_names}
        texts = to_device(texts, device)
        caption_ids = to_device(torch.from_numpy(self.caption_ids[caption_rows]), device)
        if neighbours is None:
            return Batch(tensors, texts[:, 0], caption_ids[:, 0])
        return Batch(tensors, texts[:, 0], caption_ids[:, 0], texts[:, 1:], caption_ids[:, 1:])

    def _by_part(self, windows: np.ndarray) -> Iterator[tuple[int, Any]]:
        """Yield the parts that the rows `windows` `(b,)` are of, each with the places of its windows in the batch."""
        if len(self.parts) == 1:
            yield 0, slice(None)
            return
        part = self._part[windows]
        order = np.argsort(part, kind="stable")
        numbers, starts = np.unique(part[order], return_index=True)
        yield from zip(numbers.tolist(), np.split(order, starts)[1:], strict=True)

    def _features(self, codes: np.ndarray, mask: np.ndarray, seconds: np.ndarray) -> dict[str, np.ndarray]:
        """Turn `(b, L)` codes, mask and seconds (0 where padded) into all that a model may read."""
        features = {
            "input_ids": self._table_rows[codes],
            "attention_mask": mask.astype(np.int64),
            "timestamps": seconds,
        }
        if "time_deltas" in self._input_names:
            features["time_deltas"] = np.where(mask, np.diff(seconds, axis=1, prepend=np.float32(0)), np.float32(0))
        if self._coordinates is not None:
            features["coordinates"] = self._coordinates[codes]
        return features

    def take(self, windows: np.ndarray, captions: np.ndarray) -> list[HomeArrays]:
        """Copy the rows `windows` `(n,)`, each with the one caption row in `captions` `(n,)`; part after part."""
        copies = []
        for number, at in self._by_part(windows):
            first_window = np.searchsorted(self._part, number)
            rows_in_part = windows[at] - first_window
            captions_in_part = captions[at] - self._text_base[number]
            copies.append(self.parts[number].take(rows_in_part, captions_in_part))
        return copies


def code_tables(parts: Sequence[HomeArrays], processor: CasitaProcessor) -> tuple[np.ndarray, np.ndarray | None]:
    """Look up padding, then each part's keys: rows of the table `(K,)` int64, and coordinates `(K, 2)` if used.

    The processor itself is asked, all keys of a part as one window: unknown ones are its error.
    """
    rows = [np.zeros(1, np.int64)]
    coordinates = [np.full((1, 2), 0.5, np.float32)]
    for part in parts:
        if not part.keys:
            continue
        home = part.home if processor.homes else None
        encoded = processor.encode_windows([part.keys], [[0.0] * len(part.keys)], home)
        rows.append(encoded["input_ids"][0])
        if processor.use_coordinates:
            coordinates.append(encoded["coordinates"][0])
    return np.concatenate(rows), np.concatenate(coordinates) if processor.use_coordinates else None


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy `tensor` to `device`; to a GPU from pinned memory, so that nobody waits for the copy."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    """A batch: `inputs` for the model; `texts` `(b, T)`; `caption_ids` `(b,)` int64, equal for equal captions.

    `neighbours` `(b, 2, T)` and `neighbour_ids` `(b, 2)` are of the captions before and after, where they are learned.
    """

    inputs: dict[str, Tensor]
    texts: Tensor
    caption_ids: Tensor
    neighbours: Tensor | None = None
    neighbour_ids: Tensor | None = None


def load_table(config: TrainConfig) -> SensorEmbeddingTable | None:
    """Load the homes' picture embeddings by `config.vision_model`; None with `embedding_source: learned`.

    Raises:
        FileNotFoundError: no home folder, or no table in it yet. ValueError: it is the table of another home.
    """
    folders = named_homes(config.data)
    if config.embedding_source == "learned":
        return None
    tables = [_home_table(folder, config.vision_model) for folder in folders]
    return tables[0] if len(tables) == 1 else SensorEmbeddingTable.concatenate(tables)


def _home_table(folder: HomeFolder, vision_model: str) -> SensorEmbeddingTable:
    path = folder.image_embeddings(vision_model)
    table = SensorEmbeddingTable.load(folder.require(path, f"embed-images --vision-model {vision_model}"))
    if table.home != folder.name:
        raise ValueError(
            f"{path}: these are the pictures of home {table.home!r}, {folder.root} is home {folder.name!r}. "
            f"Run: casita embed-images {folder.root} --vision-model {vision_model}"
        )
    return table


def build_processor(config: TrainConfig, table: SensorEmbeddingTable | None) -> CasitaProcessor:
    """Build the processor of the homes: keys in the order of the table's rows, or of the alphabet without a table.

    Without a table the vocabulary is that of all windows: states that only later splits show keep a row, untrained.
    With several homes all names of keys and sensors carry the home's.

    Raises:
        FileNotFoundError: a stage has not run. ValueError: homes whose windows were cut in different ways.
    """
    folders = named_homes(config.data)
    prefixed = [(f"{folder.name}/" if len(folders) > 1 else "", folder) for folder in folders]
    text_model = TEXT_MODELS.get(config.text_model, config.text_model)  # what a user without casita can look up
    coordinates = {}
    rooms = {}
    levels = {}
    for prefix, folder in prefixed:
        for name, bounds in folder.summary("windows").get("levels", {}).items():
            levels[f"{prefix}{name}"] = bounds
        width, height = folder.layout["size"]
        for name, sensor in folder.layout["sensors"].items():
            coordinates[f"{prefix}{name}"] = [sensor["x"] / width, sensor["y"] / height]
            rooms[f"{prefix}{name}"] = sensor["room"]
    return CasitaProcessor(
        vocab=table.keys if table else [f"{p}{key}" for p, f in prefixed for key in read_keys(_windows_of(f))],
        home=folders[0].name if len(folders) == 1 else None,
        homes=[folder.name for folder in folders] if len(folders) > 1 else None,
        coordinates=coordinates,
        rooms=rooms,
        levels=levels,
        use_time_deltas=config.use_time_deltas,
        use_coordinates=config.use_coordinates,
        use_timestamps=config.alibi_distance == "time",
        text_model=text_model,
        text_prompt_name=stored_prompt_name(folders[0].text_embeddings(config.caption_style, config.text_model)),
        label_prompts=_prompts(folders),
        vision_model=table.vision_model if table else None,
        **sampling(folders),
    )


def _prompts(folders: Sequence[HomeFolder]) -> dict[str, list[str]]:
    """Return the sentences of each label; where homes share a label, those of all of them, each once."""
    prompts: dict[str, list[str]] = {}
    for folder in folders:
        labels = read_table(_windows_of(folder), WINDOWS, ["activity"])["activity"]
        home_prompts = label_prompts(folder.layout, sorted(pc.unique(labels).drop_null().to_pylist()))
        for label, sentences in home_prompts.items():
            prompts[label] = list(dict.fromkeys([*prompts.get(label, []), *sentences]))
    return prompts


def sampling(folders: Sequence[HomeFolder]) -> dict[str, Any]:
    """Return the settings with which the windows of all homes were cut.

    Raises:
        ValueError: they differ between homes.
    """
    settings = [folder.settings("windows") for folder in folders]
    first, *others = [{name: cut[name] for name in STREAM_SETTINGS if name in cut} for cut in settings]
    for folder, other in zip(folders[1:], others, strict=True):
        if other != first:
            raise ValueError(
                f"{folder.root}: its windows were cut with {other}, those of {folders[0].root} with {first}. One "
                "model reads windows of one kind: cut them alike (casita windows)."
            )
    return first


def load_split(config: TrainConfig, split: str, processor: CasitaProcessor) -> WindowDataset:
    """Load the windows of `split` (train | validation | test) of all homes with their captions' embeddings.

    Raises:
        FileNotFoundError: a stage has not run; the message names the command.
        ValueError: captions or embeddings are of other windows than the home has now.
    """
    return WindowDataset([load_arrays(files, Path(config.out)) for files in split_files(config, split)], processor)


def split_files(config: TrainConfig, split: str) -> list[SplitFiles]:
    """Name the files to read of each home."""
    return [SplitFiles(folder, split, config.caption_style, config.text_model) for folder in named_homes(config.data)]


def _windows_of(folder: HomeFolder) -> Path:
    return folder.require(folder.windows, "windows")


def fingerprint(config: TrainConfig, table: SensorEmbeddingTable | None) -> dict[str, str]:
    """Hash each thing that a run reads, by name: what must not change between a run and its resumption."""
    hashes = {}
    root = data_folder(config.data)
    for folder in home_folders(root):
        texts = folder.text_embeddings(config.caption_style, config.text_model)
        for file in (folder.windows, folder.captions(config.caption_style), texts):
            hashes[str(file.relative_to(root))] = content_hash(file)
    if table:  # its content, not its file: safetensors writes a header's entries in any order
        rows = hashlib.sha256(table.embeddings.tobytes()).hexdigest()
        hashes["the table of image embeddings"] = hash_json([table.keys, rows])
    return hashes
