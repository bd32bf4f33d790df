"""Colours: any image as RGB, and the colours that classes are drawn in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from monai_ext.base.errors import InputError

if TYPE_CHECKING:
    from monai.config import NdarrayOrTensor

__all__ = ["COLOURS", "PALETTE", "RGB", "class_colours", "to_rgb", "to_rgb8"]

RGB = tuple[int, int, int]

COLOURS: dict[str, RGB] = {"TP": (0, 200, 60), "FP": (255, 215, 0), "FN": (30, 90, 255)}
"""The colours of the SegMitos paper's figures: found, false alarm, missed."""

PALETTE: list[RGB] = [
    (0, 200, 60),
    (230, 60, 30),
    (30, 90, 255),
    (255, 215, 0),
    (0, 190, 210),
    (235, 0, 200),
    (255, 140, 0),
    (120, 60, 220),
]


def class_colours(class_names: Sequence[str], colours: Mapping[str, RGB] | None = None) -> dict[str, RGB]:
    """A colour for each class: the given one, else the next of eight that differ clearly on tissue.

    Args:
        class_names: in the order of their ids.
        colours: RGB, 0 to 255, of some of them.
    """
    custom = {name: tuple(colour) for name, colour in (colours or {}).items()}
    return {name: custom.get(name, PALETTE[k % len(PALETTE)]) for k, name in enumerate(class_names)}


def to_rgb(image: NdarrayOrTensor, channel_dim: int | None = None) -> np.ndarray:
    """Any image as uint8 RGB.

    Args:
        image: ``(H, W)``, ``(C, H, W)`` or ``(H, W, C)`` with one (grey), three (RGB) or four (RGBA, laid over white)
            channels. uint8, uint16, bool, or float in [0, 1] or, when its maximum is above 1, in [0, 255].
        channel_dim: axis of the channels; by default the first axis if it can be one, else the last.

    Returns:
        A new uint8 array ``(H, W, 3)``.

    Raises:
        InputError: when the shape is none of these.
    """
    from monai.utils import convert_to_numpy  # slow to import; reading images does not need it

    pixels = convert_to_numpy(image)
    if pixels.ndim == 3:
        if channel_dim is None:
            channel_dim = 0 if pixels.shape[0] in (1, 3, 4) else -1
        pixels = np.moveaxis(pixels, channel_dim, -1)
    if pixels.dtype.kind == "f" and np.nanmax(pixels, initial=0) > 1:
        pixels = pixels / 255
    rgb = to_rgb8(pixels)
    return rgb.copy() if np.shares_memory(rgb, pixels) else rgb


def to_rgb8(array: np.ndarray, where: str | os.PathLike = "image") -> np.ndarray:
    """Any usual image as uint8 ``(H, W, 3)`` RGB.

    Grey becomes RGB, transparency is laid over white (glass), 16 bits keep their upper 8, floats count as 0 to 1.

    Args:
        array: ``(H, W)`` or ``(H, W, C)`` with 1 to 4 channels; uint8, uint16, bool or float.
        where: the file an error names.

    Raises:
        InputError: another shape or type.
    """
    array = np.asarray(array)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or 0 in array.shape:
        raise InputError(where, "an image (H, W) or (H, W, 1 to 4)", f"shape {array.shape}")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    elif array.dtype == bool or array.dtype.kind == "f":
        array = np.rint(np.clip(np.nan_to_num(array.astype(np.float32)), 0, 1) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise InputError(where, "8-bit, 16-bit or float pixels", str(array.dtype))
    if array.shape[2] in (2, 4):
        alpha = array[..., -1:].astype(np.uint16)
        array = ((array[..., :-1] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(array if array.shape[2] == 3 else np.repeat(array, 3, axis=2))
