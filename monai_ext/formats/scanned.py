"""What part of an image is data, and what was never scanned."""

from __future__ import annotations

import os

import cv2
import numpy as np

from monai_ext.base.colours import to_rgb8

__all__ = ["REACH", "blank_unscanned", "may_be_unscanned", "rgb_and_valid"]

_BLACK = 12  # grey values; what scanners and unwritten tiles leave, with what JPEG makes of it
_DARK = 50  # grey values; JPEG's ringing beside it
_SIDE = 32  # px; pigment and ink are no larger in so even a black
_RING = 8  # px; half of JPEG's largest block
#: Px around a region that decide whether its own px were scanned.
REACH = _SIDE + _RING


def rgb_and_valid(array: np.ndarray, where: str | os.PathLike = "image") -> tuple[np.ndarray, np.ndarray | None]:
    """Any usual image as uint8 ``(H, W, 3)`` RGB over white, and where it is not transparent.

    Args:
        array: as for :func:`~monai_ext.base.colours.to_rgb8`.
        where: the file an error names.

    Returns:
        The pixels, and bool ``(H, W)``, or ``None`` if all of it is opaque.

    Examples:
        >>> from monai_ext.formats.scanned import rgb_and_valid
        >>> rgba = np.array([[[200, 100, 150, 255], [0, 0, 0, 0]]], np.uint8)
        >>> rgb, valid = rgb_and_valid(rgba)
        >>> rgb.tolist(), valid.tolist()
        ([[[200, 100, 150], [255, 255, 255]]], [[True, False]])
    """
    rgb = to_rgb8(array, where)
    if array.ndim == 3 and array.shape[2] in (2, 4):
        half = 0.5 if array.dtype.kind in "fb" else np.iinfo(array.dtype).max / 2
        valid = array[..., -1] > half
        return rgb, None if valid.all() else valid
    return rgb, None


def may_be_unscanned(pixels: np.ndarray) -> bool:
    """Whether a region (uint8 ``(H, W, 3)``) may hold, or touch, a black area; quick.

    Examples:
        >>> from monai_ext.formats.scanned import may_be_unscanned
        >>> pixels = np.full((100, 100, 3), 180, np.uint8)
        >>> may_be_unscanned(pixels), may_be_unscanned(np.zeros_like(pixels))
        (False, True)
    """
    brightest = _brightest(pixels)
    border = (brightest[:_RING], brightest[-_RING:], brightest[:, :_RING], brightest[:, -_RING:])
    if any((edge < _DARK).any() for edge in border):
        return True
    black = (brightest <= _BLACK).astype(np.uint8)
    return bool(black.any() and cv2.morphologyEx(black, cv2.MORPH_OPEN, np.ones((_SIDE, _SIDE), np.uint8)).any())


def _squares(black: np.ndarray) -> np.ndarray:
    """What of a mask, uint8 ``(H, W)``, lies in squares that are wholly in it."""
    side = np.array([min(_SIDE, length) for length in black.shape[::-1]])
    kernel = np.ones(side[::-1], np.uint8)
    # not MORPH_OPEN: for an even side it moves what is left by a px, as it takes one middle for both steps
    return cv2.dilate(cv2.erode(black, kernel), kernel, anchor=tuple(((side - 1) // 2).tolist()))


def _frame(black: np.ndarray) -> np.ndarray:
    """Rows and columns at the edges of a mask, uint8 ``(H, W)``, that are in it as a whole: what a cutter filled up."""
    frame = np.zeros_like(black)
    for turned, lines in ((frame, black.all(axis=1)), (frame.T, black.all(axis=0))):
        turned[np.logical_and.accumulate(lines) | np.logical_and.accumulate(lines[::-1])[::-1]] = 1
    return frame


def _brightest(pixels: np.ndarray) -> np.ndarray:
    red, green, blue = cv2.split(pixels)  # side by side in memory: four times as fast as three views
    return cv2.max(cv2.max(red, green), blue)


def blank_unscanned(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Make black areas white, as large and as even as only a scanner or an unwritten tile leaves them.

    So are rows and columns at the edges that are black from end to end, however few: an image was filled up with them.

    Args:
        pixels: uint8 ``(H, W, 3)`` RGB.

    Returns:
        The pixels (a copy where something changes), and bool ``(H, W)``, True where they are data, or ``None`` if all
        are. Whether a pixel is depends on those up to :data:`REACH` px away.

    Examples:
        >>> from monai_ext.formats.scanned import blank_unscanned
        >>> pixels = np.full((100, 100, 3), 180, np.uint8)
        >>> pixels[:, 60:] = 0  # the scanner stopped here
        >>> pixels[10:20, 10:20] = 0  # pigment
        >>> white, valid = blank_unscanned(pixels)
        >>> valid.mean(), white[0, 99].tolist(), white[15, 15].tolist()
        (np.float64(0.6), [255, 255, 255], [0, 0, 0])
    """
    brightest = _brightest(pixels)
    black = (brightest <= _BLACK).astype(np.uint8)
    if cv2.countNonZero(black) < min(_SIDE**2, *black.shape):
        return pixels, None
    black = _squares(black) | _frame(black)
    if not black.any():
        return pixels, None
    near = cv2.dilate(black, np.ones((2 * _RING + 1,) * 2, np.uint8))
    valid = ~((near > 0) & (brightest < _DARK))
    pixels = pixels.copy()
    pixels[~valid] = 255
    return pixels, valid
