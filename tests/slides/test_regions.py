"""Regions from strips are the regions of the whole map."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from monai_ext.formats.outlines import label_map_to_polygons, polygons_to_mask
from monai_ext.slides.regions import find_regions

TOLERANCE = 1e-9


def strips(heat, height):
    return [(top, heat[top : top + height]) for top in range(0, len(heat), height)]


def slow(heat, threshold, min_cells, min_mean):
    """One region after the other."""
    labels, count = ndimage.label(heat > threshold, np.ones((3, 3)))
    found = []
    for number in range(1, count + 1):
        row, col = np.nonzero(labels == number)
        values = heat[row, col]
        if len(values) > min_cells and values.mean() > min_mean:
            centre = [(row * values).sum() / values.sum(), (col * values).sum() / values.sum()]
            found.append((len(values), values.mean(), values.max(), *centre))
    return np.array(found).reshape(-1, 5)


@settings(max_examples=150, deadline=None)
@given(
    heat=hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 8)),
    height=st.integers(1, 15),
    threshold=st.integers(0, 7),
    min_cells=st.integers(0, 5),
    min_mean=st.integers(0, 8),
    scale=st.sampled_from([1, 2.5]),
)
def test_strips_make_no_difference(heat, height, threshold, min_cells, min_mean, scale):
    heat, threshold, min_mean = heat / 8, threshold / 8, min_mean / 8  # sums without rounding
    shape = tuple(int(side * scale) for side in heat.shape)
    regions = find_regions(strips(heat, height), threshold, scale, shape, min_cells, min_mean)
    expected = slow(heat, threshold, min_cells, min_mean)
    found = np.column_stack([regions.cells, regions.mean, regions.max, regions.centres])
    assert found.shape == expected.shape
    key = np.lexsort(expected.round(6).T), np.lexsort(found.round(6).T)
    np.testing.assert_allclose(found[key[1]], expected[key[0]], atol=TOLERANCE)
    assert shapely.is_valid(regions.polygons).all()
    for polygon, cells in zip(regions.polygons, regions.cells, strict=True):
        mask = polygons_to_mask(np.array([polygon]), heat.shape, scale=scale)
        if scale == 1:
            assert mask.sum() == cells
        assert (heat[mask] > threshold).all()


def test_outline_has_no_corners_where_strips_meet():
    heat = np.zeros((20, 12))
    heat[2:18, 3:9] = heat[5, 1:3] = 1
    heat[8:10, 5:7] = 0
    cut, whole = (find_regions(strips(heat, height), 0.5, 4.0, (80, 48)).polygons for height in (3, 20))
    assert len(cut) == len(whole) == 1
    assert cut[0].equals(whole[0])
    assert len(shapely.get_coordinates(cut)) == len(shapely.get_coordinates(whole))
    assert cut[0].equals(label_map_to_polygons(heat > 0.5, scale=4.0)[1][0])


@pytest.mark.parametrize("heat", [np.zeros((5, 5)), np.zeros((1, 1))])
def test_nothing_above_the_threshold(heat):
    regions = find_regions(strips(heat, 2), 0.5, 1.0, heat.shape)
    assert len(regions.polygons) == len(regions.cells) == len(regions.mean) == len(regions.max) == 0
    assert regions.centres.shape == (0, 2)


def test_specks_are_left_out_before_they_are_outlined(monkeypatch):
    """A map full of noise has millions of specks: memory is for what counts."""
    heat = (np.random.default_rng(0).random((60, 80)) > 0.9).astype(float)
    heat[20:40, 20:40] = 1
    drawn = []

    def counting(labels, *args):
        drawn.append(len(np.unique(labels)) - 1)
        return label_map_to_polygons(labels, *args)

    monkeypatch.setattr("monai_ext.slides.regions.label_map_to_polygons", counting)
    regions = find_regions(strips(heat, 60), 0.5, 1.0, heat.shape, min_cells=100)
    assert len(regions.polygons) == 1
    assert sum(drawn) < 40  # those at the strip's edges, whose other half may be in the next
