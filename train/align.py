"""Align windows of sensor events with their captions: contrastive training under Accelerate, on one process or many.

accelerate launch -m casita.train.align --config demo.yaml --data homes/synthetic --out runs/demo
torchrun --nproc-per-node 2 -m casita.train.align ...      (two processes on CPUs: accelerate launch would start one)
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from casita import cli
from casita.datasets_scripts.hub.named_data import resolve_revision
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
    return run_training(config, Alignment(config))


class Alignment:
    """Windows of events with their captions, for a `TrainedModel`: the `TrainingTask` of `casita train`."""

    command = "casita train"
    primary_metric = "loss"

    def __init__(self, config: TrainConfig):
        self.config = config
        self.table = load_table(config)
        self.processor = build_processor(config, self.table)
        train_windows = load_windows(config, self.processor)
        self.splits = {"train": train_windows, "validation": load_split(config, "validation", self.processor)}

    def fingerprint(self) -> dict[str, str]:
        """A hash of each thing that the run reads, by name."""
        return fingerprint(self.config, self.table)

    def feed(self, device: torch.device, rank: int, ranks: int) -> BatchLoader:
        """The batches of the train windows."""
        return make_loader(self.config, self.splits["train"], device, rank, ranks)

    def model(self, fresh: bool) -> TrainedModel:
        """Fresh weights from torch's seed, or those of `init_from`."""
        model = build_model(self.config, self.processor, self.table, self.splits["train"].text_width)
        if self.config.init_from and fresh:
            load_weights(model, self.config.init_from, self.processor)
        return TrainedModel(self.config, model)

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        return parameter_groups(model, self.config.weight_decay)

    def objective(self, accelerator: Accelerator, model: nn.Module) -> AlignmentObjective:
        """The loss of windows against captions, of hidden events, or of both."""
        return AlignmentObjective(self.config, accelerator, model)

    def told(self) -> str:
        """Lines about data and model, for people."""
        counts = [f"{len(s):,} {name} windows with {s.num_captions:,} captions" for name, s in self.splits.items()]
        source = self.config.vision_model if self.config.embedding_source == "image" else "learned"
        weights = f", weights of {self.config.init_from}" if self.config.init_from else ""
        return (
            f"home {', '.join(self.splits['train'].home_names)}: {', '.join(counts)}\n"
            f"model {self.config.preset}, {source} rows{weights}"
        )

    def facts(self) -> dict[str, Any]:
        """What the card tells of captions."""
        return {"captions": {name: split.num_captions for name, split in self.splits.items()}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--config`, and a flag for every setting of `TrainConfig`."""
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
    """The command `casita train`."""
    train(load_config(args.config, given_settings(args, TrainConfig)))


if __name__ == "__main__":
    sys.exit(cli.main(["train", *sys.argv[1:]]))
