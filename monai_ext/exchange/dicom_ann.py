"""Microscopy Bulk Simple Annotations of DICOM, by highdicom."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from monai_ext.exchange.dicom_source import MAKER, code_of, new_uid, source_image, stated_name
from monai_ext.exchange.results import NO_CLASS, NothingFoundError, Results
from monai_ext.formats.dicom import stated
from monai_ext.formats.geojson import Features
from monai_ext.formats.outlines import single_parts

__all__ = ["bridged", "write"]

_KINDS = {0: "POINT", 1: "POLYLINE", 3: "POLYGON"}  # of shapely's type numbers
# what measurements of ours are called in DICOM, and their units: codes of CID 8136 and of UCUM
_CONCEPTS = {
    "area_um2": ("Area", "SquareMicrometer"),
    "perimeter_um": ("Perimeter", "Micrometer"),
}


class _Group:
    """The objects of one class and one kind of geometry."""

    def __init__(self) -> None:
        self.places: list[np.ndarray] = []
        self.measured: dict[str, list[tuple[int, float]]] = defaultdict(list)


def write(results: Results, path: Path) -> None:
    """Write objects as groups, one for each class and kind of geometry, in px of the slide's full resolution (2D).

    A polygon has no holes in DICOM: each is reached by a bridge of no width from the shell, so that the object keeps
    its area, its centroid and its measurements, and :func:`~monai_ext.formats.read_dicom_annotations` and shapely's
    ``make_valid`` have the hole again. An object of several parts becomes several, with the same measurements. Those
    are single precision.

    Args:
        results: what there is; all outlines are held in memory.
        path: the file.

    Raises:
        InputError: no object, a class name that DICOM cannot hold, or objects of another slide.
    """
    import highdicom
    from highdicom.ann import AnnotationGroup, MicroscopyBulkSimpleAnnotations
    from pydicom.sr.codedict import codes

    source, legend = source_image(results), results.legend
    groups: dict[tuple[str, str], _Group] = defaultdict(_Group)
    for features in results.batches():
        _collect(groups, features)
    if not groups:
        raise NothingFoundError(results.geojson, "at least one object: DICOM annotations cannot be empty", "none")
    order = sorted(groups, key=lambda key: (list(legend).index(key[0]), key[1]))
    algorithm = highdicom.AlgorithmIdentificationSequence(
        "monai_ext", codes.cid7162.ArtificialIntelligence, MAKER["software_versions"]
    )
    written = [
        AnnotationGroup(
            number=number,
            uid=new_uid(),
            label=name,
            annotated_property_category=codes.SCT.AnatomicalStructure,
            annotated_property_type=code_of(name, results.geojson),
            graphic_type=kind,
            graphic_data=groups[name, kind].places,
            algorithm_type="MANUAL" if results.drawn else "SEMIAUTOMATIC" if results.checked else "AUTOMATIC",
            algorithm_identification=None if results.drawn else algorithm,
            measurements=_measurements(groups[name, kind]),
            display_color=highdicom.color.CIELabColor.from_rgb(*legend[name]),
        )
        for number, (name, kind) in enumerate(order, 1)
    ]
    with stated(results.image or results.geojson):  # what a slide lacks of what highdicom copies
        data = MicroscopyBulkSimpleAnnotations(
            source_images=[source],
            annotation_coordinate_type="2D",
            annotation_groups=written,
            series_instance_uid=new_uid(),
            series_number=1,
            sop_instance_uid=new_uid(),
            content_label="OBJECTS",
            content_description=stated_name(results),
            specific_character_set="ISO_IR 192",
            **MAKER,
        )
    data.save_as(path, enforce_file_format=True)


def _collect(groups: dict[tuple[str, str], _Group], features: Features) -> None:
    parts, owner = single_parts(features.geometry)
    for shape, kind, index in zip(parts, shapely.get_type_id(parts).tolist(), owner.tolist(), strict=True):
        if kind not in _KINDS:
            continue
        name = features.classes[index]
        group = groups[NO_CLASS if name is None else name, _KINDS[kind]]
        for key, values in features.measurements.items():
            if np.isfinite(values[index]):
                group.measured[key].append((len(group.places), float(values[index])))
        group.places.append(bridged(shape) if kind == 3 else shapely.get_coordinates(shape))


def bridged(polygon: shapely.Polygon) -> np.ndarray:
    """The places of one ring, with the holes inside it: each is reached and left by a bridge of no width.

    A bridge is the shortest that meets no outline but at its ends, and a hole runs against its shell, so that the
    area is right by any rule: even and odd, winding numbers, the shoelace formula. Holes come from left to right: of
    what is left of a hole all is within the ring by then, and one of its places can be seen.

    Args:
        polygon: with or without holes.

    Returns:
        ``(N, 2)`` x and y, against the clock where y points up; the first place is not repeated at the end.

    Examples:
        >>> from monai_ext.exchange.dicom_ann import bridged
        >>> ring = bridged(shapely.box(0, 0, 9, 9) - shapely.box(3, 3, 5, 5))
        >>> ring.shape, shapely.make_valid(shapely.Polygon(ring)).area
        ((10, 2), 77.0)
    """
    polygon = shapely.orient_polygons(polygon)
    ring = shapely.get_coordinates(polygon.exterior)[:-1]
    shapely.prepare(polygon)
    for hole in sorted((shapely.get_coordinates(each)[:-1] for each in polygon.interiors), key=lambda xy: xy.min(0)[0]):
        hole = np.roll(hole, -hole[:, 0].argmin(), axis=0)  # noqa: PLW2901
        nearest = np.square(ring - hole[0]).sum(1).argsort(kind="stable")
        ends = np.stack([ring[nearest], np.broadcast_to(hole[0], ring.shape)], 1)
        free = (ends[:, 0] == ends[:, 1]).all(1) | shapely.relate_pattern(
            shapely.linestrings(ends), polygon, "1FFF0F***"
        )
        start = nearest[free.argmax()]  # the first; 0, the nearest, where rounding leaves none
        ring = np.concatenate([ring[: start + 1], hole, hole[:1], ring[start:]])
    return ring


def _measurements(group: _Group) -> list[Any]:
    from highdicom.ann import Measurements
    from pydicom.sr.codedict import codes

    measured = []
    for key, entries in group.measured.items():
        values = np.full(len(group.places), np.nan)
        rows, numbers = zip(*entries, strict=True)
        values[[*rows]] = numbers
        concept, unit = _CONCEPTS.get(key, (None, None))
        name = code_of(key[:64].strip(), Path(key)) if concept is None else getattr(codes.SCT, concept)
        units = codes.UCUM.NoUnits if unit is None else getattr(codes.UCUM, unit)
        measured.append(Measurements(name, values, units))
    return measured
