"""The settings of `casita finetune`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from casita.train.configs.settings import setting
from casita.train.configs.train_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(RunConfig):
    """Settings of a classification run: which checkpoint, which labels, how many of them, and how it learns."""

    model: str = setting("What to start from: a run, a model directory or a Hub id.")
    mode: Literal["full", "frozen"] = setting(
        "full: everything learns, the encoder at its own rate; frozen: the encoder stays, only the head learns.",
        default="full",
    )
    from_scratch: bool = setting(
        "Draw the encoder's weights anew: the same architecture, trained on the labels alone.", default=False
    )
    level: Literal["fine", "coarse"] = setting(
        "Labels as in the log, or the layout's home-independent ones.", default="fine"
    )
    unlabelled: bool = setting(
        "Windows without an activity are a class of their own; false: they are left out.", default=False
    )
    few_shot: int | float = setting(
        "Train windows to learn from, and validation windows to choose with: a share of each class's (1.0: all), or a "
        "whole number of windows a class (1: one). The same ones for every model, and for the probes of casita "
        "evaluate.",
        default=1.0,
    )
    few_shot_unit: Literal["run", "window"] = setting(
        "What few_shot draws until there are enough windows: runs of consecutive windows with one label, the last one "
        "cut, or single windows.",
        default="run",
    )
    class_weights: bool = setting("Weigh a class by one over its windows.", default=False)
    label_smoothing: float = setting("Share of the target spread over all classes.", default=0.0)
    dropout: float | None = setting("In the encoder and before the head; none: the checkpoint's.", default=None)
    sensor_dropout: float = setting(
        "Share of each window's sensors that are dropped, with all their events, while it is learned, as if their "
        "batteries were empty (mode full).",
        default=0.0,
    )
    encoder_learning_rate: float | None = setting(
        "Peak of the encoder's schedule, mode full. None: 1e-4, and 3e-4 with from_scratch.", default=None
    )
    protocol: str = setting("How the windows must have been split.", default="chronological")

    batch_size: int = setting("Windows of a batch, or all of them where there are fewer.", default=32)
    learning_rate: float = setting("Peak of the head's schedule.", default=1e-3)
    adam_beta2: float = setting("AdamW.", default=0.999)
    eval_every: int | None = setting("Optimizer steps between validations; none: an epoch's.", default=None)
    save_every: int | None = setting("Optimizer steps between checkpoints; none: an epoch's.", default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        is_count = isinstance(self.few_shot, int)
        self._require(
            self.few_shot >= 1 if is_count else 0 < self.few_shot <= 1,
            "few_shot",
            "a share above 0 and at most 1.0, or a whole number of windows a class",
        )
        self._require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)")
        self._require(self.dropout is None or 0 <= self.dropout < 1, "dropout", "in [0, 1)")
        self._require(0 <= self.sensor_dropout < 1, "sensor_dropout", "in [0, 1)")
        self._only_with("mode=full", not self.sensor_dropout or self.mode == "full", "sensor_dropout")
        rate = self.encoder_learning_rate
        self._require(rate is None or rate > 0, "encoder_learning_rate", "above 0")
        self._only_with("mode=full", rate is None or self.mode == "full", "encoder_learning_rate")

    @property
    def encoder_rate(self) -> float:
        """Return the peak of the encoder's schedule."""
        if self.encoder_learning_rate is not None:
            return self.encoder_learning_rate
        return 3e-4 if self.from_scratch else 1e-4


def is_finetuned(run: Path) -> bool:
    """Return whether a run folder's `config.yaml` is that of a fine-tuning, and not of an alignment."""
    return "few_shot" in yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
