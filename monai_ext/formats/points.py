"""Points as arrays: one centroid a row, ``row, col`` in pixels of the image, counted from 0.

A whole number is the centre of a pixel: ``(0, 0)`` is the centre of the upper left one. QuPath counts from that pixel's
corner instead; :mod:`monai_ext.formats.geojson` converts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from monai_ext.base.errors import InputError

__all__ = ["as_points", "points_outside"]

_LIMIT = 1e9  # no image is larger


def points_outside(points: np.ndarray, shape: Sequence[int]) -> str | None:
    """Say which points lie outside an image, and whether rows and columns look swapped.

    Args:
        points: ``(N, 2)`` rows ``row, col``; a pixel reaches half a pixel around its whole-numbered centre.
        shape: ``H, W`` of the image.

    Returns:
        The text of an error; None where all points are inside.

    Examples:
        >>> from monai_ext.formats.points import points_outside
        >>> points_outside(np.array([[10, 90]]), shape=(100, 50))
        '1 of 1 outside, the first at row 10, col 90; all are inside as col,row: swapped?'
        >>> points_outside(np.array([[90, 10]]), shape=(100, 50)) is None
        True
    """
    limit = np.asarray(shape) - 0.5
    outside = ((points < -0.5) | (points > limit)).any(axis=1)
    if not outside.any():
        return None
    row, col = points[outside][0]
    swapped = ((points >= -0.5) & (points <= limit[::-1])).all()
    hint = "; all are inside as col,row: swapped?" if swapped else ""
    return f"{int(outside.sum())} of {len(points)} outside, the first at row {row:g}, col {col:g}{hint}"


def as_points(points: Any, where: str | os.PathLike = "points") -> np.ndarray:
    """Turn a list or array of points into ``(N, 2)`` float32 rows ``row, col``.

    Args:
        points: a sequence of pairs ``row, col``; an empty one stands for no points.
        where: the file (or argument) an error names.

    Raises:
        InputError: for anything else, and for numbers that are not finite.

    Examples:
        >>> from monai_ext.formats.points import as_points
        >>> as_points([(2, 5), (31, 40)]).tolist()
        [[2.0, 5.0], [31.0, 40.0]]
        >>> as_points([]).shape
        (0, 2)
    """
    try:
        array = np.asarray(points)
    except ValueError:  # a ragged list
        array = np.asarray(None)
    if array.shape == (0,):
        array = array.reshape(0, 2)
    if array.dtype.kind not in "iuf" or array.ndim != 2 or array.shape[1] != 2:
        raise InputError(where, "pairs of numbers row, col (shape N x 2)", f"{points!r}"[:80])
    unusable = ~(np.abs(array) < _LIMIT).all(axis=1)
    if unusable.any():
        index = int(np.flatnonzero(unusable)[0])
        raise InputError(where, "finite coordinates row, col", f"{array[index].tolist()} at point {index}")
    return array.astype(np.float32)
