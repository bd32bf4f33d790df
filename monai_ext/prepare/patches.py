"""Drawing patches from annotated slides: a random slide, then a random position among those that qualify."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import shapely
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.base.files import write_png
from monai_ext.formats.asap import read_asap_region
from monai_ext.formats.geojson import Features, write_geojson
from monai_ext.formats.outlines import polygons_to_mask
from monai_ext.prepare.samples import LabelledSample, Sample, copy_or_link

if TYPE_CHECKING:
    from monai_ext.formats.reader import SlideReader

__all__ = ["PatchGrid", "Rule", "Slide", "both_kinds", "draw_patches", "label_at_centre", "slide_reader"]

_TUMOUR_COLOR = (200, 0, 0)
_CELLS = 12  # cells of a slide's coarse map along a patch
_TRIES = 30  # candidates per wanted patch; most of them qualify


@dataclass
class Slide(LabelledSample):
    """A slide, its label (1 where it holds tumour) and its tumour's outlines.

    Args:
        image: the slide's file.
        annotation: ASAP's XML, or None.
        mpp: um per pixel of level 0; None: as the file states.
        exhaustive: whether all of its tumour is outlined.
    """

    image: Path
    annotation: Path | None = None
    mpp: float | None = None
    exhaustive: bool = True

    def region(self) -> np.ndarray:
        """Its tumour: ``(N,)`` disjoint shapely polygons in level-0 pixels."""
        return np.empty(0, dtype=object) if self.annotation is None else read_asap_region(self.annotation)

    def check(self) -> list[str]:
        """See that the slide opens and states its resolution, and that the outlines of its tumour can be read."""
        from monai_ext.formats.reader import SlideReader

        problems = []
        try:
            SlideReader(self.image, mpp=self.mpp)
        except InputError as error:
            problems.append(str(error))
        try:
            if self.label and not len(self.region()):
                problems.append(f"{self.annotation}: expected outlines of tumour, found none")
        except InputError as error:
            problems.append(str(error))
        return problems

    def write(self, dst: Path, link: bool) -> dict[str, object]:  # noqa: ARG002 - slides are too large to be copied
        """Link the slide and write its tumour as GeoJSON."""
        entry: dict[str, object] = {"image": f"slides/{self.name}{self.image.suffix}", "label": self.label}
        copy_or_link(self.image, dst / entry["image"], link=True)
        entry["annotation"] = None
        if self.annotation is not None:
            entry["annotation"] = f"annotations/{self.name}.geojson"
            features = Features(self.region(), "Tumor", colors={"Tumor": _TUMOUR_COLOR})
            write_geojson(dst / entry["annotation"], features)
        return entry | {"exhaustive": self.exhaustive}


@dataclass(frozen=True)
class PatchGrid:
    """What patches are like.

    Args:
        mpp: um per pixel wanted; a slide's level within 10 % of it is taken as it is.
        size: their side in pixels.
    """

    mpp: float = 1.0
    size: int = 96

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or self.size < _CELLS:
            raise InputError("size", f"a whole number of pixels, at least {_CELLS}", repr(self.size))
        if not 0.1 <= self.mpp <= 20:
            raise InputError("mpp", "0.1 to 20 um/px", repr(self.mpp))


@dataclass
class Patch(LabelledSample):
    """A square of a slide: written as PNG.

    Args:
        slide: where it is from.
        grid: its resolution and size.
        row: its first row, in pixels of the grid.
        col: its first column.
        mask: ``(size, size)`` bool, its tumour, if that is to be written.
    """

    slide: Slide
    grid: PatchGrid
    row: int
    col: int
    mask: np.ndarray | None = None

    def check(self) -> list[str]:
        """Its slide was checked."""
        return []

    def write(self, dst: Path, link: bool) -> dict[str, object]:  # noqa: ARG002 - there is no file to link
        """The pixels, and the mask as 0 and 255."""
        reader = slide_reader(self.slide.image, self.grid.mpp, self.slide.mpp)
        entry: dict[str, object] = {"image": f"images/{self.name}.png", "label": self.label, "mpp": reader.mpp}
        side = self.grid.size
        write_png(dst / entry["image"], np.moveaxis(reader.read(self.row, self.col, side, side), 0, -1))
        if self.mask is not None:
            entry["mask"] = f"masks/{self.name}.png"
            write_png(dst / entry["mask"], np.where(self.mask, np.uint8(255), np.uint8(0)))
        return entry


@lru_cache(maxsize=2)  # slides come one after the other
def slide_reader(path: Path, target_mpp: float, mpp: float | None) -> SlideReader:
    """The reader of a slide; the last two are kept."""
    from monai_ext.formats.reader import SlideReader  # it imports torch, which no other converter needs

    return SlideReader(path, target_mpp, mpp)


class _Map:
    """Where a slide has tissue and where tumour: exactly for one place, coarsely for all.

    Attributes:
        tissue: ``(rows, cols)`` bool, cells of tissue.
        inside: cells whose middle is in tumour.
        edge: cells that an outline of tumour runs through.
        cell: side of a cell in pixels of the patches' grid.
        limit: first row and column at which a patch would reach over the slide's edge.
    """

    def __init__(self, slide: Slide, grid: PatchGrid) -> None:
        from monai_ext.formats.tissue import tissue_mask

        self.grid = grid
        reader = slide_reader(slide.image, grid.mpp, slide.mpp)
        coarse = grid.mpp * grid.size / _CELLS
        side = reader.thumbnail_scale(coarse)
        thumbnail, valid = reader.overview(coarse)
        self.tissue = tissue_mask(thumbnail, reader.base_mpp * side, valid=valid)
        self.scale, self.cell = reader.scale, side / reader.scale
        self.limit = [int(length / reader.scale) - grid.size + 1 for length in reader.level0_shape]
        self.region = slide.region()
        if reader.stretch != (1, 1):  # from the file's px to square ones
            self.region = shapely.transform(self.region, lambda xy: xy * reader.stretch[::-1])
        self.tree = shapely.STRtree(self.region)
        self.inside = polygons_to_mask(self.region, self.tissue.shape, scale=side)
        self.edge = np.zeros_like(self.tissue)
        corners = shapely.get_coordinates(shapely.segmentize(shapely.boundary(self.region), side / 2))
        rows, cols = np.floor(corners / side).astype(np.int64).T[::-1]
        within = (rows >= 0) & (cols >= 0) & (rows < self.edge.shape[0]) & (cols < self.edge.shape[1])
        self.edge[rows[within], cols[within]] = True

    def tumour(self, row: int, col: int, side: int) -> np.ndarray:
        """``(side, side)`` bool: the tumour of a square that begins at ``row, col``."""
        top, left, length = row * self.scale, col * self.scale, side * self.scale
        near = self.tree.query(shapely.box(left, top, left + length, top + length))
        return polygons_to_mask(self.region[near], (side, side), (top, left), self.scale)

    def tissue_at(self, row: int, col: int, side: int) -> np.ndarray:
        """``(side, side)`` bool: its tissue."""
        rows, cols = (
            np.minimum((np.arange(first, first + side) + 0.5) / self.cell, length - 1).astype(np.int64)
            for first, length in zip((row, col), self.tissue.shape, strict=True)
        )
        return self.tissue[np.ix_(rows, cols)]

    def near(self, cells: np.ndarray, reach: float) -> np.ndarray:
        """Cells that are not further than ``reach`` pixels from some cells."""
        steps = math.ceil(reach / self.cell) + 1
        return cv2.dilate(cells.astype(np.uint8), np.ones((2 * steps + 1,) * 2, np.uint8)).astype(bool)


class Rule(NamedTuple):
    """Which patches qualify.

    Args:
        what: for messages.
        cells: cells of a slide's map that may hold the middle of such a patch; too many do no harm.
        holds: whether a patch that begins at ``row, col`` is one: its label and mask, or None.
    """

    what: str
    cells: Callable[[_Map], np.ndarray]
    holds: Callable[[_Map, int, int], tuple[int, np.ndarray | None] | None]


def label_at_centre(label: int) -> Rule:
    """Patches with (1) or without (0) tumour in their central third (32 of 96 px), as PCam and Liu et al. label them.

    The middle of a patch without tumour lies in tissue.
    """

    def cells(slide: _Map) -> np.ndarray:
        if label:
            return slide.near(slide.inside | slide.edge, slide.grid.size / 6)
        return slide.tissue & ~(slide.inside & ~slide.edge)

    def holds(slide: _Map, row: int, col: int) -> tuple[int, None] | None:
        third = round(slide.grid.size / 3)
        margin = (slide.grid.size - third) // 2
        return (label, None) if slide.tumour(row + margin, col + margin, third).any() == label else None

    return Rule("tumour patches" if label else "normal patches", cells, holds)


def both_kinds(least: float) -> Rule:
    """Patches that hold tumour and normal tissue.

    Args:
        least: share of the patch that each must have.
    """

    def cells(slide: _Map) -> np.ndarray:
        return slide.near(slide.edge, slide.grid.size / 2)

    def holds(slide: _Map, row: int, col: int) -> tuple[int, np.ndarray] | None:
        tumour = slide.tumour(row, col, slide.grid.size)
        normal = slide.tissue_at(row, col, slide.grid.size) & ~tumour
        return (1, tumour) if min(tumour.mean(), normal.mean()) >= least else None

    return Rule(f"patches with at least {least:g} of tumour and of normal tissue", cells, holds)


def draw_patches(
    pools: Sequence[tuple[Rule, Sequence[Slide]]], count: int, grid: PatchGrid, seed: int | Sequence[int]
) -> list[Sample]:
    """Draw patches: each rule has an equal share of them; of its slides each has the same chance, then each place.

    Liu et al., *Detecting cancer metastases on gigapixel pathology images* (2017), section 3. A slide with fewer
    places than were drawn from it leaves the rest to the other slides. No place is drawn twice.

    Args:
        pools: a rule and the slides it applies to.
        count: how many patches in all.
        grid: their resolution and size.
        seed: of the draw.

    Returns:
        The patches; fewer than ``count`` where the slides do not have so many places.

    Raises:
        InputError: a slide that cannot be read.
    """
    rng = np.random.RandomState(seed)
    open_slides = {rule: list(slides) for rule, slides in pools}
    missing = {rule: (count + number) // len(pools) for number, rule in enumerate(open_slides)}
    drawn: dict[str, dict[tuple[int, int], Patch]] = defaultdict(dict)
    while True:
        asked: dict[str, list[tuple[Slide, Rule, int]]] = defaultdict(list)
        for rule, slides in open_slides.items():
            if slides:
                numbers = rng.multinomial(missing[rule], [1 / len(slides)] * len(slides)).tolist()
                for slide, number in zip(slides, numbers, strict=True):
                    if number:
                        asked[slide.name].append((slide, rule, number))
        if not asked:
            return [patch for slide_patches in drawn.values() for patch in slide_patches.values()]
        for name in tqdm(sorted(asked), desc="drawing patches", unit="slide", file=sys.stderr):
            coarse = _Map(asked[name][0][0], grid)
            for slide, rule, number in asked[name]:
                new_patches = _find(coarse, slide, rule, number, rng, drawn[name])
                missing[rule] -= len(new_patches)
                drawn[name] |= new_patches
                if len(new_patches) < number:
                    open_slides[rule].remove(slide)


def _find(
    coarse: _Map, slide: Slide, rule: Rule, number: int, rng: np.random.RandomState, taken: Mapping
) -> dict[tuple[int, int], Patch]:
    """Up to ``number`` new patches of a slide."""
    cells = np.argwhere(rule.cells(coarse))
    patches: dict[tuple[int, int], Patch] = {}
    seen = set(taken)
    for _ in range(_TRIES if len(cells) else 0):
        middles = (cells[rng.randint(len(cells), size=number)] + rng.random_sample((number, 2))) * coarse.cell
        for row, col in (np.floor(middles).astype(np.int64) - coarse.grid.size // 2).tolist():
            if (row, col) in seen or not (0 <= row < coarse.limit[0] and 0 <= col < coarse.limit[1]):
                continue
            seen.add((row, col))
            verdict = rule.holds(coarse, row, col)
            if verdict is not None:
                name = f"{slide.name}/{row:06d}_{col:06d}"
                label, mask = verdict
                patches[row, col] = Patch(slide.group, name, label, slide, coarse.grid, row, col, mask)
                if len(patches) == number:
                    return patches
    return patches
