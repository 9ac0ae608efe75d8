"""Inputs of the tower: rows of the home's table, with coordinates and time deltas where the config wants them.

Letters as in the model file: `B` windows, `L` events, `C` width, `D` width of the table, `V` its rows.
"""

import math
from typing import Any

import torch
from torch import nn

from .configuration_casita import NUM_RESERVED_ROWS, CasitaConfig


# ---------------------------------------------------------------------------------------------------------- functions
def fourier_features(coordinates: torch.Tensor, bands: int) -> torch.Tensor:
    """Encode `(B, L, 2)` coordinates in [0, 1] as `(B, L, 4 * bands)`: sin and cos of c * 2^k * pi, k < bands."""
    frequencies = math.pi * 2.0 ** torch.arange(bands, device=coordinates.device, dtype=torch.float32)
    angles = coordinates.float()[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def time_delta_bucket(delta_s: torch.Tensor, buckets: int, max_s: float) -> torch.Tensor:
    """Return the log bucket of seconds since the previous event: floor(ln(dt + 1) / ln(max + 1) * (buckets - 1))."""
    scaled = delta_s.float().clamp(min=0).log1p() / math.log1p(max_s) * (buckets - 1)
    return scaled.floor().clamp(max=buckets - 1).long()


def reserved_rows(rows: int, width: int) -> torch.Tensor:
    """Return `(rows, width)` fixed unit vectors, unlike each other: padding, unknown, mask, and rows not set yet.

    Deterministic and free of random numbers, so that `__init__`, `_init_weights` and every home get the same ones.
    """
    row = torch.arange(1, rows + 1, dtype=torch.float32)[:, None]
    column = torch.arange(1, width + 1, dtype=torch.float32)[None, :]
    return nn.functional.normalize(torch.sin(row * 0.7 + column * (1.0 + row * 0.6180339)), dim=-1)


def require(tensor: torch.Tensor | None, name: str) -> torch.Tensor:
    """Return `tensor`; `ValueError` when it is None."""
    if tensor is None:
        raise ValueError(f"the config asks for {name}, but forward got none. CasitaProcessor gives them.")
    return tensor


# ------------------------------------------------------------------------------------------------------------ tables
class CasitaFrozenTable(nn.Embedding):
    """`(V, D)` image embeddings as a persistent buffer: saved and moved with the model, never trained.

    An `nn.Embedding`, so that `get_input_embeddings()` gives what transformers expects.
    """

    def __init__(self, num_rows: int, width: int, padding_idx: int | None = None):
        super().__init__(num_rows, width, padding_idx=padding_idx)
        del self._parameters["weight"]
        self.weight = nn.Buffer(reserved_rows(num_rows, width), persistent=True)


class CasitaLearnedTable(nn.Module):
    """Learned embeddings, the baseline without pictures: a row is the sum of its sensor's, state's and room's one.

    Each kind holds the reserved entries first, so padding, unknown and mask are trained ones here.
    """

    def __init__(self, config: CasitaConfig):
        super().__init__()
        self.sensor = nn.Embedding(NUM_RESERVED_ROWS + config.num_sensors, config.hidden_size)
        self.state = nn.Embedding(NUM_RESERVED_ROWS + config.num_states, config.hidden_size)
        self.room = nn.Embedding(NUM_RESERVED_ROWS + config.num_rooms, config.hidden_size)
        # (V, 3): sensor, state, room of a row
        self.parts = nn.Buffer(self.placeholder(config.vocab_size), persistent=True)

    @staticmethod
    def placeholder(rows: int) -> torch.Tensor:
        """Return `(rows, 3)` parts for a table without a vocabulary yet: the reserved rows, then the mask's."""
        return torch.arange(rows)[:, None].clamp(max=NUM_RESERVED_ROWS - 1).repeat(1, 3)

    @property
    def weight(self) -> torch.Tensor:
        """Return `(V, C)`, the sum of each row's three embeddings."""
        return self.sensor(self.parts[:, 0]) + self.state(self.parts[:, 1]) + self.room(self.parts[:, 2])

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(input_ids, self.weight)


class CasitaInputProjection(nn.Module):
    """A linear map, `(..., D)` to `(..., C)`. Frozen, it is a buffer: neither optimizer nor loader can thaw it."""

    def __init__(self, config: CasitaConfig):
        super().__init__()
        kind = nn.Buffer if config.freeze_input_projection else nn.Parameter
        initial = self.initial(config.hidden_size, config.image_embedding_dim)
        self.weight = kind(initial.to(torch.get_default_device(), torch.get_default_dtype()))

    @staticmethod
    def initial(width_out: int, width_in: int) -> torch.Tensor:
        """Return an orthogonal map of a fixed seed: a frozen one must not bend, and is the same in every model."""
        # Not nn.init.orthogonal_: transformers switches torch's initialisers off while it loads, and a buffer's value
        # must be the same from __init__ as from _init_weights.
        seed = torch.Generator().manual_seed(0)
        weight = torch.randn(width_out, width_in, generator=seed, device="cpu", dtype=torch.float32)
        tall, upper = torch.linalg.qr(weight if width_out >= width_in else weight.t())
        tall = tall * upper.diagonal().sign()
        return tall if width_out >= width_in else tall.t().contiguous()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        # The table's rows have length 1: without the factor their numbers would be 1/sqrt(C) of the CLS token's.
        return nn.functional.linear(rows.to(self.weight.dtype), self.weight) * len(self.weight) ** 0.5


class CasitaEmbeddings(nn.Module):
    """Embeddings of the events behind a CLS token: rows of the table, with coordinates and time deltas if wanted."""

    def __init__(self, config: CasitaConfig):
        super().__init__()
        self.config = config
        self.table: nn.Module
        if config.embedding_source == "image":
            self.table = CasitaFrozenTable(config.vocab_size, config.image_embedding_dim, config.pad_token_id)
            self.input_projection = CasitaInputProjection(config)
        else:
            self.table = CasitaLearnedTable(config)
        self.cls_token = nn.Parameter(torch.empty(config.hidden_size))
        if config.use_coordinates:
            self.coordinates = nn.Linear(4 * config.fourier_bands, config.hidden_size)
        if config.use_time_deltas:
            self.time_deltas = nn.Embedding(config.time_delta_buckets, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def project(self, rows: Any) -> torch.Tensor:
        """Project `(..., D)` rows of the table to `(..., C)`; learned ones have width C already."""
        return self.input_projection(rows) if self.config.embedding_source == "image" else rows

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        time_deltas: torch.Tensor | None = None,
        coordinates: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embed `(B, L)` ids or `(B, L, D)` rows as `(B, 1 + L, C)`."""
        if input_ids is not None:
            # Project the table, then gather: the projection costs O(V), not O(B * L).
            x = nn.functional.embedding(input_ids, self.project(self.table.weight))
        else:
            x = self.project(inputs_embeds)
        if self.config.use_coordinates:
            features = fourier_features(require(coordinates, "coordinates"), self.config.fourier_bands)
            x = x + self.coordinates(features.to(x.dtype))
        if self.config.use_time_deltas:
            bucket = time_delta_bucket(
                require(time_deltas, "time_deltas"), self.config.time_delta_buckets, self.config.time_delta_max_s
            )
            x = x + self.time_deltas(bucket)
        return self.dropout(torch.cat([self.cls_token.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1))
