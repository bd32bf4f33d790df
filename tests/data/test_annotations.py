"""Annotations of an image that cannot be of it."""

import cv2
import numpy as np
import pytest
import shapely
import tifffile

from monai_ext.data import Features, check_annotated_item, write_geojson

NAMES = ["immune", "muscle"]
CELL = shapely.box(20, 10, 40, 30)
UM = [shapely.box(x, 5, x + 4, 9) for x in range(0, 20, 4)]


@pytest.mark.parametrize(
    ("geometry", "name", "classes", "words"),
    [
        ([CELL], "muscle", (60, 90), []),
        ([CELL, shapely.box(80, 50, 200, 200)], "Other", (60, 90), []),
        ([CELL, shapely.Point(95, 3)], "muscle", (60, 90), ["expected objects inside", "1 of 2 outside, as at x 95"]),
        (UM, "muscle", (60, 90), ["found objects of 1.0 um2 in the median, within 20 x 9: micrometres?"]),
        ([CELL], "Muscle", (60, 90), ["found 0 of 'muscle' and 1 of 'Muscle'"]),
        ([CELL], "muscle", (60, 91), ["expected the size of", "(60, 90), found (60, 91)"]),
        (None, "muscle", (60, 90), ["ssa.geojson: expected a readable GeoJSON file"]),
    ],
)
def test_what_is_wrong_with_annotations(geometry, name, classes, words, tmp_path):
    item = {"image": str(tmp_path / "a.png"), "classes": str(tmp_path / "c.tif"), "mpp": 0.25}
    item["annotations"] = {"ssa": str(tmp_path / "ssa.geojson")}
    cv2.imwrite(item["image"], np.full((60, 90, 3), 200, np.uint8))
    tifffile.imwrite(item["classes"], np.zeros(classes, np.uint8))
    if geometry is not None:
        write_geojson(item["annotations"]["ssa"], Features(geometry, name))
    problems = check_annotated_item(item, NAMES)
    assert len(problems) == bool(words)
    for text in words:
        assert text in problems[0]
