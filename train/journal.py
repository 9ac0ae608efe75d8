"""What a run tells: a progress bar, `metrics.jsonl`, the tracker, its first and last lines, and facts for its card."""

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from casita import __version__
from casita.datasets_scripts.schema import HomeFolder
from casita.files import write_beside
from casita.train.checkpoint import Progress
from casita.train.config import TrainConfig, save_config
from casita.train.data import Split


class Journal:
    """What a run tells while it runs: a progress bar, `metrics.jsonl`, the tracker. Call its methods on every rank."""

    def __init__(self, run: Path, config: TrainConfig, accelerator: Accelerator, progress: Progress):
        self.run, self.config, self.accelerator, self.progress = run, config, accelerator, progress
        self.path = run / "metrics.jsonl"
        self.main = accelerator.is_main_process
        self.losses: list[Tensor] = []
        self.timed_steps = 0

    def __enter__(self) -> "Journal":
        if self.main:
            self.run.mkdir(parents=True, exist_ok=True)
            save_config(self.config, self.run / "config.yaml")
            _keep_lines(self.path, self.progress.step)
        if self.config.tracker:
            plain = {key: value for key, value in self.config.as_dict().items() if value is not None}
            self.accelerator.init_trackers("train", config=plain)
        self.bar = tqdm(
            total=self.progress.total_steps,
            initial=self.progress.step,
            desc="training",
            unit="step",
            disable=not self.main,
        )
        self.rest()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def count(self, loss: Tensor) -> None:
        """Note one step's loss, on its device: reading it here would make every step wait for the last."""
        self.losses.append(loss)
        self.timed_steps += 1
        self.bar.update()

    def rest(self) -> None:
        """What was done until now, a validation say, was no training: the speed is taken anew."""
        self.timed_steps, self.since = 0, time.perf_counter()

    def log_training(self, facts: dict[str, float], epoch: float) -> None:
        """A line with the mean loss since the last one; `ValueError` when that is no number."""
        loss = float(self.accelerator.reduce(torch.stack(self.losses).mean(), "mean"))
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss is {loss} at step {self.progress.step}. Lower learning_rate, or give --bf16 false."
            )
        windows = self.timed_steps * self.config.batch_size * self.config.gradient_accumulation_steps
        speed = windows / (time.perf_counter() - self.since)
        self._write(
            {"epoch": round(epoch, 4), "split": "train", "loss": loss, **facts, "windows_per_s": round(speed, 1)}
        )
        self.bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} windows/s")
        self.losses = []
        self.rest()

    def log_validation(self, found: dict[str, float], best: bool) -> None:
        """A line of `metrics.jsonl` and one of the console; `best`: the lowest loss so far."""
        self._write({"split": "validation", **found})
        if self.main:
            tqdm.write(
                f"step {self.progress.step}: validation loss {found['loss']:.4f}, "
                f"R@1 {found['recall_at_1_sensor_to_text']:.1%} sensor to text, "
                f"{found['recall_at_1_text_to_sensor']:.1%} text to sensor{' (best so far)' if best else ''}"
            )

    def _write(self, line: dict[str, Any]) -> None:
        line = {"step": self.progress.step, **line}
        if self.main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self.config.tracker:
            told = {f"{line['split']}/{key}": value for key, value in line.items() if key not in ("step", "split")}
            self.accelerator.log(told, step=self.progress.step)


def _keep_lines(path: Path, step: int) -> None:
    """Drop the lines after `step`: an interrupted run had gone on beyond its last checkpoint."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    with write_beside(path) as temporary:
        temporary.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")


def card_facts(
    config: TrainConfig, folder: HomeFolder, splits: dict[str, Split], accelerator: Accelerator
) -> dict[str, Any]:
    """What the model card tells of the training, but for the step and the validation."""
    return {
        "home": folder.name,
        "windows": {name: len(split) for name, split in splits.items()},
        "captions": {name: len(split.texts) for name, split in splits.items()},
        "config": config.as_dict(),
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "precision": "bfloat16" if accelerator.mixed_precision == "bf16" else "float32",
        "versions": {"casita": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }


def told_run(
    config: TrainConfig,
    folder: HomeFolder,
    splits: dict[str, Split],
    model: nn.Module,
    progress: Progress,
    accelerator: Accelerator,
) -> str:
    """The lines that a run begins with."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    counts = ", ".join(f"{len(s):,} {name} windows with {len(s.texts):,} captions" for name, s in splits.items())
    source = config.vision_model if config.embedding_source == "image" else "learned"
    precision = "bfloat16" if accelerator.mixed_precision == "bf16" else "float32"
    return (
        f"home {folder.name}: {counts}\n"
        f"model {config.preset}, {source} rows: {trained:,} trained parameters\n"
        f"{progress.total_steps:,} steps of {config.batch_size * config.gradient_accumulation_steps:,} windows on "
        f"{accelerator.num_processes} x {accelerator.device.type}, {precision}"
    )


def told_end(run: Path, progress: Progress) -> str:
    """The line that a run ends with."""
    if progress.best_step is None:
        return f"done: {run / 'model'} is the model after {progress.step} steps (there are no validation windows)"
    return f"done: {run / 'model'} is the model of step {progress.best_step}, validation loss {progress.best_loss:.4f}"
