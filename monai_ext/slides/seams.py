"""Cells that tiles cut, because they are longer than the halo: computed again, each in a window of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import shapely
import torch
from tqdm import tqdm

from monai_ext.data.cells import Cells, Grid
from monai_ext.data.outlines import valid_geometry
from monai_ext.slides.cell_spool import CellSpool
from monai_ext.slides.plan import SlidePlan
from monai_ext.slides.reader import SlideReader

if TYPE_CHECKING:
    from monai_ext.inferers.cells import TileFinder

__all__ = ["CellWindow", "join_cut"]

_MOSTLY = 0.5  # share of the smaller of two outlines above which they show one cell
_PATIENCE = 5  # s before progress is shown


@dataclass(frozen=True)
class CellWindow:
    """Finds the cells at a place of a slide, in a window as large as they need.

    Args:
        reader: the slide.
        plan: its geometry.
        finder: what finds the cells of a tile.
        normalize: applied to the pixels, uint8 ``(3, H, W)``.
        side: no window, margins included, has a larger area than a square of so many px.
    """

    reader: SlideReader
    plan: SlidePlan
    finder: TileFinder
    normalize: Callable[[np.ndarray], np.ndarray] | None
    side: int

    def find(self, piece: shapely.Polygon) -> Cells | None:
        """The cells that a piece is of, whole.

        Args:
            piece: a part of them, ``x, y`` in px of level 0.

        Returns:
            cells, none of them if there is nothing to see as soon as more is seen; ``None`` where they do not fit into
            the largest window.
        """
        box, before = self._box(piece), None
        while (window := self._window(box)) not in (None, before):
            cells, cut = self._cells(window)
            same = _alike(valid_geometry(cells.outlines), piece)
            if not (same & cut).any():
                return cells[same]
            seen = self._box(shapely.union_all(cells.outlines[same & cut]))
            box = np.stack([np.minimum(box[0], seen[0]), np.maximum(box[1], seen[1])])
            box, before = self._grown(box, window), window
        return None

    def _box(self, outline: shapely.Geometry) -> np.ndarray:
        """``[[row, col], [row, col]]``, first and last px of the network's grid."""
        return np.array(outline.bounds).reshape(2, 2)[:, ::-1] / self.plan.scale

    def _window(self, box: np.ndarray) -> tuple[int, int, int, int] | None:
        """First row and column and ends of the smallest window, without margins; ``None`` if it is too large."""
        align, margin = self.finder.align, self.finder.margin
        most = np.ceil(np.array(self.reader.shape) / align)
        low, high = np.maximum(np.floor(box[0] / align), 0), np.minimum(np.ceil(box[1] / align), most)
        if np.prod((high - low) * align + 2 * margin) > self.side**2:
            return None
        return tuple((np.append(low, high) * align).astype(int).tolist())

    def _grown(self, box: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
        """A box half as large again wherever it comes to the end of what was looked at."""
        reach = np.array([[1], [-1]]) * (self.finder.rim + 1 - self.finder.halo)  # outlines are simplified by a px
        ends = (np.array(window).reshape(2, 2) + reach - box) * [[1], [-1]] >= 0
        more = np.maximum((box[1] - box[0]) / 2, self.finder.align) * [[-1], [1]]
        grown = box + ends * more
        return grown if self._window(grown) != window else box + more

    def _cells(self, window: tuple[int, int, int, int]) -> tuple[Cells, np.ndarray]:
        """The cells of a window, and which of them are cut."""
        plan, margin = self.plan, self.finder.margin
        top, left, bottom, right = window
        pixels = self.reader.read(top - margin, left - margin, bottom - top + 2 * margin, right - left + 2 * margin)
        pixels = np.ascontiguousarray(np.moveaxis(self.normalize(pixels) if self.normalize else pixels, 0, -1))
        tile = torch.from_numpy(pixels).permute(2, 0, 1)
        grid = Grid(plan.mpp, plan.scale, (top * plan.scale, left * plan.scale), plan.level0_shape)
        with torch.inference_mode():
            return self.finder.cells(tile, self.finder(tile[None])[0], grid, all_inside=True)


def join_cut(
    spool: CellSpool, find: Callable[[shapely.Polygon], Cells | None], add: Callable[[Cells], None]
) -> tuple[np.ndarray, int]:
    """Put whole cells in the place of pieces, each once.

    A piece of a cell that another tile sees whole is dropped. Of the others the largest is first. What is found whole
    takes the place of everything that is mostly the same.

    Args:
        spool: the cells of all tiles, pieces included.
        find: the cells that a piece is of, see :meth:`CellWindow.find`.
        add: appends cells to the spool.

    Returns:
        which of the spool's records, those that were appended included, to keep, ``(N,)`` bool; and how many pieces
        are among them, the largest of each cell that is larger than any window.
    """
    records = spool.records()
    keep, stay = ~records["cut"], 0
    pieces = np.flatnonzero(records["cut"])
    if not len(pieces):
        return keep, stay
    pieces = pieces[np.argsort(-records["area_um2"][pieces], kind="stable")]
    across = np.flatnonzero(keep & records["across"])
    seen, new = spool.outlines(records[across]), np.zeros(0, dtype=object)
    for number in tqdm(pieces.tolist(), "seams", unit="piece", delay=_PATIENCE):
        (piece,) = spool.outlines(records[[number]])
        if any((_shared(each, piece) > _MOSTLY * piece.area).any() for each in (seen[keep[across]], new)):
            continue
        cells = find(piece)
        if cells is None:
            keep[number], stay, new = True, stay + 1, np.append(new, piece)
            continue
        cells = cells[[not _alike(new, outline).any() for outline in cells.outlines]]
        for outline in cells.outlines:
            near = _near(records, outline)
            near[across] = True
            rivals = np.flatnonzero(keep & near)
            keep[rivals[_alike(spool.outlines(records[rivals]), outline)]] = False
        add(cells)
        new = np.append(new, cells.outlines)
    return np.append(keep, np.ones(spool.position["cells"] - len(keep), bool)), stay


def _near(records: np.ndarray, outline: shapely.Geometry) -> np.ndarray:
    """Which records have their centroid in an outline's bounding box, ``(N,)`` bool."""
    left, top, right, bottom = outline.bounds
    row, col = records["row"], records["col"]
    return (row >= top) & (row <= bottom) & (col >= left) & (col <= right)


def _alike(outlines: np.ndarray, other: shapely.Geometry) -> np.ndarray:
    """Which of N outlines show the same as another: one is mostly inside the other, ``(N,)`` bool."""
    return _shared(outlines, other) > _MOSTLY * np.minimum(shapely.area(outlines), other.area)


def _shared(outlines: np.ndarray, other: shapely.Geometry) -> np.ndarray:
    """The area that each of N outlines has in common with another, ``(N,)``."""
    area, meet = np.zeros(len(outlines)), shapely.intersects(outlines, other)
    area[meet] = shapely.area(shapely.intersection(outlines[meet], other))
    return area
