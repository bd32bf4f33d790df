"""Annotations as clients save them (label images, QuPath's GeoJSON, ASAP's XML), as labels that bundles learn from."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import tifffile

from monai_ext.base.files import atomic_path
from monai_ext.formats.annotation_files import annotation_stem
from monai_ext.formats.asap import read_asap_objects
from monai_ext.formats.geojson import Features
from monai_ext.formats.image import is_mask, read_field, read_mask
from monai_ext.formats.outlines import polygons_to_label_map
from monai_ext.formats.point_files import read_points, write_points
from monai_ext.formats.roles import read_objects
from monai_ext.transforms.diagnose_vessel import HEALTHY_CLASSES

__all__ = ["has_finding", "has_object", "object_map", "object_points", "training_label"]


def _objects(path: Path, image: str | os.PathLike | None, areas: bool = False) -> Features:
    """The objects of an annotation, without the regions around them; with ``areas`` those that have one."""
    if path.suffix.lower() == ".xml":
        return read_asap_objects(path, areas=areas).objects
    return read_objects(path, areas=areas, slide=image).objects


def object_map(label: str | os.PathLike, image: str | os.PathLike) -> np.ndarray:
    """The annotated objects of an image, ``(H, W)`` integers numbered from 1.

    Args:
        label: a label image, GeoJSON or ASAP's XML, in px of the image; or DICOM.
        image: the image.

    Raises:
        InputError: one of them cannot be read.
    """
    label = Path(label)
    if is_mask(label):
        return read_mask(label)
    return polygons_to_label_map(_objects(label, image, areas=True).geometry, read_field(image).file_shape)


def object_points(label: str | os.PathLike, image: str | os.PathLike | None = None) -> np.ndarray:
    """The centres of the annotated objects, ``(N, 2)`` ``row, col`` in px of the image.

    Args:
        label: a label image (see :func:`~monai_ext.data.read_points`), GeoJSON, DICOM or ASAP's XML.
        image: the image; of an annotation in DICOM by default the slide in its folder.

    Raises:
        InputError: it cannot be read.
    """
    label = Path(label)
    return read_points(label) if is_mask(label) else _objects(label, image).points()


def has_finding(features: Features) -> bool:
    """Whether there is any object but those that are called healthy."""
    return not np.isin(features.classes.astype(str), HEALTHY_CLASSES).all()


def has_object(label: str | os.PathLike, image: str | os.PathLike | None = None) -> bool:
    """Whether an annotation has any finding in it: an image's label for methods that learn from those alone.

    Args:
        label: see :func:`object_map`.
        image: see :func:`object_points`.
    """
    label = Path(label)
    return bool(read_mask(label).any()) if is_mask(label) else has_finding(_objects(label, image))


def training_label(label: str | os.PathLike, image: str | os.PathLike, folder: str | os.PathLike, kind: str) -> str:
    """An annotation as a file that a bundle's training reads.

    Args:
        label: see :func:`object_map`; a label image is taken as it is.
        image: the image.
        folder: where a converted label is written.
        kind: ``"instances"`` for an instance map, ``"points"`` for centroids.

    Returns:
        its path.

    Raises:
        InputError: the annotation or the image cannot be read.
    """
    label = Path(label)
    if is_mask(label):
        return str(label)
    if kind == "points":
        return str(write_points(Path(folder) / f"{annotation_stem(label)}.csv", object_points(label, image)))
    path = Path(folder) / f"{annotation_stem(label)}.tif"
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, object_map(label, image), compression="zlib")
    return str(path)
