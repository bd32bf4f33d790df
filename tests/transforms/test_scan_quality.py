"""Rescanned images: what a coarser grid and JPEG take away, and what they leave."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.transforms import RandScanQuality, RandScanQualityd


def stripes(period, size=128):
    columns = 127.5 + 100 * np.sin(2 * np.pi * np.arange(size) / period)
    return np.broadcast_to(columns.round().astype(np.uint8), (3, size, size)).copy()


def contrast(image):
    return float(np.asarray(image)[0].std())


def test_a_coarser_grid_keeps_what_it_can_hold():
    halved = RandScanQuality(1.0, zoom=(0.5, 0.5), quality=(100, 100)).set_random_state(0)
    assert contrast(halved(stripes(32))) == pytest.approx(contrast(stripes(32)), rel=0.03)
    assert contrast(halved(stripes(2.5))) < 0.35 * contrast(stripes(2.5))  # beyond the coarse grid's limit of 4 px


def test_nothing_moves():
    image = np.full((3, 101, 127), 230, np.uint8)
    cv2.circle(image[0], (70, 40), 9, 40, -1)
    for zoom in (0.37, 0.5, 0.81, 1.0):
        got = RandScanQuality(1.0, zoom=(zoom, zoom), quality=(95, 95)).set_random_state(0)(image)[0]
        rows, columns = np.indices(got.shape)
        weight = 230.0 - got.clip(0, 230)
        centre = (rows * weight).sum() / weight.sum(), (columns * weight).sum() / weight.sum()
        assert centre == pytest.approx((40, 70), abs=0.3), zoom


@given(st.integers(1, 100), st.integers(0, 2**31 - 1))
def test_an_even_image_stays_as_it_is(quality, seed):
    colour = np.random.RandomState(seed).randint(0, 256, (3, 1, 1))
    image = np.broadcast_to(colour, (3, 40, 56)).astype(np.uint8)
    got = RandScanQuality(1.0, zoom=(0.4, 1.0), quality=(quality, quality)).set_random_state(seed)(image)
    # chroma is kept in steps of up to 99/8 at quality 1, which its matrix stretches by 1.77
    assert np.ptp(got.reshape(3, -1), axis=1).max() == 0
    assert abs(got.astype(int) - image).max() <= (4 if quality >= 50 else 60)


def test_colours_are_not_exchanged():
    image = np.zeros((3, 32, 32), np.uint8)
    image[0] = 200
    got = RandScanQuality(1.0, quality=(90, 90)).set_random_state(0)(image)
    assert got[0].min() > 190
    assert got[1:].max() < 10


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda image: MetaTensor(image, meta={"mpp": 0.25})])
def test_kinds_of_arrays(kind):
    image = kind(stripes(8))
    got = RandScanQuality(1.0).set_random_state(0)(image)
    assert type(got) is type(image)
    assert got.dtype == image.dtype
    assert got.shape == image.shape
    if isinstance(got, MetaTensor):
        assert got.meta["mpp"] == 0.25


def test_draws():
    rescan = RandScanQuality(0.3, zoom=(0.25, 1.0), quality=(20, 22)).set_random_state(0)
    changed, zooms, qualities = [], [], set()
    for _ in range(2000):
        rescan.randomize()
        changed.append(rescan._do_transform)
        zooms.append(rescan.drawn_zoom)
        qualities.add(rescan.drawn_quality)
    assert np.mean(changed) == pytest.approx(0.3, abs=0.04)
    assert np.mean(np.array(zooms) < 0.5) == pytest.approx(0.5, abs=0.04)  # evenly over octaves
    assert qualities == {20, 21, 22}
    image = stripes(8)
    assert RandScanQuality(0.0)(image) is image


def test_dictionary_shares_a_draw_and_repeats():
    item = {"image": stripes(6), "source": stripes(6), "label": [[1, 2]]}
    got = RandScanQualityd(["image", "source"], prob=1.0).set_random_state(3)(item)
    assert np.array_equal(got["image"], got["source"])
    assert not np.array_equal(got["image"], item["image"])
    assert got["label"] == [[1, 2]]
    again = RandScanQualityd(["image", "source"], prob=1.0).set_random_state(3)(item)
    assert np.array_equal(got["image"], again["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zoom": (0, 1)}, "zoom: expected 0 < smallest <= largest <= 1"),
        ({"zoom": (0.8, 0.5)}, "zoom: expected"),
        ({"zoom": (0.5, 1.5)}, "zoom: expected"),
        ({"quality": (0, 50)}, "quality: expected 1 <= lowest <= highest <= 100"),
        ({"quality": (60, 50)}, "quality: expected"),
    ],
)
def test_limits(options, message):
    with pytest.raises(InputError, match=message):
        RandScanQuality(**options)


@pytest.mark.parametrize(
    "image", [np.zeros((3, 8, 8), np.float32), np.zeros((1, 8, 8), np.uint8), np.zeros((8, 8), np.uint8)]
)
def test_other_images_are_refused(image):
    with pytest.raises(InputError, match=r"expected an RGB image \(3, H, W\), uint8"):
        RandScanQuality(1.0)(image)
