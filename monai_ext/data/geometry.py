"""Where the pixels of a loaded image lie, in the terms of MONAI and NIfTI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from monai.transforms.spatial import array as spatial

from monai_ext.formats.resolution import Scale

__all__ = ["image_affine", "image_area_mm2", "image_resolution"]

# MONAI's Spacing leaves an image as it is where spacings differ by less than .001, whatever the unit: in mm that is any
# pixel of a microscope's, .00025 mm and the like
spatial.AFFINE_TOL = 1e-7


def image_affine(mpp: float | None, scale: Scale = 1.0, offset: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """The affine of a channel-first image ``(C, H, W)``: from row and column of a pixel to its position in mm.

    Row and column lead to MONAI's and NIfTI's axes (RAS): x grows to the left and y upwards, so that with the slide's
    first pixel at the origin all positions are negative, and what ``SaveImage`` writes opens upright in a viewer. As an
    image's first axis is its rows, the matrix swaps the axes.

    Args:
        mpp: um per px of the image; ``None`` or 0 where unknown: then a px of the file counts as a mm, as it does
            in MONAI for images without a spacing.
        scale: px of the file's full resolution per px of the image; ``row, col`` where they differ.
        offset: ``row, col`` of the image's upper left corner, px of full resolution.

    Returns:
        float64 ``(4, 4)``, for the centres of pixels; the origin is the centre of the file's first pixel at full
        resolution, whatever the image's own is.
    """
    sides = tuple(scale) if isinstance(scale, Sequence) else (scale, scale)
    step = mpp / 1000 if mpp else sides[0]
    row, col = ((corner + (side - 1) / 2) * step / side for corner, side in zip(offset, sides, strict=True))
    return np.array([[0, -step, 0, 0 - col], [-step, 0, 0, 0 - row], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float64)


def image_resolution(meta: Mapping[str, Any], mpp: float | None = None) -> tuple[float, Scale]:
    """What a loaded image's metadata say of its pixels.

    Args:
        meta: as :class:`~monai_ext.transforms.LoadFieldd` writes it.
        mpp: um per px of the image where its metadata do not say.

    Returns:
        um per px, 0 where it is unknown, and px of the file per px of the image; ``row, col`` where they differ.

    Examples:
        >>> from monai_ext.data.geometry import image_resolution
        >>> image_resolution({"mpp": 0.5, "scale": 2.0}), image_resolution({})
        ((0.5, 2.0), (0.0, 1.0))
    """
    scale = meta.get("scale", 1.0)
    if isinstance(scale, Sequence) and not isinstance(scale, str):  # of numbers, or of what a loader's collation makes
        scale = tuple(float(side) for side in scale)
    return float(meta.get("mpp") or mpp or 0), scale if isinstance(scale, tuple) else float(scale or 1)


def image_area_mm2(meta: Mapping[str, Any], shape: Sequence[int], mpp: float) -> float | None:
    """Area of an image, without what was never scanned of it.

    Args:
        meta: as for :func:`image_resolution`; ``scanned`` is the share that was scanned, all of it by default.
        shape: of the image, ``H, W`` last.
        mpp: um per px of the image; 0 where it is unknown.

    Returns:
        mm2; ``None`` where the resolution is unknown.

    Examples:
        >>> from monai_ext.data.geometry import image_area_mm2
        >>> image_area_mm2({"scanned": 0.5}, (3, 1000, 2000), mpp=0.5), image_area_mm2({}, (1000, 2000), mpp=0)
        (0.25, None)
    """
    return float(shape[-2] * shape[-1] * mpp**2 * 1e-6 * float(meta.get("scanned", 1.0))) if mpp else None
