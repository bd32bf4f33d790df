"""What of an annotation counts: regions, nested objects, parts, outlines that cannot be measured."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import shapely
from shapely.geometry import mapping

from monai_ext.base.errors import InputError
from monai_ext.formats import roles
from monai_ext.formats.geojson import Features, parse_geojson, read_geojson, write_geojson
from monai_ext.formats.point_files import read_points
from monai_ext.formats.roles import labelling, read_areas, read_objects, split_roles, units

CELLS = [shapely.box(x, y, x + 10, y + 8) for y in range(20, 320, 40) for x in range(20, 420, 40)]  # 80
REGION = shapely.box(0, 0, 440, 340)
BOW_TIE = shapely.Polygon([(0, 0), (10, 10.01), (10, 0), (0, 10)])  # its signed areas cancel


@pytest.fixture(autouse=True)
def every_message():
    """Messages are said once in a process."""
    roles._say_once.cache_clear()


def feature(geometry, kind=None, children=(), **properties):
    if kind is not None:
        properties["objectType"] = kind
    if children:
        properties["childObjects"] = list(children)
    geometry = geometry if geometry is None or isinstance(geometry, dict) else mapping(geometry)
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def save(folder, content, name="a.geojson"):
    path = folder / name
    text = json.dumps(content).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def objects(folder, content, **options):
    return read_objects(save(folder, content), **options).objects


def bounds(features):
    return sorted(map(tuple, shapely.bounds(features.geometry).tolist()))


EXPECTED = sorted(map(tuple, shapely.bounds(CELLS).tolist()))


# ------------------------------------------------------------------------------------- nested exports, types of objects


@pytest.mark.parametrize("kind", ["annotation", "detection", "cell", "tile"])
@pytest.mark.parametrize("key", ["childObjects", "children"])
def test_nested_objects_are_read_at_every_depth(tmp_path, kind, key):
    cells = [feature(cell, kind) for cell in CELLS]
    inner = feature(shapely.box(0, 0, 440, 100), "annotation", cells[:20])
    region = feature(REGION, "annotation", [inner, *cells[20:]])
    root = {"type": "Feature", "id": "PathRootObject", "geometry": None, "properties": {"childObjects": [region]}}
    text = json.dumps(root).replace("childObjects", key)
    for content in (json.loads(text), {"root": json.loads(text), "tmaGrid": None}, [json.loads(text)]):
        counted, regions = read_objects(save(tmp_path, content))
        assert bounds(counted) == EXPECTED
        assert len(regions) == 2
        assert len(read_geojson(save(tmp_path, content))) == len(CELLS) + 2


@pytest.mark.parametrize(
    ("region", "cells"),
    [
        pytest.param(
            {"properties": {"objectType": "annotation"}}, {"properties": {"objectType": "detection"}}, id="0.4"
        ),
        pytest.param({"properties": {"object_type": "annotation"}}, {"properties": {"object_type": "cell"}}, id="0.3"),
        pytest.param({"id": "PathAnnotationObject"}, {"id": "PathDetectionObject"}, id="0.2"),
        pytest.param(
            {"id": "TMACoreObject", "properties": {"isMissing": False}}, {"id": "PathCellObject"}, id="0.2_core"
        ),
        pytest.param({"properties": {"objectType": "tmaCore"}}, {"properties": {"objectType": "cell"}}, id="core"),
        pytest.param(
            {"properties": {"objectType": "tma_core"}}, {"properties": {"objectType": "annotation"}}, id="tma"
        ),
        pytest.param({"properties": {"type": "annotation"}}, {"properties": {"type": "tile"}}, id="alias"),
        pytest.param({}, {"properties": {"objectType": "detection"}}, id="no_type"),
        pytest.param(
            {"properties": {"objectType": "hexagon"}}, {"properties": {"objectType": "detection"}}, id="unknown"
        ),
        pytest.param({}, {}, id="drawn_by_hand"),
        pytest.param({"properties": {"classification": {"name": "Region*"}}}, {}, id="ignored_class"),
    ],
)
def test_a_region_around_cells_is_none(tmp_path, region, cells):
    content = [{**feature(REGION), **region}, *({**feature(cell), **cells} for cell in CELLS)]
    counted, regions = read_objects(save(tmp_path, {"type": "FeatureCollection", "features": content}))
    assert bounds(counted) == EXPECTED
    assert bounds(regions) == [REGION.bounds]
    assert len(read_points(tmp_path / "a.geojson")) == len(CELLS)


def test_regions_that_hold_nothing_are_told_of(tmp_path, capsys):
    far = feature(shapely.box(900, 900, 990, 990), "annotation")
    cells = [feature(cell, "detection") for cell in CELLS]
    assert len(objects(tmp_path, [feature(REGION, "annotation"), *cells])) == len(CELLS)
    assert capsys.readouterr().err == ""
    assert len(objects(tmp_path, [far, *cells])) == len(CELLS)
    assert "a.geojson: annotations taken for regions though no detection lies in them: 1" in capsys.readouterr().err
    assert len(objects(tmp_path, [feature(REGION), *map(feature, CELLS)])) == len(CELLS)
    assert "a.geojson: annotations taken for regions as they enclose others: 1" in capsys.readouterr().err


def test_outlines_drawn_by_hand_that_touch_or_repeat_are_objects(tmp_path, capsys):
    overlapping = [shapely.box(0, 0, 10, 10), shapely.box(5, 5, 15, 15), shapely.box(5, 5, 15, 15)]
    ring = shapely.box(100, 0, 150, 50) - shapely.box(110, 10, 140, 40)
    assert len(objects(tmp_path, list(map(feature, [*overlapping, ring, shapely.box(120, 20, 130, 30)])))) == 5
    assert capsys.readouterr().err == ""


def test_spots_in_cells_are_no_cells(tmp_path):
    spots = [
        feature(cell.centroid.buffer(1), "detection", classification={"name": "Subcellular spot"}) for cell in CELLS
    ]
    nucleus = [mapping(shapely.box(*cell.bounds[:2], cell.bounds[0] + 3, cell.bounds[1] + 3)) for cell in CELLS]
    flat = [feature(cell, "cell") | {"nucleusGeometry": n} for cell, n in zip(CELLS, nucleus, strict=True)]
    nested = [feature(cell, "detection", [spot]) for cell, spot in zip(CELLS, spots, strict=True)]
    assert bounds(objects(tmp_path, [*flat, *spots])) == EXPECTED
    assert bounds(objects(tmp_path, nested)) == EXPECTED
    assert (shapely.area(objects(tmp_path, [*flat, *spots], nuclei=True).geometry) == 9).all()
    beside = feature(shapely.box(13, 13, 18, 18), "detection")
    assert len(objects(tmp_path, [*flat, beside])) == len(CELLS) + 1


def test_tiles_are_objects_without_cells_only(tmp_path):
    tiles = [feature(shapely.box(x, 0, x + 110, 340), "tile") for x in range(0, 440, 110)]
    assert len(objects(tmp_path, [feature(REGION), *tiles])) == 4
    assert bounds(objects(tmp_path, [*tiles, *(feature(cell, "cell") for cell in CELLS)])) == EXPECTED


def test_points_count_beside_what_was_outlined(tmp_path):
    hotspot, marked = feature(REGION), [feature(cell.centroid, classification="Mitosis") for cell in CELLS[:5]]
    path = save(tmp_path, [hotspot, *marked])
    assert len(read_points(path)) == 5
    strewn = shapely.MultiPoint([CELLS[0].centroid, (999, 999)])
    assert len(read_points(save(tmp_path, [hotspot, feature(strewn)]))) == 2
    own = [feature(cell, "detection", classification="Mitosis") for cell in CELLS[:5]]
    assert len(read_points(save(tmp_path, [*marked, *own]))) == 5, "a point, and the outline of the same mitosis"
    assert len(read_points(save(tmp_path, [hotspot, *marked, *(feature(cell, "cell") for cell in CELLS)]))) == 80
    assert len(read_points(path, classes=["Mitosis"])) == 5
    assert len(objects(tmp_path, [feature(CELLS[0]), *marked])) == 1, "a vessel with points in it"
    assert len(objects(tmp_path, [feature(CELLS[0], children=marked)])) == 1


def test_what_labels_nuclei():
    drawn = Features([REGION, *CELLS], ["Tumor", *["Immune"] * len(CELLS)])
    assert len(labelling(drawn)) == len(CELLS) + 1, "the region's class is that of nuclei that were not drawn"
    detected = Features(drawn.geometry, drawn.classes, object_types=["annotation", *["cell"] * len(CELLS)])
    assert set(labelling(detected).classes) == {"Immune"}


def test_the_cell_or_its_nucleus_labels():
    nuclei = [shapely.box(*cell.bounds[:2], cell.bounds[0] + 4, cell.bounds[1] + 4) for cell in CELLS]
    cells = Features(CELLS, "Immune", object_types="cell", nuclei=nuclei)
    assert (shapely.area(labelling(cells).geometry) == 80).all()
    assert (shapely.area(labelling(cells, nuclei=True).geometry) == 16).all()


def test_many_objects_in_little_time():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 3e4, (20_000, 2))
    many = shapely.box(*corners.T, *(corners + rng.uniform(5, 20, corners.shape)).T)
    region = shapely.Point(15_000, 15_000).buffer(14_000, quad_segs=2000)
    counted, regions = split_roles(Features([region, *many]))
    covered = [i for i, j in zip(*shapely.STRtree(many).query(many, predicate="covers"), strict=True) if i != j]
    assert len(regions) == 1 + len(set(covered))
    assert len(counted) + len(regions) == len(many) + 1


# ---------------------------------------------------------------------------------------------------------------- parts


def test_parts_of_a_class_are_objects_by_option(tmp_path, capsys):
    by_class = [feature(shapely.MultiPolygon(CELLS[i::2]), "annotation", classification=f"class {i}") for i in (0, 1)]
    content = [{**by_class[0], "id": "x"}, by_class[1]]
    assert len(objects(tmp_path, content)) == 2
    message = "a.geojson: objects of several parts far apart, one each: 2, of 80 parts (split_parts makes"
    assert capsys.readouterr().err.count(message) == 1
    assert len(read_points(tmp_path / "a.geojson", split_parts=True)) == len(CELLS)
    parts = objects(tmp_path, content, split=True)
    assert bounds(parts) == EXPECTED
    assert parts.classes.tolist() == ["class 0"] * 40 + ["class 1"] * 40
    assert parts.ids.tolist() == ["x", *[None] * 79]
    assert capsys.readouterr().err == ""


def test_pieces_of_one_nucleus_are_not_told_of(tmp_path, capsys):
    pieces = shapely.MultiPolygon([shapely.box(0, 0, 10, 10), shapely.box(11, 0, 20, 10), shapely.box(0, 12, 1, 13)])
    region = feature(shapely.MultiPolygon([shapely.box(0, 0, 99, 99), shapely.box(900, 900, 999, 999)]), "annotation")
    assert len(objects(tmp_path, [feature(pieces, "detection"), region])) == 1
    assert capsys.readouterr().err == ""


# --------------------------------------------------------------------------------------- what is measured of an outline


def test_areas_decide_in_collections(tmp_path):
    box, line = shapely.box(10, 10, 20, 20), shapely.LineString([(0, 0), (500, 500)])
    mixed = [
        shapely.GeometryCollection([box, shapely.Point(900, 900)]),
        shapely.GeometryCollection([line, shapely.GeometryCollection([shapely.MultiPolygon([box]), line])]),
    ]
    counted = objects(tmp_path, list(map(feature, mixed)))
    assert bounds(counted) == [box.bounds] * 2
    assert read_points(tmp_path / "a.geojson").tolist() == [[14.5, 14.5]] * 2


def test_crossing_outlines_are_repaired_before_anything_is_taken(tmp_path):
    assert not BOW_TIE.bounds[0] <= BOW_TIE.centroid.x <= BOW_TIE.bounds[2], "why: shapely's centroid lies outside"
    [shape] = objects(tmp_path, [feature(BOW_TIE)]).geometry
    assert shape.is_valid
    assert shape.area == pytest.approx(50, rel=0.01)
    for row, col in (*read_points(tmp_path / "a.geojson"), *Features([BOW_TIE]).points()):
        assert (row, col) == pytest.approx((4.5, 4.5), abs=0.1)
    spike = shapely.Polygon([(0, 0), (10, 0), (10, 10), (99, 10), (10, 10), (0, 10)])
    assert bounds(objects(tmp_path, [feature(spike)])) == [(0, 0, 10, 10)], "the line that repair leaves is dropped"


def test_lines_and_outlines_without_an_area_do_not_count(tmp_path, capsys):
    flat = {"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [9, 9], [0, 0]]]}
    ruler = feature(shapely.LineString([(0, 0), (50, 50)]))
    content = [ruler, feature(flat), feature(shapely.MultiLineString([[(0, 0), (1, 1)]])), feature(CELLS[0])]
    assert len(objects(tmp_path, content)) == 1
    assert "a.geojson: lines and outlines without an area, left out: 3" in capsys.readouterr().err
    assert len(read_points(tmp_path / "a.geojson")) == 1


def test_an_outline_that_is_there_twice_encloses_nothing(tmp_path):
    """Drawn at random; repair and union give areas that differ in the last digit."""
    outline = shapely.Polygon([(-7, 0), (0, 0), (1, 0), (1, 8), (3, 0), (0, 1)])
    twice = shapely.GeometryCollection([outline, outline])
    assert len(objects(tmp_path, [feature(outline), feature(twice)])) == 2


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("depth", [2, 3])
def test_rings(tmp_path, opened, depth):
    ring = [[*point, 7.0][:depth] for point in ([0, 0], [6, 0], [0, 6], [0, 0])][: -1 if opened else None]
    for geometry in (
        {"type": "Polygon", "coordinates": [ring]},
        {"type": "MultiPolygon", "coordinates": [[ring], [[]], []]},
        {"type": "Polygon", "coordinates": [ring, []]},
        {"type": "Polygon", "coordinates": [ring], "isEllipse": True},
    ):
        [shape] = objects(tmp_path, [feature(geometry), feature({"type": "Polygon", "coordinates": [[]]})]).geometry
        assert shape.area == 18
        assert not shape.has_z


def test_nuclei_or_cells(tmp_path):
    cell = feature(shapely.box(0, 0, 10, 10), "cell") | {"nucleusGeometry": mapping(shapely.box(2, 2, 5, 5))}
    without = feature(shapely.box(20, 20, 30, 30), "cell")
    assert shapely.area(objects(tmp_path, [cell, without]).geometry).tolist() == [100, 100]
    assert shapely.area(objects(tmp_path, [cell, without], nuclei=True).geometry).tolist() == [9, 100]
    again = read_geojson(write_geojson(tmp_path / "b.geojson", read_geojson(tmp_path / "a.geojson")), nuclei=True)
    assert shapely.area(again.geometry).tolist() == [9, 100]


# ---------------------------------------------------------------------------------------------- planes, forms of a file


def test_objects_of_several_planes_are_refused_by_name(tmp_path):
    here, above = (feature({**mapping(CELLS[0]), "plane": {"c": -1, "z": z, "t": 0}}) for z in (0, 3))
    assert len(objects(tmp_path, [above, above])) == 2
    assert len(objects(tmp_path, [here, feature(CELLS[1])])) == 2
    with pytest.raises(
        InputError, match=r"a\.geojson: expected objects of one plane, found 2 at z 0, t 0, 1 at z 3, t 0"
    ):
        objects(tmp_path, [here, above, feature(CELLS[1])])


def test_forms_of_a_file(tmp_path):
    lines = b"\n".join(json.dumps(feature(cell)).encode() for cell in CELLS)
    assert len(parse_geojson(lines)) == len(CELLS), "a feature a line"
    assert len(parse_geojson(b"".join(b"\x1e" + line + b"\n" for line in lines.splitlines()))) == len(CELLS), "RFC 8142"
    collection = {"type": "FeatureCollection", "features": [feature(cell) for cell in CELLS]}
    assert len(objects(tmp_path, [collection, {"type": "FeatureCollection", "features": [collection]}])) == 160
    assert len(objects(tmp_path, [mapping(cell) for cell in CELLS])) == len(CELLS)
    for name in ("b.geojson.gz", "b.json.gz", "b.geojson"):
        path = save(tmp_path, collection, name)
        assert len(read_objects(path).objects) == len(read_points(path)) == len(CELLS)
    (tmp_path / "plain.geojson.gz").write_bytes(json.dumps(collection).encode())
    assert len(read_geojson(tmp_path / "plain.geojson.gz")) == len(CELLS)


@pytest.mark.parametrize("name", ["a.geojson.gz", "a.json.gz"])
def test_a_compressed_file_that_is_cut_off(tmp_path, name):
    path = save(tmp_path, [feature(cell) for cell in CELLS], name)
    path.write_bytes(path.read_bytes()[:-20])
    for read in (read_geojson, read_points):
        with pytest.raises(InputError, match=rf"{name}: expected a complete gzip file"):
            read(path)


def test_a_zip_archive_is_named(tmp_path):
    (tmp_path / "a.geojson").write_bytes(b"PK\x03\x04....")
    with pytest.raises(InputError, match=r"a\.geojson: expected GeoJSON, .*, found a zip archive: unpack it"):
        read_geojson(tmp_path / "a.geojson")


# ---------------------------------------------------------------------------------------------------------- decorations


@pytest.mark.parametrize(
    ("color", "expected"),
    [
        ("#c8000a", (200, 0, 10)),
        ("C8000A", (200, 0, 10)),
        ("#ffc8000a", (200, 0, 10)),
        ("0xC8000A", (200, 0, 10)),
        ("#0f0", (0, 255, 0)),
        (-3670006, (200, 0, 10)),
        ([200.0, 0.0, 10.0], (200, 0, 10)),
        ([1.0, 0.5, 0], (255, 128, 0)),
        ([200, 0, 10, 255], (200, 0, 10)),
        ("red", None),
        ([1, 2], None),
        ([300, 0, 0], None),
        (["1", "2", "3"], None),
        ({"r": 1}, None),
        (None, None),
        (True, None),
        (1.5, None),
    ],
)
def test_colours_are_read_or_left_out(color, expected):
    for key in ("color", "colorRGB"):
        features = parse_geojson(json.dumps(feature(CELLS[0], classification={"name": "a", key: color})).encode())
        assert features.classes.tolist() == ["a"]
        assert features.colors == ({"a": expected} if expected else {})


@pytest.mark.parametrize(
    "properties",
    [
        {"name": 12, "isLocked": "yes", "metadata": [1], "color": "#12", "image": {"a": 1}},
        {"measurements": {"a": "large", "b": None, "c": "NaN", "d": [1], "e": True, "f": 10**400}},
        {"measurements": [{"name": "a"}, {"value": 1}, 3, None]},
        {"measurements": "none", "metadata": None},
        {"classification": 5},
        {"classification": {"names": "Tumor"}},
        {"classification": {"name": 7, "color": []}},
        {"childObjects": None, "children": 3},
        {"objectType": 3, "object_type": None, "type": {"a": 1}},
        "text",
        [1, 2],
        None,
    ],
)
def test_no_decoration_is_fatal(properties):
    item = {"type": "Feature", "geometry": mapping(CELLS[0]), "properties": properties}
    [shape] = parse_geojson(json.dumps([item]).encode()).geometry
    assert shape.area == 80


def test_derived_classes():
    items = [
        feature(CELLS[0], classification=value) for value in (["Tumor", "Positive"], {"names": ["Tumor", "Positive"]})
    ]
    assert parse_geojson(json.dumps(items).encode()).classes.tolist() == ["Tumor: Positive"] * 2


# ------------------------------------------------------------------------------------------------------ areas of tissue


def test_areas_of_tissue(tmp_path):
    tumour, inner = shapely.box(10, 10, 300, 300), shapely.box(50, 50, 90, 90)
    cells = [feature(cell, "cell", classification="Immune") for cell in CELLS]
    around = feature(shapely.box(0, 0, 400, 400), "annotation")
    drawn = feature(tumour, "annotation", classification="Tumor")
    core = feature(shapely.box(0, 0, 900, 900), "tmaCore")
    for content in (
        [drawn],
        [drawn, *cells],
        [around, drawn, core],
        [feature(REGION, classification="Region*"), drawn],
    ):
        assert bounds(read_areas(save(tmp_path, content))) == [tumour.bounds]
    same = [drawn, feature(inner, classification="Tumor"), feature(inner.buffer(-1))]
    assert shapely.union_all(read_areas(save(tmp_path, same)).geometry).area == tumour.area
    other = save(tmp_path, [drawn, feature(inner, classification="Necrosis")])
    with pytest.raises(InputError, match=r"expected areas that do not lie .*, found Necrosis inside Tumor; --classes"):
        read_areas(other)
    assert bounds(read_areas(other, ["Tumor"])) == [tumour.bounds]
    assert bounds(read_areas(save(tmp_path, [feature(CELLS[0], "detection")]))) == [CELLS[0].bounds]


def test_an_outline_belongs_to_the_point_in_it():
    near = [shapely.box(0, 0, 10, 10), shapely.Polygon([(9, 0), (30, 0), (30, 30), (25, 30), (25, 5), (9, 5)])]
    points = [shapely.Point(9.5, 7), shapely.Point(20, 12)]  # the first lies in both boxes, the second beside its blob
    assert units(np.array([*near, *points])).tolist() == [2, 3, 2, 3]


def test_what_encloses_several_points_is_a_region_of_its_own():
    points = [shapely.Point(10, 10), shapely.Point(80, 80)]
    assert units(np.array([shapely.box(0, 0, 99, 99), *points, points[0].buffer(5)])).tolist() == [0, 1, 2, 1]


@pytest.mark.parametrize(
    "geometry", [[], [shapely.Point(1, 1)], [shapely.box(0, 0, 9, 9)], [None, shapely.Point(0, 0)]]
)
def test_units_of_one_kind(geometry):
    array = np.empty(len(geometry), object)
    array[:] = geometry
    assert units(array).tolist() == list(range(len(geometry)))
