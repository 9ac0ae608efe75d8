"""Configuration of the Casita models: flat, checked, never written to by the model."""

# No `from __future__ import annotations` here: it would switch the type checks of @strict off.
from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "projection_dim")
PRESETS = {
    "tiny": dict(zip(_SIZES, (256, 4, 4, 1024, 256), strict=True)),
    "small": dict(zip(_SIZES, (512, 6, 8, 2048, 512), strict=True)),
    "base": dict(zip(_SIZES, (768, 6, 8, 3072, 512), strict=True)),
    "large": dict(zip(_SIZES, (1024, 12, 16, 4096, 512), strict=True)),
}
CHOICES = {
    "embedding_source": ("image", "learned"),
    "pooling": ("cls", "mean", "cls_mean"),
    "projection_type": ("linear", "mlp"),
    "alibi_distance": ("index", "time"),
}
POSITIVE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "projection_dim",
    "projection_hidden_size",
    "image_embedding_dim",
    "text_embedding_dim",
    "num_sensors",
    "num_states",
    "num_rooms",
    "fourier_bands",
    "time_delta_buckets",
    "time_delta_max_s",
    "alibi_time_scale",
    "logit_scale_max",
    "masked_event_temperature",
    "zero_shot_temperature",
)
NUM_RESERVED_ROWS = 3  # padding, unknown, mask: the first rows of every table


@strict
class CasitaConfig(PreTrainedConfig):
    r"""
    Configuration of [`CasitaModel`] and its relatives. The defaults are the preset `base`.

    Args:
        vocab_size: rows of the table: 3 reserved ones (padding, unknown, mask) and one for each sensor state.
        embedding_source: `image` reads frozen image embeddings; `learned` sums trained ones of sensor, state and room.
        image_embedding_dim: width D of the frozen table.
        num_sensors, num_states, num_rooms: sizes of the learned embeddings, without the reserved entries.
        freeze_input_projection: keep the map from the table's width to `hidden_size` as it was initialised.
        use_coordinates: add a Fourier encoding of `coordinates` (angles c * 2^k * pi, k < `fourier_bands`, NeRF's).
        use_time_deltas: add an embedding of the seconds since the previous event in `time_delta_buckets` log buckets.
        alibi_distance: what ALiBi counts between two events: `index` steps, or `time`: log1p(seconds) times
            `alibi_time_scale`.
        pooling: `cls`, `mean` over events, or `cls_mean`: w * CLS + (1 - w) * mean with w = `pooling_cls_weight`.
        projection_type: into the shared space: `linear`, or `mlp` with a hidden layer of `projection_hidden_size`.
        text_embedding_dim: width of the frozen sentence embeddings.
        logit_scale_init: initial scale of cosines, 1 / temperature 0.07 (CLIP); trained, clamped at `logit_scale_max`.
        masked_event_temperature: divides the cosine between a masked event's prediction and the table's rows.
        zero_shot_temperature: divides the scaled cosines before the softmax over candidate sentences; calibrated on
            validation windows (1: as trained).
        image_embeddings: what the frozen table holds, `vision model|output|normalisation`; empty for `learned`.

    Raises:
        ValueError: a value outside its allowed ones; the message names the key.
    """

    model_type = "casita"
    attribute_map = {"hidden_act": "hidden_activation"}

    vocab_size: int = 128
    embedding_source: str = "image"
    image_embedding_dim: int = 768
    num_sensors: int = 1
    num_states: int = 1
    num_rooms: int = 1
    freeze_input_projection: bool = True
    use_coordinates: bool = False
    fourier_bands: int = 12
    use_time_deltas: bool = False
    time_delta_buckets: int = 100
    time_delta_max_s: float | int = 3600

    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 8
    intermediate_size: int = 3072
    hidden_activation: str = "gelu"
    hidden_dropout: float | int = 0.1
    attention_dropout: float | int = 0.1
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    alibi_distance: str = "index"
    alibi_time_scale: float | int = 1.0

    pooling: str = "cls_mean"
    pooling_cls_weight: float | int = 0.5
    projection_dim: int = 512
    projection_type: str = "linear"
    projection_hidden_size: int = 2048
    text_embedding_dim: int = 768
    logit_scale_init: float | int = 1 / 0.07
    logit_scale_max: float | int = 100
    logit_bias_init: float | int = 0.0
    masked_event_temperature: float | int = 0.07
    zero_shot_temperature: float | int = 1.0

    image_embeddings: str = ""
    pad_token_id: int | None = 0
    unk_token_id: int = 1
    mask_token_id: int = 2

    @classmethod
    def from_preset(cls, preset: str, **kwargs) -> "CasitaConfig":
        """Make a config with the sizes of `preset` (tiny | small | base | large), the rest by `kwargs` or default."""
        if preset not in PRESETS:
            raise ValueError(f"preset={preset!r} is none of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[preset], **kwargs})

    def validate_architecture(self):
        """Check ranges, and keys against each other; the types themselves are checked by `@strict`."""
        super().validate_architecture()
        for key, allowed in CHOICES.items():
            if getattr(self, key) not in allowed:
                raise ValueError(f"{key}={getattr(self, key)!r} is none of {', '.join(allowed)}.")
        for key in POSITIVE:
            if getattr(self, key) <= 0:
                raise ValueError(f"{key}={getattr(self, key)} must be greater than 0.")
        for key in ("hidden_dropout", "attention_dropout", "pooling_cls_weight"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(f"{key}={getattr(self, key)} must lie between 0 and 1.")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={self.num_attention_heads}."
            )
        if self.vocab_size <= NUM_RESERVED_ROWS:
            raise ValueError(
                f"vocab_size={self.vocab_size} must exceed {NUM_RESERVED_ROWS}: padding, unknown and mask."
            )


__all__ = ["CasitaConfig"]
