import numpy as np
import pytest
import shapely

from monai_ext.base.errors import InputError
from monai_ext.data.cells import Grid, class_columns, find_cells, summarize_cells
from monai_ext.formats.geojson import read_geojson, write_geojson
from monai_ext.formats.outlines import label_map_to_polygons
from tests.formats.test_measurements import blobs

NAMES = ("other", "immune", "muscle")
ROUNDING = 1e-4
OUTLINE_ROUNDING = 0.01  # px


def reddest(patches):
    """Logits: mean of each colour in the middle of the patch."""
    middle = patches.shape[1] // 2
    return patches[:, middle, middle].astype(np.float32) / 32


def painted(labels, seed=0):
    """Every instance in a colour of its own, and the colours."""
    colours = np.random.default_rng(seed).integers(0, 255, (labels.max() + 1, 3)).astype(np.uint8)
    return colours[labels], colours


def compact(labels):
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.int32)


def test_cells_of_a_map():
    labels = compact(blobs())
    probability = np.where(labels > 0, 0.75, 0.1)
    cells = find_cells(labels, Grid(0.5, 2.0, (100, 40)), probability=probability, tolerance=0)
    ids, outlines = label_map_to_polygons(labels, (100, 40), 2.0)
    assert cells.ids.tolist() == ids.tolist()
    assert shapely.equals(cells.outlines, outlines).all()
    np.testing.assert_allclose(cells.measurements["area_um2"], shapely.area(outlines) / 4 * 0.25)
    np.testing.assert_allclose(cells.confidence, 0.75)
    xy = shapely.get_coordinates(shapely.centroid(outlines))
    np.testing.assert_allclose(cells.centres + 0.5, xy[:, ::-1], atol=ROUNDING)
    assert (cells.class_ids == -1).all()
    assert set(cells.classes) == {None}
    assert not cells.table()["class"].any()


def test_outlines_stay_within_a_pixel_and_the_slide():
    labels = compact(blobs(3))
    exact = label_map_to_polygons(labels, (0, 0), 2.0)[1]
    cells = find_cells(labels, Grid(0.5, 2.0))
    moved = shapely.hausdorff_distance(shapely.boundary(cells.outlines), shapely.boundary(exact))
    assert moved.max() < 1
    rows, cols = (2 * side - 3 for side in labels.shape)
    inside = find_cells(labels, Grid(0.5, 2.0, limits=(rows, cols)))
    assert (shapely.total_bounds(inside.outlines) <= [cols, rows, cols, rows]).all()


def test_classes_come_from_the_patch_about_the_nucleus():
    labels = np.zeros((80, 90), np.int32)
    for k, (row, col) in enumerate([(2, 3), (40, 40), (70, 85), (20, 60)]):
        labels[row : row + 5, col : col + 5] = k + 1
    image, colours = painted(labels)
    cells = find_cells(labels, Grid(0.5), image=image, classifier=reddest, class_names=NAMES)
    odds = np.exp(colours[1:] / 32.0)
    np.testing.assert_allclose(cells.probabilities, odds / odds.sum(1, keepdims=True), atol=ROUNDING)
    assert cells.class_ids.tolist() == colours[1:].argmax(1).tolist()
    assert [*cells.classes] == [NAMES[k] for k in cells.class_ids]
    np.testing.assert_allclose(cells.confidence, cells.probabilities.max(1))


def test_all_are_classified_in_one_call():
    labels = compact(blobs())
    seen = []

    def classifier(patches):
        seen.append(patches.shape)
        return np.zeros((len(patches), 3), np.float32)

    cells = find_cells(
        labels, Grid(1), image=painted(labels)[0], classifier=classifier, class_names=NAMES, patch_size=16
    )
    assert seen == [(len(cells), 16, 16, 3)]


def test_only_those_that_are_kept():
    labels = compact(blobs())
    everything = find_cells(labels, Grid(0.5))
    left = find_cells(labels, Grid(0.5), keep=lambda centroids: centroids[:, 1] < 70)
    chosen = everything[everything.centres[:, 1] < 70]
    assert 0 < len(left) < len(everything)
    assert left.ids.tolist() == chosen.ids.tolist()
    assert shapely.equals(left.outlines, chosen.outlines).all()
    assert left.table().equals(chosen.table())


@pytest.mark.parametrize("classifier", [None, reddest])
def test_no_cell(classifier):
    empty = np.zeros((20, 20), np.int32)
    names = NAMES if classifier else ()
    image = np.zeros((20, 20, 3), np.uint8)
    cells = find_cells(empty, Grid(0.5), image=image, classifier=classifier, class_names=names)
    assert len(cells) == len(cells.table()) == len(cells.features()) == len(cells.least_certain_first()) == 0
    assert cells.table().columns[:4].tolist() == ["row", "col", "class", "confidence"]
    assert set(class_columns(names)) <= set(cells.table())


def test_a_classifier_of_other_classes():
    labels = compact(blobs())
    with pytest.raises(InputError, match=r"scores of a, b.*3 scores"):
        find_cells(labels, Grid(1), image=painted(labels)[0], classifier=reddest, class_names=("a", "b"))


def test_round_trip_with_a_correction(tmp_path):
    """A reviewer gives the least certain cell another class; what is read back is an annotation with that class."""
    labels = compact(blobs(1))
    cells = find_cells(
        labels, Grid(0.5, 2), image=painted(labels)[0], classifier=reddest, class_names=NAMES
    ).least_certain_first()
    assert (np.diff(cells.confidence) >= 0).all()
    path = write_geojson(tmp_path / "cells.geojson", cells.features({"immune": (1, 2, 3)}))
    text = path.read_text()
    first, rest = text.split("\n", 2)[1:]
    was = cells.classes[0]
    path.write_text("\n".join([text.split("\n")[0], first.replace(f'"name":"{was}"', '"name":"corrected"'), rest]))
    read = read_geojson(path)
    assert [*read.classes] == ["corrected", *cells.classes[1:]]
    assert set(read.object_types) == {"detection"}
    assert read.colors["immune"] == (1, 2, 3)
    assert shapely.equals_exact(read.geometry, cells.outlines, OUTLINE_ROUNDING).all()
    for name, values in cells.numbers().items():
        np.testing.assert_array_equal(read.measurements[name], values)


def test_counts_and_densities():
    row = summarize_cells(np.array([0, 2, 2, -1]), NAMES, 0.5)
    assert row == {
        "cells": 4,
        "cells_per_mm2": 8,
        "other": 1,
        "other_per_mm2": 2,
        "immune": 0,
        "immune_per_mm2": 0,
        "muscle": 2,
        "muscle_per_mm2": 4,
    }
    assert summarize_cells(np.zeros(0, int), (), 0) == {"cells": 0, "cells_per_mm2": None}
