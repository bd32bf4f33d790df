"""What a reader of a slide's results relies on, and larger tests pass over."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import shapely
import tifffile
import torch

from monai_ext.formats.reader import SlideReader
from monai_ext.slides import SlideInferer
from monai_ext.slides import inferer as inferer_module
from monai_ext.slides import partial as partial_module
from monai_ext.slides.cell_spool import CellSpool
from monai_ext.slides.cells import SlideCells, _PartialCells
from monai_ext.slides.overlay import slide_overlay
from monai_ext.slides.partial import PartialSlide
from monai_ext.slides.plan import plan_slide
from monai_ext.slides.regions import find_regions
from monai_ext.slides.stains import tissue_squares
from monai_ext.slides.stream import decode_tiles
from tests.slides.conftest import ConvPredictor, paint, write_tiff
from tests.slides.test_plan import reader as plan_reader

INK = 20


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_tiff(tmp_path_factory.mktemp("slide") / "a.tif", paint(620, 930), 0.5)


def cells_at(*centres):
    records = np.zeros(len(centres), [("row", float), ("col", float), ("class", int)])
    records["row"], records["col"] = np.transpose(centres)
    return records


def drawing(records, thumbnail, scale, base_mpp):
    finder = SimpleNamespace(class_names=("tumour",))
    drawer = SimpleNamespace(finder=finder, outputs=SimpleNamespace(colours={"tumour": (255, 0, 0)}))
    return SlideCells._picture(drawer, records, thumbnail, scale, SimpleNamespace(base_mpp=base_mpp, measured=True))


def test_dots_lie_on_their_cells():
    """A px of the thumbnail covers 4 x 4 px of level 0; what lies beyond its last px is drawn on it."""
    records = cells_at((10, 200), (43.6, 3), (399.4, 799.4))
    picture = drawing(records, np.full((3, 100, 200), 100, np.uint8), 4.0, 0.5)
    red = np.argwhere((picture == (255, 0, 0)).all(axis=-1))
    assert red.tolist() == [[2, 50], [11, 0], [99, 199]]
    assert picture[50, 50].tolist() == [178] * 3  # half as dark, for the dots to stand out


def test_scale_bar_of_a_picture_that_is_reduced():
    """8,192 px at .5 um become 4,096 at 1 um: the bar of 500 um is 500 px long."""
    picture = drawing(cells_at((0, 8000)), np.full((3, 400, 8192), 255, np.uint8), 1.0, 0.5)
    assert picture.shape == (200, 4096, 3)
    dark = np.flatnonzero((picture[-50:] == INK).all(axis=-1).any(axis=0))
    bar = np.split(dark, np.flatnonzero(np.diff(dark) > 1) + 1)[0]
    assert len(bar) == pytest.approx(501, abs=1)


@pytest.mark.parametrize(
    ("centre", "inside"),
    [((-0.4, 5), True), ((0, 0), True), ((99.4, 199.4), True), ((-0.6, 5), False), ((5, 199.6), False)],
)
def test_the_slide_ends_at_the_edge_of_its_pixels(centre, inside):
    """Whole numbers are px centres: px 0 begins at -.5."""
    slide = SimpleNamespace(plan=SimpleNamespace(level0_shape=(100, 200)), tissue=None)
    kept = _PartialCells._on_tissue(slide, SimpleNamespace(centres=np.array([centre], float)))
    assert kept.tolist() == [inside]


def test_the_tissue_is_sought_at_the_thumbnails_resolution(slide, tmp_path, monkeypatch):
    seen = []
    original = inferer_module.tissue_mask

    def mask(thumbnail, mpp, *args, **kwargs):
        seen.append((thumbnail.shape[1:], mpp))
        return original(thumbnail, mpp, *args, **kwargs)

    monkeypatch.setattr(inferer_module, "tissue_mask", mask)
    SlideInferer(ConvPredictor(), tmp_path, 2.0)(slide)
    [(shape, mpp)] = seen
    assert mpp == pytest.approx(620 * 0.5 / shape[0], rel=0.01)


def test_each_channel_of_a_heat_map_has_its_name(slide, tmp_path):
    SlideInferer(ConvPredictor(channels=3), tmp_path, 0.5)(slide)
    [path] = tmp_path.glob("*.ome.tif*")
    with tifffile.TiffFile(path) as tiff:
        assert [tiff.ome_metadata.count(f'Name="channel {k}"') for k in range(5)] == [1, 1, 1, 0, 0]


def test_seconds_are_those_since_the_beginning(tmp_path, monkeypatch):
    clock = iter([100.0, 103.5])  # of this module alone: other threads of the process have the real one
    monkeypatch.setattr(partial_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    plan = plan_slide(plan_reader((40, 50)), 10, 0, 30)
    partial = PartialSlide(tmp_path / "a.partial", plan, None, 1)
    assert partial.seconds == 3.5
    assert partial.seen == [0.0, 0.0], "tissue, foreign tissue"
    partial.count(torch.tensor([3.0, 1.0]))
    partial.count(torch.tensor([4.0, 0.0]))
    assert partial.seen == [7, 1]


def test_what_a_strip_holds_of_a_larger_region_is_outlined():
    """One cell at the lower edge of a strip, too small for a region by itself."""
    heat = np.zeros((4, 3))
    heat[1:4, 1] = 1
    regions = find_regions([(0, heat[:2]), (2, heat[2:])], 0.5, 1.0, (4, 3), min_cells=2)
    assert regions.cells.tolist() == [3]
    assert shapely.area(regions.polygons).tolist() == [3]


@pytest.mark.parametrize(("step", "side"), [(8, 512), (24, 504), (96, 480), (512, 512)])
def test_stains_come_from_whole_cells_up_to_512_px(step, side):
    plan = plan_slide(plan_reader((4096, 4096)), step, 0, 2048)
    squares = tissue_squares(plan)
    assert len(squares) == plan.tile_count
    assert {type(value) for square in squares for value in square} == {int}
    sides = {each for square in squares for each in square[2:]}
    assert max(sides) == side
    assert all(each % step == 0 for each in sides)


def test_all_tiles_come_by_default(slide):
    reader = SlideReader(slide, 0.5)
    plan = plan_slide(reader, 8, 0, 200)
    assert len(plan.stripes) > 1
    batches = [batch for batch, *_ in decode_tiles(reader, plan)]
    assert {len(batch) for batch in batches} == {1}
    tiles = [tile for batch in batches for tile in batch]
    assert tiles == list(plan.tiles)


def test_files_of_a_spool_are_closed(tmp_path):
    with CellSpool(tmp_path, ("a",)) as spool:
        spool.sync()
    with pytest.raises(ValueError, match="closed file"):
        spool.sync()


def test_outlines_are_red_by_default():
    thumbnail = np.full((3, 60, 90), 255, np.uint8)
    box = np.array([shapely.box(80, 80, 400, 400)])
    heat = np.zeros((6, 9))
    picture = slide_overlay(thumbnail, 10.0, heat, 100.0, box, np.zeros((0, 2)), 0.5)
    assert (picture == (200, 0, 0)).all(axis=-1).any()
    assert not cv2.inRange(picture, (201, 0, 0), (255, 0, 0)).any()
