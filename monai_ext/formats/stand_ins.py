"""Images that are no DICOM, and yet are referred to from DICOM: by identifiers that follow from the image.

The study's follows from the image's name, its shape and, where its file is at hand, the file's length; the others from
the study's, so that who reads them knows that they stand for an image, and for which.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_ext.base.errors import InputError
from monai_ext.formats.dicom import HEADER, SlideFrame, read_dicom, referenced_images, referenced_series, stated
from monai_ext.formats.levels import open_levels
from monai_ext.formats.suffixes import without_suffix

__all__ = ["stand_in_frame", "stand_in_name", "stand_in_uids"]

_LONGEST = 64  # characters of the value representation LO
_STUDY, _SERIES, _IMAGE = "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"
_GLASS = "FrameOfReferenceUID"
_DERIVED = (_SERIES, _IMAGE, _GLASS, "SpecimenUID")


def stand_in_name(name: str) -> str:
    """An image's name, as DICOM can hold it: the patient's and the container's.

    Examples:
        >>> from monai_ext.formats.stand_ins import stand_in_name
        >>> stand_in_name("a  b "), len(stand_in_name(100 * "a"))
        ('a b', 64)
    """
    return " ".join(name.replace("\\", "/").split())[:_LONGEST].rstrip()


def stand_in_uids(name: str, shape: tuple[int, int], image: Path | None = None) -> dict[str, str]:
    """The identifiers of an image by their keywords; the same image has them again.

    Args:
        name: of the image.
        shape: its rows and columns, px.
        image: its file, where that is at hand.

    Examples:
        >>> from monai_ext.formats.stand_ins import stand_in_uids
        >>> one, again, other = (stand_in_uids(name, (20, 30)) for name in ("a", "a", "b"))
        >>> one == again, set(one.values()) & set(other.values())
        (True, set())
    """
    length = image.stat().st_size if image is not None and image.is_file() else None
    study = _uid(stand_in_name(name), repr(tuple(shape)), repr(length))
    return {_STUDY: study, **{what: _derived(study, what, length is not None) for what in _DERIVED}}


def stand_in_frame(path: str | os.PathLike, image: Path) -> SlideFrame | None:
    """The grid of an image that is no DICOM, where results in DICOM refer to it.

    Args:
        path: the results.
        image: the image.

    Returns:
        The grid; ``None`` where nobody can tell: the results are of a slide in DICOM, of which the image may be a copy,
        or were written without their image at hand, or the image has changed since.

    Raises:
        InputError: they are of an image of another name and length; or no DICOM.

    Examples:
        >>> import shapely
        >>> from PIL import Image
        >>> from monai_ext.exchange import convert
        >>> from monai_ext.formats import Features, write_geojson
        >>> from monai_ext.formats.stand_ins import stand_in_frame
        >>> Image.new("RGB", (30, 20)).save(folder / "a.png")
        >>> path = write_geojson(folder / "a.geojson", Features([shapely.box(5, 5, 15, 15)]))
        >>> written = convert(path, "dicom-ann", slide=folder / "a.png", mpp=0.25)
        >>> stand_in_frame(folder / "a_annotations.dcm", folder / "a.png").shape
        (20, 30)
    """
    path = Path(path)
    data = read_dicom(path, HEADER)
    with stated(path):
        study, name = str(data.get(_STUDY, "")), str(data.get("PatientID", ""))
        named = {*referenced_images(data), *referenced_series(data)}
    of_file, of_none = ({_derived(study, what, known) for what in (_SERIES, _IMAGE)} for known in (True, False))
    if not named & (of_file | of_none) or not image.exists():
        return None
    shape = tuple(open_levels(image)[0].shapes[0])
    for uids in (stand_in_uids(name, shape, image), stand_in_uids(name, shape)):
        if uids[_STUDY] == study:
            return _frame(data, path, image, shape, uids)
    if named & of_file and name not in {stand_in_name(each) for each in (image.name, without_suffix(image).name)}:
        raise InputError(path, f"an annotation of {image}", f"one of another image, {name}")
    return None


def _frame(data: Any, path: Path, image: Path, shape: tuple[int, int], uids: dict[str, str]) -> SlideFrame:
    known = {"series": uids[_SERIES], "frame_of_reference": uids[_GLASS], "instances": {uids[_IMAGE]: shape}}
    frame = SlideFrame(image, shape, patient=str(data.PatientID), container=str(data.PatientID), **known)
    if "SharedFunctionalGroupsSequence" not in data:
        return frame
    with stated(path):  # of a segmentation, whose px are so many of the image's
        size = int(data.TotalPixelMatrixRows), int(data.TotalPixelMatrixColumns)
        factor = round(max(shape) / max(size))
        row, col = data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        return replace(frame, spacing=(float(row) / factor, float(col) / factor))


def _derived(study: str, what: str, known: bool) -> str:
    return _uid(study, what, "of a file" if known else "of no file")


def _uid(*sources: str) -> str:
    from pydicom.uid import generate_uid

    return generate_uid(entropy_srcs=list(sources))
