"""Microscopy Bulk Simple Annotations of DICOM (PS3.3, A.87 and C.37.1), as the objects that GeoJSON has.

The Imaging Data Commons publishes nuclei in this form. Layout as ``highdicom.ann`` (0.28) writes and reads it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from monai_ext.base.errors import InputError
from monai_ext.formats.dicom import (
    ANNOTATION_CLASS,
    SlideFrame,
    read_dicom,
    referenced_images,
    referenced_series,
    stated,
)
from monai_ext.formats.geojson import Features, join_features

__all__ = ["read_dicom_annotations"]

_CIRCLE = 16  # segments in a quarter of an ellipse
_FLAT = 1e-3  # mm; what lies further apart is in several focal planes
_CORNERS = {"POINT": 1, "RECTANGLE": 4, "ELLIPSE": 4}
_NO_UNIT = ("1", "{counts}", "{ratio}")


def read_dicom_annotations(path: str | os.PathLike, frame: SlideFrame | None = None) -> Features:
    """Read the objects of a DICOM annotation of a slide, all groups of it.

    Points, polylines, polygons, rectangles and ellipses (polygons of 64 corners) become geometries in level-0 pixels,
    as QuPath counts them: ``x, y`` from the upper left corner of the first pixel. Places are stored either in pixels of
    one image of the slide (2D; of a coarser one they are scaled) or in mm on the glass (3D; Z has no use here, but
    must be the same for all). The coded type of a group's property (``Nucleus``) is the class of its objects, the
    group's label their name; what a person drew are annotations, the rest detections. Measurements are called after
    their concept and unit, such as ``Area um2``.

    Args:
        path: the file.
        frame: the slide that it is of. Without it 2D places are taken as they are, and 3D ones refused.

    Returns:
        Its objects, group by group, as :func:`~monai_ext.formats.geojson.read_geojson` returns them.

    Raises:
        InputError: when pydicom is not installed, the file is damaged or no such annotation, belongs to another slide
            or coordinate system, or its numbers do not fit; it names the group.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats import read_dicom_annotations
        >>> try:
        ...     read_dicom_annotations(folder / "nuclei.dcm")
        ... except InputError as error:
        ...     print(error.expected, "-", error.found)
        a DICOM file - no such file
    """
    data = read_dicom(path)
    with stated(path):
        if str(data.SOPClassUID) != ANNOTATION_CLASS:
            raise InputError(path, "Microscopy Bulk Simple Annotations", f"SOP class {data.SOPClassUID}")
        place, dimensions = _placing(data, Path(path), frame)
        groups = list(data.AnnotationGroupSequence)
    parts = []
    for group in groups:
        where = f"{path}, group {getattr(group, 'AnnotationGroupNumber', '?')}"
        with stated(where):
            parts.append(_group(group, dimensions, place, where))
    return join_features(*parts)


def _placing(data: Any, path: Path, frame: SlideFrame | None) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """How stored places become level-0 pixels, and their dimensions."""
    kind = str(data.AnnotationCoordinateType)
    if kind == "3D":
        if frame is None:
            raise InputError(path, "the slide of places in mm", "none given")
        reference = str(data.FrameOfReferenceUID)
        if reference != frame.frame_of_reference:
            expected = f"the frame of reference of {frame.path}, {frame.frame_of_reference or 'which has none'}"
            raise InputError(path, expected, reference)
        return frame.to_xy, 3
    if kind != "2D":
        raise InputError(path, "places in 2D or 3D", repr(kind))
    origin = str(getattr(data, "PixelOriginInterpretation", "VOLUME"))
    if origin != "VOLUME":
        raise InputError(path, "pixels counted over the whole slide (VOLUME)", f"within a {origin.lower()}")
    if frame is None and referenced_images(data):
        _warn_of_no_slide(path)
    scale = np.ones(2) if frame is None else _scale(data, path, frame)
    return lambda points: points * scale, 2


@cache
def _warn_of_no_slide(path: Path) -> None:
    """Say, a single time for a file, that its slide's size is unknown: it is in no annotation."""
    warnings.warn(f"{path}: its slide is not at hand: places are taken as pixels of full resolution", stacklevel=3)


def _scale(data: Any, path: Path, frame: SlideFrame) -> np.ndarray:
    """Level-0 pixels per pixel of the image that the places are counted in, x and y."""
    images = referenced_images(data)
    sizes = {frame.instances[uid] for uid in images if uid in frame.instances}
    if len(sizes) > 1:
        raise InputError(path, "pixels of one image", f"a reference to {len(sizes)} of different sizes")
    if not sizes and (images or frame.series not in referenced_series(data)):
        raise InputError(path, f"an annotation of {frame.path}", f"of other images, {', '.join(images) or 'none'}")
    rows, cols = sizes.pop() if sizes else frame.shape
    return np.array([frame.shape[1] / cols, frame.shape[0] / rows])


def _group(group: Any, dimensions: int, place: Callable[[np.ndarray], np.ndarray], where: str) -> Features:
    kind, count = str(group.GraphicType), int(group.NumberOfAnnotations)
    points = _points(group, dimensions, where)
    if kind in ("POLYGON", "POLYLINE"):
        # places in the list of numbers, not of points, from 1
        stored = 2 if "CommonZCoordinateValue" in group else dimensions
        starts, odd = np.divmod(np.frombuffer(group.LongPrimitivePointIndexList, "<i4") - 1, stored)
        ends = np.append(starts[1:], len(points))
        least = 3 if kind == "POLYGON" else 2
        if odd.any() or (starts[:1] != 0).any() or (ends - starts < least).any():
            raise InputError(where, f"a list of where each {kind.lower()} of {least} points or more begins", "another")
    elif kind in _CORNERS:
        if len(points) % _CORNERS[kind]:
            found = f"{len(points)}"
            raise InputError(where, f"{_CORNERS[kind]} points for each {kind.lower()}", found)
        starts = np.arange(0, len(points), _CORNERS[kind])
        ends = starts + _CORNERS[kind]
    else:
        raise InputError(where, "points, polylines, polygons, rectangles or ellipses", repr(kind))
    if len(starts) != count:
        raise InputError(where, f"{count} objects, as it states", f"{len(starts)}")
    geometry = _geometry(kind, place(points), np.repeat(np.arange(count), ends - starts))
    drawn = str(getattr(group, "AnnotationGroupGenerationType", "")) == "MANUAL"
    label = str(getattr(group, "AnnotationGroupLabel", "")) or None
    return Features(
        geometry,
        classes=_meaning(group.AnnotationPropertyTypeCodeSequence),
        measurements=_measurements(group, count, where),
        object_types="annotation" if drawn else "detection",
        names=label,
    )


def _points(group: Any, dimensions: int, where: str) -> np.ndarray:
    """``(N, 2)`` or ``(N, 3)`` float64 of all objects of a group."""
    single, double = (getattr(group, f"{name}PointCoordinatesData", None) for name in ("", "Double"))
    values = np.frombuffer(*((single, "<f4") if double is None else (double, "<f8"))).astype(np.float64)
    common = getattr(group, "CommonZCoordinateValue", None)
    stored = dimensions if common is None else 2
    if len(values) % stored:
        raise InputError(where, f"{stored} numbers for each point", f"{len(values)}")
    points = values.reshape(-1, stored)
    if not np.isfinite(points).all():
        raise InputError(where, "finite coordinates", str(points[~np.isfinite(points)][0]))
    if stored == 3 and len(points) and np.ptp(points[:, 2]) > _FLAT:
        found = f"Z from {points[:, 2].min():g} to {points[:, 2].max():g} mm"
        raise InputError(where, "objects of one plane", found)
    return points


def _geometry(kind: str, xy: np.ndarray, owner: np.ndarray) -> np.ndarray:
    if not len(xy):
        return np.zeros(0, dtype=object)
    if kind == "POINT":
        return shapely.points(xy)
    if kind == "POLYLINE":
        return shapely.linestrings(xy, indices=owner)
    if kind == "ELLIPSE":  # the ends of the longer axis, then of the shorter
        ends = xy.reshape(-1, 4, 2)
        centre = ends.mean(axis=1, keepdims=True)
        longer, shorter = ((ends[:, [one]] - ends[:, [other]]) / 2 for one, other in ((1, 0), (3, 2)))
        angle = np.arange(4 * _CIRCLE)[:, None] * np.pi / (2 * _CIRCLE)
        xy = (centre + np.cos(angle) * longer + np.sin(angle) * shorter).reshape(-1, 2)
        owner = np.repeat(np.arange(len(ends)), 4 * _CIRCLE)
    return shapely.polygons(shapely.linearrings(xy, indices=owner))


def _measurements(group: Any, count: int, where: str) -> dict[str, np.ndarray]:
    """Of each concept a value for each object, NaN for none."""
    measured = {}
    for item in getattr(group, "MeasurementsSequence", None) or ():
        unit = str(item.MeasurementUnitsCodeSequence[0].CodeValue)
        name = _meaning(item.ConceptNameCodeSequence) + ("" if unit in _NO_UNIT else f" {unit}")
        content = item.MeasurementValuesSequence[0]
        values, index = np.frombuffer(content.FloatingPointValues, "<f4"), np.arange(count)
        if "AnnotationIndexList" in content:  # of some of the objects, from 1
            index = np.frombuffer(content.AnnotationIndexList, "<i4") - 1
        if len(values) != len(index) or (len(index) and not 0 <= index.min() <= index.max() < count):
            raise InputError(where, f"{name} of its {count} objects", f"{len(values)} values")
        measured[name] = np.full(count, np.nan)
        measured[name][index] = values
    return measured


def _meaning(codes: Any) -> str:
    """The text of a code, which should be there; else the code."""
    return str(getattr(codes[0], "CodeMeaning", "") or codes[0].CodeValue)
