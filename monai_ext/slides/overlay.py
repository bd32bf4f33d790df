"""A slide's thumbnail with its detections and regions."""

from __future__ import annotations

import math

import cv2
import numpy as np

from monai_ext.base.overlay import overlay
from monai_ext.formats.hotspot import HotSpot
from monai_ext.formats.outlines import polygons_to_mask

__all__ = ["scale_bar", "slide_overlay"]

_INK = (20, 20, 20)
_MOST_POINTS = 100  # more circles would hide what they stand for


def slide_overlay(
    thumbnail: np.ndarray,
    scale: float,
    heat: np.ndarray,
    cell_scale: float,
    regions: np.ndarray,
    points: np.ndarray,
    mpp: float | None,
    colour: tuple[int, int, int] = (200, 0, 0),
    spot: HotSpot | None = None,
) -> np.ndarray:
    """Draw heat, outlines of regions, detections, the hot spot and a scale bar on a thumbnail.

    Args:
        thumbnail: uint8 ``(3, H, W)`` RGB from the slide's corner.
        scale: px of level 0 per px of the thumbnail.
        heat: ``(h, w)`` in 0 ... 1.
        cell_scale: px of level 0 along a cell of ``heat``.
        regions: ``(N,)`` polygons, ``x, y`` in px of level 0.
        points: ``(N, 2)`` ``row, col`` in px of level 0, in falling order; the first hundred are drawn.
        mpp: um per px of level 0; ``None`` for no scale bar.
        colour: RGB of outlines and circles, 0 to 255.
        spot: the hot spot in px of level 0, drawn as a thin dark circle where it is one and holds anything.

    Returns:
        uint8 ``(H, W, 3)`` RGB.
    """
    rows, cols = (
        np.minimum(((np.arange(side) + 0.5) * scale / cell_scale).astype(np.int64), cells - 1)
        for side, cells in zip(thumbnail.shape[1:], heat.shape, strict=True)
    )
    labels = polygons_to_mask(regions, thumbnail.shape[1:], scale=scale)
    points = points[:_MOST_POINTS]
    picture = overlay(
        thumbnail,
        heat=heat[rows][:, cols],
        labels=labels.astype(np.uint8) if labels.any() else None,
        points=(points + 0.5) / scale - 0.5,
        classes=["region"] * max(1, len(points)),
        colours={"region": colour},
        radius=max(4, max(thumbnail.shape) // 150),
        channel_dim=0,
    )
    if spot is not None and spot.radius is not None and spot.count:
        centre = tuple(round((coordinate + 0.5) / scale - 0.5) for coordinate in (spot.col, spot.row))
        thickness = max(2, max(picture.shape) // 800)
        cv2.circle(picture, centre, round(spot.radius / scale), _INK, thickness, cv2.LINE_AA)
    if mpp is not None:
        scale_bar(picture, scale * mpp)
    return picture


def scale_bar(picture: np.ndarray, mpp: float) -> None:
    """A bar of a round length, about a fifth of the picture wide, in its lower left corner."""
    height, width = picture.shape[:2]
    longest = max(width * mpp / 5, mpp)
    power = 10 ** math.floor(math.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest)
    size = max(1, width // 500)
    left, bottom = 6 * size, height - 6 * size
    right = left + max(1, round(length / mpp))
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} um"
    for grow, ink in ((size, (255, 255, 255)), (0, _INK)):
        cv2.rectangle(picture, (left - grow, bottom - 2 * size - grow), (right + grow, bottom + grow), ink, -1)
    for thickness, ink in ((4 * size, (255, 255, 255)), (size, _INK)):
        corner = (left, bottom - 5 * size)
        cv2.putText(picture, text, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * size, ink, thickness, cv2.LINE_AA)
