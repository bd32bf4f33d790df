"""All crops of one size that cover an image."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection, NdarrayOrTensor
from monai.data.utils import dense_patch_slices
from monai.transforms import MapTransform, SpatialCrop, SpatialPad, Transform
from torch import Tensor

from monai_ext.base.errors import InputError

__all__ = ["GridCrops", "GridCropsd"]


class GridCrops(Transform):
    """Cut an image into the crops of one size that cover it: marked tiles of any size as the input of a front end.

    Crops lie side by side, the last of a row or column is shifted inwards. An image that is smaller is mirrored
    outwards first; one of just this size is the only crop (Zhou et al. 2023, section V-A: tiles are cropped to 224 px).

    Args:
        size: side of a crop, px.

    Raises:
        InputError: a size below 1.

    Examples:
        >>> from monai_ext.transforms import GridCrops
        >>> [tuple(crop.shape) for crop in GridCrops(224)(torch.zeros(3, 200, 600))]
        [(3, 224, 224), (3, 224, 224), (3, 224, 224)]
    """

    def __init__(self, size: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise InputError("GridCrops size", "px, a whole number of at least 1", repr(size))
        self.size = size
        self.pad = SpatialPad((size, size), mode="reflect")

    def __call__(self, image: NdarrayOrTensor) -> list[Tensor]:
        """The crops ``(C, size, size)`` of an image ``(C, H, W)``, row by row; tensors, as MONAI's crops are."""
        padded = self.pad(image)
        slices = dense_patch_slices(padded.shape[1:], (self.size,) * 2, (self.size,) * 2)
        # copies, lest a crop that is kept keeps all of the image
        return [SpatialCrop(roi_slices=each)(padded).clone() for each in slices]


class GridCropsd(MapTransform):
    """Dictionary twin of :class:`GridCrops`: a list of dictionaries, one for each crop, whose other entries are shared.

    Args:
        keys: images of one size.
        size: side of a crop, px.
        allow_missing_keys: whether a missing key is left alone.

    Examples:
        >>> from monai_ext.transforms import GridCropsd
        >>> crops = GridCropsd("image", 64)({"image": torch.zeros(3, 64, 100), "label": 1})
        >>> [(tuple(crop["image"].shape), crop["label"]) for crop in crops]
        [((3, 64, 64), 1), ((3, 64, 64), 1)]
    """

    def __init__(self, keys: KeysCollection, size: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.crops = GridCrops(size)

    def __call__(self, data: Mapping[Hashable, Any]) -> list[dict[Hashable, Any]]:
        """Cut every key likewise."""
        by_key = {key: self.crops(data[key]) for key in self.key_iterator(data)}
        return [{**data, **dict(zip(by_key, crops, strict=True))} for crops in zip(*by_key.values(), strict=True)]
