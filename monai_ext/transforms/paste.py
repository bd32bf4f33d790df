"""What is pasted into fields with its truth: isolated nuclei beside others, and bare glass."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import cv2
import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_dst_type, convert_to_numpy, ensure_tuple
from skimage.measure import regionprops

from monai_ext.base.errors import InputError

__all__ = ["RandPasteGlassd", "RandPasteNucleid"]

_MARGIN = 6  # px around a nucleus that is pasted with it, blended in
_AREAS = (0.3, 2.2)  # of the median nucleus; what is smaller is debris, what is larger several
_SCALE = 1.28
_NEAR = 0.8  # share of those that are pasted beside a nucleus
_OVERLAP = (0.65, 1.08)  # distance of the centres, of that at which both would just touch
_COVERED = 0.5  # the largest part of a nucleus that may be hidden
_BLEND = (0.6, 1.2)  # px, sigma of the edge
_GRAIN = (0.8, 4.0)  # px, sigma of the noise whose peaks are clumps of chromatin
_RIM = (0.5, 3.0)  # px, of a vesicular nucleus, which stays dark
_WHITE = 0.6  # how far from the cytoplasm's colour to white a nucleus clears up
_GLASS = (228, 255)  # of each colour
_NOISE = 2.0  # deviation within glass
_AWAY = 2  # px between a nucleus and glass


class RandPasteNucleid(Randomizable, MapTransform):
    """Pastes copies of a field's isolated nuclei beside and onto other ones, and writes them into the instance maps.

    Labels that are found without outlines, by a threshold or by seeds, are least sure where nuclei touch, and that is
    where a network needs them most. A convex nucleus that stands alone is safe. Copies of such ones, turned by any
    angle, mirrored and scaled a little, make groups whose borders are known to the px: simple copy-paste (Ghiasi et al.
    2021, CVPR), of nuclei of the same image and so of the same stain. Half of them cover what is below; the
    others let it shine through, as in a thick section. A share of them (``vesicular``) clears up inside a rim and
    between clumps of chromatin: labels that come from darkness do not hold such nuclei.

    Args:
        keys: of the image, ``(3, H, W)`` in [0, 255].
        mask_keys: of instance maps, integers ``(1, H, W)``; the first decides which nuclei are copied, all get
            the copies.
        known_key: of a mask ``(1, H, W)`` of where the truth is known, which the copies are; passed over where there is
            none.
        prob: share of the fields that are changed.
        most: the largest number of copies, as a multiple of the number of nuclei, but at least 8.
        min_solidity: share of its convex hull that a nucleus fills, in [0, 1], to be copied.
        vesicular: share of the copies that clear up inside.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        InputError: an argument is out of its range.

    Examples:
        >>> from monai_ext.transforms import RandPasteNucleid
        >>> rows, cols = np.mgrid[:96, :96]
        >>> label = ((rows - 48) ** 2 + (cols - 48) ** 2 < 80).astype(np.int32)[None]
        >>> image = np.where(label > 0, 90, 220).repeat(3, 0).astype(np.uint8)
        >>> item = RandPasteNucleid(prob=1).set_random_state(1)({"image": image, "label": label})
        >>> item["image"].shape, bool(item["label"].max() > 1)
        ((3, 96, 96), True)
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        mask_keys: KeysCollection = "label",
        known_key: str | None = "known",
        prob: float = 0.85,
        most: float = 1.0,
        min_solidity: float = 0.93,
        vesicular: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        for name, value in {"prob": prob, "min_solidity": min_solidity, "vesicular": vesicular}.items():
            if not 0 <= value <= 1:
                raise InputError(f"RandPasteNucleid {name}", "a share from 0 to 1", repr(value))
        if not most >= 0:
            raise InputError("RandPasteNucleid most", "a number of at least 0", repr(most))
        self.mask_keys, self.known_key = ensure_tuple(mask_keys), known_key
        self.prob, self.most, self.min_solidity, self.vesicular = prob, most, min_solidity, vesicular

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Paste; raises InputError where an image and its maps differ in size."""
        d = dict(data)
        for key in self.key_iterator(d):
            masks = [name for name in self.mask_keys if name in d]
            image = np.ascontiguousarray(convert_to_numpy(d[key]).transpose(1, 2, 0), np.float32)
            maps = [np.array(convert_to_numpy(d[name])[0], np.int64) for name in masks]
            for name, each in zip(masks, maps, strict=True):
                if each.shape != image.shape[:2]:
                    raise InputError(f"{name!r}", f"the image's size {image.shape[:2]}", str(each.shape))
            isolated = self._isolated(maps[0])
            if not isolated or self.R.random_sample() >= self.prob:
                continue
            pasted = np.zeros(image.shape[:2], bool)
            before = image.copy()
            for _ in range(self.R.randint(1 + max(8, int(self.most * len(np.unique(maps[0])))))):
                self._paste(image, maps, pasted, before, isolated[self.R.randint(len(isolated))])
            d[key] = convert_to_dst_type(np.rint(image.clip(0, 255)).transpose(2, 0, 1), d[key])[0]
            for name, each in zip(masks, maps, strict=True):
                d[name] = convert_to_dst_type(each[None], d[name])[0]
            if self.known_key in d:
                known = convert_to_numpy(d[self.known_key])
                d[self.known_key] = convert_to_dst_type(np.where(pasted, 1, known), d[self.known_key])[0]
        return d

    def _isolated(self, ids: np.ndarray) -> list[tuple[tuple[slice, slice], np.ndarray]]:
        """Where the convex nuclei that touch nothing are, with a margin, and their masks."""
        height, width = ids.shape
        alone = []
        for region in regionprops(ids):
            top, left, bottom, right = region.bbox
            if top == 0 or left == 0 or bottom == height or right == width or region.solidity < self.min_solidity:
                continue
            place = (
                slice(max(top - _MARGIN, 0), bottom + _MARGIN),
                slice(max(left - _MARGIN, 0), right + _MARGIN),
            )
            mask = ids[place] == region.label
            around = cv2.dilate(mask.view(np.uint8), np.ones((3, 3), np.uint8)) > 0
            if not (ids[place][around & ~mask] > 0).any():
                alone.append((place, mask))
        median = np.median([mask.sum() for _, mask in alone]) if alone else 0
        return [each for each in alone if _AREAS[0] * median <= each[1].sum() <= _AREAS[1] * median]

    def _paste(
        self,
        image: np.ndarray,
        maps: list[np.ndarray],
        pasted: np.ndarray,
        before: np.ndarray,
        nucleus: tuple[tuple[slice, slice], np.ndarray],
    ) -> None:
        """One copy, unless it would hide others; all arrays are changed in place."""
        colours, mask = self._turned(before[nucleus[0]], nucleus[1])
        if self.R.random_sample() < self.vesicular:
            colours = self._cleared(colours, mask)
        row, col = (round(float(c) - len(mask) / 2) for c in self._centre(maps[0], mask))
        height, width = image.shape[:2]
        place = (slice(max(row, 0), min(row + len(mask), height)), slice(max(col, 0), min(col + len(mask), width)))
        cut = tuple(slice(s.start - first, s.stop - first) for s, first in zip(place, (row, col), strict=True))
        if not mask[cut].any():
            return
        area = np.bincount(maps[0].reshape(-1))
        hidden = np.bincount(maps[0][place][mask[cut]], minlength=len(area))
        if (hidden > _COVERED * area)[1:].any():
            return
        edge = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), self.R.uniform(*_BLEND))[cut][..., None]
        below = image[place]
        top = colours[cut] if self.R.random_sample() < 0.5 else np.minimum(colours[cut], below)
        image[place] = edge * top + (1 - edge) * below
        number = 1 + max(int(each.max()) for each in maps)
        for each in maps:
            each[place][mask[cut]] = number
        pasted[place] |= mask[cut]

    def _turned(self, colours: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A nucleus and its mask at a random angle, scale and side, in a square."""
        if self.R.random_sample() < 0.5:
            colours, mask = np.ascontiguousarray(colours[:, ::-1]), np.ascontiguousarray(mask[:, ::-1])
        height, width = mask.shape
        side = int(np.ceil(np.hypot(height, width) * _SCALE)) | 1
        scale = np.exp(self.R.uniform(-np.log(_SCALE), np.log(_SCALE)))
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.R.uniform(0, 360), scale)
        matrix[:, 2] += (side - width) / 2, (side - height) / 2
        colours = cv2.warpAffine(colours, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        mask = cv2.warpAffine(mask.astype(np.float32), matrix, (side, side), flags=cv2.INTER_LINEAR)
        return colours, mask > 0.5

    def _cleared(self, colours: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """A nucleus that is light between clumps of chromatin and inside its rim."""
        around = cv2.dilate(mask.astype(np.uint8), np.ones((2 * _MARGIN + 1,) * 2, np.uint8)).astype(bool) & ~mask
        if not mask.any() or not around.any():
            return colours
        light = colours[around].mean(0)
        light = light + self.R.uniform(0, _WHITE) * (255 - light)
        noise = cv2.GaussianBlur(self.R.normal(size=mask.shape).astype(np.float32), (0, 0), self.R.uniform(*_GRAIN))
        clear = 1 / (1 + np.exp(-3 * (noise / noise[mask].std().clip(1e-6) - self.R.uniform(-1, 1))))
        depth = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 5)
        clear *= ((depth - self.R.uniform(*_RIM)) / 2).clip(0, 1) * self.R.uniform(0.2, 0.9)
        return colours + clear[..., None].astype(np.float32) * (light - colours).astype(np.float32)

    def _centre(self, ids: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
        """Where a copy goes: beside a nucleus, or anywhere."""
        numbers = 1 + np.flatnonzero(np.bincount(ids.reshape(-1))[1:])
        if not len(numbers) or self.R.random_sample() >= _NEAR:
            return self.R.uniform(0, ids.shape[0]), self.R.uniform(0, ids.shape[1])
        angle = self.R.uniform(0, 2 * np.pi)
        way = np.array([np.sin(angle), np.cos(angle)])
        one, other = (np.argwhere(each) for each in (ids == numbers[self.R.randint(len(numbers))], mask))
        reach = ((one - one.mean(0)) @ way).max() - ((other - other.mean(0)) @ way).min()
        return tuple(one.mean(0) + way * reach * self.R.uniform(*_OVERLAP))


class RandPasteGlassd(Randomizable, MapTransform):
    """Covers parts of a field with bare glass: gaps, vessels and lumens, where there is no nucleus.

    Where fields were chosen for their tissue, a network sees no glass, and what it says there is chance. Nuclei of the
    maps stay whole, with a rim of 2 px.

    Args:
        keys: of the image, ``(3, H, W)`` in [0, 255].
        mask_keys: of instance maps, integers ``(1, H, W)``, which stay as they are.
        known_key: of a mask ``(1, H, W)`` of where the truth is known, which glass is; passed over where there is none.
        prob: share of the fields that are changed.
        most: the largest share of a field that becomes glass, in [0, 1].
        cells: smallest and largest number of blobs along a side, in turn the coarseness of the glass.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        InputError: an argument is out of its range.

    Examples:
        >>> from monai_ext.transforms import RandPasteGlassd
        >>> item = {"image": np.full((3, 64, 64), 150, np.uint8), "label": np.zeros((1, 64, 64), np.int32)}
        >>> item = RandPasteGlassd(prob=1).set_random_state(0)(item)
        >>> bool((item["image"] > 220).any()), bool((item["image"] == 150).any())
        (True, True)
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        mask_keys: KeysCollection = "label",
        known_key: str | None = "known",
        prob: float = 0.3,
        most: float = 0.4,
        cells: tuple[int, int] = (3, 8),
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        for name, value in {"prob": prob, "most": most}.items():
            if not 0 <= value <= 1:
                raise InputError(f"RandPasteGlassd {name}", "a share from 0 to 1", repr(value))
        if not 1 <= cells[0] <= cells[1]:
            raise InputError("RandPasteGlassd cells", "two numbers from 1, increasing", repr(cells))
        self.mask_keys, self.known_key = ensure_tuple(mask_keys), known_key
        self.prob, self.most, self.cells = prob, most, cells

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cover; raises InputError where an image and its maps differ in size."""
        d = dict(data)
        for key in self.key_iterator(d):
            image = convert_to_numpy(d[key]).astype(np.float32)
            nuclei = np.zeros(image.shape[1:], np.uint8)
            for name in self.mask_keys:
                if name in d:
                    mask = convert_to_numpy(d[name])[0] > 0
                    if mask.shape != nuclei.shape:
                        raise InputError(f"{name!r}", f"the image's size {nuclei.shape}", str(mask.shape))
                    nuclei |= mask
            if self.R.random_sample() >= self.prob:
                continue
            glass = self._blobs(nuclei.shape) & (cv2.dilate(nuclei, np.ones((2 * _AWAY + 1,) * 2, np.uint8)) == 0)
            edge = cv2.GaussianBlur(glass.astype(np.float32), (0, 0), self.R.uniform(*_BLEND))
            edge[nuclei > 0] = 0
            colour = self.R.uniform(*_GLASS) + self.R.normal(0, _NOISE, image.shape)
            image += edge * (colour - image)
            d[key] = convert_to_dst_type(np.rint(image.clip(0, 255)), d[key])[0]
            if self.known_key in d:
                known = convert_to_numpy(d[self.known_key])
                d[self.known_key] = convert_to_dst_type(np.where(glass, 1, known), d[self.known_key])[0]
        return d

    def _blobs(self, shape: tuple[int, int]) -> np.ndarray:
        """Bool ``(H, W)``: where smooth noise is high."""
        count = self.R.randint(self.cells[0], self.cells[1] + 1)
        noise = cv2.resize(self.R.random_sample((count, count)), shape[::-1], interpolation=cv2.INTER_CUBIC)
        return noise > np.quantile(noise, 1 - self.R.uniform(0, self.most))
