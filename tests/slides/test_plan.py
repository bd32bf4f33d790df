import json
import math
from dataclasses import astuple
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
from monai_ext.slides.plan import Tile, plan_slide

LEAST_AREA = 0.6  # of the bound
PLACE_TOL = 1e-6  # px of level 0


def reader(shape, scale=1.0, base=0.5):
    grid = tuple(int(np.ceil(side / scale)) for side in shape)
    facts = {"level0_shape": shape, "shape": grid, "scale": scale, "base_mpp": base, "mpp": base * scale, "level": 0}
    stated = {"backend": "openslide", "resolution_source": "Aperio", "conflict": "", "stretch": (1.0, 1.0)}
    return SimpleNamespace(path=Path("a.svs"), target_mpp=base * scale, **facts, **stated)


def covered(plan):
    """How many tiles each cell of the map is in."""
    count = np.zeros(plan.shape, int)
    for tile in plan.tiles:
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
    unit = math.lcm(step, align)
    for tile in plan.tiles:
        assert wanted[tile.row : tile.row + tile.height, tile.col : tile.col + tile.width].any()
        top, left, height, width = plan.region(tile)
        assert (top + margin) % align == (left + margin) % align == 0
        assert (height - 2 * margin) % unit == (width - 2 * margin) % unit == 0
        assert height * width <= tile_px**2 or height == width == unit + 2 * margin
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
        tile for tile in plan.tiles
        if tile.row <= cell[0] < tile.row + tile.height and tile.col <= cell[1] < tile.col + tile.width
    )  # fmt: skip
    top, left, height, width = plan.region(tile)
    first = (np.array([top, left]) + margin + (cell - [tile.row, tile.col]) * step) * plan.scale
    np.testing.assert_allclose(first, corner, atol=PLACE_TOL * plan.scale * 1e3)
    assert (height, width) == tuple(side * step + 2 * margin for side in plan.cells(tile))
    assert all(0 <= more - side < plan.grain for more, side in zip(plan.cells(tile), astuple(tile)[2:], strict=True))
    rows, cols = plan.edges(tile)
    assert rows[cell[0] - tile.row] == pytest.approx(corner[0])
    assert cols[cell[1] - tile.col + 1] == pytest.approx(corner[1] + plan.cell_scale)


def test_whole_slide():
    plan = plan_slide(reader((1000, 1500)), 10, 5, 310)
    assert (covered(plan) == 1).all()
    assert plan.computed_px == sum(math.prod(plan.region(tile)[2:]) for tile in plan.tiles)
    assert plan.computed_px < 1.15 * 1000 * 1500
    assert plan.tissue_mm2 == pytest.approx(1000 * 1500 * 0.25e-6)
    assert plan.tissue_cells == 100 * 150


def test_tiles_follow_the_tissue():
    mask = np.zeros((100, 100), bool)
    mask[10:20, 40:50] = mask[70:80, 5:95] = True
    plan = plan_slide(reader((1000, 1000)), 10, 0, 300, Tissue(mask, 10.0))  # an area of 900 cells
    assert plan.grain == 3
    # 10:20 x 40:50 and 70:80 x 5:95, in steps of 3
    assert plan.stripes == ((Tile(9, 39, 12, 12),), (Tile(69, 3, 12, 18), Tile(69, 21, 12, 75)))


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
    assert content["tiles"] == sum(map(len, content["stripes"])) == plan.tile_count
    assert [Tile(*each) for stripe in content["stripes"] for each in stripe] == list(plan.tiles)
    assert content["computed_px"] == plan.computed_px
    assert max(map(len, text.splitlines())) < 120


@pytest.mark.parametrize("margin", [50, 132])
@pytest.mark.parametrize("seed", range(5))
def test_tiles_have_one_area_whatever_the_slides_side(seed, margin):
    """What memory goes with: slides of more than a tile or two use the bound, no slide exceeds it."""
    rng = np.random.default_rng(seed)
    for side in (4000, 10_000, 40_000):
        mask = gaussian_filter(rng.normal(size=(64, 64)), 6) > 0
        plan = plan_slide(reader((side, side)), 24, margin, 1536, Tissue(mask, side / 64), 24)
        areas = [math.prod(plan.region(tile)[2:]) / 1536**2 for tile in plan.tiles]
        assert LEAST_AREA <= max(areas) <= 1


def test_shape_of_tiles_computes_the_fewest_pixels():
    """A band of tissue is not cut into squares: margins would cost more."""
    mask = np.zeros((100, 100), bool)
    mask[40:50] = True
    plan = plan_slide(reader((8000, 8000)), 8, 128, 2048, Tissue(mask, 80.0))
    square = 2048 - 2 * 128
    assert len(plan.stripes) == 1
    assert plan.computed_px < np.ceil(8000 / square) * (800 + 2 * 128) * 2048


def test_large_slide_is_planned_quickly():
    """100,000 px at 1 px a cell: ten thousand million cells, of which only those in tissue are looked at."""
    mask = np.zeros((1000, 1000), bool)
    mask[100:140, 100:160] = True
    plan = plan_slide(reader((100_000, 100_000)), 1, 32, 1600, Tissue(mask, 100.0))
    assert plan.tissue_cells == 4000 * 6000
    assert plan.computed_px < 1.25 * plan.tissue_cells


@pytest.mark.parametrize(("step", "margin", "align"), [(0, 0, 1), (8, -1, 1), (8, 0, 0)])
def test_bad_predictor(step, margin, align):
    with pytest.raises(InputError, match="a step of at least 1 px"):
        plan_slide(reader((100, 100)), step, margin, align=align)


def cheapest(wanted, grain_px, margin, most):
    """The cost of the cheapest tiles of a stripe, by trying all ways to cut it."""

    def of(left):
        if left == wanted.shape[1]:
            return 0
        costs = [of(left + 1)] if not wanted[:, left].any() else []
        for right in range(left + 1, wanted.shape[1] + 1):
            rows = np.flatnonzero(wanted[:, left:right].any(axis=1))
            if len(rows):
                height, width = int(rows[-1] - rows[0]) + 1, right - left
                px = (height * grain_px + 2 * margin) * (width * grain_px + 2 * margin)
                if px <= most or height == width == 1:
                    costs.append(px + most / 64 + of(right))
        return min(costs, default=math.inf)

    return of(0)


@settings(max_examples=150, deadline=None)
@given(
    mask=hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 9))),
    step=st.integers(1, 6),
    margin=st.integers(0, 6),
    tile_px=st.integers(6, 60),
)
def test_tiles_are_the_cheapest_of_all_ways_to_cut_a_stripe(mask, step, margin, tile_px):
    """Each stripe begins with the first line of tissue that is left; of the heights tried the cheapest is taken."""
    assume(mask.any())
    assume(tile_px >= step + 2 * margin)
    square = (tile_px - 2 * margin) // step
    assume(square < 16)  # a grain is a cell
    lines = np.flatnonzero(mask.any(axis=1)).tolist()
    costs = []
    for height in {max(1, round(share * square)) for share in (0.75, 1, 1.25)}:
        cost, left = 0, lines
        while left:
            cost += cheapest(mask[left[0] : left[0] + height], step, margin, tile_px**2)
            left = [line for line in left if line >= left[0] + height]
        costs.append(cost)
    plan = plan_slide(reader(tuple(side * step for side in mask.shape)), step, margin, tile_px,
                      Tissue(mask, float(step)))  # fmt: skip
    assert plan.grain == 1
    assert plan.computed_px + plan.tile_count * tile_px**2 / 64 == pytest.approx(min(costs))


@pytest.mark.parametrize("seed", range(4))
def test_fewer_px_than_by_tiles_of_one_size(seed):
    """Blobs of tissue, a margin of a seventh: squares in rows compute a fifth more or worse."""
    mask = gaussian_filter(np.random.default_rng(seed).normal(size=(200, 200)), 14) > 0.02
    side, margin, inner = 1344, 192, 960
    plan = plan_slide(reader((8000, 8000)), 1, margin, side, Tissue(mask, 40.0), 32)
    squares, lines = 0, np.flatnonzero(mask.any(axis=1)) * 40
    while len(lines):
        cols = np.flatnonzero(mask[lines[0] // 40 : (lines[0] + inner) // 40].any(axis=0)) * 40
        while len(cols):
            squares += 1
            cols = cols[cols >= cols[0] + inner]
        lines = lines[lines >= lines[0] + inner]
    assert plan.computed_px < 0.9 * squares * side**2
