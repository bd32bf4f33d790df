"""Instances of the same images side by side, as in Fig. 4 of Cyclic Learning."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from skimage.color import label2rgb
from skimage.segmentation import find_boundaries

__all__ = ["instance_rows"]

_GAP = 4  # px
_HEADING = 22


def instance_rows(
    images: Sequence[np.ndarray], maps: Sequence[Sequence[np.ndarray]], headings: Sequence[str], side: int = 256
) -> np.ndarray:
    """A table of pictures: a row for each image, which comes first, then its instance maps.

    Args:
        images: uint8 RGB ``(3, H, W)``; their upper left ``side`` px are shown.
        maps: for each image, instance maps ``(H, W)``, 0 is background.
        headings: of the columns, the image's included.
        side: of a picture, px.

    Returns:
        uint8 ``(h, w, 3)``.
    """
    rows = [_headings(headings, side)]
    for image, instances in zip(images, maps, strict=True):
        crop = np.moveaxis(image, 0, -1)[:side, :side]
        cells = [crop, *(_coloured(crop, each[:side, :side]) for each in instances)]
        rows.append(np.concatenate([_framed(cell, side) for cell in cells], axis=1))
    return np.concatenate(rows)


def _coloured(image: np.ndarray, instances: np.ndarray) -> np.ndarray:
    tinted = (label2rgb(instances, image, alpha=0.35, bg_label=0, saturation=1) * 255).round().astype(np.uint8)
    picture = np.where(instances[..., None] > 0, tinted, image)
    picture[find_boundaries(instances, mode="inner")] = (20, 20, 20)
    return picture


def _framed(cell: np.ndarray, side: int) -> np.ndarray:
    missing = [(0, side - length + _GAP) for length in cell.shape[:2]]
    return np.pad(cell, (*missing, (0, 0)), constant_values=255)


def _headings(texts: Sequence[str], side: int) -> np.ndarray:
    band = np.full((_HEADING, len(texts) * (side + _GAP), 3), 255, np.uint8)
    for number, text in enumerate(texts):
        origin = (number * (side + _GAP) + 2, _HEADING - 7)
        cv2.putText(band, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)
    return band
