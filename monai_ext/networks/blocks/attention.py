"""CELNet's attention: which channels matter, then which places (Huang and Chung 2019, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.networks.blocks.windows import pool_windows

__all__ = ["ChannelAttention", "MultiBranchAttention", "SpatialAttention"]


class ChannelAttention(nn.Module):
    """Weighs channels by one bottleneck that sees their means and their maxima (Woo et al. 2018, section 3).

    Args:
        channels: number of channels.
        reduction: by how much the bottleneck is narrower.
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.relu = nn.ReLU()
        self.excite = nn.Conv2d(channels // reduction, channels, 1, bias=False)
        self.cells = 4  # windows begin at each quarter of their side
        self.inplace = False  # write over the input, where no gradient needs it

    def forward(self, x: Tensor, window: int = 0) -> Tensor:
        """Multiply each channel with its weight.

        Args:
            x: ``(B, C, H, W)``.
            window: 0 pools over the whole input, as in training. Else each place is weighed by the ``window`` px
                around it, so that what lies far away in a large tile does not matter: weights are computed for
                windows a quarter of their side apart and interpolated between their centres; ``H`` and ``W`` are at
                least ``window``, and both are multiples of ``window / 4``.

        Returns:
            ``(B, C, H, W)``.
        """
        if window == 0:
            mean, peak = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        else:
            mean, peak = pool_windows(x, window, window // self.cells)
        weight = torch.sigmoid(self._excitation(mean) + self._excitation(peak))
        return x * weight if window == 0 else self._weighed(x, weight, window)

    def _weighed(self, x: Tensor, weight: Tensor, window: int) -> Tensor:
        """``x`` times the windows' weights ``(B, C, h, w)``, bilinear between their centres, constant beyond them.

        Weights as large as ``x`` would cost more than the convolutions: they are made for a few rows at a time.
        """
        cell, spare = window // self.cells, self.cells // 2
        weight = F.pad(weight, (spare, spare + 1, spare, spare + 1), mode="replicate")
        shift = spare * cell - (window - cell) // 2
        wide = F.interpolate(weight, size=[weight.shape[2], weight.shape[3] * cell], mode="bilinear")
        wide = wide[:, :, :, shift : shift + x.shape[3]].contiguous(memory_format=torch.channels_last)
        # between the centres of the rows k and k + 1
        share = (cell // 2 + torch.arange(cell, device=x.device) + 0.5) / cell - 0.5
        share = share.to(wide.dtype)[:, None]
        weighed = x if self.inplace else x.clone()
        for k in range(wide.shape[2] - 1):
            top = k * cell + cell // 2 - shift
            first, last = max(top, 0), min(top + cell, x.shape[2])
            if first < last:
                rows = torch.lerp(wide[:, :, k : k + 1], wide[:, :, k + 1 : k + 2], share[first - top : last - top])
                weighed[:, :, first:last].mul_(rows)
        return weighed

    def _excitation(self, pooled: Tensor) -> Tensor:
        return self.excite(self.relu(self.squeeze(pooled)))


class SpatialAttention(nn.Module):
    """Weighs places by what surrounds them, seen at several scales: ``sigmoid(sum_k conv_kxk([mean, max]))``.

    Args:
        kernel_sizes: one branch each.
    """

    def __init__(self, kernel_sizes: Sequence[int] = (3, 5, 7)) -> None:
        super().__init__()
        self.size = max(kernel_sizes)
        self.branches = nn.ModuleList(nn.Conv2d(2, 1, k, padding=k // 2, bias=False) for k in kernel_sizes)
        self.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        """Multiply each place of ``x`` ``(B, C, H, W)`` with its weight."""
        squeezed = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], dim=1)
        weight = torch.sigmoid(self._scales(squeezed))
        return x.mul_(weight) if self.inplace else x * weight

    def _scales(self, squeezed: Tensor) -> Tensor:
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript does not know what follows
            if torch.onnx.is_in_onnx_export():  # PyTorch's older exporter takes no kernels that are computed
                return torch.stack([branch(squeezed) for branch in self.branches]).sum(0)
        # a sum of convolutions is one convolution with the sum of their kernels
        weight = self.branches[0].weight
        kernel = torch.zeros(1, 2, self.size, self.size, dtype=weight.dtype, device=squeezed.device)
        for branch in self.branches:
            edge = (self.size - branch.kernel_size[0]) // 2
            kernel = kernel + F.pad(branch.weight, (edge, edge, edge, edge))
        return F.conv2d(squeezed, kernel, padding=self.size // 2)


class MultiBranchAttention(nn.Module):
    """The multi-branch attention module (MAM); with ``kernel_sizes=(3,)`` it is CBAM (section 2.1).

    Args:
        channels: number of channels.
        reduction: of the channel attention's bottleneck.
        kernel_sizes: branches of the spatial attention.
    """

    def __init__(self, channels: int, reduction: int = 8, kernel_sizes: Sequence[int] = (3, 5, 7)) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, reduction)
        self.spatial = SpatialAttention(kernel_sizes)

    def forward(self, x: Tensor, window: int = 0) -> Tensor:
        """Refine ``x`` ``(B, C, H, W)``; for ``window`` see :class:`ChannelAttention`."""
        return self.spatial(self.channel(x, window))
