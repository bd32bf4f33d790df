"""Nuclei, annotations and patches: each rule by hand, and all of them against a loop over nuclei."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import regionprops

from monai_ext.base.errors import InputError
from monai_ext.data.nuclei import check_nuclei_item, write_nuclei
from monai_ext.data.nucleus_extraction import extract_nuclei, nucleus_labels
from monai_ext.formats.geojson import Features, label_map_to_polygons, to_xy

NAMES = ["other", "immune", "muscle"]
SMALL = 1e-6


def nuclei(shape=(40, 50)):
    """Number 2 in rows 4 to 9, columns 4 to 11; number 5 in rows 20 to 29, columns 30 to 39."""
    found = np.zeros(shape, np.int32)
    found[4:10, 4:12], found[20:30, 30:40] = 2, 5
    return found


def labels(*annotations, names=NAMES):
    geometry, classes = zip(*annotations, strict=True) if annotations else ((), ())
    return nucleus_labels(nuclei(), Features(list(geometry), list(classes)), names).tolist()


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        pytest.param([], ["background", "background"], id="nothing"),
        pytest.param([(shapely.box(0, 0, 14, 14), "immune")], ["immune", "background"], id="one"),
        pytest.param([(shapely.box(0, 0, 50, 40), "muscle")], ["muscle", "muscle"], id="region"),
        pytest.param(
            [(shapely.box(3, 3, 13, 11), "immune"), (shapely.box(0, 0, 50, 40), "muscle")],
            ["immune", "muscle"],
            id="a_cell_before_the_region_around_it",
        ),
        pytest.param(
            [(shapely.box(4, 4, 9, 10), "immune"), (shapely.box(7, 4, 12, 10), "other")],
            ["immune", "background"],
            id="equal_overlap_equal_area_the_first",
        ),
        pytest.param(
            [(shapely.box(7, 4, 12, 10), "immune"), (shapely.box(4.5, 4, 12, 10), "other")],
            ["other", "background"],
            id="most_alike",
        ),
        pytest.param(
            [(shapely.box(0, 0, 50, 40), "muscle"), (shapely.box(6, 5, 12, 9), "immune")],
            ["immune", "muscle"],
            id="a_cell_that_leaves_out_half_before_the_region_around_it",
        ),
        pytest.param(
            [(shapely.box(0, 0, 50, 40), "muscle"), (shapely.Point(5, 5), "immune")],
            ["immune", "muscle"],
            id="a_point_before_the_region_around_it",
        ),
        pytest.param([(shapely.box(4, 4, 7, 10), "immune")], ["background"] * 2, id="not_over_the_centroid"),
        pytest.param([(shapely.box(8, 7, 9, 8), "immune")], ["immune", "background"], id="centroid_on_the_outline"),
        pytest.param([(shapely.box(0, 0, 14, 14), None)], ["", "background"], id="unclassified"),
        pytest.param([(shapely.box(0, 0, 14, 14), "Myozyten")], ["", "background"], id="unknown_class"),
        pytest.param([(shapely.Point(5, 5), "muscle")], ["muscle", "background"], id="point"),
        pytest.param(
            [(shapely.MultiPoint([(5, 5), (35, 25)]), "muscle"), (shapely.Point(6, 6), "other")],
            ["muscle", "muscle"],
            id="the_first_point",
        ),
        pytest.param(
            [(shapely.Point(5, 5), "muscle"), (shapely.box(0, 0, 14, 14), "other")],
            ["other", "background"],
            id="an_area_before_a_point",
        ),
        pytest.param([(shapely.Point(-5, 500), "muscle")], ["background"] * 2, id="point_outside"),
        pytest.param(
            [(shapely.Polygon([(0, 0), (20, 0), (0, 20), (20, 20)]), "immune")],
            ["immune", "background"],
            id="self_crossing",
        ),
        pytest.param([(shapely.box(-9, -9, 900, 14.5), "immune")], ["immune", "background"], id="over_the_border"),
        pytest.param(
            [(shapely.Polygon(shapely.box(0, 0, 16, 14).exterior, [shapely.box(5, 5, 11, 9).exterior]), "immune")],
            ["background"] * 2,
            id="hole",
        ),
    ],
)
def test_what_covers_a_nucleus(annotations, expected):
    assert labels(*annotations) == expected


def test_names_in_qupath():
    names = {"other": ["Other", "*"], "muscle": ["Svalová buňka", "心肌"]}
    found = labels((shapely.box(0, 0, 14, 14), "心肌"), (shapely.box(25, 15, 45, 35), "*"), names=names)
    assert found == ["muscle", "other"]


def test_class_map():
    kinds = np.zeros((40, 50), np.uint8)
    kinds[4:10, 4:8] = 3
    kinds[20:30, 30:33], kinds[20:30, 33:35] = 1, 2
    assert nucleus_labels(nuclei(), kinds, NAMES).tolist() == ["muscle", "other"], "half of the pixels have one"
    kinds[20, 30] = 0
    assert nucleus_labels(nuclei(), kinds, NAMES).tolist() == ["muscle", "background"]
    with pytest.raises(InputError, match="numbers 0 to 3 for other, immune, muscle, found 0 to 9"):
        nucleus_labels(nuclei(), kinds * 3, NAMES)
    with pytest.raises(InputError, match="the size of the instance map"):
        nucleus_labels(nuclei(), kinds[1:], NAMES)


def slow_labels(instances, features):
    """One nucleus and one annotation after the other."""
    found = []
    for region in regionprops(instances):
        row, col = region.centroid
        _, (outline,) = label_map_to_polygons((instances == region.label).astype(np.uint8))
        centre = shapely.Point(*to_xy([row, col]))
        best, label = (-1.0, 0.0, 0), "background"
        for index, (geometry, name) in enumerate(zip(features.geometry, features.classes, strict=True)):
            if geometry.intersects(centre):
                shared = geometry.intersection(outline).area
                rank = (round(shared / geometry.union(outline).area, 9), -geometry.area, -index)
                if rank > best:
                    best, label = rank, name
        found.append(label)
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_labels_against_a_loop(seed, count):
    rng = np.random.default_rng(seed)
    instances = np.zeros((40, 40), np.int32)
    for number in range(1, 9):
        row, col = rng.integers(0, 32, 2)
        instances[row : row + rng.integers(1, 9), col : col + rng.integers(1, 9)] = number
    corners = rng.integers(-5, 40, (count, 2))
    geometry = [
        shapely.box(x, y, x + w, y + h)
        for (x, y), (w, h) in zip(corners, rng.integers(3, 25, (count, 2)), strict=False)
    ]
    features = Features(geometry, rng.choice(NAMES, count))
    assert nucleus_labels(instances, features, NAMES).tolist() == slow_labels(instances, features)


def test_patches_are_centred_and_zero_beyond_the_border(tmp_path):
    image = np.random.default_rng(0).integers(1, 256, (3, 40, 50), dtype=np.uint8)
    annotations = {"ssa": Features([shapely.box(0, 0, 14, 14)], "immune"), "ea": np.zeros((40, 50), np.uint8)}
    patches, table = extract_nuclei(image, nuclei(), annotations, NAMES)
    assert patches.shape == (2, 32, 32, 3)
    assert table.columns.tolist() == ["row", "col", "scale", "ssa", "ea"]
    assert table[["row", "col"]].to_numpy().tolist() == [[6.5, 7.5], [24.5, 34.5]]
    assert table["ssa"].tolist() == ["immune", "background"]
    for patch, (row, col) in zip(patches, [(6.5, 7.5), (24.5, 34.5)], strict=True):
        top, left = round(row) - 16, round(col) - 16
        expected = np.zeros((32, 32, 3), np.uint8)
        for i in range(32):
            for j in range(32):
                if 0 <= top + i < 40 and 0 <= left + j < 50:
                    expected[i, j] = image[:, top + i, left + j]
        assert np.array_equal(patch, expected)
    item = write_nuclei(tmp_path, "a/b", patches, table)
    assert check_nuclei_item({k: tmp_path / v for k, v in item.items()}, NAMES, ["ssa", "ea"], 32) == []


def test_three_resolutions():
    """A patch at scale 4 shows four times as much: its middle is the mean over squares of 4 x 4."""
    image = np.random.default_rng(0).integers(0, 256, (3, 128, 130), dtype=np.uint8)
    instances = np.zeros((128, 130), np.uint16)
    instances[62:66, 62:66] = 9
    patches, table = extract_nuclei(image, instances, {"wsa": Features([])}, NAMES, size=16, scales=(1, 2, 4))
    assert table["scale"].tolist() == [1, 2, 4]
    assert table["row"].tolist() == [63.5] * 3, "px at full resolution"
    for patch, scale in zip(patches, (1, 2, 4), strict=True):
        squares = image[:, :128, :128].reshape(3, 128 // scale, scale, 128 // scale, scale).mean(axis=(2, 4))
        first = round((63.5 + 0.5) / scale - 0.5) - 8
        expected = squares[:, first : first + 16, first : first + 16].transpose(1, 2, 0)
        assert np.abs(patch - expected).max() <= 0.5 + SMALL


def test_no_nuclei():
    patches, table = extract_nuclei(
        np.zeros((3, 9, 9), np.uint8),
        np.zeros((9, 9), int),
        {"ea": Features([shapely.box(0, 0, 9, 9)], "immune")},
        NAMES,
    )
    assert patches.shape == (0, 32, 32, 3)
    assert len(table) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"image": np.zeros((3, 9, 8), np.uint8)}, "instances", id="size"),
        pytest.param({"image": np.zeros((1, 9, 9), np.uint8)}, "image", id="channels"),
        pytest.param({"scales": (3,)}, "scales", id="scale"),
    ],
)
def test_bad_arguments(change, words):
    options = {"image": np.zeros((3, 9, 9), np.uint8), "instances": np.ones((9, 9), int), "annotations": {}}
    with pytest.raises(InputError, match=words):
        extract_nuclei(**(options | change), class_names=NAMES)
