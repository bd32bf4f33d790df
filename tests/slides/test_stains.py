"""Stains of slides: estimated once, applied to every tile before the network sees it."""

import numpy as np
import pytest
import tifffile
import torch
import torch.nn.functional as F

from monai_ext.phantom import write_slide
from monai_ext.slides import SlideInferer, SlideReader, plan_slide
from monai_ext.slides.stains import fit_stains, tissue_squares
from monai_ext.transforms import MacenkoNormalize

MPP = 0.5
STEP, TILE = 8, 320
LEVELS = 0.5 / 255  # rounding to 8 bits is done before the mean on both sides
APART = 0.05  # largest difference of a map with normalised stains from one without


class Red:
    """The mean of the red channel of each cell."""

    step, margin, channels = STEP, 0, 1

    def __call__(self, tiles):
        return F.avg_pool2d(tiles[:, :1].float() / 255, STEP)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slide") / "a.tif", (700, 900), 3, mpp=MPP)


def red(slide, folder, stains):
    SlideInferer(Red(), folder, MPP, tile_px=TILE, tissue=False, stains=stains)(slide)
    with tifffile.TiffFile(folder / "a_heatmap.ome.tif") as tiff:
        return tiff.asarray()


def test_the_network_sees_normalised_tiles(slide, tmp_path):
    reader = SlideReader(slide, MPP)
    squares = tissue_squares(plan_slide(reader, STEP, 0, TILE))
    rows, cols = (STEP * -(-side // STEP) for side in reader.shape)
    pale = MacenkoNormalize(target_maxima=(1.0, 0.5))
    pixels = fit_stains(pale, reader, squares)(reader.read(0, 0, rows, cols))
    expected = Red()(torch.from_numpy(np.ascontiguousarray(pixels))[None])[0, 0].numpy()
    normal, plain = (red(slide, tmp_path / str(k), stains) for k, stains in enumerate((pale, None)))
    np.testing.assert_allclose(normal, expected, atol=LEVELS)
    assert np.abs(normal - plain).max() > APART


def test_a_slide_leaves_the_target_as_it_was(slide):
    stains = MacenkoNormalize()
    reader = SlideReader(slide, MPP)
    squares = tissue_squares(plan_slide(reader, STEP, 16, TILE))
    fitted = fit_stains(stains, reader, squares)
    assert stains.source is None
    expected = MacenkoNormalize().fit([np.ascontiguousarray(reader.read(*square)) for square in squares])
    torch.testing.assert_close(fitted.source.vectors, expected.source.vectors)
    torch.testing.assert_close(fitted.source.maxima, expected.source.maxima)


def test_squares_lie_in_their_tiles_without_the_margin(slide):
    reader = SlideReader(slide, MPP)
    plan = plan_slide(reader, STEP, 16, TILE)
    squares = tissue_squares(plan)
    assert len(squares) == plan.tile_count
    tiles = list(plan.tiles)
    for (row, col, height, width), tile in zip(squares, tiles, strict=True):
        assert (row, col) == (tile.row * STEP, tile.col * STEP)
        assert height == min(512, tile.height * STEP)
        assert width == min(512, tile.width * STEP)
