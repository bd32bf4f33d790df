"""Point files: every dialect that users have, and what bad ones are answered with."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import pickle

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.formats.geojson import Features, write_geojson
from monai_ext.formats.point_files import read_points, write_points
from monai_ext.formats.points import as_points, points_outside

COORDINATE = st.floats(-10, 200_000, width=32)
POINTS = arrays(np.float32, st.tuples(st.integers(0, 20), st.just(2)), elements=COORDINATE)
WHOLE_POINTS = [[3, 40], [75, 7]]


def _write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("3,40\n75,7\n", id="headerless"),
        pytest.param("3,40\n75,7", id="no_last_line_end"),
        pytest.param("3,40\r\n75,7\r\n", id="windows"),
        pytest.param("3,40\r75,7\r", id="old_mac"),
        pytest.param(b"\xef\xbb\xbf3,40\n75,7\n", id="bom"),
        pytest.param(b"\xef\xbb\xbfrow,col\r\n3,40\r\n75,7\r\n", id="bom_header_windows"),
        pytest.param("\n3,40\n\n  \n75,7\n\n", id="blank_lines"),
        pytest.param("3,40\n,\n75,7\n,,\n", id="lines_of_commas"),
        pytest.param("3,40,\n75,7,\n", id="trailing_comma"),
        pytest.param("row,col,\n3,40,\n75,7,\n", id="trailing_comma_header"),
        pytest.param(" 3 , 40 \n 75,\t7\n", id="spaces"),
        pytest.param("3,40,0.9\n75,7,0.2\n", id="extra_column"),
        pytest.param('"3","40"\n"75","7"\n', id="quoted"),
        pytest.param("3.0,4e1\n75.,+7\n", id="number_forms"),
        pytest.param("row,col\n3,40\n75,7\n", id="header"),
        pytest.param("col,row\n40,3\n7,75\n", id="header_other_order"),
        pytest.param("x,y\n40,3\n7,75\n", id="header_xy"),
        pytest.param("y,x\n3,40\n75,7\n", id="header_yx"),
        pytest.param("ID,X,Name,Y\n1,40,mitosis,3\n2,7,'',75\n", id="header_among_others"),
        pytest.param(",row,col\n0,3,40\n1,75,7\n", id="pandas_index"),
    ],
)
def test_csv_dialects(tmp_path, text):
    points = read_points(_write(tmp_path, "a.csv", text))
    assert points.dtype == np.float32
    assert points.tolist() == WHOLE_POINTS


def test_csv_of_xy_columns(tmp_path):
    """MITOS-ATYPIA 2014 lists x,y,confidence without a header; a header still has the last word."""
    assert read_points(_write(tmp_path, "a.csv", "40,3,0.9\n7,75,1\n"), xy=True).tolist() == WHOLE_POINTS
    assert read_points(_write(tmp_path, "b.csv", "row,col\n3,40\n75,7\n"), xy=True).tolist() == WHOLE_POINTS


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "row,col\n", "row,col"], ids=repr)
def test_empty_csv_means_no_points(tmp_path, text):
    points = read_points(_write(tmp_path, "a.csv", text))
    assert (points.shape, points.dtype) == ((0, 2), np.float32)


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        pytest.param("1,2\n3\n", 2, "'3'", id="one_column"),
        pytest.param("1;2\n", 1, "1;2", id="semicolons"),
        pytest.param("a,b\n1,2\n", 1, "a,b", id="unknown_header"),
        pytest.param("row,row\n1,2\n", 1, "row,row", id="repeated_header"),
        pytest.param("1,2\n\nrow,col\n", 3, "row,col", id="late_header"),
        pytest.param("1,2\n3,four\n", 2, "3,four", id="word"),
        pytest.param("1,2\nnan,4\n", 2, "nan,4", id="nan"),
        pytest.param("1,inf\n", 1, "1,inf", id="infinite"),
        pytest.param("1,1_000\n", 1, "1_000", id="underscore"),
        pytest.param("row,x,col\n1,2,3\n4,5\n", 3, "'4,5'", id="short_line"),
        pytest.param("1,\n", 1, "'1,'", id="missing_number"),
        pytest.param("1,\x002\n", 1, "", id="nul"),
    ],
)
def test_bad_csv_names_file_and_line(tmp_path, text, line, found):
    path = _write(tmp_path, "bad.csv", text)
    with pytest.raises(InputError) as error:
        read_points(path)
    message = str(error.value)
    assert message.startswith(f"{path}, line {line}: expected two numbers row,col")
    assert found in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "content", "expected", "found"),
    [
        pytest.param("a.txt", "1,2", ".csv, .json or .geojson", ".txt", id="suffix"),
        pytest.param("a.csv", b"1,\xff2", "UTF-8", "0xff", id="no_utf8"),
        pytest.param("a.csv", b"\x49\x49\x2a\x00\xff", "UTF-8", "0xff", id="an_image"),
        pytest.param("a.csv", "1,1e30", "finite", "1e+30", id="beyond_any_image"),
        pytest.param("a.json", "[[1, 2], [3", "JSON", "", id="cut_off"),
        pytest.param("a.json", "[[1, 2], [3]]", "pairs", "[3]", id="ragged"),
        pytest.param("a.json", '[["1", "2"]]', "pairs", "'1'", id="text"),
        pytest.param("a.json", '[{"row": 1}]', "pairs", "None", id="no_col"),
        pytest.param("a.json", "3", "pairs", "3", id="number"),
        pytest.param("a.json", '{"points": []}', "GeoJSON", "points", id="other_object"),
        pytest.param("a.geojson", "", "GeoJSON", "end of the file", id="empty_geojson"),
    ],
)
def test_bad_files(tmp_path, name, content, expected, found):
    path = _write(tmp_path, name, content)
    with pytest.raises(InputError) as error:
        read_points(path)
    assert error.value.where.startswith(str(path))
    assert expected in error.value.expected
    assert found in str(error.value)


@pytest.mark.parametrize("name", ["gone.csv", "."], ids=["missing", "folder"])
def test_unreadable(tmp_path, name):
    with pytest.raises(InputError, match=r"gone\.csv.*No such file|expected points in a"):
        read_points(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("[[3, 40], [75, 7]]", id="pairs"),
        pytest.param('[{"row": 3, "col": 40}, {"col": 7.0, "row": 75, "score": 1}]', id="objects"),
        # QuPath counts from the pixel's corner, and x before y
        pytest.param(
            '[{"type": "Feature", "geometry": {"type": "MultiPoint", "coordinates": [[40.5, 3.5], [7.5, 75.5]]}}]',
            id="qupath",
        ),
    ],
)
def test_json(tmp_path, content):
    assert read_points(_write(tmp_path, "a.json", content)).tolist() == WHOLE_POINTS


def test_empty_json(tmp_path):
    assert read_points(_write(tmp_path, "a.json", "[]")).shape == (0, 2)


@settings(deadline=None)
@given(points=POINTS)
def test_write_read_round_trip(tmp_path_factory, points):
    path = tmp_path_factory.mktemp("points") / "new" / "a.csv"
    assert write_points(path, points) == path
    assert path.read_text().splitlines()[0] == "row,col"
    assert np.array_equal(read_points(path), points)
    assert list(path.parent.iterdir()) == [path]


@settings(deadline=None)
@given(
    points=POINTS,
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    bom=st.booleans(),
    others=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=5), max_size=3),
    data=st.data(),
)
def test_any_csv_with_a_header(tmp_path_factory, points, end, quoting, bom, others, data):
    """Columns in any order among any others, in any dialect of a spreadsheet (Python's writer leaves \\r unquoted)."""
    names = [f"other {i}" for i in range(len(others))] + data.draw(st.sampled_from([["row", "col"], ["Y", "X"]]))
    order = data.draw(st.permutations(range(len(names))))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator=end, quoting=quoting)
    writer.writerow([names[i] for i in order])
    for row, col in points:
        writer.writerow([[*others, repr(float(row)), repr(float(col))][i] for i in order])
    path = tmp_path_factory.mktemp("points") / "a.CSV"
    path.write_bytes((b"\xef\xbb\xbf" if bom else b"") + text.getvalue().encode())
    assert np.array_equal(read_points(path), points)


@settings(deadline=None)
@given(data=st.binary(max_size=60), suffix=st.sampled_from([".csv", ".json", ".geojson"]))
def test_any_bytes_are_points_or_one_clear_error(tmp_path_factory, data, suffix):
    path = _write(tmp_path_factory.mktemp("points"), f"a{suffix}", data)
    with contextlib.suppress(InputError):
        assert np.isfinite(read_points(path)).all()


def test_as_points():
    assert as_points([]).shape == (0, 2)
    assert as_points(np.zeros((0, 2), dtype=int)).dtype == np.float32
    assert as_points(((1, 2.5),)).tolist() == [[1, 2.5]]
    for bad in ([1, 2], [[1, 2, 3]], [["a", "b"]], [[1, None]], "text", None, [[np.nan, 1]], [[1], [1, 2]]):
        with pytest.raises(InputError) as error:
            as_points(bad, "my points")
        assert str(pickle.loads(pickle.dumps(error.value))).startswith("my points: expected ")


def test_failed_write_leaves_nothing(tmp_path):
    path = write_points(tmp_path / "a.csv", [[1, 2]])
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text(f"half{1 / 0}")
    assert list(tmp_path.iterdir()) == [path]
    assert read_points(path).tolist() == [[1, 2]]


def test_only_the_named_classes_of_geojson_count(tmp_path):
    path = tmp_path / "labels.geojson"
    write_geojson(path, Features.from_points(np.array([[1, 2], [3, 4], [5, 6]]), classes=["Mitosis", "Other", None]))
    assert read_points(path).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert read_points(path, classes=["Mitosis"]).tolist() == [[1, 2]]
    assert read_points(path, classes=["None"]).shape == (0, 2)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((1, 1, 1), [[4, 12], [21, 30], [21, 36]]),  # a mask: pieces
        ((255, 255, 255), [[4, 12], [21, 30], [21, 36]]),
        ((1, 1, 300), [[12.5, 21], [21, 36]]),  # an instance map: an anaphase is one figure with two plates
        ((7, 7, 7), [[np.mean([4, 21, 21]), np.mean([12, 30, 36])]]),
        ((0, 0, 0), []),
    ],
)
def test_masks_give_the_centre_of_each_figure(tmp_path, suffix, numbers, expected):
    mask = np.zeros((40, 50), np.uint16)
    for number, (row, col) in zip(numbers, [(4, 12), (21, 30), (21, 36)], strict=True):
        mask[row - 1 : row + 2, col - 1 : col + 2] = number
    path = tmp_path / f"a{suffix}"
    tifffile.imwrite(path, mask) if suffix == ".tif" else cv2.imwrite(str(path), mask)
    points = read_points(path)
    assert points.dtype == np.float32
    assert points.shape == (len(expected), 2)
    np.testing.assert_allclose(sorted(points.tolist()), np.reshape(expected, (-1, 2)).tolist(), rtol=1e-6)


SHAPE = (20, 30)  # rows, columns


@pytest.mark.parametrize(("axis", "side"), enumerate(SHAPE))
@pytest.mark.parametrize(
    ("place", "outside"),
    [
        (0, False),
        (-0.5, False),  # the first pixel reaches half a pixel before its centre
        (math.nextafter(-0.5, -1), True),
        (-1, True),
        (0.49, False),
    ],
)
def test_the_first_pixel_is_the_lower_limit(axis, side, place, outside):
    point = np.full((1, 2), 7.0)
    point[0, axis] = place
    assert (points_outside(point, SHAPE) is not None) == outside


@pytest.mark.parametrize(("axis", "side"), enumerate(SHAPE))
@pytest.mark.parametrize(
    ("beyond_last", "outside"),
    [(0, False), (0.5, False), (0.5 + 1e-9, True), (0.75, True), (1, True), (-0.25, False)],
)
def test_the_last_pixel_is_the_upper_limit(axis, side, beyond_last, outside):
    """Each side has its own: a column may lie where no row does."""
    point = np.full((1, 2), 7.0)
    point[0, axis] = side - 1 + beyond_last
    assert (points_outside(point, SHAPE) is not None) == outside


def test_what_is_outside_is_counted_and_the_first_named():
    points = np.array([[3, 4], [19.6, 4], [3, -1], [19, 29]])
    assert points_outside(points, SHAPE) == "2 of 4 outside, the first at row 19.6, col 4"
    assert points_outside(points[[0, 3]], SHAPE) is None
    assert points_outside(np.zeros((0, 2)), SHAPE) is None


@pytest.mark.parametrize(
    ("point", "swapped"),
    [((29, 19), True), ((29.5, 19.5), True), ((29.6, 3), False), ((25, -0.5), True), ((25, -0.6), False)],
)
def test_swapped_columns_are_told_where_all_would_be_inside(point, swapped):
    assert ("swapped" in points_outside(np.array([point, (5, 5)]), SHAPE)) == swapped
