"""Loading an image together with its points and masks, at one physical resolution."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_ext.base.errors import InputError
from monai_ext.data.geometry import image_affine
from monai_ext.formats.image import read_field, read_mask
from monai_ext.transforms.points import LoadPoints

__all__ = ["LoadFieldd"]


class LoadFieldd(MapTransform):
    """Loads images as 8-bit RGB at ``target_mpp`` and brings their points to the same grid.

    A file's resolution is the first that is known of: ``mpp`` here, the item's ``mpp``, what the file states. Where
    all are unknown, the image is not resampled.

    Args:
        keys: paths of images or slides; become uint8 MetaTensors ``(3, H, W)`` whose metadata hold
            ``filename_or_obj``, ``mpp`` (um/px, 0 where unknown), ``scale`` (pixels of the file per pixel here) and
            ``file_shape`` (``H, W`` of the file), ``scanned`` (the share that was scanned; the rest is white) and
            ``conflict`` (see :class:`~monai_ext.formats.image.Field`). Where the file states that its pixels are
            oblong, the image's are square and ``scale`` is a pair ``row, col``. Their affine is in mm, see
            :func:`~monai_ext.data.geometry.image_affine`; where the resolution is unknown, in px of the file.
        points_keys: paths of points, or points, in pixels of the file; become float32 ``(N, 2)`` tensors of row and
            column on the image's grid.
        mask_keys: paths of masks or instance maps of the file's size (PNG, TIFF); become int32 tensors ``(1, H, W)``
            on the image's grid. Of several channels the first is taken.
        point_classes: names of the classifications that count, in points from GeoJSON; ``None`` for all objects.
        mpp: um/px of all files at full resolution.
        target_mpp: um/px wanted; ``None`` leaves images as they are.
        allow_missing_keys: pass over keys that are not there.
        optional_points_keys: as ``points_keys``, of which an item may lack some.
        valid_key: where images have parts that are no data (black, transparent, never written), a bool tensor
            ``(1, H, W)`` goes here that is True where they are. ``None`` for none. Masks are 0 elsewhere in any case.

    Raises:
        InputError: as :func:`~monai_ext.data.read_field` and :func:`~monai_ext.data.read_points`; a mask whose size is
            not that of the image.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.transforms import LoadFieldd
        >>> Image.fromarray(np.full((200, 300, 3), 255, np.uint8)).save(folder / "field.png")
        >>> load = LoadFieldd("image", points_keys=["label"], mpp=0.25, target_mpp=0.5)
        >>> item = load({"image": str(folder / "field.png"), "label": [[10, 20]]})
        >>> tuple(item["image"].shape), item["label"].tolist()
        ((3, 100, 150), [[4.75, 9.75]])
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        points_keys: Sequence[str] = (),
        mask_keys: Sequence[str] = (),
        point_classes: Sequence[str] | None = None,
        mpp: float | None = None,
        target_mpp: float | None = None,
        allow_missing_keys: bool = False,
        optional_points_keys: Sequence[str] = (),
        valid_key: str | None = None,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.points_keys, self.mask_keys = tuple(points_keys), tuple(mask_keys)
        self.optional_points_keys = tuple(optional_points_keys)
        self.mpp, self.target_mpp, self.valid_key = mpp, target_mpp, valid_key
        self.point_classes = point_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace paths by what they hold."""
        d = dict(data)
        scale, shape, valid, path = 1.0, None, None, None
        for key in self.key_iterator(d):
            path = d[key]
            field = read_field(path, self.mpp or d.get("mpp"), self.target_mpp)
            scale, shape, valid = field.file_scale, field.image.shape[1:], field.valid
            meta = {"filename_or_obj": str(path), "mpp": field.mpp or 0.0, "scale": scale}
            meta |= {"file_shape": field.file_shape, "scanned": field.scanned, "conflict": field.conflict}
            d[key] = MetaTensor(torch.from_numpy(field.image), affine=image_affine(field.mpp, scale), meta=meta)
        points_keys = [*self.points_keys, *(key for key in self.optional_points_keys if key in d)]
        load = LoadPoints(self.point_classes)
        for key in points_keys:
            points = torch.as_tensor(load(d[key], path), dtype=torch.float32)
            # whole numbers are pixel centres, so the grids' common corner is at -0.5
            sides = torch.tensor(scale) if isinstance(scale, tuple) else scale
            d[key] = (points + 0.5) / sides - 0.5 if scale != 1 else points
        for key in self.mask_keys:
            mask = read_mask(d[key])
            if shape is not None and mask.shape != shape and scale == 1:
                raise InputError(d[key], f"a mask of its image's size {tuple(shape)}", str(mask.shape))
            if shape is not None and mask.shape != shape:
                mask = cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
            mask = mask.astype(np.int32)
            d[key] = torch.from_numpy(mask if valid is None else mask * valid)[None]
        if self.valid_key is not None and valid is not None:
            d[self.valid_key] = torch.from_numpy(valid)[None]
        return d
