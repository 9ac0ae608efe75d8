"""The model that a run trains for a home's vocabulary, which of its weights decay, and the learning rate's course."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_schedule_with_warmup

from casita.modeling.configuration_casita import NUM_RESERVED_ROWS, CasitaConfig
from casita.modeling.heads_casita import CasitaMaskedEventHead
from casita.modeling.modeling_casita import CasitaForMaskedEventModeling, CasitaModel, CasitaProjection
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.configs.train_config import RunConfig, TrainConfig
from casita.train.inference.model_directory import load_published, model_directory_of
from casita.train.training.losses import NegativeQueue
from casita.train.training.rng import RandomState

SIZE_SETTINGS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "projection_dim")
SHARED_SETTINGS = (  # of TrainConfig and CasitaConfig
    "embedding_source",
    "pooling",
    "projection_type",
    "freeze_input_projection",
    "use_coordinates",
    "use_time_deltas",
    "alibi_distance",
)


def build_model(
    config: TrainConfig, processor: CasitaProcessor, table: SensorEmbeddingTable | None, text_width: int
) -> CasitaModel:
    """Build a fresh model for the home's vocabulary; its weights follow from torch's current seed.

    With `masked_weight` it carries the head of `CasitaForMaskedEventModeling` as `head`, so that what is published
    loads as either. Parts that no loss reaches are frozen.
    """
    sensors, states = zip(*(key.rsplit("_", 1) for key in processor.vocab), strict=True)
    rooms = sensor_rooms(sensors, processor) if config.embedding_source == "learned" else []
    options = {name: getattr(config, name) for name in SIZE_SETTINGS if getattr(config, name) is not None}
    architecture = CasitaConfig.from_preset(
        config.preset,
        **options,
        **{name: getattr(config, name) for name in SHARED_SETTINGS},
        vocab_size=NUM_RESERVED_ROWS + len(processor.vocab),
        image_embedding_dim=table.embeddings.shape[1] if table else 1,
        text_embedding_dim=text_width,
        num_sensors=len(set(sensors)),
        num_states=len(set(states)),
        num_rooms=len(set(rooms)) or 1,
        hidden_dropout=config.dropout,
        attention_dropout=config.dropout,
        logit_scale_init=1 / config.first_temperature,
        logit_scale_max=config.max_logit_scale,
        logit_bias_init=config.first_logit_bias,
    )
    model = CasitaModel(architecture)
    model.logit_bias.requires_grad_(config.loss != "info_nce")  # added to every logit alike, it moves no softmax
    if config.masked_weight:
        model.head = CasitaMaskedEventHead(architecture)
        model.head.apply(model._init_weights)
    if not config.contrast_weight:
        for part in (model.sensor_projection, model.text_projection, model.logit_scale, model.logit_bias):
            part.requires_grad_(False)
    if table:
        model.set_sensor_embeddings(table)
    else:
        model.set_sensor_vocabulary(processor.vocab, rooms)
    return model


def load_weights(model: CasitaModel, source: str, processor: CasitaProcessor) -> None:
    """Give `model` the trained weights of a run, a model directory or a Hub id.

    The table stays the model's own, and so do scale and bias, which `temperature` and `logit_bias_init` set.

    Raises:
        ValueError: another architecture, pictures by another vision model, or a learned table of other keys.
    """
    source_model, source_processor = load_published(source)
    rows = model.config.image_embeddings or model.config.embedding_source
    source_rows = source_model.config.image_embeddings or source_model.config.embedding_source
    differences = [f"rows of {source_rows}, here {rows}"] if source_rows != rows else []
    if not differences and model.config.embedding_source == "learned" and processor.vocab != source_processor.vocab:
        differences = [f"learned embeddings of home {source_processor.home}'s sensor states, here {processor.home}'s"]
    kept = ("logit_", "head.")
    weights = {name: p for name, p in model.named_parameters() if not name.startswith(kept)}
    source_weights = {name: p for name, p in source_model.named_parameters() if not name.startswith(kept)}
    for name in dict.fromkeys([*weights, *source_weights]):
        shape = tuple(weights[name].shape) if name in weights else "none"
        source_shape = tuple(source_weights[name].shape) if name in source_weights else "none"
        if source_shape != shape:
            differences.append(f"{name} {source_shape}, here {shape}")
    if differences:
        more = f"; and {len(differences) - 1} more" if len(differences) > 1 else ""
        raise ValueError(
            f"init_from={source}: its weights do not fit: {differences[0]}{more}. Give the settings it was trained "
            "with (its config.yaml has them), or --init-from none."
        )
    model.load_state_dict(source_weights, strict=False)
    if hasattr(model, "head"):
        head: Any = CasitaForMaskedEventModeling.from_pretrained(model_directory_of(source)).head
        cast(nn.Module, model.head).load_state_dict(head.state_dict())


class TrainedModel(nn.Module):
    """A `model` with all that is trained or kept beside it, so that its state is a checkpoint.

    That is `queue`, if there is one, and `neighbour_heads`, which predict the captions before and after a window.

    Its forward is everything of a step that has weights. Under DistributedDataParallel, which begins to average
    gradients where a forward ends, there must be one forward a step and not two.
    """

    def __init__(self, config: TrainConfig, model: CasitaModel):
        super().__init__()
        self.model = model
        if config.gradient_checkpointing:
            model.activation_checkpointing_enable()
        if config.compile:
            model.sensor_model.compile(dynamic=True)
        self.neighbour_heads = nn.ModuleList()
        if config.context_weight:
            heads = [CasitaProjection(model.config, model.config.hidden_size) for _ in range(2)]
            self.neighbour_heads.extend(heads)
            self.neighbour_heads.apply(model._init_weights)
        self.queue = NegativeQueue(config.queue_size, model.config.projection_dim) if config.queue_size else None
        if hasattr(model, "head"):
            with torch.device("meta"):
                masked = CasitaForMaskedEventModeling(model.config)
            head: Any = model.head
            masked.sensor_model, masked.head = model.sensor_model, head
            self._masked = [masked]  # a list hides it: the same weights under two names would be saved twice

    def forward(
        self,
        inputs: Mapping[str, Tensor],
        texts: Tensor | None = None,
        masked: Mapping[str, Tensor] | None = None,
        dropout: RandomState | None = None,
        neighbours: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Return unit rows `sensors`, `texts` `(b, P)` if `texts` `(b, T)` are given; `masked_loss` if `masked`.

        With `neighbours` `(b, 2, T)`, the captions before and after, also `context_texts` `(b, 2, P)`, and
        `context_sensors` `(b, 2, P)`, which the neighbour heads predict from the window alone.

        `inputs` are those of `model`, `masked` those with events hidden, and with `labels` and `num_items_in_batch`.
        `dropout`: give the windows the dropout of that state; the masked ones go on with the present one.
        """
        outputs: dict[str, Tensor] = {}
        if masked is not None:
            outputs["masked_loss"] = self._masked[0](**masked).loss
        if texts is not None:
            with dropout.replay() if dropout else nullcontext():
                out = self.model(**inputs, text_embeds=texts)
            outputs["sensors"] = out.sensor_embeds
            outputs["texts"] = out.text_embeds
            if neighbours is not None:
                pooled = out.sensor_model_output.pooler_output
                predicted = torch.stack([head(pooled) for head in self.neighbour_heads], dim=1)
                outputs["context_sensors"] = nn.functional.normalize(predicted, dim=-1)
                outputs["context_texts"] = nn.functional.normalize(self.model.text_projection(neighbours), dim=-1)
        return outputs


def sensor_rooms(sensors: Sequence[str], processor: CasitaProcessor) -> list[str]:
    """Return the room of each sensor; `ValueError` names those that the layout lacks."""
    missing = sorted({sensor for sensor in sensors if sensor not in processor.rooms})
    if missing:
        raise ValueError(
            f"home {processor.home}: the layout has no room for sensors {', '.join(missing[:5])}. "
            "Add them to it, or leave their events out: casita windows DIR --unplaced drop"
        )
    return [processor.rooms[sensor] for sensor in sensors]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: with decay the matrices of linear maps; without it norms, biases, scale, CLS and embeddings.

    An embedding's row gets a gradient only when its sensor speaks, but decay at every step: rare sensors would fade.
    """
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0},
    ]


def make_scheduler(config: RunConfig, optimizer: Optimizer, steps: int) -> LRScheduler:
    """Return a linear warm-up over the first `warmup_ratio` of the steps, then a cosine down to 0."""
    warmup = round(steps * config.warmup_ratio)
    return get_cosine_schedule_with_warmup(optimizer, warmup, steps)
