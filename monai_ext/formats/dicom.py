"""DICOM of slide microscopy: which slide a file is of, and where its pixels lie on the glass.

Read by pydicom, which is an extra of this package (``pip install 'monai_ext[dicom]'``); pixels are read by OpenSlide.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from monai_ext.base.dicom_heads import SLIDE_CLASS, dicom_head
from monai_ext.base.errors import InputError

__all__ = ["ANNOTATION_CLASS", "SLIDE_CLASS", "SlideFrame", "is_dicom", "read_dicom", "slide_frame"]

#: SOP class of Microscopy Bulk Simple Annotations.
ANNOTATION_CLASS = "1.2.840.10008.5.1.4.1.1.91.1"
_GEOMETRY = 1e-6


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file begins as DICOM files do.

    Examples:
        >>> from monai_ext.formats.dicom import is_dicom
        >>> _ = (folder / "a.dcm").write_bytes(bytes(128) + b"DICM")
        >>> _ = (folder / "b.dcm").write_text("no DICOM")
        >>> is_dicom(folder / "a.dcm"), is_dicom(folder / "b.dcm")
        (True, False)
    """
    return dicom_head(path) is not None


def read_dicom(path: str | os.PathLike, tags: Sequence[str] | None = None) -> Any:
    """The data set of a DICOM file, without its pixels.

    Args:
        path: the file.
        tags: keywords of the elements that are wanted, where not all are.

    Returns:
        pydicom's ``Dataset``.

    Raises:
        InputError: no DICOM file, a damaged one, or pydicom is not installed.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats.dicom import read_dicom
        >>> _ = (folder / "a.dcm").write_text("no DICOM")
        >>> try:
        ...     read_dicom(folder / "a.dcm")
        ... except InputError as error:
        ...     print(error.found)
        something else
    """
    path = Path(path)
    if not is_dicom(path):
        raise InputError(path, "a DICOM file", "something else" if path.is_file() else "no such file")
    pydicom = load_pydicom(path)
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=None if tags is None else list(tags))
    # what pydicom raises for a damaged file is not one family
    except Exception as error:
        problem = str(error).split("\n")[0] or type(error).__name__
        raise InputError(path, "a whole DICOM file", problem) from error


def load_pydicom(where: str | os.PathLike) -> ModuleType:
    """The package pydicom.

    Args:
        where: the file or folder that is to be read by it.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module("pydicom")
    except ImportError as error:
        raise InputError(where, "pydicom to read it (pip install 'monai_ext[dicom]')", "no such package") from error


@contextmanager
def stated(path: str | os.PathLike) -> Iterator[None]:
    """What a data set lacks, or states in another way than the standard has it, as an :class:`InputError`."""
    try:
        yield
    except InputError:
        raise
    # elements are read when they are asked for, and what pydicom raises is not one family
    except Exception as error:
        raise InputError(path, "what the standard asks for", str(error).split("\n")[0]) from error


@dataclass(frozen=True)
class SlideFrame:
    """The pixel grid of a slide, and where it lies on the glass (DICOM PS3.3, C.8.12.4 and C.7.6.16.2.1).

    Args:
        path: a file of its full resolution, for OpenSlide.
        shape: rows and columns of full resolution, the total pixel matrix.
        series: its Series Instance UID.
        frame_of_reference: UID of the coordinate system of the glass.
        origin: X, Y of the centre of the first pixel on the glass, mm.
        orientation: direction of a row, then of a column, X, Y, Z each.
        spacing: from one row to the next and from one column to the next, mm.
        instances: rows and columns of the total pixel matrix of each SOP Instance UID, all resolutions.
        patient: Patient ID.
        container: Container Identifier, such as the barcode.

    Examples:
        >>> from monai_ext.formats.dicom import SlideFrame
        >>> down, right = (-1, 0, 0), (0, -1, 0)  # of the image, on the glass
        >>> turned = SlideFrame("a.dcm", (100, 200), origin=(10, 20), orientation=(*right, *down), spacing=(0.5, 0.5))
        >>> turned.to_xy([[10, 20, 0], [9, 19, 0]]).tolist()  # the first pixel's centre; two pixels down and right
        [[0.5, 0.5], [2.5, 2.5]]
    """

    path: Path
    shape: tuple[int, int]
    series: str = ""
    frame_of_reference: str = ""
    origin: tuple[float, float] = (0.0, 0.0)
    orientation: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    spacing: tuple[float, float] = (1.0, 1.0)
    instances: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    patient: str = ""
    container: str = ""

    def to_xy(self, points: Any) -> np.ndarray:
        """Places on the glass as level-0 pixels, as QuPath counts them.

        Args:
            points: ``(N, 2)`` or ``(N, 3)`` X, Y, Z in mm; Z is not used.

        Returns:
            ``(N, 2)`` float64 ``x, y``.
        """
        along = np.array(self.orientation, np.float64).reshape(2, 3)[:, :2]  # of a row, of a column
        sides = along * np.array(self.spacing[::-1])[:, None]
        # the origin is a pixel's centre, which is at (.5, .5)
        return (np.asarray(points, np.float64)[:, :2] - self.origin) @ np.linalg.inv(sides) + 0.5


#: What is read of every file to tell slides and annotations apart.
HEADER = (
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientID"),
    *("ContainerIdentifier", "ImageType", "TotalPixelMatrixRows", "TotalPixelMatrixColumns"),
    *("TotalPixelMatrixOriginSequence", "ImageOrientationSlide", "SharedFunctionalGroupsSequence"),
    *("ReferencedImageSequence", "ReferencedSeriesSequence", "AnnotationCoordinateType"),
    *("ConcatenationUID", "InConcatenationTotalNumber"),
)


def referenced_images(data: Any) -> list[str]:
    """SOP Instance UIDs of the images whose pixels an annotation counts in."""
    return [str(item.ReferencedSOPInstanceUID) for item in getattr(data, "ReferencedImageSequence", None) or ()]


def referenced_series(data: Any) -> list[str]:
    """Series Instance UIDs that an annotation names."""
    return [str(item.SeriesInstanceUID) for item in getattr(data, "ReferencedSeriesSequence", None) or ()]


def slide_of(data: Any, frames: Sequence[SlideFrame]) -> SlideFrame | None:
    """The slide that an annotation or a segmentation is of: one that it names, else one of its coordinate system.

    Scans of one glass may share a coordinate system, so that a name counts more.

    Args:
        data: what it states (:func:`read_dicom`).
        frames: of the slides at hand.

    Examples:
        >>> from types import SimpleNamespace as Item
        >>> from monai_ext.formats.dicom import SlideFrame, slide_of
        >>> scans = [SlideFrame(f"{n}.dcm", (1, 1), series=f"1.{n}", frame_of_reference="2.5") for n in (1, 2)]
        >>> named = Item(FrameOfReferenceUID="2.5", ReferencedSeriesSequence=[Item(SeriesInstanceUID="1.2")])
        >>> slide_of(named, scans).path, slide_of(Item(FrameOfReferenceUID="2.6"), scans)
        ('2.dcm', None)
    """
    named = {*referenced_images(data), *referenced_series(data)}
    reference = str(getattr(data, "FrameOfReferenceUID", ""))
    own = [frame for frame in frames if reference and frame.frame_of_reference == reference]
    own = [frame for frame in frames if named & {*frame.instances, frame.series}] or own
    return own[0] if own else None


def check_full_resolution(path: Path, image_type: Sequence[str]) -> None:
    """That the finest level of a slide is no reduced one.

    Args:
        path: the file that an error names.
        image_type: of the finest level.

    Raises:
        InputError: it is.
    """
    if list(image_type[3:4]) == ["RESAMPLED"]:
        found = "reduced ones alone (RESAMPLED): the file of the first level is missing"
        raise InputError(path, "a slide with its full resolution", found)


def levels_of(files: Mapping[Path, Any]) -> dict[tuple[int, int], dict[Path, Any]]:
    """The files of each level, by its rows and columns; the finest first.

    Args:
        files: the data set of each file of one series of whole slide images (:func:`read_dicom`).

    Raises:
        InputError: none is an image of tissue, full resolution or a part of a concatenation is missing.
    """
    first = next(iter(files))
    levels: dict[tuple[int, int], dict[Path, Any]] = {}
    for file, header in files.items():
        with stated(file):
            if "VOLUME" in list(header.ImageType):
                size = int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns)
                levels.setdefault(size, {})[file] = header
    if not levels:
        raise InputError(first, "a whole slide image, or one of its series", "labels and overviews alone")
    ordered = {size: levels[size] for size in sorted(levels, key=math.prod, reverse=True)}
    for number, level in enumerate(ordered.values()):
        first, header = next(iter(level.items()))
        with stated(first):
            check_full_resolution(first, [] if number else list(header.ImageType))
            parts = int(getattr(header, "InConcatenationTotalNumber", None) or 1)
        if len(level) != parts and getattr(header, "ConcatenationUID", None):
            raise InputError(first, f"{parts} files of this level, a concatenation", f"{len(level)}")
    return ordered


def slide_frame(files: Mapping[Path, Any]) -> SlideFrame:
    """The grid of a slide whose files are read.

    Args:
        files: the data set of each file of one series of whole slide images (:func:`read_dicom`).

    Raises:
        InputError: none is an image of tissue, full resolution or a part of a level is missing, or it does not state
            where it lies.

    Examples:
        >>> from types import SimpleNamespace as Item
        >>> from monai_ext.formats.dicom import slide_frame
        >>> measures = Item(PixelMeasuresSequence=[Item(PixelSpacing=[0.00025, 0.00025])])
        >>> header = Item(
        ...     SOPInstanceUID="1.2.3", SeriesInstanceUID="1.2", TotalPixelMatrixRows=100, TotalPixelMatrixColumns=200,
        ...     ImageType=["ORIGINAL", "PRIMARY", "VOLUME"], SharedFunctionalGroupsSequence=[measures],
        ... )
        >>> frame = slide_frame({"a.dcm": header})
        >>> frame.shape, frame.spacing, frame.instances
        ((100, 200), (0.00025, 0.00025), {'1.2.3': (100, 200)})
    """
    levels = levels_of(files)
    shape, finest = next(iter(levels.items()))
    path = max(finest, key=str)
    header = finest[path]
    with stated(path):
        spacing = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        origins = getattr(header, "TotalPixelMatrixOriginSequence", None)
        origin = (
            (float(origins[0].XOffsetInSlideCoordinateSystem), float(origins[0].YOffsetInSlideCoordinateSystem))
            if origins
            else SlideFrame.origin
        )
        orientation = getattr(header, "ImageOrientationSlide", None) or SlideFrame.orientation
        frame = SlideFrame(
            path=path,
            shape=shape,
            series=str(header.SeriesInstanceUID),
            frame_of_reference=str(getattr(header, "FrameOfReferenceUID", "")),
            origin=origin,
            orientation=tuple(float(part) for part in orientation),
            spacing=(float(spacing[0]), float(spacing[1])),
            instances={str(each.SOPInstanceUID): size for size, level in levels.items() for each in level.values()},
            patient=str(getattr(header, "PatientID", "")),
            container=str(getattr(header, "ContainerIdentifier", "")),
        )
        across, down = np.reshape(frame.orientation, (2, 3))[:, :2]
    if min(frame.spacing) <= 0 or abs(across[0] * down[1] - across[1] * down[0]) < _GEOMETRY:
        found = f"spacing {frame.spacing}, orientation {frame.orientation}"
        raise InputError(path, "pixels that lie flat on the glass", found)
    return frame
