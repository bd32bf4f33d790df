"""Areas of a probability map as polygons on the slide."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from scipy import ndimage

from monai_ext.data.outlines import label_map_to_polygons

__all__ = ["Regions", "find_regions"]


@dataclass(frozen=True)
class Regions:
    """Connected areas of a map.

    Attributes:
        labels: ``(H, W)`` int32, the number of the region that each cell is in, from 1; 0 for none.
        polygons: ``(N,)`` shapely polygons, ``x, y`` in px of level 0.
        cells: ``(N,)`` how many cells each has.
        mean: ``(N,)`` mean value.
        max: ``(N,)`` largest value.
    """

    labels: np.ndarray
    polygons: np.ndarray
    cells: np.ndarray
    mean: np.ndarray
    max: np.ndarray


def find_regions(heat: np.ndarray, threshold: float, cell_scale: float, level0_shape: tuple[int, int]) -> Regions:
    """Outline the connected areas above a threshold.

    Cells are connected by their sides. The outlines run along the cells' edges, but not beyond the slide's.

    Args:
        heat: ``(H, W)`` floats.
        threshold: cells above it belong to a region.
        cell_scale: px of level 0 along a cell's side; cell ``(0, 0)`` begins at the slide's corner.
        level0_shape: rows and columns of level 0.
    """
    labels, count = ndimage.label(heat > threshold)
    _, polygons = label_map_to_polygons(labels, scale=cell_scale)
    polygons = shapely.transform(polygons, lambda xy: np.minimum(xy, level0_shape[::-1]))
    ids = np.arange(1, count + 1)
    cells = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    total = np.bincount(labels.ravel(), weights=heat.ravel(), minlength=count + 1)[1:]
    highest = ndimage.maximum(heat, labels, ids) if count else np.zeros(0)
    return Regions(labels, polygons, cells, total / np.maximum(cells, 1), np.asarray(highest, np.float64))
