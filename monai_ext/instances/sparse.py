"""Instances as lists of their pixels: masks are pasted, compared and merged at the cost of their area."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from monai_ext.instances.pieces import largest_of_each

__all__ = ["SparseInstances"]

_PASTED_AT_ONCE = 1 << 21  # px; bounds the memory where boxes are many and large


@dataclass(frozen=True)
class SparseInstances:
    """N instances of one image, which may overlap. Their order is their rank: where two meet, the earlier one wins.

    A dense mask for each of 400 nuclei of a 1000 x 1000 image takes 400 MB, the lists of their pixels a few. Every
    instance has at least one pixel. All methods are free of loops over pixels and instances and run on any device.

    Attributes:
        owner: ``(P,)`` int64, the instance (from 0) that each entry is of, ascending.
        pixel: ``(P,)`` int64, ``row * W + col``.
        scores: ``(N,)`` float32, how sure it is.
        shape: ``H, W`` of the image.
    """

    owner: Tensor
    pixel: Tensor
    scores: Tensor
    shape: tuple[int, int]

    @classmethod
    def from_map(cls, instances: Tensor, scores: Tensor | None = None) -> SparseInstances:
        """Instances of a map, in the order of their ids.

        Args:
            instances: integers ``(H, W)``; 0 is background, ids need not be consecutive, pieces of one id are one.
            scores: ``(N,)``, or ``(H, W)`` to average over each instance; default 1.
        """
        pixel = instances.reshape(-1).nonzero().squeeze(1)
        ids, owner = instances.reshape(-1)[pixel].unique(return_inverse=True)
        order = owner.argsort(stable=True)
        owner, pixel = owner[order], pixel[order]
        if scores is None:
            scores = torch.ones(len(ids), device=owner.device)
        elif scores.ndim == 2:
            total = scores.new_zeros(len(ids)).index_add_(0, owner, scores.reshape(-1)[pixel])
            scores = total / owner.bincount(minlength=len(ids))
        return cls(owner, pixel, scores.float(), tuple(instances.shape))

    @classmethod
    def from_masks(cls, masks: Tensor, scores: Tensor | None = None) -> SparseInstances:
        """Instances of dense masks, in their order; empty ones are left out.

        Args:
            masks: bool ``(N, H, W)``.
            scores: ``(N,)``; default 1.
        """
        owner, pixel = masks.flatten(1).nonzero().unbind(1)
        scores = torch.ones(len(masks), device=masks.device) if scores is None else scores
        return cls._nonempty(owner, pixel, scores, tuple(masks.shape[1:]))

    @classmethod
    def paste(
        cls, masks: Tensor, boxes: Tensor, scores: Tensor, shape: tuple[int, int], threshold: float = 0.5
    ) -> SparseInstances:
        """Instances from small masks within boxes, in their order; empty ones are left out.

        A pixel belongs to an instance if its centre is in the box and the mask, interpolated there between the centres
        of its cells (beyond the outermost it is constant), is at least ``threshold``.

        Args:
            masks: probabilities ``(N, M, M)``.
            boxes: ``(N, 4)`` ``x0, y0, x1, y1`` in px; pixel (row, col) covers [col, col + 1) x [row, row + 1).
            scores: ``(N,)``.
            shape: ``H, W`` of the image.
            threshold: of the probability.
        """
        size = boxes.new_tensor([shape[1], shape[0]]).long()
        first = (boxes[:, :2] - 0.5).ceil().long().clamp(min=0)
        last = (boxes[:, 2:] - 0.5).ceil().long().minimum(size)
        width, height = (last - first).clamp(min=0).unbind(1)
        part = (width * height).cumsum(0) // _PASTED_AT_ONCE
        owners, pixels = [], []
        for chosen in (part == number for number in part.unique()):
            index, offset = _ranges(torch.zeros_like(width[chosen]), (width * height)[chosen])
            index = chosen.nonzero().squeeze(1)[index]
            col, row = first[index, 0] + offset % width[index], first[index, 1] + offset // width[index]
            inside = _interpolate(masks, boxes, index, row, col) >= threshold
            owners.append(index[inside])
            pixels.append((row * shape[1] + col)[inside])
        none = boxes.new_zeros(0, dtype=torch.long)
        return cls._nonempty(torch.cat([none, *owners]), torch.cat([none, *pixels]), scores, shape)

    @classmethod
    def cat(cls, parts: Sequence[SparseInstances]) -> SparseInstances:
        """Several sets of instances of one image, one after the other; at least one set."""
        counts = [0, *(len(part) for part in parts)]
        before = torch.tensor(counts).cumsum(0).tolist()
        return cls(
            torch.cat([part.owner + number for part, number in zip(parts, before, strict=False)]),
            torch.cat([part.pixel for part in parts]),
            torch.cat([part.scores for part in parts]),
            parts[0].shape,
        )

    @classmethod
    def _nonempty(cls, owner: Tensor, pixel: Tensor, scores: Tensor, shape: tuple[int, int]) -> SparseInstances:
        present, owner = owner.unique_consecutive(return_inverse=True)
        return cls(owner, pixel, scores[present].float(), shape)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor) -> SparseInstances:
        """Some of the instances, in the order given: bool ``(N,)`` or integers ``(K,)``."""
        index = index.nonzero().squeeze(1) if index.dtype == torch.bool else index
        start = self.area.cumsum(0) - self.area
        owner, entry = _ranges(start[index], self.area[index])
        return replace(self, owner=owner, pixel=self.pixel[entry], scores=self.scores[index])

    @cached_property
    def area(self) -> Tensor:
        """``(N,)`` int64, px."""
        return self.owner.bincount(minlength=len(self))

    @property
    def row(self) -> Tensor:
        """``(P,)`` int64."""
        return self.pixel // self.shape[1]

    @property
    def col(self) -> Tensor:
        """``(P,)`` int64."""
        return self.pixel % self.shape[1]

    @property
    def boxes(self) -> Tensor:
        """``(N, 4)`` float32 ``x0, y0, x1, y1``: the smallest that hold all pixels, ends exclusive."""
        low, high = (
            [
                part.new_zeros(len(self)).scatter_reduce_(0, self.owner, part, way, include_self=False)
                for part in coordinates
            ]
            for way, coordinates in (("amin", (self.col, self.row)), ("amax", (self.col + 1, self.row + 1)))
        )
        return torch.stack([*low, *high], dim=1).float()

    @property
    def centroids(self) -> Tensor:
        """``(N, 2)`` float64 ``row, col``; whole numbers are pixel centres."""
        position = torch.stack([self.row, self.col], dim=1).double()
        return position.new_zeros(len(self), 2).index_add_(0, self.owner, position) / self.area[:, None]

    def masks(self) -> Tensor:
        """Dense masks, bool ``(N, H, W)``."""
        masks = torch.zeros(len(self), self.shape[0] * self.shape[1], dtype=torch.bool, device=self.owner.device)
        masks[self.owner, self.pixel] = True
        return masks.view(-1, *self.shape)

    def surest_first(self) -> SparseInstances:
        """The same instances by falling score."""
        return self[self.scores.argsort(descending=True, stable=True)]

    def largest_pieces(self, rim: int = 0) -> SparseInstances:
        """Of each instance its largest piece; pixels that share a side are of one piece.

        Args:
            rim: instances within so many px of the image's edge keep all pieces, as they may be one beyond it.
        """
        if not len(self):
            return self
        owner, row, col = (values.cpu().numpy() for values in (self.owner, self.row, self.col))
        height, width = self.shape
        # by owner, row and column, with a gap between rows and between owners
        place = (owner * (height + 1) + row) * (width + 1) + col
        order = np.argsort(place, kind="stable")
        place = place[order]
        pairs = []
        for step in (1, width + 1):
            after = np.minimum(np.searchsorted(place, place + step), len(place) - 1)
            beside = np.flatnonzero(place[after] == place + step)
            pairs.append(np.stack([beside, after[beside]]))
        one, other = np.concatenate(pairs, axis=1)
        graph = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(len(place),) * 2)
        piece = np.empty(len(place), np.int64)
        piece[order] = connected_components(graph, directed=False)[1]
        size = np.bincount(piece)
        owner_of = np.empty(len(size), np.int64)
        owner_of[piece] = owner
        kept = largest_of_each(owner_of, size)[piece]
        if rim:
            near = (np.minimum(row, height - 1 - row) < rim) | (np.minimum(col, width - 1 - col) < rim)
            kept |= np.bincount(owner[near], minlength=len(self))[owner] > 0
        kept = torch.from_numpy(kept).to(self.owner.device)
        return replace(self, owner=self.owner[kept], pixel=self.pixel[kept])

    def moved(self, row: int, col: int, shape: tuple[int, int]) -> SparseInstances:
        """The same instances in a larger image, whose pixel ``(row, col)`` is this one's first."""
        return replace(self, pixel=(self.row + row) * shape[1] + self.col + col, shape=shape)

    def to_map(self) -> tuple[Tensor, Tensor]:
        """Paint the instances; a pixel that several claim goes to the earliest.

        Returns:
            int32 ``(1, H, W)``, the instances of which a pixel is left numbered from 1 without gaps, and which of the
            N they are, int64 ``(M,)``.
        """
        none = self.owner.new_full((self.shape[0] * self.shape[1],), len(self))
        winner = none.scatter_reduce_(0, self.pixel, self.owner, "amin")
        seen = winner.bincount(minlength=len(self) + 1)[: len(self)] > 0
        number = F.pad(seen.cumsum(0), (0, 1)).int()
        return number[winner].view(1, *self.shape), seen.nonzero().squeeze(1)

    def ious(self, other: SparseInstances) -> tuple[Tensor, Tensor, Tensor]:
        """All pairs that overlap.

        Args:
            other: instances of the same image.

        Returns:
            indices in ``self`` and in ``other``, int64 ``(K,)``, ascending, and intersection over union, float32.
        """
        return self._pairs(other, slice(None))

    def suppress(self, iou: float = 0.5) -> SparseInstances:
        """Leave out what has a greater IoU with an earlier instance that stays (non-maximum suppression by masks)."""
        # an instance alone on all its pixels overlaps none
        covered = self.pixel.new_zeros(self.shape[0] * self.shape[1]).index_add_(0, self.pixel, self.pixel * 0 + 1)
        one, other, value = self._pairs(self, covered[self.pixel] > 1)
        meets = (one < other) & (value > iou)
        keep = [True] * len(self)
        # few, and in ascending order, so that the first of each pair is decided already
        for first, second in zip(one[meets].tolist(), other[meets].tolist(), strict=True):
            keep[second] &= not keep[first]
        return self[torch.tensor(keep, dtype=torch.bool, device=self.owner.device)]

    def _pairs(self, other: SparseInstances, entries: slice | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`ious`, by some entries of ``self``, which are all that matter."""
        owner, pixel = self.owner[entries], self.pixel[entries]
        inside = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.bool, device=pixel.device)
        inside[pixel] = True
        theirs = inside[other.pixel]
        their_pixel, order = other.pixel[theirs].sort()
        their_owner = other.owner[theirs][order]
        first, last = (torch.searchsorted(their_pixel, pixel, right=right) for right in (False, True))
        mine, match = _ranges(first, last - first)
        pair, shared = (owner[mine] * max(len(other), 1) + their_owner[match]).unique(return_counts=True)
        one, two = pair // max(len(other), 1), pair % max(len(other), 1)
        return one, two, shared / (self.area[one] + other.area[two] - shared)


def _ranges(start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """``start[i], ..., start[i] + length[i] - 1`` for each i: the i of each number, and the numbers."""
    index = torch.repeat_interleave(length)
    before = length.cumsum(0) - length
    return index, torch.arange(len(index), device=start.device) + (start - before)[index]


def _interpolate(masks: Tensor, boxes: Tensor, index: Tensor, row: Tensor, col: Tensor) -> Tensor:
    """Values ``(K,)`` of the masks ``index`` at the centres of pixels, bilinear between the centres of their cells."""
    side = masks.shape[-1]
    corner, scale = boxes[:, :2], side / (boxes[:, 2:] - boxes[:, :2])
    position = (torch.stack([col, row], dim=1) + 0.5 - corner[index]) * scale[index] - 0.5
    position = position.clamp(0, side - 1)
    low = position.long().clamp(max=max(side - 2, 0))
    x, y = (position - low).unbind(1)
    top_left = (index * side + low[:, 1]) * side + low[:, 0]
    right, below = (1, side) if side > 1 else (0, 0)
    values = masks.reshape(-1)
    top = torch.lerp(values[top_left], values[top_left + right], x)
    return torch.lerp(top, torch.lerp(values[top_left + below], values[top_left + below + right], x), y)
