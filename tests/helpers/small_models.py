"""Small models of every kind, with batches and tables for them."""

import numpy as np
import torch

from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import (
    CasitaModel,
)
from casita.processing.sensor_embeddings import SensorEmbeddingTable

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "projection_dim": 16,
    "image_embedding_dim": 24,
    "text_embedding_dim": 12,
}


KINDS = {
    "image": {},
    "everything": {
        "use_coordinates": True,
        "use_time_deltas": True,
        "alibi_distance": "time",
        "projection_type": "mlp",
    },
    "learned": {"embedding_source": "learned", "num_sensors": 4, "num_states": 2, "num_rooms": 3},
}


def make_model(kind="image", **kwargs):
    torch.manual_seed(0)
    return CasitaModel(CasitaConfig(vocab_size=20, **SMALL, **KINDS[kind], **kwargs)).eval()


def make_batch(batch=4, length=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "input_ids": torch.randint(3, 20, (batch, length), generator=generator),
        "attention_mask": torch.ones(batch, length, dtype=torch.long),
        "time_deltas": torch.rand(batch, length, generator=generator) * 100,
        "coordinates": torch.rand(batch, length, 2, generator=generator),
        "timestamps": (torch.rand(batch, length, generator=generator) * 60).cumsum(1),
    }


def make_table(rows=17, width=24, home="b", seed=1, **kwargs):
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    metadata = {
        "vision_model": "pixels",
        "revision": None,
        "output": "pooled",
        "image_size": 224,
        "pictures_hash": "0",
        "normalization": "l2",
        "mean": None,
        **kwargs,
    }
    keys = [f"M{i:03d}_{state}" for i in range(rows) for state in ("ON", "OFF")][:rows]
    return SensorEmbeddingTable(keys=keys, embeddings=vectors, home=home, **metadata)
