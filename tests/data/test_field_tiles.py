"""Draws by tile over all fields: shares by hand, and what SegMitos's multipliers make of its data sets."""

import re

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch.utils.data import WeightedRandomSampler

from monai_ext.base.errors import InputError
from monai_ext.data import FieldTiles, tile_corners

DRAWS = 4000
FOUR_SIGMA = 4 * 0.5 / DRAWS**0.5


def field(shape, points=(), **entries):
    return {"image": np.broadcast_to(np.uint8(0), (3, *shape)), "label": np.array(points).reshape(-1, 2), **entries}


def share_with_a_figure(tiles):
    return tiles.weights[[tile["tile"].positive for tile in tiles]].sum()


@pytest.mark.parametrize(
    ("shape", "size", "count"),
    [
        ((2000, 2000), (500, 500), 16),
        ((1376, 1539), (344, 385), 16),
        ((2084, 2084), (500, 500), 25),
        ((1536, 1024), (512, 512), 6),
        ((300, 200), (300, 200), 1),
    ],
)
def test_tiles_cover_a_field(shape, size, count):
    corners = tile_corners(shape, size)
    assert len(corners) == count
    covered = np.zeros(shape, int)
    for row, column in corners:
        covered[row : row + size[0], column : column + size[1]] += 1
    assert covered.shape == shape
    assert covered.min() == 1


def test_shares_by_hand():
    fields = [
        field((100, 300), [[50, 50], [60, 60], [50, 250]], group="a"),  # two tiles with figures, one without
        field((100, 100), group="b", lookalikes=[[1, 1]]),
        field((100, 100), group="b"),
    ]
    tiles = FieldTiles(fields, size=100, multipliers=(6, 2))
    assert tiles.weights.tolist() == pytest.approx([6 / 18, 2 / 18, 6 / 18, 2 / 18, 2 / 18])
    half = FieldTiles(fields, size=100, positive=0.5)
    assert half.weights.tolist() == pytest.approx([1 / 4, 1 / 6, 1 / 4, 1 / 6, 1 / 6])
    alike = FieldTiles(fields, size=100, positive=0.5, lookalikes=0.8)
    assert alike.weights.tolist() == pytest.approx([0.25, 0.05, 0.25, 0.4, 0.05])
    assert [len(tile["tile"].points) for tile in tiles] == [2, 0, 1, 0, 0]
    assert [tile["tile"].points.tolist() for tile in alike][3] == [[1, 1]]
    assert [tile["tile"].positive for tile in alike] == [True, False, True, False, False]
    assert alike.summary() == (
        "5 tiles of 100 x 100 px in 3 fields; 50.0% of patches with a figure (2 tiles); "
        "40.0% with a look-alike instead (1 tiles)\n"
        "patches of each case:\n  a 55.0%, b 45.0%"
    )


def test_draws_have_these_shares():
    fields = [field((100, 1000), [[50, 50]]), field((100, 100))]
    tiles = FieldTiles(fields, size=100, positive=0.75)
    torch.manual_seed(0)
    drawn = [tiles[index]["tile"].positive for index in WeightedRandomSampler(tiles.weights, DRAWS)]
    assert np.mean(drawn) == pytest.approx(0.75, abs=FOUR_SIGMA)


def scattered(rng, fields, shape, figures, group):
    """As many fields, figures at random places of all of them."""
    which = rng.integers(0, fields, figures)
    places = rng.uniform(0, shape, (figures, 2))
    return [field(shape, places[which == number], group=group(number)) for number in range(fields)]


def test_the_share_of_figures_is_the_papers():
    """Sections 4.3 and 4.4: 311 fields with 550 mitoses, 576 variants against 4; 816 with 534, 144 against 1."""
    rng = np.random.default_rng(0)
    amida = scattered(rng, 311, (2000, 2000), 550, lambda number: number % 12)
    assert share_with_a_figure(FieldTiles(amida, size=500, multipliers=(576, 4))) == pytest.approx(0.94, abs=0.01)
    mitos14 = scattered(rng, 816, (1376, 1539), 534, lambda number: number % 7)
    tiles = FieldTiles(mitos14, size=(344, 385), multipliers=(144, 1))
    assert len(tiles) == 816 * 16
    assert share_with_a_figure(tiles) == pytest.approx(0.855, abs=0.01)


def test_a_case_of_one_large_region_gets_its_share():
    """TUPAC16: 23 cases in fields of 2000 px, 43 in one region of 5657 px, of the same figures per area."""
    rng = np.random.default_rng(0)
    small = scattered(rng, 606, (2000, 2000), 1083, lambda number: f"small {number % 23}")
    large = scattered(rng, 43, (5657, 5657), round(1083 / 606 * 43 * 8), lambda number: f"large {number}")
    tiles = FieldTiles(small + large, size=500, multipliers=(576, 4))
    shares = dict(re.findall(r"((?:small|large) \d+) ([\d.]+)%", tiles.summary()))
    assert len(shares) == 66
    of_large = sum(float(share) for name, share in shares.items() if name.startswith("large"))
    assert of_large == pytest.approx(100 * 43 * 8 / (606 + 43 * 8), abs=3)  # by area; by file it were 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "either positive or multipliers"),
        ({"positive": 0.5, "multipliers": (2, 1)}, "either positive or multipliers"),
        ({"positive": 1.5}, "positive: expected a share"),
        ({"positive": 0.5, "lookalikes": -1}, "lookalikes: expected a share"),
        ({"positive": 0.5, "lookalikes": 0.5}, "points under 'lookalikes' in dataset.json"),
    ],
    ids=str,
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        FieldTiles([field((100, 100))], size=100, **options)


@pytest.mark.parametrize("points", [[], [[5, 5]]], ids=["no figure", "all figures"])
@pytest.mark.parametrize("options", [{"positive": 0.75}, {"multipliers": (576, 4)}], ids=str)
def test_one_kind_alone_has_all_draws(points, options):
    tiles = FieldTiles([field((50, 40), points)], size=100, **options)
    assert tiles.weights.tolist() == [1]
    assert tiles[0]["tile"].size == (50, 40)


def test_tiles_in_which_nothing_is_known_are_none():
    known = np.zeros((1, 100, 300), bool)
    known[0, 50, 250] = True
    fields = [{"image": np.zeros((3, 100, 300)), "label": [[5, 5], [50, 260]], "known": known}, field((100, 200))]
    tiles = FieldTiles(fields, lambda item: item["tile"].corner, size=100, positive=0.5)
    assert list(tiles) == [(0, 200), (0, 0), (0, 100)]
    assert tiles.weights.tolist() == [0.5, 0.25, 0.25]


def test_fields_without_points_count_by_tile():
    fields = [{"image": MetaTensor(torch.zeros(1, 100, 300), meta={"filename_or_obj": "x/mass.png"})}]
    tiles = FieldTiles(fields, lambda item: item["tile"].corner, size=100, points_key=None)
    assert tiles.weights.tolist() == [1 / 3] * 3
    assert list(tiles) == [(0, 0), (0, 100), (0, 200)]
    assert tiles.summary() == "3 tiles of 100 x 100 px in 1 fields\npatches of each case:\n  mass 100.0%"
