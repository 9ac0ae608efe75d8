"""What a run reads: the table and processor of its homes, a split's windows with their captions, and their order.

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
from casita.train.data.home_arrays import HomeArrays, Source, Strings, join_strings
from casita.train.data.tensor_cache import content_hash, load_arrays, read_keys


class WindowDataset:
    """`N` windows of one split, of one home or several, with their captions' embeddings.

    `homes` `(N,)` says of which of `home_names` a window is. A window's captions are rows of all texts put together
    (`choose_captions`), `caption_ids` their ids: captions with equal text have equal ones, in any home.
    """

    def __init__(self, parts: Sequence[HomeArrays], processor: CasitaProcessor):
        self.parts = list(parts)
        self.home_names = list(dict.fromkeys(part.home for part in parts))
        sizes = [len(part) for part in parts]
        number = [self.home_names.index(part.home) for part in parts]
        self.homes = np.repeat(np.array(number, np.int64), sizes)
        self._part = np.repeat(np.arange(len(parts)), sizes)
        self._first = np.concatenate([part.starts[:-1] for part in parts])
        self._length = np.concatenate([np.diff(part.starts) for part in parts])
        self._text_base = np.cumsum([0, *(len(part.texts) for part in parts)])
        self._captions = np.concatenate([part.caption_rows + base for part, base in self._based(self._text_base)])
        ends = np.cumsum([0, *(len(part.caption_rows) for part in parts)])
        self._caption_first = np.concatenate([part.caption_starts[:-1] + base for part, base in self._based(ends)])
        self._caption_count = np.concatenate([np.diff(part.caption_starts) for part in parts])
        self.caption_ids = np.concatenate([part.groups for part in parts])
        self._use = processor.model_input_names
        self._code_base = np.cumsum([1, *(len(part.keys) for part in parts)])  # code 0 is padding
        self._rows, self._places = code_tables(parts, processor)

    def __len__(self) -> int:
        return len(self.homes)

    def _based(self, bases: np.ndarray) -> Iterator[tuple[HomeArrays, Any]]:
        return zip(self.parts, bases[:-1], strict=True)

    @property
    def num_captions(self) -> int:
        """Different captions."""
        return len(np.unique(self.caption_ids))

    @property
    def text_width(self) -> int:
        """T, the width of the captions' embeddings."""
        return self.parts[0].texts.shape[1]

    @cached_property
    def window_ids(self) -> Strings:
        """`N` ids; indexed by rows they are an array of `str`."""
        return join_strings([part.ids for part in self.parts])

    def choose_captions(self, seed: int, epoch: int, *place: int) -> np.ndarray:
        """One caption row `(N,)` for each window: each epoch (and `place`) draws anew where a window has several."""
        drawn = np.random.default_rng([seed, epoch, 1, *place]).random(len(self))
        return self._captions[self._caption_first + (drawn * self._caption_count).astype(np.int64)]

    def neighbours(self, step: int) -> np.ndarray:
        """The windows `step` before and `step` after each in its session `(N, 2)`; itself where there is none."""
        sessions = np.array([name.rsplit("/", 2)[0] for name in self.window_ids], dtype=object)
        own = np.arange(len(self))
        found = np.stack([own - step, own + step], axis=1)
        there = found.clip(0, len(self) - 1)
        return np.where((there == found) & (sessions[there] == sessions[:, None]), found, own[:, None])

    def batch(
        self,
        windows: np.ndarray,
        captions: np.ndarray,
        device: torch.device | str = "cpu",
        neighbours: np.ndarray | None = None,
    ) -> "Batch":
        """The rows `windows` `(b,)` with the caption rows `captions` `(b,)`, padded to the longest of these windows.

        The numbers are those of `CasitaProcessor.encode_windows`. `neighbours` `(b, 2)` are caption
        rows of the windows before and after.
        """
        first, length = self._first[windows], self._length[windows]
        offset = np.arange(length.max(initial=0))
        mask = offset < length[:, None]
        event = np.minimum(first[:, None] + offset, (first + length - 1)[:, None])
        codes, seconds = np.empty(event.shape, np.int32), np.empty(event.shape, np.float32)
        told = captions[:, None] if neighbours is None else np.column_stack([captions, neighbours])
        texts = torch.empty(*told.shape, self.text_width)
        for number, at in self._by_part(windows):
            part = self.parts[number]
            codes[at] = part.codes[event[at]] + self._code_base[number]
            seconds[at] = part.seconds[event[at]]
            rows = torch.from_numpy(told[at] - self._text_base[number])
            # torch: it lets other threads run
            found = torch.from_numpy(part.texts).index_select(0, rows.flatten()).view(*rows.shape, -1)
            texts = found if len(rows) == len(windows) else texts.index_copy_(0, torch.from_numpy(at), found)
        inputs = self._features(np.where(mask, codes, 0), mask, np.where(mask, seconds, np.float32(0)))
        tensors = {name: to_device(torch.from_numpy(inputs[name]), device) for name in self._use}
        texts, caption_ids = to_device(texts, device), to_device(torch.from_numpy(self.caption_ids[told]), device)
        if neighbours is None:
            return Batch(tensors, texts[:, 0], caption_ids[:, 0])
        return Batch(tensors, texts[:, 0], caption_ids[:, 0], texts[:, 1:], caption_ids[:, 1:])

    def _by_part(self, windows: np.ndarray) -> Iterator[tuple[int, Any]]:
        """The parts that the rows `windows` `(b,)` are of, each with where in the batch its own stand."""
        if len(self.parts) == 1:
            yield 0, slice(None)
            return
        part = self._part[windows]
        order = np.argsort(part, kind="stable")
        numbers, starts = np.unique(part[order], return_index=True)
        yield from zip(numbers.tolist(), np.split(order, starts)[1:], strict=True)

    def _features(self, codes: np.ndarray, mask: np.ndarray, seconds: np.ndarray) -> dict[str, np.ndarray]:
        """`(b, L)` codes, mask and seconds (0 where padded) to all that a model may read."""
        features = {"input_ids": self._rows[codes], "attention_mask": mask.astype(np.int64), "timestamps": seconds}
        if "time_deltas" in self._use:
            features["time_deltas"] = np.where(mask, np.diff(seconds, axis=1, prepend=np.float32(0)), np.float32(0))
        if self._places is not None:
            features["coordinates"] = self._places[codes]
        return features

    def take(self, windows: np.ndarray, captions: np.ndarray) -> list[HomeArrays]:
        """Copies of the rows `windows` `(n,)`, each with the one caption row in `captions` `(n,)`; part after part."""
        return [
            self.parts[number].take(windows[at] - np.searchsorted(self._part, number), captions[at] - base)
            for number, at in self._by_part(windows)
            for base in [self._text_base[number]]
        ]


def code_tables(parts: Sequence[HomeArrays], processor: CasitaProcessor) -> tuple[np.ndarray, np.ndarray | None]:
    """For padding, then for each part's keys: the table's row `(K,)` int64, and the place `(K, 2)` if it is wanted.

    Asked of the processor itself, all keys of a part as one window: unknown ones are its error.
    """
    rows, places = [np.zeros(1, np.int64)], [np.full((1, 2), 0.5, np.float32)]
    for part in parts:
        if not part.keys:
            continue
        home = part.home if processor.homes else None
        told = processor.encode_windows([part.keys], [[0.0] * len(part.keys)], home)
        rows.append(told["input_ids"][0])
        places.append(told["coordinates"][0] if processor.use_coordinates else places[0][:0])
    return np.concatenate(rows), np.concatenate(places) if processor.use_coordinates else None


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """`tensor` on `device`; to a GPU from pinned memory, so that nobody waits for the copy."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Batch:
    """`inputs` for the model; `texts` `(b, T)`; `caption_ids` `(b,)` int64, equal for equal captions.

    `neighbours` `(b, 2, T)` and `neighbour_ids` `(b, 2)` are of the captions before and after, if they are learned.
    """

    inputs: dict[str, Tensor]
    texts: Tensor
    caption_ids: Tensor
    neighbours: Tensor | None = None
    neighbour_ids: Tensor | None = None


def load_table(config: TrainConfig) -> SensorEmbeddingTable | None:
    """The homes' picture embeddings by `config.vision_model`; None with `embedding_source: learned`.

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
    """The processor of the homes: keys in the order of the table's rows, or of the alphabet where there is no table.

    Without a table the vocabulary is that of all windows: states that only later splits show keep a row, untrained.
    With several homes all names of keys and sensors carry the home's.

    Raises:
        FileNotFoundError: a stage has not run. ValueError: homes whose windows were cut in different ways.
    """
    folders = named_homes(config.data)
    named = [(f"{folder.name}/" if len(folders) > 1 else "", folder) for folder in folders]
    text_model = TEXT_MODELS.get(config.text_model, config.text_model)  # what a user without casita can look up
    places = {f"{p}{name}": (told, f.layout["size"]) for p, f in named for name, told in f.layout["sensors"].items()}
    return CasitaProcessor(
        vocab=table.keys if table else [f"{p}{key}" for p, f in named for key in read_keys(_windows_of(f))],
        home=folders[0].name if len(folders) == 1 else None,
        homes=[folder.name for folder in folders] if len(folders) > 1 else None,
        coordinates={name: [s["x"] / width, s["y"] / height] for name, (s, (width, height)) in places.items()},
        rooms={name: s["room"] for name, (s, _) in places.items()},
        levels={f"{p}{n}": bounds for p, f in named for n, bounds in f.summary("windows").get("levels", {}).items()},
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
    """The sentences of each label; where homes share a label, those of all of them, each once."""
    prompts: dict[str, list[str]] = {}
    for folder in folders:
        labels = read_table(_windows_of(folder), WINDOWS, ["activity"])["activity"]
        told = label_prompts(folder.layout, sorted(pc.unique(labels).drop_null().to_pylist()))
        for label, sentences in told.items():
            prompts[label] = list(dict.fromkeys([*prompts.get(label, []), *sentences]))
    return prompts


def sampling(folders: Sequence[HomeFolder]) -> dict[str, Any]:
    """How the windows of all homes were cut."""
    told = [folder.settings("windows") for folder in folders]
    first, *others = [{name: each[name] for name in STREAM_SETTINGS if name in each} for each in told]
    for folder, other in zip(folders[1:], others, strict=True):
        if other != first:
            raise ValueError(
                f"{folder.root}: its windows were cut with {other}, those of {folders[0].root} with {first}. One "
                "model reads windows of one kind: cut them alike (casita windows)."
            )
    return first


def load_split(config: TrainConfig, split: str, processor: CasitaProcessor) -> WindowDataset:
    """The windows of `split` (train | validation | test) of all homes with their captions' embeddings.

    Raises:
        FileNotFoundError: a stage has not run; the message names the command.
        ValueError: captions or embeddings are of other windows than the home has now.
    """
    return WindowDataset([load_arrays(source, Path(config.out)) for source in sources(config, split)], processor)


def sources(config: TrainConfig, split: str) -> list[Source]:
    """What to read of each home."""
    return [Source(folder, split, config.caption_style, config.text_model) for folder in named_homes(config.data)]


def _windows_of(folder: HomeFolder) -> Path:
    return folder.require(folder.windows, "windows")


def fingerprint(config: TrainConfig, table: SensorEmbeddingTable | None) -> dict[str, str]:
    """A hash of each thing that a run reads, by name: what must not change between a run and its resumption."""
    hashes, root = {}, data_folder(config.data)
    for folder in home_folders(root):
        texts = folder.text_embeddings(config.caption_style, config.text_model)
        for file in (folder.windows, folder.captions(config.caption_style), texts):
            hashes[str(file.relative_to(root))] = content_hash(file)
    if table:  # its content, not its file: safetensors writes a header's entries in any order
        rows = hashlib.sha256(table.embeddings.tobytes()).hexdigest()
        hashes["the table of image embeddings"] = hash_json([table.keys, rows])
    return hashes
