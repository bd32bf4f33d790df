"""A vessel's diagnosis, patches and cells from the network's maps of its mosaics."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy, convert_to_tensor
from skimage.measure import label as connected

from monai_ext.data.geometry import image_resolution
from monai_ext.formats.geojson import Features
from monai_ext.formats.resolution import Scale
from monai_ext.formats.suffixes import without_suffix
from monai_ext.transforms.mosaic import CellGridMosaic, spread_patches

__all__ = ["CANCEROUS", "HEALTHY", "HEALTHY_CLASSES", "VESSEL_COLOURS", "DiagnoseVesseld", "VesselDiagnosis"]

HEALTHY, CANCEROUS = 1, 2  # class ids of a patch
#: QuPath classes of what is found in vessels.
VESSEL_COLOURS = {
    "Invaded vessel": (200, 0, 0),
    "Healthy vessel": (0, 140, 60),
    "Cancerous patch": (230, 60, 30),
    "Tumor": (200, 0, 0),
    "Healthy cell": (30, 90, 255),
}
#: Those of them that do not indicate a tumour.
HEALTHY_CLASSES = ("Healthy vessel", "Healthy cell")


@dataclass(frozen=True)
class VesselDiagnosis:
    """What was found in a vessel.

    Args:
        name: of the vessel.
        score: its probability of being invaded.
        invaded: whether the score is high enough.
        heat: ``(3, rows, cols)``, the probabilities of each patch's classes.
        patches: how many patches the network saw.
        cells: ``(N, 2)`` row, column, px of the image.
        side: of a patch, px of the image.
        shape: of the image.
        offset: row, column of the image's upper left corner, px of level 0.
        scale: px of level 0 per px of the image; ``row, col`` where they differ.
        outline: of the vessel as WKT, ``x, y`` in px of level 0; ``None`` for the image's border.

    Examples:
        >>> from monai_ext.transforms import VesselDiagnosis
        >>> heat = np.zeros((3, 2, 2))
        >>> heat[0], heat[:, 0, 1] = 1, (0, 0.2, 0.8)  # one patch with cancerous cells
        >>> result = {"score": 0.9, "invaded": True, "heat": heat, "patches": 1, "cells": np.array([[5.0, 15.0]])}
        >>> vessel = VesselDiagnosis("vessel_0001", **result, side=10, shape=(20, 20))
        >>> vessel.classes.tolist()
        [[0, 2], [0, 0]]
        >>> [features.classes[0] for features in vessel.features()]
        ['Invaded vessel', 'Cancerous patch', 'Tumor']
    """

    name: str
    score: float
    invaded: bool
    heat: np.ndarray
    patches: int
    cells: np.ndarray
    side: int
    shape: tuple[int, int]
    offset: tuple[float, float] = (0.0, 0.0)
    scale: Scale = 1.0
    outline: str | None = None

    @cached_property
    def classes(self) -> np.ndarray:
        """``(rows, cols)`` uint8, the most probable class of each patch."""
        return self.heat.argmax(0).astype(np.uint8)

    @cached_property
    def pieces(self) -> np.ndarray:
        """``(rows, cols)`` int32, the cancerous patches, numbered from 1; those that share a side have one number."""
        return connected(self.classes == CANCEROUS, connectivity=1).astype(np.int32)

    @cached_property
    def of_cells(self) -> np.ndarray:
        """``(N,)``, the class of the patch that each cell lies in."""
        row, col = (self.cells // self.side).astype(int).T
        return self.classes[row, col]

    def spread(self, patches: np.ndarray) -> np.ndarray:
        """Values of patches ``(rows, cols)`` as ``(H, W)`` of the image."""
        return spread_patches(patches[None], self.side, self.shape)[0].numpy()

    def features(self) -> list[Features]:
        """The vessel, its cancerous patches and its cells as objects of QuPath, a part for each class that there is."""
        kind = "Invaded vessel" if self.invaded else "Healthy vessel"
        shape = shapely.from_wkt(self.outline) if self.outline else self._boxes(np.zeros((1, 2)), self.shape)[0]
        look = {"colors": VESSEL_COLOURS}
        objects = [Features([shape], kind, {"probability": self.score}, names=self.name, **look)]
        patch_index = np.argwhere(self.classes == CANCEROUS)
        boxes = self._boxes(patch_index * self.side, (self.side, self.side))
        measured = {"probability": self.heat[CANCEROUS][tuple(patch_index.T)]}
        objects.append(Features(boxes, "Cancerous patch", measured, "detection", **look))
        for name, number in (("Tumor", CANCEROUS), ("Healthy cell", HEALTHY)):
            cells = self.cells[self.of_cells == number]
            objects.append(
                Features.from_points(
                    cells, offset=self.offset, scale=self.scale, classes=name, object_types="detection", **look
                )
            )
        return [features for features in objects if len(features)]

    def _boxes(self, first: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Boxes ``(N,)`` in level 0 from the rows and columns at which they begin, cut off at the image's border."""
        end = np.minimum(first + size, self.shape)
        (top, left), (bottom, right) = ((edge * np.asarray(self.scale) + self.offset).T for edge in (first, end))
        return shapely.box(left, top, right, bottom)


class DiagnoseVesseld(MapTransform):
    """Maps the network's output for a vessel's mosaics back into the vessel.

    Adds ``diagnosis``, a :class:`VesselDiagnosis`, and ``pieces``, int32 ``(1, H, W)``: where the vessel is invaded its
    connected cancerous patches, numbered from 1.

    Args:
        keys: key of the probabilities ``(M, 3, grid, grid)`` of background, healthy and cancerous cell in each of the
            vessel's mosaics, which :class:`CellGridMosaicd` stacked.
        score_key: key of the mosaics' probabilities ``(M, 1)``; the highest is the vessel's.
        points_key: key of the cells found in the vessel, as :class:`KCFPseudoMaskd` gives them.
        source_key: key of the vessel's image, as :class:`LoadVesseld` gives it.
        positive: vessels with a higher probability are invaded, if any patch with a cell was found in them.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai.data import MetaTensor
        >>> from monai_ext.transforms import DiagnoseVesseld
        >>> vessel = {"grid_shape": (2, 2), "patch_px": 10, "cell_points": torch.tensor([[15.0, 15.0]])}
        >>> meta = {"filename_or_obj": "vessel.png", "scale": 1.0}
        >>> vessel["source"] = MetaTensor(torch.zeros(3, 20, 20), meta=meta)
        >>> p_loc = torch.tensor([0.0, 0.1, 0.9]).reshape(1, 3, 1, 1)  # of a mosaic with one place, for patch 3
        >>> network = {"p_loc": p_loc, "score": torch.tensor([[0.8]]), "order": torch.tensor([[[[3]]]])}
        >>> item = DiagnoseVesseld()({**vessel, **network})
        >>> item["diagnosis"].invaded, item["diagnosis"].classes.tolist(), int(item["pieces"].sum())
        (True, [[0, 0], [0, 2]], 100)
    """

    def __init__(
        self,
        keys: KeysCollection = "p_loc",
        score_key: str = "score",
        points_key: str = "cell_points",
        source_key: str = "source",
        positive: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.score_key, self.points_key, self.source_key = score_key, points_key, source_key
        self.positive = positive

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add what was found."""
        d = dict(data)
        for key in self.key_iterator(d):
            diagnosis = self._diagnose(d, d[key])
            d["diagnosis"] = diagnosis
            d["pieces"] = diagnosis.spread(diagnosis.pieces * diagnosis.invaded)[None]
        return d

    def _diagnose(self, d: Mapping[Hashable, Any], maps: torch.Tensor) -> VesselDiagnosis:
        image, order = d[self.source_key], convert_to_tensor(d["order"], track_meta=False).cpu()
        grid = tuple(int(side) for side in d["grid_shape"])
        heat = CellGridMosaic.inverse(convert_to_tensor(maps).cpu(), order, grid).numpy()
        heat[0][heat.sum(0) == 0] = 1  # patches in no mosaic hold no cell
        patches = int((order >= 0).sum())
        # without cells the network saw no patch of the vessel
        score = float(convert_to_numpy(d[self.score_key]).max()) if patches else 0.0
        return VesselDiagnosis(
            name=str(d.get("vessel") or without_suffix(str(image.meta["filename_or_obj"])).name),
            score=score,
            invaded=score > self.positive,
            heat=heat,
            patches=patches,
            cells=convert_to_numpy(d[self.points_key])[:, :2],
            side=int(d["patch_px"]),
            shape=tuple(image.shape[1:]),
            offset=tuple(float(corner) for corner in image.meta.get("offset", (0, 0))),
            scale=image_resolution(image.meta)[1],
            outline=d.get("outline"),
        )
