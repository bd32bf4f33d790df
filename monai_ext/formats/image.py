"""Reading what users have: PNG, JPEG, TIFF of any depth, and slides, as 8-bit RGB at a known resolution."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import cv2
import numpy as np
import tifffile

from monai_ext.base.errors import InputError
from monai_ext.formats.dicom_levels import level_files
from monai_ext.formats.level_base import check_size
from monai_ext.formats.levels import open_levels
from monai_ext.formats.resolution import SAME_MPP, Scale, file_scale, warn_of_conflict
from monai_ext.formats.suffixes import MASK_SUFFIXES, SLIDE_SUFFIXES, SUFFIXES, TIFF_SUFFIXES, VOLUME_SUFFIXES
from monai_ext.formats.volume import read_volume
from monai_ext.formats.zarr_levels import read_zarr_labels, zarr_label

__all__ = ["SAME_MPP", "SLIDE_SUFFIXES", "SUFFIXES", "TIFF_SUFFIXES", "Field", "is_mask", "read_field", "read_mask"]

_LARGEST = int(np.iinfo(np.int32).max)


@dataclass(frozen=True)
class Field:
    """An image with its geometry.

    Attributes:
        image: uint8 ``(3, H, W)`` RGB.
        mpp: um per px of ``image``; ``None`` if unknown.
        scale: square pixels at the file's full resolution per pixel of ``image``.
        file_shape: ``H, W`` of the file at full resolution, px.
        valid: bool ``(H, W)``, True where something was scanned; ``None`` for all of it. The rest is white.
        stretch: square pixels along the side, ``row, col``, of a pixel of the file: 1 but where the file states
            that its pixels are oblong.
        conflict: what the file states of its resolution besides, where that differs; else empty.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats import read_field
        >>> Image.fromarray(np.full((200, 300), 255, np.uint8)).save(folder / "grey.png")
        >>> field = read_field(folder / "grey.png")
        >>> field.image.shape, field.mpp, field.file_shape
        ((3, 200, 300), None, (200, 300))
    """

    image: np.ndarray
    mpp: float | None
    scale: float
    file_shape: tuple[int, int]
    valid: np.ndarray | None = None
    stretch: tuple[float, float] = (1.0, 1.0)
    conflict: str = ""

    @property
    def file_scale(self) -> Scale:
        """Px of the file per px of ``image``; ``row, col`` where the file's are oblong."""
        return file_scale(self.scale, self.stretch)

    @property
    def scanned(self) -> float:
        """Share of the image that was scanned, 0 to 1."""
        return 1.0 if self.valid is None else float(self.valid.mean())


def read_field(path: str | os.PathLike, mpp: float | None = None, target_mpp: float | None = None) -> Field:
    """Read an image or a slide as 8-bit RGB, at ``target_mpp`` where its resolution is known.

    Args:
        path: PNG, JPEG, BMP, TIFF (8 or 16 bits, grey, RGB, RGBA), NIfTI, NRRD, MetaImage; or a slide: what OpenSlide
            opens, DICOM (a file, or the folder of one slide), OME-Zarr.
        mpp: um/px of the file at full resolution; overrides what the file states.
        target_mpp: um/px to bring the image to; ``None`` leaves it as it is. A difference below 10 % is left too.

    Returns:
        the pixels with their resolution and scale.

    Raises:
        InputError: no such file, not an image, a slide without a resolution, more than 500 Mpx, or a resolution that
            is no positive number.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats import read_field
        >>> Image.fromarray(np.full((200, 300, 3), 255, np.uint8)).save(folder / "field.png")
        >>> field = read_field(folder / "field.png", mpp=0.25, target_mpp=0.5)
        >>> field.image.shape, field.mpp, field.scale
        ((3, 100, 150), 0.5, 2.0)
    """
    path = Path(path)
    for name, value in (("mpp", mpp), ("target_mpp", target_mpp)):
        if value is not None and not (isinstance(value, Real) and 0 < value < math.inf):
            raise InputError(path, f"{name} in um/px, a positive number", repr(value))
    levels, is_slide = open_levels(path)
    stated = levels.resolution
    base, stretch = (mpp, (1.0, 1.0)) if mpp or not stated else (stated.mpp, stated.stretch)
    conflict = stated.conflict if stated and not mpp else ""
    warn_of_conflict(path, conflict)
    if base is None and is_slide and path.suffix.lower() in SLIDE_SUFFIXES:
        raise InputError(path, "a slide that states its resolution (um/px), or mpp given", "no resolution")
    # the coarsest level that is still at least as fine as wanted; the rest is done by averaging
    wanted = target_mpp / base if target_mpp and base else 1.0
    level = max(k for k, downsample in enumerate(levels.downsamples) if downsample <= max(wanted * 1.01, 1))
    shape, downsample = levels.shapes[level], levels.downsamples[level]
    check_size(path, *shape)
    try:
        image, valid = levels.read(level, 0, 0, *shape)
    # what the decoders raise for a damaged file is not one family
    except Exception as error:
        files = level_files(path, shape)
        where = files[0] if len(files) == 1 else path
        level_name = f"level {level}, {shape[1]} x {shape[0]} px" + (" (else fetch the file anew)" if files else "")
        expected = f"readable pixels of {level_name}" if is_slide else "a readable image"
        raise InputError(where, expected, str(error).split("\n")[0] or type(error).__name__) from error
    scale = downsample
    if base and target_mpp and abs(base * downsample / target_mpp - 1) > SAME_MPP:
        scale = target_mpp / base
    factors = [side * downsample / scale for side in stretch]
    if factors != [1.0, 1.0]:
        size = [max(1, round(side * factor)) for side, factor in zip(shape, factors, strict=True)][::-1]
        method = cv2.INTER_AREA if min(factors) < 1 else cv2.INTER_CUBIC
        image = cv2.resize(image, size, interpolation=method)
        if valid is not None:
            valid = cv2.resize(valid.view(np.uint8) * 255, size, interpolation=method) >= 128
    return Field(
        image=np.require(np.moveaxis(image, -1, 0), requirements=["C", "W"]),
        mpp=base and base * scale,
        scale=scale if base else 1.0,
        file_shape=levels.shapes[0],
        valid=valid,
        stretch=stretch,
        conflict=conflict,
    )


def is_mask(path: str | os.PathLike) -> bool:
    """Whether :func:`read_mask` reads a path, by its name.

    Examples:
        >>> from monai_ext.formats.image import is_mask
        >>> [is_mask(name) for name in ("a.tif", "a.ome.zarr", "a.ome.zarr/labels/nuclei", "a.geojson")]
        [True, True, True, False]
    """
    return str(path).lower().endswith(MASK_SUFFIXES) or zarr_label(path) is not None


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Read a mask or an instance map with the numbers it holds.

    Args:
        path: PNG, BMP, TIFF, NIfTI, NRRD or MetaImage of any integer depth, of which the first channel is taken of
            several; an OME-Zarr with one label image, or one of its label images (``a.ome.zarr/labels/nuclei``).

    Returns:
        ``(H, W)`` of the file's integer type (uint8, uint16 or int32).

    Raises:
        InputError: no such file, not an image, or numbers above 2,147,483,647.

    Examples:
        >>> import tifffile
        >>> from monai_ext.formats import read_mask
        >>> tifffile.imwrite(folder / "nuclei.tif", np.array([[0, 0, 1], [0, 700, 700]], np.uint16))
        >>> read_mask(folder / "nuclei.tif").tolist()
        [[0, 0, 1], [0, 700, 700]]
    """
    path = Path(path)
    try:
        if path.name.lower().endswith(VOLUME_SUFFIXES):
            array = _whole_numbers(read_volume(path)[0], path)
        elif zarr_label(path):
            array = _whole_numbers(read_zarr_labels(path), path)
        elif path.suffix.lower() in TIFF_SUFFIXES:  # not by MONAI's LoadImage: ITK makes 8-bit colours of one in tiles
            array = tifffile.imread(path)
        else:
            array = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    except InputError:
        raise
    # what the decoders raise for a damaged file is not one family
    except Exception as error:
        raise InputError(path, "a readable mask", str(error).split("\n")[0]) from error
    if array is None:
        raise InputError(path, "a readable mask", "no such file" if not path.is_file() else "no image")
    array = array[..., 0] if array.ndim == 3 else array
    if array.dtype.itemsize > 2 and array.max(initial=0) > _LARGEST:
        raise InputError(path, f"a mask of numbers up to {_LARGEST}", f"{array.max()}")
    return array.astype(np.int32) if array.dtype.itemsize > 2 or array.dtype == np.int16 else array.astype(np.uint16)


def _whole_numbers(labels: np.ndarray, path: Path) -> np.ndarray:
    """Labels as integers, which NIfTI may keep as floats."""
    if labels.dtype.kind in "iub":
        return labels
    whole = labels.astype(np.int32)
    if not np.array_equal(whole, labels):
        raise InputError(path, "a mask of whole numbers", f"{labels.dtype}, as {labels[whole != labels][0]:g}")
    return whole
