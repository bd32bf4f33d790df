"""The picture of a slide: everything lies where it lies on the slide, and the scale bar is as long as it says."""

import math

import cv2
import numpy as np
import pytest
import shapely

from monai_ext.formats.hotspot import HotSpot
from monai_ext.slides.overlay import scale_bar, slide_overlay

GREY, INK, WHITE = 128, 20, 255
SCALE, CELL = 4.0, 32.0  # px of level 0 per px of the thumbnail, and along a cell
RED = (200, 0, 0)


@pytest.fixture
def written(monkeypatch):
    """What OpenCV is asked to write: text, place, size."""
    texts = []
    monkeypatch.setattr(cv2, "putText", lambda _, text, place, __, size, *rest: texts.append((text, place, size, rest)))
    return texts


@pytest.mark.parametrize(
    ("width", "mpp", "text", "px"),
    [
        (1000, 8.0, "1 mm", 125),
        (1000, 0.5, "100 um", 200),  # a fifth of the picture to the px
        (300, 2.0, "100 um", 50),
        (1024, 3.0, "500 um", 167),
        (1000, 2.5, "500 um", 200),
        (1000, 11.0, "2 mm", 182),
        (2048, 25.0, "10 mm", 400),
        (1000, 4.0, "500 um", 125),
        (3, 4.0, "2 um", 1),
        (1000, 4.999, "500 um", 100),
        (1000, 5.0, "1 mm", 200),
    ],
)
def test_scale_bar_is_as_long_as_it_says(width, mpp, text, px, written):
    picture = np.full((200, width, 3), GREY, np.uint8)
    scale_bar(picture, mpp)
    assert {entry[0] for entry in written} == {text}
    size = max(1, width // 500)
    row = picture[200 - 6 * size, :, 0]
    ink = np.flatnonzero(row == INK)
    left = min(6 * size, width)
    assert ink.tolist() == list(range(left, min(left + px + 1, width)))


@pytest.mark.parametrize(("width", "size"), [(300, 1), (1000, 2), (1499, 2), (1500, 3)])
def test_scale_bar_grows_with_the_picture_and_has_a_white_edge(width, size, written):
    picture = np.full((200, width, 3), GREY, np.uint8)
    scale_bar(picture, 1.0)
    column = picture[:, 6 * size + 5, 0]
    assert np.flatnonzero(column == INK).tolist() == list(range(200 - 8 * size, 200 - 6 * size + 1))
    white = [*range(200 - 9 * size, 200 - 8 * size), *range(200 - 6 * size + 1, 200 - 5 * size + 1)]
    assert np.flatnonzero(column == WHITE).tolist() == white
    across = picture[200 - 7 * size, :, 0]
    assert (across[5 * size : 6 * size] == WHITE).all()
    assert (across[: 5 * size] == GREY).all()
    assert np.count_nonzero(across == WHITE) == 2 * size
    # white letters first, somewhat thicker, the dark ones on them, above the bar's edge
    assert [entry[1] for entry in written] == [(6 * size, 200 - 11 * size)] * 2
    assert [entry[2] for entry in written] == [0.5 * size] * 2
    assert [entry[3][:2] for entry in written] == [((255,) * 3, 4 * size), ((20,) * 3, size)]


def drawn(heat=None, regions=(), points=(), spot=None, shape=(200, 240), colour=RED):
    """The picture on white, without the scale bar's corner."""
    heat = np.zeros((math.ceil(shape[0] * SCALE / CELL), math.ceil(shape[1] * SCALE / CELL))) if heat is None else heat
    thumbnail = np.full((3, *shape), WHITE, np.uint8)
    regions, points = np.array([*regions, None], object)[:-1], np.array(points, float).reshape(-1, 2)
    return slide_overlay(thumbnail, SCALE, heat, CELL, regions, points, 0.25, colour, spot)


def changed(picture, shape=(200, 240)):
    plain = drawn(shape=shape)
    return np.argwhere((picture != plain).any(axis=-1))


def test_a_hot_cell_is_coloured_where_it_lies():
    heat = np.zeros((25, 30))
    heat[7, 11] = 1
    places = changed(drawn(heat))
    side = int(CELL / SCALE)
    np.testing.assert_array_equal(places.min(axis=0), [7 * side, 11 * side])
    np.testing.assert_array_equal(places.max(axis=0), [8 * side - 1, 12 * side - 1])
    assert len(places) == side**2


def test_cells_that_are_no_whole_number_of_px():
    """A px of the picture shows the cell that its centre lies in; beyond the map the last one."""
    heat = np.linspace(0.1, 1, 6).reshape(2, 3)
    thumbnail = np.full((3, 60, 40), WHITE, np.uint8)
    nothing = np.zeros(0, object), np.zeros((0, 2))
    picture = slide_overlay(thumbnail, 4.0, heat, 50.0, *nothing, 0.25)
    rows = [min(int((i + 0.5) * 4 / 50), 1) for i in range(30)]
    cols = [min(int((j + 0.5) * 4 / 50), 2) for j in range(40)]  # the last begins at px 25
    colours = {}
    for i, row in enumerate(rows):
        for j, col in enumerate(cols):
            colours.setdefault((row, col), set()).add(tuple(picture[i, j].tolist()))
    assert all(len(shades) == 1 for shades in colours.values())
    assert len(set.union(*colours.values())) == len(colours) == 6


def test_region_is_outlined_where_it_lies():
    box = shapely.box(240, 80, 640, 480)  # x, y of level 0: columns 60 to 160, rows 20 to 120 of the picture
    picture = drawn(regions=[box])
    places = np.argwhere((picture == RED).all(axis=-1))
    np.testing.assert_array_equal(places.min(axis=0), [20, 60])
    np.testing.assert_array_equal(places.max(axis=0), [119, 159])
    assert (picture[40:100, 80:140] == WHITE).all()


def test_detections_are_circled_where_they_lie():
    """The middle of px 50 of the picture is at (50 + .5) * 4 - .5 = 201.5 of level 0."""
    places = changed(drawn(points=[[201.5, 401.5]]))
    np.testing.assert_allclose((places.min(axis=0) + places.max(axis=0)) / 2, [50, 100])
    radius = (places.max(axis=0) - places.min(axis=0) + 1) / 2
    assert (np.abs(radius - 7) <= 1).all()  # radius 4, half of the dark edge, and what smoothing adds


@pytest.mark.parametrize(("side", "radius"), [(600, 4), (900, 6), (1049, 6), (1050, 7)])
def test_circles_grow_with_the_picture(side, radius, monkeypatch):
    drawn_radii = []
    monkeypatch.setattr("monai_ext.slides.overlay.overlay", lambda image, **look: drawn_radii.append(look["radius"]) or
                        np.moveaxis(image, 0, -1).copy())  # fmt: skip
    drawn(shape=(30, side))
    assert drawn_radii == [radius]


def test_the_first_hundred_detections_are_drawn():
    points = [[30 + 4 * (k // 20) * 8, 20 + 4 * (k % 20) * 10] for k in range(101)]
    picture, without = drawn(points=points), drawn(points=points[:100])
    np.testing.assert_array_equal(picture, without)
    assert len(changed(drawn(points=points[:99]))) < len(changed(without))


def test_hot_spot_is_a_dark_circle_around_its_centre():
    spot = HotSpot(row=401.5, col=481.5, radius=200.0, count=3, area_mm2=1, density_per_mm2=3, whole_field=False)
    places = changed(drawn(spot=spot))
    np.testing.assert_allclose((places.min(axis=0) + places.max(axis=0)) / 2, [100, 120])
    assert np.abs((places.max(axis=0) - places.min(axis=0)) / 2 - 50).max() <= 2
    picture = drawn(spot=spot)
    dark = np.flatnonzero((picture[100] == INK).all(axis=-1))
    assert 70 in dark
    assert 170 in dark
    assert len(dark) <= 6  # thin: two px, and what smoothing darkens wholly


@pytest.mark.parametrize(("radius", "count"), [(None, 3), (200.0, 0)])
def test_no_hot_spot_is_drawn_where_there_is_none(radius, count):
    spot = HotSpot(401.5, 481.5, radius, count, 1.0, 3.0, radius is None)
    assert not len(changed(drawn(spot=spot)))


@pytest.mark.parametrize(("side", "thickness"), [(240, 2), (2399, 2), (2400, 3)])
def test_hot_spot_grows_thicker_with_the_picture(side, thickness, monkeypatch):
    widths = []
    monkeypatch.setattr(cv2, "circle", lambda _, __, ___, ____, width, *_____: widths.append(width))
    drawn(spot=HotSpot(100, 100, 200.0, 3, 1.0, 3.0, False), shape=(60, side))
    assert widths == [thickness]
