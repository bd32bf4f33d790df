"""Instance maps as targets of instance networks, and sets of instances merged."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_numpy

from monai_ext.base.errors import InputError
from monai_ext.instances.sparse import SparseInstances
from monai_ext.instances.targets import make_target, read_instances

__all__ = ["InstancesToTargetd", "KeepSured", "MergeInstancesd", "PickInstancesd"]


class InstancesToTargetd(MapTransform):
    """Replaces instance maps by targets, see :class:`~monai_ext.instances.targets.Target`.

    Args:
        keys: of instance maps, integers ``(1, H, W)``.
        known_key: of a mask ``(1, H, W)``, not 0 where the truth is known; without it all is known.
        allow_missing_keys: pass over keys that are not there.
        missed: what an instance of an earlier key is in the target of a later one that has less than half of its
            pixels: ``"background"``, or ``"ignore"``: an instance of weight 0, neither nucleus nor background. Eq. 2 of
            Cyclic Learning has a target of what the teacher found; seeds that it missed are known to be nuclei.

    Raises:
        InputError: another choice for ``missed``.

    Examples:
        >>> from monai_ext.transforms import InstancesToTargetd
        >>> target = InstancesToTargetd("label")({"label": torch.tensor([[[0, 1, 1], [5, 0, 0]]])})["label"]
        >>> tuple(target["masks"].shape), target["boxes"].tolist()
        ((2, 2, 3), [[1.0, 0.0, 3.0, 1.0], [0.0, 1.0, 1.0, 2.0]])
        >>> item = {"label": torch.tensor([[[1, 0, 2, 2]]]), "found": torch.tensor([[[7, 0, 0, 0]]])}
        >>> InstancesToTargetd(["label", "found"], missed="ignore")(item)["found"]["weights"].tolist()
        [1.0, 0.0]
    """

    def __init__(
        self,
        keys: KeysCollection,
        known_key: str | None = "known",
        allow_missing_keys: bool = False,
        missed: Literal["background", "ignore"] = "background",
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if missed not in ("background", "ignore"):
            raise InputError("InstancesToTargetd missed", "'background' or 'ignore'", repr(missed))
        self.known_key, self.missed = known_key, missed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the maps; raises InputError where one is none."""
        d = dict(data)
        earlier: list[SparseInstances] = []
        for key in self.key_iterator(d):
            instances = read_instances(d[key])
            missed = [_missed(each, instances) for each in earlier if self.missed == "ignore"]
            everything = SparseInstances.cat([instances, *missed])
            weights = (torch.arange(len(everything)) < len(instances)).float()
            d[key] = make_target(everything, weights.to(instances.owner.device), d.get(self.known_key))
            earlier.append(instances)
        return d


def _missed(earlier: SparseInstances, later: SparseInstances) -> SparseInstances:
    """Those of which less than half of the pixels are in any later instance."""
    covered = torch.zeros(later.shape[0] * later.shape[1], device=later.pixel.device)
    covered[later.pixel] = 1
    shared = torch.zeros(len(earlier), device=covered.device).index_add_(0, earlier.owner, covered[earlier.pixel])
    return earlier[2 * shared < earlier.area]


class KeepSured(MapTransform):
    """Leaves out the instances that score too low.

    Args:
        keys: of instance maps, integers ``(1, H, W)``.
        scores_key: of a map ``(1, H, W)`` of how sure each pixel's instance is.
        least: the least score that is kept.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai_ext.transforms import KeepSured
        >>> item = {"instances": torch.tensor([[[1, 1, 0, 2]]]), "scores": torch.tensor([[[0.9, 0.9, 0.0, 0.3]]])}
        >>> KeepSured()(item)["instances"].tolist()
        [[[1, 1, 0, 0]]]
    """

    def __init__(
        self,
        keys: KeysCollection = "instances",
        scores_key: str = "scores",
        least: float = 0.5,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scores_key, self.least = scores_key, least

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the maps; the numbers of those that stay do not change."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = d[key] * (d[self.scores_key] >= self.least)
        return d


class PickInstancesd(MapTransform):
    """Keeps some instances, drawn by chance: true masks instead of seeds (Zhou et al. 2023, Table V).

    Args:
        keys: of instance maps, integers ``(1, H, W)``; become int32 maps, numbered from 1 without gaps.
        most: how many are kept at most.
        seed: of the draw, which depends on it and on the map alone.
        allow_missing_keys: pass over keys that are not there.

    Examples:
        >>> from monai_ext.transforms import PickInstancesd
        >>> label = PickInstancesd(most=2)({"label": torch.tensor([[[3, 0, 5, 0, 7, 7, 7]]])})["label"]
        >>> tuple(label.shape), label.unique().tolist()
        ((1, 1, 7), [0, 1, 2])
    """

    def __init__(
        self, keys: KeysCollection = "label", most: int = 20, seed: int = 0, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.most, self.seed = most, seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the maps."""
        d = dict(data)
        for key in self.key_iterator(d):
            instances = SparseInstances.from_map(torch.as_tensor(d[key])[0])
            rng = np.random.RandomState([self.seed, zlib.crc32(np.packbits(convert_to_numpy(d[key]) > 0))])
            kept = np.sort(rng.permutation(len(instances))[: self.most])
            d[key] = instances[torch.from_numpy(kept)].to_map()[0]
        return d


class MergeInstancesd(MapTransform):
    """Joins instance maps of one image: what a later one has is added unless an earlier one has it (M of eq. 2).

    Args:
        keys: of instance maps, integers ``(1, H, W)``; those of earlier keys stay whole.
        merged_key: where the map goes, int32 ``(1, H, W)``, numbered from 1 without gaps.
        iou: an instance with a greater IoU with an earlier one is left out; of the others, what earlier ones leave.
        allow_missing_keys: whether keys may be missing, but not all.

    Raises:
        InputError: an IoU that is none.

    Examples:
        >>> from monai_ext.transforms import MergeInstancesd
        >>> item = {"seeds": torch.tensor([[[1, 1, 0, 0, 0]]]), "found": torch.tensor([[[1, 1, 1, 0, 2]]])}
        >>> MergeInstancesd(["seeds", "found"])(item)["label"].tolist()  # the first one is there already
        [[[1, 1, 0, 0, 2]]]
    """

    def __init__(
        self, keys: KeysCollection, merged_key: str = "label", iou: float = 0.5, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 < iou <= 1:
            raise InputError("MergeInstancesd iou", "a number above 0, up to 1", repr(iou))
        self.merged_key, self.iou = merged_key, iou

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the map; raises InputError where no key is there."""
        d = dict(data)
        parts = [SparseInstances.from_map(torch.as_tensor(d[key])[0]) for key in self.key_iterator(d)]
        if not parts:
            raise InputError("MergeInstancesd", f"instance maps under {', '.join(map(str, self.keys))}", "none")
        d[self.merged_key] = SparseInstances.cat(parts).suppress(self.iou).to_map()[0]
        return d
