"""Files of annotations, whatever they are: GeoJSON, or annotations and segmentations in DICOM."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from monai_ext.base.dicom_heads import dicom_head, taken_as_dicom
from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.formats.dicom import HEADER, SlideFrame, read_dicom, slide_of, stated
from monai_ext.formats.dicom_levels import dicom_frame, is_dicom_slide
from monai_ext.formats.dicom_segmentation import read_dicom_objects
from monai_ext.formats.geojson import Features, geojson_stem, is_geojson, read_geojson
from monai_ext.formats.stand_ins import stand_in_frame
from monai_ext.formats.suffixes import DICOM_SUFFIX, without_suffix

__all__ = ["annotated_images", "annotation_stem", "find_annotations", "is_annotation", "read_features"]

_COPIES = ("_annotations.dcm", "_segmentation.dcm")  # what a run or ``convert`` calls its results in DICOM
_PACKED = ".gz"


def is_annotation(path: str | os.PathLike) -> bool:
    """Whether a file holds objects: GeoJSON by its name, or DICOM.

    See :func:`~monai_ext.base.dicom_heads.taken_as_dicom` for DICOM without an ending.

    Examples:
        >>> from monai_ext.formats.annotation_files import is_annotation
        >>> [is_annotation(name) for name in ("a.geojson", "a.json.gz", "a.dcm", "a.tif")]
        [True, True, True, False]
    """
    return is_geojson(path) or taken_as_dicom(path)


def annotation_stem(path: str | os.PathLike) -> str:
    """The name of the image that a file of annotations is called after.

    Examples:
        >>> from monai_ext.formats.annotation_files import annotation_stem
        >>> [annotation_stem(name) for name in ("a.1.geojson.gz", "a.1.dcm", "a.1_annotations.dcm", "SM.1.2.840")]
        ['a.1', 'a.1', 'a.1', 'SM.1.2.840']
    """
    name = Path(path).name
    if is_geojson(name):
        return geojson_stem(name)
    copy = next((ending for ending in _COPIES if name.lower().endswith(ending)), None)
    return name[: -len(copy)] if copy else without_suffix(name).name


def find_annotations(folder: str | os.PathLike, skip: str | os.PathLike | None = None) -> list[Path]:
    """The files of annotations below a folder.

    Slides in DICOM are none. Where a run wrote its objects as GeoJSON, and in DICOM or packed besides, its GeoJSON is
    taken.

    Args:
        folder: where to look.
        skip: a folder below it that is left out.

    Returns:
        Their paths, sorted.

    Examples:
        >>> from monai_ext.formats.annotation_files import find_annotations
        >>> for name in ("a.geojson", "a.geojson.gz", "a_annotations.dcm", "b.dcm", "c.txt"):
        ...     _ = (folder / name).write_bytes(b"")
        >>> [path.name for path in find_annotations(folder)]
        ['a.geojson', 'b.dcm']
    """
    files = find_files(Path(folder), (".geojson", ".json", ".gz", DICOM_SUFFIX), skip)
    found = [path for path in files if is_geojson(path) or (taken_as_dicom(path) and not is_dicom_slide(path))]
    plain = set(found)
    drawn = {(path.parent, geojson_stem(path)) for path in found if is_geojson(path)}
    return [
        path
        for path in found
        if not (path.name.lower().endswith(_COPIES) and (path.parent, annotation_stem(path)) in drawn)
        and not (path.suffix.lower() == _PACKED and path.with_suffix("") in plain)
    ]


def annotated_images(paths: Iterable[str | os.PathLike], images: Mapping[str, Path]) -> dict[Path, str | None]:
    """Which image each file of annotations is of.

    In DICOM an annotation names its slide, whatever the files are called, as archives call them by their UIDs. What
    names none of these slides, and GeoJSON, is of the image that it is called after, with or without that one's ending.

    Args:
        paths: files of annotations.
        images: files of images by name; of a slide in DICOM one file, or its folder.

    Returns:
        A key of ``images`` for each path, or ``None``.

    Examples:
        >>> from pathlib import Path
        >>> from monai_ext.formats.annotation_files import annotated_images
        >>> images = {"a": Path("a.tif"), "b": Path("b.svs")}
        >>> list(annotated_images(["a.geojson", "b.svs.geojson", "c.geojson"], images).values())
        ['a', 'b', None]
    """
    paths = [Path(path) for path in paths]
    frames: dict[str, SlideFrame] = {}
    if any(dicom_head(path) for path in paths):
        for name, image in images.items():
            with suppress(InputError):  # whoever reads the slide says so
                if is_dicom_slide(image):
                    frames[name] = dicom_frame(image)
    return {path: _named_slide(path, frames) or _called_after(path, images) for path in paths}


def _named_slide(path: Path, frames: Mapping[str, SlideFrame]) -> str | None:
    """The slide that an annotation in DICOM names; none of a damaged file, which whoever reads it says."""
    own = None
    if frames and dicom_head(path):
        with suppress(InputError), stated(path):
            own = slide_of(read_dicom(path, HEADER), list(frames.values()))
    return next((name for name, frame in frames.items() if frame is own), None)


def _called_after(path: Path, images: Mapping[str, Path]) -> str | None:
    stem = annotation_stem(path)
    return next((name for name in (stem, without_suffix(stem).name) if name in images), None)


def read_features(path: str | os.PathLike, slide: str | os.PathLike | None = None) -> Features:
    """Read all that a file of annotations holds, in px of the slide's full resolution.

    Args:
        path: GeoJSON, Microscopy Bulk Simple Annotations or a segmentation in DICOM.
        slide: the image that it is of. An annotation in DICOM must be of it, as far as it says so; its places in mm or
            px of some level are brought to full resolution. Of an image that is no DICOM the slide in DICOM is looked
            for in the file's folder, unless the file says that it was made for that image.

    Raises:
        InputError: as :func:`~monai_ext.formats.geojson.read_geojson` and
            :func:`~monai_ext.formats.dicom_segmentation.read_dicom_objects`.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features, write_geojson
        >>> from monai_ext.formats.annotation_files import read_features
        >>> path = write_geojson(folder / "a.geojson", Features([shapely.box(0, 0, 3, 2)], classes="Tumor"))
        >>> read_features(path).classes.tolist()
        ['Tumor']
    """
    if not taken_as_dicom(path):
        return read_geojson(path)
    frame = None
    if slide is not None:
        slide = Path(slide)
        frame = dicom_frame(slide) if is_dicom_slide(slide) else stand_in_frame(path, slide)
    return read_dicom_objects(path, frame)
