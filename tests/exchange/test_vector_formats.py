"""Objects in the formats of other programs: what those read is what was written; outlines, holes, classes, numbers."""

from __future__ import annotations

import doctest
import gzip
import importlib
import json
import sqlite3

import numpy as np
import pandas as pd
import pytest
import shapely
import shapely.affinity
from hypothesis import HealthCheck, given, settings

from monai_ext.base.errors import InputError
from monai_ext.exchange import Exchange, Results, convert
from monai_ext.exchange.dicom_ann import bridged
from monai_ext.exchange.results import NO_CLASS
from monai_ext.formats import Features, read_asap, read_dicom_annotations, read_geojson, write_geojson
from monai_ext.formats.annotation_files import find_annotations
from monai_ext.formats.outlines import valid_areas
from tests.exchange.results import CLASSES, objects, parts, results_of, written

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
RING = shapely.box(10, 10, 30.5, 30) - shapely.box(12, 12, 14, 14) - shapely.box(20, 15, 25, 20)


@pytest.fixture
def folder(tmp_path):
    return tmp_path


# ------------------------------------------------------------------------------------------------ there and back again


def from_dsa(path):
    content = json.loads(path.read_text())
    shapes, classes, scores = [], [], []
    for element in content["elements"]:
        if element["type"] == "point":
            shapes.append(shapely.Point(element["center"][:2]))
        else:
            assert element["closed"]
            xy = [[place[:2] for place in ring] for ring in (element["points"], *element.get("holes", []))]
            shapes.append(shapely.Polygon(xy[0], xy[1:]))
        classes.append(element["group"])
        scores.append(element["user"].get("score", np.nan))
    return shapes, classes, scores


def from_store(path):
    with sqlite3.connect(path) as store:
        rows = store.execute(
            "SELECT geometry, properties, area, cx, cy, objtype FROM annotations ORDER BY id"
        ).fetchall()
    shapes = [shapely.from_wkb(row[0]) for row in rows]
    properties = [json.loads(row[1]) for row in rows]
    for shape, row in zip(shapes, rows, strict=True):
        assert row[2:5] == pytest.approx((shape.area, shape.centroid.x, shape.centroid.y))
        assert row[5] == shape.geom_type
    return shapes, [each["type"] for each in properties], [each.get("score", np.nan) for each in properties]


def from_anndata(path):
    anndata = pytest.importorskip("anndata")
    table = anndata.read_h5ad(path)
    shapes = shapely.from_wkt(table.obs["outline"].to_numpy(object))
    centroids = shapely.get_coordinates(shapely.centroid(shapes))
    np.testing.assert_allclose(table.obsm["spatial"], centroids)
    scores = table[:, "score"].X.ravel() if "score" in table.var_names else np.full(len(shapes), np.nan)
    return shapes, table.obs["class"].tolist(), scores


def from_csv(path):
    table = pd.read_csv(path)
    shapes = shapely.from_wkt(table["outline"].to_numpy(object))
    np.testing.assert_allclose(table[["x", "y"]], shapely.get_coordinates(shapely.centroid(shapes)), atol=0.0051)
    return shapes, table["class"].tolist(), table["score"] if "score" in table else np.full(len(shapes), np.nan)


def from_dicom(path):
    features = read_dicom_annotations(path)
    shapes = valid_areas(features.geometry)
    return shapes, features.classes, features.measurements.get("score", np.full(len(shapes), np.nan))


def from_packed(path):
    features = read_geojson(path)
    return features.geometry, features.classes, features.measurements.get("score", np.full(len(features), np.nan))


READERS = {
    "geojson-gz": from_packed,
    "csv": from_csv,
    "dsa": from_dsa,
    "annotation-store": from_store,
    "anndata": from_anndata,
    "dicom-ann": from_dicom,
}


def assert_comes_back(folder, name, features):
    if name == "dicom-ann":
        pytest.importorskip("highdicom")
    [path] = written(folder, features, name)
    shapes, classes, scores = READERS[name](path)
    assert parts(shapes, classes) == parts(features.geometry, features.classes)
    whole = [parts([shape], [label])[0] for shape, label in zip(features.geometry, features.classes, strict=True)]
    stated = dict(zip(whole, features.measurements["score"], strict=True))
    for shape, label, score in zip(shapes, classes, scores, strict=True):
        [first, *_] = parts([shape], [label])
        if whole.count(first) == 1:
            np.testing.assert_equal(score, stated[first])


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@few
@given(features=objects())
def test_outlines_holes_classes_and_scores_come_back(tmp_path_factory, name, features):
    assert_comes_back(tmp_path_factory.mktemp("exchange"), name, features)


@pytest.mark.parametrize("name", READERS)
def test_some_objects_come_back(folder, name):
    pair = shapely.MultiPolygon([shapely.box(1, 1, 5.5, 5), shapely.box(6, 1, 8, 2)])
    shapes = [RING, pair, shapely.Point(35.25, 7.5), shapely.box(40, 5, 50.4, 9)]
    assert_comes_back(
        folder, name, Features(shapes, classes=[*CLASSES[:3], None], measurements={"score": [0.5, 1, np.nan, 0]})
    )


@pytest.mark.slow
@few
@given(features=objects())
def test_asap_has_the_same_area_and_the_same_points_in_each_group(tmp_path_factory, features):
    [path] = written(tmp_path_factory.mktemp("exchange"), features, "asap")
    groups = read_asap(path)
    names = np.array([name or NO_CLASS for name in features.classes])
    assert set(groups) == set(names)
    for name, shapes in groups.items():
        before = features.geometry[names == name]
        assert shapely.area(shapes).sum() == pytest.approx(shapely.area(before).sum(), abs=1e-6)
        drawn, found = (shapely.union_all(shapely.make_valid(each)) for each in (before, shapes))
        assert drawn.symmetric_difference(found).area < 1e-6


# ------------------------------------------------------------------------------------------------------- what is stated


def test_a_store_is_found_by_its_boxes(folder):
    [path] = written(
        folder, Features([RING, shapely.Point(35.25, 7.5)], classes=["Tumor", "Mitosis"]), "annotation-store"
    )
    with sqlite3.connect(path) as store:
        query = "SELECT id FROM rtree WHERE max_x >= ? AND min_x <= ?"
        assert store.execute(query, (30.4, 30.6)).fetchall() == [(1,)]
        assert store.execute(query, (35.2, 35.3)).fetchall() == [(2,)]
        assert dict(store.execute("SELECT key, value FROM metadata")) == {
            "version": '"1.0.1"', "compression": "null", "compression_level": "9",
        }  # fmt: skip


def test_a_table_has_units_colours_and_the_order_of_the_file(folder):
    anndata = pytest.importorskip("anndata")
    cells = Features(
        [shapely.box(0, 0, 4, 4), shapely.box(10, 5, 14, 9)],
        classes=["b", "a"],
        measurements={"area_um2": [1.0, 2.0], "score": [np.nan, 0.5]},
        colors={"a": (1, 2, 255)},
    )
    table = anndata.read_h5ad(written(folder, cells, "anndata", mpp=(0.5, 0.25))[0])
    assert table.obs_names.tolist() == ["1", "2"]
    assert table.obs["class"].tolist() == ["b", "a"]
    assert table.obs["class"].cat.categories.tolist() == ["a", "b"]
    assert table.uns["class_colors"][0] == "#0102ff"
    assert table.obsm["spatial"].tolist() == [[2, 2], [12, 7]]
    np.testing.assert_equal(table[:, "score"].X.ravel(), [np.nan, 0.5])
    assert dict(table.uns["spatial_image"]) == {
        "image": "a",
        "rows": 40,
        "columns": 60,
        "mpp_row": 0.5,
        "mpp_column": 0.25,
    }


def test_no_object_leaves_an_empty_file_where_the_format_has_one(folder):
    empty = Features([])
    assert json.loads(written(folder, empty, "dsa")[0].read_text())["elements"] == []
    assert from_store(written(folder, empty, "annotation-store")[0]) == ([], [], [])
    assert read_asap(written(folder, empty, "asap")[0]) == {}
    pytest.importorskip("anndata")
    assert written(folder, empty, "anndata")[0].is_file()


def test_dicom_refuses_what_it_cannot_hold(folder):
    pytest.importorskip("highdicom")
    with pytest.raises(InputError, match="at least one object"):
        written(folder, Features([]), "dicom-ann")
    with pytest.raises(InputError, match="at most 64 characters"):
        written(folder, Features([RING], classes="x" * 65), "dicom-ann")
    assert [path.name for path in folder.iterdir()] == ["a.geojson"]


def test_dicom_annotations_say_who_found_what(folder):
    highdicom = pytest.importorskip("highdicom")
    cells = Features(
        [RING, shapely.box(0, 0, 4, 4), shapely.Point(3, 3)],
        classes=["Nucleus", "Nucleus", "sTIL"],
        measurements={"area_um2": [20.0, np.nan, np.nan]},
        colors={"Nucleus": (200, 0, 0)},
    )
    [path] = written(folder, cells, "dicom-ann")
    data = highdicom.ann.annread(path)
    nuclei, points = data.get_annotation_groups()
    assert (nuclei.label, nuclei.graphic_type.value, nuclei.number_of_annotations) == ("Nucleus", "POLYGON", 2)
    assert nuclei.annotated_property_type == highdicom.sr.CodedConcept("84640000", "SCT", "Nucleus")
    assert points.annotated_property_type.scheme_designator == "99MONAI_EXT"
    assert points.annotated_property_type.meaning == "sTIL"
    assert nuclei.algorithm_type.value == "AUTOMATIC"
    names, values, units = nuclei.get_measurements()
    assert (names[0].meaning, units[0].value) == ("Area", "um2")
    np.testing.assert_equal(values[:, 0], [20.0, np.nan])
    places = points.get_graphic_data("2D")
    np.testing.assert_array_equal(places[0], [[3, 3]])
    assert data.ContainerIdentifier == data.PatientID == "a"
    # all results of an image belong together
    again = highdicom.ann.annread(written(folder, cells, "dicom-ann")[0])
    assert again.StudyInstanceUID == data.StudyInstanceUID
    assert again.SOPInstanceUID != data.SOPInstanceUID


def test_objects_that_a_person_drew_are_manual(folder):
    highdicom = pytest.importorskip("highdicom")
    [path] = written(folder, Features([RING], classes="Tumor"), "dicom-ann", drawn=True)
    [group] = highdicom.ann.annread(path).get_annotation_groups()
    assert group.algorithm_type.value == "MANUAL"
    assert read_dicom_annotations(path).object_types.tolist() == ["annotation"]


def test_objects_that_a_person_has_checked_say_so_and_know_their_slide(folder):
    highdicom = pytest.importorskip("highdicom")
    write_geojson(folder / "a.geojson", Features([RING], classes="Tumor"))
    plan = {"stretch": [1.0, 1.0], "resolution_source": "TIFF", "level0_shape": [40, 60], "base_mpp": 0.25}
    (folder / "a_plan.json").write_text(json.dumps(plan | {"scale": 4.0, "step": 8}))
    path = write_geojson(folder / "a_reviewed.geojson", Features([RING], classes="Stroma"))
    results = Results(path, "a").with_plan()
    assert (results.geojson, results.shape, results.mpp, results.checked) == (path, (40, 60), (0.25, 0.25), True)
    [written_to] = Exchange("dicom-ann").write(results, folder / "a_reviewed")
    [group] = highdicom.ann.annread(written_to).get_annotation_groups()
    assert (group.label, group.algorithm_type.value) == ("Stroma", "SEMIAUTOMATIC")
    (folder / "a.geojson").unlink()  # then it is a result of an image that is called so
    assert not Results(path, "a_reviewed").with_plan().checked


def test_wsidicom_reads_the_annotations(folder):
    pytest.importorskip("highdicom")
    reader = pytest.importorskip("wsidicom.graphical_annotations").AnnotationInstance
    cells = Features(
        [RING, shapely.box(0, 0, 4, 4.5), shapely.Point(3.25, 2)],
        classes=["Tumor", "Tumor", "Mitosis"],
        measurements={"area_um2": [20.0, np.nan, 1.5]},
    )
    [found] = reader.open(written(folder, cells, "dicom-ann"))
    points, outlines = sorted(found.groups, key=lambda group: group.label)
    assert (points.label, outlines.label) == ("Mitosis", "Tumor")
    assert outlines.type_code.value == "108369006"
    [point] = points.annotations
    assert (point.geometry.x, point.geometry.y, point.measurements[0].value) == (3.25, 2, 1.5)
    shapes = [shapely.Polygon(each.geometry.to_coords()) for each in outlines.annotations]
    assert parts(valid_areas(shapes), ["Tumor"] * 2) == parts(cells.geometry[:2], ["Tumor"] * 2)


@pytest.mark.parametrize("module", ["registry", "results", "label_maps", "label_names"])
def test_examples_are_true(module, folder):
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    for test in finder.find(importlib.import_module(f"monai_ext.exchange.{module}")):
        if test.examples:
            test.globs = {"np": np, "folder": folder}
            assert runner.run(test).failed == 0, test.name


def test_results_are_read_in_parts(folder, monkeypatch):
    many = Features([shapely.box(x, 0, x + 1, 1) for x in range(50)], classes=["a", "b"] * 25)
    results = results_of(folder, many)
    from monai_ext.exchange import results as module
    from monai_ext.formats.geojson import iterate_geojson

    monkeypatch.setattr(module, "iterate_geojson", lambda path: iterate_geojson(path, at_once=7))
    assert [len(batch) for batch in results.batches()] == [7] * 7 + [1]
    assert (results.survey.count, results.survey.classes, results.survey.right) == (50, ("a", "b"), 50)
    from monai_ext.exchange import Exchange

    store, dsa = Exchange(["annotation-store", "dsa"]).write(results, folder / "b")
    assert parts(*from_store(store)[:2]) == parts(*from_dsa(dsa)[:2]) == parts(many.geometry, many.classes)


def test_an_unclassified_object_has_a_name(folder):
    results = Results(write_geojson(folder / "a.geojson", Features([RING])), "a")
    assert list(results.legend) == [NO_CLASS]


def test_a_bridge_to_a_hole_takes_no_area():
    """Straight ways from the first corner lead through other holes, and out of a bay and in again."""
    shell = shapely.Polygon([(0, 0), (30, 0), (30, 4), (12, 4), (12, 6), (30, 6), (30, 20), (0, 20)])
    holes = [
        shapely.box(x, y, x + 2, y + 1.5) for x, y in [(3, 1), (7, 2), (20, 1), (4, 9), (8, 15), (15, 9), (22, 14)]
    ]
    whole = shapely.difference(shell, shapely.union_all(holes))
    for turned in (whole, shapely.reverse(whole), shapely.affinity.rotate(whole, 37, origin=(3, 5))):
        ring = bridged(turned)
        x, y = ring.T
        assert (x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2 == pytest.approx(turned.area)
        [again] = [part for part in shapely.get_parts(shapely.make_valid(shapely.Polygon(ring))) if part.area]
        assert len(again.interiors) == len(holes)
        assert shapely.symmetric_difference(again, turned).area < 1e-9


def test_the_packed_one_is_the_plain_one_and_comes_second(folder):
    """Whoever looks for annotations finds the objects once; packed again it is the same."""
    plain, packed = folder / "a.geojson", written(folder, Features([RING] * 50, "Tumor"), "geojson-gz")[0]
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    assert packed.stat().st_size < plain.stat().st_size / 2
    assert find_annotations(folder) == [plain]
    before = packed.read_bytes()
    assert convert(packed, "geojson-gz") == str(packed)
    assert packed.read_bytes() == before
    plain.unlink()
    assert find_annotations(folder) == [packed]
    assert len(read_geojson(packed)) == 50
