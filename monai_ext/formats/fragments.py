"""The pieces of tissue on a slide, by their bounding boxes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.ndimage import find_objects, label

from monai_ext.formats.reader import SlideReader
from monai_ext.formats.tissue import tissue_mask

__all__ = ["Box", "fragment_boxes", "tissue_fragments"]

_MPP = 8.0  # um/px of the thumbnail that tissue is looked for in
_MIN_AREA_UM2 = 40_000.0  # of a fragment: 0.2 mm x 0.2 mm


class Box(NamedTuple):
    """A part of a slide, px of level 0: its first row and column, its height and width.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats import Box, SlideReader
        >>> Image.fromarray(np.full((200, 300, 3), 255, np.uint8)).save(folder / "slide.png")
        >>> reader = SlideReader(folder / "slide.png", target_mpp=0.5)
        >>> reader.read(*Box(row=10, col=20, height=30, width=40)).shape
        (3, 30, 40)
    """

    row: int
    col: int
    height: int
    width: int


def tissue_fragments(reader: SlideReader, mpp: float = _MPP, min_area_um2: float = _MIN_AREA_UM2) -> list[Box]:
    """The fragments of tissue on a slide: only they are kept of it (knowledge distillation, section 4.1 and Fig. 3).

    Args:
        reader: the slide.
        mpp: um/px of the thumbnail that tissue is looked for in.
        min_area_um2: tissue of a smaller area is no fragment.

    Returns:
        Their boxes, which do not overlap, from top to bottom.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats import SlideReader, tissue_fragments
        >>> slide = np.full((400, 800, 3), 240, np.uint8)
        >>> slide[100:300, 100:300] = slide[100:300, 500:700] = (190, 120, 170)
        >>> Image.fromarray(slide).save(folder / "slide.png")
        >>> left, right = tissue_fragments(SlideReader(folder / "slide.png", mpp=2.0))
        >>> left.col + left.width < right.col
        True
    """
    thumbnail, valid = reader.overview(mpp)
    mask = tissue_mask(thumbnail, mpp, min_area_um2, valid=valid)
    scale = reader.thumbnail_scale(mpp)
    height, width = reader.level0_shape
    boxes = []
    for top, left, bottom, right in fragment_boxes(mask):
        edges = [min(round(edge * scale), limit) for edge, limit in zip((bottom, right), (height, width), strict=True)]
        row, col = round(top * scale), round(left * scale)
        if row < edges[0] and col < edges[1]:
            boxes.append(Box(row, col, edges[0] - row, edges[1] - col))
    return boxes


def fragment_boxes(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """The smallest boxes around the connected parts of a mask; parts whose boxes overlap share one.

    Args:
        mask: ``(H, W)`` bool.

    Returns:
        ``top, left, bottom, right`` of each, the last two exclusive, in ascending order.

    Examples:
        >>> from monai_ext.formats.fragments import fragment_boxes
        >>> mask = np.zeros((8, 20), bool)
        >>> mask[1:4, 2:6] = mask[5:8, 12:19] = True
        >>> fragment_boxes(mask)
        [(1, 2, 4, 6), (5, 12, 8, 19)]
    """
    parts = find_objects(label(mask, np.ones((3, 3)))[0])
    boxes = [(rows.start, cols.start, rows.stop, cols.stop) for rows, cols in parts]
    merged = True
    while merged:
        merged, kept = False, []
        for box in boxes:
            near = [other for other in kept if _overlap(box, other)]
            merged |= bool(near)
            kept = [other for other in kept if other not in near]
            tops, lefts, bottoms, rights = zip(box, *near, strict=True)
            kept.append((min(tops), min(lefts), max(bottoms), max(rights)))
        boxes = kept
    return sorted(boxes)


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
