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
