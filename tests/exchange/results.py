"""Results for other programs, and what those read back."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import strategies as st

from monai_ext.exchange import Exchange, Results
from monai_ext.formats import Features, label_map_to_polygons, write_geojson

SHAPE, MPP = (40, 60), (0.25, 0.25)
CLASSES = ("Tumor", "nonTIL_stromal", "Nucleus", "a <b> & 'c'")
names = st.sampled_from([*CLASSES, None])


@st.composite
def objects(draw, points: bool = True, aligned: bool = False) -> Features:
    """Outlines with holes, some of several parts, at fractions of px unless aligned, and points; each with a class."""
    size = 12
    bits = draw(st.lists(st.integers(0, 3), min_size=size * size, max_size=size * size))
    if aligned:  # on the grid of the px, and inside of the image
        scale, offset = draw(st.sampled_from([1.0, 2.0, 3.0])), draw(st.tuples(st.integers(0, 4), st.integers(0, 24)))
    else:
        scale, offset = draw(st.sampled_from([1.0, 2.5, 3.0])), draw(st.tuples(st.integers(0, 9), st.floats(0, 20)))
    geometry = [*label_map_to_polygons(np.reshape(bits, (size, size)), offset, scale)[1]]
    if points:
        geometry += [
            shapely.Point(xy) for xy in draw(st.lists(st.tuples(st.floats(0, 60), st.floats(0, 40)), max_size=3))
        ]
    geometry = geometry or [shapely.box(0, 0, 1, 1)]
    classes = [draw(names) for _ in geometry]
    scores = [draw(st.sampled_from([np.nan, 0.25, 1.0])) for _ in geometry]
    return Features(geometry, classes=classes, measurements={"score": scores}, object_types="detection")


def results_of(folder, features: Features, **known) -> Results:
    known = {"shape": SHAPE, "mpp": MPP} | known
    return Results(write_geojson(folder / "a.geojson", features), "a", **known)


def written(folder, features: Features, name: str, **known):
    """The files of a format."""
    return Exchange([name]).write(results_of(folder, features, **known), folder / "a")


def parts(geometry, classes, values=None):
    """Of each polygon and point of all objects: class, kind, area, centroid and holes; the same for equal results."""
    rows = []
    for shape, name in zip(geometry, classes, strict=True):
        for part in shapely.get_parts(shapely.get_parts([shape])):
            if part.geom_type in ("Polygon", "Point"):
                holes = len(part.interiors) if part.geom_type == "Polygon" else 0
                centre = tuple(round(value, 3) for value in (part.centroid.x, part.centroid.y))
                rows.append((name or "object", part.geom_type, round(part.area, 3), centre, holes))
    return sorted(rows)
