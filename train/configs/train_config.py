"""One frozen configuration a run: YAML gives the values, flags override them, an unknown key is an error."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from casita.files import write_beside
from casita.train.configs.settings import ContradictingSettings, read_settings, setting

CONFIGS = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of every training: its folders, its optimizer, its arithmetic and its rhythm."""

    data: str = setting(
        "Home folder to train on, as `casita build` makes it, a folder of several, or a data set on the Hub: ORG/NAME "
        "or ORG/NAME@REVISION."
    )
    out: str = setting("Run folder to write: model/, train_state/, config.yaml, metrics.jsonl.")

    batch_size: int = setting("Windows of a batch, over all processes together.", default=128)
    epochs: int = setting("Passes over the training windows.", default=20)
    max_steps: int | None = setting("Optimizer steps, if fewer than the epochs give.", default=None)
    gradient_accumulation_steps: int = setting("Batches averaged into one optimizer step.", default=1)
    learning_rate: float = setting("Peak of the schedule.", default=3e-4)
    warmup_ratio: float = setting("Share of the steps with a rising rate; then a cosine down to 0.", default=0.1)
    adam_beta1: float = setting("AdamW.", default=0.9)
    adam_beta2: float = setting("AdamW.", default=0.98)
    weight_decay: float = setting("AdamW, on matrices only.", default=0.01)
    max_grad_norm: float = setting("Longer gradients are shortened to this.", default=1.0)

    gradient_checkpointing: bool = setting("Keep no activations of the layers; compute them again.", default=False)
    compile: bool = setting("Compile the window encoder (torch.compile).", default=False)
    bf16: bool | Literal["auto"] = setting("bfloat16 autocast; auto: on GPUs that have it.", default="auto")
    cpu: bool = setting("Stay on the CPU where there is a GPU.", default=False)
    seed: int = setting("Of weights, dropout and data order.", default=42)

    eval_every: int | None = setting("Optimizer steps between validations; none: an epoch's.", default=500)
    save_every: int | None = setting("Optimizer steps between checkpoints; none: an epoch's.", default=500)
    prefetch: int = setting("Batches made in advance, in a thread.", default=2)
    log_every: int = setting("Optimizer steps between lines of metrics.jsonl.", default=10)
    tracker: str | None = setting("An Accelerate tracker (tensorboard, trackio, wandb, ...) or none.", default=None)
    resume_from_checkpoint: str | None = setting(
        "last: go on from OUT's newest checkpoint, from the start if it has none; a folder: from that one; none: "
        "refuse a folder with an unfinished run.",
        default="last",
    )

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "gradient_accumulation_steps", "log_every"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        self._require(self.prefetch >= 0, "prefetch", "0 or more")
        for name in ("max_steps", "eval_every", "save_every"):
            self._require(getattr(self, name) is None or getattr(self, name) >= 1, name, "at least 1, or none")
        for name in ("learning_rate", "max_grad_norm"):
            self._require(getattr(self, name) > 0, name, "above 0")
        self._require(self.weight_decay >= 0, "weight_decay", "0 or more")
        for name in ("warmup_ratio", "adam_beta1", "adam_beta2"):
            self._require(0 <= getattr(self, name) < 1, name, "in [0, 1)")

    def _require(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"setting {name}={getattr(self, name)}: expected {expected}.")

    def _only_with(self, partner: str, holds: bool, name: str) -> None:
        if not holds:
            raise ContradictingSettings(f"setting {name}={getattr(self, name)}: expected only with {partner}.")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values by name, as YAML and JSON hold them."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Settings of an alignment run. Defaults are the reference system's, where it has one.

    `data` names the home folder, `vision_model`, `caption_style` and `text_model` which of its files to read, `preset`
    and the model options what to build, the rest how to train it.
    """

    init_from: str | None = setting(
        "Weights to start from: a run, a model directory or a Hub id, of the same architecture. None: fresh ones.",
        default=None,
    )
    embedding_source: Literal["image", "learned"] = setting(
        "image: rows are frozen picture embeddings; learned: sensor + state + room embeddings, the sequence baseline.",
        default="image",
    )
    vision_model: str = setting("Whose picture embeddings to use (embedding_source image).", default="clip")
    caption_style: str = setting("Which captions to align with.", default="narrative")
    text_model: str = setting("Whose embeddings of the captions to use.", default="gte-base")

    preset: Literal["tiny", "small", "base", "large"] = setting("Size of the model.", default="base")
    hidden_size: int | None = setting("Width, instead of the preset's.", default=None)
    num_hidden_layers: int | None = setting("Layers, instead of the preset's.", default=None)
    num_attention_heads: int | None = setting("Heads, instead of the preset's.", default=None)
    intermediate_size: int | None = setting("Feed-forward width, instead of the preset's.", default=None)
    projection_dim: int | None = setting("Width of the shared space, instead of the preset's.", default=None)
    pooling: Literal["cls", "mean", "cls_mean"] = setting("How events become one vector.", default="cls_mean")
    projection_type: Literal["linear", "mlp"] = setting("Heads into the shared space.", default="linear")
    dropout: float = setting("Dropout of hidden states and of attention weights.", default=0.1)
    freeze_input_projection: bool = setting("Keep the map from picture to token fixed.", default=True)
    use_coordinates: bool = setting("Add Fourier features of the sensor's place.", default=False)
    use_time_deltas: bool = setting("Add an embedding of the seconds since the previous event.", default=False)
    alibi_distance: Literal["index", "time"] = setting("Attention fades with events or time between.", default="index")

    batch_size: int = setting("Windows contrasted with each other, over all processes together.", default=128)
    loss: Literal["info_nce", "sigmoid", "focal_sigmoid"] = setting(
        "What compares windows with captions.", default="info_nce"
    )
    temperature: float | None = setting(
        "Divides the cosines at first; learned. None: 0.07 (Radford et al. 2021), with a sigmoid loss 0.1 (Zhai et "
        "al. 2023).",
        default=None,
    )
    logit_bias_init: float | None = setting(
        "Added to the scaled cosines of a sigmoid loss at first; learned. None: -10 (Zhai et al. 2023).", default=None
    )
    focal_gamma: float | None = setting(
        "How much focal_sigmoid spares easy pairs; 0 is sigmoid. None: 2 (Lin et al. 2017).", default=None
    )
    focal_alpha: float | None = setting(
        "Share of the positives in the weight of focal_sigmoid. None: all pairs weigh alike.", default=None
    )
    home_batches: int | None = setting(
        "Homes in a batch at most, so that few pairs differ by their home alone; none: any number.", default=None
    )
    queue_size: int = setting("Windows and captions of earlier batches kept as negatives.", default=0)
    contrast_weight: float = setting("Weight of that loss; 0: masked events alone.", default=1.0)
    masked_weight: float = setting("Weight of the loss of masked events, in a second forward pass.", default=0.0)
    context_weight: float = setting(
        "Weight of the loss of predicting, from a window alone, the captions of those before and after it.",
        default=0.0,
    )
    mask_probability: float | None = setting(
        "Chance of each event to begin a hidden span. None: 0.1, which hides a third of 20 events.", default=None
    )
    mask_mean_length: float | None = setting("Mean length of a hidden span, in events. None: 5.", default=None)
    micro_batch_size: int | None = setting(
        "Windows of a process that pass through the model at a time; the contrast is still over the whole batch.",
        default=None,
    )
    stream: bool = setting("Read train windows from Parquet, a few row groups at a time, not cached.", default=False)
    shuffle_shards: int = setting("Row groups in memory, shuffled together, with stream.", default=8)
    max_logit_scale: float = setting("1 / temperature is kept at or below this (Radford et al. 2021).", default=100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.batch_size >= 2, "batch_size", "at least 2: one window has no other to differ from")
        self._require(self.first_temperature > 0, "temperature", "above 0")
        for name in ("queue_size", "contrast_weight", "masked_weight", "context_weight"):
            self._require(getattr(self, name) >= 0, name, "0 or more")
        self._require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        self._require(self.shuffle_shards >= 1, "shuffle_shards", "at least 1")
        homes = self.home_batches
        fits = homes is None or (homes >= 1 and self.batch_size % homes == 0)
        self._require(fits, "home_batches", f"a divisor of batch_size={self.batch_size}, or none")
        limit = 1 / self.first_temperature
        self._require(self.max_logit_scale >= limit, "max_logit_scale", f"at least 1 / temperature = {limit:.4g}")

        self._check_losses()

    def _check_losses(self) -> None:
        """Check what a loss may leave to its default, and settings that would contradict each other."""
        gamma = self.focal_gamma
        alpha = self.focal_alpha
        micro = self.micro_batch_size
        self._require(gamma is None or gamma >= 0, "focal_gamma", "0 or more")
        self._require(alpha is None or 0 < alpha < 1, "focal_alpha", "between 0 and 1")
        self._require(self.mask_probability is None or 0 < self.mask_probability <= 1, "mask_probability", "in (0, 1]")
        self._require(self.mask_mean_length is None or self.mask_mean_length > 0, "mask_mean_length", "above 0")
        if micro is not None:
            fits = 1 <= micro < self.batch_size and self.batch_size % micro == 0
            self._require(fits, "micro_batch_size", f"a divisor of batch_size={self.batch_size}, smaller than it")
        if not self.contrast_weight and not self.masked_weight:
            raise ContradictingSettings("contrast_weight=0 and masked_weight=0: nothing to learn. Give one of them.")
        for name, partner, holds in (
            ("focal_gamma", "loss=focal_sigmoid", self.loss == "focal_sigmoid"),
            ("focal_alpha", "loss=focal_sigmoid", self.loss == "focal_sigmoid"),
            ("logit_bias_init", "loss=sigmoid or focal_sigmoid", self.loss != "info_nce"),
            ("mask_probability", "masked_weight above 0", self.masked_weight > 0),
            ("mask_mean_length", "masked_weight above 0", self.masked_weight > 0),
            ("loss", "contrast_weight above 0", self.contrast_weight > 0),
            ("temperature", "contrast_weight above 0", self.contrast_weight > 0),
            ("home_batches", "stream false", not self.stream),
            ("shuffle_shards", "stream true", self.stream),
            ("queue_size", "contrast_weight above 0", self.contrast_weight > 0),
            ("micro_batch_size", "contrast_weight above 0", self.contrast_weight > 0),
            ("context_weight", "contrast_weight above 0", self.contrast_weight > 0),
            ("context_weight", "stream false", not self.stream),
            ("context_weight", "micro_batch_size none", micro is None),
        ):
            default = TrainConfig.__dataclass_fields__[name].default
            self._only_with(partner, holds or getattr(self, name) == default, name)

    @property
    def gamma(self) -> float:
        """Return the exponent by which easy pairs are spared."""
        if self.loss != "focal_sigmoid":
            return 0.0
        return 2.0 if self.focal_gamma is None else self.focal_gamma

    @property
    def first_temperature(self) -> float:
        """Return the divisor of the cosines at the first step."""
        if self.temperature is not None:
            return self.temperature
        return 0.07 if self.loss == "info_nce" else 0.1

    @property
    def first_logit_bias(self) -> float:
        """Return the number added to the scaled cosines at the first step."""
        if self.logit_bias_init is not None:
            return self.logit_bias_init
        return 0.0 if self.loss == "info_nce" else -10.0


# What a resumed run may change: where things are and how often they are logged, never what is computed.
MAY_CHANGE = frozenset({"data", "out", "resume_from_checkpoint", "log_every", "save_every", "tracker", "prefetch"})


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """Return the configuration in a YAML file (or the shipped one of that name), with `overrides` on top.

    Override values may be text, as the command line gives them. Unknown keys, doubled keys, values of another type and
    values out of range are a `ValueError` that names the file and line, or the flag.
    """
    return read_settings(TrainConfig, find_config(path), overrides)


def save_config(config: RunConfig, path: Path) -> None:
    """Write every setting as YAML that reads back equal."""
    with write_beside(path) as temporary:
        temporary.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False), encoding="utf-8")


def find_config(path: str | Path, shipped: Path = CONFIGS) -> Path:
    """Return a YAML file by its path, or one of the folder `shipped` by its name alone (`demo`, `demo.yaml`)."""
    path = Path(path)
    named = shipped / path.with_suffix(".yaml").name
    if path.is_file():
        return path
    if path.parent == Path(".") and named.is_file():
        return named
    names = sorted(p.stem for p in shipped.glob("*.yaml"))
    raise FileNotFoundError(f"{path}: no such {shipped.name[:-1]}; give a YAML file or one of {', '.join(names)}.")
