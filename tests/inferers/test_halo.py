import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.inferers.halo import HaloInferer
from monai_ext.networks.nets.segmitos import SegMitosFCN

MAP_TOL = 1e-4  # of a softmax, one pass against tiles


def network(stride, padding, norm, width=1 / 64):
    """A narrow network whose map varies over its whole range."""
    torch.manual_seed(stride)
    net = SegMitosFCN(stride, width=width, fc_channels=8, padding=padding, norm=norm)
    for name, parameter in net.named_parameters():
        if "score" in name:
            nn.init.normal_(parameter, std=3)
    if norm == "batch":  # statistics of what it will see
        with torch.no_grad():
            for _ in range(3):
                net.train()(field((160, 160)))
    net.eval()
    with torch.no_grad():  # 16 layers without normalisation hardly answer: bring the scores to size
        seen = net(field((67, 400)))
        spread = seen.std(dim=(0, 2, 3)).mean() / 3
        for score in [net.score, *(skip.score for skip in net.skips)]:
            score.weight /= spread
            score.bias /= spread
        net.score.bias -= seen.mean(dim=(0, 2, 3)) / spread
    return net


def field(shape, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(1, 3, *shape)).astype(np.float32))


def tiled(net, image, **options):
    with torch.no_grad():
        return HaloInferer(**{"tile": 64, "halo": 256, "max_pixels": 0, **options})(image, net).softmax(1)


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("padding", ["input", "features"])
@pytest.mark.parametrize("stride", [32, 16, 8])
def test_tiles_equal_one_pass_everywhere(stride, padding, norm):
    net = network(stride, padding, norm)
    image = field((67, 859))
    with torch.no_grad():
        whole = net(image).softmax(1)
    assert whole[:, 1].std() > 0.01
    options = {"tile": 320, "halo": net.halo}
    assert (tiled(net, image, **options) - whole).abs().max() < MAP_TOL
    assert (tiled(net, image, **{**options, "halo": 0}) - whole).abs().max() > MAP_TOL  # a seam can be seen


@pytest.mark.parametrize("shape", [(641, 1), (33, 700), (577, 545)], ids=str)
def test_odd_shapes(shape):
    net = network(8, "features", "batch")
    image = field(shape, seed=1)
    with torch.no_grad():
        whole = net(image).softmax(1)
    assert (tiled(net, image, tile=288) - whole).abs().max() < MAP_TOL


class Reader(nn.Module):
    """Gives back what it sees and remembers the sizes; its reach is 0."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def forward(self, x, gain=1.0):
        self.sizes.append(tuple(x.shape[-2:]))
        return x[:, :2] * gain


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 150), width=st.integers(1, 150), tile=st.integers(1, 3), halo=st.integers(0, 2))
def test_every_pixel_is_kept_once_and_in_its_place(height, width, tile, halo):
    image, net = torch.rand(2, 3, height, width), Reader()
    got = HaloInferer(32 * tile, 32 * halo, 32, max_pixels=0)(image, net, gain=2.0)
    assert torch.equal(got, image[:, :2] * 2)
    assert len(net.sizes) == -(-height // (32 * tile)) * -(-width // (32 * tile))
    assert max(max(size) for size in net.sizes) <= 32 * (tile + 2 * halo)  # memory is bounded


def test_one_pass_where_it_fits():
    net, infer = Reader(), HaloInferer(32, 0, 32, max_pixels=100 * 90)
    infer(torch.rand(1, 3, 100, 90), net)
    infer(torch.rand(1, 3, 100, 91), net)
    assert net.sizes[0] == (100, 90)
    assert len(net.sizes) == 1 + 4 * 3


@pytest.mark.parametrize("tile_halo", [(100, 256), (1024, 40), (0, 32), (32, -32)], ids=str)
def test_grid_must_fit(tile_halo):
    with pytest.raises(InputError, match=f"multiples of 32, found tile {tile_halo[0]}"):
        HaloInferer(*tile_halo)
