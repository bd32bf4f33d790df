"""What computes a tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from monai_ext.data.cells import Cells, Grid

__all__ = ["CellPredictor", "TilePredictor", "on_data"]


@runtime_checkable
class TilePredictor(Protocol):
    """Turns pixels into a coarser map of probabilities; normalisation, device, precision and activation are its own.

    Value ``(i, j)`` of its map belongs to the ``step`` x ``step`` cell ``(i, j)`` of the slide. For maps that do not
    depend on the tiling a network needs a ``margin`` of at least half its receptive field and, where its stride does
    not divide ``step``, a further attribute ``align``: tiles begin at multiples of so many px (less the margin).
    A further attribute ``fingerprint``, text of all that decides the map, keeps a run from resuming the map of
    other weights or settings. One with a further attribute ``selective``, true, is also given ``wanted``, bool ``(B, h,
    w)``: the cells that touch tissue; its values elsewhere do not count, so it may save their cost.

    Attributes:
        step: side of a cell, px of the network's grid.
        margin: px of context that it is given on every side of its cells.
        channels: of its map; 1 for a probability of tumour.
    """

    step: int
    margin: int
    channels: int

    def __call__(self, tiles: Tensor) -> Tensor:
        """Compute a batch of tiles.

        Args:
            tiles: uint8 RGB ``(B, 3, h * step + 2 * margin, w * step + 2 * margin)`` on the CPU, channels last in
                memory.

        Returns:
            float32 ``(B, channels, h, w)`` in 0 ... 1, on any device.
        """
        ...


class CellPredictor(TilePredictor, Protocol):
    """Turns pixels into cells, as ``CellFinder`` and ``InstanceFinder`` of :mod:`monai_ext.inferers` do.

    Attributes:
        class_names: of the cells' classes; empty for none.
        slack: px outside a tile, up to which a cell's centroid is taken for the tile's as well.
        reach: px; centroids of two tiles' versions of one cell are no further apart.
        iou: of two versions' outlines, above it; 0 where nearness is enough.
        halo: px around a tile in which cells are looked for.
        rim: px; what is this near to the edge of the window may continue beyond it.
        align: tiles begin at multiples of so many px, less the margin.
        min_area_um2: whole cells are at least as large.
    """

    class_names: Sequence[str]
    slack: int
    reach: int
    iou: float
    halo: int
    rim: int
    align: int
    min_area_um2: float

    def cells(
        self, pixels: Tensor, prediction: Tensor, grid: Grid, all_inside: bool = False
    ) -> tuple[Cells, np.ndarray]:
        """The cells of one tile, and which of them are cut by the edge of what was looked at, bool ``(N,)``.

        Args:
            pixels: uint8 ``(3, H, W)`` with the margin.
            prediction: what the call gave for the tile.
            grid: where the tile, without its margin, lies.
            all_inside: all cells, not only those that belong to this tile.
        """
        ...


def on_data(prediction: Tensor, valid: Tensor | None, cut: int) -> Tensor:
    """A prediction without what it finds where the slide holds no data.

    Args:
        prediction: ``(B, channels, h, w)`` at the resolution of the pixels, 0 for nothing.
        valid: bool ``(B, 1, H, W)``, True where the pixels are data; ``None`` for everywhere.
        cut: px around the prediction that the pixels have besides.
    """
    if valid is None:
        return prediction
    inner = valid[..., cut : valid.shape[-2] - cut, cut : valid.shape[-1] - cut]
    return prediction.masked_fill(~inner.to(prediction.device), 0)
