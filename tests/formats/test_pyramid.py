"""The factors of pyramids, against how writers make levels: divided, rounded, and padded to whole tiles."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from monai_ext.formats.pyramid import level_factors

SIDES = st.integers(300, 60_000)
TILES = st.sampled_from([128, 240, 256, 512, 1024])


def padded(side, tile):
    return -(-side // tile) * tile


def pyramid(size, factor, levels, rounding):
    """Levels until one side is a pixel."""
    sizes = [tuple(rounding(side / factor**level) for side in size) for level in range(levels)]
    return [level for level in sizes if min(level) >= 1]


@given(size=st.tuples(SIDES, SIDES), tile=TILES, factor=st.integers(2, 4), levels=st.integers(2, 7))
@example(size=(1021, 1021), tile=256, factor=2, levels=4)
@example(size=(1788, 1788), tile=256, factor=4, levels=5)
@example(size=(2158, 2158), tile=240, factor=4, levels=5)
def test_levels_in_whole_tiles_are_a_whole_number_of_times_smaller(size, tile, factor, levels):
    """Never another number, but for one that gives a small level's size by rounding alone, which nobody can tell apart.

    A level of which padding leaves too little may be passed over, but not a large one.
    """
    sizes = [
        size,
        *(tuple(padded(side, tile) for side in level) for level in pyramid(size, factor, levels, math.ceil)[1:]),
    ]
    factors = level_factors(sizes, [(tile, tile)] * len(sizes))
    for power, (level, value) in enumerate(zip(sizes, factors, strict=True)):
        if min(level) >= 8 * tile * factor:
            assert value == factor**power
        elif value not in (None, float(factor**power)):
            assert all(abs(whole / value - side) < 1 for whole, side in zip(size, level, strict=True)), (sizes, factors)
            break  # the levels after it are powers of the same


@given(
    size=st.tuples(SIDES, SIDES),
    tile=st.none() | TILES,
    factor=st.integers(2, 4),
    levels=st.integers(2, 6),
    rounding=st.sampled_from([math.floor, math.ceil, round]),
)
def test_rounded_levels(size, tile, factor, levels, rounding):
    sizes = pyramid(size, factor, levels, rounding)
    factors = level_factors(sizes, [tile and (tile, tile)] * len(sizes))
    for power, (level, value) in enumerate(zip(sizes, factors, strict=True)):
        if min(level) >= 64:  # of a few px nothing can be said
            assert value == pytest.approx(factor**power)


@pytest.mark.parametrize("factors", [(4, 16, 32), (4, 8, 32), (2, 8)])
def test_uneven_steps(factors):
    """Aperio's scanners leave levels out."""
    size = (71_154, 46_000)
    sizes = [size, *(tuple(side // factor for side in size) for factor in factors)]
    assert level_factors(sizes, [(240, 240)] * len(sizes)) == [1.0, *factors]


def test_a_factor_that_is_no_whole_number_is_the_quotient():
    assert level_factors([(30_000, 20_000), (12_000, 8000)], [None, None]) == [1.0, 2.5]
    assert level_factors([(30_000, 20_001), (12_000, 8000)], [(256, 256)] * 2)[1] == pytest.approx(2.5, abs=1e-3)


def test_what_neither_rounding_nor_padding_explains_is_no_whole_number():
    """A side a px too long for its factor, or a tile too long."""
    [_, factor] = level_factors([(30_000, 20_000), (7501, 5001)], [None, None])
    assert factor == pytest.approx((30_000 / 7501 + 20_000 / 5001) / 2, rel=1e-9)
    assert level_factors([(4096, 4096), (2304, 2304)], [(256, 256)] * 2) == [1.0, 4096 / 2304]


def test_levels_of_one_tile_follow_those_before():
    sizes = [(4000, 3840), (2048, 2048), (1024, 1024), (512, 512), (256, 256), (256, 256)]
    assert level_factors(sizes, [(256, 256)] * 6) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    assert level_factors([sizes[0], sizes[4]], [(256, 256)] * 2) == [1.0, None]
