"""CELNet against the paper's counts, a slow reading of its attention, and its own dense form."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.networks.blocks import ChannelAttention, MultiBranchAttention, pool_windows
from monai_ext.networks.nets import CELNet

TOLERANCE = 1e-5


def trained(network, seed=0):
    """A network whose every parameter and statistic is other than at its birth, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 1.2, generator=generator)
            nn.init.normal_(module.bias, 0, 0.2, generator=generator)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
    nn.init.normal_(network.head.weight, 0, 0.05, generator=generator)
    return network.eval()


@pytest.mark.parametrize(
    ("attention", "count"), [(None, 292_497), ("cbam", 296_691), ("mam", 298_023)], ids=["none", "cbam", "mam"]
)
def test_parameters_are_the_papers(attention, count):
    """Table 1: 292K, 296K, 297K (the 1,494 of three spatial kernels belong to the last)."""
    assert sum(p.numel() for p in CELNet(attention).parameters()) == count


def test_maps_have_the_papers_resolutions():
    fine, coarse = CELNet().features(torch.rand(2, 3, 96, 96))
    assert fine.shape == (2, 32, 48, 48)
    assert coarse.shape == (2, 64, 24, 24)


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("size", [(96, 96), (97, 131), (200, 96)])
def test_any_size_gives_one_score_each(num_classes, size):
    assert CELNet(num_classes=num_classes)(torch.rand(2, 3, *size)).shape == (2, num_classes)


def test_without_deep_supervision_only_the_last_stage_is_scored():
    for flag in (False, "false"):  # the latter from a command line
        network = CELNet(deep_supervision=flag)
        assert network.head.in_channels == 128
        assert network(torch.rand(1, 3, 96, 96)).shape == (1, 1)
    assert network.head.weight.numel() == CELNet().head.weight.numel() - 2 * 32


def test_initialisation_is_the_releases():
    """N(0, sqrt(2 / (k k C_out))) for the convolutions."""
    torch.manual_seed(0)
    weight = CELNet().stage3.blocks[2].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)


@pytest.mark.parametrize("kernels", [(3, 5, 7), (3,)], ids=["mam", "cbam"])
def test_attention_is_the_equation(kernels):
    """Section 2.1, written out: channel attention, then sigmoid of the sum of the branches."""
    torch.manual_seed(0)
    module = MultiBranchAttention(16, kernel_sizes=kernels).double()
    x = torch.randn(2, 16, 9, 11, dtype=torch.float64)
    squeeze, excite = module.channel.squeeze.weight[..., 0, 0], module.channel.excite.weight[..., 0, 0]
    expected = torch.empty_like(x)
    for b in range(2):
        pooled = (x[b].mean((1, 2)), x[b].amax((1, 2)))
        weight = torch.sigmoid(sum(excite @ torch.relu(squeeze @ vector) for vector in pooled))
        refined = x[b] * weight[:, None, None]
        squeezed = torch.stack([refined.mean(0), refined.amax(0)])[None]
        branches = [
            F.conv2d(squeezed, conv.weight, padding=conv.kernel_size[0] // 2) for conv in module.spatial.branches
        ]
        expected[b] = refined * torch.sigmoid(sum(branches))[0]
    torch.testing.assert_close(module(x), expected)


@pytest.mark.slow
def test_attention_gradients():
    torch.manual_seed(0)
    module = MultiBranchAttention(8, reduction=4).double()
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, (x,))
    assert torch.autograd.gradcheck(lambda y: module(y, 4), (x,))


@settings(deadline=None, max_examples=40)
@given(
    window=st.integers(1, 12),
    step=st.integers(1, 12),
    extra=st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
def test_window_pooling_equals_a_loop(window, step, extra):
    generator = torch.Generator().manual_seed(window * 100 + step)
    x = torch.randn(1, 2, window + extra[0], window + extra[1], generator=generator, dtype=torch.float64)
    mean, peak = pool_windows(x, window, step)
    rows, columns = ((side - window) // step + 1 for side in x.shape[2:])
    assert mean.shape == peak.shape == (1, 2, rows, columns)
    for row in range(rows):
        for column in range(columns):
            part = x[..., row * step : row * step + window, column * step : column * step + window]
            torch.testing.assert_close(mean[..., row, column], part.mean((2, 3)))
            torch.testing.assert_close(peak[..., row, column], part.amax((2, 3)))


@pytest.mark.parametrize("attention", ["mam", "cbam", None])
@pytest.mark.parametrize("deep_supervision", [True, False])
def test_dense_form_of_one_window_is_the_pooled_score(attention, deep_supervision):
    network = trained(CELNet(attention, deep_supervision=deep_supervision))
    x = torch.randn(3, 3, 96, 96)
    with torch.no_grad():
        dense = network.dense(x)
        assert dense.shape == (3, 1, 1, 1)
        torch.testing.assert_close(dense[:, :, 0, 0], network(x), atol=TOLERANCE, rtol=TOLERANCE)


def test_attention_in_windows_is_centred():
    """Windows and their interpolation know no left and right; dense maps are not shifted by them."""
    torch.manual_seed(0)
    module = MultiBranchAttention(8, reduction=4).channel
    x = torch.randn(1, 8, 24, 96)
    for axis in (2, 3):
        torch.testing.assert_close(module(x.flip(axis), 24), module(x, 24).flip(axis))


@pytest.mark.parametrize(("window", "rows", "cols"), [(16, 16, 20), (24, 36, 24), (4, 9, 7), (12, 33, 48)])
def test_attention_in_windows_is_interpolated_between_their_centres(window, rows, cols):
    """Cells of even and of odd sides, against weights as large as the input."""
    torch.manual_seed(0)
    attention = ChannelAttention(8, 2)
    x = torch.randn(2, 8, rows, cols, requires_grad=True)
    cell = window // 4
    pooled = pool_windows(x, window, cell)
    weight = torch.sigmoid(sum(attention.excite(attention.squeeze(each).relu()) for each in pooled))
    weight = F.interpolate(weight, scale_factor=float(cell), mode="bilinear", align_corners=False)
    before, after = (window - cell) // 2, (window - cell) - (window - cell) // 2
    weight = F.pad(weight, (before, after, before, after), mode="replicate")
    found = attention(x, window)
    torch.testing.assert_close(found, x * weight, atol=TOLERANCE, rtol=TOLERANCE)
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (found, x * weight)]
    torch.testing.assert_close(*gradients, atol=10 * TOLERANCE, rtol=10 * TOLERANCE)


@pytest.mark.parametrize("attention", ["mam", "cbam", None])
def test_inference_form_computes_the_same(attention):
    network = trained(CELNet(attention))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    faster = network.for_inference()
    x = torch.randn(2, 3, 144, 120)
    kept = x.clone()
    with torch.no_grad():
        for scores in (lambda n: n(x), lambda n: n.dense(x, 24), lambda n: n.dense(x, 12, 12)):
            torch.testing.assert_close(scores(faster), scores(network), atol=TOLERANCE, rtol=TOLERANCE)
    assert torch.equal(x, kept)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in faster.modules())
    assert all(torch.equal(network.state_dict()[name], value) for name, value in before.items())


def test_attention_in_windows_forgets_what_is_far_away():
    torch.manual_seed(0)
    module = MultiBranchAttention(8, reduction=4).channel
    with torch.no_grad():
        module.squeeze.weight.abs_()  # so that no unit is off
    x = torch.rand(1, 8, 24, 144)
    changed = x.clone()
    changed[..., 96:] += 5
    near, far = module(x, 24), module(changed, 24)
    torch.testing.assert_close(near[..., :60], far[..., :60])
    assert not torch.allclose(module(x)[..., :60], module(changed)[..., :60])
    uniform = torch.full((1, 8, 48, 72), 0.7)
    torch.testing.assert_close(module(uniform, 24), module(uniform))


@pytest.mark.parametrize("bad", [{"attention": "se"}, {"window": 90}, {"window": 8}])
def test_arguments_that_make_no_sense_are_refused(bad):
    with pytest.raises(InputError, match="CELNet"):
        CELNet(**bad)


@pytest.mark.parametrize(("size", "options"), [((100, 96), {}), ((72, 96), {}), ((96, 96), {"step": 6})])
def test_dense_form_refuses_sizes_off_its_grid(size, options):
    with pytest.raises(ValueError, match=r"CELNet\.dense: expected"):
        CELNet().dense(torch.rand(1, 3, *size), **options)


def test_torchscript_gives_the_same():
    network = trained(CELNet())
    scripted = torch.jit.script(network)
    x = torch.randn(2, 3, 96, 120)
    with torch.no_grad():
        torch.testing.assert_close(scripted(x), network(x))
