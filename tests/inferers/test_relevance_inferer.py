import pytest
import torch
from torch import nn

from monai_ext.inferers import RelevanceInferer
from monai_ext.networks.nets import CyclicClassifier
from monai_ext.visualize import relevance

SAME = 1e-4  # of the largest relevance
MARGIN = 16


def classifier(positive=True, seed=0):
    """One that takes all images to be of one class."""
    torch.manual_seed(seed)
    network = CyclicClassifier("resnet18").eval()
    (head,) = [module for module in network.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        head.bias.copy_(torch.tensor([-100.0, 100.0] if positive else [100.0, -100.0]))
    return network


def field(height=64, width=64, seed=1, count=2):
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def inferer(**options):
    return RelevanceInferer(tile_size=64, margin=MARGIN, **options)


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=SAME * expected.abs().max().item())


def test_one_image_is_explained_as_it_is():
    network, images = classifier(), field()
    found = inferer()(images, network)
    assert found.shape == (2, 1, 64, 64)
    assert found.dtype == torch.float32
    assert found.abs().max() > 0
    assert_same(found[:, 0], relevance(network, images, 1, MARGIN))


def test_a_negative_image_has_none():
    assert not inferer()(field(), classifier(positive=False)).any()


def test_of_a_batch_the_negative_ones_have_none():
    network, images = classifier(), field()
    (head,) = [module for module in network.modules() if isinstance(module, nn.Linear)]
    with torch.no_grad():
        head.bias.zero_()
        scores = network(images)
        head.bias.copy_(torch.tensor([(scores[:, 1] - scores[:, 0]).mean(), 0]))  # between the two
        positive = network(images).argmax(1) == 1
    assert positive.sum() == 1
    found = inferer()(images, network)
    assert found.flatten(1).any(1).tolist() == positive.tolist()
    assert_same(found[positive, 0], relevance(network, images[positive], 1, MARGIN))


def explaining(monkeypatch):
    """Relevance is the sum of the colours; the sizes of what is explained."""
    seen = []

    def fake(_, images, *__):
        seen.append(tuple(images.shape[2:]))
        return images.sum(1)

    monkeypatch.setattr("monai_ext.inferers.relevance.relevance", fake)
    return seen


def test_one_window_with_nuclei_is_enough(monkeypatch):
    explaining(monkeypatch)
    network, images, sizes = classifier(), field(64, 160, count=3), []
    logits = torch.zeros(3, 2, 1, 4)
    logits[:, 0] = 1  # no nuclei
    logits[1, 1, 0, 2] = logits[2, 1] = 2
    monkeypatch.setattr(network, "window_logits", lambda _, size: sizes.append(size) or logits)
    found = inferer()(images, network)
    assert sizes == [64]
    assert not found[0].any()
    assert torch.equal(found[1:, 0], images[1:].sum(1))


def test_a_small_image_has_a_smaller_margin():
    network, images = classifier(), field(8, 40, count=1)
    assert_same(inferer()(images, network)[:, 0], relevance(network, images, 1, 7))


def test_a_large_image_is_explained_tile_by_tile():
    network, image = classifier(), field(64, 96, count=1)
    found = inferer(tile=32, halo=32, max_pixels=32 * 32)(image, network)
    assert found.shape == (1, 1, 64, 96)
    for rows, cols, read_rows, read_cols in (  # what is kept, and what is read for it
        ((0, 32), (0, 32), (0, 64), (0, 64)),
        ((32, 64), (64, 96), (0, 64), (32, 96)),
    ):
        expected = relevance(network, image[..., slice(*read_rows), slice(*read_cols)], 1, MARGIN)
        top, left = rows[0] - read_rows[0], cols[0] - read_cols[0]
        assert_same(
            found[:, 0, slice(*rows), slice(*cols)],
            expected[:, top : top + rows[1] - rows[0], left : left + cols[1] - cols[0]],
        )


def test_inside_no_grad_and_a_wrapper():
    network, images = classifier(), field(32, 32, count=1)
    wrapper = nn.Module()
    wrapper.module = network
    expected = inferer()(images, network)
    with torch.no_grad():
        assert torch.equal(inferer()(images, wrapper), expected)


@pytest.mark.parametrize(("size", "tiles"), [(64 * 128, [(64, 128)]), (64 * 128 - 1, [(64, 64)] * 2)])
def test_the_limit_decides_whether_there_are_tiles(size, tiles, monkeypatch):
    seen = explaining(monkeypatch)
    inferer(tile=64, halo=0, max_pixels=size)(field(64, 128, count=1), classifier())
    assert seen == tiles
