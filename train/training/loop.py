"""The loop of every training: data, model, resume, step after step, validation, checkpoints, publishing.

A `TrainingTask` says what is learned, its `TrainingData` from which windows: captions (casita.train.align) or
activities (casita.train.finetune).
"""

import gc
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, set_seed
from torch import nn
from torch.optim import AdamW

from casita.files import locked
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.configs.train_config import RunConfig
from casita.train.data.dataset import WindowDataset
from casita.train.data.loaders import BatchLoader
from casita.train.data.parquet_stream import ShardedDataset
from casita.train.inference.model_directory import note_wall_time, publish
from casita.train.training.checkpoint import Progress, find_checkpoint, is_finished, load_checkpoint, save_checkpoint
from casita.train.training.model import make_scheduler
from casita.train.training.objectives import Objective
from casita.train.training.run_log import RunLogger, card_facts, describe_end, describe_run
from casita.train.training.signals import SignalHandler
from casita.train.training.step import TrainingStep, steps_per_epoch, total_steps


class TrainingData(Protocol):
    """The windows of a run; its methods may be called in any order.

    Attributes:
        validation: the windows to choose the model on.
        processor, table: what is published beside the model.
    """

    validation: WindowDataset
    processor: CasitaProcessor
    table: SensorEmbeddingTable | None

    @property
    def train(self) -> WindowDataset | ShardedDataset:
        """Windows to learn from."""

    def fingerprint(self) -> dict[str, str]:
        """Return a hash of each thing that the run reads, by name."""

    def loader(self, device: torch.device, rank: int, ranks: int) -> BatchLoader:
        """Return the batches of the train windows for one of `ranks` processes."""

    def describe(self) -> str:
        """Return a line about the windows, for people."""

    def card_facts(self) -> dict[str, Any]:
        """Return what the card says of the windows beside `run_log.card_facts`."""


class TrainingTask(Protocol):
    """The task of a run; its methods may be called in any order.

    Attributes:
        command: what a person typed, for messages.
        primary_metric: the number of `Objective.validate` that chooses the model: the lowest loss, or the highest of
            others.
    """

    command: ClassVar[str]
    primary_metric: ClassVar[str]

    def model(self, fresh: bool) -> nn.Module:
        """Return what is trained, drawn weights by the run's seed. `fresh`: no checkpoint's are loaded after."""

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups."""

    def objective(self, accelerator: Accelerator, model: nn.Module) -> Objective:
        """Return the loss; `model` is as `accelerator.prepare` gave it."""

    def describe(self) -> str:
        """Return a line about the model, for people."""


def run_training(config: RunConfig, task: TrainingTask, data: TrainingData) -> Path:
    """Train as `config` says and return the run folder; a finished run is left as it is. Call on every rank.

    Raises:
        ValueError: settings that do not fit the data, or a checkpoint that does not fit the settings.
    """
    accelerator = make_accelerator(config)
    signals = SignalHandler(accelerator)
    finished = train_until_stopped(config, task, data, accelerator, signals)
    # What holds the model must be gone before the process group: torch's wrapper for distribution, freed as the last
    # one to hold the group, waits for the group's threads without releasing Python's lock, which one of them may need.
    accelerator.free_memory()
    gc.collect()
    accelerator.end_training()
    if not finished:
        signals.exit_program()
    return Path(config.out)


def train_until_stopped(
    config: RunConfig, task: TrainingTask, data: TrainingData, accelerator: Accelerator, signals: SignalHandler
) -> bool:
    """Train to the last step or to a signal, and return whether all steps are done. Call on every rank."""
    run = Path(config.out)
    loader = data.loader(accelerator.device, accelerator.process_index, accelerator.num_processes)
    epoch_steps = steps_per_epoch(config, loader)
    step_windows = loader.size * config.gradient_accumulation_steps
    progress = Progress(config.as_dict(), data.fingerprint(), accelerator.num_processes, total_steps(config, loader))
    checkpoint = find_checkpoint(config, progress)
    if is_finished(config):
        accelerator.print(f"{run}: this run is finished, all {progress.total_steps} steps. Nothing to do.")
        return True

    model = task.model(fresh=checkpoint is None)
    accelerator.print(data.describe(), task.describe(), sep="\n")
    accelerator.print(describe_run(step_windows, model, progress, accelerator))
    optimizer: Any = AdamW(task.parameter_groups(model), config.learning_rate, (config.adam_beta1, config.adam_beta2))
    scheduler = make_scheduler(config, optimizer, progress.total_steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    set_seed(config.seed, device_specific=True)  # another dropout on each rank
    if checkpoint is not None:
        progress = load_checkpoint(config, checkpoint, accelerator, model, optimizer, scheduler)

    training_step = TrainingStep(config, task.objective(accelerator, model), optimizer, scheduler)
    card = card_facts(config, {"train": data.train, "validation": data.validation}, accelerator) | data.card_facts()
    describe_step = partial(training_step.describe_step, loader)
    with (
        locked(run, task.command) if accelerator.is_main_process else nullcontext(),  # for all ranks
        signals,
        RunLogger(run, config, accelerator, progress, describe_step) as logger,
    ):
        for batches in training_step.step_batches(loader, progress):
            logger.add_step(training_step.train_step(batches), step_windows)
            progress.step += 1
            stop = signals.stop_requested(progress.step)
            if is_due(config.log_every, progress):
                logger.log_training(float(scheduler.get_last_lr()[0]), progress.step / epoch_steps)
            if is_due(config.eval_every or epoch_steps, progress):
                logger.check_finite()
                validation = validate(training_step, task, data, logger, progress)
                if validation:
                    facts = card | {"step": progress.step, **validation}
                    publish(training_step.unwrapped_model, data.processor, data.table, run, facts)
                logger.restart_clock()
            if stop or is_due(config.save_every or epoch_steps, progress):
                logger.check_finite()
                save_checkpoint(run, accelerator, model, optimizer, scheduler, progress)
                logger.restart_clock()
            if stop and not progress.finished:
                break
        if progress.finished:
            note_wall_time(run, progress.wall_s)
        accelerator.print(describe_end(run, progress, task.primary_metric))
    return progress.finished


def validate(
    training_step: TrainingStep, task: TrainingTask, data: TrainingData, logger: RunLogger, progress: Progress
) -> dict[str, Any] | None:
    """Validate, and return what the card says of it if the model is to be published. Call on every rank.

    That is the best one, which `progress` notes; without windows to validate on, the last.
    """
    if not len(data.validation):
        return {"validation": None} if progress.finished else None
    metrics = training_step.objective.validate(data.validation)
    value = metrics[task.primary_metric]
    is_best = True
    if progress.best is not None:
        is_best = not (value >= progress.best if task.primary_metric == "loss" else value <= progress.best)
    if is_best:
        progress.best = value
        progress.best_step = progress.step
    logger.log_validation(metrics, is_best)
    return {"validation": metrics} if is_best else None


def make_accelerator(config: RunConfig) -> Accelerator:
    """Return Accelerate for these settings; a tracker that is not installed is an error, not a silence."""
    cuda = torch.cuda.is_available() and not config.cpu
    cpu = not cuda and (config.cpu or not torch.backends.mps.is_available())  # said, or else torchrun starts no gloo
    bf16 = (cuda and torch.cuda.is_bf16_supported()) if config.bf16 == "auto" else config.bf16
    installed = [str(tracker) for tracker in get_available_trackers()]
    if config.tracker not in (None, *installed):
        raise ValueError(
            f"tracker {config.tracker!r} is not installed; installed: {', '.join(installed) or 'none'}. "
            "pip install 'casita[tracking]' installs tensorboard, trackio and wandb; --tracker none does without."
        )
    return Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if bf16 else "no",
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=config.tracker,
        project_config=ProjectConfiguration(project_dir=config.out, logging_dir=str(Path(config.out) / "logs")),
        # The frozen table is a buffer: to send it to every rank before every step would cost more than the step.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )


def is_due(every: int, progress: Progress) -> bool:
    """Return whether something that happens `every` so many steps, and at the end, happens now."""
    return progress.step % every == 0 or progress.finished
