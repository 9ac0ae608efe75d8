"""Windows, captions and label prompts as rows of the shared space, and the same model before any training."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from casita.modeling.modeling_casita import CasitaModel
from casita.modeling.pipeline_casita import window_batches


@dataclass(frozen=True)
class Encoded:
    """Windows after a model: `base` `(N, C)` the frozen embedding, `sensor` and `text` `(N, P)` unit rows."""

    base: np.ndarray
    sensor: np.ndarray
    text: np.ndarray

    def take(self, rows: np.ndarray) -> "Encoded":
        """Only these windows, in this order."""
        return Encoded(self.base[rows], self.sensor[rows], self.text[rows])


@torch.inference_mode()
def embed_windows(
    model: CasitaModel,
    inputs: Mapping[str, np.ndarray],
    *,
    batch_size: int = 256,
    told: str = "windows",
    progress: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """The processor's arrays `(N, L, ...)` to base embeddings `(N, C)` and unit rows `(N, P)` of the shared space."""
    windows = len(inputs["attention_mask"])
    base = np.empty((windows, model.config.hidden_size), dtype=np.float32)
    projected = np.empty((windows, model.config.projection_dim), dtype=np.float32)
    bar = tqdm(total=windows, desc=f"encode, {told}", unit=" windows", disable=not progress)
    for rows, batch in window_batches(inputs, batch_size, next(model.parameters()).device):
        pooled = model.sensor_model(**batch).pooler_output
        base[rows] = pooled.float().cpu().numpy()
        projected[rows] = nn.functional.normalize(model.sensor_projection(pooled).float(), dim=-1).cpu().numpy()
        bar.update(len(rows))
    bar.close()
    return base, projected


@torch.inference_mode()
def embed_captions(model: CasitaModel, text: np.ndarray, *, batch_size: int = 8192) -> np.ndarray:
    """Frozen sentence embeddings `(N, T)` to unit rows `(N, P)` of the shared space."""
    device = next(model.parameters()).device
    parts = [
        model.get_text_features(torch.from_numpy(text[i : i + batch_size]).to(device)).pooler_output.float()
        for i in range(0, len(text), batch_size)
    ]
    return nn.functional.normalize(torch.cat(parts), dim=-1).cpu().numpy()


def encode(model: CasitaModel, inputs: Mapping[str, np.ndarray], text: np.ndarray, **how: Any) -> Encoded:
    """Both towers over the same windows; `how` goes to `embed_windows`."""
    base, sensor = embed_windows(model, inputs, **how)
    return Encoded(base, sensor, embed_captions(model, text))


def untrained(model: CasitaModel, seed: int) -> CasitaModel:
    """The same architecture and table as `model`, its weights drawn anew by `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = CasitaModel(copy.deepcopy(model.config))
    fresh.load_state_dict(dict(model.named_buffers()), strict=False)  # the table is data, not weights
    return nn.Module.to(fresh, next(model.parameters()).device).eval()


def label_prototypes(model: CasitaModel, prompts: Mapping[str, Sequence[str]], vectors: np.ndarray) -> np.ndarray:
    """Unit rows `(K, P)`: for each label the mean direction of its prompts.

    Args:
        vectors: sentence embeddings `(S, T)` of all prompts, label after label.
    """
    ends = np.cumsum([len(told) for told in prompts.values()])
    means = np.stack([part.mean(axis=0) for part in np.split(embed_captions(model, vectors), ends[:-1])])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def scale_of(model: CasitaModel) -> float:
    """The factor on cosines with which the model was trained (1 / temperature)."""
    return min(model.logit_scale.exp().item(), float(model.config.logit_scale_max))
