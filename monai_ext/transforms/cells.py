"""From the instances of an image to its cells, and to the files that people and QuPath read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy

from monai_ext.base.colours import class_colours
from monai_ext.base.files import atomic_path
from monai_ext.base.overlay import overlay
from monai_ext.data.cells import Cells, Grid, find_cells, summarize_cells
from monai_ext.data.geometry import image_area_mm2, image_resolution
from monai_ext.data.result_files import OVERLAY, ResultFiles
from monai_ext.formats.geojson import Color

__all__ = ["FindCellsd", "SaveCellsd"]

_NUCLEUS = "nucleus"  # what a cell without a class is called in pictures


class FindCellsd(MapTransform):
    """Measure, outline and classify the instances of an image; adds :class:`~monai_ext.data.Cells`.

    Args:
        keys: keys of ``(1, H, W)`` instance maps.
        cells_key: where the cells go.
        image_key: the image, a uint8 MetaTensor ``(3, H, W)`` before any normalisation, whose metadata give ``mpp`` and
            ``scale`` as ``LoadFieldd`` writes them.
        probability_key: ``(C, H, W)`` map of which ``channel`` is the probability of nucleus; ``None`` for none.
        channel: of that map.
        mpp: um per px of the image, where its metadata do not say. Without either, areas and lengths are NaN.
        classifier: see :func:`~monai_ext.data.cells.find_cells`; ``None`` leaves cells unclassified.
        class_names: of its classes.
        patch_size: side of a nucleus' patch, px.
        tolerance: of the outlines, px of the file's full resolution.
        allow_missing_keys: whether a missing key is left alone.

    Examples:
        >>> from monai_ext.transforms import FindCellsd
        >>> instances = torch.zeros(1, 64, 64, dtype=torch.int32)
        >>> instances[0, 10:20, 30:40] = 1
        >>> item = {"instances": instances, "source": torch.zeros(3, 64, 64, dtype=torch.uint8)}
        >>> cells = FindCellsd(mpp=0.5, probability_key=None)(item)["cells"]
        >>> cells.centres.tolist(), cells.measurements["area_um2"].tolist()
        ([[14.5, 34.5]], [25.0])
    """

    def __init__(
        self,
        keys: KeysCollection = "instances",
        *,
        cells_key: str = "cells",
        image_key: str = "source",
        probability_key: str | None = "probability",
        channel: int = 0,
        mpp: float | None = None,
        classifier: Callable[[np.ndarray], np.ndarray] | None = None,
        class_names: Sequence[str] = (),
        patch_size: int = 32,
        tolerance: float = 0.9,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.cells_key, self.image_key = cells_key, image_key
        self.probability_key, self.channel, self.mpp = probability_key, channel, mpp
        self.options = {
            "classifier": classifier,
            "class_names": class_names,
            "patch_size": patch_size,
            "tolerance": tolerance,
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the cells."""
        d = dict(data)
        for key in self.key_iterator(d):
            image = d[self.image_key]
            meta = image.meta if isinstance(image, MetaTensor) else {}
            mpp, scale = image_resolution(meta, self.mpp)
            probability = None if self.probability_key is None else d[self.probability_key][self.channel]
            d[self.cells_key] = find_cells(
                convert_to_numpy(d[key])[0],
                Grid(mpp, scale, stated=mpp > 0),
                probability=None if probability is None else convert_to_numpy(probability),
                image=np.moveaxis(convert_to_numpy(image), 0, -1).astype(np.uint8),
                **self.options,
            )
        return d


class SaveCellsd(MapTransform):
    """Write the cells of an image, as :class:`FindCellsd` gives them, for people and for QuPath.

    For an image ``a/b.png`` below ``data_root_dir`` these appear in ``output_dir``, each whole or not at all:

    - ``a/b.geojson``: each cell's outline with its class, the classes' probabilities and its measurements, the least
      certain first, in QuPath's coordinates (px of the file's full resolution).
    - ``a/b_cells.csv``: a row for each cell, in the same order.
    - ``a/b_overlay.png``: the nuclei outlined in their classes' colours.
    - ``summary.csv``: a row for each image with counts and densities, in all and of each class; with a ``cut_key`` also
      how many of the cells are pieces of larger ones.

    Args:
        keys: key of the cells.
        output_dir: folder to write to; it is made.
        data_root_dir: folder that the images lie below.
        instances_key: the instance map that the cells were found in.
        image_key: the image, a MetaTensor ``(3, H, W)`` before any normalisation that names its file.
        mpp: um per px of the image, where its metadata do not say. Without either, areas and densities are left out.
        colours: RGB of each class, 0 to 255.
        object_type: what QuPath takes a cell for: ``"detection"`` or ``"annotation"``.
        max_side: pictures are reduced until no side is longer, px.
        formats: of the objects, besides GeoJSON, for other programs; see :class:`~monai_ext.exchange.Exchange`.
        cut_key: how many of the cells are pieces, as :class:`~monai_ext.inferers.InstanceInferer` counts them; there
            may be no such key.
        allow_missing_keys: whether data without cells are passed on.

    Raises:
        InputError: when the image does not say which file it came from.

    Examples:
        >>> from monai.data import MetaTensor
        >>> from monai_ext.transforms import FindCellsd, SaveCellsd
        >>> meta = {"filename_or_obj": str(folder / "images" / "a.png"), "mpp": 0.5}
        >>> item = {"source": MetaTensor(torch.zeros(3, 64, 64, dtype=torch.uint8), meta=meta)}
        >>> item["instances"] = torch.eye(64, dtype=torch.int32)[None]
        >>> item = FindCellsd(probability_key=None)(item)
        >>> _ = SaveCellsd(output_dir=folder / "out", data_root_dir=folder / "images")(item)
        >>> sorted(path.name for path in (folder / "out").glob("a*"))
        ['a.geojson', 'a_cells.csv', 'a_overlay.png']
    """

    def __init__(
        self,
        keys: KeysCollection = "cells",
        *,
        output_dir: str | os.PathLike[str],
        data_root_dir: str | os.PathLike[str],
        instances_key: str = "instances",
        image_key: str = "source",
        mpp: float | None = None,
        colours: Mapping[str, Color] | None = None,
        object_type: str = "detection",
        max_side: int = 4096,
        formats: str | Sequence[str] = ("geojson",),
        cut_key: str = "cut",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.files, self.cut_key = ResultFiles(output_dir, data_root_dir, max_side, formats), cut_key
        self.instances_key, self.image_key, self.mpp = instances_key, image_key, mpp
        self.colours, self.object_type = colours, object_type

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the data are returned as they came."""
        d = dict(data)
        for key in self.key_iterator(d):
            image, cells = d[self.image_key], d[key]
            source = self.files.source(image, self.image_key)
            mpp, _ = self.files.resolution(image, self.mpp)
            mm2 = image_area_mm2(image.meta, image.shape, mpp)
            ordered = cells.least_certain_first()
            objects, colours = (
                ordered.features(self.colours, self.object_type),
                class_colours(cells.class_names, self.colours),
            )
            self.files.write_objects(source, image, [objects], colours)
            with atomic_path(self.files.path(source, "_cells.csv")) as temporary:
                ordered.table().to_csv(temporary, index=False)
            picture = self._picture(image, convert_to_numpy(d[self.instances_key])[0], cells)
            self.files.write_picture(self.files.path(source, OVERLAY), picture)
            counts = summarize_cells(cells.class_ids, cells.class_names, mm2)
            if self.cut_key in d:
                counts["cut"] = int(d[self.cut_key])
                if counts["cut"]:
                    print(f"{source}: {counts['cut']} of {len(cells)} cells are pieces of larger ones", file=sys.stderr)
            area = None if mm2 is None else round(mm2, 6)
            self.files.write_row({"image": source.as_posix(), "area_mm2": area, **counts}, image)
        return d

    def _picture(self, image: MetaTensor, instances: np.ndarray, cells: Cells) -> np.ndarray:
        names = np.full(int(instances.max(initial=0)), _NUCLEUS, dtype=object)
        names[cells.ids - 1] = [name or _NUCLEUS for name in cells.classes]
        colours = class_colours([*cells.class_names, _NUCLEUS], self.colours)
        thickness = max(1, round(max(image.shape) / 1500))
        return overlay(
            image, labels=instances, classes=list(names), colours=colours, thickness=thickness, channel_dim=0
        )
