"""Means and maxima of overlapping windows, each value read about once."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

__all__ = ["pool_windows"]


def pool_windows(x: Tensor, window: int, step: int) -> tuple[Tensor, Tensor]:
    """Mean and maximum of every ``window`` x ``window`` part that fits, ``step`` apart.

    The parts are composed of cells that they share, so the cost hardly depends on how far they overlap.

    Args:
        x: ``(B, C, H, W)``; both sides at least ``window``.
        window: side of a part, px.
        step: px between neighbouring parts.

    Returns:
        means and maxima, each ``(B, C, (H - window) // step + 1, (W - window) // step + 1)``.
    """
    cell = math.gcd(window, step)
    size, stride = window // cell, step // cell
    mean = F.avg_pool2d(F.avg_pool2d(x, cell), size, stride)
    peak = F.max_pool2d(F.max_pool2d(x, cell), [size, 1], [stride, 1])
    return mean, F.max_pool2d(peak, [1, size], [1, stride])
