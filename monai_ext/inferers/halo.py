"""Dense inference of a field: in one pass where it fits, else in tiles whose seams leave no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor

from monai_ext.base.errors import InputError

__all__ = ["HaloInferer", "halo_tiles"]


def halo_tiles(edges: Sequence[int], halo: int) -> Iterator[tuple[slice, slice, slice]]:
    """Tiles along one side of an image.

    Args:
        edges: where tiles begin, in order, and the side of the image, px.
        halo: context of a tile on each side, px, as far as there is any.

    Yields:
        what to read, what of the result to keep, where that belongs.
    """
    for start, end in pairwise(edges):
        first = max(0, start - halo)
        yield slice(first, min(edges[-1], end + halo)), slice(start - first, end - first), slice(start, end)


class HaloInferer(Inferer):
    """Runs a fully convolutional network over images of any size with bounded memory.

    An image larger than ``max_pixels`` is computed tile by tile. Each tile is given ``halo`` px of its surroundings,
    whose part of the map is thrown away, and begins at a multiple of ``align``, so that every pixel is computed on
    the same grid and from the same context as in one pass: the two maps are equal.

    Args:
        tile: side of a tile without its halo, px; a multiple of ``align``.
        halo: px of context on each side; at least half of the network's receptive field; a multiple of ``align``.
        align: the network's largest stride, px.
        max_pixels: images of at most this many px are computed in one pass.

    Raises:
        InputError: ``tile`` or ``halo`` is no multiple of ``align``.
    """

    def __init__(self, tile: int = 1024, halo: int = 256, align: int = 32, max_pixels: int = 2400 * 2400) -> None:
        super().__init__()
        if tile < 1 or halo < 0 or tile % align or halo % align:
            raise InputError("HaloInferer", f"tile and halo as multiples of {align}", f"tile {tile}, halo {halo}")
        self.tile, self.halo, self.max_pixels = tile, halo, max_pixels

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """The network's map of a batch.

        Args:
            inputs: ``(B, C, H, W)``.
            network: gives ``(b, K, h, w)`` for ``(b, C, h, w)``.
            args: passed on to the network.
            kwargs: passed on to the network.

        Returns:
            ``(B, K, H, W)`` on the device of ``inputs``.
        """
        height, width = inputs.shape[-2:]
        rows_at, cols_at = ([*range(0, side, self.tile), side] for side in (height, width))
        if height * width <= self.max_pixels:
            return network(inputs, *args, **kwargs)
        merged: Tensor | None = None
        for read_rows, keep_rows, rows in halo_tiles(rows_at, self.halo):
            for read_cols, keep_cols, cols in halo_tiles(cols_at, self.halo):
                part = network(inputs[..., read_rows, read_cols], *args, **kwargs)[..., keep_rows, keep_cols]
                if merged is None:
                    merged = torch.empty((*part.shape[:2], height, width), dtype=part.dtype, device=part.device)
                merged[..., rows, cols] = part
        return merged
