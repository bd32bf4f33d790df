import numpy as np
import pytest
import torch

from monai_ext.base.stain import HE_STAINS
from monai_ext.networks import CAFFE, InputConvention
from monai_ext.networks.nets.hematoxylin import HematoxylinGrid, HematoxylinMap, HematoxylinScore

TOL = 0.02  # of a probability: pixels are whole grey values

STAINS = np.array(HE_STAINS) / np.linalg.norm(HE_STAINS, axis=0)
NORMALISATIONS = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "caffe": (CAFFE.mean, CAFFE.std, "BGR"),
}


def light(hematoxylin, eosin):
    """Beer and Lambert: the pixel of the two concentrations."""
    density = STAINS @ np.array([hematoxylin, eosin])
    return np.rint(255 * np.exp(-density)).clip(0, 255)


@pytest.mark.parametrize("norm", NORMALISATIONS)
def test_probability_is_the_amount_of_hematoxylin(norm):
    convention = InputConvention(*NORMALISATIONS[norm])
    net = HematoxylinMap(convention, darkest=2.0)
    amounts = [(h, e) for h in (0, 0.2, 0.5, 1.0, 1.5) for e in (0, 0.3, 0.6)]
    pixels = torch.tensor(np.array([light(h, e) for h, e in amounts]), dtype=torch.float32)
    logits = net(convention(pixels.T[None, :, None]))
    assert logits.shape == (1, 2, 1, len(amounts))
    got = logits.softmax(1)[0, 1, 0].numpy()
    np.testing.assert_allclose(got, [h / 2 for h, _ in amounts], atol=TOL)


@pytest.mark.parametrize(("grey", "expected"), [(255, 0.0), (0, 1.0)], ids=["glass", "ink"])
def test_ends_of_the_scale(grey, expected):
    net = HematoxylinMap(InputConvention((0, 0, 0), (1, 1, 1)), darkest=1.0)
    logits = net(torch.full((2, 3, 4, 5), float(grey)))
    assert logits.isfinite().all()
    assert logits.softmax(1)[:, 1] == pytest.approx(expected, abs=1e-4)


def test_it_has_nothing_to_learn_or_to_save():
    net = HematoxylinMap(InputConvention((0, 0, 0), (1, 1, 1)))
    assert not list(net.parameters())
    assert not net.state_dict()
    image = torch.rand(1, 3, 8, 8) * 255
    torch.testing.assert_close(torch.jit.script(net)(image), net(image))


def test_a_patch_is_scored_by_its_middle():
    convention = InputConvention(*NORMALISATIONS["imagenet"])
    net = HematoxylinScore(convention, centre=4, halfway=0.5)
    patch = np.tile(light(2.0, 0.3)[:, None, None], (1, 12, 10))
    patch[:, 4:8, 3:7] = light(0.8, 0.3)[:, None, None]
    score = net(convention(torch.tensor(patch[None], dtype=torch.float32)))
    assert score.shape == (1, 1)
    assert score.item() == pytest.approx(0.3, abs=TOL)
    assert not net.state_dict()


def test_cells_and_vessels_are_called_by_the_hematoxylin_of_patches():
    convention = InputConvention(*NORMALISATIONS["imagenet"])
    net = HematoxylinGrid(convention, grid=3, cut=0.5, halfway=0.4)
    amounts = np.array([[1.0, 0.1, 0.6], [0.4, 0.0, 0.45], [0.0, 0.0, 0.0]])
    patches = np.array([[light(h, 0.3 * (h > 0)) for h in row] for row in amounts])  # glass where there is none
    mosaic = torch.tensor(patches, dtype=torch.float32).permute(2, 0, 1)
    mosaic = mosaic.repeat_interleave(8, 1).repeat_interleave(8, 2)
    out = net(convention(torch.stack([mosaic, torch.full_like(mosaic, 255.0)])))
    assert out["logit"].shape == (2, 1)
    assert out["p_loc"].shape == (2, 3, 3, 3)
    assert out["logit"].flatten().tolist() == pytest.approx([1.0 - 0.4, -0.4], abs=TOL)
    assert out["p_loc"].argmax(1).tolist() == [[[2, 0, 2], [1, 0, 1], [0, 0, 0]], [[0] * 3] * 3]
    assert not list(net.parameters())
    assert not net.state_dict()
