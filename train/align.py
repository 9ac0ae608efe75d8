"""Align windows of sensor events with their captions: contrastive training under Accelerate, on one process or many.

accelerate launch -m casita.train.align --config demo.yaml --data homes/synthetic --out runs/demo
torchrun --nproc-per-node 2 -m casita.train.align ...      (two processes on CPUs: accelerate launch would start one)
"""

import argparse
import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from casita import cli
from casita.datasets_scripts.hub.named_data import resolve_revision
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.configs.settings import add_setting_flags, given_settings
from casita.train.configs.train_config import TrainConfig, load_config
from casita.train.data.dataset import build_processor, fingerprint, load_split, load_table
from casita.train.data.loaders import BatchLoader, load_windows, make_loader
from casita.train.training.loop import run_training
from casita.train.training.model import TrainedModel, build_model, load_weights, parameter_groups
from casita.train.training.objectives import AlignmentObjective


def train(config: TrainConfig) -> Path:
    """Train as `config` says and return the run folder; a finished run is left as it is. Call on every rank.

    Raises:
        FileNotFoundError: a stage of the home folder has not run. ValueError: settings that do not fit the data, or
        a checkpoint that does not fit the settings.
    """
    config = dataclasses.replace(config, data=resolve_revision(config.data))
    data = AlignmentData(config)
    task = AlignmentTask(config, data.processor, data.table, data.train.text_width)
    return run_training(config, task, data)


class AlignmentData:
    """Windows of events with their captions: the `TrainingData` of `casita train`."""

    def __init__(self, config: TrainConfig):
        self.config = config
        self.table = load_table(config)
        self.processor = build_processor(config, self.table)
        self.train = load_windows(config, self.processor)
        self.validation = load_split(config, "validation", self.processor)

    def fingerprint(self) -> dict[str, str]:
        """Return a hash of each thing that the run reads, by name."""
        return fingerprint(self.config, self.table)

    def loader(self, device: torch.device, rank: int, ranks: int) -> BatchLoader:
        """Return the batches of the train windows for one of `ranks` processes."""
        return make_loader(self.config, self.train, device, rank, ranks)

    def describe(self) -> str:
        """Return a line about the windows, for people."""
        return (
            f"home {', '.join(self.train.home_names)}: {len(self.train):,} train windows with "
            f"{self.train.num_captions:,} captions, {len(self.validation):,} validation windows with "
            f"{self.validation.num_captions:,} captions"
        )

    def card_facts(self) -> dict[str, Any]:
        """Return what the card says of captions."""
        return {"captions": {"train": self.train.num_captions, "validation": self.validation.num_captions}}


@dataclass(frozen=True)
class AlignmentTask:
    """Windows and captions drawn together in one space: the `TrainingTask` of `casita train`.

    `text_width` T is the width of the captions' embeddings.
    """

    config: TrainConfig
    processor: CasitaProcessor
    table: SensorEmbeddingTable | None
    text_width: int
    command: ClassVar[str] = "casita train"
    primary_metric: ClassVar[str] = "loss"

    def model(self, fresh: bool) -> TrainedModel:
        """Return a model with weights from the seed, or if `fresh` with those of `init_from`."""
        set_seed(self.config.seed)  # the same weights on every rank
        model = build_model(self.config, self.processor, self.table, self.text_width)
        if self.config.init_from and fresh:
            load_weights(model, self.config.init_from, self.processor)
        return TrainedModel(self.config, model)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups."""
        return parameter_groups(model, self.config.weight_decay)

    def objective(self, accelerator: Accelerator, model: nn.Module) -> AlignmentObjective:
        """Return the loss of windows against captions, of hidden events, or of both."""
        return AlignmentObjective(self.config, accelerator, model)

    def describe(self) -> str:
        """Return a line about the model, for people."""
        source = self.config.vision_model if self.config.embedding_source == "image" else "learned"
        weights = f", weights of {self.config.init_from}" if self.config.init_from else ""
        return f"model {self.config.preset}, {source} rows{weights}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser `--config`, and a flag for every setting of `TrainConfig`."""
    parser.description = (
        "Align windows of sensor events with their captions. Settings come from a YAML file; any of them can be given "
        "as a flag on top."
    )
    parser.epilog = (
        "example:\n  casita train --config demo --data homes/synthetic --out runs/demo --epochs 5\n"
        "  accelerate launch -m casita.train.align --config milan_image_clip --data homes/milan --out runs/milan"
    )
    parser.add_argument("--config", required=True, metavar="YAML", help="a YAML file, or the name of a shipped one")
    add_setting_flags(parser, TrainConfig)


def run(args: argparse.Namespace) -> None:
    """Run the command `casita train`."""
    train(load_config(args.config, given_settings(args, TrainConfig)))


if __name__ == "__main__":
    sys.exit(cli.main(["train", *sys.argv[1:]]))
