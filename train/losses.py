"""The contrastive loss, the same whether one process holds the batch or many share it."""

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


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


def info_nce(queries: Tensor, keys: Tensor, query_groups: Tensor, key_groups: Tensor, scale: Tensor) -> Tensor:
    """Mean cross-entropy of picking each query's key: `(b, P)`, `(B, P)` unit rows, `(b,)`, `(B,)` groups, scalar.

    L = -1/b sum_i 1/|P(i)| sum_{j in P(i)} log softmax_j(scale * q_i k_j), with P(i) the keys of the query's group.
    """
    positives = (query_groups[:, None] == key_groups[None, :]).float()  # (b, B)
    return F.cross_entropy(scale * queries @ keys.T, positives / positives.sum(dim=1, keepdim=True))


class ContrastiveLoss(nn.Module):
    """Symmetric InfoNCE with several positives: half windows-to-captions, half captions-to-windows.

    Each rank scores its own rows against everyone's, so memory grows with B^2 / ranks.

    InfoNCE: van den Oord et al. 2018 (arXiv:1807.03748), eq. 4; symmetric with a learned scale: Radford et al. 2021
    (arXiv:2103.00020), fig. 3; the mean over several positives outside of the logarithm: Khosla et al. 2020
    (arXiv:2004.11362), eq. 2. Windows with the same caption are each other's positives: as negatives they would ask
    the model to tell apart what the text cannot. The least value is then the positives' entropy (log k for k equal
    captions), not 0.
    """

    def forward(self, sensor_embeds: Tensor, text_embeds: Tensor, groups: Tensor, log_scale: Tensor) -> Tensor:
        """Loss over one's own rows, a scalar: two `(b, P)` of unit rows, `(b,)` caption ids, log of the scale.

        Call on every rank, with equal `b`. The mean over ranks is the loss of the whole batch.
        """
        sensors, texts = sensor_embeds.float(), text_embeds.float()  # bfloat16 has 3 digits: too few for scale 100
        scale, all_groups = log_scale.float().exp(), gather(groups)
        to_text = info_nce(sensors, gather_with_gradient(texts), groups, all_groups, scale)
        to_sensor = info_nce(texts, gather_with_gradient(sensors), groups, all_groups, scale)
        return (to_text + to_sensor) / 2
