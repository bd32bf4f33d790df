import cv2
import numpy as np
import pytest
import torch
from skimage.filters import threshold_otsu

from monai_ext.base.errors import InputError
from monai_ext.networks import CAFFE, InputConvention
from monai_ext.networks.nets import OtsuMap

IMAGENET = InputConvention((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HEMATOXYLIN, EOSIN, GLASS = (113, 106, 177), (231, 64, 219), (240, 238, 242)  # concentrations of 1.25 and 1.4


def tissue(seed=0):
    """``(3, 64, 80)``: blue nuclei on glass, and an area of eosin as dark as they are; and where the nuclei are."""
    image = np.empty((64, 80, 3), np.uint8)
    image[:] = GLASS
    image[44:60, 4:76] = EOSIN
    nuclei = np.zeros((64, 80), np.uint8)
    for col in (14, 40, 66):
        cv2.circle(nuclei, (col, 20), 8, 1, -1)
    image[nuclei > 0] = HEMATOXYLIN
    noise = np.random.default_rng(seed).integers(-6, 7, image.shape)
    return np.clip(image + noise, 0, 255).transpose(2, 0, 1).astype(np.float32), nuclei.astype(bool)


@pytest.mark.parametrize("convention", [None, IMAGENET, CAFFE], ids=["unit", "imagenet", "caffe"])
@pytest.mark.parametrize("sigma", [0, 1.5])
def test_grey_is_thresholded_as_scikit_image_does(convention, sigma):
    """Whatever the input's normalisation: the mask is that of the image's own grey values."""
    image, _ = tissue()
    logits = OtsuMap(convention, sigma=sigma)((convention or InputConvention())(torch.from_numpy(image)[None]))
    grey = cv2.cvtColor(image.transpose(1, 2, 0), cv2.COLOR_RGB2GRAY)
    grey = cv2.GaussianBlur(grey, (0, 0), sigma) if sigma else grey
    assert logits.shape == (1, 1, 64, 80)
    agree = (logits[0, 0].numpy() > 0) == (grey < threshold_otsu(grey))
    assert agree.mean() > 0.995  # pixels in the threshold's own bin


def test_hematoxylin_leaves_eosin_out():
    image, nuclei = tissue()
    masks = {
        name: OtsuMap(IMAGENET, name, 1)(IMAGENET(torch.from_numpy(image)[None]))[0, 0].numpy() > 0
        for name in ("grey", "hematoxylin")
    }
    assert masks["grey"][46:58, 6:74].all()
    assert not masks["hematoxylin"][46:58, 6:74].any()
    overlap = masks["hematoxylin"] & nuclei
    assert 2 * overlap.sum() > 0.95 * (masks["hematoxylin"].sum() + nuclei.sum())


def test_each_image_of_a_batch_has_its_own_threshold():
    images = torch.stack([torch.from_numpy(tissue(seed)[0]) * scale for seed, scale in ((0, 1.0), (1, 0.5))]) / 255
    network = OtsuMap()
    torch.testing.assert_close(network(images), torch.cat([network(image[None]) for image in images]))
    assert (network(images) > 0).float().mean((1, 2, 3)).tolist() == pytest.approx([0.34, 0.34], abs=0.02)


@pytest.mark.parametrize("channel", ["grey", "hematoxylin"])
def test_an_image_of_one_colour_has_nothing_dark(channel):
    for value in (0.0, 0.4, 1.0):
        assert not (OtsuMap(channel=channel)(torch.full((1, 3, 16, 16), value)) > 0).any()


def test_probabilities_part_at_any_threshold():
    probability = OtsuMap()(torch.from_numpy(tissue()[0])[None] / 255).sigmoid()
    assert ((probability < 0.001) | (probability > 0.999)).all()


def test_unusable_options():
    with pytest.raises(InputError, match="OtsuMap channel: expected 'grey' or 'hematoxylin', found 'blue'"):
        OtsuMap(channel="blue")
    with pytest.raises(InputError, match="OtsuMap sigma: expected px, at least 0, found -1"):
        OtsuMap(sigma=-1)
