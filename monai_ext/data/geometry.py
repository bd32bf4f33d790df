"""Where the pixels of a loaded image lie, in the terms of MONAI and NIfTI."""

from __future__ import annotations

import numpy as np
from monai.transforms.spatial import array as spatial

__all__ = ["image_affine"]

# MONAI's Spacing leaves an image as it is where spacings differ by less than .001, whatever the unit: in mm that is any
# pixel of a microscope's, .00025 mm and the like
spatial.AFFINE_TOL = 1e-7


def image_affine(mpp: float | None, scale: float = 1.0, offset: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """The affine of a channel-first image ``(C, H, W)``: from row and column of a pixel to its position in mm.

    Row and column lead to MONAI's and NIfTI's axes (RAS): x grows to the left and y upwards, so that with the slide's
    first pixel at the origin all positions are negative, and what ``SaveImage`` writes opens upright in a viewer. As an
    image's first axis is its rows, the matrix swaps the axes.

    Args:
        mpp: um per px of the image; ``None`` or 0 where unknown: then a px of the file counts as a mm, as it does
            in MONAI for images without a spacing.
        scale: px of the file's full resolution per px of the image.
        offset: ``row, col`` of the image's upper left corner, px of full resolution.

    Returns:
        float64 ``(4, 4)``, for the centres of pixels; the origin is the centre of the file's first pixel at full
        resolution, whatever the image's own is.
    """
    step = mpp / 1000 if mpp else scale
    row, col = ((corner + (scale - 1) / 2) * step / scale for corner in offset)
    return np.array([[0, -step, 0, 0 - col], [-step, 0, 0, 0 - row], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=np.float64)
