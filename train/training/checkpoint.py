"""Checkpoints that resume exactly, and the published model directory.

    RUN/train_state/step_00000500/   model.safetensors  optimizer.safetensors  rng.safetensors  progress.json
    RUN/model/                       what AutoModel and AutoProcessor load, the best model so far

Every folder is whole or absent, and safetensors and JSON throughout: nothing that is loaded can run code. Functions
that all processes must call together say "call on every rank".
"""

import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from casita.files import read_json, write_beside, write_json
from casita.train.configs.train_config import MAY_CHANGE, RunConfig
from casita.train.training.optimizer_state import load_optimizer, save_optimizer
from casita.train.training.rng import rng_state, set_rng_state

KEEP = 2  # checkpoints: the newest could be the one that a full disk or a bad step spoilt
_FILES = ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "progress.json")


@dataclass
class Progress:
    """Where a run stands. The place in the data order follows from `step` alone (`data/batch_sampler.py`)."""

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
            "Go on with --resume-from-checkpoint last, which is the default, or give another --out."
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


def _tensors(accelerator: Accelerator, model: nn.Module) -> dict[str, torch.Tensor]:
    """The bare model's state on the CPU, each tensor with memory of its own, as safetensors asks."""
    state = accelerator.unwrap_model(model).state_dict()
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
