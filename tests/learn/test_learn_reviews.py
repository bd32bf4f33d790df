"""What reviewers said, as verdicts on objects."""

import numpy as np
import pytest
import shapely

from monai_ext.base.errors import InputError
from monai_ext.formats import Features
from monai_ext.learn import KEPT, REJECTED, UNSEEN, read_reviews
from tests.reviewed import decide, write_run

PLACES = [(50, 50), (100, 100), (150, 150), (200, 200)]


def detections():
    """Points, then the outlines of all but the last one; the first is bent around its point."""
    blobs = [shapely.Point(xy).buffer(8) for xy in PLACES[:-1]]
    blobs[0] = blobs[0].difference(shapely.Point(PLACES[0]).buffer(4)).difference(shapely.box(50, 40, 60, 60))
    return Features([*map(shapely.Point, PLACES), *blobs], "Mitosis")


def refusal(*args, **options):
    with pytest.raises(InputError) as caught:
        read_reviews(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_detection_and_its_outline_are_one(tmp_path):
    out = write_run(tmp_path, {"a": detections()})
    decide(out, {"a": [(4, "reject"), (1, "accept"), (5, "reject"), (2, "class", "Look-alike")]})
    [review] = read_reviews(out, points=True)
    assert shapely.get_coordinates(review.geometry).tolist() == [list(xy) for xy in PLACES]
    assert review.verdict.tolist() == [REJECTED, REJECTED, REJECTED, UNSEEN]  # of two words the later holds
    decide(out, {"a": [(1, "accept"), (6, "class", "Mitosis")]})
    assert read_reviews(out, points=True)[0].verdict.tolist() == [REJECTED, KEPT, KEPT, UNSEEN]


def test_outlines_keep_their_place_and_get_their_class(tmp_path):
    cells = Features([shapely.Point(xy).buffer(8) for xy in PLACES], ["a", "a", "b", None])
    out = write_run(tmp_path, {"one": cells, "two": cells})
    decide(out, {"one": [(0, "accept"), (1, "class", "b"), (2, "reject")]})
    [review] = read_reviews(out)
    assert review.name == "one"
    assert review.verdict.tolist() == [KEPT, KEPT, REJECTED, UNSEEN]
    assert review.classes.tolist() == ["a", "b", "b", None]


def test_what_was_undone_was_not_said(tmp_path):
    from monai_ext.view import find_cases
    from monai_ext.view.opened import Opened, Settings

    out = write_run(tmp_path, {"a": detections()})
    decide(out, {"a": [(0, "accept"), (1, "reject")]})
    Opened(find_cases(out).cases[0], Settings("ada")).log.undo("ada")
    assert read_reviews(out, points=True)[0].verdict.tolist() == [KEPT, UNSEEN, UNSEEN, UNSEEN]


def test_nothing_to_learn_from(tmp_path):
    out = write_run(tmp_path, {"a": detections()})
    assert "expected corrections of its objects, made with monai-ext view, found none" in refusal(out)
    decide(out, {"a": [(0, "accept")]})
    result = out / "a.geojson"
    result.write_bytes(result.read_bytes().replace(b"Mitosis", b"mitosis"))  # the run was repeated
    assert "found 1 corrections of an earlier result" in refusal(out)


def test_a_slide_that_has_moved(tmp_path):
    out = write_run(tmp_path, {"a": detections(), "b": detections()})
    decide(out, {"a": [(0, "accept")]})
    (tmp_path / "moved").mkdir()
    (tmp_path / "in/a.tif").rename(tmp_path / "moved/a.tif")
    assert "--slides with the folder that they are in now, found 1 with corrections elsewhere, the first: a.tif" in (
        refusal(out)
    )
    assert len(read_reviews(out, slides=tmp_path / "moved")) == 1


def test_no_outline_finds_a_point_without_one(tmp_path):
    out = write_run(tmp_path, {"a": Features([shapely.box(0, 0, 9, 9), shapely.Point(20, 20)])})
    decide(out, {"a": [(0, "accept")]})
    [review] = read_reviews(out, points=True)
    np.testing.assert_array_equal(review.verdict, [KEPT, UNSEEN])
    assert shapely.get_coordinates(review.geometry).tolist() == [[4.5, 4.5], [20, 20]]


# -- what was drawn ----------------------------------------------------------------------------------------------------

PAIR = [(250, 20), (30, 250)]


def test_drawn_points_and_outlines_are_figures_and_those_of_another_class_are_none(tmp_path):
    out = write_run(tmp_path, {"a": detections(), "empty": Features([])})
    drawn = [
        (shapely.Point(PAIR[0]), "draw", "Mitosis"),
        (shapely.Point(PAIR[1]).buffer(6), "draw", "Mitosis"),
        (shapely.Point(280, 280), "draw", "Look-alike"),
        (shapely.Point(103, 101), "draw", "Mitosis"),  # in the box of another detection's outline
        (5, "reject"),  # that outline
        (8, "class", "Look-alike"),
    ]
    decide(out, {"a": drawn[:-2], "empty": [(shapely.Point(9, 9), "draw", "Look-alike")]})
    one, empty = read_reviews(out, points=True)
    assert one.verdict.tolist() == [UNSEEN] * 4 + [KEPT, KEPT, REJECTED, KEPT]
    assert one.drawn.tolist() == [False] * 4 + [True] * 4
    places = shapely.get_coordinates(one.geometry[4:]).round(6).tolist()
    assert places == [list(xy) for xy in (*PAIR, (280, 280), (103, 101))]
    assert empty.verdict.tolist() == [REJECTED]  # as the run finds mitoses
    decide(out, {"a": drawn[-2:]})
    one = read_reviews(out, points=True)[0]
    assert one.verdict.tolist() == [UNSEEN, REJECTED, UNSEEN, UNSEEN, KEPT, REJECTED, REJECTED, KEPT]
    decide(out, {"a": [(9, "accept"), (10, "accept")]})  # the first is a look-alike indeed
    assert read_reviews(out, points=True)[0].verdict[-2:].tolist() == [REJECTED, KEPT]


def test_drawn_outlines_are_objects_and_what_has_no_area_says_nothing(tmp_path):
    cells = Features([shapely.Point(xy).buffer(8) for xy in PLACES], ["a", "a", "b", None])
    out = write_run(tmp_path, {"one": cells})
    square = shapely.box(240, 10, 256, 30)
    said = [(square, "draw", "a"), (shapely.Point(PAIR[1]), "draw", "a"), (square, "draw", "c"), (square, "draw", "a")]
    decide(out, {"one": [*said, (7, "reject"), (4, "class", "b")]})
    [review] = read_reviews(out)
    assert review.verdict.tolist() == [UNSEEN] * 4 + [KEPT, UNSEEN, KEPT, REJECTED]
    assert review.classes.tolist()[4:] == ["b", "a", "c", "a"]
    assert review.geometry[4].equals(square)


def test_an_undone_drawing_is_nothing(tmp_path):
    from monai_ext.view import find_cases
    from monai_ext.view.opened import Opened, Settings

    out = write_run(tmp_path, {"a": detections()})
    decide(out, {"a": [(shapely.Point(PAIR[0]), "draw", "Mitosis")]}, "ada")
    decide(out, {"a": [(shapely.Point(PAIR[1]), "draw", "Mitosis")]}, "bob")
    Opened(find_cases(out).cases[0], Settings("ada")).log.undo("ada")
    for points in (True, False):
        [review] = read_reviews(out, points=points)
        assert len(review.geometry) == (5 if points else 8)
        assert shapely.get_coordinates(review.geometry[-1]).tolist() == [list(PAIR[1])]
        assert len(review.tree.query(shapely.Point(PAIR[1]))) == 1
