"""What a run trains: the model for a home's vocabulary, which of its weights decay, and the learning rate's course."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_cosine_schedule_with_warmup

from casita.modeling.configuration_casita import NUM_RESERVED_ROWS, CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.config import TrainConfig

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
    """A fresh model for the home's vocabulary; its weights follow from torch's current seed."""
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
        logit_scale_init=1 / config.temperature,
        logit_scale_max=config.max_logit_scale,
    )
    model = CasitaModel(architecture)
    model.logit_bias.requires_grad_(False)  # added to every logit alike, it moves no softmax
    if table:
        model.set_sensor_embeddings(table)
    else:
        model.set_sensor_vocabulary(processor.vocab, rooms)
    return model


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


def make_scheduler(config: TrainConfig, optimizer: Optimizer, steps: int) -> LRScheduler:
    """Linear warm-up over the first `warmup_ratio` of the steps, then a cosine down to 0."""
    warmup = round(steps * config.warmup_ratio)
    return get_cosine_schedule_with_warmup(optimizer, warmup, steps)
