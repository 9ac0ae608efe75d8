"""One frozen configuration a run: YAML gives the values, `--key value` overrides, an unknown key is an error."""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from casita.files import write_beside

CONFIGS = Path(__file__).parent / "configs"


def _setting(told: str, **default: Any) -> Any:
    """A field whose meaning travels with it, to `--help`."""
    return field(metadata={"help": told}, **default)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Every setting of an alignment run. Defaults are the reference system's, where it has one.

    `data` names the home folder, `vision_model`, `caption_style` and `text_model` which of its files to read, `preset`
    and the model options what to build, the rest how to train it.
    """

    data: str = _setting("Home folder to train on, as `casita build` makes it.")
    out: str = _setting("Run folder to write: model/, train_state/, config.yaml, metrics.jsonl.")

    embedding_source: Literal["image", "learned"] = _setting(
        "image: rows are frozen picture embeddings; learned: sensor + state + room embeddings, the sequence baseline.",
        default="image",
    )
    vision_model: str = _setting("Whose picture embeddings to use (embedding_source image).", default="clip")
    caption_style: str = _setting("Which captions to align with.", default="narrative")
    text_model: str = _setting("Whose embeddings of the captions to use.", default="gte-base")

    preset: Literal["tiny", "small", "base", "large"] = _setting("Size of the model.", default="base")
    hidden_size: int | None = _setting("Width, instead of the preset's.", default=None)
    num_hidden_layers: int | None = _setting("Layers, instead of the preset's.", default=None)
    num_attention_heads: int | None = _setting("Heads, instead of the preset's.", default=None)
    intermediate_size: int | None = _setting("Feed-forward width, instead of the preset's.", default=None)
    projection_dim: int | None = _setting("Width of the shared space, instead of the preset's.", default=None)
    pooling: Literal["cls", "mean", "cls_mean"] = _setting("How events become one vector.", default="cls_mean")
    projection_type: Literal["linear", "mlp"] = _setting("Heads into the shared space.", default="linear")
    dropout: float = _setting("Dropout of hidden states and of attention weights.", default=0.1)
    freeze_input_projection: bool = _setting("Keep the map from picture to token fixed.", default=True)
    use_coordinates: bool = _setting("Add Fourier features of the sensor's place.", default=False)
    use_time_deltas: bool = _setting("Add an embedding of the seconds since the previous event.", default=False)
    alibi_distance: Literal["index", "time"] = _setting(
        "Attention fades with events or time between.", default="index"
    )

    batch_size: int = _setting("Windows contrasted with each other, over all processes together.", default=128)
    epochs: int = _setting("Passes over the training windows.", default=20)
    max_steps: int | None = _setting("Optimizer steps, if fewer than the epochs give.", default=None)
    gradient_accumulation_steps: int = _setting("Batches averaged into one optimizer step.", default=1)
    learning_rate: float = _setting("Peak of the schedule.", default=3e-4)
    warmup_ratio: float = _setting("Share of the steps with a rising rate; then a cosine down to 0.", default=0.1)
    adam_beta1: float = _setting("AdamW.", default=0.9)
    adam_beta2: float = _setting("AdamW.", default=0.98)
    weight_decay: float = _setting("AdamW, on matrices only.", default=0.01)
    max_grad_norm: float = _setting("Longer gradients are shortened to this.", default=1.0)
    temperature: float = _setting("Initial softmax temperature; learned (Radford et al. 2021).", default=0.07)
    max_logit_scale: float = _setting("1 / temperature is kept at or below this (Radford et al. 2021).", default=100.0)
    bf16: bool | Literal["auto"] = _setting("bfloat16 autocast; auto: on GPUs that have it.", default="auto")
    cpu: bool = _setting("Stay on the CPU where there is a GPU.", default=False)
    seed: int = _setting("Of weights, dropout and data order.", default=42)

    eval_every: int = _setting("Optimizer steps between validations.", default=500)
    save_every: int = _setting("Optimizer steps between checkpoints.", default=500)
    log_every: int = _setting("Optimizer steps between lines of metrics.jsonl.", default=10)
    tracker: str | None = _setting("An Accelerate tracker (tensorboard, wandb, ...) or none.", default="tensorboard")
    resume_from_checkpoint: str | None = _setting(
        "last: go on from OUT's newest checkpoint (from the start if it has none); a folder: from that one.",
        default=None,
    )

    def __post_init__(self) -> None:
        for name in ("batch_size", "epochs", "gradient_accumulation_steps", "eval_every", "save_every", "log_every"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        self._require(self.max_steps is None or self.max_steps >= 1, "max_steps", "at least 1, or none")
        self._require(self.batch_size >= 2, "batch_size", "at least 2: one window has no other to differ from")
        for name in ("learning_rate", "max_grad_norm", "temperature"):
            self._require(getattr(self, name) > 0, name, "above 0")
        self._require(self.weight_decay >= 0, "weight_decay", "0 or more")
        for name in ("warmup_ratio", "dropout", "adam_beta1", "adam_beta2"):
            self._require(0 <= getattr(self, name) < 1, name, "in [0, 1)")
        limit = 1 / self.temperature
        self._require(self.max_logit_scale >= limit, "max_logit_scale", f"at least 1 / temperature = {limit:.4g}")

    def _require(self, holds: bool, name: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"setting {name}={getattr(self, name)}: expected {expected}.")

    def as_dict(self) -> dict[str, Any]:
        """Plain values by name, as YAML and JSON hold them."""
        return dataclasses.asdict(self)


# What a resumed run may change: where things are and how often they are told, never what is computed.
MAY_CHANGE = frozenset({"data", "out", "resume_from_checkpoint", "log_every", "save_every", "tracker"})


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """The configuration in a YAML file (or the shipped one of that name), with `overrides` on top.

    Override values may be text, as the command line gives them. Unknown keys, doubled keys, values of another type and
    values out of range are a `ValueError` that names the file and line, or the flag.
    """
    file = find_config(path)
    values: dict[str, Any] = {}
    for key, value, line in _yaml_items(file):
        values[key] = _typed(key, value, f"{file}:{line}")
    for key, value in (overrides or {}).items():
        parsed = _parse_text(value) if isinstance(value, str) else value
        values[key] = _typed(key, parsed, f"--{key}")
    missing = [
        f.name for f in dataclasses.fields(TrainConfig) if f.default is dataclasses.MISSING and f.name not in values
    ]
    if missing:
        raise ValueError(f"{file}: no value for {', '.join(missing)}. Write it there or give --{missing[0]} FOLDER.")
    return TrainConfig(**values)


def save_config(config: TrainConfig, path: Path) -> None:
    """Write every setting as YAML that `load_config` reads back equal."""
    with write_beside(path) as temporary:
        temporary.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False), encoding="utf-8")


def find_config(path: str | Path) -> Path:
    """A YAML file by its path, or a shipped one by its bare name (`demo`, `demo.yaml`)."""
    path = Path(path)
    shipped = CONFIGS / path.with_suffix(".yaml").name
    if path.is_file():
        return path
    if path.parent == Path(".") and shipped.is_file():
        return shipped
    names = sorted(p.stem for p in CONFIGS.glob("*.yaml"))
    raise FileNotFoundError(f"{path}: no such config; give a YAML file or one of {', '.join(names)}.")


def _yaml_items(file: Path) -> list[tuple[str, Any, int]]:
    """Key, value and line number of a flat YAML mapping."""
    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: expected YAML, found something else ({error}).") from None
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ValueError(f"{file}: expected lines of `key: value`, found a {type(content).__name__}.")
    lines: dict[str, int] = {}
    for key, _ in root.value:
        line = key.start_mark.line + 1
        if key.value in lines:  # YAML itself would keep the last one and say nothing
            raise ValueError(f"{file}:{line}: {key.value} is already set in line {lines[key.value]}. Remove one.")
        lines[key.value] = line
    return [(str(key), value, lines.get(str(key), 1)) for key, value in content.items()]


def _parse_text(text: str) -> Any:
    """A flag's text as YAML would read it; text that is no YAML (a path with a colon, say) stays text."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return text if isinstance(value, (dict, list)) else value


def _typed(key: str, value: Any, where: str) -> Any:
    """`value` as the type that setting `key` declares; no such key or another type is a `ValueError`."""
    kinds = get_type_hints(TrainConfig)
    if key not in kinds:
        near = difflib.get_close_matches(key.replace("-", "_"), kinds, n=1)
        hint = f"did you mean {near[0]}?" if near else f"settings: {', '.join(kinds)}."
        raise ValueError(f"{where}: there is no setting {key!r}; {hint}")
    kind = kinds[key]
    try:
        return _coerce(value, kind)
    except TypeError:
        raise ValueError(f"{where}: {key} should be {told_type(kind)}, found {value!r}.") from None


def told_type(kind: Any) -> str:
    """A setting's type for people: `int | none`, `cls | mean | cls_mean`."""
    if get_origin(kind) is Literal:
        return " | ".join(map(str, get_args(kind)))
    if members := get_args(kind):
        return " | ".join(map(told_type, members))
    return {types.NoneType: "none", bool: "true | false", str: "text"}.get(kind, kind.__name__)


def _coerce(value: Any, kind: Any) -> Any:
    """`value` as `kind`, or `TypeError`; only losslessly: 3 is a float, 3.0 is no int."""
    if get_origin(kind) in (Union, types.UnionType):
        for member in sorted(get_args(kind), key=lambda member: member is not types.NoneType):  # none before any text
            try:
                return _coerce(value, member)
            except TypeError:
                continue
        raise TypeError
    if get_origin(kind) is Literal and value in get_args(kind):
        return value
    if kind is types.NoneType and value in (None, "none"):
        return None
    if kind is float and isinstance(value, str):
        return _float_from(value)  # YAML 1.1 reads 3e-4 as text: it wants 3.0e-4
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and type(value) is kind:  # `is`: True is an int to isinstance
        return value
    raise TypeError


def _float_from(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise TypeError from None
