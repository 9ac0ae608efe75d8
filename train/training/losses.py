"""InfoNCE, the queue of earlier batches, and how rows reach other processes: the same numbers on one or on many."""

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

EMPTY = -1  # the caption id of a place in the queue that nothing has filled yet


class _GatherWithGradient(torch.autograd.Function):
    """Forward: every rank's rows, in rank order. Backward: the sum of all ranks' gradients for this rank's rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every rank's loss saw this rank's rows, so each has a share of their gradient; `all_gather` alone loses it.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def is_distributed() -> bool:
    """Return whether this process shares its batches with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather(rows: Tensor) -> Tensor:
    """Gather all ranks' `(b, ...)` rows as `(ranks * b, ...)` in rank order, no gradient. Call on all, equal `b`."""
    if not is_distributed():
        return rows
    gathered = rows.new_empty((dist.get_world_size(), *rows.shape))
    dist.all_gather(list(gathered.unbind()), rows.detach().contiguous())
    return gathered.flatten(0, 1)


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Gather rows as `gather` does, with a gradient that flows back to the rank that each row came from.

    Under DistributedDataParallel, which averages over ranks, a loss that is a mean over a rank's rows then has
    exactly the gradient that one process with the whole batch has.
    """
    return _GatherWithGradient.apply(rows) if is_distributed() else rows


class NegativeQueue(nn.Module):
    """The last `size` windows and captions of earlier batches, newest first: negatives without a forward pass.

    `sensors` and `texts` `(Q, P)` unit rows, `caption_ids` `(Q,)`: a row with a query's caption is no negative of it.
    All are persistent buffers, so a checkpoint holds them. Queue: He et al. 2020 (arXiv:1911.05722), sec. 3.2; there
    the keys come from a slowly moving second encoder, here from the encoder itself, some steps ago.
    """

    def __init__(self, size: int, width: int):
        super().__init__()
        self.sensors = nn.Buffer(torch.zeros(size, width), persistent=True)
        self.texts = nn.Buffer(torch.zeros(size, width), persistent=True)
        self.caption_ids = nn.Buffer(torch.full((size,), EMPTY), persistent=True)

    @torch.no_grad()
    def push(self, sensors: Tensor, texts: Tensor, caption_ids: Tensor) -> None:
        """Add all ranks' rows `(b, P)`, `(b, P)`, `(b,)`; the oldest leave. Call on every rank.

        Call it after the batch's backward pass: a batch must never meet itself in the queue.
        """
        for queue, rows in ((self.sensors, sensors), (self.texts, texts), (self.caption_ids, caption_ids)):
            queue.copy_(torch.cat([gather(rows.detach().to(queue.dtype)), queue])[: len(queue)])

    def are_negatives(self, caption_ids: Tensor) -> Tensor:
        """Return which of the queue are negatives of rows with these captions: `(b,)` to `(b, Q)` bool."""
        return (self.caption_ids != EMPTY) & (self.caption_ids != caption_ids[:, None])


def info_nce(
    queries: Tensor,
    keys: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    scale: Tensor,
    queue_keys: Tensor | None = None,
    are_negatives: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of picking each query's key: `(b, P)`, `(B, P)` unit rows, `(b,)`, `(B,)` ids.

    L = -1/b sum_i 1/|P(i)| sum_{j in P(i)} log softmax_j(scale * q_i k_j), with P(i) the keys of the query's caption.
    `queue_keys` `(Q, P)` join the softmax's denominator where `are_negatives` `(b, Q)` says so.
    """
    positives = (query_ids[:, None] == key_ids[None, :]).float()  # (b, B)
    logits = scale * queries @ keys.T
    if queue_keys is not None and are_negatives is not None:
        queue_logits = (scale * queries @ queue_keys.T).masked_fill(~are_negatives, -torch.inf)
        logits = torch.cat([logits, queue_logits], dim=1)
    log_shares = logits.log_softmax(dim=1)[:, : len(keys)]
    means = (log_shares * positives).sum(dim=1) / positives.sum(dim=1)
    return -means.mean()


class ContrastiveLoss(nn.Module, ABC):
    """A comparison of the windows of one batch with its captions: `InfoNCE` or `SigmoidLoss`.

    Windows with the same caption are each other's positives: as negatives they would have the model separate what the
    text cannot.
    """

    def forward(
        self,
        sensor_embeds: Tensor,
        text_embeds: Tensor,
        caption_ids: Tensor,
        log_scale: Tensor,
        bias: Tensor,
        queue: NegativeQueue | None = None,
        local: bool = False,
    ) -> Tensor:
        """Return the loss over this rank's rows, a scalar, from two `(b, P)` of unit rows and `(b,)` caption ids.

        Call on every rank, with equal `b`: the mean over ranks is then the loss of the whole batch. `local`: this
        process has the whole batch, although there are others.
        """
        # bfloat16 has 3 digits: too few for scale 100
        scale = log_scale.float().exp()
        return self.score(sensor_embeds.float(), text_embeds.float(), caption_ids, scale, bias.float(), queue, local)

    @abstractmethod
    def score(
        self,
        sensors: Tensor,
        texts: Tensor,
        caption_ids: Tensor,
        scale: Tensor,
        bias: Tensor,
        queue: NegativeQueue | None,
        local: bool,
    ) -> Tensor:
        """Return the loss of `forward` from float32 numbers, with the scale itself."""


class InfoNCE(ContrastiveLoss):
    """Symmetric InfoNCE with several positives: half windows-to-captions, half captions-to-windows.

    Each rank scores its rows against all ranks', so memory grows with B^2 / ranks. The bias is not read: added to
    every logit alike, it moves no softmax.

    InfoNCE: van den Oord et al. 2018 (arXiv:1807.03748), eq. 4; symmetric with a learned scale: Radford et al. 2021
    (arXiv:2103.00020), fig. 3; the mean over several positives outside of the logarithm: Khosla et al. 2020
    (arXiv:2004.11362), eq. 2. The least value is the positives' entropy (log k for k equal captions), not 0.
    """

    def score(
        self,
        sensors: Tensor,
        texts: Tensor,
        caption_ids: Tensor,
        scale: Tensor,
        bias: Tensor,
        queue: NegativeQueue | None,
        local: bool,
    ) -> Tensor:
        all_ids = caption_ids if local else gather(caption_ids)
        all_texts = texts if local else gather_with_gradient(texts)
        all_sensors = sensors if local else gather_with_gradient(sensors)
        queue_texts = queue.texts if queue else None
        queue_sensors = queue.sensors if queue else None
        negatives = queue.are_negatives(caption_ids) if queue else None
        to_text = info_nce(sensors, all_texts, caption_ids, all_ids, scale, queue_texts, negatives)
        to_sensor = info_nce(texts, all_sensors, caption_ids, all_ids, scale, queue_sensors, negatives)
        return (to_text + to_sensor) / 2
