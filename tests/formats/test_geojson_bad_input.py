"""What users' GeoJSON holds, from file to masks and labels: each case has an outcome (docs/reference/geojson.md)."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from monai_ext.base.errors import InputError
from monai_ext.data import rasterize, read_geojson
from monai_ext.data.nucleus_extraction import nucleus_labels
from monai_ext.formats.geojson import class_numbers
from monai_ext.formats.outlines import polygons_to_label_map

NAMES = ["other", "immune"]
SHAPE = (20, 30)
LARGE = 200_000_000  # bytes
MOST_MEMORY = 1_000_000_000  # bytes more than before, to read a file of LARGE bytes


def cell(corners=((4, 4), (12, 4), (12, 12), (4, 12)), classification="immune", **feature):
    ring = [list(corner) for corner in (*corners, corners[0])]
    properties = {"objectType": "annotation", "classification": classification}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **feature}


def read(tmp_path, *cells, wrap=True):
    content = {"type": "FeatureCollection", "features": list(cells)} if wrap else list(cells)
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return read_geojson(path)


def nucleus():
    """One nucleus in the middle of the cell."""
    instances = np.zeros(SHAPE, int)
    instances[6:10, 6:10] = 1
    return instances


def label(features, names=NAMES):
    return nucleus_labels(nucleus(), features, names).tolist()[0]


@pytest.mark.parametrize("wrap", [True, False], ids=["collection", "list"])
def test_collection_or_bare_list(tmp_path, wrap):
    features = read(tmp_path, cell(), wrap=wrap)
    assert rasterize(features, SHAPE, NAMES).sum(axis=(1, 2)).tolist() == [0, 64]
    assert label(features) == "immune"


@pytest.mark.parametrize(
    "classification",
    ["immune", {"name": "immune", "color": [1, 2, 3]}, {"name": "immune", "colorRGB": -1}, {"names": ["immune"]}],
)
def test_classification_as_text_or_object(tmp_path, classification):
    assert label(read(tmp_path, cell(classification=classification))) == "immune"


@pytest.mark.parametrize("classification", ["Tumor", {"name": "Tumor"}, None, {}, {"name": None}])
def test_unknown_class_and_none_are_no_class_but_no_background(tmp_path, classification):
    features = read(tmp_path, cell(classification=classification))
    assert class_numbers(features, NAMES).tolist() == [-1]
    assert label(features) == ""
    assert not rasterize(features, SHAPE, NAMES).any()
    assert (polygons_to_label_map(features.geometry, SHAPE) > 0).sum() == 64, "it is an instance all the same"


@pytest.mark.parametrize("name", ["免疫细胞", "Imunitní buňka", "חיסון", "Иммунная", "immune 🔬"])
def test_names_in_other_languages(tmp_path, name):
    features = read(tmp_path, cell(classification={"name": name}))
    assert label(features, ["other", name]) == name
    assert label(features, {"other": ["other"], "immune": [name]}) == "immune"


def test_outline_that_crosses_itself_is_both_its_wings(tmp_path):
    features = read(tmp_path, cell(((4, 4), (12, 4), (4, 12), (12, 12))))
    mask = rasterize(features, SHAPE)[0]
    rows, cols = np.mgrid[: SHAPE[0], : SHAPE[1]]
    across, down = np.abs(cols + 0.5 - 8), np.abs(rows + 0.5 - 8)
    inside = (across < down) & (down < 4)
    edge = across == down
    assert np.array_equal(mask.astype(bool)[~edge], inside[~edge])
    assert label(features) == "immune"


@pytest.mark.parametrize(
    ("corners", "pixels"),
    [
        pytest.param(((100, 100), (110, 100), (110, 110)), 0, id="outside"),
        pytest.param(((-20, -20), (-10, -20), (-10, -10)), 0, id="negative"),
        pytest.param(((-5, -5), (4, -5), (4, 4), (-5, 4)), 16, id="over_the_corner"),
        pytest.param(((25, 15), (99, 15), (99, 99), (25, 99)), 25, id="over_the_far_corner"),
        pytest.param(((-1e7, -1e7), (1e7, -1e7), (1e7, 1e7), (-1e7, 1e7)), 600, id="over_everything"),
        pytest.param(((4.4, 4.4), (6.6, 4.4), (6.6, 6.6), (4.4, 6.6)), 9, id="fractions"),
        pytest.param(((4.6, 4.6), (6.4, 4.6), (6.4, 6.4), (4.6, 6.4)), 1, id="fractions_between_centres"),
    ],
)
def test_coordinates_anywhere(tmp_path, corners, pixels):
    features = read(tmp_path, cell(corners))
    assert rasterize(features, SHAPE).sum() == pixels
    assert (polygons_to_label_map(features.geometry, SHAPE) > 0).sum() == pixels


def test_duplicate_ids_are_different_objects(tmp_path):
    far = ((20, 10), (24, 10), (24, 14), (20, 14))
    features = read(tmp_path, cell(id="x"), cell(far, id="x"), cell(far, id="y"))
    assert features.ids.tolist() == ["x", None, "y"]
    assert len(features) == 3


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.99])
def test_truncated_file_is_refused_by_name(tmp_path, share):
    text = json.dumps([cell()] * 50)
    path = tmp_path / "cut.geojson"
    path.write_text(text[: int(share * len(text))])
    with pytest.raises(InputError, match=r"cut\.geojson: expected"):
        read_geojson(path)


def test_cells_with_a_nucleus(tmp_path):
    inner = cell(((6, 6), (10, 6), (10, 10), (6, 10)))["geometry"]
    read(tmp_path, cell(nucleusGeometry=inner), cell(((20, 10), (24, 10), (24, 14), (20, 14))))
    path = tmp_path / "a.geojson"
    assert [round(geometry.area) for geometry in read_geojson(path).geometry] == [64, 16]
    assert [round(geometry.area) for geometry in read_geojson(path, nuclei=True).geometry] == [16, 16]


_READ_LARGE = """
import resource, sys
from monai_ext.data import read_geojson
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = len(read_geojson(sys.argv[1]))
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_a_file_of_200_mb(tmp_path):
    """It is read whole, in less memory than five times its size; the JSON as objects would need more."""
    path, count = tmp_path / "large.geojson", 0
    ring = [[round(1000 + 8 * np.cos(a), 2), round(1000 + 8 * np.sin(a), 2)] for a in np.linspace(0, 6.2, 24)]
    line = json.dumps(cell(tuple(map(tuple, ring)))).encode() + b",\n"
    last = line.rstrip(b",\n")
    with path.open("wb") as file:
        file.write(b'{"type": "FeatureCollection", "features": [')
        for _ in range(LARGE // len(line)):
            file.write(line)
            count += 1
        file.write(last + b"]}")
    assert path.stat().st_size > 0.99 * LARGE
    done = subprocess.run([sys.executable, "-c", _READ_LARGE, str(path)], capture_output=True, text=True, check=True)
    found, memory = map(int, done.stdout.split())
    assert found == count + 1
    assert memory < MOST_MEMORY
