"""The Casita models: windows of sensor events to vectors, aligned with sentences.

Letters: `B` windows, `L` events, `H` heads, `C` width (`hidden_size`), `D` width of the table, `V` its rows,
`T` width of the text embeddings, `P` width of the shared space.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, MaskedLMOutput, SequenceClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_casita import NUM_RESERVED_ROWS, CasitaConfig
from .embeddings_casita import (
    CasitaEmbeddings,
    CasitaFrozenTable,
    CasitaInputProjection,
    CasitaLearnedTable,
    require,
    reserved_rows,
)
from .heads_casita import CasitaMaskedEventHead, mask_coordinates


# ---------------------------------------------------------------------------------------------------------- functions
def alibi_slopes(num_heads: int) -> list[float]:
    """Return m_h = 2^(-8h/H), h = 1..H (Press et al. 2022); other H than powers of two take slopes of the next one."""
    n = 2 ** math.ceil(math.log2(num_heads))
    slopes = [2 ** (-8 * h / n) for h in range(1, n + 1)]
    return slopes if n == num_heads else (slopes[1::2] + slopes[::2])[:num_heads]


def alibi_bias(distance: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """Return a penalty for attending far: `(B, L, L)` distances, `(H,)` slopes to `(B, H, 1 + L, 1 + L)`, all <= 0.

    Row and column 0 are the CLS token's and stay 0: it has no place in the sequence, so it reads every event alike.
    """
    return -slopes[:, None, None] * nn.functional.pad(distance, (1, 0, 1, 0))[:, None]


# ------------------------------------------------------------------------------------------------------------ outputs
@dataclass
class CasitaOutput(ModelOutput):
    """Output of [`CasitaModel`].

    `loss` scalar (with `return_loss`); `logits_per_sensor` `(B, N)` and `logits_per_text` `(N, B)`, scaled cosines;
    `sensor_embeds` `(B, P)` and `text_embeds` `(N, P)`, unit rows; `sensor_model_output`, the output of the tower, and
    its `hidden_states` and `attentions` if they were wanted.
    """

    loss: torch.Tensor | None = None
    logits_per_sensor: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    sensor_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    sensor_model_output: BaseModelOutputWithPooling | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(v.to_tuple() if isinstance(v, ModelOutput) else v for v in self.values())


# ---------------------------------------------------------------------------------------------------------- attention
def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attend in plain torch, the version for reading: `(B, H, L, C/H)` thrice to `(B, L, H, C/H)`, and weights."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class CasitaAttention(nn.Module):
    """Multi-head self-attention over all events of a window, both ways."""

    def __init__(self, config: CasitaConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend: `(B, L, C)` to `(B, L, C)` and, in the eager version, the weights `(B, H, L, L)`."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            position_bias=position_bias,
            **kwargs,
        )
        return self.o_proj(attended.reshape(hidden_states.shape)), weights


# -------------------------------------------------------------------------------------------------------------- layer
class CasitaMLP(nn.Module):
    """Two linear layers with an activation and dropout: `(B, L, C)` to `(B, L, C)`."""

    def __init__(self, config: CasitaConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_activation]
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.down_proj(self.activation(self.up_proj(x))))


class CasitaLayer(GradientCheckpointingLayer):
    """Pre-norm block of attention and MLP: `(B, L, C)` to `(B, L, C)`."""

    def __init__(self, config: CasitaConfig, layer_idx: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = CasitaAttention(config, layer_idx)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = CasitaMLP(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        # Without a name of its own the attended tensor is freed before the MLP's wide ones come.
        hidden_states = (
            hidden_states
            + self.attention(self.attention_norm(hidden_states), attention_mask, position_bias, **kwargs)[0]
        )
        return hidden_states + self.mlp(self.mlp_norm(hidden_states))


class CasitaProjection(nn.Module):
    """Projection into the shared space: `(B, C)` or `(B, T)` to `(B, P)`."""

    def __init__(self, config: CasitaConfig, width: int):
        super().__init__()
        if config.projection_type == "mlp":
            self.up_proj = nn.Linear(width, config.projection_hidden_size)
            self.dropout = nn.Dropout(config.hidden_dropout)
            width = config.projection_hidden_size
        self.out_proj = nn.Linear(width, config.projection_dim, bias=False)
        self.is_mlp = config.projection_type == "mlp"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.is_mlp:
            x = self.dropout(nn.functional.gelu(self.up_proj(x)))
        return self.out_proj(x)


# --------------------------------------------------------------------------------------------------------- base class
class CasitaPreTrainedModel(PreTrainedModel):
    """Base of all models: loading, saving, initialisation, and the exchange of one home's table for another's."""

    config: CasitaConfig
    config_class = CasitaConfig
    base_model_prefix = "sensor_model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["CasitaEmbeddings", "CasitaLayer"]
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_flash_attn = False  # its kernels take no additive bias
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": CasitaLayer, "attentions": CasitaAttention}
    # One directory serves all classes: what another class has is no news. What a class misses still is.
    _keys_to_ignore_on_load_unexpected = [r"^(head|classifier|\w+_projection)\.", r"^logit_(scale|bias)$"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, CasitaFrozenTable):
            init.copy_(module.weight, reserved_rows(*module.weight.shape))
        elif isinstance(module, CasitaLearnedTable):
            for part in (module.sensor, module.state, module.room):
                init.normal_(part.weight, std=3**-0.5)  # the sum of three has variance 1, as the image rows have
            init.copy_(module.parts, module.placeholder(len(module.parts)))
        elif isinstance(module, CasitaEmbeddings):
            init.normal_(module.cls_token)
        elif isinstance(module, CasitaInputProjection):
            init.copy_(module.weight, module.initial(*module.weight.shape))
        elif isinstance(module, CasitaModel):
            init.constant_(module.logit_scale, math.log(self.config.logit_scale_init))
            init.constant_(module.logit_bias, self.config.logit_bias_init)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        tower: Any = self.base_model
        return tower.embeddings.table

    def set_input_embeddings(self, value: nn.Module) -> None:
        tower: Any = self.base_model
        tower.embeddings.table = value

    def set_sensor_embeddings(self, table: Any) -> None:
        """Put a home's image embeddings into the frozen table, in the order of the table's keys.

        `table` has `embeddings` `(n, D)` and says what they are (`vision_model`, `output`, `normalization`), as
        `SensorEmbeddingTable` does. Nothing is trained: this is how a checkpoint moves into another home.

        Raises:
            ValueError: the model has no image table, or the new rows are not of the kind it was trained on.
        """
        if self.config.embedding_source != "image":
            raise ValueError(
                f"embedding_source={self.config.embedding_source!r}: only an image model has a table to set."
            )
        rows = torch.as_tensor(table.embeddings, dtype=torch.float32)
        kind = f"{table.vision_model}|{table.output}|{table.normalization}"
        if rows.shape[1] != self.config.image_embedding_dim:
            raise ValueError(
                f"the table of {table.home!r} has width {rows.shape[1]} ({kind}), the model reads width "
                f"{self.config.image_embedding_dim} ({self.config.image_embeddings or 'nothing set yet'}). "
                "Embed the pictures with the model's vision model."
            )
        if self.config.image_embeddings not in ("", kind):
            raise ValueError(
                f"the table of {table.home!r} holds {kind}, the model was trained on {self.config.image_embeddings} "
                "(vision model|output|normalisation). Embed the pictures in the same way."
            )
        embeddings: Any = self.get_input_embeddings()
        reserved = reserved_rows(NUM_RESERVED_ROWS, rows.shape[1])
        embeddings.weight = nn.Buffer(torch.cat([reserved, rows]).to(embeddings.weight.device), persistent=True)
        embeddings.num_embeddings = self.config.vocab_size = len(embeddings.weight)
        self.config.image_embeddings = kind

    def set_sensor_vocabulary(self, keys: Sequence[str], rooms: Sequence[str]) -> None:
        """Set the sensor, state and room of each row of a `learned` model: `keys` `"M001_ON"` and their rooms.

        Raises:
            ValueError: an image model, or other numbers of rows, sensors, states or rooms than the config's.
        """
        if self.config.embedding_source != "learned":
            raise ValueError("only a model with embedding_source='learned' has a sensor vocabulary to set.")
        sensors, states = zip(*(key.rsplit("_", 1) for key in keys), strict=True)
        columns = []
        for name, values in (("num_sensors", sensors), ("num_states", states), ("num_rooms", rooms)):
            known = {value: NUM_RESERVED_ROWS + i for i, value in enumerate(sorted(set(values)))}
            if len(known) != getattr(self.config, name):
                raise ValueError(f"{name}={getattr(self.config, name)} in the config, but the keys have {len(known)}.")
            columns.append(torch.tensor([known[value] for value in values]))
        table: Any = self.get_input_embeddings()
        if NUM_RESERVED_ROWS + len(keys) != len(table.parts):
            raise ValueError(f"vocab_size={len(table.parts)} in the config, but {len(keys)} keys and 3 reserved rows.")
        table.parts[NUM_RESERVED_ROWS:] = torch.stack(columns, dim=1).to(table.parts.device)


# ------------------------------------------------------------------------------------------------------------ encoder
class CasitaSensorModel(CasitaPreTrainedModel):
    """The sensor tower: a window of events to its base embedding (`pooler_output`) and one vector an event."""

    def __init__(self, config: CasitaConfig):
        super().__init__(config)
        if config.embedding_source == "image":
            # The frozen table stays exact when the model is loaded in bfloat16.
            self._keep_in_fp32_modules_strict = {"embeddings.table"}
        self.embeddings = CasitaEmbeddings(config)
        self.layers = nn.ModuleList([CasitaLayer(config, i) for i in range(config.num_hidden_layers)])
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)  # all of one shape: `last_hidden_state` lacks the CLS token
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        time_deltas: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode windows.

        Args:
            input_ids: `(B, L)` rows of the table.
            attention_mask: `(B, L)`, 1 for events and 0 for padding, which may stand anywhere.
            time_deltas: `(B, L)` seconds since the previous event; needed with `use_time_deltas`.
            coordinates: `(B, L, 2)` place of the sensors in [0, 1]; needed with `use_coordinates`.
            timestamps: `(B, L)` seconds on any clock; needed with `alibi_distance="time"`.
            inputs_embeds: `(B, L, D)` instead of `input_ids`: vectors of the table's width.

        Returns:
            `last_hidden_state` `(B, L, C)`, one vector an event (the CLS token's is not among them), and
            `pooler_output` `(B, C)`, the base embedding. With `output_hidden_states` and `output_attentions` also
            `hidden_states`, a layer's `(B, 1 + L, C)` each, and (eager only) `attentions` `(B, H, 1 + L, 1 + L)`, both
            with the CLS token at place 0.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("forward needs exactly one of input_ids and inputs_embeds.")
        hidden_states = self.embeddings(input_ids, inputs_embeds, time_deltas, coordinates)
        mask, position_bias = self._attention_bias(hidden_states, attention_mask, timestamps)
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, position_bias, **kwargs)
        hidden_states = self.final_norm(hidden_states)
        events = hidden_states[:, 1:]
        return BaseModelOutputWithPooling(
            last_hidden_state=events, pooler_output=self._pool(hidden_states[:, 0], events, attention_mask)
        )

    def _attention_bias(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, timestamps: torch.Tensor | None
    ) -> tuple[Any, torch.Tensor | None]:
        """Make mask and ALiBi bias for all layers: one tensor `(B or 1, H, 1 + L, 1 + L)`, but two for flex."""
        length = hidden_states.shape[1] - 1
        if attention_mask is not None:
            if not torch.compiler.is_compiling() and not (attention_mask != 0).any(dim=1).all():
                row = int((attention_mask != 0).any(dim=1).logical_not().nonzero()[0])
                raise ValueError(
                    f"window {row} of the batch has no events (its attention_mask is all 0). Leave it out."
                )
            attention_mask = nn.functional.pad(attention_mask, (1, 0), value=1)
        mask: Any = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        if self.config.alibi_distance == "time":
            position = require(timestamps, "timestamps").float()
        elif mask is None or attention_mask is None:
            position = torch.arange(length, device=hidden_states.device, dtype=torch.float32)[None]
        else:  # counted over events, not slots: padding inside a window must not push events apart
            position = (attention_mask[:, 1:] != 0).float().cumsum(dim=1)
        distance = (position[:, None, :] - position[:, :, None]).abs()
        if self.config.alibi_distance == "time":
            # log1p, not linear: a sensor silent overnight must not push every other event to -inf.
            distance = distance.log1p() * self.config.alibi_time_scale
        slopes = torch.tensor(alibi_slopes(self.config.num_attention_heads), device=hidden_states.device)
        bias = alibi_bias(distance, slopes).to(hidden_states.dtype)
        if self.config._attn_implementation == "flex_attention":
            return mask, bias.expand(len(hidden_states), -1, -1, -1)
        if mask is None:
            return bias, None
        if mask.dtype == torch.bool:
            return torch.where(mask, bias, torch.finfo(bias.dtype).min), None
        return mask + bias, None

    def _pool(self, cls: torch.Tensor, events: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Pool the CLS token's `(B, C)` and the events' `(B, L, C)` into `(B, C)`."""
        if self.config.pooling == "cls":
            return cls
        if attention_mask is None:
            mean = events.mean(dim=1)
        else:
            weight = (attention_mask != 0).to(events.dtype)[..., None]
            mean = (events * weight).sum(dim=1) / weight.sum(dim=1)
        if self.config.pooling == "mean":
            return mean
        return torch.lerp(mean, cls, self.config.pooling_cls_weight)


# -------------------------------------------------------------------------------------------------------------- heads
class CasitaModel(CasitaPreTrainedModel):
    """Model that projects the sensor tower's output and frozen text embeddings into one space."""

    def __init__(self, config: CasitaConfig):
        super().__init__(config)
        self.sensor_model = CasitaSensorModel(config)
        self.sensor_projection = CasitaProjection(config, config.hidden_size)
        self.text_projection = CasitaProjection(config, config.text_embedding_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(config.logit_scale_init)))
        self.logit_bias = nn.Parameter(torch.tensor(float(config.logit_bias_init)))
        self.post_init()

    @can_return_tuple
    def get_sensor_features(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        time_deltas: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """Encode windows as `CasitaSensorModel.forward`; `pooler_output` `(B, P)` is projected, not normalised."""
        output = self.sensor_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            time_deltas=time_deltas,
            coordinates=coordinates,
            timestamps=timestamps,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        output.pooler_output = self.sensor_projection(output.pooler_output)
        return output

    @can_return_tuple
    def get_text_features(self, text_embeds: torch.FloatTensor, **kwargs) -> BaseModelOutputWithPooling:
        """Project `(N, T)` frozen sentence embeddings; `pooler_output` `(N, P)` is not normalised."""
        if text_embeds.shape[-1] != self.config.text_embedding_dim:
            raise ValueError(
                f"text_embeds have width {text_embeds.shape[-1]}, the model was aligned with width "
                f"{self.config.text_embedding_dim}. Use the text model that the processor names."
            )
        return BaseModelOutputWithPooling(pooler_output=self.text_projection(text_embeds))

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        time_deltas: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        text_embeds: torch.FloatTensor | None = None,
        return_loss: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CasitaOutput:
        """Embed windows and, when `text_embeds` `(N, T)` are given, score every window against every sentence.

        `return_loss` needs N = B, row i of both belonging together: symmetric InfoNCE (Radford et al. 2021). The
        trainer's loss, with several positives and other ranks, is `casita.train.training.losses`.
        """
        sensor_output = self.sensor_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            time_deltas=time_deltas,
            coordinates=coordinates,
            timestamps=timestamps,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        sensor = nn.functional.normalize(self.sensor_projection(sensor_output.pooler_output), dim=-1)
        tower = {
            "sensor_model_output": sensor_output,
            "hidden_states": sensor_output.hidden_states,
            "attentions": sensor_output.attentions,
        }
        if text_embeds is None:
            if return_loss:
                raise ValueError("return_loss=True needs text_embeds, one sentence a window.")
            return CasitaOutput(sensor_embeds=sensor, **tower)
        text = nn.functional.normalize(self.get_text_features(text_embeds, return_dict=True).pooler_output, dim=-1)
        scale = self.logit_scale.exp().clamp(max=self.config.logit_scale_max)
        logits = scale * sensor @ text.t() + self.logit_bias
        loss = None
        if return_loss:
            target = torch.arange(len(logits), device=logits.device)
            cross_entropy = nn.functional.cross_entropy
            loss = (cross_entropy(logits, target) + cross_entropy(logits.t(), target)) / 2
        return CasitaOutput(
            loss=loss,
            logits_per_sensor=logits,
            logits_per_text=logits.t(),
            sensor_embeds=sensor,
            text_embeds=text,
            **tower,
        )


class CasitaForMaskedEventModeling(CasitaPreTrainedModel):
    """The tower with a head that predicts the sensor states of masked events; `mask_spans` masks."""

    def __init__(self, config: CasitaConfig):
        super().__init__(config)
        self.loss_type = "ForMaskedLM"
        self.sensor_model = CasitaSensorModel(config)
        self.head = CasitaMaskedEventHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        time_deltas: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Predict `logits` `(B, L, V)`; `labels` `(B, L)`: the masked rows, -100 for events that are not scored.

        The coordinates of events that are masked or scored are not read.
        """
        if labels is not None and not torch.compiler.is_compiling():
            bad = labels[(labels != -100) & ((labels < NUM_RESERVED_ROWS) | (labels >= self.config.vocab_size))]
            if len(bad):
                raise ValueError(
                    f"labels hold {int(bad[0])}; expected -100 or a row of a sensor state, {NUM_RESERVED_ROWS} to "
                    f"{self.config.vocab_size - 1}. mask_spans makes them."
                )
        output = self.sensor_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            time_deltas=time_deltas,
            coordinates=mask_coordinates(coordinates, input_ids, labels, self.config.mask_token_id),
            timestamps=timestamps,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        logits = self.head(output.last_hidden_state, self.get_input_embeddings().weight)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=logits.shape[-1], **kwargs)
        return MaskedLMOutput(loss, logits, output.hidden_states, output.attentions)


class CasitaForSequenceClassification(CasitaPreTrainedModel):
    """The tower with a linear head on its base embedding; `num_labels`, `id2label`, `problem_type` as everywhere."""

    def __init__(self, config: CasitaConfig):
        super().__init__(config)
        self.sensor_model = CasitaSensorModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        assert config.num_labels is not None  # transformers makes it 2
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        time_deltas: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
        timestamps: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SequenceClassifierOutput:
        """Classify: `logits` `(B, K)`; `labels` `(B,)` classes, or `(B, K)` for several labels or regression."""
        output = self.sensor_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            time_deltas=time_deltas,
            coordinates=coordinates,
            timestamps=timestamps,
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        logits = self.classifier(self.dropout(output.pooler_output))
        loss = None
        if labels is not None:
            loss = self.loss_function(labels=labels, pooled_logits=logits, config=self.config, **kwargs)
        return SequenceClassifierOutput(loss, logits, output.hidden_states, output.attentions)


__all__ = [
    "CasitaForMaskedEventModeling",
    "CasitaForSequenceClassification",
    "CasitaModel",
    "CasitaPreTrainedModel",
    "CasitaSensorModel",
]
