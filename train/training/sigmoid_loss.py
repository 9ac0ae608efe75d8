"""The sigmoid loss and its focal form, in a ring over the processes: no process ever holds the whole batch."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from casita.train.training.losses import ContrastiveLoss, gather, is_distributed

ROWS = 1024  # of one's own windows scored at a time: memory is ROWS * b, not b * b


@dataclass(frozen=True)
class Focus:
    """How pairs are weighted: Lin et al. 2017 (arXiv:1708.02002), eq. 5. `gamma=0`, `alpha=None`: all alike."""

    gamma: float = 0.0
    alpha: float | None = None

    def losses(self, logits: Tensor, positive: Tensor) -> Tensor:
        """-alpha_t (1 - p_t)^gamma log p_t for each pair: logits and bool of one shape; p_t = sigmoid(+-logit)."""
        right = torch.where(positive, logits, -logits)
        losses = F.softplus(-right)
        if self.gamma:
            losses = losses * (-self.gamma * F.softplus(right)).exp()  # 1 - p = exp(-softplus(x)): exact for large x
        if self.alpha is not None:
            losses = losses * torch.where(positive, self.alpha, 1 - self.alpha)
        return losses


def _pass_on(block: Tensor) -> Tensor:
    """Send `block` to the next rank and get the one of the rank before. Call on every rank."""
    received, rank, ranks = torch.empty_like(block), dist.get_rank(), dist.get_world_size()
    sent = dist.P2POp(dist.isend, block.contiguous(), (rank + 1) % ranks)
    expected = dist.P2POp(dist.irecv, received, (rank - 1) % ranks)
    for work in dist.batch_isend_irecv([sent, expected]):
        work.wait()
    return received


def _score_block(
    leaves: list[Tensor], groups: Tensor, text_groups: Tensor, focus: Focus, texts: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean over one's rows of the sum over a block's captions, and the gradient for the block; `leaves` gather theirs.

    `leaves` are one's sensors `(b, P)`, the scale and the bias, with the gradients of earlier blocks.
    """
    sensors, scale, bias = leaves
    texts = texts.detach().requires_grad_()
    total = torch.zeros((), device=texts.device)
    with torch.enable_grad():
        for first in range(0, len(sensors), ROWS):
            rows = slice(first, first + ROWS)
            logits = scale * sensors[rows] @ texts.T + bias
            loss = focus.losses(logits, groups[rows, None] == text_groups[None, :]).sum() / len(sensors)
            loss.backward()
            total += loss.detach()
    assert texts.grad is not None
    return total, texts.grad


class _SigmoidRing(torch.autograd.Function):
    """Windows stay, captions go round, each block with the gradient that it has gathered on its way.

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
        groups: Tensor,
        focus: Focus,
        alone: bool,
    ) -> Tensor:
        spread = is_distributed() and not alone
        ranks, rank = (dist.get_world_size(), dist.get_rank()) if spread else (1, 0)
        blocks = (gather(groups) if spread else groups).chunk(ranks)
        leaves = [tensor.detach().requires_grad_() for tensor in (sensors, scale, bias)]
        travelling, total = torch.stack([texts, torch.zeros_like(texts)]), torch.zeros((), device=texts.device)
        for passed in range(ranks):
            loss, gradient = _score_block(leaves, groups, blocks[(rank - passed) % ranks], focus, travelling[0])
            total += loss
            travelling[1] += gradient
            if spread:
                travelling = _pass_on(travelling)  # after the last pass everyone's own block is home again
        ctx.save_for_backward(leaves[0].grad, travelling[1], leaves[1].grad, leaves[2].grad)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        sensors, texts, scale, bias = (upstream[0] * gradient for gradient in ctx.saved_tensors)
        return sensors, texts, scale, bias, None, None, None


class SigmoidLoss(ContrastiveLoss):
    """Every pair of the batch is judged by itself: do they belong together?

    L = 1/B sum_i sum_j -log sigmoid(z_ij (t s_i c_j + b)), z = 1 for a window with its own or an equal caption, else
    -1: Zhai et al. 2023 (arXiv:2303.15343), eq. 1 and algorithm 1, with their ring over the processes (sec. 3.3). t
    begins at 10 and b at -10 there: nearly all pairs are negatives, and without b the first steps would only say so.

    With a `queue`, each window is also scored against the queue's captions and each caption against its windows, each
    way by half, as InfoNCE does it.
    """

    def __init__(self, gamma: float = 0.0, alpha: float | None = None):
        super().__init__()
        self.focus = Focus(gamma, alpha)

    def score(
        self, sensors: Tensor, texts: Tensor, groups: Tensor, scale: Tensor, bias: Tensor, queue: Any, alone: bool
    ) -> Tensor:
        loss = _SigmoidRing.apply(sensors, texts, scale, bias, groups, self.focus, alone)
        if queue is None:
            return loss
        negative = queue.are_negatives(groups)
        for rows, far in ((sensors, queue.texts), (texts, queue.sensors)):
            losses = self.focus.losses(scale * rows @ far.T + bias, torch.zeros_like(negative))
            loss = loss + torch.where(negative, losses, 0).sum() / len(rows) / 2
        return loss
