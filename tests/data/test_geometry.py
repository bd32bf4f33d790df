import numpy as np
import pytest

from monai_ext.data.geometry import image_affine


def mm(affine, row, col):
    """Where a pixel lies: to the right and downwards, mm."""
    x, y, z, one = affine @ [row, col, 0, 1]
    assert (z, one) == (0, 1)
    return -x, -y


def test_rows_go_down_and_columns_to_the_right():
    affine = image_affine(0.25)
    assert mm(affine, 0, 0) == (0, 0)
    assert mm(affine, 0, 4000) == pytest.approx((1, 0))
    assert mm(affine, 4000, 0) == pytest.approx((0, 1))


@pytest.mark.parametrize("scale", [0.5, 1, 2, 3.7])
@pytest.mark.parametrize("offset", [(0.0, 0.0), (120.0, 30.0)])
def test_a_place_is_one_whatever_the_grid(scale, offset):
    """The px ``(i, j)`` of a grid covers ``scale`` px of full resolution on each side."""
    full, grid = image_affine(0.25), image_affine(0.25 * scale, scale, offset)
    row, col = 11, 5
    centre = [(at + 0.5) * scale + corner - 0.5 for at, corner in zip((row, col), offset, strict=True)]
    np.testing.assert_allclose(mm(grid, row, col), mm(full, *centre))


@pytest.mark.parametrize("unknown", [None, 0, 0.0])
def test_of_unknown_resolution_it_is_in_px(unknown):
    assert mm(image_affine(unknown), 7, 3) == (3, 7)
    assert mm(image_affine(unknown, 1, (100, 20)), 7, 3) == (23, 107)
    assert mm(image_affine(unknown, 2), 1, 0) == (0.5, 2.5)
