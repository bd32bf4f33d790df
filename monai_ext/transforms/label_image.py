"""Instance maps as the label images that viewers and annotation tools take."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import cv2
import numpy as np
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy

from monai_ext.data.geometry import image_resolution

__all__ = ["LabelImaged", "file_labels"]


def file_labels(labels: np.ndarray, image: Any) -> np.ndarray:
    """A map on the grid of its image's file, in the smallest type that holds its numbers.

    Args:
        labels: ``(H, W)`` integers from 0, or bool.
        image: the image, whose metadata, where it has any, give ``scale`` and ``file_shape`` as ``LoadFieldd`` does.

    Returns:
        ``(H, W)`` of the file: uint8 for bool, else uint16, or int32 for more than 65,535 instances.

    Examples:
        >>> from monai.data import MetaTensor
        >>> from monai_ext.transforms.label_image import file_labels
        >>> image = MetaTensor(torch.zeros(3, 1, 2), meta={"scale": 2.0, "file_shape": (2, 4)})
        >>> file_labels(np.array([[1, 2]]), image).tolist()
        [[1, 1, 2, 2], [1, 1, 2, 2]]
    """
    if labels.dtype == bool:
        values = labels.view(np.uint8)
    else:
        values = labels.astype(np.uint16 if labels.max(initial=0) < 1 << 16 else np.int32)
    meta = image.meta if isinstance(image, MetaTensor) else {}
    if image_resolution(meta)[1] != 1:
        shape = tuple(int(side) for side in meta["file_shape"])
        values = cv2.resize(values, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return values


class LabelImaged(MapTransform):
    """The instances that were found, as MONAI Label writes its label images: on the file's grid, x before y.

    Args:
        keys: the instances, ``(1, H, W)`` or ``(H, W)``.
        label_key: where the label image ``(W, H)`` goes, uint16 or int32; one for all keys.
        image_key: the image, a MetaTensor as ``LoadFieldd`` gives it.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai_ext.transforms import LabelImaged
        >>> item = {"instances": torch.ones(1, 20, 30, dtype=torch.int32), "source": torch.zeros(3, 20, 30)}
        >>> pred = LabelImaged()(item)["pred"]
        >>> pred.shape, str(pred.dtype)
        ((30, 20), 'uint16')
    """

    def __init__(
        self,
        keys: KeysCollection = "instances",
        label_key: str = "pred",
        image_key: str = "source",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.label_key, self.image_key = label_key, image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the label image."""
        d = dict(data)
        for key in self.key_iterator(d):
            labels = convert_to_numpy(d[key])
            labels = labels[0] if labels.ndim == 3 else labels
            d[self.label_key] = np.ascontiguousarray(file_labels(labels, d[self.image_key]).T)
        return d
