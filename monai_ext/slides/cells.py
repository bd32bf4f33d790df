"""Every cell of a slide, with its class, in one pass."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
import torch
from torch import Tensor
from tqdm import tqdm

from monai_ext.base.colours import class_colours
from monai_ext.base.files import write_png
from monai_ext.data.cells import Cells, Grid, summarize_cells
from monai_ext.data.result_files import OVERLAY
from monai_ext.formats.geojson import Color, GeoJSONWriter
from monai_ext.formats.reader import SlideReader
from monai_ext.formats.tissue import Tissue
from monai_ext.slides.cell_spool import CellSpool, drop_second_versions, write_csv
from monai_ext.slides.inferer import SlideInferer
from monai_ext.slides.overlay import scale_bar
from monai_ext.slides.partial import PartialSlide
from monai_ext.slides.plan import SlidePlan, Tile
from monai_ext.slides.predictor import CellPredictor, on_data
from monai_ext.slides.seams import CellWindow, join_cut
from monai_ext.slides.stream import decode_tiles

__all__ = ["SlideCells"]

_NUCLEUS = "nucleus"


@dataclass(frozen=True)
class CellOutputs:
    """How cells are written.

    Attributes:
        colours: RGB of each class, 0 to 255.
        object_type: QuPath's type of a cell, ``"detection"`` or ``"annotation"``.
    """

    colours: Mapping[str, Color] = field(default_factory=dict)
    object_type: str = "detection"


class SlideCells(SlideInferer):
    """Finds, measures and classifies the cells of whole slides with bounded memory.

    For a slide ``a/b.svs`` below the input folder these appear below ``output_dir``, each whole or not at all:
    ``a/b.geojson`` (outlines in px of the file, class, probabilities and measurements, the least certain first),
    ``a/b_cells.csv`` (a row for each, in the same order), ``a/b_overlay.png``, ``a/b_plan.json``; ``summary.csv`` has
    counts and densities. They depend on the slide and the settings only. Meanwhile ``a/b.partial`` holds the cells so
    far, from which a run that was killed resumes.

    A cell belongs to the tile that its centroid lies in, and is there only where there is tissue. Tiles overlap by a
    halo in which nuclei are found as well, so that a nucleus on a seam is seen whole by both sides, and in the same
    way. Lest a last bit decides, a tile also takes those a little outside, and of two versions the less sure one is
    dropped; the finder sets how far outside, and how alike versions are. A cell that is longer than the halo, so that
    no tile has it whole, is computed again in a window of its own; where that would be too large, the largest piece
    of it stays, and the summary's ``cut`` counts it.

    Args:
        finder: what finds the cells of a tile: by a map of probabilities, a
            :class:`~monai_ext.inferers.CellFinder`; by a network for instances, an
            :class:`~monai_ext.inferers.InstanceFinder`.
        output_dir: folder to write to; it is made.
        target_mpp: um/px of the network's grid; ``None`` for level 0 as it is.
        mpp: um/px of level 0 of all slides, in place of what they state.
        colours: RGB of each class.
        object_type: QuPath's type of a cell.
        processors: threads that find cells while the network computes the next tiles.
        tile_px: no tile is larger, margins included; a U-Net's memory grows with its square.
        seam_px: nor is the window of a cell that tiles cut larger than the larger of this and ``tile_px``.
        **options: further arguments of :class:`SlideInferer`: batch_size, workers, prefetch, backend, tissue, stains,
            resume, fingerprint, title, notes, check, formats.
    """

    suffixes = (".geojson", "_cells.csv", OVERLAY, "_plan.json")
    totals = ("tissue_mm2", "cells")
    ranked_by = "cells"
    caption = "{cells} cells"

    def __init__(
        self,
        finder: CellPredictor,
        output_dir: str | os.PathLike,
        target_mpp: float | None = None,
        mpp: float | None = None,
        *,
        colours: Mapping[str, Color] | None = None,
        object_type: str = "detection",
        processors: int = 1,
        tile_px: int = 1280,
        seam_px: int = 1280,
        **options: Any,
    ) -> None:
        super().__init__(finder, output_dir, target_mpp, mpp, tile_px=tile_px, **options)
        self.finder, self.processors, self.seam_px = finder, processors, max(seam_px, tile_px)
        self.outputs = CellOutputs(class_colours(finder.class_names, colours), object_type)

    @property
    def _colours(self) -> Mapping[str, Color]:
        return self.outputs.colours

    def _partial(self, work: Path, plan: SlidePlan, tissue: Tissue | None, maker: str) -> PartialSlide:
        maker = json.dumps([maker, self.outputs.colours, self.outputs.object_type, self.seam_px])
        return _PartialCells(work, plan, tissue, self.finder, self.outputs, maker, self.resume)

    def _compute(self, reader: SlideReader, partial: PartialSlide) -> None:
        plan, first = partial.plan, partial.stripes
        before = sum(map(len, plan.stripes[:first]))
        normalize = self._normalize(reader, plan)
        batches = decode_tiles(
            reader,
            plan,
            first=first,
            batch_size=self.batch_size,
            workers=self.workers,
            prefetch=self.prefetch,
            normalize=normalize,
        )
        waiting: deque[tuple[Tile, Future[tuple[Cells, np.ndarray]]]] = deque()
        with (
            ThreadPoolExecutor(self.processors, thread_name_prefix="cells") as pool,
            tqdm(desc=plan.file, total=plan.tile_count, initial=before, unit="tile") as progress,
        ):

            def take(most: int) -> None:
                while len(waiting) > most:
                    tile, cells = waiting.popleft()
                    self._count_seen(partial)
                    partial.add(tile, *cells.result())
                    progress.update()

            self._forget_seen()
            for tiles, pixels, valid in batches:
                predictions = on_data(self.finder(pixels), valid, self.finder.margin - self.finder.halo)
                self._take_seen(tiles)
                for k, tile in enumerate(tiles):
                    waiting.append((tile, pool.submit(self._cells, plan, tile, pixels[k], predictions[k])))
                take(self.processors * self.batch_size)
            take(0)
        partial.join(CellWindow(reader, plan, self.finder, normalize, self.seam_px))

    def _cells(self, plan: SlidePlan, tile: Tile, pixels: Tensor, prediction: Tensor) -> tuple[Cells, np.ndarray]:
        corner = (tile.row * plan.scale, tile.col * plan.scale)
        grid = Grid(plan.mpp, plan.scale, corner, plan.level0_shape, stated=plan.measured)
        with torch.inference_mode():
            return self.finder.cells(pixels, prediction, grid)

    def _write(self, partial: PartialSlide, thumbnail: tuple[np.ndarray, float]) -> dict[str, Any]:
        plan, spool = partial.plan, partial.heat
        geojson, csv, picture, plan_json = (partial.folder / f"output{suffix}" for suffix in self.suffixes)
        records = spool.records()[partial.keep]
        records = records[drop_second_versions(records, self.finder.reach * plan.scale, self._alike(spool))]
        records = records[np.lexsort([records[name] for name in ("col", "row", "confidence")])]
        with GeoJSONWriter(geojson) as writer:
            writer.write_encoded(spool.texts(records, plan.stretch))
        with csv.open("w", encoding="utf-8", newline="") as file:
            write_csv(file, records, spool, self.finder.class_names, plan.stretch)
        write_png(picture, self._picture(records, *thumbnail, plan))
        plan_json.write_text(plan.to_json(), encoding="utf-8")
        summary = summarize_cells(records["class"], self.finder.class_names, plan.tissue_mm2)
        means = {
            f"mean_{name}": round(float(records[name].mean()), 4) if len(records) else None
            for name in ("confidence", "area_um2")
        }
        if not plan.measured:
            means["mean_area_um2"] = None
        return {"tissue_mm2": plan.tissue_mm2, **summary, "cut": partial.stay, **means}

    def _caption(self, summary: Mapping[str, Any]) -> str:
        cut = f", {summary['cut']} of them pieces of larger ones" if summary["cut"] else ""
        return super()._caption(summary) + cut

    def _alike(self, spool: CellSpool) -> Callable[[np.ndarray, np.ndarray], np.ndarray] | None:
        """Which pairs of two tiles' records are versions of one cell."""
        least = self.finder.iou
        return (lambda one, other: spool.ious(one, other) > least) if least else None

    def _picture(self, records: np.ndarray, thumbnail: np.ndarray, scale: float, plan: SlidePlan) -> np.ndarray:
        """The thumbnail, pale, with a dot for each cell."""
        picture = np.ascontiguousarray(np.moveaxis(thumbnail, 0, -1))
        picture = 255 - (255 - picture) // 2  # paler, for the dots to stand out
        colours = np.array(list(class_colours([*self.finder.class_names, _NUCLEUS], self.outputs.colours).values()))
        pixels = [((records[name] + 0.5) / scale).astype(int) for name in ("row", "col")]
        row, col = (np.clip(pixel, 0, side - 1) for pixel, side in zip(pixels, picture.shape, strict=False))
        picture[row, col] = colours[records["class"]]
        shrink = 4096 / max(picture.shape)
        if shrink < 1:
            picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        if plan.measured:
            scale_bar(picture, scale * plan.base_mpp / min(1, shrink))
        return picture


class _PartialCells(PartialSlide):
    """Gathers the cells of a slide's tiles."""

    contents = CellSpool.FILES

    def __init__(
        self,
        folder: Path,
        plan: SlidePlan,
        tissue: Tissue | None,
        finder: CellPredictor,
        outputs: CellOutputs,
        fingerprint: str,
        resume: bool,
    ) -> None:
        super().__init__(folder, plan, tissue, finder.channels, fingerprint, resume)
        self.finder, self.outputs = finder, outputs
        self._number = dict(zip(plan.tiles, count(), strict=False))

    def _open(self, progress: dict[str, Any] | None) -> CellSpool:
        return CellSpool(self.folder, self.finder.class_names, progress and progress["position"])

    def add(self, tile: Tile, cells: Cells, cut: np.ndarray) -> None:
        """Take a tile's cells, those on tissue; after the last one of a stripe, see that all is on disk.

        Args:
            tile: the next of the plan.
            cells: N of them.
            cut: ``(N,)`` bool, those that are pieces; whether their cell is on tissue shows when it is whole.

        Raises:
            OSError: the disk is full.
        """
        kept = self._on_tissue(cells) | cut
        cells, cut = cells[kept], cut[kept]
        low, size = np.array([tile.row, tile.col]), np.array([tile.height, tile.width])
        offset = (cells.centres + 0.5) / self.plan.scale - low
        edge = np.minimum(offset, size - offset).min(axis=1, initial=np.inf)
        near = edge <= self.finder.slack + self.finder.reach  # enough for a neighbour to have another version
        left, top, right, bottom = shapely.bounds(cells.outlines).T / self.plan.scale
        first, last = np.stack([top, left], axis=1) - low, np.stack([bottom, right], axis=1) - low
        long = (last - first).max(axis=1, initial=0) >= self.finder.halo - self.finder.rim - 1
        across = long & ((first < 0) | (last > size)).any(axis=1)  # a neighbour's halo may end within it
        self._append(cells, self._number[tile], seam=near & ~cut, across=across & ~cut, cut=cut)
        self._added(tile, position=self.heat.position)

    def join(self, window: CellWindow) -> None:
        """When all tiles are there, replace pieces by whole cells."""
        self.keep, self.stay = join_cut(self.heat, window.find, self._add_whole, self.finder.min_area_um2)

    def _add_whole(self, cells: Cells) -> None:
        self._append(cells[self._on_tissue(cells)], -1)

    def _append(self, cells: Cells, tile: int, **marks: np.ndarray) -> None:
        self.heat.add(cells, tile, dict(self.outputs.colours), self.outputs.object_type, **marks)

    def _on_tissue(self, cells: Cells) -> np.ndarray:
        """Which cells are on tissue, ``(N,)`` bool; a tile at the slide's edge is read in full."""
        inside = ((cells.centres > -0.5) & (cells.centres < np.array(self.plan.level0_shape) - 0.5)).all(axis=1)
        if self.tissue is not None and inside.any():
            inside[inside] = self.tissue.at(cells.centres[inside] + 0.5)
        return inside
