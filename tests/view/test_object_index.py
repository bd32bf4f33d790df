"""Objects by place: against a look at each of them."""

import numpy as np
import pytest
import shapely

from monai_ext.base.errors import InputError
from monai_ext.formats import Features
from monai_ext.formats.geojson import join_features
from monai_ext.view import ObjectIndex


@pytest.fixture(scope="module")
def index():
    rng = np.random.default_rng(1)
    shapes = list(shapely.buffer(shapely.points(rng.uniform(0, 500, (300, 2))), rng.uniform(1, 20, 300)))
    shapes += list(shapely.points(rng.uniform(0, 500, (100, 2))))
    return ObjectIndex(Features(shapes, measurements={"score": np.r_[rng.uniform(0, 1, 399), np.nan]}))


@pytest.mark.parametrize("box", [(0, 0, 500, 500), (100, 50, 160, 300), (-50, -50, -1, -1), (250, 250, 251, 251)])
def test_a_window_has_all_that_meet_it_and_no_other(index, box):
    x0, y0, x1, y1 = box
    low_x, low_y, high_x, high_y = shapely.bounds(index.geometry).T
    expected = np.flatnonzero((low_x <= x1) & (high_x >= x0) & (low_y <= y1) & (high_y >= y0))
    drawn = index.within(box, px=0.1)
    assert sorted({*drawn["rings"]["ids"], *drawn["dots"]["ids"]}) == expected.tolist()
    assert drawn["total"] == drawn["shown"] == len(expected)


def test_outlines_keep_to_half_a_px_of_the_screen(index):
    for px in (0.1, 4.0):
        rings = index.within((0, 0, 500, 500), px)["rings"]
        xy = np.reshape(rings["xy"], (-1, 2))
        assert len(rings["ids"])
        for number, start, end in zip(rings["ids"], [0, *rings["ends"]], rings["ends"], strict=False):
            ring = shapely.LinearRing(xy[start:end])
            assert shapely.hausdorff_distance(ring, index.geometry[number].exterior) <= px / 2 + 0.02
    fine, coarse = (len(index.within((0, 0, 500, 500), px)["rings"]["xy"]) for px in (0.1, 4.0))
    assert coarse < fine / 2


def test_what_is_small_on_the_screen_is_a_dot(index):
    drawn = index.within((0, 0, 500, 500), px=100.0)
    assert not drawn["rings"]["ids"]
    assert sorted(drawn["dots"]["ids"]) == list(range(400))


def test_where_not_all_are_drawn_the_same_ones_are_wherever_the_window_lies(index):
    ids = [
        {*drawn["rings"]["ids"], *drawn["dots"]["ids"]}
        for drawn in (index.within((x, 0, x + 300, 500), 0.1, most=50) for x in (0, 10))
    ]
    assert [len(each) for each in ids] == [50, 50]
    assert len(ids[0] & ids[1]) > 40


def test_holes_parts_collections_and_lines_are_all_drawn():
    ring = shapely.box(0, 0, 50, 50).difference(shapely.box(10, 10, 40, 40))
    pair = shapely.MultiPolygon([shapely.box(60, 0, 90, 30), shapely.box(60, 40, 90, 70)])
    mixed = shapely.GeometryCollection([pair, shapely.LineString([(100, 0), (150, 90)]), shapely.Point(120, 5)])
    drawn = ObjectIndex(Features([ring, mixed])).within((0, 0, 200, 200), 0.5)
    assert sorted(drawn["rings"]["ids"]) == [0, 0, 1, 1, 1]
    assert drawn["dots"] == {"ids": [1], "xy": [120.0, 5.0]}


def test_the_least_certain_come_first_and_those_without_a_number_last(index):
    score = index.features.measurements["score"]
    assert index.order("doubt").tolist() == [*np.argsort(score[:-1]).tolist(), 399]
    assert index.order("sure").tolist() == [*np.argsort(-score[:-1]).tolist(), 399]
    assert index.order("file").tolist() == list(range(400))
    with pytest.raises(InputError, match="doubt or sure or file or random, found 'size'"):
        index.order("size")


def test_a_click_finds_the_smallest_object_and_points_nearby():
    index = ObjectIndex(Features([shapely.box(0, 0, 100, 100), shapely.box(10, 10, 20, 20), shapely.Point(60, 60)]))
    assert [index.at(15, 15), index.at(50, 50), index.at(62, 60), index.at(62, 60, reach=3), index.at(300, 0)] == [
        1,
        0,
        0,
        2,
        None,
    ]
    assert index.at(22, 15, reach=5) == 0  # in the one, beside the other


def test_places_are_in_square_px_where_those_of_the_file_are_oblong():
    index = ObjectIndex(Features([shapely.box(10, 10, 20, 20)]), stretch=(1, 2))
    assert index.about(0)["bounds"] == [20, 10, 40, 20]


def test_without_objects_there_is_nothing():
    index = ObjectIndex(Features([]))
    drawn = index.within((0, 0, 9, 9), 1.0)
    assert drawn["total"] == 0
    assert not drawn["rings"]["xy"]
    assert index.at(1, 1, 5) is None
    assert not len(index.order("doubt"))


def detections():
    """Two detections, a point and an outline each, and a cell without a point."""
    points = Features([shapely.Point(20, 20), shapely.Point(60, 20)], measurements={"score": [0.9, 0.6]})
    outlines = Features([shapely.box(10, 10, 30, 30), shapely.box(50, 10, 70, 30)], measurements={"score": [0.9, 0.6]})
    return join_features(points, outlines, Features([shapely.box(80, 80, 90, 90)], measurements={"score": [0.7]}))


def test_an_outline_as_certain_as_its_point_is_part_of_it_and_no_other_is():
    shapes = [shapely.Point(20, 20), shapely.box(10, 10, 30, 30), shapely.box(0, 0, 50, 50)]
    index = ObjectIndex(Features(shapes, measurements={"score": [0.9, 0.9, np.nan]}))
    assert index.unit.tolist() == [0, 0, 2]
    assert ObjectIndex(Features(shapes, ["a", "b", "c"], {"score": [0.9] * 3})).unit.tolist() == [0, 1, 2]
    assert ObjectIndex(Features(shapes)).unit.tolist() == [0, 1, 2]


def test_a_point_and_its_outline_are_one_to_go_through():
    index = ObjectIndex(detections())
    assert index.order("doubt").tolist() == [1, 4, 0]
    assert sorted(index.order("random").tolist()) == [0, 1, 4]
    assert index.at(12, 12) == 0  # in the outline, far from the point
    assert index.parts(np.array([1, 4])).tolist() == [1, 3, 4]
    drawn = index.with_more(Features([shapely.Point(85, 85), shapely.box(55, 12, 65, 22)]))
    assert drawn.order("file").tolist() == [0, 1, 4, 5, 6]  # drawn by somebody: each for itself
