"""One optimizer step, and the batches of all steps."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from casita.modeling.modeling_casita import CasitaModel
from casita.train.configs.train_config import RunConfig
from casita.train.data.dataset import Batch
from casita.train.data.loaders import BatchLoader
from casita.train.training.checkpoint import Progress
from casita.train.training.objectives import Objective
from casita.train.training.run_log import StepRecord


def steps_per_epoch(config: RunConfig, loader: BatchLoader) -> int:
    """Return the optimizer steps that an epoch's batches give; `ValueError` when they give none."""
    steps = len(loader) // config.gradient_accumulation_steps
    if not steps:
        raise ValueError(
            f"gradient_accumulation_steps={config.gradient_accumulation_steps}, but an epoch has only "
            f"{len(loader)} batches of {loader.size} windows. Give a smaller --gradient-accumulation-steps."
        )
    return steps


def total_steps(config: RunConfig, loader: BatchLoader) -> int:
    """Return the optimizer steps of the whole run, for which the schedule is sized."""
    steps = steps_per_epoch(config, loader) * config.epochs
    return min(steps, config.max_steps or steps)


class TrainingStep:
    """An objective with its optimizer, which make one step after the other. All methods: call on every rank."""

    def __init__(self, config: RunConfig, objective: Objective, optimizer: Any, scheduler: LRScheduler):
        self.config = config
        self.objective = objective
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.accelerator = objective.accelerator
        self.model = objective.model
        self.unwrapped_model: CasitaModel = objective.trained.model
        self.gradient_norm: Any = 0.0

    def step_batches(self, loader: BatchLoader, progress: Progress) -> Iterator[list[Batch]]:
        """Yield the batches of each optimizer step from `progress.step` to the end, over the epochs."""
        batches_per_step = self.config.gradient_accumulation_steps
        epoch_steps = steps_per_epoch(self.config, loader)
        while not progress.finished:
            epoch, done = divmod(progress.step, epoch_steps)
            batches = loader.epoch(epoch, start=done * batches_per_step)
            for _ in range(done, min(epoch_steps, done + progress.total_steps - progress.step)):
                yield list(islice(batches, batches_per_step))

    def train_step(self, step_batches: list[Batch]) -> dict[str, Tensor]:
        """Make one optimizer step over its batches and return scalars on the device, none of them waited for.

        `loss`, the mean over this rank's rows, and its parts where there are two; `grad_norm`, before clipping; and
        what `Objective.after_step` returns.
        """
        self.model.train()
        losses = []
        for batch in step_batches:
            with self.accelerator.accumulate(self.model):
                losses.append(self.objective.backward(batch))
                if self.accelerator.sync_gradients:
                    self.gradient_norm = self.accelerator.clip_grad_norm_(
                        self.model.parameters(), self.config.max_grad_norm
                    )
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.scheduler.step()
        means = {name: torch.stack([batch_losses[name] for batch_losses in losses]).mean() for name in losses[0]}
        return {**means, **self.objective.after_step(), "grad_norm": self.gradient_norm}

    def describe_step(self, loader: BatchLoader, step: int) -> StepRecord:
        """Return learning rate and window ids (all ranks', batch by batch) of step `step`, which counts from 1."""
        batches_per_step = self.config.gradient_accumulation_steps
        epoch, done = divmod(step - 1, steps_per_epoch(self.config, loader))
        rates = [rate(step - 1) for rate in getattr(self.scheduler, "lr_lambdas", [])]
        return {
            "lr": self.config.learning_rate * rates[0] if rates else None,
            "windows": [loader.window_ids(epoch, done * batches_per_step + i) for i in range(batches_per_step)],
        }
