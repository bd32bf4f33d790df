"""GHM-C against a loop over its equations, alone and in two processes."""

import math

import pytest
import torch
from monai.data import MetaTensor
from torch.nn.functional import binary_cross_entropy_with_logits

from monai_ext.base.errors import InputError
from monai_ext.losses import GHMCLoss
from tests.ranks import joined

REL = 1e-9
F32 = 1e-5
BATCHES = ((0, 16), (1, 16), (2, 7), (3, 0), (4, 16))  # seed, size


def batch(seed=0, count=16):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 1, generator=generator, dtype=torch.float64) * 3
    return logits, (torch.rand(count, 1, generator=generator) < 0.4).double()


class Literal:
    """Li et al. 2019: g = |p - p*|; region index of g among M; S_j = a S_j + (1 - a) R_j; CE / density; one by one."""

    def __init__(self, bins=30, momentum=0.75):
        self.bins, self.momentum, self.averages = bins, momentum, {}

    def __call__(self, logits, label):
        pairs = list(zip(logits.flatten().tolist(), label.flatten().tolist(), strict=True))
        places = [self.place(1 / (1 + math.exp(-x)), y) for x, y in pairs]
        for j in set(places):
            count = places.count(j)
            old = self.averages.get(j, count)
            self.averages[j] = self.momentum * old + (1 - self.momentum) * count
        total = 0.0
        for (x, y), j in zip(pairs, places, strict=True):
            p = 1 / (1 + math.exp(-x))
            entropy = -y * math.log(p) - (1 - y) * math.log(1 - p)
            beta = len(pairs) / (len(set(places)) * self.averages[j])
            total += beta * entropy
        return total / max(len(pairs), 1)

    def place(self, p, y):
        return next(j for j in range(self.bins) if abs(p - y) < (j + 1) / self.bins or j == self.bins - 1)


@pytest.mark.parametrize(("bins", "momentum"), [(30, 0.75), (30, 0.0), (5, 0.75), (1, 0.5)])
def test_equals_the_loop_over_batches(bins, momentum):
    loss, slow = GHMCLoss(bins, momentum), Literal(bins, momentum)
    for seed, count in BATCHES:
        logits, label = batch(seed, count)
        assert loss(logits, label).item() == pytest.approx(slow(logits, label), rel=REL)
    assert loss.counts.tolist() == pytest.approx([slow.averages.get(j, 0) for j in range(bins)], rel=REL)


def test_the_average_starts_at_the_first_counts():
    """From 0 the first batch would weigh four times too much."""
    logits, label = batch()
    first = GHMCLoss()(logits, label)
    assert first.item() == pytest.approx(GHMCLoss(momentum=0)(logits, label).item(), rel=REL)
    weights_of_ones = GHMCLoss(bins=1)(logits, label)
    assert weights_of_ones.item() == pytest.approx(binary_cross_entropy_with_logits(logits, label).item(), rel=REL)


def test_gradient():
    logits, label = batch(1)
    loss = GHMCLoss()
    loss(*batch(0))
    loss.eval()  # so that each call has the same weights
    assert torch.autograd.gradcheck(lambda x: loss(x, label), logits.requires_grad_())


def test_the_many_easy_weigh_less():
    """Li et al., Fig. 3: gradients of dense regions are turned down."""
    logits = torch.tensor([[-6.0]] * 30 + [[0.1]], requires_grad=True)
    label = torch.zeros(31, 1)
    GHMCLoss()(logits, label).backward()
    ghm = logits.grad.clone()
    logits.grad = None
    binary_cross_entropy_with_logits(logits, label).backward()
    weights = ghm / logits.grad
    torch.testing.assert_close(weights[:30], torch.full((30, 1), 31 / (2 * 30)), rtol=F32, atol=0)
    torch.testing.assert_close(weights[30:], torch.full((1, 1), 31 / 2), rtol=F32, atol=0)


def test_certain_and_wrong_is_the_last_bin():
    loss = GHMCLoss(bins=4)
    value = loss(torch.tensor([[50.0], [-50.0]]), torch.tensor([[0], [0]]))
    assert loss.counts.tolist() == [1, 0, 0, 1]
    assert value.isfinite()


def test_evaluation_leaves_the_averages():
    loss = GHMCLoss()
    loss(*batch(0))
    before = loss.counts.clone()
    trained = Literal()
    trained(*batch(0))
    assert loss.eval()(*batch(1)).item() == pytest.approx(trained(*batch(1)), rel=REL)
    assert torch.equal(loss.counts, before)


def test_a_resumed_loss_goes_on():
    loss, other = GHMCLoss(), GHMCLoss()
    loss(*batch(0))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(loss(*batch(1)), other(*batch(1)))


def test_metadata_do_not_enter_the_state(tmp_path):
    loss = GHMCLoss()
    loss(*(MetaTensor(given) for given in batch()))
    torch.save(loss.state_dict(), tmp_path / "loss.pt")
    assert torch.load(tmp_path / "loss.pt", weights_only=True)["counts"].sum() == 16


def test_half_precision_is_computed_in_full():
    logits, label = (x.float() for x in batch())
    logits = logits.bfloat16()
    value = GHMCLoss()(logits, label.bfloat16())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(GHMCLoss()(logits.float(), label).item(), rel=F32)


def test_empty_batch():
    logits = torch.zeros(0, 1, requires_grad=True)
    loss = GHMCLoss()
    loss(logits, torch.zeros(0, 1)).backward()
    assert logits.grad.shape == (0, 1)
    assert not loss.counts.any()


@pytest.mark.parametrize("options", [{"bins": 0}, {"momentum": -0.1}, {"momentum": 1}], ids=str)
def test_bad_numbers(options):
    with pytest.raises(InputError, match="expected"):
        GHMCLoss(**options)


def test_bad_shapes():
    with pytest.raises(InputError, match=r"label: expected the logits' shape \(3, 1\), found \(3,\)"):
        GHMCLoss()(torch.zeros(3, 1), torch.zeros(3))


SHARES = ((5, 11), (16, 0), (8, 8))  # of each batch: examples of the first and of the second rank


def _rank(rank, folder):
    loss, gradients = GHMCLoss(), []
    with joined(rank, folder):
        for seed, (first, _) in enumerate(SHARES):
            own = slice(first, None) if rank else slice(first)
            logits, label = (part[own] for part in batch(seed))
            (gradient,) = torch.autograd.grad(loss(logits.requires_grad_(), label), logits)
            gradients.append(gradient)
    torch.save({"gradients": gradients, "counts": loss.counts}, f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_are_one_large_batch(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    loss = GHMCLoss()
    for seed in range(len(SHARES)):
        logits, label = batch(seed)
        (expected,) = torch.autograd.grad(loss(logits.requires_grad_(), label), logits)
        found = torch.cat([rank["gradients"][seed] for rank in ranks]) / 2  # DistributedDataParallel takes the mean
        torch.testing.assert_close(found, expected, rtol=REL, atol=0)
    for rank in ranks:
        torch.testing.assert_close(rank["counts"], loss.counts, rtol=REL, atol=0)
