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
from PIL import Image, UnidentifiedImageError

from monai_ext.base.colours import to_rgb8
from monai_ext.base.errors import InputError

__all__ = [
    "SAME_MPP",
    "SLIDE_SUFFIXES",
    "SUFFIXES",
    "TIFF_SUFFIXES",
    "Field",
    "plausible_mpp",
    "read_field",
    "read_mask",
    "tiff_mpp",
]

SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
TIFF_SUFFIXES = (".tif", ".tiff")
#: Names of files that :func:`read_field` reads end so.
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", *TIFF_SUFFIXES, *SLIDE_SUFFIXES)
#: Relative difference of resolutions that is not worth resampling: scanners of one nominal magnification differ so.
SAME_MPP = 0.1
_MICRONS = {2: 25_400.0, 3: 10_000.0}  # TIFF's resolution units: inch, centimetre
_PLAUSIBLE_MPP = (0.05, 4.0)  # um/px; a scanner's 72 or 300 dpi is no resolution of tissue
_MOST_PIXELS = 500_000_000


@dataclass(frozen=True)
class Field:
    """An image with its geometry.

    Attributes:
        image: uint8 ``(3, H, W)`` RGB.
        mpp: um per px of ``image``; ``None`` if unknown.
        scale: pixels of the file's full resolution per pixel of ``image``.
        file_shape: ``H, W`` of the file at full resolution, px.

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


def plausible_mpp(mpp: float | str | None) -> float | None:
    """What a file says of its resolution (um/px), or ``None`` where no tissue is scanned so.

    Examples:
        >>> from monai_ext.formats.image import plausible_mpp
        >>> plausible_mpp("0.2526"), plausible_mpp(25_400 / 72)
        (0.2526, None)
    """
    mpp = float(mpp) if mpp else None
    return mpp if mpp is not None and _PLAUSIBLE_MPP[0] <= mpp <= _PLAUSIBLE_MPP[1] else None


def tiff_mpp(page: tifffile.TiffPage) -> float | None:
    """The resolution (um/px) that a TIFF's tags state, if they do and it is plausible.

    Examples:
        >>> import tifffile
        >>> from monai_ext.formats.image import tiff_mpp
        >>> resolution = {"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}
        >>> tifffile.imwrite(folder / "field.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb", **resolution)
        >>> with tifffile.TiffFile(folder / "field.tif") as tiff:
        ...     tiff_mpp(tiff.pages[0])
        0.25
    """
    unit, resolution = page.tags.get("ResolutionUnit"), page.tags.get("XResolution")
    if unit and resolution and int(unit.value) in _MICRONS and resolution.value[0]:
        return plausible_mpp(_MICRONS[int(unit.value)] * resolution.value[1] / resolution.value[0])
    return None


def _read_tiff(path: Path) -> tuple[np.ndarray, float | None]:
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        pixels = int(np.prod(series.shape)) // max(1, min(series.shape[-1], 4))
        if pixels > _MOST_PIXELS:
            raise InputError(
                path, f"at most {_MOST_PIXELS // 10**6} Mpx in one field", f"{series.shape}: cut out a region"
            )
        array, page = series.asarray(), series.pages[0]
        if series.axes[0] in "SC" and array.ndim == 3:  # planes: channel first
            array = np.moveaxis(array, 0, -1)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            array = np.moveaxis(page.colormap[:, array], 0, -1)
        elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            array = np.invert(array)
        elif page.photometric == tifffile.PHOTOMETRIC.SEPARATED:
            array = _read_image(path)
        return array, tiff_mpp(page)


def _read_slide(
    path: Path, mpp: float | None, target: float | None
) -> tuple[np.ndarray, float, float, tuple[int, int]]:
    """The slide at ``target`` um/px or, without one, at full resolution: pixels, um/px, the file's um/px and size."""
    import openslide

    with openslide.OpenSlide(str(path)) as slide:
        base = mpp or plausible_mpp(slide.properties.get(openslide.PROPERTY_NAME_MPP_X))
        if base is None:
            raise InputError(path, "a slide that states its resolution (um/px), or mpp given", "no resolution")
        wanted = target or base
        # the coarsest level that is still at least as fine as wanted; the rest is done by averaging
        level = slide.get_best_level_for_downsample(wanted / base * 1.01)
        if np.prod(slide.level_dimensions[level], dtype=np.int64) > _MOST_PIXELS:
            size = " x ".join(map(str, slide.level_dimensions[level]))
            raise InputError(path, f"at most {_MOST_PIXELS // 10**6} Mpx in one field", f"{size} px: cut out a region")
        pixels = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
        return to_rgb8(pixels, path), base * slide.level_downsamples[level], base, slide.dimensions[::-1]


def read_field(path: str | os.PathLike, mpp: float | None = None, target_mpp: float | None = None) -> Field:
    """Read an image or a slide as 8-bit RGB, at ``target_mpp`` where its resolution is known.

    Args:
        path: PNG, JPEG, BMP, TIFF (8 or 16 bits, grey, RGB, RGBA), or a slide that OpenSlide opens.
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
    if not path.is_file():
        raise InputError(path, "an image", "no such file" if not path.exists() else "a folder")
    try:
        if path.suffix.lower() in SLIDE_SUFFIXES:
            array, resolution, base, shape = _read_slide(path, mpp, target_mpp)
        else:
            array, stated = _read_tiff(path) if path.suffix.lower() in TIFF_SUFFIXES else (_read_image(path), None)
            array = to_rgb8(array, path)
            resolution, base, shape = mpp or stated, mpp or stated, array.shape[:2]
    except InputError:
        raise
    # what the decoders raise for a damaged file is not one family
    except Exception as error:
        problem = (
            "no image in a known format" if isinstance(error, UnidentifiedImageError) else f"{error}".split("\n")[0]
        )
        raise InputError(path, "a readable image", problem or type(error).__name__) from error
    if resolution and target_mpp and abs(resolution / target_mpp - 1) > SAME_MPP:
        factor = resolution / target_mpp
        size = [max(1, round(side * factor)) for side in array.shape[1::-1]]
        array = cv2.resize(array, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
        resolution = target_mpp
    pixels = np.require(np.moveaxis(array, -1, 0), requirements=["C", "W"])
    return Field(pixels, resolution, resolution / base if resolution else 1.0, shape)


def _read_image(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        if image.mode in ("P", "PA"):
            return np.asarray(image.convert("RGBA"))
        if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            return np.asarray(image.convert("RGB"))
        return np.asarray(image)


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Read a mask or an instance map with the numbers it holds.

    Args:
        path: PNG, BMP or TIFF of any integer depth; of several channels the first is taken.

    Returns:
        ``(H, W)`` of the file's integer type (uint8, uint16 or int32).

    Raises:
        InputError: no such file, or not an image.

    Examples:
        >>> import tifffile
        >>> from monai_ext.formats import read_mask
        >>> tifffile.imwrite(folder / "nuclei.tif", np.array([[0, 0, 1], [0, 700, 700]], np.uint16))
        >>> read_mask(folder / "nuclei.tif").tolist()
        [[0, 0, 1], [0, 700, 700]]
    """
    path = Path(path)
    try:
        array = (
            tifffile.imread(path)
            if path.suffix.lower() in TIFF_SUFFIXES
            else cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        )
    # what the decoders raise for a damaged file is not one family
    except Exception as error:
        raise InputError(path, "a readable mask", str(error).split("\n")[0]) from error
    if array is None:
        raise InputError(path, "a readable mask", "no such file" if not path.is_file() else "no image")
    array = array[..., 0] if array.ndim == 3 else array
    return array.astype(np.int32) if array.dtype.itemsize > 2 or array.dtype == np.int16 else array.astype(np.uint16)
