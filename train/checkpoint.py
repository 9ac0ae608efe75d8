"""Checkpoints that resume exactly, and the published model directory.

    RUN/train_state/step_00000500/   model.safetensors  optimizer.safetensors  rng.safetensors  progress.json
    RUN/model/                       what AutoModel and AutoProcessor load, the best model so far

Every folder is whole or absent, and safetensors and JSON throughout: nothing that is loaded can run code. Functions
that all processes must call together say "call on every rank".
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.utils import logging as progress_bar

from casita.files import read_json, write_beside, write_json
from casita.model_cards.model_tree import evaluation_record
from casita.model_cards.render import render_model_card
from casita.modeling.modeling_casita import (
    CasitaForMaskedEventModeling,
    CasitaForSequenceClassification,
    CasitaModel,
)
from casita.modeling.pipeline_casita import add_pipelines
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.config import MAY_CHANGE, RunConfig
from casita.train.optimizer_state import load_optimizer, save_optimizer
from casita.train.randomness import rng_state, set_rng_state

KEEP = 2  # checkpoints: the newest could be the one that a full disk or a bad step spoilt
_FILES = ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "progress.json")
# What a published directory can be loaded as; a class whose head was not trained gets a new one, with a warning.
AUTO_CLASSES = {
    "AutoModel": CasitaModel,
    "AutoModelForMaskedLM": CasitaForMaskedEventModeling,
    "AutoModelForSequenceClassification": CasitaForSequenceClassification,
}


@dataclass
class Progress:
    """Where a run stands. The place in the data order follows from `step` alone (see `casita.train.data.Batches`)."""

    config: dict[str, Any]
    data: dict[str, str]  # hash of each file that the run reads
    processes: int
    total_steps: int
    step: int = 0  # optimizer steps done
    best: float | None = None  # of what validation tells, the number that chooses the model
    best_step: int | None = None
    wall_s: float = 0.0  # seconds that the run took, over all its parts, validation and checkpoints included
    unlogged: list[dict[str, float]] = field(default_factory=list)  # what each step since the last logged line told

    @property
    def finished(self) -> bool:
        return self.step >= self.total_steps


def save_checkpoint(
    run: Path,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    progress: Progress,
) -> Path:
    """Write `run/train_state/step_...` and drop all but the newest two. Call on every rank; rank 0 writes.

    Raises:
        OSError: it could not be written, the disk being full, say; older checkpoints are as they were.
    """
    folder = run / "train_state" / f"step_{progress.step:08d}"
    states = gather_object([rng_state()])  # every rank's dropout has its own random numbers
    if accelerator.is_main_process:
        with write_beside(folder) as temporary:
            temporary.mkdir()
            named = {f"{rank}.{name}": state for rank, each in enumerate(states) for name, state in each.items()}
            try:
                save_file(_tensors(accelerator, model), temporary / "model.safetensors")
                save_optimizer(temporary / "optimizer.safetensors", optimizer, scheduler)
                save_file(named, temporary / "rng.safetensors")
            except (SafetensorError, RuntimeError) as error:  # what these two make of a full disk
                raise OSError(f"{folder}: could not be written ({error})") from error
            write_json(temporary / "progress.json", asdict(progress))
        for old in checkpoints(run)[:-KEEP]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return folder


def load_checkpoint(
    folder: Path, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler
) -> Progress:
    """Bring everything to where `folder` was written. Call on every rank, after `accelerator.prepare`.

    Raises:
        ValueError: the checkpoint is incomplete, of another architecture, or of another number of processes.
    """
    progress = read_progress(folder)
    if progress.processes != accelerator.num_processes:
        raise ValueError(
            f"{folder}: written by {progress.processes} processes, here are {accelerator.num_processes}. Start as "
            "many: dropout would differ."
        )
    try:
        accelerator.unwrap_model(model).load_state_dict(load_file(folder / "model.safetensors"))
        load_optimizer(folder / "optimizer.safetensors", optimizer, scheduler)
        rng = load_file(folder / "rng.safetensors")
    except Exception as error:  # each library has its own for a damaged file
        raise ValueError(
            f"{folder}: damaged, or of another model ({error}). Resume from an older one or start a new run."
        ) from None
    set_rng_state(
        {name.split(".")[1]: s for name, s in rng.items() if name.startswith(f"{accelerator.process_index}.")}
    )
    return progress


def checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    return sorted((run / "train_state").glob("step_*"))


def find_checkpoint(config: RunConfig, wanted: Progress) -> Path | None:
    """The checkpoint to go on from, None for a new run.

    Raises:
        ValueError: `out` holds an unfinished run and nobody asked to resume it, or the checkpoint was trained with
            other settings or other data than `wanted`.
    """
    found = checkpoints(Path(config.out))
    if config.resume_from_checkpoint in (None, "last"):
        checkpoint = found[-1] if found else None
    else:
        checkpoint = Path(config.resume_from_checkpoint or "")
    if checkpoint is None:
        return None
    was = read_progress(checkpoint)
    differs = [
        f"{key} {was.config.get(key)!r} -> {value!r}"
        for key, value in wanted.config.items()
        if key not in MAY_CHANGE and was.config.get(key) != value
    ]
    differs += [f"the content of {name}" for name, content in wanted.data.items() if was.data.get(name) != content]
    if differs:
        raise ValueError(
            f"{checkpoint}: trained with other settings or data: {'; '.join(differs)}. "
            "Give another --out for a new run."
        )
    if config.resume_from_checkpoint is None and not was.finished:
        raise ValueError(
            f"{config.out}: holds a run that stands at step {was.step} of {was.total_steps}. "
            "Go on with --resume_from_checkpoint last, which is the default, or give another --out."
        )
    return checkpoint


def resume(config: RunConfig, checkpoint: Path, *trained: Any) -> Progress:
    """`load_checkpoint` for a run with these settings; `trained` as it takes them. Call on every rank."""
    progress = load_checkpoint(checkpoint, *trained)
    progress.config = config.as_dict()
    if checkpoint.resolve().parent.parent != Path(config.out).resolve():
        progress.best = progress.best_step = None  # that model lies in the other run's folder: seek the best anew
    return progress


def read_progress(folder: Path) -> Progress:
    """Where the run stood at a checkpoint; a `ValueError` when the folder is not a whole checkpoint."""
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder}: no whole checkpoint, {', '.join(missing)} missing. Remove it or name another folder."
        )
    try:
        return Progress(**read_json(folder / "progress.json"))
    except TypeError as error:
        raise ValueError(f"{folder}/progress.json: written by another version of casita ({error}).") from None


def publish(
    model: nn.Module,
    processor: CasitaProcessor,
    table: SensorEmbeddingTable | None,
    out: Path,
    training: dict[str, Any],
) -> Path:
    """Write `out/model`, which `AutoModel` and `AutoProcessor` load without casita. Call on every rank; rank 0 writes.

    `model` is the bare one (not wrapped for distribution), `training` what the card tells of the run.
    """
    assert isinstance(model, CasitaModel)
    folder = out / "model"
    if PartialState().is_main_process:
        # A save names the saved class only; the others read the same weights.
        model.config.auto_map = {auto: f"modeling_casita.{cls.__name__}" for auto, cls in AUTO_CLASSES.items()}
        with code_travels(model, processor), write_beside(folder) as temporary:
            add_pipelines(model.config, temporary)
            progress_bar.disable_progress_bar()  # a second one amid that of the training
            model.save_pretrained(temporary)
            progress_bar.enable_progress_bar()
            processor.save_pretrained(temporary)
            if table is not None:
                table.save(temporary / "sensor_embeddings.safetensors")
            write_json(temporary / "training.json", training)
            write_card(temporary, results=None)
    PartialState().wait_for_everyone()
    return folder


@contextmanager
def code_travels(model: CasitaModel, processor: CasitaProcessor) -> Iterator[None]:
    """Within it a save copies the code beside the weights: transformers keeps that wish on the classes themselves."""
    told: dict[Any, str] = {type(model.config): "AutoConfig", type(processor): "AutoProcessor"}
    told |= {cls: auto_class for auto_class, cls in AUTO_CLASSES.items()}
    for cls, auto_class in told.items():
        cls.register_for_auto_class(auto_class)
    try:
        yield
    finally:
        for cls in told:
            cls._auto_class = None


def load_published(run: Path | str, **changed: Any) -> tuple[CasitaModel, CasitaProcessor]:
    """Model and processor of a run folder, a model directory, or a Hub id, ready for inference on the CPU.

    `changed` are settings of the model's configuration, dropout say.
    """
    source = published(run)
    return CasitaModel.from_pretrained(source, **changed).eval(), CasitaProcessor.from_pretrained(source)


def published(run: Path | str) -> str:
    """The model directory of a run folder; a model directory or a Hub id as it is."""
    inside = Path(run) / "model"
    source = str(inside if inside.is_dir() else run)
    if Path(run).is_dir() and not (Path(source) / "config.json").is_file():
        raise FileNotFoundError(
            f"{source}/config.json: no such file, so {run} is neither a run nor a model directory."
        )
    return source


def note_wall_time(run: Path, wall_s: float) -> None:
    """Note beside the published model how long the whole run took. Call on every rank; rank 0 writes."""
    facts = run / "model" / "training.json"
    if PartialState().is_main_process and facts.is_file():
        write_json(facts, {**read_json(facts), "wall_s": round(wall_s, 1)})


def write_card(model_directory: Path, results: dict[str, Any] | None) -> None:
    """Write the README.md of a published model from the files beside it and, once there are any, its results."""
    config, processor, training = (
        read_json(model_directory / name) for name in ("config.json", "processor_config.json", "training.json")
    )
    with write_beside(model_directory / "README.md") as temporary:
        temporary.write_text(render_model_card(config, processor, training, results), encoding="utf-8")
    if results is not None:  # a release asks for the evaluation of these very weights
        write_json(model_directory / "evaluation.json", evaluation_record(model_directory, results))


def _tensors(accelerator: Accelerator, model: nn.Module) -> dict[str, torch.Tensor]:
    """The bare model's state on the CPU, each tensor with memory of its own, as safetensors asks."""
    state = accelerator.unwrap_model(model).state_dict()
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
