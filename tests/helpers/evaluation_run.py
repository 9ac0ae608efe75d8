"""A run over the made-up home of `evaluation_home`, with a model that was never trained."""

import json
from types import SimpleNamespace

import numpy as np
import torch
from evaluation_home import LAYOUT, SENSORS

from casita.modeling.configuration_casita import CasitaConfig
from casita.modeling.modeling_casita import CasitaModel
from casita.processing.processing_casita import CasitaProcessor
from casita.processing.sensor_embeddings import SensorEmbeddingTable
from casita.train.configs.train_config import TrainConfig, save_config
from casita.train.evaluation.inputs import load_inputs, load_run


def made_table(keys, home):
    """The same rows for the same keys in every home."""
    rows = np.stack([np.random.default_rng(list(key.encode())).normal(size=24) for key in keys]).astype(np.float32)
    return SensorEmbeddingTable(
        keys=keys, embeddings=rows / np.linalg.norm(rows, axis=1, keepdims=True), home=home, vision_model="made up",
        revision=None, output="rows", image_size=224, pictures_hash="", normalization="l2", mean=None,
    )  # fmt: skip


def make_run(run, home):
    """A run whose model was drawn at random and never trained, laid out as training leaves it."""
    keys = sorted({f"{sensor}_{state}" for sensor in SENSORS for state in ("ON", "OFF")})
    config = CasitaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, projection_dim=16,
        vocab_size=3 + len(keys), image_embedding_dim=24, text_embedding_dim=384, use_time_deltas=True,
    )  # fmt: skip
    torch.manual_seed(5)
    model = CasitaModel(config)
    model.set_sensor_embeddings(made_table(keys, "small"))
    model.save_pretrained(run / "model")
    models = {"text_model": "minilm", "vision_model": "made up"}
    CasitaProcessor(keys, "small", use_time_deltas=True, **models).save_pretrained(run / "model")
    save_config(
        TrainConfig(data=str(home.root), out=str(run), preset="tiny", text_model="minilm"), run / "config.yaml"
    )
    lines = [{"step": s, "split": "train" if s % 4 else "validation", "loss": 3 / s, "lr": 1e-3} for s in range(1, 21)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def learned_model(keys):
    sensors = sorted({key.rsplit("_", 1)[0] for key in keys})
    config = CasitaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, projection_dim=16,
        vocab_size=3 + len(keys), embedding_source="learned", num_sensors=len(sensors), num_states=2, num_rooms=7,
        text_embedding_dim=384, use_time_deltas=True,
    )  # fmt: skip
    model = CasitaModel(config)
    model.set_sensor_vocabulary(keys, [LAYOUT["sensors"][key.rsplit("_", 1)[0]]["room"] for key in keys])
    return model


def load_all(run, home):
    """Model, the processor's arrays of all windows, and the evaluation's inputs that they come from."""
    config, model, processor = load_run(run)
    data = load_inputs(home, config, model)
    arrays = processor.encode_windows(data.windows["sensor_keys"], data.windows["seconds"])
    return SimpleNamespace(model=model, arrays=arrays, data=data, config=config)
