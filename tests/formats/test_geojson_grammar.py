"""GeoJSON as QuPath 0.2 to 0.6 may write it, drawn at random, against a slow and obvious reading of the same.

``GEOJSON_CASES=10000 python -m pytest tests/formats/test_geojson_grammar.py`` tries so many files.
"""

from __future__ import annotations

import gzip
import json
import os

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shapely.geometry import mapping, shape

from monai_ext.formats.geojson import parse_geojson
from monai_ext.formats.roles import read_objects

CASES = int(os.environ.get("GEOJSON_CASES", "40"))
STYLES = ("0.2", "0.3", "0.4", "0.6", "alias", "none")
KINDS = {  # of objects, as each version writes them
    "annotation": ("PathAnnotationObject", "annotation"),
    "detection": ("PathDetectionObject", "detection"),
    "cell": ("PathCellObject", "cell"),
    "tile": ("PathTileObject", "tile"),
    "tmaCore": ("TMACoreObject", "tmaCore"),
}
SMALLER = 1 - 1e-6  # times an area: less is rounding
EXACT = 1e-6  # px2, px

whole = st.integers(-40, 40)
sides = st.integers(1, 30)
boxes = st.builds(lambda x, y, w, h: shapely.box(x, y, x + w, y + h), whole, whole, sides, sides)
regions = st.builds(
    lambda x, y, w, h: shapely.box(x, y, x + w, y + h), whole, whole, st.integers(30, 90), st.integers(30, 90)
)
rings = boxes.map(lambda box: box - shapely.box(*box.centroid.buffer(min(box.length / 16, 2)).bounds))
crossing = st.lists(st.tuples(whole, whole), min_size=4, max_size=6, unique=True).map(shapely.Polygon)
points = st.builds(shapely.Point, whole, whole)
lines = st.lists(st.tuples(whole, whole), min_size=2, max_size=3, unique=True).map(shapely.LineString)
multipolygons = st.lists(boxes, min_size=1, max_size=3).map(shapely.MultiPolygon)  # parts may overlap
multipoints = st.lists(points, min_size=1, max_size=3).map(shapely.MultiPoint)
simple = st.one_of(boxes, boxes, regions, rings, crossing, points, lines, multipolygons, multipoints)
collections = st.lists(simple, min_size=1, max_size=3).map(shapely.GeometryCollection)
geometries = st.one_of(simple, simple, simple, collections)

decorations = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(st.text(max_size=3), st.integers(), st.none()),
        "isLocked": st.booleans(),
        "isMissing": st.booleans(),
        "color": st.one_of(st.integers(-(2**31), 0), st.just("#ff0000"), st.lists(st.floats(0, 1), max_size=4)),
        "metadata": st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2),
        "measurements": st.one_of(
            st.dictionaries(st.text(max_size=2), st.one_of(st.floats(), st.none(), st.text(max_size=2)), max_size=2),
            st.lists(st.fixed_dictionaries({"name": st.text(max_size=2), "value": st.floats()}), max_size=2),
        ),
    },
)
colours = st.one_of(
    st.none(), st.integers(-(2**31), 2**31), st.just("#12ab9f"), st.lists(st.integers(0, 255), min_size=3, max_size=4)
)
classes = st.one_of(
    st.none(),
    st.sampled_from(["Tumor", "Stroma: Positive", "Region*"]),
    st.builds(lambda color: {"name": "Tumor", "color": color}, colours),
    st.builds(lambda color: {"name": "Ignore*", "colorRGB": color}, colours),
    st.just({"names": ["Tumor", "Positive"]}),
)


class Thing:
    """An object of a drawn file."""

    def __init__(self, geometry, kind, style, classification, nucleus, properties, children, dimensions):
        self.geometry, self.kind, self.classification = geometry, kind, classification
        self.nucleus, self.children = nucleus if kind == "cell" else None, children
        self.style, self.properties, self.dimensions = style, properties, dimensions
        if style == "none":
            self.kind = "annotation"
            self.nucleus = None

    def json(self):
        old, new = KINDS[self.kind]
        properties = dict(self.properties)
        key = {"0.3": "object_type", "0.4": "objectType", "0.6": "objectType", "alias": "type"}.get(self.style)
        if key:
            properties[key] = "tma_core" if (self.kind, self.style) == ("tmaCore", "0.3") else new
        if self.classification is not None:
            properties["classification"] = self.classification
        if self.children:
            properties["children" if self.style == "alias" else "childObjects"] = [c.json() for c in self.children]
        feature = {
            "type": "Feature",
            "geometry": deep(mapping(self.geometry), self.dimensions),
            "properties": properties,
        }
        if self.style == "0.2":
            feature["id"] = old
        if self.nucleus is not None:
            feature["nucleusGeometry"] = mapping(self.nucleus)
        return feature

    def name(self):
        value = self.classification
        if isinstance(value, dict):
            value = value.get("name") or ": ".join(value["names"])
        return value

    def all(self):
        """Itself, what is nested in it after it."""
        return [self, *(inner for child in self.children for inner in child.all())]


def deep(geometry, dimensions):
    """The same GeoJSON with a third coordinate."""
    if "geometries" in geometry:
        return {**geometry, "geometries": [deep(part, dimensions) for part in geometry["geometries"]]}

    def add(value):
        return [*value, 5.0][:dimensions] if isinstance(value[0], int | float) else [add(part) for part in value]

    return {**geometry, "coordinates": add(geometry["coordinates"])}


def things(style):
    def build(children):
        return st.builds(
            Thing,
            geometries,
            st.sampled_from(list(KINDS)),
            st.just(style),
            classes,
            st.one_of(st.none(), boxes),
            decorations,
            children,
            st.sampled_from([2, 2, 3]),
        )

    return st.recursive(build(st.just([])), lambda inner: build(st.lists(inner, max_size=3)), max_leaves=6)


@st.composite
def files(draw):
    """The objects of a file, and its bytes."""
    drawn = draw(st.lists(things(draw(st.sampled_from(STYLES))), max_size=5))
    # half of the files hold one type, as people export them
    if draw(st.booleans()):
        kind = draw(st.sampled_from(["annotation", "detection"]))
        for thing in (inner for outer in drawn for inner in outer.all()):
            thing.kind, thing.nucleus = kind if thing.style != "none" else "annotation", None
    features = [thing.json() for thing in drawn]
    collection = {"type": "FeatureCollection", "features": features}
    root = {"type": "Feature", "geometry": None, "properties": {"objectType": "root", "childObjects": features}}
    content = draw(st.sampled_from([features, collection, [collection], root, [root], {"root": root}, "lines"]))
    if content == "lines" and features:
        data = "\n".join(map(json.dumps, features)).encode()
    else:
        data = json.dumps(features if content == "lines" else content, indent=draw(st.sampled_from([None, 1]))).encode()
    return [inner for outer in drawn for inner in outer.all()], gzip.compress(data) if draw(st.booleans()) else data


# ------------------------------------------------------------------------------------------------- the obvious reading


def polygons(geometry):
    if geometry.geom_type == "Polygon":
        return [geometry] if geometry.area > 0 else []
    return [polygon for part in getattr(geometry, "geoms", ()) for polygon in polygons(part)]


def is_point(geometry):
    return geometry.geom_type in ("Point", "MultiPoint")


def usable(geometry):
    """A geometry that can be measured; None where none can."""
    geometry = shapely.make_valid(geometry)
    if is_point(geometry):
        return geometry
    areas = polygons(geometry)
    return shapely.union_all(areas) if areas else None


def encloses(outer, inner):
    """Whether something smaller lies wholly in an area."""
    if is_point(outer):
        return False
    parts = inner.geoms if inner.geom_type == "MultiPoint" else [inner]
    return any(outer.covers(part) and part.area < SMALLER * outer.area for part in parts)


def expected(drawn, areas):
    """Indices of the objects and the regions of a file, one object after another."""
    usables = {i: usable(thing.geometry) for i, thing in enumerate(drawn)}
    usables = {i: g for i, g in usables.items() if g is not None and not (areas and is_point(g))}
    kind = {i: drawn[i].kind for i in usables}
    ignored = {i for i in usables if (drawn[i].name() or "").endswith("*")}
    annotations = [i for i in usables if kind[i] == "annotation"]
    marks = [i for i in annotations if is_point(usables[i]) and i not in ignored]
    outlined = [i for i in annotations if i not in marks]
    cores = [i for i in usables if kind[i] == "tmaCore"]
    detected = [i for i in usables if kind[i] in ("detection", "cell")]
    tiles = [i for i in usables if kind[i] == "tile"]

    def nests(i):
        wide = ("Polygon", "MultiPolygon", "GeometryCollection")
        return any(child.geometry.geom_type in wide for child in drawn[i].children)

    if detected or tiles:
        counted = detected or tiles
        hosts = [i for i in detected if kind[i] == "cell" or nests(i)]
        spots = {
            i
            for i in detected
            for host in hosts
            if kind[i] == "detection"
            and usables[i].area < SMALLER * usables[host].area
            and usables[host].intersects(usables[i].centroid)
        }
        counted = [i for i in counted if i not in spots]
        counted = [i for i in counted if not any(encloses(usables[i], usables[j]) for j in marks)]
        return sorted([*counted, *marks]), sorted([*outlined, *cores])
    shown = [i for i in annotations if i not in ignored]
    around = {
        i
        for i in outlined
        if i in ignored or nests(i) or any(encloses(usables[i], usables[j]) for j in shown if i != j)
    }
    return sorted([*marks, *(i for i in outlined if i not in around)]), sorted([*around, *cores])


# --------------------------------------------------------------------------------------------------------------- tests


@settings(deadline=None, max_examples=CASES, suppress_health_check=list(HealthCheck))
@given(files())
@pytest.mark.slow
def test_every_object_is_read_as_it_is_written(file):
    drawn, data = file
    features = parse_geojson(data)
    assert len(features) == len(drawn)
    for thing, geometry, kind, name, nucleus in zip(
        drawn, features.geometry, features.object_types, features.classes, features.nuclei, strict=True
    ):
        assert (kind, name) == (thing.kind, thing.name())
        assert shapely.equals_exact(geometry, shape(mapping(thing.geometry)), tolerance=0)
        assert (nucleus is None) == (thing.nucleus is None)
    assert all(len(color) == 3 and all(0 <= part <= 255 for part in color) for color in features.colors.values())


@settings(deadline=None, max_examples=CASES, suppress_health_check=list(HealthCheck))
@given(files(), st.booleans())
@pytest.mark.parametrize("nuclei", [False, True])
@pytest.mark.slow
def test_objects_and_regions_are_the_obvious_ones(nuclei, file, areas):
    drawn, data = file
    counted, regions = read_objects("a.geojson", nuclei=nuclei, areas=areas, data=data)
    objects, around = expected(drawn, areas)
    for indices, features in ((objects, counted), (around, regions)):
        wanted = [usable(drawn[i].geometry) for i in indices]
        if nuclei and indices is objects:
            wanted = [drawn[i].nucleus or geometry for i, geometry in zip(indices, wanted, strict=True)]
        assert features.classes.tolist() == [drawn[i].name() for i in indices]
        assert shapely.is_valid(features.geometry).all()
        assert np.allclose(
            shapely.bounds(features.geometry).reshape(-1, 4), [g.bounds for g in wanted] or np.empty((0, 4))
        )
        assert np.allclose(shapely.area(features.geometry), [g.area for g in wanted], atol=EXACT)
        centres = [
            (p.y - 0.5, p.x - 0.5) for g in wanted for p in (shapely.get_parts(g) if is_point(g) else [g.centroid])
        ]
        assert np.allclose(features.points(), np.reshape(centres, (-1, 2)), atol=1e-3)


@settings(deadline=None, max_examples=CASES, suppress_health_check=list(HealthCheck))
@given(files())
def test_split_parts_are_the_polygons(file):
    drawn, data = file
    counted = read_objects("a.geojson", data=data).objects
    split = read_objects("a.geojson", data=data, split=True).objects
    assert not (shapely.get_type_id(split.geometry[shapely.is_missing(split.nuclei)]) == 6).any()
    if all(thing.kind in ("cell", "detection") and not thing.children for thing in drawn) and not any(
        thing.kind == "cell" for thing in drawn
    ):
        assert shapely.area(split.geometry).sum() == pytest.approx(shapely.area(counted.geometry).sum(), abs=EXACT)
        assert len(split) == sum(len(polygons(geometry)) for geometry in counted.geometry)
