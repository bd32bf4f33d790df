"""Areas of a probability map as polygons on the slide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import shapely
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from monai_ext.formats.outlines import label_map_to_polygons

__all__ = ["Regions", "find_regions"]

_CORNERS_TOO = np.ones((3, 3), dtype=int)


@dataclass(frozen=True)
class Regions:
    """Connected areas of a map.

    Attributes:
        polygons: ``(N,)`` shapely polygons, ``x, y`` in px of level 0.
        cells: ``(N,)`` how many cells each has.
        mean: ``(N,)`` mean value.
        max: ``(N,)`` largest value.
        centres: ``(N, 2)`` mean ``row, col`` of its cells, weighted by their values; a cell's middle is a whole
            number.
    """

    polygons: np.ndarray
    cells: np.ndarray
    mean: np.ndarray
    max: np.ndarray
    centres: np.ndarray


class _Pieces:
    """What the strips hold of regions: sums over each piece, its outline, and which pieces touch."""

    def __init__(self) -> None:
        self.count = 0
        self.sums, self.highest, self.touching = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros((2, 0), np.int64)]
        self.ids, self.outlines = [np.zeros(0, np.int64)], [np.zeros(0, object)]
        self._last: np.ndarray | None = None

    def add(self, top: int, values: np.ndarray, threshold: float, scale: float, least: tuple[float, float]) -> None:
        """Take the next strip; its pieces that touch no other strip and are no regions get no outline."""
        labels, count = ndimage.label(values > threshold, _CORNERS_TOO)
        row, col = np.nonzero(labels)
        piece, score = labels[row, col] - 1, values[row, col].astype(np.float64)
        weights = (None, score, (row + top) * score, col * score)
        sums = np.stack([np.bincount(piece, weight, minlength=count) for weight in weights], axis=1)
        self.highest.append(
            np.asarray(ndimage.maximum(values, labels, np.arange(1, count + 1)), np.float64).reshape(-1)
        )
        self._join(labels)
        open_ended = np.zeros(count + 1, dtype=bool)
        open_ended[labels[[0, -1]]] = True
        kept = np.append(False, _is_region(sums, least)) | open_ended
        kept[0] = False
        ids, outlines = label_map_to_polygons(np.where(kept[labels], labels, 0), (top * scale, 0), scale)
        self.sums.append(sums)
        self.ids.append(ids + self.count - 1)
        self.outlines.append(outlines)
        self._last = np.where(labels[-1], labels[-1] + self.count, 0)
        self.count += count

    def _join(self, labels: np.ndarray) -> None:
        if self._last is None:
            return
        above, below = np.pad(self._last, 1), np.where(labels[0], labels[0] + self.count, 0)
        for shift in range(3):  # cells that meet at a corner touch too
            pairs = np.stack([above[shift : shift + len(below)], below])
            self.touching.append(np.unique(pairs[:, (pairs > 0).all(axis=0)] - 1, axis=1))


def _is_region(sums: np.ndarray, least: tuple[float, float]) -> np.ndarray:
    min_cells, min_mean = least
    return (sums[:, 0] > min_cells) & (sums[:, 1] > min_mean * sums[:, 0])


def find_regions(
    strips: Iterable[tuple[int, np.ndarray]],
    threshold: float,
    cell_scale: float,
    level0_shape: tuple[int, int],
    min_cells: float = 0,
    min_mean: float = 0,
) -> Regions:
    """Outline the connected areas above a threshold, however large the map.

    Cells are connected by their sides and corners. The outlines run along the cells' edges, but not beyond the
    slide's. The map is seen strip by strip; what a strip's edge cuts is merged again.

    Args:
        strips: the map from top to bottom, as first row and floats ``(h, W)``.
        threshold: cells above it belong to a region.
        cell_scale: px of level 0 along a cell's side; cell ``(0, 0)`` begins at the slide's corner.
        level0_shape: rows and columns of level 0.
        min_cells: regions have more cells than this.
        min_mean: and a mean above this.
    """
    least = (min_cells, min_mean)
    pieces = _Pieces()
    for top, values in strips:
        pieces.add(top, values, threshold, cell_scale, least)
    touching = np.concatenate(pieces.touching, axis=1)
    graph = coo_array((np.ones(touching.shape[1], dtype=bool), tuple(touching)), shape=(pieces.count,) * 2)
    count, region = connected_components(graph, directed=False) if pieces.count else (0, np.zeros(0, np.int64))
    piece_sums = np.concatenate(pieces.sums)
    sums = np.stack([np.bincount(region, column, minlength=count) for column in piece_sums.T], axis=1)
    highest = np.zeros(count)
    np.maximum.at(highest, region, np.concatenate(pieces.highest))
    kept = np.flatnonzero(_is_region(sums, least))
    polygons = _merge(region[np.concatenate(pieces.ids)], np.concatenate(pieces.outlines), kept)
    polygons = shapely.transform(polygons, lambda xy: np.minimum(xy, level0_shape[::-1]))
    cells, total, row, col = sums[kept].T
    return Regions(
        polygons, cells.astype(np.int64), total / cells, highest[kept], np.stack([row, col], 1) / total[:, None]
    )


def _merge(region: np.ndarray, outlines: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The outline of each region from those of its pieces."""
    order = np.argsort(region, kind="stable")
    first, after = (np.searchsorted(region[order], kept, side) for side in ("left", "right"))
    merged = outlines[order][first]
    for index in np.flatnonzero(after - first > 1):
        whole = shapely.union_all(outlines[order[first[index] : after[index]]])
        merged[index] = shapely.simplify(whole, 0)  # no corners where a strip's edge ran
    return merged
