"""Instances of images of any size: window by window, each instance once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby, product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.inferers.halo import halo_tiles
from monai_ext.instances.seams import MOSTLY, GrowingWindow, first_of_each_group
from monai_ext.instances.sparse import SparseInstances

__all__ = ["SLACK", "InstanceInferer", "instance_maps"]

_VISIBLE = 0.3  # share of an instance; more costs foreground, less leaves crumbs
SLACK = 4  # px by which two windows may disagree on where an instance is
_Window = tuple[slice, slice, slice, slice]  # rows and columns to read, and those of them that it is asked about


def instance_maps(found: Sequence[SparseInstances], rim: int = 0) -> tuple[Tensor, Tensor]:
    """Paint the instances of each image, the largest piece of each; of two that overlap the earlier one is on top.

    An instance of which others leave less than three tenths is left out: what is left would be crumbs. What others cut
    off is left to :func:`~monai_ext.instances.whole_instances`, which knows what goes on beyond a window.

    Args:
        found: those of B images of one size.
        rim: instances within so many px of an image's edge keep all pieces.

    Returns:
        int32 ``(B, 1, H, W)``, numbered from 1 without gaps in their order; float32 ``(B, 1, H, W)``, the score of each
        pixel's instance, 0 in the background.
    """
    maps, scores = [], []
    for each in (whole.largest_pieces(rim) for whole in found):  # a speck apart from its nucleus hides no other
        visible = each[_mostly_visible(each)]
        painted, which = visible.to_map()
        maps.append(painted)
        scores.append(F.pad(visible.scores[which], (1, 0))[painted.long()])
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
    ``iou`` the surer one is kept. Windows begin at multiples of ``align``, so that neighbours compute on the same grid.
    What is longer than the halo, so that no window has it whole, is computed again in a window of its own; where that
    would be too large, the largest piece of it stays, and is counted.

    Args:
        tile: about the largest side of a tile without its halo, px; a multiple of ``align``.
        halo: px around a tile, at least the diameter of a large nucleus; a multiple of ``align``.
        align: the network's largest stride, px.
        iou: above it, the less sure of two instances is left out.
        batch_size: windows of equal size that are computed together.
        seam_px: no window of an instance that tiles cut has a larger area than a square of so many px, or than a tile
            with its halo.

    Raises:
        InputError: ``tile`` or ``halo`` is no multiple of ``align``; an IoU that is none.
    """

    def __init__(
        self,
        tile: int = 512,
        halo: int = 64,
        align: int = 32,
        iou: float = 0.5,
        batch_size: int = 1,
        seam_px: int = 1280,
    ) -> None:
        super().__init__()
        if tile < 1 or halo < 0 or tile % align or halo % align:
            raise InputError("InstanceInferer", f"tile and halo as multiples of {align}", f"tile {tile}, halo {halo}")
        if not 0 < iou <= 1:
            raise InputError("InstanceInferer iou", "a number above 0, up to 1", repr(iou))
        self.tile, self.halo, self.align, self.iou, self.batch_size = tile, halo, align, iou, batch_size
        self.seam_px = max(seam_px, tile + 2 * halo)

    def __call__(self, inputs: Tensor, network: nn.Module, *_: Any, **__: Any) -> dict[str, Tensor]:
        """The instances of a batch as maps, as MONAI's engines take them.

        Args:
            inputs: ``(B, 3, H, W)``, normalised.
            network: an :class:`~monai_ext.networks.nets.InstanceBackEnd`, perhaps in a ``DistributedDataParallel`` or a
                :class:`~monai_ext.networks.RuntimeNetwork`.

        Returns:
            ``instances``, int32 ``(B, 1, H, W)``, numbered from 1 without gaps, the surest first; where two overlap,
            the surer one is on top. ``scores``, float32 ``(B, 1, H, W)``: the score of each pixel's instance, 0 in
            the background. ``cut``, int64 ``(B,)``: how many of the instances are pieces of larger ones.
        """
        detections, cut = zip(*self._find(inputs, network), strict=True)
        instances, scores = instance_maps(detections)
        return {"instances": instances, "scores": scores, "cut": torch.tensor(cut)}

    def find(self, images: Tensor, network: nn.Module) -> list[SparseInstances]:
        """The instances of each image of a batch, surest first; they may overlap up to ``iou``."""
        return [instances for instances, _ in self._find(images, network)]

    def _find(self, images: Tensor, network: nn.Module) -> list[tuple[SparseInstances, int]]:
        """The instances of each image, and how many of them are pieces."""
        network = getattr(network, "module", network)
        size = tuple(images.shape[-2:])
        parts: list[list[SparseInstances]] = [[] for _ in images]
        pieces: list[list[SparseInstances]] = [[] for _ in images]
        for batch in self._batches(len(images), size):
            windows = torch.stack([images[number, :, rows, cols] for number, (rows, cols, *_) in batch])
            for (number, window), seen in zip(batch, network.find(windows), strict=True):
                rows, cols, *kept = window
                inside = [
                    (coordinate >= keep.start - SLACK) & (coordinate < keep.stop + SLACK)
                    for coordinate, keep in zip(seen.centroids.unbind(1), kept, strict=True)
                ]
                of_tile, moved = inside[0] & inside[1], seen.moved(rows.start, cols.start, size)
                cut = (of_tile | _reaches(seen, *kept)) & _open_ended(moved, (rows, cols))
                parts[number].append(moved[of_tile & ~cut])
                pieces[number].append(moved[cut])
        results = []
        for image, each, cut in zip(images, parts, pieces, strict=True):
            again = partial(self._again, image, network)
            instances, stay = _join_cut(SparseInstances.cat(each), SparseInstances.cat(cut), again)
            results.append((instances.surest_first().suppress(self.iou), stay))
        return results

    def _again(self, image: Tensor, network: nn.Module, piece: SparseInstances) -> SparseInstances | None:
        """The instances that a piece is of, whole; ``None`` where they do not fit into the largest window."""
        size, halo = tuple(image.shape[-2:]), self.halo

        def look(window: tuple[int, int, int, int]) -> tuple[SparseInstances, np.ndarray | None]:
            read = [
                slice(max(0, first - halo), min(side, end + halo))
                for first, end, side in zip(window[:2], window[2:], size, strict=True)
            ]
            (seen,) = network.find(image[None, :, read[0], read[1]])
            seen = seen.surest_first().suppress(self.iou).moved(read[0].start, read[1].start, size)
            same = seen[_alike(seen, piece)]
            cut = same[_open_ended(same, read)]
            return same, _box(cut) if len(cut) else None

        return GrowingWindow(size, self.align, halo, halo - SLACK, self.seam_px).follow(_box(piece), look)

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


def _open_ended(instances: SparseInstances, window: Sequence[slice]) -> Tensor:
    """Which of the instances, ``(N,)`` bool, touch an edge of their window beyond which the image continues."""
    boxes = instances.boxes
    cut = torch.zeros(len(instances), dtype=torch.bool, device=boxes.device)
    for axis, (read, side) in enumerate(zip(window, instances.shape, strict=True)):
        low, high = boxes[:, 1 - axis], boxes[:, 3 - axis]
        cut |= ((low < read.start + SLACK) & (read.start > 0)) | ((high > read.stop - SLACK) & (read.stop < side))
    return cut


def _reaches(instances: SparseInstances, rows: slice, cols: slice) -> Tensor:
    """Which of the instances, ``(N,)`` bool, have a pixel in a rectangle."""
    row, col = instances.row, instances.col
    inside = (row >= rows.start) & (row < rows.stop) & (col >= cols.start) & (col < cols.stop)
    return instances.owner[inside].bincount(minlength=len(instances)) > 0


def _box(instances: SparseInstances) -> np.ndarray:
    """``[[row, col], [row, col]]``, the first px of N instances and their end."""
    boxes = instances.boxes
    return np.array([*boxes[:, :2].amin(0).flip(0).tolist(), *boxes[:, 2:].amax(0).flip(0).tolist()]).reshape(2, 2)


def _join_cut(
    whole: SparseInstances, pieces: SparseInstances, find: Callable[[SparseInstances], SparseInstances | None]
) -> tuple[SparseInstances, int]:
    """Replace pieces by whole instances, as :func:`monai_ext.slides.seams.join_cut` does.

    Returns:
        the instances, and how many pieces are among them.
    """
    if not len(pieces):
        return whole, 0
    large: list[SparseInstances] = []
    new = pieces[pieces.area < 0]
    for number in pieces.area.argsort(descending=True, stable=True).tolist():
        piece = pieces[torch.tensor([number], device=pieces.area.device)]
        if _inside(piece, SparseInstances.cat([whole, new])):
            continue
        again = None if large and _inside(piece, SparseInstances.cat(large)) else find(piece)
        if again is None:
            large.append(piece)
            continue
        again = again[~_alike(again, new)]
        whole = whole[~_alike(whole, again)]
        new = SparseInstances.cat([new, again])
    if not large:
        return SparseInstances.cat([whole, new]), 0
    rest = SparseInstances.cat(large)
    meeting = torch.stack(rest.ious(rest)[:2]).cpu().numpy()
    rest = rest[torch.from_numpy(first_of_each_group(meeting, len(rest))).to(rest.owner.device)]
    return SparseInstances.cat([whole, new, rest]), len(rest)


def _shared(one: SparseInstances, other: SparseInstances) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs that overlap, and by how many px, ``(K,)`` each."""
    first, second, iou = one.ious(other)
    return first, second, iou / (1 + iou) * (one.area[first] + other.area[second])


def _alike(instances: SparseInstances, others: SparseInstances) -> Tensor:
    """Which of N instances show the same as one of others: one is mostly inside the other, ``(N,)`` bool."""
    first, second, shared = _shared(instances, others)
    same = shared > MOSTLY * torch.minimum(instances.area[first], others.area[second])
    return first[same].bincount(minlength=len(instances)) > 0


def _inside(piece: SparseInstances, others: SparseInstances) -> bool:
    """Whether a single piece is mostly inside one of others."""
    return bool((_shared(piece, others)[2] > MOSTLY * piece.area).any())
