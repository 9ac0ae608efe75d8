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

KEPT_CHECKPOINTS = 2  # the newest could be the one that a full disk or a bad step spoilt
_FORMER_NAMES = {"queue.groups": "queue.caption_ids", "around.": "neighbour_heads."}  # in checkpoints of 0.1
_FILES = ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "progress.json")


@dataclass
class Progress:
    """The state of a run. The place in the data order follows from `step` alone (`data/batch_sampler.py`)."""

    config: dict[str, Any]
    data: dict[str, str]  # hash of each file that the run reads
    processes: int
    total_steps: int
    step: int = 0  # optimizer steps done
    best: float | None = None  # the best value so far of the metric that chooses the model
    best_step: int | None = None
    wall_s: float = 0.0  # seconds that the run took, over all its parts, validation and checkpoints included
    unlogged: list[dict[str, float]] = field(default_factory=list)  # scalars of each step since the last logged line

    @property
    def finished(self) -> bool:
        """Return whether all steps are done."""
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
            rng_tensors = {
                f"{rank}.{name}": state for rank, rank_state in enumerate(states) for name, state in rank_state.items()
            }
            weights = accelerator.unwrap_model(model).state_dict()
            # On the CPU, each with memory of its own, as safetensors needs it
            model_tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
            try:
                save_file(model_tensors, temporary / "model.safetensors")
                save_optimizer(temporary / "optimizer.safetensors", optimizer, scheduler)
                save_file(rng_tensors, temporary / "rng.safetensors")
            except (SafetensorError, RuntimeError) as error:  # what safetensors raises on a full disk
                raise OSError(f"{folder}: could not be written ({error})") from error
            write_json(temporary / "progress.json", asdict(progress))
        for old in checkpoints(run)[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return folder


def load_checkpoint(
    config: RunConfig,
    folder: Path,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
) -> Progress:
    """Bring everything to where `folder` was written, for a run with these settings.

    Call on every rank, after `accelerator.prepare`.

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
        weights = load_file(folder / "model.safetensors")
        for former, current in _FORMER_NAMES.items():
            weights = {name.replace(former, current): tensor for name, tensor in weights.items()}
        accelerator.unwrap_model(model).load_state_dict(weights)
        load_optimizer(folder / "optimizer.safetensors", optimizer, scheduler)
        rng_tensors = load_file(folder / "rng.safetensors")
    except Exception as error:  # each library has its own for a damaged file
        raise ValueError(
            f"{folder}: damaged, or of another model ({error}). Resume from an older one or start a new run."
        ) from None
    prefix = f"{accelerator.process_index}."
    rank_state = {name.removeprefix(prefix): rng_tensors[name] for name in rng_tensors if name.startswith(prefix)}
    set_rng_state(rank_state)
    progress.config = config.as_dict()
    if folder.resolve().parent.parent != Path(config.out).resolve():
        progress.best = None  # that model lies in the other run's folder: seek the best anew
        progress.best_step = None
    return progress


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint folders of a run, oldest first."""
    return sorted((run / "train_state").glob("step_*"))


def find_checkpoint(config: RunConfig, expected: Progress) -> Path | None:
    """Return the checkpoint to go on from, None for a new run.

    Raises:
        ValueError: `out` holds an unfinished run and the settings do not resume it, or the checkpoint was trained with
            other settings or other data than `expected`.
    """
    checkpoint = _named_checkpoint(config)
    if checkpoint is None:
        return None
    saved = read_progress(checkpoint)
    differences = [
        f"{key} {saved.config.get(key)!r} -> {value!r}"
        for key, value in expected.config.items()
        if key not in MAY_CHANGE and saved.config.get(key) != value
    ]
    differences += [
        f"the content of {name}" for name, content in expected.data.items() if saved.data.get(name) != content
    ]
    if differences:
        raise ValueError(
            f"{checkpoint}: trained with other settings or data: {'; '.join(differences)}. "
            "Give another --out for a new run."
        )
    if config.resume_from_checkpoint is None and not saved.finished:
        raise ValueError(
            f"{config.out}: holds a run that stands at step {saved.step} of {saved.total_steps}. "
            "Go on with --resume-from-checkpoint last, which is the default, or give another --out."
        )
    return checkpoint


def is_finished(config: RunConfig) -> bool:
    """Return whether the checkpoint to go on from, if there is one, stands at the last step."""
    checkpoint = _named_checkpoint(config)
    return checkpoint is not None and read_progress(checkpoint).finished


def _named_checkpoint(config: RunConfig) -> Path | None:
    """Return the checkpoint that `resume_from_checkpoint` names, or the newest of `out` if it names no folder."""
    if config.resume_from_checkpoint and config.resume_from_checkpoint != "last":
        return Path(config.resume_from_checkpoint)
    saved = checkpoints(Path(config.out))
    return saved[-1] if saved else None


def read_progress(folder: Path) -> Progress:
    """Return the state of the run at a checkpoint; `ValueError` when the folder is not a whole checkpoint."""
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder}: no whole checkpoint, {', '.join(missing)} missing. Remove it or name another folder."
        )
    try:
        return Progress(**read_json(folder / "progress.json"))
    except TypeError as error:
        raise ValueError(f"{folder}/progress.json: written by another version of casita ({error}).") from None
