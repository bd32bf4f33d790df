"""Radiographs: grey images whose black is black, from DICOM (read by ITK) or from PNG, JPEG and TIFF."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from monai_ext.base.dicom_heads import taken_as_dicom
from monai_ext.base.errors import InputError
from monai_ext.formats.torn import check_whole

__all__ = ["Radiograph", "read_radiograph"]

_ROWS, _COLS, _BITS = "0028|0010", "0028|0011", "0028|0101"
_SPACINGS = ("0028|0030", "0018|1164")  # pixel spacing, imager pixel spacing: mm, row and column


class Radiograph(NamedTuple):
    """A grey image.

    Args:
        image: uint8 ``(H, W)``, 0 is black.
        mpp: um per px; None where the file states nothing, or oblong px.

    Examples:
        >>> from monai_ext.formats.radiograph import Radiograph
        >>> image, mpp = Radiograph(np.zeros((200, 300), np.uint8), 50.0)
        >>> image.shape, mpp
        ((200, 300), 50.0)
    """

    image: np.ndarray
    mpp: float | None


def read_radiograph(path: str | os.PathLike) -> Radiograph:
    """Read a grey image as 8 bits.

    Unlike :func:`~monai_ext.formats.image.read_field`, which takes large black areas for what a slide's scanner left
    out and makes them white, it leaves black as it is: the air around a breast. Of more than 8 bits the upper 8 are
    kept. DICOM may be compressed; ITK turns ``MONOCHROME1``, so that 0 is black.

    Args:
        path: a DICOM file (``.dcm``) with one grey frame, or PNG, JPEG or TIFF; of colours the brightness is taken.

    Returns:
        the image and its resolution, which only DICOM states.

    Raises:
        InputError: no such file, cut short, or something else than one grey frame.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats.radiograph import read_radiograph
        >>> Image.fromarray(np.zeros((200, 300), np.uint8)).save(folder / "breast.png")
        >>> radiograph = read_radiograph(folder / "breast.png")
        >>> radiograph.image.shape, int(radiograph.image.max()), radiograph.mpp
        ((200, 300), 0, None)
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(path, "a radiograph", "no such file")
    if taken_as_dicom(path):
        return _read_dicom(path)
    check_whole(path)
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise InputError(path, "a readable grey image of 8 or 16 bits", "none" if image is None else str(image.dtype))
    return Radiograph(image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8), None)


def _read_dicom(path: Path) -> Radiograph:
    import itk  # takes seconds

    reader = itk.GDCMImageIO.New()
    reader.SetFileName(str(path))
    try:
        if not reader.CanReadFile(str(path)):
            raise InputError(path, "a whole DICOM file", "something else, or its end is missing")
        reader.ReadImageInformation()
        pixels = itk.array_from_image(itk.imread(str(path), imageio=reader))
    except RuntimeError as error:
        message = str(error).strip().splitlines()[-1]
        raise InputError(path, "a readable DICOM file", message) from error
    tags = reader.GetMetaDataDictionary()
    stated = {tag: tags[tag].strip() for tag in (_ROWS, _COLS, _BITS, *_SPACINGS) if tags.HasKey(tag)}
    shape = tuple(int(stated[tag]) for tag in (_ROWS, _COLS))
    if pixels.size != shape[0] * shape[1] or not np.issubdtype(pixels.dtype, np.unsignedinteger):
        raise InputError(path, "one frame of whole grey values", f"{pixels.shape}, {pixels.dtype}")
    image = (pixels.reshape(shape) >> max(0, int(stated[_BITS]) - 8)).astype(np.uint8)
    return Radiograph(image, _mpp(stated))


def _mpp(stated: dict[str, str]) -> float | None:
    """What the tags state, in um; mm in DICOM."""
    for tag in _SPACINGS:
        try:
            rows, cols = (1000 * float(number) for number in stated.get(tag, "").split("\\"))
        except ValueError:
            continue
        if rows > 0 and rows == cols:
            return rows
    return None
