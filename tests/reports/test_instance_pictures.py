import json

import cv2
import numpy as np
import pytest
import tifffile

from monai_ext.base.errors import InputError
from monai_ext.reports.instance_pictures import instance_rows, picture_instances

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


def test_masks_and_heat_are_drawn_too():
    shown, mask = image(40, 40), square(40, 40) > 0
    heat = np.zeros((40, 40), np.float32)
    heat[4:14, 6:20] = 1
    picture = instance_rows([shown], [[mask, heat]], ["image", "mask", "heat"], 40)
    plain = np.moveaxis(shown, 0, -1)
    masked, heated = cell(picture, 0, 1, 40), cell(picture, 0, 2, 40)
    np.testing.assert_array_equal(masked[~mask], plain[~mask])
    assert (masked[mask] != plain[mask]).any(axis=1).all()
    assert not (masked == 20).all(axis=-1).any()  # no outlines
    np.testing.assert_array_equal(heated[heat == 0], plain[heat == 0])
    assert (heated[heat == 1] != plain[heat == 1]).any(axis=1).all()


@pytest.fixture
def runs(tmp_path):
    """Two runs over three images, of which the second run has no map of the first."""
    labels, folders = square(40, 50).astype(np.uint16), {}
    (tmp_path / "data").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"data/{number}.png"), np.moveaxis(image(40, 50, number), 0, -1)[..., ::-1])
        tifffile.imwrite(tmp_path / f"data/{number}.tif", labels)
    for name, value in (("K=3", 3), ("K=20", 9)):
        folder = tmp_path / name
        folder.mkdir()
        items = []
        for number in range(3):
            item = {"image": f"../data/{number}.png", "label": f"../data/{number}.tif"}
            if (name, number) != ("K=20", 0):
                item["instances"] = f"{number}.tif"
                tifffile.imwrite(folder / f"{number}.tif", np.where(labels == value, labels, 0))
            items.append(item)
        (folder / "dataset.json").write_text(json.dumps({"test": items}))
        folders[name] = str(folder)
    return folders


def test_runs_stand_beside_image_and_labels(runs, tmp_path):
    path = picture_instances(runs, tmp_path / "out", side=40)
    picture = cv2.imread(path)[..., ::-1]
    assert picture.shape == (BAND + 2 * 44, 4 * 44, 3)  # the two images that both runs have
    for row, number in enumerate((1, 2)):
        plain = np.moveaxis(image(40, 50, number), 0, -1)[:, :40]
        np.testing.assert_array_equal(cell(picture, row, 0, 40), plain)
        marked = [(cell(picture, row, column, 40) != plain).any(axis=-1) for column in (1, 2, 3)]
        ids = square(40, 50)[:, :40]
        np.testing.assert_array_equal(marked[0], ids > 0)
        np.testing.assert_array_equal(marked[1], ids == 3)
        np.testing.assert_array_equal(marked[2], ids == 9)


def test_fewer_pictures_and_no_labels(runs, tmp_path):
    picture = cv2.imread(picture_instances(runs, tmp_path / "out", truth="none", pictures=1, side=40))
    assert picture.shape == (BAND + 44, 3 * 44, 3)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"split": "tests"}, "--split: expected training, validation, test"),
        ({"pictures": 0}, "--pictures: expected a whole number from 1"),
        ({"side": 1.5}, "--side: expected a whole number from 1"),
        ({"key": "seeds"}, "--runs: expected an image of the test list with 'seeds' in all of them"),
    ],
)
def test_what_cannot_be_drawn(runs, tmp_path, options, problem):
    with pytest.raises(InputError, match=problem):
        picture_instances(runs, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
