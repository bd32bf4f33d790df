"""What will be computed of a slide, decided before anything is."""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.formats.reader import SlideReader
from monai_ext.formats.tissue import Tissue

__all__ = ["SlidePlan", "Stripe", "Tile", "plan_slide"]

_OTHER_STRIPES = 2  # more or fewer than square tiles need; beyond that margins cost more than the ends of rows


@dataclass(frozen=True)
class Tile:
    """A rectangle of the map: its first row and column of cells, and how many it has of each."""

    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True)
class Stripe:
    """A row of tiles: its first row of cells, and the first column of each of its tiles."""

    row: int
    cols: tuple[int, ...]


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
        tile: rows and columns of cells of a tile; tiles at the map's end have fewer.
        shape: rows and columns of cells of the map, which covers the slide and may reach over its edge.
        tissue_cells: cells that touch tissue.
        tissue_mm2: area of the tissue; ``None`` where the resolution is only assumed.
        stripes: the tiles.
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
    tile: tuple[int, int]
    shape: tuple[int, int]
    tissue_cells: int
    tissue_mm2: float | None
    stripes: tuple[Stripe, ...]

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
        return sum(len(stripe.cols) for stripe in self.stripes)

    def tiles(self, stripe: Stripe) -> Iterator[Tile]:
        """The tiles of a stripe, each ending at the map's end at the latest."""
        height = min(self.tile[0], self.shape[0] - stripe.row)
        for col in stripe.cols:
            yield Tile(stripe.row, col, height, min(self.tile[1], self.shape[1] - col))

    def edges(self, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows and the columns of cells of a tile begin, and where the last ends, px of level 0."""
        rows = np.arange(tile.row, tile.row + tile.height + 1)
        cols = np.arange(tile.col, tile.col + tile.width + 1)
        return rows * self.cell_scale, cols * self.cell_scale

    def region(self, tile: Tile) -> tuple[int, int, int, int]:
        """What to read for a tile: first row, first column, height, width in px of the network's grid.

        The margin is included, and a tile at the map's end is read in full, so that all are of one size.
        """
        sides = (cells * self.step + 2 * self.margin for cells in self.tile)
        return (tile.row * self.step - self.margin, tile.col * self.step - self.margin, *sides)

    def to_json(self) -> str:
        """The plan as JSON that a person can read: a line for each length and for each stripe."""
        values = asdict(self) | {"cell_um": self.cell_um, "tiles": self.tile_count}
        stripes = ",\n".join(f"  {json.dumps(stripe)}" for stripe in values.pop("stripes"))
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

    Stripes begin where tissue begins and follow one another as long as there is some; so do the tiles of a stripe.
    Memory grows with a tile's area, so the area is bounded: of all shapes within the bound the one is taken that
    computes the fewest px, margins included. So tiles are of about the same area on slides of any size.

    Args:
        reader: the slide, on the network's grid.
        step: side of a cell, px of the network's grid.
        margin: px of context on every side of a tile.
        tile_px: no tile has a larger area than a square of this side, margins included, unless a single cell has.
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
    row_edges, col_edges = (np.arange(side + 1) * size for side in shape)
    unit = math.lcm(step, align) // step
    profile = tissue.touched(row_edges, col_edges[[0, -1]])[:, 0]
    best: tuple[int, tuple[int, int], list[int], list[np.ndarray]] | None = None
    for height in _heights(profile, max(1, (tile_px - 2 * margin) // step // unit) * unit, unit):
        tops = _cover(profile, height, unit)
        profiles = [tissue.touched(row_edges[[top, min(top + height, shape[0])]], col_edges)[0] for top in tops]
        rows = height * step + 2 * margin
        most = max(1, (tile_px**2 // rows - 2 * margin) // step // unit)
        width = _smallest(most, unit, partial(_count, profiles, unit))
        computed = _count(profiles, unit, width) * rows * (width * step + 2 * margin)
        fits = rows * (width * step + 2 * margin) <= tile_px**2
        if best is None or (fits and computed < best[0]):
            best = computed, (height, width), tops, profiles
    _, (height, width), tops, profiles = best
    stripes = (Stripe(top, tuple(_cover(profile, width, unit))) for top, profile in zip(tops, profiles, strict=True))
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
        tile=(height, width),
        shape=shape,
        tissue_cells=tissue.count(row_edges, col_edges),
        tissue_mm2=None if reader.resolution_source == "assumed" else area,
        stripes=tuple(stripes),
    )


def _cover(wanted: np.ndarray, size: int, unit: int) -> list[int]:
    """Where the fewest intervals that hold every place wanted begin; like ``size``, at multiples of ``unit``."""
    positions = np.flatnonzero(wanted)
    begins: list[int] = []
    index = 0
    while index < len(positions):
        begins.append(int(positions[index]) // unit * unit)
        index = int(np.searchsorted(positions, begins[-1] + size))
    return begins


def _count(profiles: Sequence[np.ndarray], unit: int, size: int) -> int:
    return sum(len(_cover(profile, size, unit)) for profile in profiles)


def _heights(profile: np.ndarray, square: int, unit: int) -> Iterator[int]:
    """Heights of tiles worth a try: a square one's, and the smallest that need about as many stripes."""
    yield square
    stripes = len(_cover(profile, square, unit))
    for count in range(max(1, stripes - _OTHER_STRIPES), stripes + _OTHER_STRIPES + 1):
        sizes = range(unit, len(profile) + unit, unit)
        yield sizes[bisect_left(sizes, True, key=lambda size, count=count: len(_cover(profile, size, unit)) <= count)]


def _smallest(most: int, unit: int, count: Callable[[int], int]) -> int:
    """The smallest size that needs no more intervals than ``most`` units do; larger ones never need more."""
    fewest = count(most * unit)
    sizes = range(unit, most * unit + 1, unit)
    return sizes[bisect_left(sizes, True, key=lambda size: count(size) <= fewest)]
