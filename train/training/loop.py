"""The loop of every training: data, model, resume, step after step, validation, checkpoints, publishing.

What is trained on what is a `TrainingTask`: captions (casita.train.align) or activities (casita.train.finetune).
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, set_seed
from torch import nn
from torch.optim import AdamW

from casita.files import locked
from casita.train.configs.train_config import RunConfig
from casita.train.data.loaders import BatchLoader
from casita.train.inference.model_directory import note_wall_time, publish
from casita.train.training.checkpoint import Progress, find_checkpoint, read_progress, resume, save_checkpoint
from casita.train.training.model import make_scheduler
from casita.train.training.objectives import Objective
from casita.train.training.run_log import RunLogger, card_facts, describe_end, describe_run
from casita.train.training.signals import SignalHandler
from casita.train.training.step import TrainingStep, steps_an_epoch, total_steps


class TrainingTask(Protocol):
    """What a run learns, for `run_training`.

    Attributes:
        command: what a person typed, for messages.
        splits: `train` and `validation`.
        processor, table: what is published beside the model.
        best_by: the number of `Objective.validate` that chooses the model: the lowest loss, or the highest of others.
    """

    command: str
    splits: dict[str, Any]
    processor: Any
    table: Any
    primary_metric: str

    def fingerprint(self) -> dict[str, str]:
        """A hash of each thing that the run reads, by name."""

    def feed(self, device: torch.device, rank: int, ranks: int) -> BatchLoader:
        """The batches of the train windows."""

    def model(self, fresh: bool) -> nn.Module:
        """What is trained; drawn weights follow from torch's seed. `fresh`: no checkpoint's are loaded after."""

    def groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The optimizer's parameter groups."""

    def objective(self, accelerator: Accelerator, model: nn.Module) -> Objective:
        """The loss; `model` is as `accelerator.prepare` gave it."""

    def told(self) -> str:
        """Lines about data and model, for people."""

    def facts(self) -> dict[str, Any]:
        """What the card tells beside `card_facts`."""


def run_training(config: RunConfig, lesson: TrainingTask) -> Path:
    """Train as `config` says and return the run folder; a finished run is left as it is. Call on every rank.

    Raises:
        ValueError: settings that do not fit the data, or a checkpoint that does not fit the settings.
    """
    accelerator = make_accelerator(config)
    signals = SignalHandler(accelerator)
    finished = train_lesson(config, lesson, accelerator, signals)
    # What holds the model must be gone before the process group: torch's wrapper for distribution, freed as the last
    # one to hold the group, waits for the group's threads without releasing Python's lock, which one of them may need.
    accelerator.free_memory()
    gc.collect()
    accelerator.end_training()
    if not finished:
        signals.leave()
    return Path(config.out)


def train_lesson(config: RunConfig, lesson: TrainingTask, accelerator: Accelerator, signals: SignalHandler) -> bool:
    """What `run_training` does from data to the last checkpoint: whether all steps are done. Call on every rank."""
    run = Path(config.out)
    feed = lesson.feed(accelerator.device, accelerator.process_index, accelerator.num_processes)
    an_epoch, a_step = steps_an_epoch(config, feed), feed.size * config.gradient_accumulation_steps
    progress = Progress(config.as_dict(), lesson.fingerprint(), accelerator.num_processes, total_steps(config, feed))
    checkpoint = find_checkpoint(config, progress)
    if checkpoint is not None and read_progress(checkpoint).finished:
        accelerator.print(f"{run}: this run is finished, all {progress.total_steps} steps. Nothing to do.")
        return True

    set_seed(config.seed)  # the same weights on every rank
    trained = lesson.model(fresh=checkpoint is None)
    accelerator.print(lesson.told(), describe_run(a_step, trained, progress, accelerator), sep="\n")
    optimizer: Any = AdamW(lesson.groups(trained), config.learning_rate, (config.adam_beta1, config.adam_beta2))
    scheduler = make_scheduler(config, optimizer, progress.total_steps)
    trained, optimizer = accelerator.prepare(trained, optimizer)
    set_seed(config.seed, device_specific=True)  # another dropout on each rank
    if checkpoint is not None:
        progress = resume(config, checkpoint, accelerator, trained, optimizer, scheduler)

    trainer = TrainingStep(config, lesson.objective(accelerator, trained), optimizer, scheduler)
    card = card_facts(config, lesson.splits, accelerator) | lesson.facts()
    told = partial(trainer.told_step, feed)
    with (
        only_run(run, accelerator, lesson.command),
        signals,
        RunLogger(run, config, accelerator, progress, told) as journal,
    ):
        for step_batches in trainer.steps(feed, progress):
            journal.count(trainer.train_step(step_batches), a_step)
            progress.step += 1
            stop = signals.came(progress.step)
            if due(config.log_every, progress):
                journal.log_training(float(scheduler.get_last_lr()[0]), progress.step / an_epoch)
            if due(config.eval_every or an_epoch, progress):
                journal.check()
                found = validate(trainer, lesson, journal, progress)
                if found:
                    facts = card | {"step": progress.step, **found}
                    publish(trainer.bare, lesson.processor, lesson.table, run, facts)
                journal.rest()
            if stop or due(config.save_every or an_epoch, progress):
                journal.check()
                save_checkpoint(run, accelerator, trained, optimizer, scheduler, progress)
                journal.rest()
            if stop and not progress.finished:
                break
        if progress.finished:
            note_wall_time(run, progress.wall_s)
        accelerator.print(describe_end(run, progress, lesson.primary_metric))
    return progress.finished


@contextmanager
def only_run(run: Path, accelerator: Accelerator, command: str) -> Iterator[None]:
    """Within it no other command writes `run`; the main process holds the lock for all."""
    with locked(run, command) if accelerator.is_main_process else nullcontext():
        yield


def validate(
    trainer: TrainingStep, lesson: TrainingTask, journal: RunLogger, progress: Progress
) -> dict[str, Any] | None:
    """What the card tells of the validation, if the model is to be published: the best; without windows to validate
    on, the last. Call on every rank.
    """
    split = lesson.splits["validation"]
    if not len(split):
        return {"validation": None} if progress.finished else None
    found = trainer.objective.validate(split)
    best = keep_if_best(progress, found[lesson.primary_metric], lower=lesson.primary_metric == "loss")
    journal.log_validation(found, best)
    return {"validation": found} if best else None


def make_accelerator(config: RunConfig) -> Accelerator:
    """Accelerate for these settings; a tracker that is not installed is an error, not a silence."""
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


def due(every: int, progress: Progress) -> bool:
    """Whether something that happens `every` so many steps, and at the end, happens now."""
    return progress.step % every == 0 or progress.finished


def keep_if_best(progress: Progress, value: float, lower: bool) -> bool:
    """Note a validation's number that is better than all before."""
    if progress.best is not None and (value >= progress.best if lower else value <= progress.best):
        return False
    progress.best, progress.best_step = value, progress.step
    return True
