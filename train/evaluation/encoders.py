"""The encoders that an evaluation compares: trained runs, their learned-embedding baselines, and untrained ones.

Each is trained or drawn with its own seed. All windows that any protocol touches go through each encoder once.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.train.configs.train_config import MAY_CHANGE, TrainConfig
from casita.train.data.tensor_cache import content_hash
from casita.train.evaluation.inputs import load_run
from casita.train.evaluation.protocol_split import EvaluationHome, ProtocolSplit
from casita.train.inference.embedding import AlignedEmbeddings, encode, untrained
from casita.train.inference.swap_home import move_home
from casita.train.training.checkpoint import checkpoints, read_progress

TRAINED = "trained"
LEARNED = "learned"
UNTRAINED = "untrained"
T = TypeVar("T")
# What a learned-embedding baseline may have otherwise than the run: where its tokens come from, and what only pictures
# have.
_TOKEN_SETTINGS = frozenset({"embedding_source", "vision_model", "freeze_input_projection"})


@dataclass(frozen=True)
class Encoder:
    """A model with its processor; `kind` is one of trained, learned, untrained."""

    kind: str
    seed: str
    model: CasitaModel
    processor: CasitaProcessor
    run: Path | None = None

    @property
    def name(self) -> str:
        """Name it by kind and seed."""
        return f"{self.kind} {self.seed}"

    def knows(self, home: str) -> bool:
        """Return whether its table has the sensors of the home of that name."""
        return home == self.processor.home or home in self.processor.homes

    def can_move(self) -> bool:
        """Return whether it could read another home's pictures."""
        return self.model.config.embedding_source == "image"

    def moved(self, home: EvaluationHome) -> "Encoder":
        """Copy it into another home: that home's table instead of its own."""
        model = copy.deepcopy(self.model)
        processor = copy.deepcopy(self.processor)
        move_home(model, processor, [home.folder])
        return Encoder(self.kind, self.seed, model.eval(), processor, self.run)

    def encode(
        self,
        home: EvaluationHome,
        rows: np.ndarray,
        *,
        sensor_keys: Sequence[Sequence[str]] | None = None,
        batch_size: int = 256,
        progress: bool = True,
    ) -> AlignedEmbeddings:
        """Embed the windows `rows` of a home that it knows; with `sensor_keys` other events than the windows' own."""
        part = home.inputs.take(rows)
        keys = part.windows["sensor_keys"] if sensor_keys is None else sensor_keys
        arrays = self.processor.encode_windows(
            keys, part.windows["seconds"], home.name if self.processor.homes else None
        )
        name = f"{self.name}, {home.name}"
        return encode(self.model, arrays, part.text, label=name, batch_size=batch_size, progress=progress)


def load_encoders(
    runs: Sequence[Path], learned: Sequence[Path], seeds: int, device: str | None
) -> tuple[TrainConfig, list[Encoder]]:
    """Load the first run's configuration and the encoders: the runs, their learned baselines, `seeds` untrained ones.

    Raises:
        FileNotFoundError: a run lacks a file.
        ValueError: runs that differ in more than their seed, two of one seed, or a learned baseline that is none.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    encoders: list[Encoder] = []
    configs: list[TrainConfig] = []
    for kind, paths in ((TRAINED, runs), (LEARNED, learned)):
        for run in paths:
            config, model, processor = load_run(run)
            _refuse_cut_again(run, config)
            _check(kind, run, config, runs[0], configs[0] if configs else config)
            configs.append(config)
            encoder = Encoder(kind, str(config.seed), nn.Module.to(model, device), processor, run)
            if encoder.name in {other.name for other in encoders}:
                raise ValueError(f"{run}: another {kind} run has the seed {config.seed} too. Give each seed once.")
            encoders.append(encoder)
    first = encoders[0]
    encoders += [Encoder(UNTRAINED, str(i), untrained(first.model, i), first.processor) for i in range(seeds)]
    return configs[0], encoders


def _refuse_cut_again(run: Path, config: TrainConfig) -> None:
    """Refuse a run whose home was divided anew since: its test windows may be among those that it learned from."""
    saved = checkpoints(run)
    hashes = read_progress(saved[-1]).data if saved else {}
    for file in (Path(config.data) / name for name in hashes if Path(name).name == "windows.parquet"):
        if file.is_file() and content_hash(file) != hashes[str(file.relative_to(config.data))]:
            raise ValueError(
                f"{file}: other windows than {run} was trained on; which of them it has seen is not known. Train it "
                "again, or cut them as they were."
            )


def _check(kind: str, run: Path, config: TrainConfig, first: Path, expected: TrainConfig) -> None:
    """Refuse a run that is not the first one with another seed, or its learned-embedding baseline."""
    if kind == LEARNED and (config.embedding_source != "learned" or expected.embedding_source != "image"):
        raise ValueError(
            f"--learned {run}: embedding_source {config.embedding_source}, of {first} {expected.embedding_source}; "
            "expected a learned run beside one that reads pictures."
        )
    free = MAY_CHANGE | {"seed"} | (_TOKEN_SETTINGS if kind == LEARNED else frozenset())
    if Path(config.data).resolve() != Path(expected.data).resolve():
        free -= {"data"}
    settings = config.as_dict()
    first_settings = expected.as_dict()
    differ = [
        f"{name} {first_settings[name]!r} -> {value!r}"
        for name, value in settings.items()
        if name not in free and value != first_settings[name]
    ]
    if differ:
        but = "the seed" if kind == TRAINED else "the seed and where the tokens come from"
        raise ValueError(f"{run}: differs from {first} in more than {but}: {', '.join(differ)}. Evaluate it alone.")


class EmbeddingCache:
    """Embeddings of all windows that the splits touch, by every encoder once; `of_split` gives a split's own.

    Args:
        homes: every home that a split takes windows from.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        splits: Sequence[ProtocolSplit],
        homes: Sequence[EvaluationHome],
        *,
        batch_size: int = 256,
        progress: bool = True,
    ):
        self.encoders = list(encoders)
        self.seconds = dict[str, float]()
        self.rows: dict[str, np.ndarray] = {}
        self._embedded: dict[tuple[str, str], AlignedEmbeddings] = {}
        for home in homes:
            root = str(home.folder.root)
            parts = [split.where[root] for split in splits if root in split.where]
            if not parts:
                continue
            self.rows[root] = np.unique(np.concatenate(parts))
            for encoder in encoders:
                began = time.monotonic()
                if not encoder.knows(home.name):
                    if not encoder.can_move():
                        continue
                    encoder = encoder.moved(home)
                self._embedded[encoder.name, root] = encoder.encode(
                    home, self.rows[root], batch_size=batch_size, progress=progress
                )
                self.seconds[encoder.name] = self.seconds.get(encoder.name, 0.0) + time.monotonic() - began

    def of_split(self, split: ProtocolSplit) -> dict[str, AlignedEmbeddings]:
        """Return the split's windows by the encoder's name; without those that cannot read one of its homes."""
        places = {root: np.searchsorted(self.rows[root], rows) for root, rows in split.where.items()}
        joined = {}
        for name in (encoder.name for encoder in self.encoders):
            if all((name, root) in self._embedded for root in places):
                parts = [self._embedded[name, root].take(rows) for root, rows in places.items()]
                joined[name] = AlignedEmbeddings.joined(parts)
        return joined


def of_kind(kind: str, by_encoder: Mapping[str, T]) -> dict[str, T]:
    """Return the entries of one kind of encoder, by seed."""
    return {name.partition(" ")[2]: entry for name, entry in by_encoder.items() if name.startswith(f"{kind} ")}
