"""Cells that tiles cut, because they are longer than the halo: computed again, each in a window of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import shapely
import torch
from tqdm import tqdm

from monai_ext.data.cells import Cells, Grid
from monai_ext.formats.outlines import valid_geometry
from monai_ext.formats.reader import SlideReader
from monai_ext.instances.seams import MOSTLY, GrowingWindow, first_of_each_group
from monai_ext.slides.cell_spool import CellSpool
from monai_ext.slides.plan import SlidePlan
from monai_ext.slides.predictor import CellPredictor, on_data

__all__ = ["CellWindow", "join_cut"]

_PATIENCE = 5  # s before progress is shown


@dataclass(frozen=True)
class CellWindow:
    """Finds the cells around a point of a slide, in a window as large as they need.

    Args:
        reader: the slide.
        plan: its geometry.
        finder: what finds the cells of a tile.
        normalize: applied to the pixels, uint8 ``(3, H, W)``.
        side: no window, margins included, has a larger area than a square of so many px.
    """

    reader: SlideReader
    plan: SlidePlan
    finder: CellPredictor
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
        finder = self.finder
        reach = finder.halo - finder.rim - 1  # outlines are simplified by a px
        windows = GrowingWindow(self.reader.shape, finder.align, finder.margin, reach, self.side)
        return windows.follow(self._box(piece), partial(self._look, piece))

    def _look(self, piece: shapely.Polygon, window: tuple[int, int, int, int]) -> tuple[Cells, np.ndarray | None]:
        """The cells of a window that a piece is of, and the box of those that are cut."""
        cells, cut = self._cells(window)
        same = _alike(valid_geometry(cells.outlines), piece)
        cut = cells.outlines[same & cut]
        return cells[same], self._box(shapely.union_all(cut)) if len(cut) else None

    def _box(self, outline: shapely.Geometry) -> np.ndarray:
        """``[[row, col], [row, col]]``, first and last px of the network's grid."""
        return np.array(outline.bounds).reshape(2, 2)[:, ::-1] / self.plan.scale

    def _cells(self, window: tuple[int, int, int, int]) -> tuple[Cells, np.ndarray]:
        """The cells of a window, and which of them are cut."""
        plan, margin = self.plan, self.finder.margin
        top, left, bottom, right = window
        region = (top - margin, left - margin, bottom - top + 2 * margin, right - left + 2 * margin)
        pixels, valid = self.reader.read_valid(*region)
        pixels = np.ascontiguousarray(np.moveaxis(self.normalize(pixels) if self.normalize else pixels, 0, -1))
        tile = torch.from_numpy(pixels).permute(2, 0, 1)
        corner = (top * plan.scale, left * plan.scale)
        grid = Grid(plan.mpp, plan.scale, corner, plan.level0_shape, stated=plan.measured)
        with torch.inference_mode():
            data = None if valid is None else torch.from_numpy(valid)[None, None]
            prediction = on_data(self.finder(tile[None]), data, margin - self.finder.halo)[0]
            return self.finder.cells(tile, prediction, grid, all_inside=True)


def join_cut(
    spool: CellSpool,
    find: Callable[[shapely.Polygon], Cells | None],
    add: Callable[[Cells], None],
    min_area_um2: float = 0.0,
) -> tuple[np.ndarray, int]:
    """Replace pieces by whole cells, each only one time.

    A piece of a cell that another tile sees whole is dropped. Of the others the largest is first. A cell that is
    found whole replaces everything that is mostly the same.

    Args:
        spool: the cells of all tiles, pieces included.
        find: the cells that a piece is of, see :meth:`CellWindow.find`.
        add: appends cells to the spool.
        min_area_um2: smaller pieces do not stay for a cell that is larger than any window.

    Returns:
        which of the spool's records, those that were appended included, to keep, ``(N,)`` bool; and how many pieces
        are among them, the largest of each cell that is larger than any window.
    """
    records = spool.records()
    keep = ~records["cut"]
    pieces = np.flatnonzero(records["cut"])
    if not len(pieces):
        return keep, 0
    sizes = records["area_um2"][pieces]
    if np.isnan(sizes).any():  # of a slide without a resolution
        sizes = shapely.area(spool.outlines(records[pieces]))
    pieces = pieces[np.argsort(-sizes, kind="stable")]
    across = np.flatnonzero(keep & records["across"])
    seen, new, large = spool.outlines(records[across]), np.zeros(0, dtype=object), np.zeros(0, dtype=object)
    too_large = []
    for number in tqdm(pieces.tolist(), "seams", unit="piece", delay=_PATIENCE):
        (piece,) = spool.outlines(records[[number]])
        if _inside(piece, seen[keep[across]]) or _inside(piece, new):
            continue
        cells = None if _inside(piece, large) else find(piece)
        if cells is None:
            large = np.append(large, piece)
            too_large.append(number)
            continue
        cells = cells[[not _alike(new, outline).any() for outline in cells.outlines]]
        for outline in cells.outlines:
            near = _near(records, outline)
            near[across] = True
            rivals = np.flatnonzero(keep & near)
            keep[rivals[_alike(spool.outlines(records[rivals]), outline)]] = False
        add(cells)
        new = np.append(new, cells.outlines)
    if too_large:
        meeting = shapely.STRtree(large).query(large, predicate="intersects")
        too_large = np.array(too_large)[first_of_each_group(meeting, len(large))]
        too_large = too_large[records["area_um2"][too_large] >= min_area_um2]
        keep[too_large] = True
    return np.append(keep, np.ones(spool.position["cells"] - len(keep), bool)), len(too_large)


def _inside(piece: shapely.Geometry, outlines: np.ndarray) -> bool:
    """Whether a piece is mostly inside one of some outlines."""
    return bool((_shared(outlines, piece) > MOSTLY * piece.area).any())


def _near(records: np.ndarray, outline: shapely.Geometry) -> np.ndarray:
    """Which records have their centroid in an outline's bounding box, ``(N,)`` bool."""
    left, top, right, bottom = outline.bounds
    row, col = records["row"], records["col"]
    return (row >= top) & (row <= bottom) & (col >= left) & (col <= right)


def _alike(outlines: np.ndarray, other: shapely.Geometry) -> np.ndarray:
    """Which of N outlines show the same as another: one is mostly inside the other, ``(N,)`` bool."""
    return _shared(outlines, other) > MOSTLY * np.minimum(shapely.area(outlines), other.area)


def _shared(outlines: np.ndarray, other: shapely.Geometry) -> np.ndarray:
    """The area that each of N outlines has in common with another, ``(N,)``."""
    area, meet = np.zeros(len(outlines)), shapely.intersects(outlines, other)
    area[meet] = shapely.area(shapely.intersection(outlines[meet], other))
    return area
