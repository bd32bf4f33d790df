import numpy as np
import pytest

from monai_ext.formats.levels import Levels
from monai_ext.formats.scanned import REACH, blank_unscanned, may_be_unscanned, rgb_and_valid

TISSUE = np.random.default_rng(0).integers(60, 255, (300, 400, 3)).astype(np.uint8)


def test_black_margins_are_white_and_no_data():
    pixels = TISSUE.copy()
    pixels[:, 333:] = np.random.default_rng(1).integers(0, 6, (300, 67, 3))  # JPEG's black
    pixels[200:] = 0
    white, valid = blank_unscanned(pixels)
    assert (white[~valid] == 255).all()
    expected = np.ones((300, 400), bool)
    expected[:, 333:] = expected[200:] = False
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(white[valid], TISSUE[valid])
    assert may_be_unscanned(pixels)


@pytest.mark.parametrize("width", [1, 7, 24])
def test_what_an_image_was_filled_up_with(width):
    """Rows and columns at the edges, however few; a stroke that does not reach from end to end is none of them."""
    pixels = np.full((120, 140, 3), 180, np.uint8)
    pixels[-width:] = pixels[:, -width:] = pixels[:, :1] = 0
    white, valid = blank_unscanned(pixels)
    assert may_be_unscanned(pixels)
    expected = np.zeros((120, 140), bool)
    expected[:-width, 1:-width] = True
    np.testing.assert_array_equal(valid, expected)
    assert (white[~valid] == 255).all()
    stroke = np.full((120, 140, 3), 180, np.uint8)
    stroke[10:, -width:] = 0
    assert width > 16 or blank_unscanned(stroke)[1] is None


@pytest.mark.parametrize("side", [32, 33, 40])
def test_ringing_reaches_half_a_block_of_jpeg_on_every_side(side):
    """Of dark px beside a gap eight belong to it, the ninth may be tissue."""
    pixels = np.full((120, 140, 3), 40, np.uint8)
    pixels[40 : 40 + side, 60 : 60 + side] = 0
    white, valid = blank_unscanned(pixels)
    expected = np.ones((120, 140), bool)
    expected[32 : 48 + side, 52 : 68 + side] = False
    np.testing.assert_array_equal(valid, expected)
    assert (white[valid] == 40).all()
    assert (white[~valid] == 255).all()


@pytest.mark.parametrize("side", [1, 10, 31])
def test_pigment_stays(side):
    pixels = TISSUE.copy()
    pixels[50 : 50 + side, 50 : 50 + side] = 0
    same, valid = blank_unscanned(pixels)
    assert valid is None
    assert same is pixels


def test_specks_are_not_looked_at_twice():
    """Pigment inside a region decides for itself; what touches its edge may be part of a gap."""
    pixels = TISSUE.copy()
    pixels[50:81, 50:81] = pixels[150, 200] = 0
    assert not may_be_unscanned(pixels)
    pixels[0, 200] = 0
    assert may_be_unscanned(pixels)


def test_dark_tissue_stays():
    pixels = np.full((100, 100, 3), (40, 13, 60), np.uint8)
    assert blank_unscanned(pixels)[1] is None
    assert not may_be_unscanned(np.full((100, 100, 3), 60, np.uint8))


@pytest.mark.parametrize("shape", [(5, 5), (5, 100), (32, 32)])
def test_small_images_wholly_black(shape):
    white, valid = blank_unscanned(np.zeros((*shape, 3), np.uint8))
    assert not valid.any()
    assert (white == 255).all()


def test_transparency():
    rgba = np.dstack([TISSUE, np.full(TISSUE.shape[:2], 255, np.uint8)])
    assert rgb_and_valid(rgba)[1] is None
    rgba[:10, :, 3] = 0
    rgb, valid = rgb_and_valid(rgba)
    assert (rgb[:10] == 255).all()
    assert valid.sum() == 290 * 400


class Picture(Levels):
    """A picture that is decoded as it is."""

    shapes, downsamples, resolution, backend = [(300, 400)], [1.0], None, "test"

    def __init__(self, pixels):
        self.pixels = pixels

    def _decode(self, level, row, col, height, width):
        return self.pixels[row : row + height, col : col + width], None


def test_regions_side_by_side_agree():
    """What is a gap does not depend on which region is read."""
    pixels = TISSUE.copy()
    pixels[40:110, 100:180] = 0
    pixels[30:40, 90:190] //= 6  # ringing
    pixels[200:231, 300:331] = 0  # one px too small
    levels = Picture(pixels)
    whole, valid = levels.read(0, 0, 0, 300, 400)
    assert 70 * 80 <= (~valid).sum() < 70 * 80 + 100 * 10
    for side in (17, 50, 64):
        for row in range(0, 300 - side, side):
            for col in range(0, 400 - side, side):
                region, scanned = levels.read(0, row, col, side, side)
                part = np.s_[row : row + side, col : col + side]
                np.testing.assert_array_equal(region, whole[part])
                np.testing.assert_array_equal(True if scanned is None else scanned, valid[part])


def test_reach_is_what_decides():
    assert REACH >= 32 + 8
