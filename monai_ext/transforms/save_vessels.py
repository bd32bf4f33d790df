"""The files of a vessel's diagnosis: GeoJSON for QuPath, pictures, a row of a table."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_ext.base.files import write_png
from monai_ext.base.overlay import overlay
from monai_ext.data.cohort import Cohort
from monai_ext.data.result_files import CLASSES, OVERLAY, ResultFiles, warnings_of
from monai_ext.formats.geojson import Features
from monai_ext.formats.suffixes import without_suffix
from monai_ext.transforms.diagnose_vessel import CANCEROUS, VESSEL_COLOURS, VesselDiagnosis

__all__ = ["SaveVesseld"]

_SMALLEST_SIDE = 384  # px of a picture


class SaveVesseld(MapTransform):
    """Writes what was found in a vessel.

    For a vessel ``a/b.png`` below the cohort's folder these appear in ``output_dir``, each whole or not at all:

    - ``a/b_overlay.png``: the vessel beside itself with the probability of cancerous cells as heat, the cancerous
      patches outlined.
    - ``a/b_classes.png``: the class of each pixel's patch: 0 background, 1 healthy, 2 cancerous cells.
    - ``a/b.geojson``, in pixels of the file's full resolution: an outline of the vessel with its probability, the
      cancerous patches with theirs, and the cells by the class of the patch they lie in.

    A vessel of a slide ``a/b.svs`` has its pictures in ``a/b/<vessel>_overlay.png`` and so on; one ``a/b.geojson`` has
    all of the slide's. When the last vessel of a file is written the file is marked as done in the state file. The item
    gets ``row``, a row of :class:`~monai_ext.handlers.VesselSummary`.

    Args:
        keys: key of the :class:`VesselDiagnosis` that :class:`DiagnoseVesseld` adds.
        cohort: whose images they are.
        output_dir: folder to write to.
        source_key: key of the vessel's image, as :class:`LoadVesseld` gives it.
        max_side: pictures are reduced until no side is longer, px.
        formats: of the objects, besides GeoJSON, for other programs; see :class:`~monai_ext.exchange.Exchange`.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.data import Cohort
        >>> from monai_ext.transforms import LoadVesseld, SaveVesseld, VesselDiagnosis
        >>> Image.fromarray(np.full((20, 20, 3), 128, np.uint8)).save(folder / "a.png")
        >>> cohort = Cohort(folder / "a.png", folder / "out")
        >>> item = LoadVesseld(source_key="source")(cohort.items[0])
        >>> healthy = {"score": 0.1, "invaded": False, "heat": np.eye(3)[1].reshape(3, 1, 1), "patches": 1}
        >>> cells = {"cells": np.array([[5.0, 15.0]]), "side": 20, "shape": (20, 20)}
        >>> item |= {"diagnosis": VesselDiagnosis("a", **healthy, **cells), "file": cohort.items[0]["image"]}
        >>> row = SaveVesseld("diagnosis", cohort, folder / "out")(item)["row"]
        >>> row["vessel"], row["invaded"], row["suspicious_cells"]
        ('a', False, 0)
        >>> sorted(path.name for path in (folder / "out").glob("a*"))
        ['a.geojson', 'a_classes.png', 'a_overlay.png']
    """

    def __init__(
        self,
        keys: KeysCollection,
        cohort: Cohort,
        output_dir: str | os.PathLike,
        source_key: str = "source",
        max_side: int = 4096,
        formats: str | Sequence[str] = ("geojson",),
    ) -> None:
        super().__init__(keys)
        self.cohort, self.source_key = cohort, source_key
        self.files = ResultFiles(output_dir, cohort.root, max_side, formats)
        self._features: list[Features] = []

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files and add the row."""
        d = dict(data)
        for key in self.key_iterator(d):
            d["row"] = self._save(d, d[key])
        return d

    def _save(self, d: Mapping[Hashable, Any], vessel: VesselDiagnosis) -> dict[str, Any]:
        """Write a vessel's files; returns its row of the summary."""
        image = d[self.source_key]
        source = self.files.source(image, self.source_key)
        self.files.resolution(image)  # nothing is in um here, but the network knows vessels of one resolution
        name = without_suffix(source).name
        stem = without_suffix(source) / f"{vessel.name}.png" if "outlines" in d else source
        overlay_path, classes_path = (self.files.path(stem, ending) for ending in (OVERLAY, CLASSES))
        write_png(classes_path, vessel.spread(vessel.classes))
        self.files.write_picture(overlay_path, _picture(image, vessel, self.files.max_side))
        self._features += vessel.features()
        if bool(d.get("last", True)):
            self._finish(source, image, str(d["file"]))
        return {
            "slide": str(d.get("group") or ("" if "outlines" in d else source.parent.name) or name),
            "vessel": vessel.name,
            "probability": round(vessel.score, 6),
            "invaded": vessel.invaded,
            "cells": len(vessel.cells),
            "suspicious_cells": int((vessel.of_cells == CANCEROUS).sum()),
            "patches": vessel.patches,
            "cancerous_patches": int((vessel.classes == CANCEROUS).sum()),
            "image": source.as_posix(),
            "overlay": overlay_path.relative_to(self.files.output_dir).as_posix(),
            **warnings_of(image.meta),
        }

    def _finish(self, source: Path, image: MetaTensor, file: str) -> None:
        """Write the objects of all vessels of a file, and mark it as done."""
        self.files.write_objects(source, image, self._features, VESSEL_COLOURS)
        self._features = []
        self.cohort.done(file)


def _picture(image: Any, vessel: VesselDiagnosis, max_side: int) -> np.ndarray:
    """The image beside itself, with the probability of cancerous cells and the patches called so.

    It has its final size before anything is drawn: a vessel of 10,000 px takes no more memory than its picture.
    """
    height, width = vessel.shape
    scale = min(max(1, round(_SMALLEST_SIDE / max(height, width))), max_side / max(height, 2 * width))
    size = (max(1, int(height * scale)), max(1, int(width * scale)))
    interpolation = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    plain = cv2.resize(overlay(image, channel_dim=0), size[::-1], interpolation=interpolation)
    patch_index = np.ix_(*((np.arange(side) / scale).astype(int) // vessel.side for side in size))
    heat, patches = vessel.heat[CANCEROUS][patch_index], vessel.pieces[patch_index]
    outlined = {"classes": ["Tumor"] * int(vessel.pieces.max()), "colours": VESSEL_COLOURS}
    marked = overlay(plain, heat=heat, labels=patches, heat_alpha=0.4, channel_dim=-1, **outlined)
    return np.concatenate([plain, np.full((size[0], 4, 3), 255, np.uint8), marked], axis=1)
