"""Graph convolutions on a grid of patches (Kipf and Welling 2017; LoopNet, Zhang et al., CVPR 2023, section 5.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.errors import InputError

__all__ = ["GridGCN", "GridGraphConv"]


class GridGraphConv(nn.Module):
    """One graph convolution; each place of the grid is a node, its neighbours are the eight places around it.

    Kipf and Welling's propagation rule (equation 2) with self-loops, ``D^-1/2 (A + I) D^-1/2 X W + b``. On a grid the
    sum over neighbours is a 3 x 3 mean filter, whose 1/9 cancels against that in the degrees, so it needs no graph
    library. Weights start as in their paper: Glorot uniform, zero bias.

    Args:
        in_channels: features of a node.
        out_channels: features of a node afterwards.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.xavier_uniform_(self.project.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Features of the nodes ``(B, in_channels, h, w)`` -> ``(B, out_channels, h, w)``, of a floating type."""
        x = self.project(x)  # first, as there are fewer features to sum after it
        scale = F.avg_pool2d(x.new_ones((1, 1, x.shape[2], x.shape[3])), 3, 1, 1).rsqrt()
        return scale * F.avg_pool2d(scale * x, 3, 1, 1) + self.bias[:, None, None]


class GridGCN(nn.Sequential):
    """LoopNet's cell locating head: graph convolutions, with BatchNorm, ReLU and dropout between two of them.

    Args:
        channels: features of a node before, between and after the layers.
        dropout: probability between two layers, one less than there are layers.

    Raises:
        InputError: another number of probabilities.
    """

    def __init__(self, channels: Sequence[int] = (2048, 512, 128, 3), dropout: Sequence[float] = (0.2, 0.1)) -> None:
        if len(dropout) != len(channels) - 2:
            raise InputError("dropout", f"{len(channels) - 2} probabilities, one between two layers", repr(dropout))
        layers: list[nn.Module] = [GridGraphConv(channels[0], channels[1])]
        for before, after, probability in zip(channels[1:-1], channels[2:], dropout, strict=True):
            layers += [nn.BatchNorm2d(before), nn.ReLU(), nn.Dropout(probability), GridGraphConv(before, after)]
        super().__init__(*layers)
