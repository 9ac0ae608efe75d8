"""The sigmoid loss and its focal form, in a ring over the processes: no process ever holds the whole batch."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from casita.train.training.losses import ContrastiveLoss, NegativeQueue, gather, is_distributed

ROWS = 1024  # of this rank's windows scored at a time: memory is ROWS * b, not b * b


@dataclass(frozen=True)
class FocalWeights:
    """Weights of the pairs: Lin et al. 2017 (arXiv:1708.02002), eq. 5. `gamma=0`, `alpha=None`: all alike."""

    gamma: float = 0.0
    alpha: float | None = None

    def losses(self, logits: Tensor, positive: Tensor) -> Tensor:
        """Return -alpha_t (1 - p_t)^gamma log p_t of each pair: logits, bool of one shape; p_t = sigmoid(+-logit)."""
        signed = torch.where(positive, logits, -logits)
        losses = F.softplus(-signed)
        if self.gamma:
            losses = losses * (-self.gamma * F.softplus(signed)).exp()  # 1 - p = exp(-softplus(x)): exact for large x
        if self.alpha is not None:
            losses = losses * torch.where(positive, self.alpha, 1 - self.alpha)
        return losses


def _pass_on(block: Tensor) -> Tensor:
    """Send `block` to the next rank and receive that of the rank before. Call on every rank."""
    rank = dist.get_rank()
    ranks = dist.get_world_size()
    received = torch.empty_like(block)
    send = dist.P2POp(dist.isend, block.contiguous(), (rank + 1) % ranks)
    receive = dist.P2POp(dist.irecv, received, (rank - 1) % ranks)
    for work in dist.batch_isend_irecv([send, receive]):
        work.wait()
    return received


def _score_block(
    leaves: list[Tensor], sensor_ids: Tensor, text_ids: Tensor, weights: FocalWeights, texts: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the mean over this rank's rows of the sum over a block's captions, and the gradient for the block.

    `leaves` are the rank's sensors `(b, P)`, the scale and the bias; their gradients are added to those of earlier
    blocks. `sensor_ids` and `text_ids` `(b,)` are the captions of both.
    """
    sensors, scale, bias = leaves
    texts = texts.detach().requires_grad_()
    total = torch.zeros((), device=texts.device)
    with torch.enable_grad():
        for first in range(0, len(sensors), ROWS):
            rows = slice(first, first + ROWS)
            logits = scale * sensors[rows] @ texts.T + bias
            is_positive = sensor_ids[rows, None] == text_ids[None, :]
            loss = weights.losses(logits, is_positive).sum() / len(sensors)
            loss.backward()
            total += loss.detach()
    assert texts.grad is not None
    return total, texts.grad


class _SigmoidRing(torch.autograd.Function):
    """A ring in which windows stay and captions go round, each block with the gradient gathered on its way.

    The gradients are computed in the forward pass, block by block, so no block's logits outlive its turn: memory is
    O(b) a rank. Backward multiplies them by what comes from above, which has to be the same number on every rank.
    """

    @staticmethod
    def forward(
        ctx: Any,
        sensors: Tensor,
        texts: Tensor,
        scale: Tensor,
        bias: Tensor,
        caption_ids: Tensor,
        weights: FocalWeights,
        local: bool,
    ) -> Tensor:
        uses_ring = is_distributed() and not local
        ranks = dist.get_world_size() if uses_ring else 1
        rank = dist.get_rank() if uses_ring else 0
        id_blocks = (gather(caption_ids) if uses_ring else caption_ids).chunk(ranks)
        leaves = [tensor.detach().requires_grad_() for tensor in (sensors, scale, bias)]
        total = torch.zeros((), device=texts.device)
        block = torch.stack([texts, torch.zeros_like(texts)])  # captions, and their gradient so far
        for passes in range(ranks):
            block_ids = id_blocks[(rank - passes) % ranks]  # the block began at the rank so many places before
            loss, gradient = _score_block(leaves, caption_ids, block_ids, weights, block[0])
            total += loss
            block[1] += gradient
            if uses_ring:
                block = _pass_on(block)  # after the last pass each block is back at its rank
        ctx.save_for_backward(leaves[0].grad, block[1], leaves[1].grad, leaves[2].grad)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        sensors, texts, scale, bias = (upstream[0] * gradient for gradient in ctx.saved_tensors)
        return sensors, texts, scale, bias, None, None, None


class SigmoidLoss(ContrastiveLoss):
    """A loss that judges every pair of the batch by itself, whether it belongs together.

    L = 1/B sum_i sum_j -log sigmoid(z_ij (t s_i c_j + b)), z = 1 for a window with its caption or an equal one, else
    -1: Zhai et al. 2023 (arXiv:2303.15343), eq. 1 and algorithm 1, with their ring over the processes (sec. 3.3). t
    begins at 10 and b at -10 there: nearly all pairs are negatives, and without b the first steps would only say so.

    With a `queue`, each window is also scored against the queue's captions and each caption against its windows, each
    way by half, as InfoNCE does it.
    """

    def __init__(self, gamma: float = 0.0, alpha: float | None = None):
        super().__init__()
        self.weights = FocalWeights(gamma, alpha)

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
        loss = _SigmoidRing.apply(sensors, texts, scale, bias, caption_ids, self.weights, local)
        if queue is None:
            return loss
        are_negatives = queue.are_negatives(caption_ids)
        for rows, queue_rows in ((sensors, queue.texts), (texts, queue.sensors)):
            losses = self.weights.losses(scale * rows @ queue_rows.T + bias, torch.zeros_like(are_negatives))
            loss = loss + torch.where(are_negatives, losses, 0).sum() / len(rows) / 2
        return loss
