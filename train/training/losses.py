"""InfoNCE, the queue of earlier batches, and how rows reach other processes: the same numbers on one or on many."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

EMPTY = -1  # the group of a place in the queue that nothing has filled yet


class _GatherWithGradient(torch.autograd.Function):
    """Forward: every rank's rows, in rank order. Backward: the gradient that all ranks together have for our rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        return gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every rank's loss saw our rows, so every rank has a share of their gradient; `all_gather` alone loses it.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def is_distributed() -> bool:
    """Whether this process shares its batches with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def gather(rows: Tensor) -> Tensor:
    """Every rank's `(b, ...)` rows as `(ranks * b, ...)` in rank order, no gradient. Call on every rank, equal `b`."""
    if not is_distributed():
        return rows
    everyone = rows.new_empty((dist.get_world_size(), *rows.shape))
    dist.all_gather(list(everyone.unbind()), rows.detach().contiguous())
    return everyone.flatten(0, 1)


def gather_with_gradient(rows: Tensor) -> Tensor:
    """Like `gather`, and the gradient flows back to the rank that each row came from.

    Under DistributedDataParallel, which averages over ranks, a loss that is a mean over one's own rows then has
    exactly the gradient that one process with the whole batch has.
    """
    return _GatherWithGradient.apply(rows) if is_distributed() else rows


class NegativeQueue(nn.Module):
    """The last `size` windows and captions of earlier batches, newest first: negatives without a forward pass.

    `sensors` and `texts` `(Q, P)` unit rows, `groups` `(Q,)`: a row with the caption of a query is no negative of it.
    All are persistent buffers, so a checkpoint holds them. Queue: He et al. 2020 (arXiv:1911.05722), sec. 3.2; there
    the keys come from a slowly moving second encoder, here from the encoder itself, some steps ago.
    """

    def __init__(self, size: int, width: int):
        super().__init__()
        self.sensors = nn.Buffer(torch.zeros(size, width), persistent=True)
        self.texts = nn.Buffer(torch.zeros(size, width), persistent=True)
        self.groups = nn.Buffer(torch.full((size,), EMPTY), persistent=True)

    @torch.no_grad()
    def push(self, sensors: Tensor, texts: Tensor, groups: Tensor) -> None:
        """Take in this rank's rows `(b, P)`, `(b, P)`, `(b,)` and the others'; the oldest leave. Call on every rank.

        Call it after the batch's backward pass: a batch must never find itself in the queue.
        """
        for queue, rows in ((self.sensors, sensors), (self.texts, texts), (self.groups, groups)):
            queue.copy_(torch.cat([gather(rows.detach().to(queue.dtype)), queue])[: len(queue)])

    def are_negatives(self, groups: Tensor) -> Tensor:
        """For rows of `groups` `(b,)`: which of the queue are negatives, `(b, Q)` bool."""
        return (self.groups != EMPTY) & (self.groups != groups[:, None])


def info_nce(
    queries: Tensor,
    keys: Tensor,
    query_groups: Tensor,
    key_groups: Tensor,
    scale: Tensor,
    far_keys: Tensor | None = None,
    are_negatives: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy of picking each query's key: `(b, P)`, `(B, P)` unit rows, `(b,)`, `(B,)` groups, scalar.

    L = -1/b sum_i 1/|P(i)| sum_{j in P(i)} log softmax_j(scale * q_i k_j), with P(i) the keys of the query's group.
    `far_keys` `(Q, P)` join the softmax's denominator where `are_negatives` `(b, Q)` says so.
    """
    positives = (query_groups[:, None] == key_groups[None, :]).float()  # (b, B)
    logits = scale * queries @ keys.T
    if far_keys is not None and are_negatives is not None:
        far = (scale * queries @ far_keys.T).masked_fill(~are_negatives, -torch.inf)
        logits = torch.cat([logits, far], dim=1)
    shares = logits.log_softmax(dim=1)[:, : len(keys)]
    return -((shares * positives).sum(dim=1) / positives.sum(dim=1)).mean()


class ContrastiveLoss(nn.Module, ABC):
    """What windows and captions of one batch are compared by: `InfoNCE` or `SigmoidLoss`.

    Windows with the same caption are each other's positives: as negatives they would ask the model to tell apart what
    the text cannot.
    """

    def forward(
        self,
        sensor_embeds: Tensor,
        text_embeds: Tensor,
        groups: Tensor,
        log_scale: Tensor,
        bias: Tensor,
        queue: NegativeQueue | None = None,
        alone: bool = False,
    ) -> Tensor:
        """Loss over one's own rows, a scalar: two `(b, P)` of unit rows, `(b,)` caption ids, log of the scale, bias.

        Call on every rank, with equal `b`: the mean over ranks is then the loss of the whole batch. `alone`: this
        process has the whole batch, although there are others.
        """
        # bfloat16 has 3 digits: too few for scale 100
        sensors, texts, scale, bias = (x.float() for x in (sensor_embeds, text_embeds, log_scale.float().exp(), bias))
        return self.score(sensors, texts, groups, scale, bias, queue, alone)

    @abstractmethod
    def score(
        self, sensors: Tensor, texts: Tensor, groups: Tensor, scale: Tensor, bias: Tensor, queue: Any, alone: bool
    ) -> Tensor:
        """`forward` in float32, with the scale itself."""


class InfoNCE(ContrastiveLoss):
    """Symmetric InfoNCE with several positives: half windows-to-captions, half captions-to-windows.

    Each rank scores its own rows against everyone's, so memory grows with B^2 / ranks. The bias is not read: added to
    every logit alike, it moves no softmax.

    InfoNCE: van den Oord et al. 2018 (arXiv:1807.03748), eq. 4; symmetric with a learned scale: Radford et al. 2021
    (arXiv:2103.00020), fig. 3; the mean over several positives outside of the logarithm: Khosla et al. 2020
    (arXiv:2004.11362), eq. 2. The least value is the positives' entropy (log k for k equal captions), not 0.
    """

    def score(
        self, sensors: Tensor, texts: Tensor, groups: Tensor, scale: Tensor, bias: Tensor, queue: Any, alone: bool
    ) -> Tensor:
        everyone: Callable[[Tensor], Tensor] = (lambda rows: rows) if alone else gather_with_gradient
        all_groups = everyone(groups)
        far_texts, far_sensors, negatives = None, None, None
        if queue is not None:
            far_texts, far_sensors, negatives = queue.texts, queue.sensors, queue.are_negatives(groups)
        to_text = info_nce(sensors, everyone(texts), groups, all_groups, scale, far_texts, negatives)
        to_sensor = info_nce(texts, everyone(sensors), groups, all_groups, scale, far_sensors, negatives)
        return (to_text + to_sensor) / 2
