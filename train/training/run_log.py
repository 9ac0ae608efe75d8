"""What a run tells: a progress bar, `metrics.jsonl`, the tracker, its first and last lines, and facts for its card."""

import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from casita import __version__
from casita.files import write_beside, write_json
from casita.train.configs.train_config import RunConfig, save_config
from casita.train.data.dataset import WindowDataset
from casita.train.training.checkpoint import Progress, checkpoints

TOLD = {  # on the console, beside the loss
    "recall_at_1_sensor_to_text": "R@1 sensor to text",
    "recall_at_1_text_to_sensor": "R@1 text to sensor",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
}


class RunLogger:
    """What a run tells while it runs: a progress bar, `metrics.jsonl`, the tracker. Call its methods on every rank.

    `told_step(step)` gives what is worth keeping of a step that went wrong.
    """

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        accelerator: Accelerator,
        progress: Progress,
        told_step: Callable[[int], dict[str, Any]],
    ):
        self.run, self.config, self.accelerator, self.progress = run, config, accelerator, progress
        self.told_step = told_step
        self.path = run / "metrics.jsonl"
        self.main = accelerator.is_main_process
        self.unread: list[dict[str, Tensor]] = []
        self.timed_windows = 0

    def __enter__(self) -> "RunLogger":
        if self.main:
            self.run.mkdir(parents=True, exist_ok=True)
            save_config(self.config, self.run / "config.yaml")
            _keep_lines(self.path, self.progress.step)
        if self.config.tracker:
            plain = {key: value for key, value in self.config.as_dict().items() if value is not None}
            named = {"name": self.run.resolve().name, "resume": "allow"}
            self.accelerator.init_trackers("casita", config=plain, init_kwargs={"trackio": named, "wandb": named})
        self.bar = tqdm(
            total=self.progress.total_steps,
            initial=self.progress.step,
            desc="training",
            unit="step",
            disable=not self.main,
        )
        self.clock = time.perf_counter()
        self.rest()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def count(self, told: dict[str, Tensor], windows: int) -> None:
        """Note one step's scalars, on their device: reading them here would make every step wait for the last."""
        self.unread.append(told)
        self.timed_windows += windows
        self.bar.update()

    def rest(self) -> None:
        """What was done until now, a validation say, was no training: the speed is taken anew."""
        self.timed_windows, self.since = 0, time.perf_counter()

    def check(self) -> None:
        """Read what the steps told, and the clock; `ValueError` at the first that was no number. Call it before
        anything is saved.

        That step's numbers and windows are then in `nonfinite_step_N.json`.
        """
        now = time.perf_counter()
        self.progress.wall_s, self.clock = self.progress.wall_s + now - self.clock, now
        if not self.unread:
            return
        names = list(self.unread[0])
        told = torch.stack([torch.stack([step[name].float() for name in names]) for step in self.unread])
        rows = self.accelerator.reduce(told, "mean").tolist()
        for step, row in enumerate(rows, start=self.progress.step - len(rows) + 1):
            if not all(map(math.isfinite, row)):
                self._stop(step, dict(zip(names, row, strict=True)))
        self.progress.unlogged += [dict(zip(names, row, strict=True)) for row in rows]
        self.unread = []

    def _stop(self, step: int, told: dict[str, float]) -> None:
        path = self.run / f"nonfinite_step_{step}.json"
        if self.main:
            plain = {name: value if math.isfinite(value) else str(value) for name, value in told.items()}
            write_json(path, {"step": step, **plain, **self.told_step(step)})
        self.accelerator.wait_for_everyone()
        saved = checkpoints(self.run)
        raise ValueError(
            f"step {step}: the loss is {told['loss']}, its gradient {told['grad_norm']}. The batch's windows are in "
            f"{path}; {saved[-1].name + ' is the last checkpoint' if saved else 'there is no checkpoint yet'}. "
            "Look at those windows, lower learning_rate, or give --bf16 false, with another --out."
        )

    def log_training(self, lr: float, epoch: float) -> None:
        """A line with the mean losses since the last one, and what else the last step told (scale, gradient norm)."""
        self.check()
        steps = self.progress.unlogged
        losses = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0] if "loss" in name}
        last = {name: value for name, value in steps[-1].items() if name not in losses}
        speed = round(self.timed_windows / (time.perf_counter() - self.since), 1)
        self._write({"epoch": round(epoch, 4), "split": "train", **losses, "lr": lr, **last, "windows_per_s": speed})
        self.bar.set_postfix_str(f"loss {losses['loss']:.3f}, {speed:,.0f} windows/s")
        self.progress.unlogged = []
        self.rest()

    def log_validation(self, found: dict[str, float], best: bool) -> None:
        """A line of `metrics.jsonl` and one of the console; `best`: this model is the one to keep so far."""
        self._write({"split": "validation", **found})
        if self.main:
            shares = "".join(f", {told} {found[name]:.1%}" for name, told in TOLD.items() if name in found)
            told = f"step {self.progress.step}: validation loss {found['loss']:.4f}{shares}"
            tqdm.write(told + (" (best so far)" if best else ""))

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
    lines = [line for line in lines if line.endswith("\n")]  # a full disk or a kill may have cut the last one
    with write_beside(path) as temporary:
        temporary.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")


def card_facts(config: RunConfig, splits: dict[str, WindowDataset], accelerator: Accelerator) -> dict[str, Any]:
    """What the model card tells of any training, but for the step and the validation."""
    return {
        "home": ", ".join(splits["train"].home_names),
        "windows": {name: len(split) for name, split in splits.items()},
        "config": config.as_dict(),
        "processes": accelerator.num_processes,
        "device": accelerator.device.type,
        "device_name": _device_name(accelerator),
        "precision": _precision(accelerator),
        "versions": {"casita": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
    }


def _device_name(accelerator: Accelerator) -> str:
    """The graphics card's name; of a CPU its kind and the threads that a process uses."""
    if accelerator.device.type == "cuda":
        return torch.cuda.get_device_name(accelerator.device)
    if accelerator.device.type == "cpu":
        return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return accelerator.device.type


def describe_run(windows: int, model: nn.Module, progress: Progress, accelerator: Accelerator) -> str:
    """The line that a run begins with, after what is told of its data; `windows` are those of a step."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return (
        f"{trained:,} trained parameters, {progress.total_steps:,} steps of {windows:,} windows on "
        f"{accelerator.num_processes} x {accelerator.device.type}, {_precision(accelerator)}"
    )


def _precision(accelerator: Accelerator) -> str:
    return "bfloat16" if accelerator.mixed_precision == "bf16" else "float32"


def describe_end(run: Path, progress: Progress, primary_metric: str) -> str:
    """The line that a run ends with, at its end or before; `primary_metric` names what chose the model."""
    if not progress.finished:
        return (
            f"interrupted: {run} stands at step {progress.step} of {progress.total_steps}, and is saved. Go on: run "
            "the same command with --resume-from-checkpoint last, which is the default"
        )
    if progress.best_step is None:
        return f"done: {run / 'model'} is the model after {progress.step} steps (there are no validation windows)"
    told = f"{TOLD.get(primary_metric, primary_metric)} {progress.best:.4f}"
    return f"done: {run / 'model'} is the model of step {progress.best_step}, validation {told}"
