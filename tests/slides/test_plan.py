import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter

from monai_ext.base.errors import InputError
from monai_ext.formats.tissue import Tissue
from monai_ext.slides.plan import plan_slide

LEAST_AREA = 0.75  # of the bound
PLACE_TOL = 1e-6  # px of level 0


def reader(shape, scale=1.0, base=0.5):
    grid = tuple(int(np.ceil(side / scale)) for side in shape)
    facts = {"level0_shape": shape, "shape": grid, "scale": scale, "base_mpp": base, "mpp": base * scale, "level": 0}
    stated = {"backend": "openslide", "resolution_source": "Aperio", "conflict": "", "stretch": (1.0, 1.0)}
    return SimpleNamespace(path=Path("a.svs"), target_mpp=base * scale, **facts, **stated)


def covered(plan):
    """How many tiles each cell of the map is in."""
    count = np.zeros(plan.shape, int)
    for stripe in plan.stripes:
        for tile in plan.tiles(stripe):
            assert min(tile.height, tile.width) > 0
            assert tile.row + tile.height <= plan.shape[0]
            assert tile.col + tile.width <= plan.shape[1]
            count[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width] += 1
    return count


@settings(max_examples=150, deadline=None)
@given(
    mask=hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))),
    thumbnail=st.floats(1, 40),
    scale=st.floats(0.3, 5),
    step=st.integers(1, 40),
    margin=st.integers(0, 30),
    tile_px=st.integers(1, 300),
    align=st.integers(1, 24),
)
def test_every_tissue_cell_is_in_exactly_one_tile(mask, thumbnail, scale, step, margin, tile_px, align):
    shape = tuple(max(1, int(side * thumbnail)) for side in mask.shape)
    tissue = Tissue(mask, thumbnail)
    plan = plan_slide(reader(shape, scale), step, margin, tile_px, tissue, align)
    rows, cols = (np.arange(side + 1) * step * scale for side in plan.shape)
    wanted = tissue.touched(rows, cols)
    count = covered(plan)
    assert count.max(initial=0) <= 1
    assert (count[wanted] == 1).all()
    assert plan.tissue_cells == wanted.sum()
    assert (plan.tile_count == 0) == (not wanted.any())
    for stripe in plan.stripes:
        for tile in plan.tiles(stripe):
            assert wanted[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width].any()
            top, left, height, width = plan.region(tile)
            assert (top + margin) % align == (left + margin) % align == 0
            least = math.lcm(step, align) + 2 * margin
            assert height * width <= tile_px**2 or height == width == least
    for side, cells in zip(shape, plan.shape, strict=True):  # the map covers the slide, and no more than it must
        assert cells * plan.cell_scale >= side - PLACE_TOL
        assert (cells - 1) * step < int(np.ceil(side / scale))


@settings(max_examples=100, deadline=None)
@given(
    row=st.integers(0, 500), col=st.integers(0, 500), step=st.integers(1, 100), scale=st.floats(0.2, 9),
    margin=st.integers(0, 64),
)  # fmt: skip
def test_cells_to_level_0_and_back(row, col, step, scale, margin):
    plan = plan_slide(reader((6000, 5000), scale), step, margin, 2048)
    cell = np.array([row % plan.shape[0], col % plan.shape[1]])
    corner, centre = cell * plan.cell_scale, (cell + 0.5) * plan.cell_scale
    np.testing.assert_array_equal((centre / plan.cell_scale).astype(int), cell)
    # the pixels that are read for the cell begin at the same place of level 0
    tile = next(
        tile for stripe in plan.stripes for tile in plan.tiles(stripe)
        if tile.row <= cell[0] < tile.row + tile.height and tile.col <= cell[1] < tile.col + tile.width
    )  # fmt: skip
    top, left, height, width = plan.region(tile)
    first = (np.array([top, left]) + margin + (cell - [tile.row, tile.col]) * step) * plan.scale
    np.testing.assert_allclose(first, corner, atol=PLACE_TOL * plan.scale * 1e3)
    assert (height, width) == tuple(side * step + 2 * margin for side in plan.tile)
    rows, cols = plan.edges(tile)
    assert rows[cell[0] - tile.row] == pytest.approx(corner[0])
    assert cols[cell[1] - tile.col + 1] == pytest.approx(corner[1] + plan.cell_scale)


def test_whole_slide():
    plan = plan_slide(reader((1000, 1500)), 10, 5, 310)
    assert (covered(plan) == 1).all()
    assert plan.tile_count == 20  # of equal size: 4 x 5 instead of 3 1/3 x 5 of 30 x 30
    assert math.prod(plan.tile) * plan.tile_count == 100 * 150
    assert plan.tissue_mm2 == pytest.approx(1000 * 1500 * 0.25e-6)
    assert plan.tissue_cells == 100 * 150


def test_tiles_follow_the_tissue():
    mask = np.zeros((100, 100), bool)
    mask[10:20, 40:50] = mask[70:80, 5:95] = True
    plan = plan_slide(reader((1000, 1000)), 10, 0, 300, Tissue(mask, 10.0))  # an area of 900 cells
    assert [(stripe.row, stripe.cols) for stripe in plan.stripes] == [(10, (40,)), (70, (5,))]
    assert plan.tile == (10, 90)


def test_no_tissue_no_tile():
    plan = plan_slide(reader((1000, 1000)), 10, 0, 300, Tissue(np.zeros((10, 10), bool), 100.0))
    assert (plan.stripes, plan.tile_count, plan.tissue_cells, plan.tissue_mm2) == ((), 0, 0, 0)
    assert json.loads(plan.to_json())["stripes"] == []


def test_json():
    plan = plan_slide(reader((1000, 1500), 2.0), 10, 5, 310)
    text = plan.to_json()
    content = json.loads(text)
    assert content["shape"] == [50, 75]
    assert content["cell_um"] == 10
    assert content["tiles"] == sum(len(stripe["cols"]) for stripe in content["stripes"]) == plan.tile_count
    assert max(map(len, text.splitlines())) < 120


@pytest.mark.parametrize("margin", [50, 132])
@pytest.mark.parametrize("seed", range(5))
def test_tiles_have_one_area_whatever_the_slides_side(seed, margin):
    """What memory goes with: slides of more than a tile or two use the bound, no slide exceeds it."""
    rng = np.random.default_rng(seed)
    for side in (4000, 10_000, 40_000):
        mask = gaussian_filter(rng.normal(size=(64, 64)), 6) > 0
        plan = plan_slide(reader((side, side)), 24, margin, 1536, Tissue(mask, side / 64), 24)
        _, _, height, width = plan.region(next(plan.tiles(plan.stripes[0])))
        assert LEAST_AREA <= height * width / 1536**2 <= 1


def test_shape_of_tiles_computes_the_fewest_pixels():
    """A band of tissue is not cut into squares: margins would cost more."""
    mask = np.zeros((100, 100), bool)
    mask[40:50] = True
    plan = plan_slide(reader((8000, 8000)), 8, 128, 2048, Tissue(mask, 80.0))
    square, tiles = 2048 - 2 * 128, plan.tile_count
    _, _, height, width = plan.region(next(plan.tiles(plan.stripes[0])))
    assert len(plan.stripes) == 1
    assert tiles * height * width < np.ceil(8000 / square) * (800 + 2 * 128) * 2048


def test_large_slide_is_planned_quickly():
    """100,000 px at 1 px a cell: ten thousand million cells, of which only those in tissue are looked at."""
    mask = np.zeros((1000, 1000), bool)
    mask[100:140, 100:160] = True
    plan = plan_slide(reader((100_000, 100_000)), 1, 32, 1600, Tissue(mask, 100.0))
    assert plan.tissue_cells == 4000 * 6000
    assert plan.tile_count == 3 * 4


@pytest.mark.parametrize(("step", "margin", "align"), [(0, 0, 1), (8, -1, 1), (8, 0, 0)])
def test_bad_predictor(step, margin, align):
    with pytest.raises(InputError, match="a step of at least 1 px"):
        plan_slide(reader((100, 100)), step, margin, align=align)


def cover(places, size, unit):
    """Where the fewest intervals of a size begin that hold all places, one place after the other."""
    begins = []
    for place in places:
        if not begins or place >= begins[-1] + size:
            begins.append(place // unit * unit)
    return begins


@settings(max_examples=150, deadline=None)
@given(
    mask=hnp.arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))),
    step=st.integers(1, 6),
    margin=st.integers(0, 6),
    tile_px=st.integers(6, 70),
    align=st.integers(1, 8),
)
def test_shape_of_tiles_is_the_cheapest_of_those_tried(mask, step, margin, tile_px, align):
    """Heights of a square tile, and the smallest that need up to two stripes more or fewer; for each the narrowest
    width that needs no more tiles than the widest."""
    unit = math.lcm(step, align) // step
    assume(mask.any())
    assume(tile_px >= unit * step + 2 * margin)  # a square tile fits
    lines = np.flatnonzero(mask.any(axis=1)).tolist()

    def tiles(height, width):
        bands = (mask[top : top + height].any(axis=0) for top in cover(lines, height, unit))
        return sum(len(cover(np.flatnonzero(band).tolist(), width, unit)) for band in bands)

    square = (tile_px - 2 * margin) // step // unit * unit
    stripes = len(cover(lines, square, unit))
    sizes = range(unit, len(mask) + unit, unit)
    heights = {square} | {
        next(size for size in sizes if len(cover(lines, size, unit)) <= count)
        for count in range(max(1, stripes - 2), stripes + 3)
    }
    costs = []
    for height in heights:
        rows = height * step + 2 * margin
        most = max(1, (tile_px**2 // rows - 2 * margin) // step // unit) * unit
        width = next(w for w in range(unit, most + 1, unit) if tiles(height, w) <= tiles(height, most))
        cols = width * step + 2 * margin
        if rows * cols <= tile_px**2:
            costs.append(tiles(height, width) * rows * cols)
    plan = plan_slide(reader(tuple(side * step for side in mask.shape)), step, margin, tile_px,
                      Tissue(mask, float(step)), align)  # fmt: skip
    height, width = plan.tile
    computed = (height * step + 2 * margin) * (width * step + 2 * margin)
    assert plan.tile_count == tiles(height, width)
    assert plan.tile_count * computed == min(costs)
