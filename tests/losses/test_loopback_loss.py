"""Equation 3 of LoopNet, and what its gradient may touch."""

import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from monai_ext.inferers import AutocastInferer
from monai_ext.losses import GHMCLoss, LoopbackLoss
from monai_ext.networks.nets import LoopNet
from tests.ranks import joined

REL = 1e-9
F32 = 1e-4
PATCH, GRID = 4, 3
LABEL = torch.tensor([[1.0], [0.0], [1.0], [1.0]])


class Judge(nn.Module):
    """A classifier with running statistics and dropout, and a locating head on the same features."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 5, PATCH, PATCH), nn.BatchNorm2d(5), nn.Tanh())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(5, 1))
        self.locator = nn.Conv2d(5, 3, 1)

    def forward(self, images, locate=True):
        features = self.backbone(images)
        out = {"logit": self.head(features)}
        return out | {"p_loc": self.locator(features)} if locate else out


def setting(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    network = Judge().to(dtype)
    with torch.no_grad():
        for _ in range(3):  # running statistics of their own
            network(torch.randn(4, 3, PATCH * GRID, PATCH * GRID, dtype=dtype) + 1)
    images = torch.randn(4, 3, PATCH * GRID, PATCH * GRID, dtype=dtype)
    return network, images, torch.randn(4, 3, GRID, GRID, dtype=dtype)


@torch.no_grad()
def slow(network, images, logits, label, blank=0.0):
    """Vessel by vessel, pixel by pixel."""
    judge, total, count = deepcopy(network).eval(), 0.0, 0
    for x, scores, y in zip(images, logits, label.flatten().tolist(), strict=True):
        if y != 1:
            continue
        count += 1
        parts = x.clone(), x.clone()
        for row in range(x.shape[1]):
            for col in range(x.shape[2]):
                powers = [math.exp(float(v)) for v in scores[:, row // PATCH, col // PATCH]]
                p = [power / sum(powers) for power in powers]
                for part, area in zip(parts, (p[0] + p[1], p[2]), strict=True):
                    part[:, row, col] = blank + (part[:, row, col] - blank) * area
        for part, ideal in zip(parts, (0, 1), strict=True):
            probability = float(judge(part[None])["logit"].sigmoid())
            total -= math.log(probability if ideal else 1 - probability)
    return total / count


@pytest.mark.parametrize("blank", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(2))
def test_equation(seed, blank):
    network, images, logits = setting(seed)
    value = LoopbackLoss(blank=blank)(images, logits, LABEL, network)
    assert value.item() == pytest.approx(slow(network, images, logits, LABEL, blank), rel=1e-6 if blank else REL)


def test_gradient():
    network, images, logits = setting()
    images, logits = images[:2], logits[:2].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: LoopbackLoss()(images, x, LABEL[:2], network), logits)


def test_a_blank_value_for_each_channel():
    """Where nothing is let through there is nothing but blank."""
    seen = []

    class Watching(Judge):
        def forward(self, images, locate=True):
            seen.append(images)
            return super().forward(images, locate)

    logits = torch.zeros(1, 3, GRID, GRID)
    logits[:, 2] = 200
    LoopbackLoss(blank=(1.0, 2.0, 3.0))(torch.randn(1, 3, 12, 12), logits, torch.ones(1), Watching())
    rest, cancerous = seen[0]
    assert torch.equal(rest, torch.tensor([1.0, 2, 3]).reshape(3, 1, 1).expand_as(rest))
    assert cancerous.std() > 0


def test_the_classifier_gets_no_gradient_and_no_statistic_changes():
    network, images, logits = setting()
    network.train()
    before = deepcopy(network.state_dict())
    LoopbackLoss()(images, logits.requires_grad_(), LABEL, network).backward()
    assert logits.grad[LABEL.flatten() == 1].abs().sum() > 0
    assert not logits.grad[LABEL.flatten() == 0].any()
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def through_both_branches(network, images, loss, judge=None, inferer=None):
    """One step's loop loss, as the trainer has it: p_loc from the network that is trained, judged by ``judge``."""
    network.zero_grad()
    p_loc = network(images)["p_loc"]
    statistics = {name: value.clone() for name, value in network.named_buffers()}
    loss(images, p_loc, LABEL, judge or network, inferer).backward()
    assert all(torch.equal(value, statistics[name]) for name, value in network.named_buffers())
    return {name: parameter.grad for name, parameter in network.named_parameters()}


def test_loopnets_classification_head_stays_at_exactly_zero():
    """And the backbone learns through p_loc alone: as with a judge that is another network of equal weights."""
    torch.manual_seed(0)
    network = LoopNet("resnet18", grid=2, dropout=(0.0, 0.0)).train()
    images = torch.randn(4, 3, 64, 64)
    start, judge = deepcopy(network.state_dict()), deepcopy(network)
    network(images)  # so that the judge has the statistics of the pass before the loop
    judge.load_state_dict(network.state_dict())
    network.load_state_dict(start)
    apart = through_both_branches(network, images, LoopbackLoss(), judge)
    network.load_state_dict(start)
    grads = through_both_branches(network, images, LoopbackLoss())
    assert all(g is None or not g.any() for name, g in grads.items() if name.startswith("head."))
    for name, gradient in grads.items():
        if not name.startswith("head."):
            assert gradient.any()
            torch.testing.assert_close(gradient, apart[name], rtol=F32, atol=F32)


def test_frozen_parts_stay_as_they_were():
    network, images, logits = setting()
    network.train()
    network.backbone[1].eval()
    network.backbone[0].weight.requires_grad_(False)
    LoopbackLoss()(images, logits, LABEL, network)
    assert not network.backbone[1].training
    assert network.backbone[0].training
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["backbone.0.weight"]


def test_an_error_in_the_network_leaves_it_trainable():
    network, images, logits = setting()
    with pytest.raises(RuntimeError):
        LoopbackLoss()(images[:, :1], logits, LABEL, network)
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_healthy_vessels_alone():
    network, images, logits = setting()
    for loss in (LoopbackLoss(), LoopbackLoss(GHMCLoss())):
        logits.requires_grad_().grad = None
        value = loss(images, logits, torch.zeros(4), network)
        value.backward()
        assert value.item() == 0
        assert not logits.grad.any()


SHARES = (1, 4, 2)  # of each batch of four: images of the first rank


def _rank(rank, folder):
    network, images, logits = setting()
    gradients = []
    with joined(rank, folder):
        for first in SHARES:
            own = slice(first, None) if rank else slice(first)
            scores = logits[own].clone().requires_grad_()
            gradients += torch.autograd.grad(LoopbackLoss()(images[own], scores, LABEL[own], network), scores)
    torch.save(gradients, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_are_one_large_batch(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    network, images, logits = setting()
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(LoopbackLoss()(images, logits, LABEL, network), logits)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    for first, second in zip(*ranks, strict=True):
        found = torch.cat([first, second]) / 2  # DistributedDataParallel takes the mean
        torch.testing.assert_close(found, expected, rtol=REL, atol=1e-12)


def test_another_loss():
    """Two terms, each a mean over the invaded vessels, so twice the mean over both."""
    network, images, logits = setting()
    expected = LoopbackLoss()(images, logits, LABEL, network)
    found = LoopbackLoss(binary_cross_entropy_with_logits)(images, logits, LABEL, network)
    assert found.item() == pytest.approx(expected.item(), rel=REL)
    ghmc = GHMCLoss()
    LoopbackLoss(ghmc)(images, logits, LABEL, network)
    assert ghmc.counts.sum() == 6


@pytest.mark.usefixtures("bfloat16")
def test_half_precision():
    network, images, logits = setting(dtype=torch.float32)
    network.train()
    grads = through_both_branches(network, images, LoopbackLoss(), inferer=AutocastInferer())
    assert all(g is None for name, g in grads.items() if name.startswith("head."))
    expected = LoopbackLoss()(images, logits, LABEL, network)
    found = LoopbackLoss()(images, logits, LABEL, network, AutocastInferer())
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.05)
