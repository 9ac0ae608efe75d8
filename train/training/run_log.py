"""The record of a run: progress bar, `metrics.jsonl`, tracker, its first and last lines, and facts for its card."""

import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypedDict

import torch
import transformers
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from casita import __version__
from casita.files import write_beside, write_json
from casita.train.configs.train_config import RunConfig, save_config
from casita.train.data.dataset import WindowDataset
from casita.train.data.parquet_stream import ShardedDataset
from casita.train.training.checkpoint import Progress, checkpoints

CONSOLE_METRICS = {  # names on the console, beside the loss
    "recall_at_1_sensor_to_text": "R@1 sensor to text",
    "recall_at_1_text_to_sensor": "R@1 text to sensor",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
}


class StepRecord(TypedDict):
    """A record of a step that went wrong: its learning rate, and the window ids of each of its batches."""

    lr: float | None
    windows: list[list[str]]


class RunLogger:
    """Progress bar, `metrics.jsonl` and tracker of a run. Call its methods on every rank.

    `describe_step(step)` returns what to keep of a step that went wrong.
    """

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        accelerator: Accelerator,
        progress: Progress,
        describe_step: Callable[[int], StepRecord],
    ):
        self.run = run
        self.config = config
        self.accelerator = accelerator
        self.progress = progress
        self.describe_step = describe_step
        self.path = run / "metrics.jsonl"
        self.main = accelerator.is_main_process
        self.unread_steps: list[Mapping[str, Tensor]] = []
        self.timed_windows = 0

    def __enter__(self) -> "RunLogger":
        if self.main:
            self.run.mkdir(parents=True, exist_ok=True)
            save_config(self.config, self.run / "config.yaml")
            _keep_lines(self.path, self.progress.step)
        if self.config.tracker:
            settings = {key: value for key, value in self.config.as_dict().items() if value is not None}
            options = {"name": self.run.resolve().name, "resume": "allow"}
            self.accelerator.init_trackers(
                "casita", config=settings, init_kwargs={"trackio": options, "wandb": options}
            )
        self.bar = tqdm(
            total=self.progress.total_steps,
            initial=self.progress.step,
            desc="training",
            unit="step",
            disable=not self.main,
        )
        self.clock = time.perf_counter()
        self.restart_clock()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    def add_step(self, scalars: Mapping[str, Tensor], windows: int) -> None:
        """Note one step's scalars, on their device: reading them here would make every step wait for the last."""
        self.unread_steps.append(scalars)
        self.timed_windows += windows
        self.bar.update()

    def restart_clock(self) -> None:
        """Measure the speed anew: what was done until now, a validation say, was no training."""
        self.timed_windows = 0
        self.since = time.perf_counter()

    def check_finite(self) -> None:
        """Read the scalars of the steps, and the clock. Call it before anything is saved.

        Raises:
            ValueError: a scalar is no finite number; that step's numbers and windows are then in
                `nonfinite_step_N.json`.
        """
        now = time.perf_counter()
        self.progress.wall_s += now - self.clock
        self.clock = now
        if not self.unread_steps:
            return
        names = list(self.unread_steps[0])
        scalars = torch.stack([torch.stack([step[name].float() for name in names]) for step in self.unread_steps])
        rows = self.accelerator.reduce(scalars, "mean").tolist()
        steps = [dict(zip(names, row, strict=True)) for row in rows]
        for number, values in enumerate(steps, start=self.progress.step - len(steps) + 1):
            if not all(map(math.isfinite, values.values())):
                self._stop(number, values)
        self.progress.unlogged += steps
        self.unread_steps = []

    def _stop(self, step: int, values: Mapping[str, float]) -> None:
        path = self.run / f"nonfinite_step_{step}.json"
        if self.main:
            as_json = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
            write_json(path, {"step": step, **as_json, **self.describe_step(step)})
        self.accelerator.wait_for_everyone()
        saved = checkpoints(self.run)
        raise ValueError(
            f"step {step}: the loss is {values['loss']}, its gradient {values['grad_norm']}. The batch's windows are "
            f"in {path}; {saved[-1].name + ' is the last checkpoint' if saved else 'there is no checkpoint yet'}. "
            "Look at those windows, lower --learning-rate, or give --bf16 false, with another --out."
        )

    def log_training(self, lr: float, epoch: float) -> None:
        """Write a line with the mean losses since the last one, and the last step's other scalars (scale, norm)."""
        self.check_finite()
        steps = self.progress.unlogged
        losses = {name: sum(step[name] for step in steps) / len(steps) for name in steps[0] if "loss" in name}
        last = {name: value for name, value in steps[-1].items() if name not in losses}
        speed = round(self.timed_windows / (time.perf_counter() - self.since), 1)
        self._write({"epoch": round(epoch, 4), "split": "train", **losses, "lr": lr, **last, "windows_per_s": speed})
        self.bar.set_postfix_str(f"loss {losses['loss']:.3f}, {speed:,.0f} windows/s")
        self.progress.unlogged = []
        self.restart_clock()

    def log_validation(self, metrics: Mapping[str, float], is_best: bool) -> None:
        """Write a line of `metrics.jsonl` and one of the console; `is_best`: this model is the one to keep so far."""
        self._write({"split": "validation", **metrics})
        if self.main:
            shares = [f", {name} {metrics[key]:.1%}" for key, name in CONSOLE_METRICS.items() if key in metrics]
            line = f"step {self.progress.step}: validation loss {metrics['loss']:.4f}{''.join(shares)}"
            tqdm.write(line + (" (best so far)" if is_best else ""))

    def _write(self, line: dict[str, Any]) -> None:
        line = {"step": self.progress.step, **line}
        if self.main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if self.config.tracker:
            scalars = {f"{line['split']}/{key}": value for key, value in line.items() if key not in ("step", "split")}
            self.accelerator.log(scalars, step=self.progress.step)


def _keep_lines(path: Path, step: int) -> None:
    """Drop the lines after `step`: an interrupted run had gone on beyond its last checkpoint."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    lines = [line for line in lines if line.endswith("\n")]  # a full disk or a kill may have cut the last one
    with write_beside(path) as temporary:
        temporary.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")


def card_facts(
    config: RunConfig, splits: Mapping[str, WindowDataset | ShardedDataset], accelerator: Accelerator
) -> dict[str, Any]:
    """Return what the model card says of any training, but for the step and the validation."""
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
    """Return the graphics card's name; of a CPU its kind and the threads that a process uses."""
    if accelerator.device.type == "cuda":
        return torch.cuda.get_device_name(accelerator.device)
    if accelerator.device.type == "cpu":
        return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"
    return accelerator.device.type


def describe_run(windows: int, model: nn.Module, progress: Progress, accelerator: Accelerator) -> str:
    """Return the line that a run begins with, after those on its data; `windows` are those of a step."""
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return (
        f"{parameters:,} trained parameters, {progress.total_steps:,} steps of {windows:,} windows on "
        f"{accelerator.num_processes} x {accelerator.device.type}, {_precision(accelerator)}"
    )


def _precision(accelerator: Accelerator) -> str:
    return "bfloat16" if accelerator.mixed_precision == "bf16" else "float32"


def describe_end(run: Path, progress: Progress, primary_metric: str) -> str:
    """Return the line that a run ends with, at its end or before; `primary_metric` names what chose the model."""
    if not progress.finished:
        return (
            f"interrupted: {run} stands at step {progress.step} of {progress.total_steps}, and is saved. Go on: run "
            "the same command with --resume-from-checkpoint last, which is the default"
        )
    if progress.best_step is None:
        return f"done: {run / 'model'} is the model after {progress.step} steps (there are no validation windows)"
    metric = CONSOLE_METRICS.get(primary_metric, primary_metric)
    return f"done: {run / 'model'} is the model of step {progress.best_step}, validation {metric} {progress.best:.4f}"
