"""The files that a vessel's diagnosis leaves behind: GeoJSON for QuPath, pictures, a row of a table."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy, convert_to_tensor
from skimage.measure import label as connected

from monai_ext.data.cohort import Cohort
from monai_ext.data.geojson import Features, GeoJSONWriter
from monai_ext.data.points import atomic_path
from monai_ext.data.result_files import ResultFiles
from monai_ext.transforms.load_vessel import LoadVesseld
from monai_ext.transforms.mosaic import CellGridMosaic, spread_patches
from monai_ext.visualize.overlay import overlay

__all__ = ["SaveVesseld"]

_HEALTHY, _CANCEROUS = 1, 2  # class ids of a patch
_COLOURS = {
    "Invaded vessel": (200, 0, 0),
    "Healthy vessel": (0, 140, 60),
    "Cancerous patch": (230, 60, 30),
    "Tumor": (200, 0, 0),
    "Healthy cell": (30, 90, 255),
}
_SMALLEST_SIDE = 384  # px of a picture


class SaveVesseld(MapTransform):
    """Puts what the network says of a vessel's mosaics back into the vessel, and writes it.

    Mosaics come one by one, as a loader of :class:`CellGridMosaicd` with ``limit="split"`` and a batch size of 1 gives
    them; with the last one of a vessel ``a/b.png`` below the cohort's folder these appear in ``output_dir``, each whole
    or not at all:

    - ``a/b_overlay.png``: the vessel beside itself with the probability of cancerous cells as heat, the cancerous
      patches outlined.
    - ``a/b_classes.png``: the class of each pixel's patch: 0 background, 1 healthy, 2 cancerous cells.
    - ``a/b.geojson``, in pixels of the file's full resolution: an outline of the vessel with its probability, the
      cancerous patches with theirs, and the cells by the class of the patch they lie in.

    A vessel of a slide ``a/b.svs`` has its pictures in ``a/b/<vessel>_overlay.png`` and so on; one ``a/b.geojson`` has
    all of the slide's. When the last vessel of a file is written the file is noted as done in the state file, and the
    item gets ``row``, a row of :class:`~monai_ext.handlers.VesselSummary`, as every vessel's last mosaic does.

    Args:
        keys: key of the probabilities ``(3, grid, grid)`` of background, healthy and cancerous cell.
        cohort: whose images they are.
        output_dir: folder to write to.
        load: reads the vessel's pixels again for the picture; of an image with a mask the tissue around is shown.
        score_key: key of a mosaic's probability; the highest of all mosaics is the vessel's.
        points_key: key of the cells found in the vessel, as :class:`KCFPseudoMaskd` gives them.
        positive: vessels with a higher probability are invaded.
        max_side: pictures are reduced until no side is longer, px.
    """

    def __init__(
        self,
        keys: KeysCollection,
        cohort: Cohort,
        output_dir: str | os.PathLike,
        load: LoadVesseld,
        score_key: str = "score",
        points_key: str = "cell_points",
        positive: float = 0.5,
        max_side: int = 4096,
    ) -> None:
        super().__init__(keys)
        self.cohort, self.load = cohort, load
        self.files = ResultFiles(output_dir, cohort.root, max_side)
        self.score_key, self.points_key, self.positive = score_key, points_key, positive
        self._mosaics: list[Mapping[Hashable, Any]] = []
        self._features: list[Features] = []

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Keep a mosaic, and with a vessel's last one write the files."""
        d = dict(data)
        if int(d["mosaic"]) == 0:
            self._mosaics = []
        self._mosaics.append(d)
        if int(d["mosaic"]) + 1 < int(d["mosaics"]):
            return d
        for key in self.key_iterator(d):
            d["row"] = self._save(d, key)
        return d

    def _save(self, d: Mapping[Hashable, Any], key: Hashable) -> dict[str, Any]:
        """Write a vessel's files; returns its row of the summary."""
        score = max(float(convert_to_numpy(mosaic[self.score_key]).item()) for mosaic in self._mosaics)
        grid = tuple(int(side) for side in d["grid_shape"])
        maps, orders = zip(*((convert_to_tensor(m[key]).cpu(), m["order"]) for m in self._mosaics), strict=True)
        heat = CellGridMosaic.inverse(list(maps), list(orders), grid).numpy()
        heat[0][heat.sum(0) == 0] = 1  # patches in no mosaic hold no cell
        # a loader has made tensors of numbers
        of = {"outlines": str, "number": int, "mpp": float}
        item = {name: kind(d[name]) for name, kind in of.items() if name in d}
        image = self.load({**item, "image": str(d["file"])})["image"]
        vessel = _Found(
            name=str(d.get("vessel") or Path(str(d["file"])).stem),
            score=score,
            invaded=score > self.positive,
            heat=heat,
            cells=convert_to_numpy(d[self.points_key])[:, :2],
            side=int(d["patch_px"]),
            shape=tuple(image.shape[1:]),
            offset=tuple(image.meta["offset"]),
            scale=float(image.meta["scale"]),
        )
        source = self.files.source(image)
        stem = source.with_suffix("") / f"{vessel.name}.png" if "outlines" in d else source
        pictures = {kind: self.files.path(stem, f"_{kind}.png") for kind in ("overlay", "classes")}
        with atomic_path(pictures["classes"]) as temporary:
            cv2.imwrite(str(temporary), spread_patches(vessel.classes[None], vessel.side, vessel.shape)[0].numpy())
        self.files.write_picture(pictures["overlay"], vessel.picture(image))
        self._features += vessel.features(d.get("outline"))
        if bool(d.get("last", True)):
            self._finish(source, str(d["file"]))
        return {
            "slide": str(d.get("group") or (source.stem if "outlines" in d else source.parent.name or source.stem)),
            "vessel": vessel.name,
            "probability": round(score, 6),
            "invaded": vessel.invaded,
            "cells": len(vessel.cells),
            "suspicious_cells": int((vessel.of_cells == _CANCEROUS).sum()),
            "patches": int(sum((convert_to_numpy(order) >= 0).sum() for order in orders)),
            "cancerous_patches": int((vessel.classes == _CANCEROUS).sum()),
            "image": source.as_posix(),
            "overlay": pictures["overlay"].relative_to(self.files.output_dir).as_posix(),
        }

    def _finish(self, source: Path, file: str) -> None:
        """Write the objects of all vessels of a file, and note it as done."""
        with GeoJSONWriter(self.files.path(source, ".geojson")) as writer:
            for features in self._features:
                writer.write(features)
        self._features = []
        self.cohort.done(file)


@dataclass(frozen=True)
class _Found:
    """What was found in a vessel.

    Args:
        name: of the vessel.
        score: its probability of being invaded.
        invaded: what that means.
        heat: ``(3, rows, cols)``, the probabilities of each patch's classes.
        cells: ``(N, 2)`` row, column, px of the image.
        side: of a patch, px of the image.
        shape: of the image.
        offset: row, column of the image's upper left corner, px of level 0.
        scale: px of level 0 per px of the image.
    """

    name: str
    score: float
    invaded: bool
    heat: np.ndarray
    cells: np.ndarray
    side: int
    shape: tuple[int, int]
    offset: tuple[float, float]
    scale: float

    @cached_property
    def classes(self) -> np.ndarray:
        """``(rows, cols)`` uint8, the most probable class of each patch."""
        return self.heat.argmax(0).astype(np.uint8)

    @cached_property
    def of_cells(self) -> np.ndarray:
        """``(N,)``, the class of the patch that each cell lies in."""
        row, col = (self.cells // self.side).astype(int).T
        return self.classes[row, col]

    def features(self, outline: str | None) -> list[Features]:
        """The vessel, its cancerous patches and its cells as objects of QuPath.

        Args:
            outline: of the vessel as WKT, ``x, y`` in px of level 0; ``None`` for the image's border.
        """
        kind = "Invaded vessel" if self.invaded else "Healthy vessel"
        shape = shapely.from_wkt(outline) if outline else self._boxes(np.zeros((1, 2)), self.shape)[0]
        look = {"colors": _COLOURS}
        found = [Features([shape], kind, {"probability": self.score}, names=self.name, **look)]
        at = np.argwhere(self.classes == _CANCEROUS)
        boxes = self._boxes(at * self.side, (self.side, self.side))
        measured = {"probability": self.heat[_CANCEROUS][tuple(at.T)]}
        found.append(Features(boxes, "Cancerous patch", measured, "detection", **look))
        for name, number in (("Tumor", _CANCEROUS), ("Healthy cell", _HEALTHY)):
            cells = self.cells[self.of_cells == number]
            found.append(
                Features.from_points(
                    cells, offset=self.offset, scale=self.scale, classes=name, object_types="detection", **look
                )
            )
        return [features for features in found if len(features)]

    def _boxes(self, first: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Boxes ``(N,)`` in level 0 from the rows and columns at which they begin, cut off at the image's border."""
        end = np.minimum(first + size, self.shape)
        (top, left), (bottom, right) = ((edge * self.scale + self.offset).T for edge in (first, end))
        return shapely.box(left, top, right, bottom)

    def picture(self, image: Any) -> np.ndarray:
        """The image beside itself, with the probability of cancerous cells and the patches called so."""
        times = max(1, round(_SMALLEST_SIDE / max(self.shape)))
        maps = (self.heat[_CANCEROUS], connected(self.classes == _CANCEROUS, connectivity=1).astype(np.int32))
        heat, patches = (
            spread_patches(map_[None], self.side, self.shape)[0].numpy().repeat(times, 0).repeat(times, 1)
            for map_ in maps
        )
        plain = overlay(image, channel_dim=0).repeat(times, axis=0).repeat(times, axis=1)
        outlined = {"classes": ["Tumor"] * int(patches.max()), "colours": _COLOURS}
        marked = overlay(plain, heat=heat, labels=patches, heat_alpha=0.4, channel_dim=-1, **outlined)
        return np.concatenate([plain, np.full((plain.shape[0], 4, 3), 255, np.uint8), marked], axis=1)
