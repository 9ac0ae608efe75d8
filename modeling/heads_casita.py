"""Masked events: spans of a window that are masked, and the head that predicts the sensor state of each.

Letters as in the model file: `B` windows, `L` events, `C` width, `D` width of the table, `V` its rows.
"""

import torch
from torch import nn

from .configuration_casita import NUM_RESERVED_ROWS, CasitaConfig

IGNORED = -100  # the label of an event that is not scored, as everywhere in transformers


def mask_spans(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    vocab_size: int,
    mask_token_id: int = 2,
    start_probability: float = 0.1,
    mean_length: float = 5.0,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask spans of events: `(B, L)` rows to `(B, L)` rows with some replaced, and `(B, L)` labels.

    A span starts at each event with `start_probability` and is as long as an exponential draw of mean `mean_length`,
    rounded, at least 1 (spans after SpanBERT, Joshi et al. 2020). Spans may overlap: 34 % of the events of a window of
    20 are masked, 38 % of 50; with `start_probability=0.25` 64 and 70 %. Of the masked ones 80 % become the mask row,
    10 % any row, 10 % stay (BERT, Devlin et al. 2019). Padding and reserved rows are never masked; of every window
    with another event at least one is.

    Args:
        attention_mask: `(B, L)`, 0 for padding; None when there is none.
        vocab_size: V, so that a random row is one of the home's.
        generator: on the device of `input_ids`; the same state gives the same spans.

    Returns:
        The model's `input_ids`, and `labels`: the row that was masked, -100 where none was.
    """
    if not 0 < start_probability <= 1 or mean_length <= 0:
        raise ValueError(
            f"start_probability={start_probability} must lie in (0, 1], mean_length={mean_length} above 0."
        )

    def uniform() -> torch.Tensor:
        return torch.rand(input_ids.shape, generator=generator, device=input_ids.device)

    events = input_ids >= NUM_RESERVED_ROWS
    if attention_mask is not None:
        events &= attention_mask != 0
    place = torch.arange(input_ids.shape[1], device=input_ids.device)
    length = (-mean_length * uniform().neg().log1p()).round().clamp(min=1)
    ends = torch.where(events & (uniform() < start_probability), place + length, 0).cummax(dim=1).values
    masked = events & (ends > place)
    chosen = torch.where(events, uniform(), -1.0).argmax(dim=1, keepdim=True)  # for windows in which no span started
    masked |= events & (place == chosen) & ~masked.any(dim=1, keepdim=True)
    kind = uniform()
    any_row = torch.randint(
        NUM_RESERVED_ROWS, vocab_size, input_ids.shape, generator=generator, device=input_ids.device
    )
    replacement = torch.where(kind < 0.8, mask_token_id, torch.where(kind < 0.9, any_row, input_ids))
    return torch.where(masked, replacement, input_ids), torch.where(masked, input_ids, IGNORED)


class CasitaMaskedEventHead(nn.Module):
    """A head that scores every row of the table for every event: `(B, L, C)` and `(V, D)` rows to `(B, L, V)` logits.

    A prediction is a vector of the table's width and its score is the cosine with a row over
    `masked_event_temperature`. No weight belongs to a row, so the head reads whichever home's table is set. Reserved
    rows get the lowest number there is: no event is one.
    """

    def __init__(self, config: CasitaConfig):
        super().__init__()
        self.temperature = config.masked_event_temperature
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        # Rows of a learned table have the model's own width.
        image = config.embedding_source == "image"
        self.to_row = nn.Linear(config.hidden_size, config.image_embedding_dim) if image else nn.Identity()

    def forward(self, hidden_states: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Score `(V, D)` rows for `(B, L, C)` events: `(B, L, V)` logits."""
        predicted = self.to_row(self.norm(nn.functional.gelu(self.dense(hidden_states))))
        predicted = nn.functional.normalize(predicted, dim=-1)
        logits = predicted @ nn.functional.normalize(rows, dim=-1).to(predicted.dtype).t() / self.temperature
        reserved = torch.arange(len(rows), device=logits.device) < NUM_RESERVED_ROWS
        return logits.masked_fill(reserved, torch.finfo(logits.dtype).min)


def mask_coordinates(
    coordinates: torch.Tensor | None, input_ids: torch.Tensor | None, labels: torch.Tensor | None, mask_token_id: int
) -> torch.Tensor | None:
    """Return `(B, L, 2)` coordinates with the middle of the plan wherever an event is to be predicted.

    A sensor's place is unique: left in, predicting the masked sensor would be reading it off.
    """
    if coordinates is None:
        return None
    if input_ids is not None:
        coordinates = coordinates.masked_fill((input_ids == mask_token_id)[..., None], 0.5)
    return coordinates if labels is None else coordinates.masked_fill((labels != IGNORED)[..., None], 0.5)
