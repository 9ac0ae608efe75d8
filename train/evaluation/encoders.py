"""The encoders that an evaluation compares: trained runs, their learned twins, and the same model before any training.

Each is trained or drawn with its own seed. All windows that any protocol touches go through each encoder once.
"""

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.train.configs.train_config import MAY_CHANGE, TrainConfig
from casita.train.data.tensor_cache import content_hash
from casita.train.evaluation.inputs import load_run
from casita.train.evaluation.protocols import EvaluationHome, ProtocolSplit
from casita.train.inference.embedding import AlignedEmbeddings, encode, untrained
from casita.train.inference.swap_home import move_home
from casita.train.training.checkpoint import checkpoints, read_progress

TRAINED, LEARNED, UNTRAINED = "trained", "learned", "untrained"
# What a learned twin may have otherwise than the run: where its tokens come from, and what only pictures have.
_TOKENS = frozenset({"embedding_source", "vision_model", "freeze_input_projection"})


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
        return f"{self.kind} {self.seed}"

    def knows(self, home: str) -> bool:
        """Whether its table has the sensors of the home of that name."""
        return home == self.processor.home or home in self.processor.homes

    def can_move(self) -> bool:
        """Whether it could read another home's pictures."""
        return self.model.config.embedding_source == "image"

    def moved(self, home: EvaluationHome) -> "Encoder":
        """A copy of it in another home: that home's table instead of its own."""
        model, processor = copy.deepcopy(self.model), copy.deepcopy(self.processor)
        move_home(model, processor, [home.folder])
        return Encoder(self.kind, self.seed, model.eval(), processor, self.run)

    def encode(self, home: EvaluationHome, rows: np.ndarray, **how: Any) -> AlignedEmbeddings:
        """The windows `rows` of a home that it knows."""
        part = home.material.take(rows)
        named = home.name if self.processor.homes else None
        inputs = self.processor.encode_windows(part.windows["sensor_keys"], part.windows["seconds"], named)
        return encode(self.model, inputs, part.text, label=f"{self.name}, {home.name}", **how)


def load_encoders(
    runs: Sequence[Path], learned: Sequence[Path], seeds: int, device: str | None
) -> tuple[TrainConfig, list[Encoder]]:
    """The first run's configuration; and the encoders: the runs, their learned twins, `seeds` untrained ones.

    Raises:
        FileNotFoundError: a run lacks a file.
        ValueError: runs that differ in more than their seed, two of one seed, or a twin that is none.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    found: list[Encoder] = []
    configs: list[TrainConfig] = []
    for kind, paths in ((TRAINED, runs), (LEARNED, learned)):
        for run in paths:
            config, model, processor = load_run(run)
            _refuse_cut_again(run, config)
            _check(kind, run, config, runs[0], configs[0] if configs else config)
            configs.append(config)
            encoder = Encoder(kind, str(config.seed), nn.Module.to(model, device), processor, run)
            if encoder.name in {other.name for other in found}:
                raise ValueError(f"{run}: another {kind} run has the seed {config.seed} too. Give each seed once.")
            found.append(encoder)
    first = found[0]
    found += [Encoder(UNTRAINED, str(i), untrained(first.model, i), first.processor) for i in range(seeds)]
    return configs[0], found


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
    """Refuse a run that is not the first one with another seed, or its learned twin."""
    if kind == LEARNED and (config.embedding_source != "learned" or expected.embedding_source != "image"):
        raise ValueError(
            f"--learned {run}: embedding_source {config.embedding_source}, of {first} {expected.embedding_source}; "
            "expected a learned run beside one that reads pictures."
        )
    free = (MAY_CHANGE - {"data"}) | {"seed"} | (_TOKENS if kind == LEARNED else frozenset())
    mine, theirs = config.as_dict(), expected.as_dict()
    differ = [
        f"{name} {theirs[name]!r} -> {mine[name]!r}"
        for name in mine
        if name not in free and not _same(name, mine[name], theirs[name])
    ]
    if differ:
        told = "the seed" if kind == TRAINED else "the seed and where the tokens come from"
        raise ValueError(f"{run}: differs from {first} in more than {told}: {', '.join(differ)}. Evaluate it alone.")


def _same(name: str, one: Any, other: Any) -> bool:
    return Path(one).resolve() == Path(other).resolve() if name == "data" else one == other


class EmbeddingCache:
    """All windows that the cases touch, through every encoder once; `of_case` gives a case's own.

    Args:
        homes: every home that a case takes windows from.
        how: `batch_size` and `progress`.
    """

    def __init__(
        self, encoders: Sequence[Encoder], cases: Sequence[ProtocolSplit], homes: Sequence[EvaluationHome], **how: Any
    ):
        self.encoders, self.seconds = list(encoders), dict[str, float]()
        self.rows: dict[str, np.ndarray] = {}
        self._found: dict[tuple[str, str], AlignedEmbeddings] = {}
        for home in homes:
            root = str(home.folder.root)
            parts = [case.where[root] for case in cases if root in case.where]
            if not parts:
                continue
            self.rows[root] = np.unique(np.concatenate(parts))
            for encoder in encoders:
                began = time.monotonic()
                if not encoder.knows(home.name):
                    if not encoder.can_move():
                        continue
                    encoder = encoder.moved(home)
                self._found[encoder.name, root] = encoder.encode(home, self.rows[root], **how)
                self.seconds[encoder.name] = self.seconds.get(encoder.name, 0.0) + time.monotonic() - began

    def of_case(self, case: ProtocolSplit) -> dict[str, AlignedEmbeddings]:
        """The case's windows by the name of the encoder; those that cannot read one of its homes are left out."""
        return {e.name: self._joined(case, e.name) for e in self.encoders if self._has_all(case, e.name)}

    def _has_all(self, case: ProtocolSplit, name: str) -> bool:
        return all((name, root) in self._found for root in case.where)

    def _joined(self, case: ProtocolSplit, name: str) -> AlignedEmbeddings:
        parts = [
            self._found[name, root].take(np.searchsorted(self.rows[root], rows)) for root, rows in case.where.items()
        ]
        return AlignedEmbeddings.joined(parts)


def of_kind(kind: str, by_encoder: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of one kind of encoder, by seed."""
    return {name.partition(" ")[2]: found for name, found in by_encoder.items() if name.startswith(f"{kind} ")}
