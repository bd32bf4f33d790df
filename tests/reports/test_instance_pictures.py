import numpy as np
import pytest

from monai_ext.reports.instance_pictures import instance_rows

GAP, BAND = 4, 22  # px


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(60, 200, (3, height, width), np.uint8)


def square(height, width):
    ids = np.zeros((height, width), np.int32)
    ids[4:14, 6:20] = 3
    ids[20:30, 6:20] = 9
    return ids


def cell(picture, row, column, side):
    top, left = BAND + row * (side + GAP), column * (side + GAP)
    return picture[top : top + side, left : left + side]


def test_a_row_for_each_image_and_a_column_for_each_map():
    side = 32
    picture = instance_rows([image(40, 50), image(40, 50, 1)], [[square(40, 50)] * 2] * 2, ["a", "b", "c"], side)
    assert picture.shape == (BAND + 2 * (side + GAP), 3 * (side + GAP), 3)
    assert picture.dtype == np.uint8


def test_outside_instances_the_image_is_as_it_was():
    shown, ids = image(40, 50), square(40, 50)
    picture = instance_rows([shown], [[ids]], ["image", "found"], 32)
    part = np.moveaxis(shown, 0, -1)[:32, :32]
    np.testing.assert_array_equal(cell(picture, 0, 0, 32), part)
    found = cell(picture, 0, 1, 32)
    inside = ids[:32, :32] > 0
    np.testing.assert_array_equal(found[~inside], part[~inside])
    assert (found[inside] != part[inside]).any(axis=1).all()
    assert (found[4, 6:20] == 20).all()  # an outline
    assert (found[8, 10] != found[25, 10]).any()  # instances have colours


def test_no_instances():
    shown = image(20, 20)
    picture = instance_rows([shown], [[np.zeros((20, 20), np.int32)]], ["image", "found"], 20)
    np.testing.assert_array_equal(cell(picture, 0, 1, 20), np.moveaxis(shown, 0, -1))


def test_small_images_stand_on_white():
    picture = instance_rows([image(10, 30)], [[square(40, 50)[:10, :30]]], ["image", "found"], 32)
    assert picture.shape == (BAND + 36, 72, 3)
    for column in (0, 1):
        assert (cell(picture, 0, column, 32)[10:] == 255).all()
        assert (cell(picture, 0, column, 32)[:, 30:] == 255).all()


def test_headings_stand_above_their_columns():
    picture = instance_rows([image(40, 40)], [[square(40, 40)] * 2], ["image", "", "cycle 1"], 40)
    written = [(picture[:BAND, column * 44 : (column + 1) * 44] < 128).any() for column in range(3)]
    assert written == [True, False, True]


def test_as_many_maps_as_images():
    with pytest.raises(ValueError, match="zip"):
        instance_rows([image(10, 10)], [], ["image"])
