import math

import pytest
import torch
import torch.nn.functional as F

from monai_ext.base.errors import InputError
from monai_ext.losses.concentric import ConcentricLoss

REL = 1e-5  # float32 sums in another order
HALF = 2e-2


def batch(seed=0, classes=2, shape=(2, 7, 9), ignored=0.3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], classes, *shape[1:], generator=generator, dtype=dtype)
    label = torch.randint(0, classes, (shape[0], 1, *shape[1:]), generator=generator, dtype=torch.uint8)
    label[torch.rand(label.shape, generator=generator) < ignored] = 255
    return logits, label


def equation_1(logits, label):
    """Pixel by pixel: - sum over images and counted pixels of log softmax of the true class; and how many counted."""
    total, counted = 0.0, 0
    for image in range(len(logits)):
        for row in range(logits.shape[2]):
            for col in range(logits.shape[3]):
                true = int(label[image, 0, row, col])
                if true == 255:
                    continue
                scores = [math.exp(float(s)) for s in logits[image, :, row, col]]
                total -= math.log(scores[true] / sum(scores))
                counted += 1
    return total, counted


@pytest.mark.parametrize("classes", [2, 3])
def test_equation_1(classes):
    logits, label = batch(classes=classes)
    total, counted = equation_1(logits, label)
    assert ConcentricLoss("sum")(logits, label).item() == pytest.approx(total, rel=REL)
    assert ConcentricLoss()(logits, label).item() == pytest.approx(total / counted, rel=REL)


@pytest.mark.parametrize("weight", [None, (0.2, 3.0)], ids=["plain", "weighted"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_gradient(reduction, weight):
    logits, label = batch()
    loss = ConcentricLoss(reduction, weight=weight)
    assert torch.autograd.gradcheck(lambda x: loss(x, label), logits.requires_grad_())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_ring_gets_no_gradient_and_all_else_does(reduction):
    logits, label = batch(dtype=torch.float32)
    ConcentricLoss(reduction)(logits.requires_grad_(), label).backward()
    ring = (label == 255).expand_as(logits)
    assert logits.grad[ring].eq(0).all()
    assert logits.grad[~ring].ne(0).all()
    other = logits.detach().where(~ring, 1e4)  # whatever is said there
    assert torch.equal(ConcentricLoss(reduction)(other, label), ConcentricLoss(reduction)(logits, label))


def test_mean_and_sum_take_the_same_step_at_500_px():
    steps = []
    for reduction, lr, decay in (("sum", 1e-10, 5e-4), ("mean", 2.5e-5, 2e-9)):
        torch.manual_seed(0)
        net = torch.nn.Conv2d(3, 2, 3, padding=1).double()
        before = net.weight.detach().clone()
        optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=0.99, weight_decay=decay)
        label = torch.zeros(1, 1, 500, 500)
        label[..., 100:130, 200:230] = 1
        for step in range(3):  # the momentum too
            optimizer.zero_grad()
            image = torch.rand(1, 3, 500, 500, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
            ConcentricLoss(reduction)(net(image), label).backward()
            optimizer.step()
        steps.append(net.weight.detach() - before)
    assert steps[0].abs().min() > 0
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-6, atol=1e-18)


@pytest.mark.parametrize("weight", [None, (1.0, 5.0)], ids=["plain", "weighted"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_all_ignored(reduction, weight):
    logits, label = batch(ignored=2)
    loss = ConcentricLoss(reduction, weight=weight)(logits.requires_grad_(), label)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.eq(0).all()


@pytest.mark.parametrize("weight", [(1.0, 1.0), (0.5, 4.0), (0.001, 0.002)], ids=str)
@pytest.mark.parametrize("ignored", [0.0, 0.4])
def test_class_weights_are_those_of_cross_entropy(weight, ignored):
    logits, label = batch(ignored=ignored, dtype=torch.float32)
    for reduction in ("sum", "mean"):
        want = F.cross_entropy(logits, label[:, 0].long(), torch.tensor(weight), ignore_index=255, reduction=reduction)
        torch.testing.assert_close(ConcentricLoss(reduction, weight=weight)(logits, label), want)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.int32])
def test_labels_of_any_type(dtype):
    logits, label = batch()
    assert ConcentricLoss()(logits, label.to(dtype)) == ConcentricLoss()(logits, label)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weight", [None, (0.5, 2.0)], ids=["plain", "weighted"])
def test_half_precision(dtype, weight):
    logits, label = batch(shape=(1, 300, 300), dtype=torch.float32)
    want = ConcentricLoss(weight=weight)(logits, label)
    with torch.autocast("cpu", dtype=dtype):
        got = ConcentricLoss(weight=weight)(logits.to(dtype), label)
    assert got.item() == pytest.approx(want.item(), rel=HALF)


def test_another_number_for_the_ring():
    logits, label = batch()
    ours = label.where(label != 255, torch.tensor(7, dtype=torch.uint8))
    assert ConcentricLoss(ignore_index=7)(logits, ours) == ConcentricLoss()(logits, label)


@pytest.mark.parametrize("shape", [(2, 7, 9), (2, 1, 7, 8), (1, 1, 7, 9), (2, 2, 7, 9)], ids=str)
def test_shapes_that_do_not_belong_together(shape):
    with pytest.raises(InputError, match=r"label: expected shape \(2, 1, 7, 9\) for logits \(2, 2, 7, 9\)"):
        ConcentricLoss()(torch.zeros(2, 2, 7, 9), torch.zeros(shape))


def test_unknown_reduction():
    with pytest.raises(InputError, match="'sum' or 'mean', found 'none'"):
        ConcentricLoss("none")
