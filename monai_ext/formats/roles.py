"""Which objects of an annotation count, and which are regions around them.

QuPath's files hold detections and cells, and the annotations and cores of a tissue microarray that those were looked
for in; or annotations alone, which people drew around nuclei, vessels or tumours. Every reader of objects asks here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely

from monai_ext.base.errors import InputError
from monai_ext.formats.annotation_files import read_features
from monai_ext.formats.geojson import Features, parse_geojson
from monai_ext.formats.outlines import valid_areas

__all__ = [
    "Annotated",
    "countable",
    "labelling",
    "read_areas",
    "read_objects",
    "split_parts",
    "split_roles",
    "units",
    "with_nuclei",
]

_POINT, _MULTIPOINT, _MULTIPOLYGON = 0, 4, 6  # shapely's type numbers
_SMALLER = 1 - 1e-6  # less is rounding: the same outline twice, repaired in two ways
_FAR = 2.5  # times its widest part's diagonal: as of two equal squares with more than one square's side between them


class Annotated(NamedTuple):
    """What an annotation holds.

    Attributes:
        objects: what counts.
        regions: what was drawn around objects, to say where they were looked for.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.roles import split_roles
        >>> annotated = split_roles(Features([shapely.box(0, 0, 9, 9)], object_types="tmaCore"))
        >>> len(annotated.objects), len(annotated.regions)
        (0, 1)
    """

    objects: Features
    regions: Features


def read_objects(
    path: str | os.PathLike,
    *,
    nuclei: bool = False,
    split: bool = False,
    areas: bool = True,
    data: bytes | None = None,
    slide: str | os.PathLike | None = None,
) -> Annotated:
    """Read GeoJSON, or annotations or a segmentation in DICOM, as objects that can be counted and regions around them.

    See :func:`countable` for what is an object's outline and :func:`split_roles` for what is an object.

    Args:
        path: the file.
        nuclei: take the outline of the nucleus where an object has one besides its own (QuPath's cells).
        split: every part of a MultiPolygon is an object of its own.
        areas: only what has an area counts; else points do too, and of an object that is marked by a point and
            outlined besides the point.
        data: what the file holds, where it was read already.
        slide: see :func:`~monai_ext.formats.annotation_files.read_features`.

    Returns:
        The objects and the regions, in the file's order.

    Raises:
        InputError: as :func:`~monai_ext.formats.annotation_files.read_features`.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features, read_objects, write_geojson
        >>> outlines = [shapely.box(0, 0, 100, 100), shapely.box(10, 10, 20, 20), shapely.box(30, 30, 40, 40)]
        >>> kinds = ["annotation", "detection", "detection"]
        >>> path = write_geojson(folder / "cells.geojson", Features(outlines, object_types=kinds))
        >>> objects, regions = read_objects(path)
        >>> len(objects), len(regions)
        (2, 1)
    """
    features = read_features(path, slide) if data is None else parse_geojson(data, path)
    objects, regions = split_roles(countable(features, path, split, areas), path)
    if nuclei:
        objects = with_nuclei(objects)
    _warn_of_parts(objects, path)
    return Annotated(objects, regions)


def countable(features: Features, where: str | os.PathLike, split: bool = False, areas: bool = True) -> Features:
    """Features with geometries that can be measured: valid, without parts of no use, and none without an area.

    Outlines that cross themselves are made valid. Of what has an area and lines or points besides (GeometryCollections)
    the areas count. Lines, and polygons without an area, are left out, with one message.

    Args:
        features: as they were drawn.
        where: the file, for the message.
        split: every part of a MultiPolygon becomes an object of its own; the first keeps the id.
        areas: points are left out too, without a message.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.roles import countable
        >>> pair = shapely.GeometryCollection([shapely.box(0, 0, 2, 2), shapely.Point(99, 99)])
        >>> ruler = shapely.LineString([(0, 0), (5, 5)])
        >>> [shape.bounds for shape in countable(Features([pair, ruler]), "a.geojson").geometry]
        [(0.0, 0.0, 2.0, 2.0)]
    """
    geometry = valid_areas(features.geometry)
    features = replace(features, geometry=geometry)
    points = np.isin(shapely.get_type_id(geometry), (_POINT, _MULTIPOINT))
    flat = ~points & ~(shapely.area(geometry) > 0)
    if flat.any():
        _say(where, f"lines and outlines without an area, left out: {int(flat.sum())}")
    keep = ~flat & ~points if areas else ~flat
    features = features if keep.all() else features[keep]
    return split_parts(features) if split else features


def split_parts(features: Features) -> Features:
    """Every part of a MultiPolygon as an object of its own, with its class and measurements; the first keeps the id.

    Cells that have a nucleus are one each.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.roles import split_parts
        >>> pair = shapely.MultiPolygon([shapely.box(0, 0, 2, 2), shapely.box(50, 50, 53, 53)])
        >>> split_parts(Features([pair], classes="Tumor")).classes.tolist()
        ['Tumor', 'Tumor']
    """
    several = (shapely.get_type_id(features.geometry) == _MULTIPOLYGON) & shapely.is_missing(features.nuclei)
    if not several.any():
        return features
    parts, part_of = shapely.get_parts(features.geometry[several], return_index=True)
    owner = np.concatenate([np.flatnonzero(~several), np.flatnonzero(several)[part_of]])
    order = np.argsort(owner, kind="stable")
    geometry, owner = np.concatenate([features.geometry[~several], parts])[order], owner[order]
    chosen = replace(features[owner], geometry=geometry)
    chosen.ids[np.diff(owner, prepend=-1) == 0] = None
    return chosen


def split_roles(features: Features, where: str | os.PathLike | None = None) -> Annotated:
    """Tell the objects that count from the regions around them.

    - Where there are detections or cells, those are the objects; else tiles; else annotations.
    - A detection inside a cell, or nested in another detection, is a part of it (a spot), and neither.
    - An annotation is a region where objects are of another type, where the file nests others in it, where it encloses
      others, and where its class ends in ``*``, as QuPath's ``Region*`` and ``Ignore*`` do. Cores of tissue microarrays
      are always regions, of tiles besides cells nothing is kept.
    - Annotated points are always objects; of what is outlined around one the point counts.

    Args:
        features: of a whole file, see :func:`countable`.
        where: the file: a message tells of annotations that are taken for regions on account of their position alone,
            and of those beside detections that have no object in them. None for no message.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.roles import split_roles
        >>> outlines = [shapely.box(0, 0, 50, 50), shapely.box(10, 10, 20, 20), shapely.box(70, 70, 80, 80)]
        >>> objects, regions = split_roles(Features(outlines))
        >>> [shape.area for shape in objects.geometry], [shape.area for shape in regions.geometry]
        ([100.0, 100.0], [2500.0])
    """
    kinds, geometry = features.object_types, features.geometry
    detected, tiles = np.isin(kinds, ("cell", "detection")), kinds == "tile"
    cores = np.isin(kinds, ("tmaCore", "root"))
    drawn = ~(detected | tiles | cores)
    ignored = _ignored(features)
    points = drawn & ~ignored & np.isin(shapely.get_type_id(geometry), (_POINT, _MULTIPOINT))
    around = drawn & ~points
    if detected.any() or tiles.any():
        objects = detected & ~_parts_of_cells(features, detected) if detected.any() else tiles
        marked = np.flatnonzero(objects)
        objects[marked[_enclosing(geometry[marked], geometry[points])]] = False
        regions = around | cores
        empty = np.flatnonzero(around)
        empty = empty[~_enclosing(geometry[empty], shapely.centroid(geometry[objects]))]
        _say(where, f"annotations taken for regions though no detection lies in them: {len(empty)}", len(empty))
    else:
        flagged = ignored | features.parents
        candidates = np.flatnonzero(around & ~flagged)
        inner = geometry[drawn & ~ignored]
        enclosing = candidates[_enclosing(geometry[candidates], inner)]
        regions = (around & flagged) | cores
        regions[enclosing] = True
        objects = (points | around) & ~regions
        _say(where, f"annotations taken for regions as they enclose others: {len(enclosing)}", len(enclosing))
    return Annotated(features[objects | points], features[regions])


def with_nuclei(features: Features) -> Features:
    """Objects with the outline of the nucleus, made valid, in place of their own, where they have one with an area.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.roles import with_nuclei
        >>> cell, nucleus = shapely.box(0, 0, 9, 9), shapely.box(3, 3, 5, 5)
        >>> [shape.area for shape in with_nuclei(Features([cell, cell], nuclei=[nucleus, None])).geometry]
        [4.0, 81.0]
    """
    nuclei = valid_areas(features.nuclei)
    return replace(features, nuclei=np.where(shapely.area(nuclei) > 0, nuclei, None)).with_nuclei()


def units(geometry: np.ndarray) -> np.ndarray:
    """The object that each geometry belongs to: an outline to the point in it, all others to themselves.

    A detection is written as a point and, where there is a blob, its outline. Of a bent blob the point may lie beside
    it. What encloses several points is a region around them, and belongs to none.

    Args:
        geometry: ``(N,)`` of a whole file.

    Returns:
        ``(N,)`` places in it.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats.roles import units
        >>> units(np.array([shapely.box(0, 0, 9, 9), shapely.box(20, 0, 29, 9), shapely.Point(4, 4)])).tolist()
        [2, 1, 2]
    """
    unit, kinds = np.arange(len(geometry)), shapely.get_type_id(geometry)
    points, outlines = np.flatnonzero(kinds == _POINT), np.flatnonzero(kinds > _POINT)
    if not len(points) or not len(outlines):
        return unit
    boxes = shapely.box(*shapely.bounds(geometry[outlines]).reshape(-1, 4).T)  # a bent blob's point is beside it
    outline, point = shapely.STRtree(geometry[points]).query(boxes, predicate="intersects")
    shapes, places = geometry[outlines[outline]], geometry[points[point]]
    inside = shapely.intersects(shapes, places)
    apart = shapely.distance(shapely.centroid(shapes), places)
    best = np.lexsort((apart, ~inside, outline))  # a neighbour's point may lie in the box too
    first = best[np.unique(outline[best], return_index=True)[1]]
    alone = np.bincount(outline[inside], minlength=len(outlines))[outline[first]] <= 1
    unit[outlines[outline[first][alone]]] = points[point[first][alone]]
    return unit


def labelling(features: Features, nuclei: bool = False) -> Features:
    """What of an annotation says which class a nucleus has that it covers.

    Where there are detections or cells, those alone; else annotations of any size, a region around others too: of
    several that cover a nucleus, :func:`~monai_ext.data.nucleus_extraction.nucleus_labels` takes the closest.

    Args:
        features: of a whole file, see :func:`countable`.
        nuclei: see :func:`read_objects`.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.roles import labelling
        >>> tumour, cell = shapely.box(0, 0, 50, 50), shapely.box(10, 10, 20, 20)
        >>> drawn = Features([tumour, cell], classes=["Tumor", "Immune"])
        >>> detected = Features([tumour, cell], ["Tumor", "Immune"], object_types=["annotation", "detection"])
        >>> labelling(drawn).classes.tolist(), labelling(detected).classes.tolist()
        (['Tumor', 'Immune'], ['Immune'])
    """
    if np.isin(features.object_types, ("cell", "detection", "tile")).any():
        objects = split_roles(features).objects
        return with_nuclei(objects) if nuclei else objects
    return features[~np.isin(features.object_types, ("tmaCore", "root"))]


def read_areas(
    path: str | os.PathLike, classes: Sequence[str] | None = None, slide: str | os.PathLike | None = None
) -> Features:
    """Read the areas that people drew around tissue, such as tumour.

    Annotations, not the detections in them, where a file has both; cores of tissue microarrays are none. An annotation
    without a class, or one that QuPath ignores (``Region*``), around others that have one is left out.

    Args:
        path: GeoJSON, or annotations or a segmentation in DICOM.
        classes: names of the classifications that count; None for all.
        slide: see :func:`~monai_ext.formats.annotation_files.read_features`.

    Returns:
        Valid areas, in the file's order.

    Raises:
        InputError: the file cannot be read, or areas lie in areas of another class and ``classes`` does not say which.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features, write_geojson
        >>> from monai_ext.formats.roles import read_areas
        >>> outlines = [shapely.box(0, 0, 100, 100), shapely.box(10, 10, 60, 60), shapely.box(20, 20, 30, 30)]
        >>> kinds = ["annotation", "annotation", "detection"]
        >>> features = Features(outlines, [None, "Tumor", None], object_types=kinds)
        >>> path = write_geojson(folder / "tumour.geojson", features)
        >>> [shape.area for shape in read_areas(path).geometry]
        [2500.0]
    """
    features = countable(read_features(path, slide), path)
    drawn = features.object_types == "annotation"
    features = features[drawn] if drawn.any() else split_roles(features, path).objects
    if classes is not None:
        return features.of_classes(classes)
    features = features[~_ignored(features)]
    named = ~np.equal(features.classes, None).astype(bool)
    around = ~named & _enclosing(features.geometry, features.geometry[named])
    features = features[~around]
    outer, inner = _enclosed_pairs(features.geometry, features.geometry)
    for one, other in zip(features.classes[outer], features.classes[inner], strict=True):
        if None not in (one, other) and one != other:
            problem = f"{other} inside {one}; --classes says which count"
            raise InputError(path, "areas that do not lie in areas of another class", problem)
    return features


def _ignored(features: Features) -> np.ndarray:
    """Which objects have a class that QuPath ignores."""
    return np.array([name is not None and name.endswith("*") for name in features.classes], dtype=bool)


def _parts_of_cells(features: Features, detected: np.ndarray) -> np.ndarray:
    """Which detections lie inside a cell, or a detection that the file nests others in."""
    cells = features.object_types == "cell"
    hosts = np.flatnonzero(cells | (detected & features.parents))
    guests = np.flatnonzero(detected & ~cells)
    parts = np.zeros(len(features), dtype=bool)
    if not len(hosts) or not len(guests):
        return parts
    guest, host = shapely.STRtree(features.geometry[hosts]).query(
        shapely.centroid(features.geometry[guests]), predicate="intersects"
    )
    area = shapely.area(features.geometry)
    parts[guests[guest[area[guests[guest]] < _SMALLER * area[hosts[host]]]]] = True
    return parts


def _enclosing(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Which geometries have a smaller one, or a point, wholly inside."""
    # of multipoints each point: an annotation of QuPath's may be strewn over the slide
    several = shapely.get_type_id(inner) == _MULTIPOINT
    inner = np.concatenate([inner[~several], shapely.get_parts(inner[several])])
    return np.isin(np.arange(len(outer)), _enclosed_pairs(outer, inner)[0])


def _enclosed_pairs(outer: np.ndarray, inner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of an area and of what is smaller and wholly inside."""
    area = shapely.area(outer)
    candidates = np.flatnonzero(area > 0)
    if not len(candidates) or not len(inner):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    boxes, inner_boxes = shapely.bounds(outer), shapely.bounds(inner)
    small, large = shapely.STRtree(outer[candidates]).query(inner)
    large = candidates[large]
    fits = (inner_boxes[small, :2] >= boxes[large, :2]).all(axis=1)
    fits &= (inner_boxes[small, 2:] <= boxes[large, 2:]).all(axis=1)
    fits &= shapely.area(inner)[small] < _SMALLER * area[large]
    small, large = small[fits], large[fits]
    shapely.prepare(outer[np.unique(large)])
    inside = shapely.covers(outer[large], inner[small])
    return large[inside], small[inside]


def _warn_of_parts(objects: Features, where: str | os.PathLike) -> None:
    """Tell of MultiPolygons whose parts lie so far apart that they may be objects of their own."""
    several = objects.geometry[shapely.get_type_id(objects.geometry) == _MULTIPOLYGON]
    if not len(several):
        return
    parts, owner = shapely.get_parts(several, return_index=True)
    widest = np.zeros(len(several))
    np.maximum.at(widest, owner, _diagonal(parts))
    far = _diagonal(several) >= _FAR * widest
    if far.any():
        text = f"objects of several parts far apart, one each: {int(far.sum())}, of {int(far[owner].sum())} parts"
        _say(where, f"{text} (split_parts makes each part an object)")


def _diagonal(geometry: np.ndarray) -> np.ndarray:
    left, top, right, bottom = shapely.bounds(geometry).T
    return np.hypot(right - left, bottom - top)


def _say(where: str | os.PathLike | None, text: str, count: int = 1) -> None:
    if where is not None and count:
        _say_once(f"{Path(where)}: {text}")


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)
