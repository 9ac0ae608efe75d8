"""Classify activities with an aligned (or masked-event) checkpoint: a head on the frozen encoder, or all of it.

    casita finetune runs/kyoto --out runs/kyoto_activities --mode full --few-shot 0.05

Learns on the train windows, chooses the model on the validation windows, and reads the test windows once, at the end.
"""

import argparse
import copy
import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import set_seed
from torch import Tensor, nn

from casita import cli
from casita.datasets_scripts.hub.named_data import data_folder, named_homes, resolve_revision
from casita.datasets_scripts.schema import WINDOWS, read_table
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
from casita.train.training.checkpoint import is_finished
from casita.train.training.classifier import (
    ClassificationObjective,
    Classifier,
    add_head,
    encode_split,
)
from casita.train.training.loop import make_accelerator, run_training
from casita.train.training.model import parameter_groups


def finetune(config: FinetuneConfig) -> Path:
    """Train as `config` says, then evaluate, and return the run folder; a finished run is left as it is.

    Call on every rank; rank 0 evaluates, and the others do not wait for it.

    Raises:
        FileNotFoundError: no such run or model, or a stage of the home folder has not run.
        ValueError: splits that share events or follow another protocol, no labelled train windows, a checkpoint that
            cannot read this home, or settings that do not fit.
    """
    config = dataclasses.replace(config, data=resolve_revision(config.data))
    run = Path(config.out)
    if (run / "config.yaml").is_file() and not is_finetuned(run):  # perhaps the run to start from
        raise ValueError(f"{run}: holds an alignment run. Give another --out.")
    audit = {}
    for home in named_homes(config.data):
        bounds = read_table(home.require(home.windows, "windows"), WINDOWS, ["home", "split", "start", "end"])
        audit[home.name] = checked_splits(home, bounds, config.protocol)
    encoder, processor, table = starting_point(config)
    data = ClassificationData(config, processor, table)
    task = ClassificationTask(config, encoder, data.classes, data.class_counts, processor.vocab)
    if config.mode == "frozen" and not is_finished(config):  # only the head learns: embed every window once
        embed_windows(encoder, data, make_accelerator(config).device)
    run_training(config, task, data)
    if PartialState().is_main_process and not (run / "results.json").is_file():
        results = evaluate_classifier(config, audit)
        write_card(run / "model", results)
        write_json(run / "results.json", results)
    return run


class ClassificationData:
    """Windows with their activities: the `TrainingData` of `casita finetune`.

    Attributes:
        classes: the labels of the train windows, K of them.
        class_counts: `(K,)` train windows of each.
    """

    def __init__(self, config: FinetuneConfig, processor: CasitaProcessor, table: SensorEmbeddingTable | None):
        self.config = config
        self.processor = processor
        self.table = table
        windows = choose_few({name: load_labelled(config, name) for name in ("train", "validation")}, config)
        self.classes = sorted(set(windows["train"].labels))
        if len(self.classes) < 2:
            raise ValueError(
                f"{config.data}: its train windows have {len(self.classes)} activities, a classifier needs at least "
                "2. Build it from a log with activities, or give --unlabelled true."
            )
        self.train = labelled_split(windows["train"], self.classes, processor)
        self.validation = labelled_split(windows["validation"], self.classes, processor)
        self.class_counts = class_counts(self.train, self.classes)

    def fingerprint(self) -> dict[str, str]:
        """Return a hash of each thing that the run reads, by name; the few train windows by their ids."""
        files = [folder.windows for folder in named_homes(self.config.data)]
        weights = Path(model_directory_of(self.config.model)) / "model.safetensors"
        return {
            **{str(file.relative_to(data_folder(self.config.data))): content_hash(file) for file in files},
            "the chosen train windows": hash_json(list(self.train.window_ids)),
            "the checkpoint's weights": hash_file(weights) if weights.is_file() else self.config.model,
        }

    def loader(self, device: torch.device, rank: int, ranks: int) -> CachedLoader:
        """Return the batches of the train windows: one of all, where there are fewer than `batch_size`."""
        count = len(self.train)
        size = min(self.config.batch_size, count // ranks * ranks)
        sampler = BatchSampler(count, size, self.config.seed, rank, ranks)
        return CachedLoader(self.train, sampler, device, self.config.prefetch)

    def describe(self) -> str:
        """Return a line about the windows, for people."""
        uses_all = isinstance(self.config.few_shot, float) and self.config.few_shot == 1.0
        return (
            f"home {', '.join(self.train.home_names)}: {len(self.train):,} train windows"
            f"{'' if uses_all else ', chosen ones'}, {len(self.validation):,} validation windows, "
            f"{len(self.classes)} activities"
        )

    def card_facts(self) -> dict[str, Any]:
        """Return what the card says of the classes."""
        return {"classes": dict(zip(self.classes, self.class_counts.tolist(), strict=True))}


@dataclass(frozen=True)
class ClassificationTask:
    """Activities from windows: the `TrainingTask` of `casita finetune`.

    `encoder` is what to start from, and stays as it is; `class_counts` `(K,)` are the train windows of `classes`;
    `vocab` are the keys of the table's rows.
    """

    config: FinetuneConfig
    encoder: CasitaModel
    classes: Sequence[str]
    class_counts: Tensor
    vocab: Sequence[str]
    command: ClassVar[str] = "casita finetune"
    primary_metric: ClassVar[str] = "macro_f1"

    def model(self, fresh: bool) -> Classifier:
        """Return a copy of the encoder with a head from the seed."""
        encoder = copy.deepcopy(self.encoder)
        set_seed(self.config.seed)  # the same weights on every rank
        add_head(encoder, self.classes)
        return Classifier(self.config, encoder)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups: the head's, then the encoder's at its own rate."""
        head = {id(p) for name, p in model.named_parameters() if ".classifier." in name}
        groups = []
        for is_head, rate in ((True, self.config.learning_rate), (False, self.config.encoder_rate)):
            for group in parameter_groups(model, self.config.weight_decay):
                parameters = [p for p in group["params"] if (id(p) in head) == is_head]
                groups.append({**group, "params": parameters, "lr": rate})
        return groups

    def objective(self, accelerator: Accelerator, model: nn.Module) -> ClassificationObjective:
        """Return the cross-entropy."""
        return ClassificationObjective(self.config, accelerator, model, self.classes, self.class_counts, self.vocab)

    def describe(self) -> str:
        """Return a line about the model, for people."""
        weights = "fresh weights, its architecture" if self.config.from_scratch else "its weights"
        return f"{self.config.model}: {weights}, mode {self.config.mode}"


def embed_windows(encoder: CasitaModel, data: ClassificationData, device: torch.device) -> None:
    """Store the frozen encoder's embedding of each window of `data`, which a head alone then reads."""
    tower = nn.Module.to(copy.deepcopy(encoder.sensor_model), device).eval()
    for name, split in (("train", data.train), ("validation", data.validation)):
        store_embeddings(split, encode_split(tower, split, f"embedding {name} windows"))


def starting_point(config: FinetuneConfig) -> tuple[CasitaModel, CasitaProcessor, SensorEmbeddingTable | None]:
    """Return model, processor and table to begin with, in the homes of `data`: those that it knows, or others.

    Into a home that the checkpoint does not know it moves with that home's table, which image models can.
    """
    dropout = {} if config.dropout is None else dict.fromkeys(("hidden_dropout", "attention_dropout"), config.dropout)
    model, processor = load_published(config.model, **dropout)
    folders = named_homes(config.data)
    known = processor.home or ", ".join(processor.homes)
    unknown = [folder.name for folder in folders if folder.name not in (processor.homes or [known])]
    table = None
    if unknown:
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
    if config.from_scratch:
        model = untrained(model, config.seed)
    return model, processor, table


def data_of(model: str) -> str:
    """Return the data that a run was trained on."""
    config = Path(model) / "config.yaml"
    if not config.is_file():
        raise ValueError(f"{model} is no run folder, whose config.yaml would name its data: give --data DIR.")
    return yaml.safe_load(config.read_text(encoding="utf-8"))["data"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser the checkpoint, `--config`, and a flag for every other setting of `FinetuneConfig`."""
    parser.description = (
        "Classify activities with an aligned checkpoint: the head alone, or all of it. Writes model/ (loads with "
        "AutoModelForSequenceClassification) and results.json. Settings may come from a YAML file; flags go on top."
    )
    parser.epilog = (
        "examples:\n  casita finetune runs/kyoto --out runs/kyoto_full\n"
        "  casita finetune runs/kyoto --out runs/kyoto_head --mode frozen --learning-rate 1e-2\n"
        "  casita finetune runs/kyoto --out runs/few --few-shot 0.05 --seed 1\n"
        "  casita finetune runs/kyoto --out runs/scratch --from-scratch true"
    )
    parser.add_argument("model", metavar="RUN_OR_MODEL", help="a run, a model directory or a Hub id")
    parser.add_argument("--config", metavar="YAML", type=Path, help="a file with settings")
    add_setting_flags(parser, FinetuneConfig, skip=("model",))


def run(args: argparse.Namespace) -> None:
    """Run the command `casita finetune`."""
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
