"""QuPath GeoJSON: every form it has had, geometry against slow obvious references, bad files."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shapely.geometry import mapping
from skimage.draw import polygon as draw_polygon

import monai_ext.formats.geojson as module
from monai_ext.base.errors import InputError
from monai_ext.formats.geojson import (
    Features,
    GeoJSONWriter,
    label_map_to_polygons,
    parse_geojson,
    rasterize,
    read_geojson,
    to_rowcol,
    to_xy,
    write_geojson,
)
from monai_ext.formats.outlines import polygons_to_mask

EXACT = 1e-9
SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]]}
GEOMETRIES = {
    "point": shapely.Point(1.5, 2.5),
    "multipoint": shapely.MultiPoint([(1, 2), (3, 4)]),
    "line": shapely.LineString([(0, 0), (2, 0)]),
    "polygon": shapely.box(0, 0, 4, 2),
    "polygon_with_holes": shapely.Polygon(
        shapely.box(0, 0, 9, 9).exterior, [shapely.box(1, 1, 2, 2).exterior, shapely.box(4, 4, 6, 8).exterior]
    ),
    "multipolygon": shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(5, 5, 7, 7)]),
    "collection": shapely.GeometryCollection([shapely.box(0, 0, 2, 2), shapely.Point(9, 9)]),
}
COUNTS = {"multipoint": 2}  # points an object gives, where it is not one


def feature(geometry=SQUARE, **properties):
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def parse(content):
    return parse_geojson(json.dumps(content).encode(), "a.geojson")


def same(first: Features, second: Features) -> bool:
    columns = all((getattr(first, c) == getattr(second, c)).all() for c in ("classes", "object_types", "names", "ids"))
    measured = all(
        np.array_equal(first.measurements[name], second.measurements[name], equal_nan=True)
        for name in first.measurements.keys() | second.measurements.keys()
    )
    return columns and measured and shapely.equals_exact(first.geometry, second.geometry).all()


# ---------------------------------------------------------------------------------------------------- coordinates


def test_a_pixel_centre_is_half_a_pixel_from_its_corner():
    assert to_xy([[0, 0], [2, 7]]).tolist() == [[0.5, 0.5], [7.5, 2.5]]
    # pixel (0, 0) of a tile at row 100, col 40, one of its pixels being 4 x 4 of level 0
    assert to_xy([[0, 0]], offset=(100, 40), scale=4).tolist() == [[42, 102]]


@given(
    points=arrays(np.float64, (5, 2), elements=st.floats(0, 1e5)),
    offset=st.tuples(st.integers(0, 10**5), st.integers(0, 10**5)),
    scale=st.sampled_from([1, 2, 4, 0.5, 3.7]),
)
def test_coordinates_round_trip(points, offset, scale):
    assert np.allclose(to_rowcol(to_xy(points, offset, scale), offset, scale), points, atol=1e-6)


def test_outline_mask_and_centroid_agree():
    """One pixel: its outline covers [c, c + 1) x [r, r + 1), its centroid is its index, its mask is itself."""
    labels = np.zeros((5, 6), dtype=np.int32)
    labels[3, 4] = 9
    values, polygons = label_map_to_polygons(labels)
    assert values.tolist() == [9]
    assert polygons[0].bounds == (4, 3, 5, 4)
    features = Features(polygons)
    assert features.points().tolist() == [[3, 4]]
    assert np.array_equal(rasterize(features, labels.shape)[0], labels > 0)


# ----------------------------------------------------------------------------------------------- reading and writing


@pytest.mark.parametrize("name", GEOMETRIES)
def test_each_geometry_round_trips(tmp_path, name):
    geometry = GEOMETRIES[name]
    features = read_geojson(write_geojson(tmp_path / "a.geojson", Features([geometry])))
    assert shapely.equals_exact(features.geometry[0], geometry)
    assert len(features.points()) == COUNTS.get(name, 1)


def test_points_of_each_geometry():
    def points(name):
        return Features([GEOMETRIES[name]]).points().tolist()

    assert points("point") == [[2, 1]]
    assert points("multipoint") == [[1.5, 0.5], [3.5, 2.5]]
    assert points("line") == [[-0.5, 0.5]]
    assert points("polygon") == [[0.5, 1.5]]
    assert points("collection") == [[0.5, 0.5]], "parts without an area do not pull at the centroid"
    assert Features([]).points().shape == (0, 2)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({"type": "FeatureCollection", "features": [feature()]}, id="collection"),
        pytest.param({"name": "é", "crs": [{}], "features": [feature()], "type": "FeatureCollection"}, id="other_keys"),
        pytest.param([feature()], id="list"),
        pytest.param(feature(), id="feature"),
        pytest.param(SQUARE, id="geometry"),
        pytest.param([{"type": "Feature", "geometry": SQUARE}], id="no_properties"),
        pytest.param([feature() | {"properties": None}], id="null_properties"),
        pytest.param([feature(), feature(None)], id="null_geometry"),
        pytest.param([feature({"type": "Polygon", "coordinates": []}), feature()], id="empty_geometry"),
        pytest.param(
            [feature({"type": "Polygon", "coordinates": [[[*p, 0] for p in SQUARE["coordinates"][0]]]})], id="with_z"
        ),
        pytest.param(
            [feature({"type": "Polygon", "coordinates": [SQUARE["coordinates"][0][:4]]})], id="ring_left_open"
        ),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [1, 7, 1 << 22], ids=lambda n: f"chunk{n}")
def test_forms_of_a_file(monkeypatch, content, indent, chunk):
    monkeypatch.setattr(module, "_CHUNK", chunk)
    features = parse_geojson(b"\xef\xbb\xbf" + json.dumps(content, indent=indent).encode())
    assert len(features) == 1
    assert features.geometry[0].bounds == (0, 0, 4, 4)
    assert features.classes[0] is None
    assert features.object_types[0] == "annotation"


@pytest.mark.parametrize("content", [[], {"type": "FeatureCollection", "features": []}], ids=["list", "collection"])
def test_no_features(tmp_path, content):
    features = parse(content)
    assert len(features) == 0
    assert rasterize(features, (3, 4), ["a", "b"]).shape == (2, 3, 4)
    assert len(read_geojson(write_geojson(tmp_path / "a.geojson", features))) == 0


@pytest.mark.parametrize(
    ("classification", "name", "color"),
    [
        pytest.param({"name": "Tumor", "color": [200, 0, 10]}, "Tumor", (200, 0, 10), id="color"),
        pytest.param({"name": "Tumor", "colorRGB": -3670006}, "Tumor", (200, 0, 10), id="packed"),
        pytest.param({"names": ["Tumor", "Positive"], "color": [1, 2, 3]}, "Tumor: Positive", (1, 2, 3), id="derived"),
        pytest.param({"name": "有丝分裂 🔬"}, "有丝分裂 🔬", None, id="chinese"),
        pytest.param("Näevus", "Näevus", None, id="string"),
        pytest.param({"name": None, "color": [1, 2, 3]}, None, None, id="unnamed"),
        pytest.param({}, None, None, id="empty"),
        pytest.param(None, None, None, id="null"),
    ],
)
def test_classifications(tmp_path, classification, name, color):
    features = parse([feature(classification=classification)])
    assert features.classes.tolist() == [name]
    assert features.colors == ({name: color} if color else {})
    again = read_geojson(write_geojson(tmp_path / "a.geojson", features))
    assert same(features, again)
    assert again.colors == features.colors


def test_measurements_of_both_kinds():
    new, old = {"Area": 4.5, "odd": None}, [{"name": "Area", "value": 7}, {"name": "ÅÄÖ µm²", "value": "NaN"}]
    features = parse([feature(measurements=new), feature(), feature(measurements=old)])
    assert np.array_equal(features.measurements["Area"], [4.5, np.nan, 7], equal_nan=True)
    assert np.isnan(features.measurements["ÅÄÖ µm²"]).all()
    assert np.isnan(features.measurements["odd"]).all()


def test_ids_types_and_names():
    items = [feature(objectType="cell", name="Zelle 1"), feature(object_type="detection"), feature()]
    for item, identity in zip(items, ["PathDetectionObject", "PathDetectionObject", None], strict=True):
        item["id"] = identity
    features = parse(items)
    assert features.ids.tolist() == ["PathDetectionObject", None, None], "an id that comes again is dropped"
    assert features.object_types.tolist() == ["cell", "detection", "annotation"]
    assert features.names.tolist() == ["Zelle 1", None, None]


def test_what_qupath_reads(tmp_path):
    """The file itself, as QuPath 0.4 and later write it."""
    features = Features.from_points(
        [[2, 7]],
        classes="Mitosis",
        measurements={"score": [0.75], "area": [np.nan]},
        names="a",
        ids=["8f0dc9a4-5d0c-4a9e-8b66-1f2f5ce1b1aa"],
        colors={"Mitosis": (255, 0, 0)},
    )
    assert json.loads(write_geojson(tmp_path / "a.geojson", features).read_text(encoding="utf-8")) == {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "id": "8f0dc9a4-5d0c-4a9e-8b66-1f2f5ce1b1aa",
                "geometry": {"type": "Point", "coordinates": [7.5, 2.5]},
                "properties": {
                    "objectType": "annotation",
                    "name": "a",
                    "classification": {"name": "Mitosis", "color": [255, 0, 0]},
                    "measurements": {"score": 0.75},
                },
            }
        ],
    }


def test_selection():
    features = Features(
        [shapely.Point(i, i) for i in range(4)], ["a", "b", "a", None], {"score": [1, 2, 3, 4]}, colors={"a": (1, 2, 3)}
    )
    chosen = features[features.classes == "a"]
    assert chosen.points().tolist() == [[-0.5, -0.5], [1.5, 1.5]]
    assert chosen.measurements["score"].tolist() == [1, 3]
    assert chosen.colors == features.colors
    assert len(features[1:3]) == 2


TEXT = st.text(st.characters(codec="utf-8"), max_size=8)


@settings(deadline=None)
@given(
    geometry=st.lists(st.sampled_from(list(GEOMETRIES.values())), max_size=8),
    chunk=st.sampled_from([1, 30, 1 << 22]),
    pieces=st.integers(1, 3),
    data=st.data(),
)
def test_features_round_trip(tmp_path_factory, geometry, chunk, pieces, data):
    def column(values):
        return data.draw(st.lists(values, min_size=len(geometry), max_size=len(geometry)))

    number = st.floats(-1e9, 1e9) | st.just(np.nan)
    features = Features(
        geometry,
        column(st.none() | TEXT),
        {name: column(number) for name in data.draw(st.sets(TEXT, max_size=2))},
        column(st.sampled_from(["annotation", "detection", "cell"])),
        column(st.none() | TEXT),
    )
    path = tmp_path_factory.mktemp("geojson") / "a.geojson"
    with GeoJSONWriter(path) as writer:
        for start in range(pieces):
            writer.write(features[start::pieces])
    order = np.concatenate([np.arange(len(features))[start::pieces] for start in range(pieces)])
    assert writer.count == len(features)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        again = read_geojson(path)
    expected = features[order]
    present = {name for name, values in expected.measurements.items() if np.isfinite(values).any()}
    assert again.measurements.keys() == present
    assert same(Features(**{**vars(expected), "measurements": {n: expected.measurements[n] for n in present}}), again)
    json.loads(path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------------------------- bad input

COMPLETE = json.dumps({"type": "FeatureCollection", "features": [feature(measurements={"a": 1})] * 3})


@settings(deadline=None, max_examples=200)
@given(length=st.integers(0, len(COMPLETE) - 1), chunk=st.sampled_from([1, 50, 1 << 22]))
def test_any_truncated_file_is_refused(length, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk)
        with pytest.raises(InputError, match=r"^a\.geojson: expected .* found"):
            parse_geojson(COMPLETE[:length].encode(), "a.geojson")


@settings(deadline=None)
@given(st.binary(max_size=40) | TEXT.map(str.encode))
def test_any_bytes_are_features_or_one_clear_error(data):
    with contextlib.suppress(InputError):
        assert np.isfinite(parse_geojson(data).points()).all()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(
    value=json_values,
    key=st.sampled_from(
        ["type", "geometry", "properties", "id", "coordinates", "classification", "measurements", "name"]
    ),
    kind=st.sampled_from(["Polygon", "Point", "MultiPolygon", "LineString"]),
)
def test_any_wrong_value_is_read_or_one_clear_error(value, key, kind):
    item = feature({"type": kind, "coordinates": SQUARE["coordinates"]})
    if key == "coordinates":
        item["geometry"][key] = value
    elif key in ("classification", "measurements", "name"):
        item["properties"][key] = value
    else:
        item[key] = value
    with contextlib.suppress(InputError):
        assert np.isfinite(parse([item]).points()).all()


@pytest.mark.parametrize(
    ("content", "where", "found"),
    [
        pytest.param([feature(), {"type": "FeatureCollection"}], "feature 1", "FeatureCollection", id="no_feature"),
        pytest.param([3], "feature 0", "3", id="number"),
        pytest.param([feature({"type": "Circle", "coordinates": []})], "feature 0", "Circle", id="unknown_geometry"),
        pytest.param(
            [feature({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 0]]]})],
            "feature 0",
            "3 points",
            id="ring",
        ),
        pytest.param([feature({"type": "Point", "coordinates": [float("nan"), 1]})], "object 0", "finite", id="nan"),
        # finite, but not in float32
        pytest.param([feature({"type": "Point", "coordinates": [0, 3.4028236e38]})], "object 0", "finite", id="far"),
        pytest.param({"type": "Topology"}, "feature 0", "Topology", id="other_json"),
    ],
)
def test_bad_content_names_the_feature(content, where, found):
    with pytest.raises(InputError) as error:
        parse(content)
    assert error.value.where == f"a.geojson, {where}"
    assert found in str(error.value)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        pytest.param(b"", "the end of the file", id="empty"),
        pytest.param(b"x,y\n1,2", "'x'", id="csv"),
        pytest.param(COMPLETE[:-1].encode(), "the end of the file after 3 features", id="cut_off_late"),
        pytest.param(COMPLETE[:-30].encode(), "after 2 features (is it cut off?)", id="cut_off"),
        pytest.param(COMPLETE.encode() + b"]", "']'", id="more_after_the_end"),
        pytest.param(b'[{"a": "\xff"}]', "utf-8", id="latin1"),
        pytest.param(b"[" * 100_000, "nested", id="deep"),
    ],
)
def test_broken_text(data, found):
    with pytest.raises(InputError) as error:
        parse_geojson(data, "a.geojson")
    assert found in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"gone\.geojson: expected a readable GeoJSON file, found No such file"):
        read_geojson(tmp_path / "gone.geojson")


@pytest.mark.parametrize("bad", [None, shapely.Polygon(), shapely.Point(np.inf, 0)], ids=["none", "empty", "infinite"])
def test_writer_refuses_what_it_cannot_place_and_leaves_nothing(tmp_path, bad):
    path = tmp_path / "a.geojson"
    with pytest.raises(InputError, match="object 1"), GeoJSONWriter(path) as writer:
        writer.write(Features([shapely.Point(0, 0), bad]))
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_old_file(tmp_path):
    path = write_geojson(tmp_path / "a.geojson", Features([shapely.Point(1, 1)]))
    with pytest.raises(InputError), GeoJSONWriter(path) as writer:
        writer.write(Features([shapely.Point(2, 2), None]))
    assert list(tmp_path.iterdir()) == [path]
    assert len(read_geojson(path)) == 1


# ---------------------------------------------------------------------------------------------- outlines and masks

LABELS = arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3))


@settings(deadline=None, max_examples=300)
@given(labels=LABELS, offset=st.tuples(st.integers(-9, 9), st.integers(-9, 9)), scale=st.sampled_from([1, 2, 0.5]))
def test_outlines_are_exact(labels, offset, scale):
    """Valid, of the instance's area, and drawn back as the very pixels: holes, diagonals and parts included."""
    values, polygons = label_map_to_polygons(labels, offset, scale)
    assert values.tolist() == sorted(set(labels.ravel()) - {0})
    assert shapely.is_valid(polygons).all()
    for value, polygon in zip(values, polygons, strict=True):
        own = labels == value
        assert polygon.area == pytest.approx(own.sum() * scale**2, rel=EXACT)
        pixels = shapely.union_all([shapely.box(c, r, c + 1, r + 1) for r, c in np.argwhere(own)])
        pixels = shapely.transform(pixels, lambda xy: xy * scale + offset[::-1])
        assert polygon.symmetric_difference(pixels).area <= EXACT
        assert np.array_equal(polygons_to_mask(np.array([polygon]), labels.shape, offset, scale), own)


@pytest.mark.parametrize(
    ("picture", "holes", "parts"),
    [
        pytest.param(["###", "#.#", "###"], 1, 1, id="ring"),
        pytest.param(["###", "#.#", "##."], 1, 1, id="ring_closed_by_a_corner"),
        pytest.param(["####", "#.##", "##.#", "####"], 2, 1, id="holes_that_touch"),
        pytest.param(["#.", ".#"], 0, 2, id="corner_only"),
        pytest.param(["#####", "#...#", "#.#.#", "#...#", "#####"], 1, 2, id="island_in_a_hole"),
    ],
)
def test_topology(picture, holes, parts):
    labels = np.array([[symbol == "#" for symbol in line] for line in picture]).astype(np.uint8)
    _, (polygon,) = label_map_to_polygons(labels)
    pieces = shapely.get_parts(polygon)
    assert (len(pieces), shapely.get_num_interior_rings(pieces).sum()) == (parts, holes)


def test_no_instances():
    values, polygons = label_map_to_polygons(np.zeros((4, 5), dtype=np.uint16))
    assert len(values) == len(polygons) == 0


def test_outlines_have_corners_only():
    labels = np.zeros((50, 60), dtype=int)
    labels[10:40, 5:50] = 1
    assert len(label_map_to_polygons(labels)[1][0].exterior.coords) == 5


def _star(seed: int, size: int) -> shapely.Polygon:
    """An irregular valid polygon with a hole."""
    rng = np.random.default_rng(seed)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 24))
    radius = rng.uniform(size / 4, size / 2, 24)
    direction = np.column_stack((np.cos(angle), np.sin(angle)))
    shell = shapely.Polygon(direction * radius[:, None] + size / 2)
    return shell.difference(shapely.Point(size / 2, size / 2).buffer(size / 8, quad_segs=4))


def _mask_by_testing_every_centre(geometry, shape, offset=(0, 0), scale=1.0):
    rows, cols = np.indices(shape)
    xy = to_xy(np.stack((rows, cols), -1), offset, scale)
    return shapely.contains_xy(geometry, xy[..., 0], xy[..., 1])


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    offset=st.tuples(st.floats(-20, 20), st.floats(-20, 20)),
    scale=st.floats(0.5, 4),
    flip=st.booleans(),
)
def test_mask_equals_testing_every_pixel_centre(seed, offset, scale, flip):
    polygon = _star(seed, 40)
    if flip:
        polygon = shapely.reverse(polygon)
    mask = polygons_to_mask(np.array([polygon]), (45, 50), offset, scale)
    assert np.array_equal(mask, _mask_by_testing_every_centre(polygon, (45, 50), offset, scale))


def test_mask_area_tends_to_the_polygon_area():
    polygon = _star(3, 400)
    mask = polygons_to_mask(np.array([polygon]), (400, 400))
    assert mask.sum() == pytest.approx(polygon.area, rel=0.01)
    rows, cols = draw_polygon(*(np.array(polygon.exterior.coords).T[::-1] - 0.5), shape=mask.shape)
    shell = np.zeros_like(mask)
    shell[rows, cols] = True
    assert not (mask & ~shell).any()


def test_overlapping_and_nested_polygons_add_up():
    polygons = [shapely.box(0, 0, 6, 6), shapely.box(3, 3, 9, 9), shapely.box(1, 1, 2, 2), _star(1, 12)]
    expected = np.logical_or.reduce([_mask_by_testing_every_centre(p, (12, 12)) for p in polygons])
    assert np.array_equal(polygons_to_mask(np.array(polygons), (12, 12)), expected)


def test_polygons_side_by_side_share_no_pixel_and_leave_none():
    """Their common edge runs through pixel centres."""
    left, right = shapely.box(0, 0, 2.5, 4), shapely.box(2.5, 0, 6, 4)
    masks = [polygons_to_mask(np.array([p]), (4, 6)) for p in (left, right)]
    assert not (masks[0] & masks[1]).any()
    assert (masks[0] | masks[1]).all()
    assert masks[1][:, 2].all(), "the centre on the edge belongs to the polygon whose left side it is"


def test_self_crossing_outline():
    bow_tie = shapely.Polygon([(0, 0), (8, 8), (8, 0), (0, 8)])
    mask = polygons_to_mask(np.array([bow_tie]), (8, 8))
    assert np.array_equal(mask, _mask_by_testing_every_centre(shapely.make_valid(bow_tie), (8, 8)) | mask)
    assert mask.sum() == pytest.approx(32, abs=8)
    assert mask[:, 0].any()
    assert mask[:, -1].any()
    assert not mask[0, 4]


def test_rasterize_channels():
    features = Features(
        [shapely.box(0, 0, 2, 2), shapely.box(1, 1, 4, 3), shapely.box(0, 0, 9, 9), shapely.Point(3, 3)],
        ["a", "b", "other", "a"],
    )
    masks = rasterize(features, (4, 5), ["b", "a", "missing"])
    assert masks.dtype == np.uint8
    assert masks.sum(axis=(1, 2)).tolist() == [6, 4, 0]
    assert np.array_equal(masks[1], np.pad(np.ones((2, 2)), ((0, 2), (0, 3))))
    assert rasterize(features, (4, 5)).all()


def test_a_tile_of_a_slide():
    """Level-0 polygons on a tile of a coarser level: the same pixels as cutting the tile from the whole mask."""
    features = Features([_star(5, 200), _star(6, 200)])
    whole = rasterize(features, (50, 50), scale=4)
    tile = rasterize(features, (20, 30), offset=(10 * 4, 15 * 4), scale=4)
    assert np.array_equal(tile, whole[:, 10:30, 15:45])


def test_nested_collections_are_drawn():
    nested = shapely.GeometryCollection(
        [shapely.GeometryCollection([shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)])])]
    )
    assert polygons_to_mask(np.array([nested]), (1, 3)).tolist() == [[True, False, True]]
    assert len(parse(mapping(nested))) == 1


@pytest.mark.parametrize("at_once", [1, 2, 7])
def test_how_many_come_together_changes_nothing(tmp_path, monkeypatch, at_once):
    boxes = [shapely.box(k, 0, k + 5, 9) for k in range(5)]
    shapes = [*boxes, shapely.Point(3, 4), shapely.LineString([(0, 0), (9, 9)])]
    measured = {"area": [1.0, np.nan, 3.0, np.nan, 5.0, np.nan, 7.0], "late": [*[np.nan] * 6, 2.5]}
    about = {"ids": [f"object {k}" for k in range(7)], "colors": {"a": (1, 2, 3), "c": (9, 8, 7)}}
    objects = Features(shapes, ["a", None, "b", "a", "b", None, "c"], measured, **about)
    path = write_geojson(tmp_path / "a.geojson", objects)
    content = json.loads(path.read_bytes())
    content["features"][5]["id"] = content["features"][1]["id"]  # an id that comes again is dropped
    path.write_text(json.dumps(content))
    whole = read_geojson(path)
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    parts = read_geojson(path)
    assert [shape.wkt for shape in parts.geometry] == [shape.wkt for shape in whole.geometry]
    for name in ("classes", "object_types", "names", "ids"):
        assert getattr(parts, name).tolist() == getattr(whole, name).tolist()
    assert whole.ids[5] is None
    assert parts.colors == whole.colors
    assert parts.measurements.keys() == whole.measurements.keys() == {"area", "late"}
    for name in measured:
        np.testing.assert_array_equal(parts.measurements[name], whole.measurements[name])


def test_an_object_at_fault_has_its_number_in_the_file(tmp_path, monkeypatch):
    path = write_geojson(tmp_path / "a.geojson", Features([shapely.box(k, 0, k + 5, 9) for k in range(5)]))
    path.write_text(path.read_text().replace("[[[8.0,0.0]", "[[[1e999,0.0]", 1).replace("[[[8,0]", "[[[1e999,0]", 1))
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    with pytest.raises(InputError, match=r"a\.geojson, object 3: expected finite coordinates"):
        read_geojson(path)
