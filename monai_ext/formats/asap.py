"""ASAP's XML, in which Camelyon's regions are drawn: read and write.

Coordinates are ``x, y`` in level-0 pixels, counted from the slide's upper left corner as in QuPath's GeoJSON.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ET  # it only writes: defusedxml reads
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

import defusedxml
import numpy as np
import shapely
from defusedxml.ElementTree import parse

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.formats.geojson import Features
from monai_ext.formats.outlines import single_parts, valid_geometry
from monai_ext.formats.roles import Annotated, countable, split_roles

__all__ = ["read_asap", "read_asap_objects", "read_asap_region", "read_xml", "write_asap", "write_asap_objects"]

#: Groups of Camelyon16 (its README), Camelyon17, and of annotations without a group.
_INSIDE = ("_0", "_1", "Tumor", "metastases", "None")
_OUTSIDE = ("_2", "Exclusion", "normal")
#: Groups whose outlines are holes wherever they lie.
_HOLES = ("_2", "Exclusion")
_AREAS = ("polygon", "spline", "rectangle")
_POINTS = ("dot", "pointset")
_LIMIT = 1e9  # no slide is larger
_COLOR = "#F4FA58"


def read_asap(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read all annotations of a file.

    Args:
        path: the XML. A document type is refused, and with it entities that expand or fetch files.

    Returns:
        ``{group: (N,) shapely geometries}`` in the file's order, without a group under ``"None"``. Polygons, splines
        (their corners) and rectangles are polygons, as they were drawn, thus perhaps not valid; areas of fewer than
        three different corners, dots and sets of points are multipoints; everything else, as ASAP's measurements,
        lines.

    Raises:
        InputError: no such file, no ASAP XML, or coordinates that are no numbers; it names the annotation.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import read_asap, write_asap
        >>> path = write_asap(folder / "tumour.xml", {"_0": [shapely.box(10, 20, 30, 40)]})
        >>> {group: [shape.area for shape in shapes] for group, shapes in read_asap(path).items()}
        {'_0': [400.0]}
    """
    groups: dict[str, list] = defaultdict(list)
    for group, kind, xy in _annotations(path):
        groups[group].append(_geometry(kind, xy))
    return {group: np.array(geometries, dtype=object) for group, geometries in groups.items()}


def read_asap_objects(path: str | os.PathLike, areas: bool = True) -> Annotated:
    """Read annotations as objects that can be counted, their groups being their classes.

    What :func:`~monai_ext.formats.roles.read_objects` does with GeoJSON, without types of objects; besides, groups
    ``_2`` and ``Exclusion`` are cut out of the others.

    Args:
        path: the XML.
        areas: only what has an area counts; else dots and points too.

    Raises:
        InputError: as :func:`read_asap`.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import write_asap
        >>> from monai_ext.formats.asap import read_asap_objects
        >>> drawn = {"_0": [shapely.box(0, 0, 100, 100)], "_2": [shapely.box(40, 40, 60, 60)]}
        >>> [tumour] = read_asap_objects(write_asap(folder / "tumour.xml", drawn)).objects.geometry
        >>> tumour.area
        9600.0
    """
    groups, geometry = [], []
    for group, kind, xy in _annotations(path):
        shape = _geometry(kind, xy)
        if kind in _AREAS and shape.geom_type != "Polygon":  # no points: what is left of an area
            shape = shapely.LineString(np.repeat(xy, 2, axis=0))
        groups.append(None if group == "None" else group)
        geometry.append(shape)
    hole = np.isin(np.array(groups, dtype=str), _HOLES)
    drawn = valid_geometry(np.array(geometry, dtype=object))
    if hole.any():
        cut = shapely.union_all(drawn[hole])
        drawn = np.where(shapely.intersects(drawn, cut), shapely.difference(drawn, cut), drawn)
    keep = ~hole & ~shapely.is_empty(drawn)
    features = Features(drawn[keep], classes=np.array(groups, dtype=object)[keep])
    return split_roles(countable(features, path, areas=areas), path)


def read_asap_region(
    path: str | os.PathLike, inside: Iterable[str] = _INSIDE, outside: Iterable[str] = _OUTSIDE
) -> np.ndarray:
    """Read the area that some groups cover and others do not: by default the tumour of a Camelyon slide.

    Camelyon16's README: ``_0`` and ``_1`` are tumour, ``_2`` is what was cut out of them. As in ASAP's own conversion,
    ``_2`` is taken away last.

    Args:
        path: the XML.
        inside: groups of the area.
        outside: groups that are cut out of it.

    Returns:
        ``(N,)`` disjoint valid shapely polygons, ``x, y`` in level-0 pixels.

    Raises:
        InputError: as :func:`read_asap`, and for a group that is in neither list.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import write_asap
        >>> from monai_ext.formats.asap import read_asap_region
        >>> drawn = {"_0": [shapely.box(0, 0, 100, 100)], "_2": [shapely.box(40, 40, 60, 60)]}
        >>> [tumour] = read_asap_region(write_asap(folder / "tumour.xml", drawn))
        >>> tumour.area
        9600.0
    """
    groups = read_asap(path)
    inside, outside = tuple(inside), tuple(outside)
    if unknown := sorted(groups.keys() - {*inside, *outside}):
        raise InputError(path, f"groups among {', '.join((*inside, *outside))}", ", ".join(unknown))
    area, holes = (_union([groups[name] for name in names if name in groups]) for names in (inside, outside))
    return _polygons(shapely.difference(area, holes))


def write_asap(path: str | os.PathLike, groups: Mapping[str, Iterable[shapely.Geometry]]) -> Path:
    """Write polygons; the file appears whole or not at all.

    Args:
        path: the file to write; folders are made as needed.
        groups: ``{group: (multi)polygons}``, ``x, y`` in level-0 pixels. As ASAP has no holes, a polygon with holes
            is cut into several without.

    Returns:
        The path.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import read_asap, write_asap
        >>> ring = shapely.box(0, 0, 100, 100) - shapely.box(40, 40, 60, 60)
        >>> path = write_asap(folder / "ring.xml", {"tumour": [ring]})
        >>> [shape.area for shape in read_asap(path)["tumour"]]
        [4800.0, 4800.0]
    """
    objects = ((group, polygon) for group, each in groups.items() for polygon in _polygons(np.array([*each], object)))
    with atomic_path(path) as temporary:
        write_asap_objects(temporary, objects, groups)
    return Path(path)


def write_asap_objects(
    path: str | os.PathLike, objects: Iterable[tuple[str, shapely.Geometry]], groups: Iterable[str] = ()
) -> None:
    """Write objects as they come: polygons as :func:`write_asap`, points as dots, lines not at all.

    Args:
        path: the file to write.
        objects: the group and the geometry of each; parts of a collection become annotations of their own.
        groups: those to list first, whether they have an object or not.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import read_asap
        >>> from monai_ext.formats.asap import write_asap_objects
        >>> write_asap_objects(folder / "a.xml", [("Mitosis", shapely.Point(3.5, 2.5))])
        >>> [shape.bounds[:2] for shape in read_asap(folder / "a.xml")["Mitosis"]]
        [(3.5, 2.5)]
    """
    listed = dict.fromkeys(groups)
    with Path(path).open("w", encoding="utf-8", newline="\n") as file:
        file.write("<?xml version='1.0' encoding='utf-8'?>\n<ASAP_Annotations>\n\t<Annotations>\n")
        for number, (group, kind, xy) in enumerate(_drawn(objects)):
            listed.setdefault(group)
            attributes = {"Name": f"Annotation {number}", "Type": kind, "PartOfGroup": group, "Color": _COLOR}
            annotation = ET.Element("Annotation", attributes)
            coordinates = ET.SubElement(annotation, "Coordinates")
            for order, (x, y) in enumerate(xy.tolist()):
                ET.SubElement(coordinates, "Coordinate", Order=str(order), X=f"{x!r}", Y=f"{y!r}")
            _write_indented(file, annotation)
        file.write("\t</Annotations>\n\t<AnnotationGroups>\n")
        for group in listed:
            element = ET.Element("Group", Name=group, PartOfGroup="None", Color=_COLOR)
            ET.SubElement(element, "Attributes")
            _write_indented(file, element)
        file.write("\t</AnnotationGroups>\n</ASAP_Annotations>\n")


def _drawn(objects: Iterable[tuple[str, shapely.Geometry]]) -> Iterator[tuple[str, str, np.ndarray]]:
    """Group, type and corners of each annotation."""
    for group, geometry in objects:
        for part in single_parts(np.array([geometry], object))[0]:
            if part.geom_type == "Point":
                yield group, "Dot", shapely.get_coordinates(part)
            elif part.geom_type == "Polygon" and not part.is_empty:
                for simple in _without_holes(part):
                    yield group, "Polygon", shapely.get_coordinates(simple.exterior)[:-1]


def _write_indented(file: IO[str], element: ET.Element) -> None:
    ET.indent(element, "\t", 2)
    file.write(f"\t\t{ET.tostring(element, encoding='unicode')}\n")


def read_xml(path: str | os.PathLike, root: str, program: str) -> ET.Element:
    """The root of an XML file.

    Args:
        path: the file. A document type is refused, and with it entities that expand or fetch files.
        root: the root's tag.
        program: what writes such files, for the error.

    Raises:
        InputError: no such file, no XML, or another root.

    Examples:
        >>> from monai_ext.formats import read_xml, write_asap
        >>> path = write_asap(folder / "empty.xml", {})
        >>> [part.tag for part in read_xml(path, root="ASAP_Annotations", program="ASAP")]
        ['Annotations', 'AnnotationGroups']
    """
    try:
        element = parse(path, forbid_dtd=True).getroot()
    except OSError as error:
        raise InputError(path, "a readable XML file", error.strerror or type(error).__name__) from error
    except (ET.ParseError, defusedxml.DefusedXmlException, LookupError, ValueError) as error:  # LookupError: encoding
        raise InputError(
            path, f"{program} annotations (XML without a document type)", f"{error}".split("\n")[0]
        ) from error
    if element.tag != root:
        raise InputError(path, f"XML of {program} (<{root}>)", f"<{element.tag}>")
    return element


def _annotations(path: str | os.PathLike) -> Iterator[tuple[str, str, np.ndarray]]:
    """Group, type in lower case, and ``(N, 2)`` corners ``x, y`` of each annotation."""
    root = read_xml(path, "ASAP_Annotations", "ASAP")
    for number, annotation in enumerate(root.iter("Annotation")):
        where = f"{path}, annotation {annotation.get('Name') or number}"
        group, kind = annotation.get("PartOfGroup") or "None", annotation.get("Type", "Polygon").lower()
        yield group, kind, _corners(annotation, where)


def _corners(annotation: ET.Element, where: str) -> np.ndarray:
    try:
        points = [
            # some locales of Windows write decimal commas
            (int(c.get("Order", number)), *(float(c.attrib[axis].replace(",", ".")) for axis in "XY"))
            for number, c in enumerate(annotation.iter("Coordinate"))
        ]
    except (KeyError, ValueError) as error:
        raise InputError(where, "coordinates with Order, X and Y", f"{error}") from error
    xy = np.array(sorted(points, key=lambda point: point[0]), dtype=np.float64).reshape(-1, 3)[:, 1:]
    if not len(xy) or not (np.abs(xy) < _LIMIT).all():
        raise InputError(where, "finite coordinates X and Y", "none" if not len(xy) else f"{np.abs(xy).max()}")
    return xy


def _geometry(kind: str, xy: np.ndarray) -> shapely.Geometry:
    if kind not in (*_AREAS, *_POINTS) and len(xy) > 1:
        return shapely.LineString(xy)
    return shapely.Polygon(xy) if kind in _AREAS and len(np.unique(xy, axis=0)) > 2 else shapely.MultiPoint(xy)


def _polygons(geometry: shapely.Geometry | np.ndarray) -> np.ndarray:
    """The polygons in it, those in collections too."""
    parts = shapely.get_parts(shapely.get_parts(geometry))
    return parts[(shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(parts)]


def _union(groups: list[np.ndarray]) -> shapely.Geometry:
    drawn = np.concatenate([np.empty(0, dtype=object), *groups])
    # hand-drawn outlines cross themselves
    return shapely.union_all(_polygons(shapely.make_valid(drawn)))


def _without_holes(polygon: shapely.Polygon) -> Iterator[shapely.Polygon]:
    if not len(polygon.interiors):
        yield polygon
        return
    left, _, right, _ = polygon.interiors[len(polygon.interiors) // 2].bounds
    middle = (left + right) / 2
    low_x, low_y, high_x, high_y = polygon.bounds
    for half in (shapely.box(low_x, low_y, middle, high_y), shapely.box(middle, low_y, high_x, high_y)):
        for part in _polygons(shapely.intersection(polygon, half)):
            yield from _without_holes(part)
