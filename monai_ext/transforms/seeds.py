"""Seeds of nuclei from the relevance maps of a tile classifier (Zhou et al. 2023, section III-A and Fig. 2)."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.transforms import MapTransform, Transform
from monai.utils import convert_to_dst_type, convert_to_numpy, ensure_tuple_rep
from skimage.measure import regionprops
from skimage.morphology import disk

from monai_ext.base.errors import InputError
from monai_ext.base.otsu import otsu_threshold
from monai_ext.instances.parting import fill_holes, split_touching

__all__ = ["SeedMasksFromRelevance", "SeedMasksFromRelevanced"]

# of R, G, B: nuclei take red away and leave blue, eosin and blood leave red
_STAIN = np.array([1.0, 0.3, -0.3], np.float32)
_HOLE = 48  # px at sigma 1, 3 um2 at .25 um/px: lighter spots within a nucleus
_CONVEX = 0.9  # solidity of what looks like one body
_GAIN = 1.2  # of area in such bodies, for which a coarser sigma is taken
# a pixel as the diamond through the middles of its sides, in half px: whole numbers
_DIAMOND = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]], np.int32)


class SeedMasksFromRelevance(Transform):
    """Turn a relevance map into a few nuclei that are likely to be right: the pseudo masks of Cyclic Learning.

    The relevance may be smoothed; its positive part is divided by its maximum and cut at ``theta``. Each 8-connected
    component is filled up to its convex hull (that of scikit-image's ``convex_hull_image``), and the union of the
    hulls is dilated and eroded with a disk. Its components are the seeds: hulls that overlap, touch, or lie nearer to
    each other than the disk closes are one. What is too small is left out, and of the rest at most ``max_seeds`` are
    kept.

    ``refine="stain"``, not in the paper, takes the seeds' outlines from the image itself, since relevance says where
    there are nuclei but not where they end. Otsu's threshold of the smoothed light that hematoxylin takes away, of the
    pixels above ``theta`` and those below ``background`` alone, is learnt for each image anew. What is darker is opened
    with the disk, small holes are filled, and nuclei that touch are parted
    (:func:`~monai_ext.instances.split_touching`). Those that relevance supports, with a pixel above ``theta``, are the
    seeds. It needs no more labels than the front end. An image without pixels of both kinds, or whose relevance lies on
    its lighter pixels, has no seeds. A seed that fills less than ``min_solidity`` of its convex hull is likely several
    nuclei, and is left out. Large nuclei show their chromatin, which breaks them; how far to smooth is each image's
    own: of ``light_sigmas``, with all lengths in proportion, the finest after which no other has 1.2 times its area in
    convex bodies.

    Args:
        theta: share of the maximum that counts, in [0, 1); .35 in the paper.
        min_area: smaller seeds are left out, px. Our reading of the release, for images at 40x.
        max_seeds: the paper's K; ``None`` for all.
        keep: which ones, where there are more: ``"random"`` as in the paper, or ``"top"``, those of the highest score.
        radius: of the disk, px; 0 for no closing (or opening). Not given in the paper.
        sigma: of a Gaussian that smooths the relevance first, px; 0, none, in the paper. Relevance comes in specks of
            the network's first strides, which otherwise set the maximum and part nuclei.
        quantile: of the positive relevance, which stands for its maximum; 1, the maximum itself, in the paper. Below, a
            single spot cannot push all others under ``theta``.
        seed: of the random choice, which depends on it and on the map's components alone: not on how many maps came
            before, so that a resumed run gives the same seeds.
        background: share of the maximum below which a pixel is taken for background, by :meth:`settled` and
            by the refinement.
        refine: ``"stain"``, or ``None`` for the paper's seeds.
        min_solidity: share of its convex hull that a refined seed fills, in [0, 1]; 0 keeps all.
        light_sigmas: of the Gaussian that smooths the light, px, from fine to coarse; ``radius`` and the square root of
            ``min_area`` are multiplied by it.

    Raises:
        InputError: an argument is out of its range.

    Examples:
        >>> from monai_ext.transforms import SeedMasksFromRelevance
        >>> relevance = torch.zeros(1, 64, 64)
        >>> relevance[0, 10:30, 10:30], relevance[0, 50:54, 50:54] = 2.0, 1.0
        >>> seeds, scores = SeedMasksFromRelevance(min_area=100)(relevance)
        >>> tuple(seeds.shape), int((seeds == 1).sum()), scores.tolist()
        ((1, 64, 64), 400, [1.0])
        >>> image = np.full((3, 64, 64), 230, np.uint8)
        >>> image[:, 12:24, 12:24] = 90  # the nucleus is smaller than what is relevant
        >>> seeds, _ = SeedMasksFromRelevance(min_area=100, refine="stain")(relevance, image)
        >>> int((seeds == 1).sum())  # 144 px and their blurred rim instead of 400
        172
    """

    def __init__(
        self,
        theta: float = 0.35,
        min_area: int = 100,
        max_seeds: int | None = 20,
        keep: Literal["random", "top"] = "random",
        radius: int = 2,
        sigma: float = 0.0,
        quantile: float = 1.0,
        seed: int = 0,
        background: float = 0.05,
        refine: Literal["stain"] | None = None,
        min_solidity: float = 0.0,
        light_sigmas: Sequence[float] = (1.0,),
    ) -> None:
        if not 0 <= theta < 1:
            raise InputError("SeedMasksFromRelevance theta", "a share from 0 to below 1", repr(theta))
        if keep not in ("random", "top"):
            raise InputError("SeedMasksFromRelevance keep", "'random' or 'top'", repr(keep))
        if refine not in ("stain", None):
            raise InputError("SeedMasksFromRelevance refine", "'stain' or null", repr(refine))
        if not 0 <= background < 1:
            raise InputError("SeedMasksFromRelevance background", "a share from 0 to below 1", repr(background))
        if not 0 <= min_solidity <= 1:
            raise InputError("SeedMasksFromRelevance min_solidity", "a share from 0 to 1", repr(min_solidity))
        if not light_sigmas or list(light_sigmas) != sorted(light_sigmas) or not 0 < light_sigmas[0] < float("inf"):
            raise InputError("SeedMasksFromRelevance light_sigmas", "px above 0, increasing", repr(light_sigmas))
        if not 0 <= sigma < float("inf"):
            raise InputError("SeedMasksFromRelevance sigma", "px, at least 0", repr(sigma))
        if not 0 < quantile <= 1:
            raise InputError("SeedMasksFromRelevance quantile", "a share above 0, at most 1", repr(quantile))
        counts = {"min_area": min_area, "max_seeds": 0 if max_seeds is None else max_seeds, "radius": radius}
        for name, value in {**counts, "seed": seed}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"SeedMasksFromRelevance {name}", "a whole number of at least 0", repr(value))
        self.theta, self.min_area, self.max_seeds, self.keep = theta, min_area, max_seeds, keep
        self.sigma, self.quantile, self.seed, self.radius = sigma, quantile, seed, radius
        self.background, self.refine, self.min_solidity = background, refine, min_solidity
        self.light_sigmas = tuple(light_sigmas)

    def __call__(
        self, relevance: NdarrayOrTensor, image: NdarrayOrTensor | None = None
    ) -> tuple[NdarrayOrTensor, NdarrayOrTensor]:
        """Find the seeds.

        Args:
            relevance: ``(1, H, W)`` or ``(H, W)``, signed, of any scale; array, tensor on any device, or MetaTensor.
            image: RGB ``(3, H, W)`` of any scale, as it was read; for ``refine``.

        Returns:
            int32 ``(1, H, W)``, seeds numbered from 1 in the order of their scores, 0 elsewhere; and their scores,
            float32 ``(N,)``, the mean share of the maximum, from high to low. Both of the input's kind. A map without
            anything positive has no seeds.

        Raises:
            InputError: the map has another shape, or values that are not finite; there is no image where one is
                needed, or of another size.
        """
        response = self._response(relevance)
        labels, area = self._hulls(response) if self.refine is None else self._dark_parts(response, image)[1:]
        inside = np.flatnonzero(labels)
        score = np.bincount(labels.reshape(-1)[inside], response.reshape(-1)[inside], len(area)) / np.maximum(area, 1)
        kept = 1 + np.flatnonzero(area[1:] >= max(self.min_area, 1))
        if self.keep == "random" and self.max_seeds is not None and len(kept) > self.max_seeds:
            rng = np.random.RandomState([self.seed, zlib.crc32(np.packbits(labels > 0))])
            kept = np.sort(rng.permutation(kept)[: self.max_seeds])
        kept = kept[np.argsort(-score[kept], kind="stable")][: self.max_seeds]
        number = np.zeros(len(area), np.int32)
        number[kept] = np.arange(1, len(kept) + 1)
        seeds = convert_to_dst_type(number[labels][None], relevance, dtype=np.int32)[0]
        return seeds, convert_to_dst_type(score[kept], relevance, dtype=np.float32)[0]

    def settled(
        self, relevance: NdarrayOrTensor, seeds: NdarrayOrTensor, image: NdarrayOrTensor | None = None
    ) -> NdarrayOrTensor:
        """Where the truth is known: in seeds, and where the response is so low that there is no nucleus.

        The rest are nuclei that were not kept and what surrounds all of them. With ``refine`` what is lighter than the
        cut is known to be none, whatever its relevance, and nothing that is darker. Not in the paper; for back ends
        that are to learn nothing there.

        Args:
            relevance: as for a call.
            seeds: what the call gave.
            image: as for a call.

        Returns:
            bool ``(1, H, W)`` of the seeds' kind.
        """
        response = self._response(relevance)
        background = response < self.background
        if self.refine is not None:
            dark = self._dark_parts(response, image)[0]
            if dark.any() or (response > self.theta).any():  # without a cut, but with nuclei, nothing is known
                background = ~dark & dark.any()
        certain = background | (convert_to_numpy(seeds)[0] > 0)
        return convert_to_dst_type(certain[None], seeds, dtype=bool)[0]

    def steps(self, relevance: NdarrayOrTensor, image: NdarrayOrTensor | None = None) -> dict[str, np.ndarray]:
        """What each step makes of a map, for a picture such as the paper's Fig. 2.

        Args:
            relevance: as for a call.
            image: as for a call.

        Returns:
            maps ``(H, W)`` by name: ``relevance``, float32, the share of the maximum; ``above theta``, bool; then
            ``hulls`` and ``closed``, bool, or with ``refine`` ``dark``, bool, and ``parted``, int32; at last ``seeds``,
            int32.
        """
        response = self._response(relevance)
        steps = {"relevance": response, "above theta": response > self.theta}
        if self.refine is None:
            hulls = _fill_hulls(response > self.theta)
            steps |= {"hulls": hulls, "closed": self._closed(hulls).view(bool)}
        else:
            dark, parts, _ = self._dark_parts(response, image)
            steps |= {"dark": dark, "parted": parts}
        return {**steps, "seeds": convert_to_numpy(self(relevance, image)[0])[0]}

    def _closed(self, mask: np.ndarray) -> np.ndarray:
        return cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_CLOSE, disk(self.radius, np.uint8))

    def _hulls(self, response: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The paper's seeds: labels ``(H, W)``, and their areas, the background's first."""
        mask = self._closed(_fill_hulls(response > self.theta))
        _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_32S)
        return labels, stats[:, cv2.CC_STAT_AREA]

    def _dark_parts(
        self, response: np.ndarray, image: NdarrayOrTensor | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is darker than the cut, bool ``(H, W)``; its parts and their areas, as :meth:`_hulls`.

        Parts that relevance does not support, that are too small, or dented, have an area of 0.
        """
        if image is None or tuple(image.shape) != (3, *response.shape):
            found = "none" if image is None else f"shape {tuple(image.shape)}"
            raise InputError(
                "SeedMasksFromRelevance image", f"RGB of the map's size, {(3, *response.shape)}, to refine by", found
            )
        light = np.tensordot(_STAIN, convert_to_numpy(image).astype(np.float32), 1)
        best, most = None, 0.0
        for sigma in self.light_sigmas:
            dark = self._dark(response, -cv2.GaussianBlur(light, (0, 0), sigma))
            parts, area, solidity = self._bodies(dark, sigma)
            convex = float(area[solidity >= _CONVEX].sum())
            if best is None or convex > _GAIN * most:
                relevant = np.bincount(parts[response > self.theta], minlength=len(area)) > 0
                best, most = (dark, parts, area * (relevant & (solidity >= self.min_solidity))), convex
        return best

    def _bodies(self, dark: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parts ``(H, W)``, their areas, 0 where too small, and their solidities; the background's first, as 0."""
        opened = cv2.morphologyEx(dark.view(np.uint8), cv2.MORPH_OPEN, disk(round(self.radius * sigma), np.uint8))
        opened = opened.view(bool)
        fill_holes(opened, round(_HOLE * sigma**2))
        parts = split_touching(opened, sigma, 0.25 * sigma)
        area, solidity = np.zeros(1 + parts.max(initial=0), np.int64), np.zeros(1 + parts.max(initial=0))
        for region in regionprops(parts):
            if region.area >= self.min_area * sigma**2:
                area[region.label], solidity[region.label] = region.area, region.solidity
        return parts, area, solidity

    def _dark(self, response: np.ndarray, darkness: np.ndarray) -> np.ndarray:
        """Bool ``(H, W)``: darker than the cut between what is relevant and what is not."""
        nuclei, rest = darkness[response > self.theta], darkness[response < self.background]
        if not len(nuclei) or not len(rest) or nuclei.mean() <= rest.mean():
            return np.zeros(darkness.shape, bool)
        return darkness > otsu_threshold(np.concatenate([nuclei, rest])[None])

    def _response(self, relevance: NdarrayOrTensor) -> np.ndarray:
        """The positive part as a share of its maximum."""
        values = relevance.float() if isinstance(relevance, torch.Tensor) else relevance  # numpy has no bfloat16
        image = np.ascontiguousarray(convert_to_numpy(values), dtype=np.float32)
        if image.ndim == 3 and image.shape[0] == 1:
            image = image[0]
        if image.ndim != 2 or image.size == 0:
            raise InputError("relevance map", "shape (1, H, W) or (H, W)", str(tuple(relevance.shape)))
        if not cv2.checkRange(image)[0]:
            bad = int(np.count_nonzero(~np.isfinite(image)))
            raise InputError("relevance map", "finite values", f"NaN or infinity in {bad} of {image.size} px")
        if self.sigma:
            image = cv2.GaussianBlur(image, (0, 0), self.sigma)
        positive = np.maximum(image, 0)
        highest = float(positive.max())
        if highest and self.quantile < 1:
            highest = float(np.quantile(positive[positive > 0], self.quantile))
        return np.minimum(positive / (highest or 1), 1)


def _fill_hulls(mask: np.ndarray) -> np.ndarray:
    """The union of the convex hulls of a mask's 8-connected components.

    Args:
        mask: ``(H, W)`` bool.

    Returns:
        ``(H, W)`` bool: pixels whose centre is in the hull of a component's diamonds, or on its border.
    """
    # a component in another one's hole is in its hull too, so the outer outlines are enough
    outlines = cv2.findContours(mask.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    if not outlines:
        return mask
    # in half px, x and y; down on the left and up on the right, where down means towards lower y
    hulls = [cv2.convexHull((2 * outline + _DIAMOND).reshape(-1, 1, 2))[:, 0] for outline in outlines]
    start = np.concatenate(hulls).astype(np.int64)
    run = np.concatenate([np.roll(hull, -1, axis=0) for hull in hulls]) - start
    lower, upper = np.minimum(start[:, 1], start[:, 1] + run[:, 1]), np.maximum(start[:, 1], start[:, 1] + run[:, 1])
    # the rows of px that each side crosses: its lower end excluded, so that a corner counts once
    crossed = upper // 2 - lower // 2
    side = np.repeat(np.arange(len(start)), crossed)
    row = np.arange(len(side)) - np.repeat(np.cumsum(crossed) - crossed, crossed) + lower[side] // 2 + 1
    # where, as an exact fraction: column = above / below
    (x, y), (dx, dy) = start[side].T, run[side].T
    above, below = x * dy + dx * (2 * row - y), 2 * dy
    left = dy < 0
    ends = np.zeros((mask.shape[0], mask.shape[1] + 1), np.int32)
    np.add.at(ends, (row[left], -(-above[left] // below[left])), 1)
    np.add.at(ends, (row[~left], above[~left] // below[~left] + 1), -1)
    return np.cumsum(ends, axis=1)[:, :-1] > 0


class SeedMasksFromRelevanced(MapTransform):
    """Dictionary twin of :class:`SeedMasksFromRelevance`: keeps the map, adds the seeds and their scores.

    Args:
        keys: keys of ``(1, H, W)`` or ``(H, W)`` relevance maps.
        seeds_key: where the ``(1, H, W)`` seeds go; one for each key.
        scores_key: where the ``(N,)`` scores go; one for each key, None to leave them out.
        known_key: where :meth:`SeedMasksFromRelevance.settled` goes; one for each key, None to leave it out.
        image_key: the RGB image ``(3, H, W)``, as it was read; looked at only where ``refine`` is given.
        allow_missing_keys: whether a missing key is left alone.
        **seed_args: arguments of :class:`SeedMasksFromRelevance`.

    Examples:
        >>> from monai_ext.transforms import SeedMasksFromRelevanced
        >>> relevance = torch.zeros(1, 64, 64)
        >>> relevance[0, 10:30, 10:30], relevance[0, 40:60, 40:60] = 2.0, 1.0
        >>> item = SeedMasksFromRelevanced()({"relevance": relevance})
        >>> int(item["seeds"].max()), item["seed_scores"].tolist()
        (2, [1.0, 0.5])
    """

    def __init__(
        self,
        keys: KeysCollection = "relevance",
        seeds_key: str | Sequence[str] = "seeds",
        scores_key: str | Sequence[str] | None = "seed_scores",
        known_key: str | Sequence[str] | None = None,
        image_key: str = "source",
        allow_missing_keys: bool = False,
        **seed_args: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.seeds_key = ensure_tuple_rep(seeds_key, len(self.keys))
        self.scores_key = ensure_tuple_rep(scores_key, len(self.keys))
        self.known_key = ensure_tuple_rep(known_key, len(self.keys))
        self.image_key, self.find = image_key, SeedMasksFromRelevance(**seed_args)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add seeds and scores; raises InputError where a map is unusable."""
        d = dict(data)
        image = None if self.find.refine is None else d.get(self.image_key)
        result_keys = (self.seeds_key, self.scores_key, self.known_key)
        for key, seeds_key, scores_key, known_key in self.key_iterator(d, *result_keys):
            d[seeds_key], scores = self.find(d[key], image)
            if scores_key is not None:
                d[scores_key] = scores
            if known_key is not None:
                d[known_key] = self.find.settled(d[key], d[seeds_key], image)
        return d
