from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_ext.base.errors import InputError
from monai_ext.formats.hotspot import hot_spot, mitosis_summary

EDGE_TOL = 1e-9  # relative; how far outside the circle a point still lies on it
PX_TOL = 1e-9


def count_in(points, centre, radius):
    return int((np.hypot(*(points - centre).T) <= radius * (1 + EDGE_TOL)).sum())


def brute_force(points, radius):
    """The best circle passes through two points, or is centred on one: try them all."""
    centres = list(points)
    for i, p in enumerate(points):
        for q in points[:i]:
            apart = np.hypot(*(q - p))
            if 0 < apart <= 2 * radius:
                across = np.array([p[1] - q[1], q[0] - p[0]]) / apart * math.sqrt(max(radius**2 - apart**2 / 4, 0))
                centres += [(p + q) / 2 + across, (p + q) / 2 - across]
    return max(count_in(points, centre, radius) for centre in centres)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=25),
    st.sampled_from([0.003, 0.01, 0.03, 0.1]),
)
def test_equals_brute_force(points, area):
    points = np.array(points, float)
    spot = hot_spot(points, (401, 401), 1.0, area)
    assert spot.count == brute_force(points, spot.radius)
    assert spot.count == count_in(points, (spot.row, spot.col), spot.radius)
    assert not spot.whole_field


def slow(points, shape, mpp, area):
    """Count, radius, area counted and centre (where it is settled) of a field of any shape, one pair at a time."""
    height, width = shape
    field = height * mpp * width * mpp / 1e6
    middle = ((height - 1) / 2, (width - 1) / 2)
    if field <= area:
        return len(points), None, field, middle
    radius = 1000 * math.sqrt(area / math.pi) / mpp
    return (brute_force(points, radius) if len(points) else 0), radius, area, None if len(points) else middle


@st.composite
def fields(draw):
    """A field, often a strip, and points all over it, its corners too."""
    height, width = draw(st.tuples(st.integers(1, 60), st.integers(1, 900)))
    shape = draw(st.permutations([height, width]))
    inside = st.tuples(*(st.one_of(st.sampled_from([0, side - 1]), st.integers(0, side - 1)) for side in shape))
    return tuple(shape), np.array(draw(st.lists(inside, max_size=20)), float).reshape(-1, 2)


@settings(max_examples=150, deadline=None)
@given(fields(), st.sampled_from([0.25, 1.0, 3.0]), st.sampled_from([0.0003, 0.003, 0.02, 0.1]))
def test_fields_that_are_not_square(field, mpp, area):
    shape, points = field
    spot = hot_spot(points, shape, mpp, area)
    count, radius, counted, centre = slow(points, shape, mpp, area)
    assert spot.count == count
    assert spot.whole_field == (radius is None)
    assert spot.radius == (None if radius is None else pytest.approx(radius))
    assert spot.area_mm2 == pytest.approx(counted)
    assert spot.density_per_mm2 == pytest.approx(count / counted)
    if centre is not None:
        assert (spot.row, spot.col) == centre
    else:
        assert spot.count == count_in(points, (spot.row, spot.col), spot.radius)
        assert (points.min(0) - PX_TOL <= (spot.row, spot.col)).all()
        assert (points.max(0) + PX_TOL >= (spot.row, spot.col)).all()
    turned = hot_spot(points[:, ::-1], shape[::-1], mpp, area)
    assert (turned.count, turned.area_mm2, turned.whole_field) == (spot.count, spot.area_mm2, spot.whole_field)


@pytest.mark.parametrize(("shape", "whole"), [((1000, 2000), True), ((2000, 1000), True), ((1000, 2001), False)])
def test_a_field_of_just_the_area_counts_as_a_whole(shape, whole):
    assert hot_spot(np.array([[5.0, 5.0]]), shape, 1.0, 2.0).whole_field is whole


def test_summary_of_a_strip():
    row = mitosis_summary(np.array([[10.0, 7900.0, 50, 0.9], [40, 7000, 60, 0.8], [5, 5, 60, 0.8]]), (50, 8000), 1.0)
    assert row["area_mm2"] == pytest.approx(0.4)
    assert row["density_per_mm2"] == pytest.approx(7.5)
    assert (row["hotspot_count"], row["hotspot_whole_field"]) == (3, True)
    assert (row["hotspot_row"], row["hotspot_col"]) == (24.5, 3999.5)


@pytest.mark.parametrize("seed", range(6))
def test_equals_brute_force_off_the_grid(seed):
    rng = np.random.default_rng(seed)
    points = np.vstack([rng.uniform(0, 6000, (40, 2)), rng.normal(3000, 400, (20, 2))])
    spot = hot_spot(points, (6000, 6000), 0.25, 0.2)
    assert spot.count == brute_force(points, spot.radius)


def test_area_and_density():
    spot = hot_spot(np.array([[100.0, 100.0]] * 3), (10_000, 10_000), 0.25)
    assert math.pi * (spot.radius * 0.25e-3) ** 2 == pytest.approx(2.0)
    assert (spot.row, spot.col, spot.count, spot.area_mm2) == (100, 100, 3, 2.0)
    assert spot.density_per_mm2 == 1.5


def test_circle_is_centred_on_what_it_holds():
    square = np.array([[5000.0, 5000.0], [5000, 5200], [5200, 5000], [5200, 5200], [40_000, 40_000]])
    spot = hot_spot(square, (50_000, 50_000), 0.25)
    assert (spot.row, spot.col, spot.count) == (pytest.approx(5100), pytest.approx(5100), 4)


def test_two_points_a_diameter_apart():
    spot = hot_spot(np.array([[1000.0, 1000.0], [1000, 1200]]), (3000, 3000), 1.0, math.pi * 0.01)
    assert spot.radius == pytest.approx(100)
    assert (spot.count, spot.col) == (2, pytest.approx(1100))


def test_a_small_field_counts_as_a_whole():
    spot = hot_spot(np.array([[1.0, 2.0]]), (2000, 1000), 0.5)
    assert spot.whole_field
    assert spot.radius is None
    assert (spot.row, spot.col, spot.count) == (999.5, 499.5, 1)
    assert spot.area_mm2 == pytest.approx(0.5)
    assert spot.density_per_mm2 == pytest.approx(2)


@pytest.mark.parametrize("points", [[], np.zeros((0, 4)), np.zeros((0, 2))])
def test_no_points(points):
    spot = hot_spot(points, (9001, 9001), 0.25)
    assert (spot.row, spot.col, spot.count, spot.density_per_mm2) == (4500, 4500, 0, 0)


@pytest.mark.parametrize(
    ("points", "mpp", "area"),
    [
        pytest.param([[1, 2]], 0, 2, id="no resolution"),
        pytest.param([[1, 2]], float("nan"), 2, id="resolution is NaN"),
        pytest.param([[1, 2]], 0.25, -1, id="negative area"),
        pytest.param([[1, math.nan]], 0.25, 2, id="point is NaN"),
    ],
)
def test_unusable(points, mpp, area):
    with pytest.raises(InputError, match="hot_spot: expected"):
        hot_spot(points, (9000, 9000), mpp, area)


def test_summary():
    points = torch.tensor([[100.0, 100.0, 50.0, 0.9], [5000.0, 5000.0, 60.0, 0.8]])
    row = mitosis_summary(points, (8000, 8000), 0.25)
    assert (row["count"], row["area_mm2"], row["density_per_mm2"]) == (2, 4.0, 0.5)
    assert (row["hotspot_count"], row["hotspot_area_mm2"], row["hotspot_whole_field"]) == (1, 2.0, False)
    assert mitosis_summary(points, (8000, 8000), 0.25, tissue_mm2=1.0)["density_per_mm2"] == 2


@pytest.mark.parametrize("mpp", [None, 0])
def test_summary_without_a_resolution_has_the_count_alone(mpp):
    row = mitosis_summary(np.zeros((3, 4)), (50, 50), mpp)
    assert row.pop("count") == 3
    assert set(row.values()) == {None}
    assert set(row) | {"count"} == set(mitosis_summary(np.zeros((3, 4)), (50, 50), 1.0))


@pytest.mark.parametrize("turn", np.arange(12) * math.pi / 6 + 0.1)
def test_a_point_just_outside_does_not_move_the_circle(turn):
    """Of three points on a slightly larger circle any two fit, never all three."""
    radius = math.sqrt(2e6 / math.pi)  # px of 1 um
    angles = turn + np.arange(3) * 2 * math.pi / 3
    points = 5000 + (radius + 0.2) * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    spot = hot_spot(points, (10_000, 10_000), mpp=1.0)
    assert spot.count == 2
    inside = np.hypot(*(points - (spot.row, spot.col)).T) < radius
    np.testing.assert_allclose(points[inside].mean(axis=0), (spot.row, spot.col), atol=1e-6)
