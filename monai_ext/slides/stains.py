"""The stains of a slide: estimated once, from squares all over its tissue."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from monai_ext.formats.reader import SlideReader
from monai_ext.slides.plan import SlidePlan
from monai_ext.transforms.stain import MacenkoNormalize

__all__ = ["fit_stains", "tissue_squares"]

_SIDE = 512  # px of a square
_SQUARES = 64


def tissue_squares(plan: SlidePlan) -> list[tuple[int, int, int, int]]:
    """``row, col, height, width`` of a square in each tile of a plan, px of the network's grid, without the margin."""
    side = _SIDE // plan.step  # cells
    squares = ((tile.row, tile.col, min(side, tile.height), min(side, tile.width)) for tile in plan.tiles)
    return [tuple(cells * plan.step for cells in square) for square in squares]


def fit_stains(
    stains: MacenkoNormalize, reader: SlideReader, squares: Sequence[tuple[int, int, int, int]]
) -> MacenkoNormalize:
    """A copy of ``stains`` that is fitted to a slide.

    Args:
        stains: the target, and how stains are estimated.
        reader: the slide.
        squares: ``row, col, height, width`` of squares with tissue, px of the reader's grid; 64 of them, evenly
            chosen, are read.
    """
    chosen = np.linspace(0, len(squares) - 1, min(_SQUARES, len(squares))).round().astype(int)
    return copy(stains).fit(np.ascontiguousarray(reader.read(*squares[index])) for index in chosen)
