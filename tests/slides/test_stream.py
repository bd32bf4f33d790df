import re
import threading
import time
from itertools import chain, groupby

import numpy as np
import pytest
import torch

from monai_ext.base.errors import InputError
from monai_ext.formats.reader import SlideReader
from monai_ext.formats.tissue import Tissue
from monai_ext.slides.plan import plan_slide
from monai_ext.slides.predictor import TilePredictor
from monai_ext.slides.stream import stream_tiles
from tests.slides.conftest import ConvPredictor, paint, write_tiff

SEAM_TOL = 1e-5  # probability


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_tiff(tmp_path_factory.mktemp("slide") / "a.tif", paint(620, 930), 0.5)


def stitched(reader, plan, predictor, **options):
    heat = np.full((predictor.channels, *plan.shape), np.nan, np.float32)
    for tile, values in stream_tiles(reader, plan, predictor, **options):
        rows, cols = slice(tile.row, tile.row + tile.height), slice(tile.col, tile.col + tile.width)
        heat[:, rows, cols] = values[:, : tile.height, : tile.width]
    return heat


@pytest.mark.parametrize("target", [0.5, 0.8, 0.25])
@pytest.mark.parametrize(("step", "margin", "tile_px"), [(8, 3, 128), (8, 17, 100), (1, 3, 201), (96, 3, 300)])
def test_seams_leave_no_trace(slide, target, step, margin, tile_px):
    reader, predictor = SlideReader(slide, target), ConvPredictor(step, margin, channels=2)
    assert isinstance(predictor, TilePredictor)
    plan = plan_slide(reader, step, margin, tile_px)
    rows, cols = (side * step for side in plan.shape)
    whole = reader.read(-margin, -margin, rows + 2 * margin, cols + 2 * margin)
    expected = predictor(torch.from_numpy(np.ascontiguousarray(whole))[None])[0].numpy()
    assert plan.tile_count > 3
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(stitched(reader, plan, predictor), expected, atol=SEAM_TOL)


def test_strides_larger_than_a_cell_are_kept_in_step(slide):
    """A network that reduces 16 times and gives a value for every 4 px: tiles begin where its lattice does."""

    class Strided:
        step, margin, channels, align = 4, 16, 1, 16
        network = torch.nn.Conv2d(3, 16, 48, stride=16)

        @torch.inference_mode()
        def __call__(self, tiles):
            return torch.nn.functional.pixel_shuffle(self.network(tiles.float() / 255), 4).sigmoid()

    mask = np.zeros((62, 93), bool)
    mask[7:50, 11:80] = True
    reader, predictor = SlideReader(slide, 0.5), Strided()
    plan = plan_slide(reader, 4, 16, 150, Tissue(mask, 10.0), predictor.align)
    rows, cols = (-(-side // 16) * 16 for side in reader.shape)
    whole = torch.from_numpy(np.ascontiguousarray(reader.read(-16, -16, rows + 32, cols + 32)))[None]
    expected = predictor(whole)[0].numpy()[:, : plan.shape[0], : plan.shape[1]]
    got = stitched(reader, plan, predictor)
    computed = ~np.isnan(got)
    assert 0.3 < computed.mean() < 0.8
    np.testing.assert_allclose(got[computed], expected[computed], atol=SEAM_TOL)


@pytest.mark.parametrize(
    "options", [{"batch_size": 3}, {"workers": 3, "prefetch": 5}, {"prefetch": 1}, {"prefetch": 0}]
)
def test_any_number_of_workers_gives_the_same(slide, options):
    reader, predictor = SlideReader(slide, 0.5), ConvPredictor()
    plan = plan_slide(reader, 8, 3, 200)
    plain = stitched(reader, plan, predictor)
    np.testing.assert_allclose(stitched(reader, plan, predictor, **options), plain, atol=SEAM_TOL)
    again = stitched(reader, plan, predictor, **options)
    np.testing.assert_array_equal(again, stitched(reader, plan, predictor, **options))


def test_batches_end_with_their_stripe(slide):
    sizes = []

    class Counting(ConvPredictor):
        def __call__(self, tiles):
            sizes.append(len(tiles))
            return super().__call__(tiles)

    reader = SlideReader(slide, 0.5)
    plan = plan_slide(reader, 8, 3, 160)
    assert [len(stripe) for stripe in plan.stripes] == [7, 7, 7, 6]
    # neighbours of one shape, up to three of them
    alike = [[len(list(tiles)) for _, tiles in groupby(stripe, plan.cells)] for stripe in plan.stripes]
    expected = [[min(3, count - first) for count in counts for first in range(0, count, 3)] for counts in alike]
    assert max(map(max, expected)) == 3
    stitched(reader, plan, Counting(), batch_size=3)
    assert sizes == list(chain.from_iterable(expected))
    sizes.clear()
    tiles = [tile for tile, _ in stream_tiles(reader, plan, Counting(), first=2, batch_size=3)]
    assert sizes == list(chain.from_iterable(expected[2:]))
    assert tiles == [tile for stripe in plan.stripes[2:] for tile in stripe]


def test_decoding_runs_ahead_but_not_away(slide, monkeypatch):
    reader, predictor = SlideReader(slide, 0.5), ConvPredictor()
    plan = plan_slide(reader, 8, 3, 100)
    read, threads = [], set()

    def spy(*region):
        read.append(region)
        threads.add(threading.current_thread())
        return np.full((3, *region[2:]), 255, np.uint8), None

    monkeypatch.setattr(reader, "read_valid", spy)
    stream = stream_tiles(reader, plan, predictor, prefetch=3)
    next(stream)
    time.sleep(0.2)
    assert 3 <= len(read) <= 2 + 3 + 1  # two computed, three waiting
    assert threading.main_thread() not in threads
    stream.close()
    assert not any("decode" in thread.name for thread in threading.enumerate())
    assert len(read) < plan.tile_count


def test_error_of_the_reader_reaches_the_caller(slide, monkeypatch):
    reader = SlideReader(slide, 0.5)
    plan = plan_slide(reader, 8, 3, 200)
    seen = []

    def spy(*region):
        seen.append(region)
        if len(seen) == 7:
            raise InputError("a.tif, level 0, row 5", "readable pixels", "none")
        return np.full((3, *region[2:]), 255, np.uint8), None

    monkeypatch.setattr(reader, "read_valid", spy)
    with pytest.raises(InputError, match="row 5"):
        list(stream_tiles(reader, plan, ConvPredictor()))


def test_predictor_of_another_shape(slide):
    predictor = ConvPredictor()
    predictor.margin = 4
    reader = SlideReader(slide, 0.5)
    plan = plan_slide(reader, 8, 3, 200)
    rows, cols = plan.cells(next(plan.tiles))
    stated = f"a map of shape {(1, 1, rows, cols)}, found {(1, 1, rows - 1, cols - 1)}"
    with pytest.raises(InputError, match=re.escape(f"ConvPredictor: expected {stated}")):
        list(stream_tiles(reader, plan, predictor))
