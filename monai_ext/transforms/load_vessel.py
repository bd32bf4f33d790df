"""Loading a vessel, from an image of its own or from a slide."""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_ext.data.geometry import image_affine
from monai_ext.data.vessels import SlideVessels
from monai_ext.formats.annotation_files import is_annotation
from monai_ext.transforms.fields import LoadFieldd
from monai_ext.transforms.geojson import LoadGeoJSONd
from monai_ext.transforms.lumen import KeepLumend

__all__ = ["LoadVesseld"]


class LoadVesseld(MapTransform):
    """Loads vessels as 8-bit RGB at ``target_mpp``, white beyond their lumen.

    An item with ``outlines`` (a file, see :func:`~monai_ext.data.vessel_outlines`) and ``number`` is a vessel of a
    slide; any other is an image of one vessel, perhaps with a mask.

    Args:
        keys: paths; become uint8 MetaTensors ``(3, H, W)`` whose metadata hold ``filename_or_obj``, ``mpp``, ``scale``
            (see :class:`LoadFieldd`) and ``offset``, the upper left corner's row and column in px of level 0, which is
            in the affine too.
        mask_key: path of the lumen, a mask (PNG, TIFF) of the file's size or QuPath's GeoJSON, dropped; a vessel
            without is taken as it is.
        points_key: points, brought to the image's grid as :class:`LoadFieldd` does; there may be none.
        mpp: um/px of all files at full resolution.
        target_mpp: um/px wanted; ``None`` leaves images as they are.
        source_key: where the image goes a second time, an image with a mask with the tissue around; ``None`` for
            nowhere.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        InputError: a file that cannot be read, or a mask that does not fit.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.transforms import LoadVesseld
        >>> vessel, lumen = np.full((40, 60, 3), 128, np.uint8), np.zeros((40, 60), np.uint8)
        >>> lumen[10:30, 10:50] = 255
        >>> Image.fromarray(vessel).save(folder / "vessel.png")
        >>> Image.fromarray(lumen).save(folder / "lumen.png")
        >>> image = LoadVesseld()({"image": folder / "vessel.png", "mask": folder / "lumen.png"})["image"]
        >>> image[:, 0, 0].tolist(), image[:, 20, 30].tolist()
        ([255, 255, 255], [128, 128, 128])
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        mask_key: str = "mask",
        points_key: str = "centroids",
        mpp: float | None = None,
        target_mpp: float | None = None,
        source_key: str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_key, self.points_key = mask_key, points_key
        self.mpp, self.target_mpp, self.source_key = mpp, target_mpp, source_key
        self.keep = KeepLumend(self.keys, mask_key, allow_missing_keys)
        self._open: tuple[Any, SlideVessels | None] = (None, None)

    def __getstate__(self) -> dict[str, Any]:
        """The settings without the open slide, by which caches are named."""
        return self.__dict__ | {"_open": (None, None)}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace paths by what they hold."""
        d, of_slide = dict(data), "outlines" in data
        if of_slide:
            for key in self.key_iterator(d):
                d[key] = self._from_slide(d[key], d["outlines"], d["number"], d.get("mpp"), bool(d.get("split_parts")))
        else:
            drawn = isinstance(d.get(self.mask_key), (str, os.PathLike)) and is_annotation(d[self.mask_key])
            points, masks = ([key] if key in d else [] for key in (self.points_key, self.mask_key))
            masks = [] if drawn else masks
            load = LoadFieldd(self.keys, points, masks, None, self.mpp, self.target_mpp, self.allow_missing_keys)
            d = load(d)
            for key in self.key_iterator(d):
                d[key].meta["offset"] = (0.0, 0.0)
            if drawn:
                scale = d[self.keys[0]].meta["scale"]
                d = LoadGeoJSONd(self.mask_key, self.keys[0], scale=scale, objects=True)(d)
        if self.source_key is not None:
            for key in self.key_iterator(d):
                d[self.source_key] = d[key]
        return d if of_slide else self.keep(d)

    def _from_slide(
        self, path: str, outlines: str, number: int, mpp: float | None, split_parts: bool = False
    ) -> MetaTensor:
        which = (path, outlines)
        if self._open[0] != which:
            vessels = SlideVessels(path, outlines, self.target_mpp, self.mpp or mpp, split_parts=split_parts)
            self._open = (which, vessels)
        vessel = self._open[1][number]
        meta = {"filename_or_obj": str(path), "mpp": vessel.mpp, "scale": vessel.scale, "offset": vessel.offset}
        meta |= {"conflict": self._open[1].conflict, "slide_shape": self._open[1].shape}
        affine = image_affine(vessel.mpp, vessel.scale, vessel.offset)
        return MetaTensor(torch.from_numpy(vessel.image.copy()), affine=affine, meta=meta)
