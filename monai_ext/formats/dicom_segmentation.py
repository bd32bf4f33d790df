"""Segmentations of slides in DICOM (PS3.3, A.51 and C.8.20), as the objects that GeoJSON has."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from skimage.measure import label as connected_parts

from monai_ext.base.errors import InputError
from monai_ext.formats.dicom import (
    HEADER,
    SlideFrame,
    load_pydicom,
    read_dicom,
    slide_of,
    stated,
)
from monai_ext.formats.dicom_annotations import read_dicom_annotations
from monai_ext.formats.dicom_levels import dicom_frame, slides_in
from monai_ext.formats.geojson import Features
from monai_ext.formats.level_base import check_size
from monai_ext.formats.outlines import label_map_to_polygons

__all__ = ["SEGMENTATION_CLASSES", "read_dicom_objects", "read_dicom_segmentation"]

#: SOP classes: Segmentation, Label Map Segmentation.
SEGMENTATION_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
_PARALLEL = 1e-3


def read_dicom_objects(path: str | os.PathLike, frame: SlideFrame | None = None) -> Features:
    """Read the objects of annotations or of a segmentation.

    Args:
        path: the file.
        frame: the slide that it is of; by default the one in the file's folder that it refers to, if there is one.

    Raises:
        InputError: as :func:`~monai_ext.formats.dicom_annotations.read_dicom_annotations` and
            :func:`read_dicom_segmentation`.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats.dicom_segmentation import read_dicom_objects
        >>> try:
        ...     read_dicom_objects(folder / "nuclei.dcm")
        ... except InputError as error:
        ...     print(error.found)
        no such file
    """
    data = read_dicom(path, HEADER)
    frame = frame or _frame_beside(Path(path), data)
    if str(data.get("SOPClassUID")) in SEGMENTATION_CLASSES:
        return read_dicom_segmentation(path, frame)
    return read_dicom_annotations(path, frame)


def _frame_beside(path: Path, data: Any) -> SlideFrame | None:
    """The slide in a file's folder that it is of.

    Raises:
        InputError: there is none, but a damaged one, which it may be of.
    """
    frames, damaged = [], []
    for first in slides_in(path.parent).values():
        try:
            frames.append(dicom_frame(first))
        except InputError as error:
            damaged.append(error)
    own = slide_of(data, frames)
    if own is None and damaged:
        raise damaged[0]
    return own


def read_dicom_segmentation(path: str | os.PathLike, frame: SlideFrame | None) -> Features:
    """Read the outlines of a segmentation of a slide, of whatever resolution.

    Each part of a segment that hangs together, also by a corner, is an object: its outline runs along the edges of the
    segmentation's pixels. Segments may overlap. The class is the label of the segment; what a person drew are
    annotations, the rest detections. Read by highdicom (``pip install 'monai_ext[dicom]'``).

    Args:
        path: the file; binary, fractional (from a half on) or a label map.
        frame: the slide that it is of.

    Returns:
        Its objects, segment by segment, in level-0 pixels of the slide.

    Raises:
        InputError: highdicom or pydicom is not installed, the file is damaged or no such segmentation; it is of another
            slide or coordinate system, turned against its pixels, or of more than 500 Mpx.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats import read_dicom_segmentation
        >>> try:
        ...     read_dicom_segmentation(folder / "nuclei.dcm", None)
        ... except InputError as error:
        ...     print(error.found)
        no such file
    """
    path = Path(path)
    header = read_dicom(path)
    with stated(path):
        if str(header.SOPClassUID) not in SEGMENTATION_CLASSES:
            raise InputError(path, "a segmentation", f"SOP class {header.SOPClassUID}")
        if frame is None:
            raise InputError(path, "the slide that the segmentation is of, in the same folder", "none")
        corner, scale = _grid(header, path, frame)
        check_size(path, int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns))
    load_pydicom(path)
    try:
        highdicom = import_module("highdicom")
    except ImportError as error:
        raise InputError(path, "highdicom to read it (pip install 'monai_ext[dicom]')", "no such package") from error
    try:
        segmentation = highdicom.seg.segread(path)
        parts = [_segment(segmentation, number, corner, scale) for number in segmentation.segment_numbers]
    except InputError:
        raise
    # what highdicom and the decoders raise is not one family
    except Exception as error:
        problem = str(error).split("\n")[0] or type(error).__name__
        raise InputError(path, "a readable segmentation", problem) from error
    return Features(
        np.concatenate([geometry for geometry, _, _ in parts]),
        classes=np.concatenate([np.full(len(geometry), name, object) for geometry, name, _ in parts]),
        object_types=np.concatenate([np.full(len(geometry), kind, object) for geometry, _, kind in parts]),
    )


def _grid(header: Any, path: Path, frame: SlideFrame) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where the segmentation's first pixel begins, and the sides of one, row and column, in level-0 pixels.

    Raises:
        InputError: it has no place on that slide.
    """
    reference = str(getattr(header, "FrameOfReferenceUID", ""))
    if reference != frame.frame_of_reference:
        expected = f"a segmentation of {frame.path} (frame of reference {frame.frame_of_reference or 'none'})"
        raise InputError(path, expected, f"one of another slide ({reference or 'none'})")
    for name, own in (("PatientID", frame.patient), ("ContainerIdentifier", frame.container)):
        other = str(getattr(header, name, ""))
        if own and other and own != other:
            raise InputError(path, f"a segmentation of {frame.path} ({name} {own})", f"one of {name} {other}")
    orientation = np.array(header.ImageOrientationSlide, np.float64)
    if np.abs(orientation - frame.orientation).max() > _PARALLEL:
        raise InputError(path, f"rows and columns along those of {frame.path}", f"others, {orientation.tolist()}")
    spacing = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    scale = tuple(float(own) / whole for own, whole in zip(spacing, frame.spacing, strict=True))
    origin = header.TotalPixelMatrixOriginSequence[0]
    place = [float(origin.XOffsetInSlideCoordinateSystem), float(origin.YOffsetInSlideCoordinateSystem)]
    x, y = frame.to_xy([place])[0]  # of the first pixel's centre
    return (y - scale[0] / 2, x - scale[1] / 2), scale


def _segment(
    segmentation: Any, number: int, corner: tuple[float, float], scale: tuple[float, float]
) -> tuple[np.ndarray, str, str]:
    """Outlines of a segment, its class, and what kind of objects they are."""
    about = segmentation.get_segment_description(number)
    mask = segmentation.get_total_pixel_matrix(segment_numbers=[number])[..., 0] >= 0.5
    parts = connected_parts(mask, connectivity=2)
    kind = "annotation" if str(about.algorithm_type.value) == "MANUAL" else "detection"
    return label_map_to_polygons(parts, offset=corner, scale=scale)[1], str(about.segment_label), kind
