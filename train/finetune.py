"""Classify activities with an aligned (or masked-event) checkpoint: a head on the frozen encoder, or all of it.

    casita finetune runs/kyoto --out runs/kyoto_activities --mode full --few_shot 0.05

Learns on the train windows, chooses the model on the validation windows, and reads the test windows once, at the end.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator, PartialState
from torch import nn

from casita import cli
from casita.datasets_scripts.hub.named_data import data_folder, named_homes, resolve_revision
from casita.datasets_scripts.schema import WINDOWS, HomeFolder, read_table
from casita.files import hash_file, hash_json, read_json, write_json
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.configs.finetune_config import FinetuneConfig, is_finetuned
from casita.train.configs.settings import add_setting_flags, given_settings, read_settings
from casita.train.data.batch_sampler import BatchSampler
from casita.train.data.dataset import sampling
from casita.train.data.labelled_windows import (
    choose_few,
    class_counts,
    labelled_split,
    load_labelled,
    store_embeddings,
)
from casita.train.data.loaders import CachedLoader
from casita.train.data.tensor_cache import content_hash
from casita.train.evaluation.finetuned import evaluate_classifier
from casita.train.evaluation.inputs import checked_splits
from casita.train.inference.embedding import untrained
from casita.train.inference.model_directory import load_published, model_directory_of, write_card
from casita.train.inference.swap_home import move_home
from casita.train.report import write as report
from casita.train.training.classifier import (
    ClassificationObjective,
    Classifier,
    add_head,
    encode_split,
    learning_groups,
)
from casita.train.training.loop import run_training


def finetune(config: FinetuneConfig) -> Path:
    """Train as `config` says, then evaluate; the run folder. A finished run is left as it is. Call on every rank; rank
    0 evaluates, and the others do not wait for it.

    Raises:
        FileNotFoundError: no such run or model, or a stage of the home folder has not run.
        ValueError: splits that share events or follow another protocol, no labelled train windows, a checkpoint that
            cannot read this home, or settings that do not fit.
    """
    config, run = dataclasses.replace(config, data=resolve_revision(config.data)), Path(config.out)
    _refuse_other(run)
    audit = {home.name: checked_splits(home, _bounds(home), config.protocol) for home in named_homes(config.data)}
    run_training(config, Classification(config))
    if PartialState().is_main_process and not (run / "results.json").is_file():
        results = evaluate_classifier(config, audit)
        write_card(run / "model", results)
        write_json(run / "results.json", results)
    return run


class Classification:
    """Windows with their activities, for a `Classifier`: the `TrainingTask` of `casita finetune`."""

    command = "casita finetune"
    primary_metric = "macro_f1"

    def __init__(self, config: FinetuneConfig):
        self.config = config
        self.start, self.processor, self.table = starting_point(config)
        windows = {"train": choose_few(load_labelled(config, "train"), config)}
        windows["validation"] = load_labelled(config, "validation")
        self.classes = sorted(set(windows["train"].labels))
        if len(self.classes) < 2:
            raise ValueError(
                f"{config.data}: its train windows have {len(self.classes)} activities, at least 2 are needed to tell "
                "apart. Build it from a log with activities, or give --unlabelled true."
            )
        self.splits = {name: labelled_split(w, self.classes, self.processor) for name, w in windows.items()}
        self.counts = class_counts(self.splits["train"], self.classes)

    def fingerprint(self) -> dict[str, str]:
        """A hash of each thing that the run reads, by name; the few train windows by their ids."""
        files = [folder.windows for folder in named_homes(self.config.data)]
        weights = Path(model_directory_of(self.config.model)) / "model.safetensors"
        return {
            **{str(file.relative_to(data_folder(self.config.data))): content_hash(file) for file in files},
            "the chosen train windows": hash_json(list(self.splits["train"].window_ids)),
            "the checkpoint's weights": hash_file(weights) if weights.is_file() else self.config.model,
        }

    def feed(self, device: torch.device, rank: int, ranks: int) -> CachedLoader:
        """The batches of the train windows: all of them, where there are fewer than `batch_size`."""
        self.device, count = device, len(self.splits["train"])
        size = min(self.config.batch_size, count // ranks * ranks)
        return CachedLoader(
            self.splits["train"],
            BatchSampler(count, size, self.config.seed, rank, ranks),
            device,
            self.config.prefetch,
        )

    def model(self, fresh: bool) -> Classifier:
        """The checkpoint's encoder with a head from torch's seed; with `mode: frozen` it embeds all windows now."""
        add_head(self.start, self.classes)
        if self.config.mode == "frozen":
            nn.Module.to(self.start, self.device)
            for name, split in self.splits.items():
                embeddings = encode_split(self.start.sensor_model.eval(), split, f"embedding {name} windows")
                store_embeddings(split, embeddings)
        return Classifier(self.config, self.start)

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""
        return learning_groups(model, self.config)

    def objective(self, accelerator: Accelerator, model: nn.Module) -> ClassificationObjective:
        """Cross-entropy."""
        keys = self.processor.vocab
        return ClassificationObjective(self.config, accelerator, model, self.classes, self.counts, keys)

    def told(self) -> str:
        """Lines about data and model, for people."""
        train, validation = self.splits["train"], self.splits["validation"]
        few = "" if self.config.few_shot == 1.0 and isinstance(self.config.few_shot, float) else ", chosen ones"
        weights = "fresh weights, its architecture" if self.config.from_scratch else "its weights"
        return (
            f"home {', '.join(train.home_names)}: {len(train):,} train windows{few}, {len(validation):,} validation "
            f"windows, {len(self.classes)} activities\n{self.config.model}: {weights}, mode {self.config.mode}"
        )

    def facts(self) -> dict[str, Any]:
        """What the card tells of the classes."""
        return {"classes": dict(zip(self.classes, self.counts.tolist(), strict=True))}


def starting_point(config: FinetuneConfig) -> tuple[CasitaModel, CasitaProcessor, SensorEmbeddingTable | None]:
    """Model, processor and table to begin with, in the homes of `data`: those that it knows, or others.

    Into a home that the checkpoint does not know it moves with that home's table, which image models can.
    """
    dropout = {} if config.dropout is None else dict.fromkeys(("hidden_dropout", "attention_dropout"), config.dropout)
    model, processor = load_published(config.model, **dropout)
    folders = named_homes(config.data)
    table, known = None, processor.home or ", ".join(processor.homes)
    if unknown := [folder.name for folder in folders if folder.name not in (processor.homes or [known])]:
        if model.config.embedding_source != "image":
            raise ValueError(
                f"{config.model} knows home {known}, not {unknown[0]}: its "
                "learned embeddings are of that home's sensors. Give a run that reads pictures, or one of this home."
            )
        table = move_home(model, processor, folders)
    elif model.config.embedding_source == "image":
        table = SensorEmbeddingTable.load(model_directory_of(config.model))
    for name, value in sampling(folders).items():  # the published processor is to cut streams as these windows were
        setattr(processor, name, value)
    return (untrained(model, config.seed) if config.from_scratch else model), processor, table


def _bounds(home: HomeFolder) -> Any:
    """What the leak audit reads of the windows; no labels."""
    return read_table(home.require(home.windows, "windows"), WINDOWS, ["home", "split", "start", "end"])


def _refuse_other(run: Path) -> None:
    """The folder of an alignment run, perhaps the one to start from, is no place for this one."""
    if (run / "config.yaml").is_file() and not is_finetuned(run):
        raise ValueError(f"{run}: holds an alignment run. Give another --out.")


def data_of(model: str) -> str:
    """The data that a run was trained on."""
    config = Path(model) / "config.yaml"
    if not config.is_file():
        raise ValueError(f"{model} is no run folder that would tell its data: give --data DIR.")
    return yaml.safe_load(config.read_text(encoding="utf-8"))["data"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, `--config`, and a flag for every other setting of `FinetuneConfig`."""
    parser.description = (
        "Classify activities with an aligned checkpoint: the head alone, or all of it. Writes model/ (loads with "
        "AutoModelForSequenceClassification) and results.json. Settings may come from a YAML file; flags go on top."
    )
    parser.epilog = (
        "examples:\n  casita finetune runs/kyoto --out runs/kyoto_full\n"
        "  casita finetune runs/kyoto --out runs/kyoto_head --mode frozen --learning_rate 1e-2\n"
        "  casita finetune runs/kyoto --out runs/few --few_shot 0.05 --seed 1\n"
        "  casita finetune runs/kyoto --out runs/scratch --from_scratch true"
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run, a model directory or a Hub id")
    parser.add_argument("--config", metavar="YAML", type=Path, help="a file with settings")
    add_setting_flags(parser, FinetuneConfig, but=("model",))


def run(args: argparse.Namespace) -> None:
    """The command `casita finetune`."""
    given = given_settings(args, FinetuneConfig)
    if args.config is None and "data" not in given:
        given["data"] = data_of(args.model)
    out = finetune(read_settings(FinetuneConfig, args.config, given))
    if not PartialState().is_main_process:
        return
    print(report.headline_text(read_json(out / "results.json")["headline"]))
    print(f"numbers: {out / 'results.json'}   model: {out / 'model'}")


if __name__ == "__main__":
    sys.exit(cli.main(["finetune", *sys.argv[1:]]))
