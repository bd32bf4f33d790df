"""What objects are measured by: names, units, and which objects."""

import numpy as np
import pytest
import shapely

from monai_ext.formats import Features
from monai_ext.view import ObjectIndex
from monai_ext.view.measures import measures_of
from tests.reviewed import write_run


@pytest.mark.parametrize(
    ("name", "shown", "unit"),
    [
        ("area_um2", "area", "um2"),
        ("area_px", "area", "px2"),
        ("Area \u00b5m^2", "Area", "um2"),
        ("Nucleus: Area (\u03bcm\u00b2)", "Nucleus: Area", "um2"),
        ("Nucleus: Perimeter \u00b5m", "Nucleus: Perimeter", "um"),
        ("max_diameter_um", "max_diameter", "um"),
        ("score", "score", ""),
        ("sum", "sum", ""),
    ],
)
def test_units_are_told_from_names(name, shown, unit):
    found = measures_of(ObjectIndex(Features([shapely.Point(0, 0)], measurements={name: [0.5]})))
    assert (found[0].name, found[0].unit) == (shown, unit)


def test_area_is_measured_where_the_file_does_not_say_it_and_points_have_none():
    shapes = [shapely.box(0, 0, 4, 4), shapely.Point(50, 50)]
    [area] = measures_of(ObjectIndex(Features(shapes)), mpp=0.5)
    assert (area.name, area.unit) == ("area", "um2")
    np.testing.assert_equal(area.values, [4, np.nan])
    [px] = measures_of(ObjectIndex(Features(shapes)))
    assert (px.unit, px.values[0]) == ("px2", 16)
    stated = Features(shapes, measurements={"area_um2": [3.0, 5.0]})
    assert [each.values.tolist() for each in measures_of(ObjectIndex(stated), mpp=0.5)] == [[3, 5]]


def test_a_point_and_its_outline_are_counted_once():
    found = Features([shapely.Point(5, 5), shapely.box(0, 0, 9, 9)], measurements={"score": [0.75, 0.75]})
    measures = {each.name: each.values for each in measures_of(ObjectIndex(found))}
    np.testing.assert_equal(measures, {"score": [0.75, np.nan], "doubt": [0.25, np.nan]})


def test_the_page_is_given_them_to_six_digits_and_what_was_drawn_too(tmp_path, start):
    cells = Features([shapely.box(x, 40, x + 20, 60) for x in (20, 80)], measurements={"score": [1 / 3, np.nan]})
    viewer = start(write_run(tmp_path, {"a": cells}))
    drawn = {"action": "draw", "type": "polygon", "points": [[20, 200], [40, 200], [40, 220]], "class": None}
    viewer.json("api/slides/0/review", drawn)
    assert viewer.json("api/slides/0/measures") == [
        {"name": "score", "unit": "", "values": [0.333333, None, None]},
        {"name": "area", "unit": "um2", "values": [25, 25, 12.5]},
        {"name": "doubt", "unit": "", "values": [0.666667, None, None]},
    ]
