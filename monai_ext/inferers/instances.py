"""Instances of images of any size: window by window, each instance once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, product
from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.inferers.halo import halo_tiles
from monai_ext.instances.sparse import SparseInstances

__all__ = ["SLACK", "InstanceInferer", "instance_maps"]

_VISIBLE = 0.3  # share of an instance; more costs foreground, less leaves crumbs
SLACK = 4  # px by which two windows may disagree on where an instance is
_Window = tuple[slice, slice, slice, slice]  # rows and columns to read, and those of them that it is asked about


def instance_maps(found: Sequence[SparseInstances]) -> tuple[Tensor, Tensor]:
    """Paint the instances of each image; of two that overlap the earlier one is on top.

    An instance of which others leave less than three tenths is left out: what is left would be crumbs.

    Args:
        found: those of B images of one size.

    Returns:
        int32 ``(B, 1, H, W)``, numbered from 1 without gaps in their order; float32 ``(B, 1, H, W)``, the score of each
        pixel's instance, 0 in the background.
    """
    maps, scores = [], []
    for each in found:
        shown = each[_mostly_visible(each)]
        painted, which = shown.to_map()
        maps.append(painted)
        scores.append(F.pad(shown.scores[which], (1, 0))[painted.long()])
    return torch.stack(maps), torch.stack(scores)


def _mostly_visible(instances: SparseInstances) -> Tensor:
    """Which of the instances, ``(K,)``, keep enough of their pixels where all are painted."""
    painted, which = instances.to_map()
    visible = painted.flatten().bincount(minlength=len(which) + 1)[1:]
    return which[visible >= _VISIBLE * instances.area[which]]


class InstanceInferer(Inferer):
    """Runs a back end over windows that overlap and joins what it finds.

    An image is cut into tiles of about equal size, each with a halo, so that a nucleus on a tile's border is seen
    whole. A tile's instances are those whose centroid is in it. The two sides of a border may see the same nucleus
    differently: those whose centroids are within a few px of it are taken from both, and of two with an IoU above
    ``iou`` the surer one stays. Windows begin at multiples of ``align``, so that neighbours compute on the same grid.

    Args:
        tile: about the largest side of a tile without its halo, px; a multiple of ``align``.
        halo: px around a tile, at least the diameter of a large nucleus; a multiple of ``align``.
        align: the network's largest stride, px.
        iou: above it, the less sure of two instances is left out.
        batch_size: windows of equal size that are computed together.

    Raises:
        InputError: ``tile`` or ``halo`` is no multiple of ``align``; an IoU that is none.
    """

    def __init__(self, tile: int = 512, halo: int = 64, align: int = 32, iou: float = 0.5, batch_size: int = 1) -> None:
        super().__init__()
        if tile < 1 or halo < 0 or tile % align or halo % align:
            raise InputError("InstanceInferer", f"tile and halo as multiples of {align}", f"tile {tile}, halo {halo}")
        if not 0 < iou <= 1:
            raise InputError("InstanceInferer iou", "a number above 0, up to 1", repr(iou))
        self.tile, self.halo, self.align, self.iou, self.batch_size = tile, halo, align, iou, batch_size

    def __call__(self, inputs: Tensor, network: nn.Module, *_: Any, **__: Any) -> dict[str, Tensor]:
        """The instances of a batch as maps, as MONAI's engines take them.

        Args:
            inputs: ``(B, 3, H, W)``, normalised.
            network: an :class:`~monai_ext.networks.nets.InstanceBackEnd`, perhaps in a ``DistributedDataParallel``.

        Returns:
            ``instances``, int32 ``(B, 1, H, W)``, numbered from 1 without gaps, the surest first; where two overlap,
            the surer one is on top. ``scores``, float32 ``(B, 1, H, W)``: the score of each pixel's instance, 0 in
            the background.
        """
        instances, scores = instance_maps(self.find(inputs, network))
        return {"instances": instances, "scores": scores}

    def find(self, images: Tensor, network: nn.Module) -> list[SparseInstances]:
        """The instances of each image of a batch, surest first; they may overlap up to ``iou``."""
        network = getattr(network, "module", network)
        size = tuple(images.shape[-2:])
        parts: list[list[SparseInstances]] = [[] for _ in images]
        for batch in self._batches(len(images), size):
            windows = torch.stack([images[number, :, rows, cols] for number, (rows, cols, *_) in batch])
            for (number, window), found in zip(batch, network.find(windows), strict=True):
                rows, cols, *kept = window
                inside = [
                    (place >= keep.start - SLACK) & (place < keep.stop + SLACK)
                    for place, keep in zip(found.centroids.unbind(1), kept, strict=True)
                ]
                parts[number].append(found[inside[0] & inside[1]].moved(rows.start, cols.start, size))
        return [SparseInstances.cat(each).surest_first().suppress(self.iou) for each in parts]

    def _batches(self, images: int, size: tuple[int, int]) -> Iterator[list[tuple[int, _Window]]]:
        """Windows of equal size, each with the number of its image."""
        sides = [list(halo_tiles(self._edges(side), self.halo)) for side in size]
        windows = [(rows[0], cols[0], rows[1], cols[1]) for rows, cols in product(*sides)]

        def shape(item: tuple[int, _Window]) -> tuple[int, ...]:
            return tuple(part.stop - part.start for part in item[1][:2])

        for _, group in groupby(sorted(product(range(images), windows), key=shape), key=shape):
            equal = list(group)
            for start in range(0, len(equal), self.batch_size):
                yield equal[start : start + self.batch_size]

    def _edges(self, side: int) -> list[int]:
        """Where tiles begin and end: as many as are needed, about equal, so that none is a mere strip."""
        count = -(-side // self.tile)
        inner = {round(k * side / (count * self.align)) * self.align for k in range(count)}
        return sorted({each for each in inner if each < side} | {side})
