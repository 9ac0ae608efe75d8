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
        """Only these windows, in this order."""
        return AlignedEmbeddings(*(getattr(self, each.name)[rows] for each in fields(self)))

    @classmethod
    def joined(cls, parts: "Sequence[AlignedEmbeddings]") -> "AlignedEmbeddings":
        """The windows of all parts, one part after the other."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))


@torch.inference_mode()
def embed_windows(
    model: CasitaModel,
    inputs: Mapping[str, np.ndarray],
    *,
    layers: int = 0,
    batch_size: int = 256,
    told: str = "windows",
    progress: bool = True,
) -> WindowEmbeddings:
    """The processor's arrays `(N, L, ...)` to embeddings; with means and maxima of the last `layers` hidden states, or
    of all where there are fewer."""
    windows, width = len(inputs["attention_mask"]), model.config.hidden_size
    states = min(layers, 1 + model.config.num_hidden_layers)
    found = WindowEmbeddings(
        base=np.empty((windows, width), dtype=np.float32),
        sensor=np.empty((windows, model.config.projection_dim), dtype=np.float32),
        layers=np.empty((windows, 2 * states * width), dtype=np.float32),
    )
    bar = tqdm(total=windows, desc=f"encode, {told}", unit=" windows", disable=not progress)
    for rows, batch in window_batches(inputs, batch_size, next(model.parameters()).device):
        out = model.sensor_model(**batch, output_hidden_states=bool(layers))
        shared = model.sensor_projection(out.pooler_output).float()
        found.base[rows] = out.pooler_output.float().cpu().numpy()
        found.sensor[rows] = nn.functional.normalize(shared, dim=-1).cpu().numpy()
        if layers:
            found.layers[rows] = _pooled(out.hidden_states[-layers:], batch["attention_mask"]).cpu().numpy()
        bar.update(len(rows))
    bar.close()
    return found


def _pooled(states: Sequence[Tensor], mask: Tensor) -> Tensor:
    """`(b, 2 M C)` means, then maxima over the events of `states`, M of `(b, 1 + L, C)`, CLS first; `mask` `(b, L)`.

    Both, as ULMFiT's classifier reads them (Howard & Ruder 2018, concat pooling): a mean tells how often, a maximum
    whether at all.
    """
    events, there = [state[:, 1:].float() for state in states], (mask != 0)[..., None]
    means = [(rows * there).sum(dim=1) / there.sum(dim=1) for rows in events]
    return torch.cat([*means, *(rows.masked_fill(~there, -torch.inf).amax(dim=1) for rows in events)], dim=1)


@torch.inference_mode()
def embed_captions(model: CasitaModel, text: np.ndarray, *, batch_size: int = 8192) -> np.ndarray:
    """Frozen sentence embeddings `(N, T)` to unit rows `(N, P)` of the shared space."""
    device = next(model.parameters()).device
    parts = [
        model.get_text_features(torch.from_numpy(text[i : i + batch_size]).to(device)).pooler_output.float()
        for i in range(0, len(text), batch_size)
    ]
    return nn.functional.normalize(torch.cat(parts), dim=-1).cpu().numpy()


def encode(model: CasitaModel, inputs: Mapping[str, np.ndarray], text: np.ndarray, **how: Any) -> AlignedEmbeddings:
    """Both towers over the same windows; `how` goes to `embed_windows`."""
    return AlignedEmbeddings(*embed_windows(model, inputs, layers=LAST_LAYERS, **how), embed_captions(model, text))


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


def logit_scale(model: CasitaModel) -> float:
    """The factor on cosines with which the model was trained (1 / temperature)."""
    return min(model.logit_scale.exp().item(), float(model.config.logit_scale_max))
