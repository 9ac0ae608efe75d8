"""The losses against slow, obvious versions. That N ranks equal one is tested in test_align.py."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from casita.train.training import sigmoid_loss
from casita.train.training.losses import ContrastiveLoss, InfoNCE, NegativeQueue
from casita.train.training.sigmoid_loss import SigmoidLoss

GROUPS = torch.tensor([0, 1, 0, 2, 3, 0, 3, 4])
ZERO = torch.tensor(0.0)


def unit_rows(seed: int, n: int = 8) -> Tensor:
    return F.normalize(torch.randn(n, 5, generator=torch.Generator().manual_seed(seed)), dim=-1)


def make_queue() -> NegativeQueue:
    """Nine places of which six are filled: two captions of the batch's are among them."""
    queue = NegativeQueue(9, 5)
    queue.push(unit_rows(7, 4), unit_rows(8, 4), torch.tensor([0, 9, 11, 4]))
    queue.push(unit_rows(9, 2), unit_rows(10, 2), torch.tensor([9, 12]))
    return queue


Pair = tuple[Tensor, Tensor, bool]  # two rows, and whether they belong together


def both_ways(sensor: Tensor, text: Tensor, queue: NegativeQueue | None) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Queries, keys of the batch and keys of the queue, for each direction."""
    empty = torch.zeros(0, 5)
    far = (queue.texts, queue.sensors) if queue else (empty, empty)
    return [(sensor, text, far[0]), (text, sensor, far[1])]


def is_far_negative(queue: NegativeQueue | None, group: Tensor) -> list[int]:
    return [j for j in range(len(queue.caption_ids)) if queue.caption_ids[j] not in (-1, group)] if queue else []


def slow_info_nce(sensor, text, groups, log_scale, bias, queue=None) -> Tensor:
    """Khosla et al. 2020, eq. 2, both ways, one pair at a time; the queue's rows stand in the denominator only."""
    n, total = len(groups), torch.zeros(())
    for queries, keys, far in both_ways(sensor, text, queue):
        for i in range(n):
            scores = [log_scale.exp() * (queries[i] * keys[j]).sum() for j in range(n)]
            others = [log_scale.exp() * (queries[i] * far[j]).sum() for j in is_far_negative(queue, groups[i])]
            log_of_all = torch.logsumexp(torch.stack(scores + others), dim=0)
            positives = [j for j in range(n) if groups[j] == groups[i]]
            total = total - sum(scores[j] - log_of_all for j in positives) / len(positives) / n / 2
    return total


def slow_sigmoid(gamma: float, alpha: float | None) -> Callable[..., Tensor]:
    """Zhai et al. 2023, algorithm 1, weighted as in Lin et al. 2017, eq. 5, one pair at a time."""

    def loss(sensor, text, groups, log_scale, bias, queue=None) -> Tensor:
        n, total = len(groups), torch.zeros(())

        def of_pair(a: Tensor, b: Tensor, belong: bool) -> Tensor:
            p = torch.sigmoid((1 if belong else -1) * (log_scale.exp() * (a * b).sum() + bias))
            weight = 1.0 if alpha is None else (alpha if belong else 1 - alpha)
            return -weight * (1 - p) ** gamma * p.log()

        for i in range(n):
            for j in range(n):
                total = total + of_pair(sensor[i], text[j], bool(groups[i] == groups[j])) / n
        for queries, _, far in both_ways(sensor, text, queue):
            for i in range(n):
                for j in is_far_negative(queue, groups[i]):
                    total = total + of_pair(queries[i], far[j], False) / n / 2
        return total

    return loss


LOSSES = {
    "info_nce": (InfoNCE(), slow_info_nce),
    "sigmoid": (SigmoidLoss(), slow_sigmoid(0.0, None)),
    "focal": (SigmoidLoss(gamma=2.0, alpha=0.3), slow_sigmoid(2.0, 0.3)),
}


@pytest.mark.parametrize("groups", [GROUPS, torch.arange(8), torch.zeros(8)], ids=["some equal", "none", "all"])
@pytest.mark.parametrize("with_queue", [False, True], ids=["", "queue"])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_equal_the_slow_version(name, with_queue, groups):
    results = []
    for loss in LOSSES[name]:
        numbers = [torch.tensor(2.0, requires_grad=True), torch.tensor(-3.0, requires_grad=True)]
        leaves = [unit_rows(0).requires_grad_(), unit_rows(1).requires_grad_(), *numbers]
        sensor, text, scale, bias = leaves
        value = loss(sensor, text, groups, scale, bias, make_queue() if with_queue else None)
        (1.7 * value).backward()
        results.append([value.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert len(results[0]) == (4 if name == "info_nce" else 5)
    for ours, slow in zip(*results, strict=True):
        torch.testing.assert_close(ours, slow, rtol=1e-5, atol=2e-6)  # float32 sums in another order


def test_a_focal_loss_of_gamma_0_is_the_sigmoid_loss():
    given = (unit_rows(0), unit_rows(1), GROUPS, torch.tensor(2.3), torch.tensor(-5.0))
    assert torch.equal(SigmoidLoss(gamma=0.0)(*given), SigmoidLoss()(*given))
    assert SigmoidLoss(gamma=1.0)(*given) < SigmoidLoss()(*given)


def test_far_from_the_border_the_focal_loss_stays_a_number_with_a_gradient():
    scale = torch.tensor(math.log(1000.0), requires_grad=True)  # logits to 1000, where 1 - p is 0 in float32
    loss = SigmoidLoss(gamma=2.0)(unit_rows(0), unit_rows(1), GROUPS, scale, ZERO)
    loss.backward()
    assert loss.isfinite()
    assert scale.grad.isfinite()
    assert scale.grad > 0


def test_how_many_windows_are_scored_at_a_time_changes_nothing(monkeypatch):
    values = []
    for rows in (1024, 3):
        monkeypatch.setattr(sigmoid_loss, "ROWS", rows)
        sensor = unit_rows(0).requires_grad_()
        loss = SigmoidLoss()(sensor, unit_rows(1), GROUPS, torch.tensor(2.0), torch.tensor(-3.0))
        loss.backward()
        values.append((loss.detach(), sensor.grad))
    torch.testing.assert_close(values[0], values[1])


def test_without_equal_captions_it_is_clips_loss():
    sensor, text = unit_rows(0), unit_rows(1)
    logits, target = 10 * sensor @ text.T, torch.arange(8)
    clip = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    torch.testing.assert_close(InfoNCE()(sensor, text, target, torch.tensor(math.log(10.0)), ZERO), clip)


def test_equal_captions_do_not_push_each_other_away():
    # Perfectly aligned, three of four with one caption: the pull among the three is even, so nothing is left to gain.
    rows = torch.eye(2)[[0, 0, 0, 1]].requires_grad_()
    loss = InfoNCE()(rows, rows.detach(), torch.tensor([0, 0, 0, 1]), torch.tensor(math.log(50.0)), ZERO)
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor(math.log(3) * 3 / 4))  # the entropy of three positives
    assert rows.grad.abs().max() < 1e-5  # scale 50 times a float32 rounding


@pytest.mark.parametrize("name", LOSSES)
def test_the_order_of_the_batch_is_arbitrary(name):
    loss, order = LOSSES[name][0], torch.randperm(8, generator=torch.Generator().manual_seed(3))
    sensor, text, rest = unit_rows(0), unit_rows(1), (torch.tensor(3.0), torch.tensor(-2.0), make_queue())
    torch.testing.assert_close(
        loss(sensor[order], text[order], GROUPS[order], *rest), loss(sensor, text, GROUPS, *rest)
    )


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_features_are_compared_in_float32(name):
    loss: ContrastiveLoss = LOSSES[name][0]
    sensor, text, rest = unit_rows(0).bfloat16(), unit_rows(1).bfloat16(), (GROUPS, torch.tensor(4.6), ZERO)
    assert torch.equal(loss(sensor, text, *rest), loss(sensor.float(), text.float(), *rest))


# ------------------------------------------------------------------------------------------------------------- queue
def test_the_queue_keeps_the_newest_and_lets_the_oldest_go():
    queue, kept = NegativeQueue(5, 5), []
    for step in range(4):
        rows = (unit_rows(step, 2), unit_rows(step + 50, 2), torch.tensor([2 * step, 2 * step + 1]))
        queue.push(*rows)
        kept.insert(0, rows)
    for name, i in (("sensors", 0), ("texts", 1), ("caption_ids", 2)):
        assert torch.equal(getattr(queue, name), torch.cat([rows[i] for rows in kept])[:5]), name


def test_an_empty_queue_changes_nothing():
    given = (unit_rows(0), unit_rows(1), GROUPS, torch.tensor(2.3), torch.tensor(-5.0))
    for loss, _ in LOSSES.values():
        torch.testing.assert_close(loss(*given, NegativeQueue(16, 5)), loss(*given))


def test_a_queue_of_the_batchs_own_captions_holds_no_negative():
    queue = NegativeQueue(8, 5)
    queue.push(unit_rows(0), unit_rows(1), GROUPS)
    only = torch.zeros(8, dtype=torch.long)
    assert not queue.are_negatives(only)[:, GROUPS == 0].any()
    assert queue.are_negatives(only)[:, GROUPS != 0].all()
