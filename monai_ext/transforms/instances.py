"""Nuclei one by one from a map of where there are nuclei: distance transform, significant peaks, watershed."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy, ensure_tuple_rep

from monai_ext.base.errors import InputError
from monai_ext.instances.parting import fill_holes, split_touching
from monai_ext.transforms.whole_instances import WholeInstances

__all__ = ["NucleusInstances", "NucleusInstancesd"]

_SLACK = 1e-6  # what float32 activations leave as noise


class NucleusInstances(Transform):
    """Turn a probability map of nuclei into instances, touching nuclei parted (Haberova and Vykopal, section 4.2).

    The map is cut at a threshold, small holes are filled, what touches is parted by a watershed of the smoothed
    distance transform (:func:`~monai_ext.instances.split_touching`), and of each part the largest piece is kept,
    unless that is too small (:func:`~monai_ext.instances.whole_instances`). Lengths are in um, so that they hold at
    any resolution.

    Args:
        threshold: a pixel above it is nucleus.
        min_area_um2: smaller instances are left out.
        unscaled_area_um2: the same where a call does not say the resolution, which then counts as ``mpp``; default
            ``min_area_um2``.
        max_hole_um2: smaller holes are filled; what three nuclei that touch enclose is larger.
        sigma_um: of the Gaussian that smooths the distances, um.
        depth_um: how far the pass between two nuclei lies below the centre of the smaller, um; smaller values part
            more.
        mpp: um per px, where a call does not say.

    Raises:
        InputError: an argument is out of its range.

    Examples:
        >>> from monai_ext.transforms import NucleusInstances
        >>> rows, cols = np.mgrid[:32, :48]
        >>> disks = (rows - 16) ** 2 + (abs(cols - 24) - 8) ** 2 < 9.5**2  # two that touch
        >>> instances = NucleusInstances(mpp=0.5)(disks[None].astype(np.float32))
        >>> instances.shape, int(instances.max())
        ((1, 32, 48), 2)
    """

    def __init__(
        self,
        threshold: float = 0.5,
        *,
        min_area_um2: float = 10.0,
        unscaled_area_um2: float | None = None,
        max_hole_um2: float = 3.0,
        sigma_um: float = 0.5,
        depth_um: float = 0.125,
        mpp: float | None = None,
    ) -> None:
        if not 0 <= threshold < 1:
            raise InputError("NucleusInstances threshold", "a probability from 0 to below 1", repr(threshold))
        lengths = {"max_hole_um2": max_hole_um2, "sigma_um": sigma_um, "depth_um": depth_um}
        for name, value in lengths.items():
            if not value >= 0:
                raise InputError(f"NucleusInstances {name}", "a number of at least 0", repr(value))
        self.threshold, self.mpp = threshold, mpp
        self.keep = WholeInstances(min_area_um2, unscaled_area_um2=unscaled_area_um2, mpp=mpp)
        self.max_hole_um2 = max_hole_um2
        self.sigma_um, self.depth_um = sigma_um, depth_um

    def __call__(self, probability: NdarrayOrTensor, mpp: float | None = None) -> NdarrayOrTensor:
        """Find the instances.

        Args:
            probability: ``(1, H, W)`` or ``(H, W)`` in [0, 1]; array, tensor on any device, or MetaTensor.
            mpp: um per px; default: the constructor's.

        Returns:
            int32 map of the input's shape and kind, instances numbered from 1 without gaps, 0 is background.

        Raises:
            InputError: the map has another shape, or values outside [0, 1]; the resolution is unknown.
        """
        return self.keep(convert_to_dst_type(self.parted(probability, mpp), probability, dtype=np.int32)[0], mpp)

    def parted(self, probability: NdarrayOrTensor, mpp: float | None = None) -> np.ndarray:
        """As a call, but instances of any size and in any number of pieces, as an int32 array of the map's shape."""
        mpp = float(mpp or self.mpp or 0)
        if mpp <= 0:
            raise InputError("NucleusInstances mpp", "um per px, for lengths in um", "none")
        mask = self._mask(probability)
        fill_holes(mask, self.max_hole_um2 / mpp**2)
        return split_touching(mask, self.sigma_um / mpp, self.depth_um / mpp).reshape(probability.shape)

    def _mask(self, probability: NdarrayOrTensor) -> np.ndarray:
        values = probability.float() if isinstance(probability, torch.Tensor) else probability  # numpy has no bfloat16
        image = np.ascontiguousarray(convert_to_numpy(values), dtype=np.float32)
        if image.ndim == 3 and image.shape[0] == 1:
            image = image[0]
        if image.ndim != 2 or image.size == 0:
            raise InputError("probability map", "shape (1, H, W) or (H, W)", str(tuple(probability.shape)))
        low, high, *_ = cv2.minMaxLoc(image)
        if not cv2.checkRange(image)[0] or low < -_SLACK or high > 1 + _SLACK:
            raise InputError("probability map", "values in [0, 1]", f"NaN or values in [{low:g}, {high:g}]")
        return image > self.threshold


class NucleusInstancesd(MapTransform):
    """Dictionary twin of :class:`NucleusInstances`: keeps the map, adds the instances.

    Args:
        keys: keys of ``(C, H, W)`` probability maps.
        instances_key: where the ``(1, H, W)`` instances go; one for each key.
        channel: channel of the map to read.
        image_key: an image, a MetaTensor, whose metadata may give ``mpp``; ``None`` for the constructor's ``mpp``.
        allow_missing_keys: whether a missing key is left alone.
        **instance_args: arguments of :class:`NucleusInstances`.

    Examples:
        >>> from monai.data import MetaTensor
        >>> from monai_ext.transforms import NucleusInstancesd
        >>> image = MetaTensor(torch.zeros(3, 32, 48), meta={"mpp": 0.5})
        >>> item = {"probability": torch.zeros(1, 32, 48), "source": image}
        >>> item["probability"][0, 4:20, 4:20] = item["probability"][0, 4:20, 28:44] = 0.9
        >>> int(NucleusInstancesd()(item)["instances"].max())
        2
    """

    def __init__(
        self,
        keys: KeysCollection = "probability",
        instances_key: str | Sequence[str] = "instances",
        channel: int = 0,
        image_key: str | None = "source",
        allow_missing_keys: bool = False,
        **instance_args: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.instances_key = ensure_tuple_rep(instances_key, len(self.keys))
        self.channel, self.image_key = channel, image_key
        self.find = NucleusInstances(**instance_args)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the instances; raises InputError where a map is unusable."""
        d = dict(data)
        image = None if self.image_key is None else d.get(self.image_key)
        mpp = image.meta.get("mpp") if isinstance(image, MetaTensor) else None
        for key, instances_key in self.key_iterator(d, self.instances_key):
            if d[key].ndim != 3 or not -d[key].shape[0] <= self.channel < d[key].shape[0]:
                raise InputError(f"{key!r}", f"shape (C, H, W) with a channel {self.channel}", str(tuple(d[key].shape)))
            d[instances_key] = self.find(d[key][self.channel][None], mpp=None if mpp is None else float(mpp))
        return d
