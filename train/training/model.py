"""What a run trains: the model for a home's vocabulary, which of its weights decay, and the learning rate's course."""

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

SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "projection_dim")
SAME_NAME = (  # in TrainConfig and in CasitaConfig
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
    """A fresh model for the home's vocabulary; its weights follow from torch's current seed.

    With `masked_weight` it carries the head of `CasitaForMaskedEventModeling` as `head`, so that what is published
    loads as either. Parts that no loss reaches are frozen.
    """
    sensors, states = zip(*(key.rsplit("_", 1) for key in processor.vocab), strict=True)
    rooms = rooms_of(sensors, processor) if config.embedding_source == "learned" else []
    options = {name: getattr(config, name) for name in SIZES if getattr(config, name) is not None}
    architecture = CasitaConfig.from_preset(
        config.preset,
        **options,
        **{name: getattr(config, name) for name in SAME_NAME},
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
    theirs, their_processor = load_published(source)
    names, other_names = (
        [name for name, _ in each.named_parameters() if not name.startswith(("logit_", "head."))]
        for each in (model, theirs)
    )
    own, state = model.state_dict(), theirs.state_dict()
    ours, other = (c.image_embeddings or c.embedding_source for c in (model.config, theirs.config))
    differs = [f"rows of {other}, here {ours}"] if other != ours else []
    if not differs and model.config.embedding_source == "learned" and processor.vocab != their_processor.vocab:
        differs = [f"learned embeddings of home {their_processor.home}'s sensor states, here {processor.home}'s"]
    shapes = [
        (name, *(tuple(each[name].shape) if name in each else "none" for each in (state, own)))
        for name in dict.fromkeys([*names, *other_names])
    ]
    differs += [f"{name} {there}, here {here}" for name, there, here in shapes if there != here]
    if differs:
        more = f"; and {len(differs) - 1} more" if len(differs) > 1 else ""
        raise ValueError(
            f"init_from={source}: its weights do not fit: {differs[0]}{more}. Give the settings it was trained with "
            "(its config.yaml has them), or init_from none."
        )
    model.load_state_dict({name: state[name] for name in names}, strict=False)
    if hasattr(model, "head"):
        head: Any = CasitaForMaskedEventModeling.from_pretrained(model_directory_of(source)).head
        cast(nn.Module, model.head).load_state_dict(head.state_dict())


class TrainedModel(nn.Module):
    """All that a run trains or remembers, so that its state is a checkpoint: `model`, and `queue` if there is one.

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
        self.around = nn.ModuleList()
        if config.context_weight:
            self.around.extend(CasitaProjection(model.config, model.config.hidden_size) for _ in range(2))
            self.around.apply(model._init_weights)
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
        around: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """With `texts` `(b, T)`: `sensors` and `texts` `(b, P)`, unit rows; with `masked`: `masked_loss`, a scalar.

        With `around` `(b, 2, T)`, the captions before and after, also `context_texts` `(b, 2, P)`, and
        `context_sensors` `(b, 2, P)`, what the window alone makes of them through heads of their own.

        `inputs` are the model's own, `masked` those with events hidden, and with `labels` and `num_items_in_batch`.
        `dropout`: let the windows see the dropout of that moment; the masked ones go on with today's.
        """
        found: dict[str, Tensor] = {}
        if masked is not None:
            found["masked_loss"] = self._masked[0](**masked).loss
        if texts is not None:
            with dropout.again() if dropout else nullcontext():
                out = self.model(**inputs, text_embeds=texts)
            found |= {"sensors": out.sensor_embeds, "texts": out.text_embeds}
            if around is not None:
                pooled, text = out.sensor_model_output.pooler_output, self.model.text_projection(around)
                guessed = torch.stack([head(pooled) for head in self.around], dim=1)
                found["context_sensors"], found["context_texts"] = (
                    nn.functional.normalize(rows, dim=-1) for rows in (guessed, text)
                )
        return found


def rooms_of(sensors: Sequence[str], processor: CasitaProcessor) -> list[str]:
    """The room of each sensor; `ValueError` names those that the layout lacks."""
    if lost := sorted({sensor for sensor in sensors if sensor not in processor.rooms}):
        raise ValueError(
            f"home {processor.home}: the layout has no room for sensors {', '.join(lost[:5])}. "
            "Add them to it, or leave their events out: casita windows DIR --unplaced drop"
        )
    return [processor.rooms[sensor] for sensor in sensors]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay for the matrices of linear maps; none for norms, biases, the scale, the CLS token and embeddings.

    An embedding's row gets a gradient only when its sensor speaks, but decay at every step: rare sensors would fade.
    """
    decayed = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear)}
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if id(p) in decayed], "weight_decay": weight_decay},
        {"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0},
    ]


def make_scheduler(config: RunConfig, optimizer: Optimizer, steps: int) -> LRScheduler:
    """Linear warm-up over the first `warmup_ratio` of the steps, then a cosine down to 0."""
    warmup = round(steps * config.warmup_ratio)
    return get_cosine_schedule_with_warmup(optimizer, warmup, steps)
