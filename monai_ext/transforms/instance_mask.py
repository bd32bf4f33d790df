"""From instances to targets of segmentation networks."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy

__all__ = ["InstancesToMask", "InstancesToMaskd"]


class InstancesToMask(Transform):
    """Foreground of an instance map, with a gap between touching instances where one is wanted.

    The gap is what a binary network can learn of instances (Ronneberger et al. 2015 weight it; here the label has it):
    pixels within ``gap`` px of another instance become background. Isolated instances keep all their pixels.

    Args:
        gap: px taken from each of two touching instances; 0 for the plain foreground of the distillation paper.

    Examples:
        >>> from monai_ext.transforms import InstancesToMask
        >>> instances = np.array([[[0, 1, 1, 2, 2]]])
        >>> InstancesToMask()(instances).tolist(), InstancesToMask(gap=1)(instances).tolist()
        ([[[0.0, 1.0, 1.0, 1.0, 1.0]]], [[[0.0, 1.0, 0.0, 0.0, 1.0]]])
    """

    def __init__(self, gap: int = 0) -> None:
        self.gap = gap

    def __call__(self, instances: NdarrayOrTensor) -> NdarrayOrTensor:
        """Convert.

        Args:
            instances: ``(1, H, W)`` integer ids below 2**24, 0 is background.

        Returns:
            ``(1, H, W)`` float32 of 0 and 1, of the kind that was given.
        """
        ids = convert_to_numpy(instances)[0].astype(np.float32)
        mask = ids > 0
        if self.gap and mask.any():
            disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * self.gap + 1,) * 2)
            lowest = cv2.erode(np.where(mask, ids, np.inf).astype(np.float32), disk)
            mask &= cv2.dilate(ids, disk) == lowest
        return convert_to_dst_type(
            mask[None], instances, dtype=np.float32 if isinstance(instances, np.ndarray) else torch.float32
        )[0]


class InstancesToMaskd(MapTransform):
    """Dictionary twin of :class:`InstancesToMask`.

    Args:
        keys: instance maps.
        gap: see :class:`InstancesToMask`.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai_ext.transforms import InstancesToMaskd
        >>> InstancesToMaskd("label", gap=1)({"label": torch.tensor([[[0, 1, 1, 2, 2]]])})["label"].tolist()
        [[[0.0, 1.0, 0.0, 0.0, 1.0]]]
    """

    def __init__(self, keys: KeysCollection, gap: int = 0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.converter = InstancesToMask(gap)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each key's instances by their mask."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.converter(d[key])
        return d
