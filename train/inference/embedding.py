"""Windows, captions and label prompts as rows of the shared space, and the same model before any training."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from casita.modeling.modeling_casita import CasitaModel
from casita.modeling.pipeline_casita import window_batches

# Probes of several layers read the last four, as BERT's feature-based use (Devlin et al. 2019, table 7) and DINOv2's
# linear protocol (Oquab et al. 2024) do: later ones serve the training's own task, earlier ones keep more.
LAST_LAYERS = 4


class WindowEmbeddings(NamedTuple):
    """Windows after the sensor tower: `base` `(N, C)` the frozen embedding, `sensor` `(N, P)` unit rows of the shared
    space, `layers` `(N, 2 M C)` side by side the means over the window's events of the last M hidden states and then
    the maxima, before the final norm (what the first layer reads is one of them); M is 0 where nobody asked for it."""

    base: np.ndarray
    sensor: np.ndarray
    layers: np.ndarray


@dataclass(frozen=True)
class AlignedEmbeddings:
    """Embedded windows: `base`, `sensor`, `layers` of `WindowEmbeddings`, `text` `(N, P)` unit rows of captions."""

    base: np.ndarray
    sensor: np.ndarray
    layers: np.ndarray
    text: np.ndarray

    def take(self, rows: np.ndarray) -> "AlignedEmbeddings":
        """Keep only these windows, in this order."""
        return AlignedEmbeddings(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: "Sequence[AlignedEmbeddings]") -> "AlignedEmbeddings":
        """Join the windows of all parts, one part after the other."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@torch.inference_mode()
def embed_windows(
    model: CasitaModel,
    inputs: Mapping[str, np.ndarray],
    *,
    layers: int = 0,
    batch_size: int = 256,
    label: str = "windows",
    progress: bool = True,
) -> WindowEmbeddings:
    """Embed the processor's arrays `(N, L, ...)`; with means and maxima of the last `layers` hidden states.

    Where there are fewer hidden states, all are taken. `label` stands on the progress bar.
    """
    windows = len(inputs["attention_mask"])
    width = model.config.hidden_size
    states = min(layers, 1 + model.config.num_hidden_layers)
    embeddings = WindowEmbeddings(
        base=np.empty((windows, width), dtype=np.float32),
        sensor=np.empty((windows, model.config.projection_dim), dtype=np.float32),
        layers=np.empty((windows, 2 * states * width), dtype=np.float32),
    )
    bar = tqdm(total=windows, desc=f"encode, {label}", unit=" windows", disable=not progress)
    for rows, batch in window_batches(inputs, batch_size, next(model.parameters()).device):
        out = model.sensor_model(**batch, output_hidden_states=bool(layers))
        shared = model.sensor_projection(out.pooler_output).float()
        embeddings.base[rows] = out.pooler_output.float().cpu().numpy()
        embeddings.sensor[rows] = nn.functional.normalize(shared, dim=-1).cpu().numpy()
        if layers:
            pooled = _pooled(out.hidden_states[-layers:], batch["attention_mask"])
            embeddings.layers[rows] = pooled.cpu().numpy()
        bar.update(len(rows))
    bar.close()
    return embeddings


def _pooled(states: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Pool M states `(b, 1 + L, C)`, CLS first, by `mask` `(b, L)`: `(b, 2 M C)` means over events, then maxima.

    Both, as ULMFiT's classifier reads them (Howard & Ruder 2018, concat pooling): a mean says how often, a maximum
    whether at all.
    """
    events = [state[:, 1:].float() for state in states]
    is_event = (mask != 0)[..., None]
    means = [(rows * is_event).sum(dim=1) / is_event.sum(dim=1) for rows in events]
    maxima = [rows.masked_fill(~is_event, -torch.inf).amax(dim=1) for rows in events]
    return torch.cat([*means, *maxima], dim=1)


@torch.inference_mode()
def embed_captions(model: CasitaModel, text: np.ndarray, *, batch_size: int = 8192) -> np.ndarray:
    """Embed frozen sentence embeddings `(N, T)` as unit rows `(N, P)` of the shared space."""
    device = next(model.parameters()).device
    parts = [
        model.get_text_features(torch.from_numpy(text[i : i + batch_size]).to(device)).pooler_output.float()
        for i in range(0, len(text), batch_size)
    ]
    return nn.functional.normalize(torch.cat(parts), dim=-1).cpu().numpy()


def encode(
    model: CasitaModel, inputs: Mapping[str, np.ndarray], text: np.ndarray, **options: Any
) -> AlignedEmbeddings:
    """Embed the same windows by both towers; `options` go to `embed_windows`."""
    embeddings = embed_windows(model, inputs, layers=LAST_LAYERS, **options)
    return AlignedEmbeddings(*embeddings, embed_captions(model, text))


def untrained(model: CasitaModel, seed: int) -> CasitaModel:
    """Build the same architecture and table as `model`, its weights drawn anew by `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = CasitaModel(copy.deepcopy(model.config))
    fresh.load_state_dict(dict(model.named_buffers()), strict=False)  # the table is data, not weights
    return nn.Module.to(fresh, next(model.parameters()).device).eval()


def label_prototypes(model: CasitaModel, prompts: Mapping[str, Sequence[str]], vectors: np.ndarray) -> np.ndarray:
    """Return unit rows `(K, P)`: for each label the mean direction of its prompts.

    Args:
        vectors: sentence embeddings `(S, T)` of all prompts, label after label.
    """
    ends = np.cumsum([len(sentences) for sentences in prompts.values()])
    means = np.stack([part.mean(axis=0) for part in np.split(embed_captions(model, vectors), ends[:-1])])
    return means / np.linalg.norm(means, axis=1, keepdims=True)


def logit_scale(model: CasitaModel) -> float:
    """Return the factor on cosines with which the model was trained (1 / temperature)."""
    return min(model.logit_scale.exp().item(), float(model.config.logit_scale_max))
