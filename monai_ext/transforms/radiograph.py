"""Loading a radiograph together with its mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from monai_ext.base.errors import InputError
from monai_ext.formats.radiograph import read_radiograph

__all__ = ["LoadRadiographd"]


class LoadRadiographd(MapTransform):
    """Loads grey images as RGB, black as it is, and masks of their size.

    :class:`~monai_ext.transforms.LoadFieldd` makes the air around a breast white, as it does with what a slide's
    scanner left out; here it stays black.

    Args:
        keys: paths, see :func:`~monai_ext.formats.radiograph.read_radiograph`; become uint8 MetaTensors ``(3, H, W)``
            whose metadata hold ``filename_or_obj``, ``mpp`` (um/px, 0 where unknown) and ``file_shape``.
        mask_keys: paths of masks of the image's size; become int32 tensors ``(1, H, W)``, 1 above ``threshold``, or
            where a mask holds nothing but 0 and 1 its own numbers.
        threshold: grey value, 0 to 255; JPEG makes of 0 and 255 all that lies between.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        InputError: as :func:`~monai_ext.formats.radiograph.read_radiograph`; a mask whose size is not its image's.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.transforms import LoadRadiographd
        >>> Image.fromarray(np.zeros((200, 300), np.uint8)).save(folder / "breast.png")
        >>> load = LoadRadiographd("image", mask_keys=["label"])
        >>> item = load({"image": str(folder / "breast.png"), "label": str(folder / "breast.png")})
        >>> tuple(item["image"].shape), int(item["image"].max()), tuple(item["label"].shape)
        ((3, 200, 300), 0, (1, 200, 300))
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        mask_keys: Sequence[str] = (),
        threshold: float = 127,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.mask_keys, self.threshold = tuple(mask_keys), threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace paths by what they hold."""
        d = dict(data)
        shape = None
        for key in self.key_iterator(d):
            image, mpp = read_radiograph(d[key])
            shape = image.shape
            meta = {"filename_or_obj": str(d[key]), "mpp": d.get("mpp") or mpp or 0.0, "file_shape": shape}
            d[key] = MetaTensor(torch.from_numpy(np.repeat(image[None], 3, axis=0)), meta=meta)
        for key in self.mask_keys:
            mask = read_radiograph(d[key]).image
            if shape is not None and mask.shape != shape:
                raise InputError(d[key], f"a mask of its image's size {shape}", str(mask.shape))
            d[key] = torch.from_numpy((mask > (self.threshold if mask.max() > 1 else 0)).astype(np.int32))[None]
        return d
