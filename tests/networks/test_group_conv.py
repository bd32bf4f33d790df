import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.networks.blocks import GroupBatchNorm2d, GroupConv2d, GroupPool
from monai_ext.networks.blocks.group_conv import group_order, transform

EXACT = 1e-12  # float64, sums in another order
ORDERS = {"p4m": 8, "p4": 4, None: 1}
every_group = pytest.mark.parametrize("group", ORDERS, ids=str)


def matrix(element):
    """The element as a 2 x 2 matrix: quarter turns after a mirror."""
    turn, mirror = torch.tensor([[0, -1], [1, 0]]), torch.tensor([[-1, 0], [0, 1]])
    m = mirror if element >= 4 else torch.eye(2, dtype=torch.long)
    for _ in range(element % 4):
        m = turn @ m
    return m


def times(g, h):
    product = matrix(g) @ matrix(h)
    return next(e for e in range(8) if torch.equal(matrix(e), product))


def inverse(g):
    return next(e for e in range(8) if times(g, e) == 0)


def act(f, g, order):
    """Turn and mirror a map over the group: the images, and which element each belongs to."""
    maps = f.unflatten(1, (-1, order))
    return torch.stack([transform(maps[:, :, times(inverse(g), h)], g) for h in range(order)], dim=2).flatten(1, 2)


def conv_by_definition(x, conv, order, lift):
    """Turn the input back, correlate it with the one filter there is, turn the answer."""
    out = []
    for g in range(order):
        back = transform(x, inverse(g)) if lift else act(x, inverse(g), order)
        out.append(transform(F.conv2d(back, conv.weight, padding=conv.padding), g))
    return torch.stack(out, dim=2).flatten(1, 2)


def test_elements_are_a_group_that_acts_on_images():
    image = torch.rand(3, 5, 5)
    assert len({tuple(transform(image, g).flatten().tolist()) for g in range(8)}) == 8
    for g, h in itertools.product(range(8), repeat=2):
        torch.testing.assert_close(transform(transform(image, h), g), transform(image, times(g, h)), rtol=0, atol=0)


@every_group
@pytest.mark.parametrize("lift", [True, False], ids=["lift", "group"])
@pytest.mark.parametrize(("size", "padding"), [(1, 0), (2, 0), (3, 0), (3, 1), (4, 0)])
def test_equals_the_definition(group, lift, size, padding):
    torch.manual_seed(0)
    order = ORDERS[group]
    conv = GroupConv2d(3, 2, size, group, lift, padding).double()
    x = torch.randn(2, 3 if lift else 3 * order, 7, 7, dtype=torch.double)
    torch.testing.assert_close(conv(x), conv_by_definition(x, conv, order, lift), rtol=0, atol=EXACT)


@pytest.mark.parametrize("group", ["p4m", "p4"])
def test_lifting_and_convolving_is_equivariant(group):
    torch.manual_seed(1)
    order = ORDERS[group]
    net = nn.Sequential(GroupConv2d(3, 4, 3, group, lift=True), nn.ReLU(), GroupConv2d(4, 2, 3, group)).double()
    x = torch.randn(1, 3, 9, 9, dtype=torch.double)
    for g in range(order):
        torch.testing.assert_close(net(transform(x, g)), act(net(x), g, order), rtol=0, atol=EXACT)
    if group == "p4":  # turns alone
        assert not torch.allclose(net(transform(x, 4)).mean((1, 2, 3)), net(x).mean((1, 2, 3)))


def test_without_a_group_it_is_a_convolution():
    conv = GroupConv2d(3, 5, 3, None)
    x = torch.rand(1, 3, 6, 6)
    torch.testing.assert_close(conv(x), F.conv2d(x, conv.weight), rtol=0, atol=0)


@pytest.mark.parametrize("lift", [True, False], ids=["lift", "group"])
def test_gradients(lift):
    torch.manual_seed(2)
    conv = GroupConv2d(1, 2, 3, "p4m", lift, padding=1).double()
    x = torch.randn(1, 1 if lift else 8, 4, 4, dtype=torch.double, requires_grad=True)

    def run(x, weight):
        return torch.func.functional_call(conv, {"weight": weight}, (x,))

    assert torch.autograd.gradcheck(run, (x, conv.weight))


def test_one_weight_for_all_elements():
    assert {k: tuple(v.shape) for k, v in GroupConv2d(3, 2, 3).state_dict().items()} == {"weight": (2, 24, 3, 3)}
    assert {k: tuple(v.shape) for k, v in GroupConv2d(3, 2, 3, lift=True).state_dict().items()} == {
        "weight": (2, 3, 3, 3)
    }


def test_initial_maps_keep_the_variance():
    torch.manual_seed(3)
    x = torch.relu(torch.randn(4, 20 * 8, 16, 16)) * 2**0.5  # mean square 1
    assert GroupConv2d(20, 30, 3)(x).var().item() == pytest.approx(2, rel=0.2)  # He et al. 2015: 1 after the ReLU


@every_group
def test_batch_norm_shares_statistics_over_the_group(group):
    torch.manual_seed(4)
    order = ORDERS[group]
    norm = GroupBatchNorm2d(3, group, eps=1e-3, momentum=0.25).double()
    nn.init.normal_(norm.norm.weight)
    nn.init.normal_(norm.norm.bias)
    x = torch.randn(5, 3 * order, 4, 6, dtype=torch.double) * 3 + 1
    y = norm(x)
    for c in range(3):
        part = slice(c * order, (c + 1) * order)
        mean, var = x[:, part].mean(), x[:, part].var(correction=0)
        expected = (x[:, part] - mean) / (var + 1e-3).sqrt() * norm.norm.weight[c] + norm.norm.bias[c]
        torch.testing.assert_close(y[:, part], expected, rtol=0, atol=EXACT)
        assert norm.norm.running_mean[c].item() == pytest.approx(0.25 * mean.item())
        assert norm.norm.running_var[c].item() == pytest.approx(0.75 + 0.25 * x[:, part].var().item())


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_and_pool_are_equivariant(training):
    torch.manual_seed(5)
    norm = GroupBatchNorm2d(2).double().train(training)
    nn.init.uniform_(norm.norm.running_mean)
    nn.init.uniform_(norm.norm.running_var, 0.5, 2)
    x = torch.randn(3, 16, 5, 5, dtype=torch.double)
    pool = GroupPool()
    for g in range(8):
        torch.testing.assert_close(norm(act(x, g, 8)), act(norm(x), g, 8), rtol=0, atol=EXACT)
        torch.testing.assert_close(pool(act(x, g, 8)), transform(pool(x), g), rtol=0, atol=EXACT)


def test_synchronized_batch_norm_can_take_over():
    norm = nn.SyncBatchNorm.convert_sync_batchnorm(GroupBatchNorm2d(2)).eval()
    assert isinstance(norm.norm, nn.SyncBatchNorm)
    assert norm.norm.num_features == 2


@pytest.mark.parametrize("make", [group_order, GroupPool, lambda g: GroupConv2d(1, 1, 3, g)])
def test_unknown_group(make):
    with pytest.raises(InputError, match="group: expected 'p4m', 'p4' or None, found 'd4'"):
        make("d4")
