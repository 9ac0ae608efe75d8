"""Align windows of sensor events with their captions: contrastive training under Accelerate, on one process or many.

accelerate launch -m casita.train.align --config demo.yaml --data homes/synthetic --out runs/demo
torchrun --nproc-per-node 2 -m casita.train.align ...      (two processes on CPUs: accelerate launch would start one)
"""

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.tracking import get_available_trackers
from accelerate.utils import ProjectConfiguration, set_seed
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LRScheduler
from tqdm import tqdm

from casita import cli
from casita.datasets_scripts.schema import HomeFolder
from casita.modeling.modeling_casita import CasitaModel
from casita.train.checkpoint import Progress, checkpoints, load_checkpoint, publish, read_progress, save_checkpoint
from casita.train.config import MAY_CHANGE, TrainConfig, load_config, told_type
from casita.train.data import Batch, Batches, Split, build_processor, fingerprint, load_split, load_table
from casita.train.journal import Journal, card_facts, told_end, told_run
from casita.train.losses import ContrastiveLoss, gather, info_nce
from casita.train.metrics import retrieval_metrics
from casita.train.model import build_model, make_scheduler, parameter_groups


def train(config: TrainConfig) -> Path:
    """Train as `config` says and return the run folder; a finished run is left as it is. Call on every rank.

    Raises:
        FileNotFoundError: a stage of the home folder has not run. ValueError: settings that do not fit the data, or
        a checkpoint that does not fit the settings.
    """
    run, folder = Path(config.out), HomeFolder(config.data)
    table = load_table(folder, config)
    processor = build_processor(folder, config, table)
    splits = {split: load_split(folder, split, config, processor) for split in ("train", "validation")}

    accelerator = make_accelerator(config)
    batches = Batches(
        len(splits["train"]), config.batch_size, config.seed, accelerator.process_index, accelerator.num_processes
    )
    progress = Progress(
        config.as_dict(), fingerprint(folder, config, table), accelerator.num_processes, total_steps(config, batches)
    )
    checkpoint = find_checkpoint(config, progress)
    if checkpoint is not None and read_progress(checkpoint).finished:
        accelerator.print(f"{run}: this run is finished, all {progress.total_steps} steps. Nothing to do.")
        return run

    set_seed(config.seed)  # the same weights on every rank
    model: nn.Module = build_model(config, processor, table, splits["train"].texts.shape[1])
    accelerator.print(told_run(config, folder, splits, model, progress, accelerator))
    optimizer: Any = AdamW(
        parameter_groups(model, config.weight_decay), config.learning_rate, (config.adam_beta1, config.adam_beta2)
    )
    scheduler = make_scheduler(config, optimizer, progress.total_steps)
    model, optimizer = accelerator.prepare(model, optimizer)
    set_seed(config.seed, device_specific=True)  # another dropout on each rank
    if checkpoint is not None:
        progress = resume(config, checkpoint, accelerator, model, optimizer, scheduler)

    trainer = Trainer(config, accelerator, model, optimizer, scheduler)
    card = card_facts(config, folder, splits, accelerator)
    with Journal(run, config, accelerator, progress) as journal:
        for step_batches in trainer.steps(splits["train"], batches, progress):
            journal.count(trainer.train_step(step_batches))
            progress.step += 1
            if due(config.log_every, progress):
                journal.log_training(trainer.facts(), epoch=progress.step / steps_an_epoch(config, batches))
            if len(splits["validation"]) and due(config.eval_every, progress):
                found = trainer.validate(splits["validation"])
                best = keep_if_best(progress, found["loss"])
                journal.log_validation(found, best)
                if best:
                    publish(trainer.bare, processor, table, run, card | {"step": progress.step, "validation": found})
                journal.rest()
            if due(config.save_every, progress):
                save_checkpoint(run, accelerator, model, optimizer, scheduler, progress)
                journal.rest()
    if not len(splits["validation"]):
        publish(trainer.bare, processor, table, run, card | {"step": progress.step, "validation": None})
    accelerator.print(told_end(run, progress))
    accelerator.end_training()
    return run


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Accelerate for these settings; a tracker that is not installed is an error, not a silence."""
    cuda = torch.cuda.is_available() and not config.cpu
    cpu = not cuda and (config.cpu or not torch.backends.mps.is_available())  # said, or else torchrun starts no gloo
    bf16 = (cuda and torch.cuda.is_bf16_supported()) if config.bf16 == "auto" else config.bf16
    installed = [str(tracker) for tracker in get_available_trackers()]
    if config.tracker not in (None, *installed):
        raise ValueError(
            f"tracker {config.tracker!r}: installed are {', '.join(installed)}. Install it, or give --tracker none."
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


def steps_an_epoch(config: TrainConfig, batches: Batches) -> int:
    steps = len(batches) // config.gradient_accumulation_steps
    if not steps:
        raise ValueError(
            f"gradient_accumulation_steps={config.gradient_accumulation_steps}, but an epoch has only "
            f"{len(batches)} batches of {config.batch_size} windows. Give a smaller one."
        )
    return steps


def total_steps(config: TrainConfig, batches: Batches) -> int:
    """Optimizer steps of the whole run: what the schedule is sized for."""
    steps = steps_an_epoch(config, batches) * config.epochs
    return min(steps, config.max_steps or steps)


def due(every: int, progress: Progress) -> bool:
    """Whether something that happens `every` so many steps, and at the end, happens now."""
    return progress.step % every == 0 or progress.finished


def keep_if_best(progress: Progress, loss: float) -> bool:
    """Note a validation loss that is lower than all before."""
    if progress.best_loss is not None and loss >= progress.best_loss:
        return False
    progress.best_loss, progress.best_step = loss, progress.step
    return True


def find_checkpoint(config: TrainConfig, wanted: Progress) -> Path | None:
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
            "Go on with --resume_from_checkpoint last, or give another --out."
        )
    return checkpoint


def resume(config: TrainConfig, checkpoint: Path, *trained: Any) -> Progress:
    """`load_checkpoint` for a run with these settings; `trained` as it takes them. Call on every rank."""
    progress = load_checkpoint(checkpoint, *trained)
    progress.config = config.as_dict()
    if checkpoint.resolve().parent.parent != Path(config.out).resolve():
        progress.best_loss = progress.best_step = None  # that model lies in the other run's folder: seek the best anew
    return progress


class Trainer:
    """Model, optimizer and what they do in one step. All methods: call on every rank."""

    def __init__(
        self, config: TrainConfig, accelerator: Accelerator, model: nn.Module, optimizer: Any, scheduler: LRScheduler
    ):
        self.config, self.accelerator = config, accelerator
        self.model, self.optimizer, self.scheduler = model, optimizer, scheduler
        self.bare: CasitaModel = accelerator.unwrap_model(model)
        self.contrast = ContrastiveLoss()
        self.gradient_norm: Any = 0.0

    def steps(self, split: Split, batches: Batches, progress: Progress) -> Iterator[list[Batch]]:
        """The batches of each optimizer step from `progress.step` to the end, over the epochs."""
        each = self.config.gradient_accumulation_steps
        per_epoch = steps_an_epoch(self.config, batches)
        while not progress.finished:
            epoch, done = divmod(progress.step, per_epoch)
            captions = split.choose_captions(self.config.seed, epoch)
            windows = batches.epoch(epoch, start=done * each)
            for _ in range(done, min(per_epoch, done + progress.total_steps - progress.step)):
                rows = [next(windows) for _ in range(each)]
                yield [split.batch(row, captions[row], self.accelerator.device) for row in rows]

    def train_step(self, step_batches: list[Batch]) -> Tensor:
        """One optimizer step over the batches of one step; the mean loss of this rank's rows, a scalar."""
        self.model.train()
        losses = []
        for batch in step_batches:
            with self.accelerator.accumulate(self.model):
                out = self.model(**batch.inputs, text_embeds=batch.texts)
                loss = self.contrast(out.sensor_embeds, out.text_embeds, batch.groups, self.bare.logit_scale)
                self.accelerator.backward(loss)
                losses.append(loss.detach())
                if self.accelerator.sync_gradients:
                    self.gradient_norm = self.accelerator.clip_grad_norm_(
                        self.model.parameters(), self.config.max_grad_norm
                    )
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.scheduler.step()
        with torch.no_grad():  # clamped here, not in the loss: beyond the limit the gradient would be 0 for ever
            self.bare.logit_scale.clamp_(max=math.log(self.config.max_logit_scale))
        return torch.stack(losses).mean()

    def facts(self) -> dict[str, Any]:
        """What the last step was like: `lr` of the next one, `scale`, `grad_norm` before clipping."""
        return {
            "lr": self.scheduler.get_last_lr()[0],
            "scale": float(self.bare.logit_scale.detach().exp()),
            "grad_norm": float(self.gradient_norm),
        }

    @torch.no_grad()
    def validate(self, split: Split) -> dict[str, float]:
        """`loss` over fixed batches of the training size (full ones), and recall at 1 both ways over all windows."""
        sensor, text, groups = self._embed(split)
        size = min(self.config.batch_size, len(split))
        scale = self.bare.logit_scale.exp()
        losses = []
        for rows in Batches(len(split), size, self.config.seed).epoch(0):
            s, t, g = sensor[rows], text[rows], groups[rows]
            losses.append((info_nce(s, t, g, g, scale) + info_nce(t, s, g, g, scale)) / 2)
        recall = retrieval_metrics(sensor.cpu().numpy(), text.cpu().numpy(), groups.cpu().numpy())
        return {
            "loss": float(torch.stack(losses).mean()),
            "recall_at_1_sensor_to_text": recall["sensor_to_text"]["recall_at_1"],
            "recall_at_1_text_to_sensor": recall["text_to_sensor"]["recall_at_1"],
        }

    def _embed(self, split: Split) -> tuple[Tensor, Tensor, Tensor]:
        """Unit rows `(N, P)` of windows and of captions, and caption groups `(N,)`; each rank embeds its share."""
        self.model.eval()
        n, ranks, rank = len(split), self.accelerator.num_processes, self.accelerator.process_index
        share = math.ceil(n / ranks)
        mine = np.arange(rank * share, (rank + 1) * share) % n  # the last rank's surplus wraps around
        captions = split.choose_captions(self.config.seed, 0)
        sensors, texts = [], []
        chunks = range(0, share, self.config.batch_size)
        for i in tqdm(chunks, "validating", unit="batch", leave=False, disable=not self.accelerator.is_main_process):
            rows = mine[i : i + self.config.batch_size]
            batch = split.batch(rows, captions[rows], self.accelerator.device)
            out = self.bare(**batch.inputs, text_embeds=batch.texts)
            sensors.append(out.sensor_embeds.float())
            texts.append(out.text_embeds.float())
        groups = torch.from_numpy(captions).to(self.accelerator.device)
        return gather(torch.cat(sensors))[:n], gather(torch.cat(texts))[:n], groups


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
    for setting in dataclasses.fields(TrainConfig):
        told = setting.metadata["help"].replace("%", "%%")
        if setting.default is not dataclasses.MISSING:
            told += f" ({told_type(setting.type)}; default {'none' if setting.default is None else setting.default})"
        parser.add_argument(f"--{setting.name}", default=argparse.SUPPRESS, metavar="X", help=told)


def run(args: argparse.Namespace) -> None:
    """The command `casita train`."""
    names = {setting.name for setting in dataclasses.fields(TrainConfig)}
    train(load_config(args.config, {name: value for name, value in vars(args).items() if name in names}))


if __name__ == "__main__":
    sys.exit(cli.main(["train", *sys.argv[1:]]))
