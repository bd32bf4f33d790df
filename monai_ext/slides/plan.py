"""What will be computed of a slide, decided before anything is."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from itertools import chain
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.formats.reader import SlideReader
from monai_ext.formats.tissue import Tissue

__all__ = ["SlidePlan", "Tile", "plan_slide"]

_GRAINS = 8  # of a square tile's side: tiles begin and end at their multiples, so that they are of few shapes
_EACH = 1 / 64  # what a tile costs besides its px, as a share of the largest one's px
_HEIGHTS = (0.75, 1.0, 1.25)  # of stripes, worth a try, of a square tile's


@dataclass(frozen=True)
class Tile:
    """A rectangle of the map: its first row and column of cells, and how many it has of each."""

    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True)
class SlidePlan:
    """The tiles of a slide that hold tissue, in stripes from top to bottom, and the geometry of the map.

    The map's cell ``(i, j)`` covers ``cell_scale`` x ``cell_scale`` px of level 0, from ``(i, j) * cell_scale``. Every
    cell with tissue is in exactly one tile.

    Attributes:
        file: name of the slide.
        backend: who decodes it.
        resolution_source: who states its resolution; ``assumed`` where nobody does, so that nothing is known in um.
        conflict: what the file states of its resolution besides, where that differs; else empty.
        stretch: px of level 0, which are square, along the rows' and the columns' side of one of the file's.
        level0_shape: rows and columns of level 0.
        base_mpp: um/px of level 0.
        target_mpp: um/px asked for; ``None`` for level 0 as it is.
        mpp: um/px of the network's grid.
        level: where its pixels come from.
        scale: px of level 0 per px of the network's grid.
        step: side of a cell in px of the network's grid.
        margin: px of context on every side of a tile.
        grain: cells; tiles are read in multiples of so many, those at the map's end too.
        shape: rows and columns of cells of the map, which covers the slide and may reach over its edge.
        tissue_cells: cells that touch tissue.
        tissue_mm2: area of the tissue; ``None`` where the resolution is only assumed.
        stripes: the tiles, in rows from left to right, each of them only as high and wide as its tissue.
    """

    file: str
    backend: str
    resolution_source: str
    conflict: str
    stretch: tuple[float, float]
    level0_shape: tuple[int, int]
    base_mpp: float
    target_mpp: float | None
    mpp: float
    level: int
    scale: float
    step: int
    margin: int
    grain: int
    shape: tuple[int, int]
    tissue_cells: int
    tissue_mm2: float | None
    stripes: tuple[tuple[Tile, ...], ...]

    @property
    def measured(self) -> bool:
        """Whether the slide's resolution is stated."""
        return self.resolution_source != "assumed"

    @property
    def cell_scale(self) -> float:
        """Px of level 0 along a cell's side."""
        return self.step * self.scale

    @property
    def cell_um(self) -> float:
        """Side of a cell in um."""
        return self.step * self.mpp

    @property
    def tile_count(self) -> int:
        """Tiles in all."""
        return sum(map(len, self.stripes))

    @property
    def tiles(self) -> Iterator[Tile]:
        """All tiles, one stripe after the other."""
        return chain.from_iterable(self.stripes)

    @property
    def computed_px(self) -> int:
        """Px of the network's grid that are computed, margins included."""
        return sum(math.prod(self.region(tile)[2:]) for tile in self.tiles)

    def cells(self, tile: Tile) -> tuple[int, int]:
        """Rows and columns of cells that are computed for a tile: at the map's end some beyond it."""
        return tuple(-(-side // self.grain) * self.grain for side in (tile.height, tile.width))

    def edges(self, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows and the columns of cells of a tile begin, and where the last ends, px of level 0."""
        rows = np.arange(tile.row, tile.row + tile.height + 1)
        cols = np.arange(tile.col, tile.col + tile.width + 1)
        return rows * self.cell_scale, cols * self.cell_scale

    def region(self, tile: Tile) -> tuple[int, int, int, int]:
        """What to read for a tile: first row, first column, height, width in px of the network's grid.

        The margin is included.
        """
        sides = (cells * self.step + 2 * self.margin for cells in self.cells(tile))
        return (tile.row * self.step - self.margin, tile.col * self.step - self.margin, *sides)

    def to_json(self) -> str:
        """The plan as JSON that a person can read: a line for each length and for each stripe."""
        values = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "stripes"}
        values |= {"cell_um": self.cell_um, "tiles": self.tile_count, "computed_px": self.computed_px}
        stripes = ",\n".join(f"  {json.dumps([list(astuple(tile)) for tile in each])}" for each in self.stripes)
        lines = [f' "{name}": {json.dumps(value)},' for name, value in values.items()]
        return "\n".join(["{", *lines, f' "stripes": [\n{stripes}\n ]', "}", ""])


def plan_slide(
    reader: SlideReader,
    step: int,
    margin: int,
    tile_px: int = 1536,
    tissue: Tissue | None = None,
    align: int = 1,
) -> SlidePlan:
    """Lay tiles over a slide's tissue.

    Stripes begin where tissue begins and follow one another as long as there is some. A stripe is cut into the tiles
    that cost the least: the px that they compute, margins included, and a little for each tile. A tile is only as high
    and wide as its tissue, in steps of an eighth of a square tile. Memory grows with a tile's area, so the area is
    bounded. Of a few heights of stripes the cheapest is taken.

    Args:
        reader: the slide, on the network's grid.
        step: side of a cell, px of the network's grid.
        margin: px of context on every side of a tile.
        tile_px: no tile has a larger area than a square of this side, margins included, unless the smallest one has.
        tissue: where to compute; ``None`` for the whole slide.
        align: tiles begin at multiples of so many px of the network's grid, and of a cell.

    Raises:
        InputError: ``step`` or ``align`` is not positive or ``margin`` negative.
    """
    if step < 1 or margin < 0 or align < 1:
        problem = f"{step}, {margin} and {align}"
        raise InputError(
            "predictor", "a step of at least 1 px, a margin of at least 0, an align of at least 1", problem
        )
    if tissue is None:
        tissue = Tissue(np.ones((1, 1), dtype=bool), float(max(reader.level0_shape)))
        area = math.prod(reader.level0_shape) * reader.base_mpp**2 * 1e-6
    else:
        area = tissue.area_mm2(reader.base_mpp)
    shape = tuple(-(-side // step) for side in reader.shape)
    size = step * reader.scale
    unit = math.lcm(step, align) // step
    square = max(1, (tile_px - 2 * margin) // step // unit)
    grain = unit * max(1, square // _GRAINS)
    edges = [np.minimum(np.arange(-(-cells // grain) + 1) * grain, cells) * size for cells in shape]
    layout = _Layout(tissue.touched(*edges), grain * step, margin, tile_px**2)
    sides = {max(1, round(share * square * unit / grain)) for share in _HEIGHTS}
    _, boxes = min((layout.stripes(side) for side in sorted(sides)), key=itemgetter(0))
    stripes = tuple(tuple(_tile(box, grain, shape) for box in stripe) for stripe in boxes)
    return SlidePlan(
        file=reader.path.name,
        backend=reader.backend,
        resolution_source=reader.resolution_source,
        conflict=reader.conflict,
        stretch=reader.stretch,
        level0_shape=reader.level0_shape,
        base_mpp=reader.base_mpp,
        target_mpp=reader.target_mpp,
        mpp=reader.mpp,
        level=reader.level,
        scale=reader.scale,
        step=step,
        margin=margin,
        grain=grain,
        shape=shape,
        tissue_cells=tissue.count(*(np.arange(cells + 1) * size for cells in shape)),
        tissue_mm2=None if reader.resolution_source == "assumed" else area,
        stripes=stripes,
    )


class _Box(NamedTuple):
    """A rectangle of grains."""

    top: int
    left: int
    bottom: int
    right: int


def _tile(box: _Box, grain: int, shape: tuple[int, int]) -> Tile:
    """The cells of a rectangle of grains, up to the map's end."""
    row, col = box.top * grain, box.left * grain
    return Tile(row, col, min(box.bottom * grain, shape[0]) - row, min(box.right * grain, shape[1]) - col)


class _Layout:
    """Cuts what is wanted of a slide into tiles.

    Args:
        wanted: which grains touch tissue, bool ``(R, C)``.
        grain_px: side of a grain, px of the network's grid.
        margin: px around a tile.
        most: px that a tile has at the most, margins included, if it is of more than one grain.
    """

    def __init__(self, wanted: np.ndarray, grain_px: int, margin: int, most: int) -> None:
        self.wanted, self.grain_px, self.margin, self.most = wanted, grain_px, margin, most
        self.widest = max(1, (most // (grain_px + 2 * margin) - 2 * margin) // grain_px)

    def stripes(self, height: int) -> tuple[float, list[list[_Box]]]:
        """What stripes of so many grains cost, and their tiles; infinite where they do not fit."""
        rows = np.flatnonzero(self.wanted.any(axis=1))
        cost, stripes, index = 0.0, [], 0
        while index < len(rows):
            top = int(rows[index])
            more, boxes = self._stripe(top, self.wanted[top : top + height])
            cost += more
            stripes.append(boxes)
            index = int(np.searchsorted(rows, top + height))
        return cost, stripes

    def _stripe(self, top: int, wanted: np.ndarray) -> tuple[float, list[_Box]]:
        """The cheapest tiles of a stripe, by dynamic programming from left to right."""
        filled = wanted.any(axis=0)
        first = np.where(filled, wanted.argmax(axis=0), len(wanted))
        last = np.where(filled, len(wanted) - wanted[::-1].argmax(axis=0), 0)
        least = np.full(len(filled) + 1, np.inf)  # cost of what is left of a column
        begins = np.arange(-1, len(filled))  # of the tile, or of the empty column, that ends there
        least[0] = 0
        for left in range(len(filled)):
            if filled[left]:
                tops = np.minimum.accumulate(first[left : left + self.widest])
                bottoms = np.maximum.accumulate(last[left : left + self.widest])
                cost = least[left] + self._cost(bottoms - tops, np.arange(1, len(tops) + 1))
            else:
                cost = least[left : left + 1]
            ends = slice(left + 1, left + 1 + len(cost))
            cheaper = cost < least[ends]
            least[ends][cheaper], begins[ends][cheaper] = cost[cheaper], left
        boxes, right = [], len(filled)
        while right > 0:
            left = int(begins[right])
            if filled[left]:
                low, high = int(first[left:right].min()), int(last[left:right].max())
                boxes.append(_Box(top + low, left, top + high, right))
            right = left
        return float(least[-1]), boxes[::-1]

    def _cost(self, heights: np.ndarray, widths: np.ndarray) -> np.ndarray:
        """Of tiles of so many grains, in px; infinite where that is too much."""
        px = (heights * self.grain_px + 2 * self.margin) * (widths * self.grain_px + 2.0 * self.margin)
        return np.where((px <= self.most) | (heights * widths == 1), px + _EACH * self.most, np.inf)
