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


def steps_an_epoch(config: RunConfig, feed: BatchLoader) -> int:
    """Optimizer steps that an epoch's batches give; `ValueError` when they give none."""
    steps = len(feed) // config.gradient_accumulation_steps
    if not steps:
        raise ValueError(
            f"gradient_accumulation_steps={config.gradient_accumulation_steps}, but an epoch has only "
            f"{len(feed)} batches of {feed.size} windows. Give a smaller one."
        )
    return steps


def total_steps(config: RunConfig, feed: BatchLoader) -> int:
    """Optimizer steps of the whole run: what the schedule is sized for."""
    steps = steps_an_epoch(config, feed) * config.epochs
    return min(steps, config.max_steps or steps)


class TrainingStep:
    """An objective, its optimizer and what they do in one step. All methods: call on every rank."""

    def __init__(self, config: RunConfig, objective: Objective, optimizer: Any, scheduler: LRScheduler):
        self.config, self.objective, self.optimizer, self.scheduler = config, objective, optimizer, scheduler
        self.accelerator, self.model = objective.accelerator, objective.model
        self.bare: CasitaModel = objective.trained.model
        self.gradient_norm: Any = 0.0

    def steps(self, feed: BatchLoader, progress: Progress) -> Iterator[list[Batch]]:
        """The batches of each optimizer step from `progress.step` to the end, over the epochs."""
        each = self.config.gradient_accumulation_steps
        per_epoch = steps_an_epoch(self.config, feed)
        while not progress.finished:
            epoch, done = divmod(progress.step, per_epoch)
            batches = feed.epoch(epoch, start=done * each)
            for _ in range(done, min(per_epoch, done + progress.total_steps - progress.step)):
                yield list(islice(batches, each))

    def train_step(self, step_batches: list[Batch]) -> dict[str, Tensor]:
        """One optimizer step over the batches of one step: scalars on the device, none of them waited for.

        `loss`, the mean over this rank's rows, and its parts where there are two; `grad_norm`, before clipping; and
        what the objective tells after the step.
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
        means = {name: torch.stack([each[name] for each in losses]).mean() for name in losses[0]}
        return {**means, **self.objective.after_step(), "grad_norm": self.gradient_norm}

    def told_step(self, feed: BatchLoader, step: int) -> dict[str, Any]:
        """Of step `step`, which counts from 1: its learning rate, and the window ids of its batches, all ranks'."""
        each = self.config.gradient_accumulation_steps
        epoch, done = divmod(step - 1, steps_an_epoch(self.config, feed))
        rates = [rate(step - 1) for rate in getattr(self.scheduler, "lr_lambdas", [])]
        return {
            "lr": self.config.learning_rate * rates[0] if rates else None,
            "windows": [feed.window_ids(epoch, done * each + i) for i in range(each)],
        }
