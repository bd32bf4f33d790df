"""Drawing polygons: against a point in polygon test for each pixel, and maps of many against one at a time."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from monai_ext.formats.geojson import Features, rasterize
from monai_ext.formats.outlines import instance_centroids, polygons_to_label_map, polygons_to_mask, valid_areas

SHAPE = (12, 15)
EXACT = 1e-9
SMALL = 1e-7

coordinate = st.floats(-3, 18).map(lambda value: round(value * 3) / 3 + 0.0137)
triangle = st.lists(
    st.tuples(coordinate, coordinate.map(lambda value: value + 0.0311)), min_size=3, max_size=6, unique=True
)


@st.composite
def with_hole(draw):
    """A valid polygon, perhaps with holes, perhaps of several parts."""
    outer = shapely.make_valid(shapely.Polygon(draw(triangle)))
    hole = shapely.make_valid(shapely.Polygon(draw(triangle)))
    return shapely.MultiPolygon([p for p in shapely.get_parts(shapely.difference(outer, hole)) if p.area])


def slow_mask(geometry, shape=SHAPE, offset=(0, 0), scale=1.0):
    """A pixel is covered when its centre is inside, asked for every pixel; no centre may lie on an outline."""
    rows, cols = np.mgrid[: shape[0], : shape[1]]
    centres = shapely.points((cols + 0.5) * scale + offset[1], (rows + 0.5) * scale + offset[0])
    assume(shapely.is_empty(geometry) or shapely.distance(geometry.boundary, centres).min() > SMALL)
    return shapely.contains(geometry, centres)


@settings(deadline=None, max_examples=300)
@given(
    geometry=with_hole(),
    offset=st.tuples(st.integers(-4, 4), st.integers(-4, 4)),
    scale=st.sampled_from([1, 2, 4]),
)
def test_masks_follow_the_pixel_centre_rule(geometry, offset, scale):
    expected = slow_mask(geometry, SHAPE, offset, scale)
    assert np.array_equal(polygons_to_mask(np.array([geometry]), SHAPE, offset, scale), expected)
    assert np.array_equal(polygons_to_label_map(np.array([geometry]), SHAPE, offset, scale) > 0, expected)


@settings(deadline=None, max_examples=200)
@given(st.lists(with_hole(), max_size=6), st.lists(st.sampled_from(["a", "b", "c", None]), min_size=6, max_size=6))
def test_a_channel_for_each_class(geometries, classes):
    features = Features(geometries, classes[: len(geometries)])
    masks = rasterize(features, SHAPE, ["a", "b"])
    for mask, name in zip(masks, "ab", strict=True):
        own = [slow_mask(g) for g, kind in zip(geometries, classes, strict=False) if kind == name]
        assert np.array_equal(mask > 0, np.any(own, axis=0) if own else np.zeros(SHAPE, bool))


@settings(deadline=None, max_examples=200)
@given(st.lists(with_hole(), max_size=6))
@pytest.mark.slow
def test_label_map_is_one_polygon_after_the_other_small_ones_last(geometries):
    expected = np.zeros(SHAPE, int)
    for index in sorted(range(len(geometries)), key=lambda index: (-geometries[index].area, index)):
        expected[slow_mask(geometries[index])] = index + 1
    assert np.array_equal(polygons_to_label_map(np.array(geometries, dtype=object), SHAPE), expected)


def test_neighbours_share_no_pixel_and_leave_none():
    """Outlines through pixel centres: each centre belongs to the polygon on its right or below it."""
    edges = np.arange(0.5, 13, 4)
    boxes = [shapely.box(x, y, x + 4, y + 4) for y in edges[:3] for x in edges[:3]]
    labels = polygons_to_label_map(np.array(boxes), (13, 13))
    assert np.array_equal(np.bincount(labels.ravel())[1:], np.full(9, 16))
    assert labels[0, 0] == 1
    assert labels[12, 12] == 0


def test_other_geometries_cover_nothing_and_crossed_outlines_are_made_valid():
    bow = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    both = shapely.GeometryCollection([shapely.box(6, 0, 8, 2), shapely.Point(1, 1)])
    labels = polygons_to_label_map(np.array([shapely.Point(1, 1), bow, None, both], dtype=object), (5, 9))
    assert labels[0, 6] == 4
    assert labels[1, 0] == 2
    assert labels[1, 3] == 2
    assert labels[0, 1] == labels[0, 2] == 0, "outside both wings"
    assert set(np.unique(labels)) == {0, 2, 4}


def test_each_collection_keeps_its_own_areas():
    pair = shapely.GeometryCollection([shapely.box(0, 0, 2, 2), shapely.Point(9, 9)])
    other = shapely.GeometryCollection(
        [shapely.box(5, 5, 8, 8), shapely.box(7, 5, 9, 8), shapely.LineString([(0, 0), (1, 1)])]
    )
    assert [shape.bounds for shape in valid_areas([pair, other])] == [(0, 0, 2, 2), (5, 5, 9, 8)]
    assert shapely.area(valid_areas([other, pair])).tolist() == [12, 4]


@pytest.mark.parametrize("values", [(1, 2, 5), (7, 10**9, 3)], ids=["small", "larger than the map"])
def test_centroids(values):
    labels = np.zeros((6, 8), np.int64)
    labels[0, 0], labels[2:4, 1:4], labels[5, 7] = values
    found, centres = instance_centroids(labels)
    expected = {values[0]: [0, 0], values[1]: [2.5, 2], values[2]: [5, 7]}
    assert found.tolist() == sorted(values)
    assert np.allclose(centres, [expected[value] for value in sorted(values)], atol=EXACT)
    assert instance_centroids(np.zeros((3, 3), int))[1].shape == (0, 2)
