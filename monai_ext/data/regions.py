"""A rectangle of a slide or image, at the resolution of a network, with what surrounds it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import shapely
import torch
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.data.geometry import image_affine
from monai_ext.data.vessels import keep_lumen
from monai_ext.formats.geojson import Features
from monai_ext.formats.outlines import polygons_to_mask, valid_areas
from monai_ext.formats.reader import SlideReader

__all__ = ["in_region", "load_region", "load_vessel_region"]

_MARGIN = 64  # px of the network's grid: a nucleus at the region's edge is seen whole
_MOST_PIXELS = 100_000_000


def load_region(
    path: str | os.PathLike,
    location: Sequence[int] = (0, 0),
    size: Sequence[int] = (0, 0),
    target_mpp: float | None = None,
    mpp: float | None = None,
    margin: int = _MARGIN,
) -> MetaTensor:
    """Read a region with a margin, as :class:`~monai_ext.transforms.LoadFieldd` reads whole images.

    Args:
        path: a slide or an image.
        location: ``x, y`` of its upper left corner, px of level 0.
        size: ``width, height``, px of level 0; zeros for all that follows the corner.
        target_mpp: um/px wanted.
        mpp: um/px of level 0, in place of what the file states.
        margin: read around the region, px of the network's grid.

    Returns:
        uint8 ``(3, H, W)`` with ``LoadFieldd``'s metadata and affine, and ``corner``, the ``x, y`` of its first pixel's
        corner, and ``region``, the ``left, top, right, bottom`` that were asked for, both in px of level 0. Where
        parts of it are no data, ``valid``, bool ``(1, H, W)``, is True where it is.

    Raises:
        InputError: the region is not in the image, or has more than 100 Mpx; the file cannot be read.
    """
    reader = SlideReader(path, target_mpp, mpp)
    (rows, cols), sides = reader.file_shape, np.broadcast_to(reader.file_scale, 2).tolist()
    left, top = (int(value) for value in location)
    right, bottom = (
        start + (int(side) or limit - start) for start, side, limit in zip((left, top), size, (cols, rows), strict=True)
    )
    if not (0 <= left < cols and 0 <= top < rows and left < right and top < bottom):
        problem = f"location {list(location)}, size {list(size)}"
        raise InputError(path, f"a region inside its {cols} x {rows} px", problem)
    right, bottom = min(right, cols), min(bottom, rows)
    first_row, first_col = (
        max(0, math.floor(edge / side) - margin) for edge, side in zip((top, left), sides, strict=True)
    )
    last_row, last_col = (
        min(limit, math.ceil(edge / side) + margin)
        for edge, limit, side in zip((bottom, right), reader.shape, sides, strict=True)
    )
    height, width = last_row - first_row, last_col - first_col
    if height * width > _MOST_PIXELS:
        problem = f"{width} x {height} px at {reader.mpp or 'no known'} um/px"
        raise InputError(path, f"a region of at most {_MOST_PIXELS // 10**6} Mpx", problem)
    pixels, valid = reader.read_valid(first_row, first_col, height, width)
    corner = (first_row * sides[0], first_col * sides[1])
    stated_mpp = 0.0 if reader.resolution_source == "assumed" else reader.mpp
    meta = {
        "filename_or_obj": str(path),
        "mpp": stated_mpp,
        "scale": reader.file_scale,
        "file_shape": tuple(round(length * side) for length, side in zip(pixels.shape[1:], sides, strict=True)),
        "corner": corner[::-1],
        "region": (left, top, right, bottom),
    }
    if valid is not None:
        meta["valid"] = torch.from_numpy(valid)[None]
    affine = image_affine(stated_mpp, reader.file_scale, corner)
    return MetaTensor(torch.from_numpy(np.ascontiguousarray(pixels)), affine=affine, meta=meta)


def load_vessel_region(
    path: str | os.PathLike,
    location: Sequence[int] = (0, 0),
    size: Sequence[int] = (0, 0),
    target_mpp: float | None = None,
    mpp: float | None = None,
    outline: Sequence[Sequence[float]] | None = None,
) -> dict[str, Any]:
    """Read a region that is one vessel's lumen, as :class:`~monai_ext.transforms.LoadVesseld` reads vessels.

    Args:
        path: see :func:`load_region`, as for the next four.
        location: of the region.
        size: of the region.
        target_mpp: um/px wanted.
        mpp: um/px of level 0.
        outline: the lumen's corners ``x, y``, px of level 0; beyond it the image becomes white. ``None`` for the region
            as it is.

    Returns:
        ``image``, see :func:`load_region`; ``source``, the same without white; with an outline ``outline``, WKT in px
        of level 0 from the image's corner.

    Raises:
        InputError: as :func:`load_region`, or an outline that is none or lies elsewhere.
    """
    source = load_region(path, location, size, target_mpp, mpp, margin=0)
    if outline is None:
        return {"image": source, "source": source}
    try:
        lumen = shapely.Polygon(np.asarray(outline, dtype=np.float64) - source.meta["corner"])
        [lumen] = valid_areas([lumen])
    except (TypeError, ValueError, shapely.errors.ShapelyError) as error:
        raise InputError("outline", "three or more [x, y]", f"{outline!r:.80}") from error
    inside = polygons_to_mask(np.array([lumen]), source.shape[1:], scale=source.meta["scale"])
    image = MetaTensor(torch.from_numpy(keep_lumen(source.numpy(), inside, "outline")), meta=source.meta)
    return {"image": image, "source": source, "outline": lumen.wkt}


def in_region(features: Features, image: MetaTensor) -> Features:
    """Objects that were found in a loaded region, in px of the whole slide's level 0, without those of its margin."""
    corner, (left, top, right, bottom) = image.meta["corner"], image.meta["region"]
    geometry = shapely.transform(features.geometry, lambda xy: xy + corner)
    centre = shapely.get_coordinates(shapely.centroid(geometry))
    inside = ((centre >= (left, top)) & (centre < (right, bottom))).all(axis=1)
    return replace(features, geometry=geometry)[inside]
