"""A small published model with untrained weights, whose text model is the real MiniLM from its pip package."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from training_record import TRAINING

from casita.datasets_scripts.captions.text_embeddings import minilm_directory
from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.train.inference.model_directory import publish

VOCAB = ["D001_CLOSE", "D001_OPEN", "M001_OFF", "M001_ON", "M002_OFF", "M002_ON"]
PROMPTS = {
    "Cook": ["Somebody is cooking a meal.", "A person prepares dinner in the kitchen."],
    "Sleep": ["Somebody is asleep in bed."],
    "Leave_Home": ["Somebody leaves the home.", "The front door opens and the home falls silent.", "Nobody is in."],
}


def make_pair(**processor: Any) -> tuple[CasitaModel, CasitaProcessor]:
    torch.manual_seed(0)
    config = CasitaConfig(
        vocab_size=3 + len(VOCAB),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        projection_dim=16,
        image_embedding_dim=24,
        text_embedding_dim=384,
        use_time_deltas=True,
    )
    defaults = {"home": "toy", "length": 8, "text_model": str(minilm_directory()), "label_prompts": PROMPTS}
    return CasitaModel(config).eval(), CasitaProcessor(VOCAB, use_time_deltas=True, **{**defaults, **processor})


def publish_toy(out: Path) -> tuple[Path, CasitaModel, CasitaProcessor]:
    """`out/model` as training leaves it, and what it holds."""
    model, processor = make_pair()
    return publish(model, processor, None, out, TRAINING), model, processor


def make_events(n: int = 30, seed: int = 0) -> list[tuple[str, str, str]]:
    """Half a minute from event to event on the average, and a long silence amid them."""
    rng, now, events = np.random.default_rng(seed), datetime(2024, 5, 1, 7), []
    for i in range(n):
        now += timedelta(seconds=int(rng.integers(1, 60))) + timedelta(hours=2 * (i == n // 3))
        sensor, state = VOCAB[rng.integers(len(VOCAB))].split("_")
        events.append((now.isoformat(" "), sensor, state))
    return events
