import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.explain import relevance
from monai_ext.inferers import RelevanceInferer
from monai_ext.networks.nets import CyclicClassifier

SAME = 1e-4  # of the largest relevance
SIDE = 64


def classifier(positive=True, seed=0):
    """One that takes all images to be of one class."""
    torch.manual_seed(seed)
    network = CyclicClassifier("resnet18").eval()
    with torch.no_grad():
        network.head.bias.copy_(torch.tensor([-100.0, 100.0] if positive else [100.0, -100.0]))
    return network


def field(height=SIDE, width=SIDE, seed=1, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def inferer(**options):
    return RelevanceInferer(**{"tile_size": SIDE, "margin": 0, "quantile": 1.0, **options})


def relative(network, images):
    """Relevance in maxima of each tile."""
    found = relevance(network, images, 1)
    return found / found.amax((1, 2), keepdim=True)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=SAME * expected.abs().max().item())


def test_a_tile_is_explained_as_it_is():
    network, images = classifier(), field()
    found = inferer()(images, network)
    assert found.shape == (2, 1, SIDE, SIDE)
    assert found.dtype == torch.float32
    assert found.abs().max() > 0
    assert_same(found[:, 0], relative(network, images))


def test_a_negative_tile_has_none():
    assert not inferer()(field(), classifier(positive=False)).any()


def test_of_an_image_the_negative_tiles_have_none():
    network, image = classifier(), field(SIDE, 3 * SIDE, count=1)
    tiles = torch.cat(image.split(SIDE, 3))
    with torch.no_grad():
        network.head.bias.zero_()
        difference = (network(tiles) @ torch.tensor([1.0, -1.0])).sort().values
        network.head.bias.copy_(torch.tensor([-(difference[0] + difference[1]) / 2, 0]))
        positive = (network(tiles).argmax(1) == 1).tolist()
    assert sum(positive) == 1
    found = inferer(overlap=0)(image, network)
    for tile, part, has_nuclei in zip(tiles, found[:, 0].split(SIDE, 2), positive, strict=True):
        assert part.any() == has_nuclei
        if has_nuclei:
            assert_same(part, relative(network, tile[None]))


def test_the_mean_of_tiles_leans_to_their_middle():
    """Against a loop over the three tiles of a row, Gaussian weights of an eighth of their side."""
    network, image = classifier(), field(SIDE, 2 * SIDE, count=1)
    place = torch.arange(SIDE) - (SIDE - 1) / 2
    weight = torch.exp(-(place**2) / (2 * (SIDE / 8) ** 2))
    weight = (weight[:, None] * weight).clamp(min=1e-3)  # MONAI's least
    total, weights = torch.zeros(SIDE, 2 * SIDE), torch.zeros(SIDE, 2 * SIDE)
    for left in (0, SIDE // 2, SIDE):
        total[:, left : left + SIDE] += weight * relative(network, image[..., left : left + SIDE])[0]
        weights[:, left : left + SIDE] += weight
    found, expected = inferer(overlap=0.5)(image, network)[0, 0], total / weights
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * expected.abs().max().item())


def test_images_are_mirrored_beyond_their_edges():
    network, images = classifier(), field(SIDE // 2, SIDE // 2)
    margin = SIDE // 4
    expected = relative(network, F.pad(images, (margin,) * 4, mode="reflect"))
    inner = slice(margin, -margin)
    assert_same(inferer(margin=margin)(images, network)[:, 0], expected[:, inner, inner])


@pytest.mark.parametrize("size", [(8, 40), (1, 1), (100, 33)])
def test_images_smaller_than_a_tile(size):
    found = inferer(margin=32)(field(*size, count=1), classifier())
    assert found.shape == (1, 1, *size)
    assert found.isfinite().all()


def test_inside_no_grad_and_a_wrapper():
    network, images = classifier(), field(32, 32, count=1)
    wrapper = nn.Module()
    wrapper.module = network
    expected = inferer()(images, network)
    with torch.no_grad():
        assert torch.equal(inferer()(images, wrapper), expected)


def test_a_quantile_stands_for_a_tiles_maximum():
    network, images = classifier(), field(count=1)
    found = relevance(network, images, 1)
    expected = found / found[found > 0].quantile(0.9)
    assert_same(inferer(quantile=0.9)(images, network)[:, 0], expected)


def test_a_sparse_tile_counts_as_much_as_a_dense_one():
    network, image = classifier(), field(SIDE, 2 * SIDE, count=1)
    image[..., SIDE:] *= 0.1
    found = inferer(overlap=0)(image, network)[0, 0]
    assert [part.max().item() for part in found.split(SIDE, 1)] == pytest.approx([1, 1], rel=SAME)


@pytest.mark.parametrize("options", [{"margin": -1}, {"quantile": 0}, {"quantile": 1.1}], ids=str)
def test_arguments_out_of_range(options):
    with pytest.raises(InputError, match=next(iter(options))):
        RelevanceInferer(**options)
