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
from monai_ext.transforms.whole_instances import WholeInstances

__all__ = ["NucleusInstances", "NucleusInstancesd", "split_touching"]

_UNITS = 64  # heights are whole numbers of this fraction of a px, so that no rounding depends on the position
_SLACK = 1e-6  # what float32 activations leave as noise


def split_touching(mask: np.ndarray, sigma: float = 1.0, depth: float = 0.25) -> np.ndarray:
    """Part a mask where it has a waist: watershed of its smoothed distance transform.

    The height of a pixel is its distance to the background. Each pixel belongs to the peak that the steepest way up
    leads to; where the pass between two peaks is less than ``depth`` below the lower one, they are one (the peaks that
    remain are those of the h-maxima transform). Both steps are table look-ups over all pixels at once, and what comes
    out around a pixel depends on its surroundings alone, so that tiles with a margin agree with the whole.

    Args:
        mask: ``(H, W)`` bool; outside it is background.
        sigma: standard deviation of the Gaussian that smooths the distances, px; 0 for none.
        depth: of the pass that parts two peaks, px; the smaller, the more is parted.

    Returns:
        ``(H, W)`` int32, parts numbered from 1 in the order of their highest pixels from top to bottom, 0 outside.

    Examples:
        >>> from monai_ext.transforms.instances import split_touching
        >>> rows, cols = np.mgrid[:32, :48]
        >>> disks = (rows - 16) ** 2 + (abs(cols - 24) - 8) ** 2 < 9.5**2  # two that touch
        >>> parts = split_touching(disks)
        >>> int(parts.max()), int(parts[16, 16]) != int(parts[16, 32])
        (2, True)
    """
    inside = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    height = _heights(inside, sigma)
    pixels = np.flatnonzero(inside.reshape(-1).view(bool))
    peak_of, peaks = _climb(height, pixels, inside.shape[1])
    basins = np.zeros(height.size, np.int32)
    basins[pixels] = peak_of
    owner = _merge_basins(basins, height, pixels[peaks], inside.shape[1], max(1, round(depth * _UNITS)))
    number = np.unique(owner, return_inverse=True)[1]
    parts = np.concatenate([[0], number + 1]).astype(np.int32)[basins]
    return np.ascontiguousarray(parts.reshape(inside.shape)[1:-1, 1:-1])


def _heights(inside: np.ndarray, sigma: float) -> np.ndarray:
    """Distances to the background in units, uint32, flat, 0 outside and at least 1 inside."""
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    if sigma > 0:
        distance = cv2.GaussianBlur(distance, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    height = (distance * _UNITS).astype(np.uint32)
    height *= inside
    height += inside
    return height.reshape(-1)


def _climb(height: np.ndarray, pixels: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The peak, from 1, that each pixel's way up ends at, and which of the pixels are peaks."""
    steps = np.array([-width - 1, -width, -width + 1, -1, 0, 1, width - 1, width, width + 1])
    # the height with the step's number below it: the largest is the highest neighbour, of equal ones the last in
    # order, so that no two pixels are equally high and a plateau has one way out
    key = height << 4
    best = key[width + 1 : len(key) - width - 1] + np.uint32(4)
    neighbour = np.empty_like(best)
    for number, step in enumerate(steps.tolist()):
        if step:
            np.add(key[width + 1 + step : len(key) - width - 1 + step], np.uint32(number), out=neighbour)
            np.maximum(best, neighbour, out=best)
    step = best[pixels - (width + 1)] & 15
    index = np.zeros(len(height), np.int32)
    index[pixels] = np.arange(len(pixels), dtype=np.int32)
    above = index[pixels + steps[step]]
    peaks = np.flatnonzero(step == 4)
    above = _ends(above)
    number = np.zeros(len(pixels), np.int32)
    number[peaks] = np.arange(1, len(peaks) + 1)
    return number[above], peaks


def _ends(pointers: np.ndarray) -> np.ndarray:
    """Where each chain of pointers ends, by jumps that double."""
    while not np.array_equal(further := pointers[pointers], pointers):
        pointers = further
    return pointers


def _merge_basins(basins: np.ndarray, height: np.ndarray, peaks: np.ndarray, width: int, depth: int) -> np.ndarray:
    """The basin, from 0, that each basin becomes a part of, passes being taken from the highest down."""
    sides = []
    for step in (1, width - 1, width, width + 1):
        one, other = basins[:-step], basins[step:]
        border = np.flatnonzero((one != other) & (one != 0) & (other != 0))
        sides.append((one[border] - 1, other[border] - 1, np.minimum(height[border], height[border + step])))
    one, other, level = (np.concatenate(part) for part in zip(*sides, strict=True))
    top = height[peaks].astype(np.int64)
    shallow = np.minimum(top[one], top[other]) - level < depth  # the others never become so: peaks only grow
    one, other, level = one[shallow], other[shallow], level[shallow].astype(np.int64)
    order = np.argsort(-level, kind="stable")
    parent, tops = list(range(len(peaks))), top.tolist()

    def root(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = basin = parent[parent[basin]]
        return basin

    # few: only where a nucleus has several peaks
    for a, b, passed in zip(one[order].tolist(), other[order].tolist(), level[order].tolist(), strict=True):
        high, low = root(a), root(b)
        if tops[high] < tops[low]:
            high, low = low, high
        if high != low and tops[low] - passed < depth:
            parent[low] = high
    return _ends(np.array(parent, np.intp))


class NucleusInstances(Transform):
    """Turn a probability map of nuclei into instances, touching nuclei parted (Haberova and Vykopal, section 4.2).

    The map is cut at a threshold, small holes are filled, what touches is parted by a watershed of the smoothed
    distance transform (:func:`split_touching`), and of each part the largest piece is kept, unless that is too small
    (:func:`~monai_ext.instances.whole_instances`). Lengths are in um, so that they hold at any resolution.

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


def fill_holes(mask: np.ndarray, area: float) -> None:
    """Fill what lies inside the mask and has at most so many px, in place; the image's edge closes no hole."""
    if area < 1:
        return
    # 4-connected: a hole's corner is no way out
    _, gaps, stats, _ = cv2.connectedComponentsWithStats((~mask).view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    hole = (stats[:, cv2.CC_STAT_AREA] <= area) & (left > 0) & (top > 0)
    hole &= (right < mask.shape[1]) & (bottom < mask.shape[0])
    hole[0] = False  # the mask itself
    if hole.any():
        mask |= hole[gaps]


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
