from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_ext.base.colours import COLOURS, to_rgb
from monai_ext.base.errors import InputError
from monai_ext.base.overlay import overlay

GREY = np.full((60, 80, 3), 128, np.uint8)


def has_colour(image, colour):
    return (image == np.array(colour, np.uint8)).all(-1)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(GREY, id="channel-last uint8"),
        pytest.param(GREY.transpose(2, 0, 1), id="channel-first uint8"),
        pytest.param(torch.from_numpy(GREY).permute(2, 0, 1) / 255, id="float tensor"),
        pytest.param(MetaTensor(torch.from_numpy(GREY[:, :, 0].copy())), id="grey MetaTensor"),
        pytest.param(GREY[..., :1] / 255, id="one channel float64"),
        pytest.param(GREY[None, ..., 0].astype(np.float32), id="float of 0 to 255"),
        pytest.param(GREY.astype(np.uint16) * 257, id="16 bits"),
        pytest.param(np.dstack([GREY, np.full((60, 80), 255, np.uint8)]), id="RGBA"),
    ],
)
def test_every_kind_of_image_gives_the_same_rgb(image):
    out = to_rgb(image)
    assert out.dtype == np.uint8
    np.testing.assert_array_equal(out, GREY)


def test_channel_dim_settles_what_the_shape_does_not():
    image = np.zeros((3, 50, 3), np.uint8)
    assert to_rgb(image).shape == (50, 3, 3)
    assert to_rgb(image, channel_dim=-1).shape == (3, 50, 3)


def test_transparent_pixels_are_white_and_nan_is_black():
    assert (to_rgb(np.zeros((5, 5, 4), np.uint8)) == 255).all()
    assert (to_rgb(np.full((5, 5), np.nan)) == 0).all()


def test_nothing_to_draw_returns_a_copy():
    out = overlay(GREY)
    out[:] = 0
    assert (GREY == 128).all()


def test_circles_take_the_colour_of_their_class_and_their_place():
    points = torch.tensor([[20.0, 15.0], [30.0, 60.0], [45.0, 40.0]])
    out = overlay(GREY, points=points, classes=["TP", "FP", "FN"], radius=8, thickness=2)
    for (row, col), name in zip(points.int().tolist(), ("TP", "FP", "FN"), strict=True):
        rows, cols = np.nonzero(has_colour(out, COLOURS[name]))
        distance = np.hypot(rows - row, cols - col)
        assert len(distance) > 20
        assert (abs(distance - 8) <= 2).all()
        assert (out[row, col] == 128).all()


def test_colours_can_be_given_and_others_are_stable():
    point = [[30, 30]]
    assert has_colour(overlay(GREY, points=point, classes=["x"], colours={"x": (1, 2, 3)}), (1, 2, 3)).any()
    both = overlay(GREY, points=[[20, 20], [40, 60]], classes=["b", "a"], radius=6)
    flipped = overlay(GREY, points=[[40, 60], [20, 20]], classes=["a", "b"], radius=6)
    np.testing.assert_array_equal(both, flipped)


def test_contours_lie_on_the_inner_border_of_each_instance():
    labels = np.zeros((1, 60, 80), np.int32)
    labels[0, 10:30, 10:30] = 1
    labels[0, 10:30, 30:50] = 2
    out = overlay(GREY, labels=torch.from_numpy(labels), classes=["TP", "FP"], thickness=1)
    for left, name in ((10, "TP"), (30, "FP")):
        expected = np.zeros((60, 80), bool)
        expected[10:30, left : left + 20] = True
        expected[11:29, left + 1 : left + 19] = False
        np.testing.assert_array_equal(has_colour(out, COLOURS[name]), expected)


def test_an_instance_that_fills_the_image_has_no_border():
    np.testing.assert_array_equal(overlay(GREY, labels=np.ones((60, 80), np.int64)), GREY)


def test_heat_of_zero_leaves_the_tissue_and_any_resolution_fits():
    np.testing.assert_array_equal(overlay(GREY, heat=np.zeros((1, 5, 7))), GREY)
    heat = np.zeros((6, 8), np.float32)
    heat[0, 0] = 1
    out = overlay(GREY, heat=heat).astype(int)
    changed = abs(out - 128).sum(-1)
    assert changed[3, 3] > 60
    assert changed[30:, 40:].max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (5000, 3)])
def test_any_size(shape):
    out = overlay(np.zeros(shape), points=[[0, 0]], labels=np.ones(shape, int), heat=np.ones((2, 2)), classes=["TP"])
    assert out.shape == (*shape, 3)


@pytest.mark.parametrize("points", [[], np.zeros((0, 4)), torch.zeros(0, 2)])
def test_no_points(points):
    np.testing.assert_array_equal(overlay(GREY, points=points, labels=np.zeros((60, 80), int), classes=[]), GREY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"image": np.zeros((2, 5, 5))}, "image: expected", id="two channels"),
        pytest.param({"image": np.zeros((0, 5))}, "image: expected", id="empty"),
        pytest.param(
            {"image": GREY, "labels": np.zeros((5, 5), int)}, "labels: expected the image's", id="labels' shape"
        ),
        pytest.param({"image": GREY, "heat": np.zeros((2, 5, 5))}, "heat: expected", id="heat's shape"),
        pytest.param({"image": GREY, "points": [1, 2, 3]}, "points: expected", id="points' shape"),
        pytest.param({"image": GREY, "points": [[1, 2]], "classes": []}, "classes: expected one", id="point's class"),
        pytest.param(
            {"image": GREY, "labels": np.eye(60, 80, dtype=int) * 2, "classes": ["a"]},
            "classes: expected one for each of 2 instances, found 1",
            id="instance's class",
        ),
    ],
)
def test_what_does_not_fit(arguments, message):
    with pytest.raises(InputError, match=message):
        overlay(**arguments)
