"""What a reviewer draws, as geometry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from monai_ext.base.errors import InputError
from monai_ext.formats.outlines import valid_areas

__all__ = ["MOST_VERTICES", "drawn_shape"]

#: Of an outline.
MOST_VERTICES = 4000
_LEAST = 3  # vertices of an outline
_LEAST_AREA = 1.0  # square px: less is a slip of the hand
_SLIP = 0.01  # of the area: where a hand's outline crosses itself, parts below this are none


def drawn_shape(kind: Any, points: Any, file_shape: Sequence[int], stretch: Sequence[float] = (1, 1)) -> Any:
    """The geometry of what was drawn.

    An outline that crosses itself is repaired as those of files are: it may become several areas.

    Args:
        kind: ``"point"`` or ``"polygon"``.
        points: ``(N, 2)`` ``x, y`` in square px of level 0: one, or an outline's vertices.
        file_shape: rows and columns of the file; what is drawn lies within.
        stretch: square px along the rows' and the columns' side of one of the file's.

    Returns:
        a shapely geometry in px of the file, to 0.01 px.

    Raises:
        InputError: no finite numbers, too few or too many, outside the image, or without an area.

    Examples:
        >>> from monai_ext.view.drawing import drawn_shape
        >>> drawn_shape("polygon", [[0, 0], [8, 0], [8, 6], [0, 6]], file_shape=(10, 20)).area
        48.0
        >>> drawn_shape("point", [[30, 5]], file_shape=(10, 20))
        Traceback (most recent call last):
            ...
        monai_ext.base.errors.InputError: drawing: expected places within the image (20 x 10 px), found x 30, y 5
    """
    if kind not in ("point", "polygon"):
        raise InputError("drawing", "a point or a polygon", repr(kind)[:80])
    least, most = (1, 1) if kind == "point" else (_LEAST, MOST_VERTICES)
    try:
        xy = np.array(points)
    except ValueError:  # rows of several lengths
        xy = np.array(None)
    if xy.dtype.kind not in "iuf" or xy.shape[1:] != (2,) or not least <= len(xy) <= most or not np.isfinite(xy).all():
        expected = "one pair of numbers" if kind == "point" else f"{least} to {most} pairs of numbers"
        found = f"{len(points)} of them" if isinstance(points, list) and points else "others"
        raise InputError("drawing", expected, found)
    xy = (xy / np.array(stretch)[::-1]).round(2)
    outside = ((xy < 0) | (xy > np.array(file_shape)[::-1])).any(axis=1)
    if outside.any():
        x, y = xy[outside][0]
        raise InputError(
            "drawing", f"places within the image ({file_shape[1]} x {file_shape[0]} px)", f"x {x:g}, y {y:g}"
        )
    if kind == "point":
        return shapely.Point(xy[0])
    [shape] = valid_areas([shapely.Polygon(xy)])
    parts = shapely.get_parts(shape)
    areas = shapely.area(parts)
    if areas.sum() < _LEAST_AREA:
        raise InputError("drawing", "an outline around at least 1 square px", f"{areas.sum():.2g}")
    parts = parts[areas >= _SLIP * areas.sum()]
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(list(parts))
