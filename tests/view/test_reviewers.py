"""Two reviewers of the same objects."""

import numpy as np
import pandas as pd
import pytest
import shapely

from monai_ext.base.errors import InputError
from monai_ext.formats import Features
from monai_ext.formats.geojson import join_features
from monai_ext.view import compare_reviewers
from monai_ext.view.reviewers import cohens_kappa
from tests.reviewed import decide, write_run


def cells(count):
    return Features([shapely.Point(20 + 20 * k, 50).buffer(8) for k in range(count)], "tumour")


def test_kappa_is_that_of_the_textbook():
    # Cohen 1960, and full agreement, chance, all of one class
    tables = np.array([[20, 5, 10, 15], [5, 0, 0, 5], [5, 5, 5, 5], [9, 0, 0, 0]])
    np.testing.assert_allclose(cohens_kappa(tables), [0.4, 1, 0, np.nan], atol=1e-12)
    three = np.array([[88, 14, 18], [10, 40, 10], [2, 6, 12]])  # Cohen 1960, table 1, times 200
    assert cohens_kappa(three.ravel()) == pytest.approx(0.492, abs=5e-4)


def test_two_reviewers_side_by_side(tmp_path):
    out = write_run(tmp_path, {"a": cells(6), "b": cells(4)})
    ada = {"a": [(0, "accept"), (1, "accept"), (2, "reject"), (3, "class", "stroma")], "b": [(0, "accept")]}
    bob = {"a": [(0, "accept"), (1, "reject"), (2, "reject"), (5, "accept")], "b": [(0, "class", "stroma")]}
    decide(out, ada, "ada")
    decide(out, bob, "bob")
    decide(out, {"b": [(3, "reject")]}, "eve")  # has seen nothing that the others have
    path = compare_reviewers(out, tmp_path / "agreement")
    [row] = pd.read_csv(path).to_dict("records")
    assert (row["reviewer"], row["other"], row["objects"]) == ("ada", "bob", 4)
    # labels: tumour tumour, tumour rejected, rejected rejected, tumour stroma
    assert row["kappa"] == pytest.approx((2 / 4 - (3 * 1 + 1 * 2) / 16) / (1 - (3 * 1 + 1 * 2) / 16))
    assert row["F1 of accepted"] == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert row["F1 of accepted low"] <= row["F1 of accepted"] <= row["F1 of accepted high"]
    assert "ada (rows) and bob" in (tmp_path / "agreement/report.html").read_text()


def test_one_reviewer_alone(tmp_path):
    out = write_run(tmp_path, {"a": cells(3)})
    expected = "expected two reviewers .* who have seen the same objects"
    with pytest.raises(InputError, match=f"{expected}, found no corrections"):
        compare_reviewers(out, tmp_path / "agreement")
    decide(out, {"a": [(0, "accept")]})
    with pytest.raises(InputError, match=f"{expected}, found corrections of ada"):
        compare_reviewers(out, tmp_path / "agreement")
    assert not (tmp_path / "agreement").exists()


def test_drawn_objects_count_with_what_the_others_said_of_them(tmp_path):
    out = write_run(tmp_path, {"a": cells(2)})
    missed = [shapely.box(200, 200 + 20 * k, 210, 210 + 20 * k) for k in range(4)]
    decide(out, {"a": [(0, "accept"), *((shape, "draw", "tumour") for shape in missed)]}, "ada")
    decide(out, {"a": [(0, "accept"), (2, "accept"), (3, "reject"), (4, "class", "stroma")]}, "bob")
    path = compare_reviewers(out, tmp_path / "agreement")
    [row] = pd.read_csv(path).to_dict("records")
    assert row["objects"] == 4
    # ada: tumour four times; bob: tumour, tumour, rejected, stroma
    assert row["F1 of accepted"] == pytest.approx(2 * 3 / (4 + 3))
    assert row["kappa"] == pytest.approx(0)
    report = (tmp_path / "agreement/report.html").read_text()
    assert "stroma" in report
    assert "rejected" in report


def test_who_says_something_of_the_outline_says_it_of_the_detection(tmp_path):
    score = {"score": [0.9, 0.6]}
    points = Features([shapely.Point(20, 20), shapely.Point(60, 20)], "Mitosis", score)
    blobs = Features(shapely.buffer(points.geometry, 8), "Mitosis", score, "detection")
    both = join_features(points, blobs)
    out = write_run(tmp_path, {"a": both})
    decide(out, {"a": [(0, "accept"), (1, "reject")]}, "ada")
    decide(out, {"a": [(2, "accept"), (3, "accept"), (1, "reject")]}, "bob")
    [row] = pd.read_csv(compare_reviewers(out, tmp_path / "agreement")).to_dict("records")
    assert (row["objects"], row["F1 of accepted"]) == (2, 1)
