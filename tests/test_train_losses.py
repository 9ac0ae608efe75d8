"""The contrastive loss against a slow, obvious version. That N ranks equal one is tested in test_train_align.py."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from casita.train.losses import ContrastiveLoss

GROUPS = torch.tensor([0, 1, 0, 2, 3, 0, 3, 4])


def unit_rows(seed: int, n: int = 8) -> Tensor:
    return F.normalize(torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)), dim=-1)


def obvious_loss(sensor: Tensor, text: Tensor, groups: Tensor, log_scale: Tensor) -> Tensor:
    """Khosla et al. 2020, eq. 2, both ways, one pair at a time."""
    n, total = len(groups), torch.zeros(())
    for queries, keys in ((sensor, text), (text, sensor)):
        for i in range(n):
            scores = [log_scale.exp() * (queries[i] * keys[j]).sum() for j in range(n)]
            log_of_all = torch.logsumexp(torch.stack(scores), dim=0)
            positives = [j for j in range(n) if groups[j] == groups[i]]
            total = total - sum(scores[j] - log_of_all for j in positives) / len(positives) / n / 2
    return total


@pytest.mark.parametrize("groups", [GROUPS, torch.arange(8), torch.zeros(8)], ids=["some equal", "none", "all"])
def test_loss_and_gradients_equal_the_slow_version(groups):
    results = []
    for loss in (ContrastiveLoss(), obvious_loss):
        leaves = [unit_rows(0).requires_grad_(), unit_rows(1).requires_grad_(), torch.tensor(2.0, requires_grad=True)]
        value = loss(leaves[0], leaves[1], groups, leaves[2])
        value.backward()
        results.append([value.detach(), *(leaf.grad for leaf in leaves)])
    for ours, slow in zip(*results, strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-5, atol=1e-6)  # float32 sums in another order


def test_without_equal_captions_it_is_clips_loss():
    sensor, text = unit_rows(0), unit_rows(1)
    logits, target = 10 * sensor @ text.T, torch.arange(8)
    clip = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(ContrastiveLoss()(sensor, text, target, torch.tensor(math.log(10.0))), clip)


def test_equal_captions_do_not_push_each_other_away():
    # Perfectly aligned, three of four with one caption: the pull among the three is even, so nothing is left to gain.
    rows = torch.eye(2)[[0, 0, 0, 1]].requires_grad_()
    loss = ContrastiveLoss()(rows, rows.detach(), torch.tensor([0, 0, 0, 1]), torch.tensor(math.log(50.0)))
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(math.log(3) * 3 / 4))  # the entropy of three positives
    assert rows.grad.abs().max() < 1e-5  # scale 50 times a float32 rounding


def test_the_order_of_the_batch_is_arbitrary():
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    sensor, text, scale = unit_rows(0), unit_rows(1), torch.tensor(3.0)
    torch.testing.assert_close(
        ContrastiveLoss()(sensor[order], text[order], GROUPS[order], scale),
        ContrastiveLoss()(sensor, text, GROUPS, scale),
    )


def test_bfloat16_features_are_compared_in_float32():
    sensor, text, scale = unit_rows(0).bfloat16(), unit_rows(1).bfloat16(), torch.tensor(4.6)
    exact = ContrastiveLoss()(sensor.float(), text.float(), GROUPS, scale)
    assert torch.equal(ContrastiveLoss()(sensor, text, GROUPS, scale), exact)
