import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.transforms import ProbNMS
from scipy.ndimage import gaussian_filter

from monai_ext.base.errors import InputError
from monai_ext.slides.detections import iterative_nms


def monai_nms(heat, radius, threshold):
    found = ProbNMS(prob_threshold=threshold, box_size=2 * radius + 1)(heat.copy())
    return np.array([point[1:] for point in found]).reshape(-1, 2), np.array([point[0] for point in found])


@pytest.mark.parametrize("radius", [0, 1, 4, 20, 300])
@pytest.mark.parametrize("decimals", [1, 2, 8])  # ties, or none
def test_equals_monai(radius, decimals):
    heat = gaussian_filter(np.random.default_rng(radius).random((140, 200)), 2).astype(np.float32)
    heat = np.round((heat - heat.min()) / np.ptp(heat), decimals)
    points, scores = iterative_nms(heat, radius, 0.6)
    expected, values = monai_nms(heat, radius, 0.6)
    assert len(points) > 0
    np.testing.assert_array_equal(points, expected)
    np.testing.assert_array_equal(scores, values.astype(np.float32))


@settings(max_examples=100, deadline=None)
@given(
    heat=hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 8)),
    radius=st.integers(0, 6),
    threshold=st.integers(0, 8),
)
def test_equals_monai_on_anything(heat, radius, threshold):
    points, scores = iterative_nms(heat, radius, threshold)
    expected, values = monai_nms(heat, radius, threshold)
    np.testing.assert_array_equal(points, expected)
    np.testing.assert_array_equal(scores, values)


def test_map_is_left_as_it_is():
    heat = np.random.default_rng(0).random((20, 20)).astype(np.float32)
    before = heat.copy()
    iterative_nms(heat, 2, 0.1)
    np.testing.assert_array_equal(heat, before)


def test_nothing_above_the_threshold():
    points, scores = iterative_nms(np.full((5, 5), 0.5, np.float32), 1, 0.5)
    assert points.shape == (0, 2)
    assert scores.shape == (0,)


@pytest.mark.parametrize(("shape", "radius", "threshold"), [((5,), 1, 0.5), ((5, 5), -1, 0.5), ((5, 5), 1, -0.1)])
def test_bad_arguments(shape, radius, threshold):
    with pytest.raises(InputError, match=r"iterative_nms: expected a map \(H, W\)"):
        iterative_nms(np.zeros(shape), radius, threshold)
