"""Equation 2 of LoopNet, term by term."""

import math

import pytest
import torch

from monai_ext.base.errors import InputError
from monai_ext.losses import GridLocatingLoss, KnownGridLoss

REL = 1e-9
HALF = 1e-2


def batch(seed=0, vessels=4, grid=(3, 5)):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(vessels, 3, *grid, generator=generator, dtype=torch.float64) * 2
    cells = torch.rand(vessels, 1, *grid, generator=generator) < 0.6
    return logits, cells, torch.arange(vessels)[:, None] % 2


def slow(logits, cells, label):
    total = 0.0
    for scores, mask, y in zip(logits, cells[:, 0].long(), label.flatten().tolist(), strict=True):
        h, w = mask.shape
        healthy = invaded = 0.0
        count = 0
        for i in range(h):
            for j in range(w):
                powers = [math.exp(float(scores[c, i, j])) for c in range(3)]
                p, y_loc = [power / sum(powers) for power in powers], int(mask[i, j])
                healthy += (1 - y_loc) * math.log(p[0]) + y_loc * math.log(p[1])
                invaded += (y_loc == 0) * math.log(p[0])
                count += y_loc == 0
        total += -(y == 0) / (h * w) * healthy - (y == 1) / max(count, 1) * invaded
    return total / len(logits)


@pytest.mark.parametrize("seed", range(3))
def test_equation_and_gradient(seed):
    logits, cells, label = batch(seed)
    loss = GridLocatingLoss()
    assert loss(logits, cells, label).item() == pytest.approx(slow(logits, cells, label), rel=REL)
    assert torch.autograd.gradcheck(lambda x: loss(x, cells, label), logits.requires_grad_())


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_types_of_the_cells(dtype):
    logits, cells, label = batch()
    expected = GridLocatingLoss()(logits, cells, label)
    assert torch.equal(GridLocatingLoss()(logits, cells.to(dtype), label.flatten().float()), expected)


def test_cells_of_an_invaded_vessel_may_be_anything():
    logits, cells, _ = batch()
    logits.requires_grad_()
    GridLocatingLoss()(logits, cells, torch.ones(4)).backward()
    touched = logits.grad.abs().sum(1, keepdim=True) > 0
    assert torch.equal(touched, ~cells)


def test_an_invaded_vessel_without_background_adds_nothing():
    logits, _, _ = batch()
    logits.requires_grad_()
    loss = GridLocatingLoss()(logits, torch.ones(4, 1, 3, 5), torch.ones(4))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_vessels_count_alike():
    logits, cells, label = batch()
    alone = [GridLocatingLoss()(*(part[i : i + 1] for part in (logits, cells, label))) for i in range(4)]
    assert GridLocatingLoss()(logits, cells, label).item() == pytest.approx(sum(alone).item() / 4, rel=REL)


def test_half_precision_is_computed_in_full():
    logits, cells, label = batch()
    loss = GridLocatingLoss()(logits.half(), cells, label)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(GridLocatingLoss()(logits, cells, label).item(), rel=HALF)


def test_bad_shapes():
    with pytest.raises(InputError, match=r"cells: expected shape \(4, 1, 3, 5\)"):
        GridLocatingLoss()(torch.zeros(4, 3, 3, 5), torch.zeros(4, 3, 5), torch.zeros(4))


def test_known_classes_teach_and_unmarked_vessels_do_not():
    torch.manual_seed(0)
    logits = torch.randn(3, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    classes = torch.tensor([[[0, 1], [2, 0]], [[-100, -100], [0, 0]], [[1, 1], [1, 2]]])[:, None]
    terms = [
        -logits[n].log_softmax(0)[classes[n, 0, row, col], row, col]
        for n in (0, 2)  # of the second, blank places count no more than the others
        for row in range(2)
        for col in range(2)
    ]
    loss = KnownGridLoss()(logits, classes, torch.ones(3, 1))
    torch.testing.assert_close(loss, torch.stack(terms).mean())
    assert torch.autograd.gradcheck(lambda x: KnownGridLoss()(x, classes, torch.ones(3, 1)), logits)


def test_where_nothing_is_known_the_loss_is_zero():
    logits = torch.randn(2, 3, 2, 2, requires_grad=True)
    loss = KnownGridLoss()(logits, torch.full((2, 1, 2, 2), -100), torch.ones(2, 1))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()
