"""CELNet: a small residual network that keeps its maps fine enough to point at evidence (Huang and Chung 2019)."""

from __future__ import annotations

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from monai_ext.base.errors import InputError
from monai_ext.base.flags import as_flag
from monai_ext.networks.blocks.attention import ChannelAttention, MultiBranchAttention, SpatialAttention
from monai_ext.networks.blocks.windows import pool_windows

__all__ = ["CELNet"]

_KERNELS = {"mam": (3, 5, 7), "cbam": (3,)}
_STRIDES = (1, 2, 2)


class _Block(nn.Module):
    """conv-BN-ReLU-conv-BN, attention, add, ReLU (Fig. 1, right)."""

    def __init__(self, in_channels: int, channels: int, stride: int, attention: str | None, reduction: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.attention = (
            None if attention is None else MultiBranchAttention(channels, reduction, kernel_sizes=_KERNELS[attention])
        )
        # 3x3 instead of the usual 1x1, which would skip three pixels of four
        self.shortcut = (
            nn.Sequential(nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False), nn.BatchNorm2d(channels))
            if stride > 1 or in_channels != channels
            else nn.Identity()
        )

    def forward(self, x: Tensor, window: int = 0) -> Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        if self.attention is not None:
            y = self.attention(y, window)
        return self.relu(y + self.shortcut(x))


class _Stage(nn.Module):
    """The blocks of one resolution."""

    def __init__(
        self, in_channels: int, channels: int, stride: int, blocks: int, attention: str | None, reduction: int
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _Block(channels if i else in_channels, channels, 1 if i else stride, attention, reduction)
            for i in range(blocks)
        )

    def forward(self, x: Tensor, window: int = 0) -> Tensor:
        for block in self.blocks:
            x = block(x, window)
        return x


class CELNet(nn.Module):
    """Cancerous evidence localization network (section 2.1).

    A 3 x 3 stem and three residual stages at 1, 1/2 and 1/4 of the input's resolution, attention in every block. The
    score comes from the mean and the maximum of the last two stages' maps, so both learn to tell the classes apart
    (deep supervision): ``stage2`` gives the finer activation map, ``stage3`` the surer one.

    Two ways to score many overlapping windows of a large image: cut each one out and call the network, or
    :meth:`dense`, which computes the maps once.

    Args:
        attention: ``"mam"`` (the paper's), ``"cbam"`` or ``None``.
        in_channels: channels of the input.
        num_classes: scores; 1 for tumour or not.
        deep_supervision: whether ``stage2`` feeds the score too.
        channels: of the three stages.
        blocks: in each stage.
        reduction: of the channel attention.
        window: side of the windows that it was trained on, px; what :meth:`dense` scores. A multiple of 16.

    Raises:
        InputError: an unknown ``attention``, or a ``window`` that is no multiple of 16.
    """

    def __init__(
        self,
        attention: str | None = "mam",
        in_channels: int = 3,
        num_classes: int = 1,
        deep_supervision: bool = True,
        channels: tuple[int, int, int] = (16, 32, 64),
        blocks: int = 3,
        reduction: int = 8,
        window: int = 96,
    ) -> None:
        super().__init__()
        if attention is not None and attention not in _KERNELS:
            raise InputError("CELNet", "attention 'mam', 'cbam' or None", repr(attention))
        if window < 16 or window % 16:
            raise InputError("CELNet", "window as a multiple of 16 px", str(window))
        self.window = window
        self.deep_supervision = as_flag(deep_supervision, "deep_supervision")
        self.stem = nn.Sequential()
        self.stem.add_module("conv", nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False))
        self.stem.add_module("norm", nn.BatchNorm2d(channels[0]))
        self.stem.add_module("relu", nn.ReLU())
        self.stage1 = _Stage(channels[0], channels[0], _STRIDES[0], blocks, attention, reduction)
        self.stage2 = _Stage(channels[0], channels[1], _STRIDES[1], blocks, attention, reduction)
        self.stage3 = _Stage(channels[1], channels[2], _STRIDES[2], blocks, attention, reduction)
        scored = channels[2] + (channels[1] if self.deep_supervision else 0)
        self.head = nn.Conv2d(2 * scored, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module is not self.head:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @torch.jit.unused
    def for_inference(self) -> CELNet:
        """A copy that computes the same in evaluation mode, in half the passes over memory; it cannot be trained.

        Convolutions take up the normalisation behind them, and what follows writes over their output.
        """
        network = deepcopy(self).eval().requires_grad_(False)
        for module in network.modules():
            if isinstance(module, _Block):
                module.conv1, module.norm1 = fuse_conv_bn_eval(module.conv1, module.norm1), nn.Identity()
                module.conv2, module.norm2 = fuse_conv_bn_eval(module.conv2, module.norm2), nn.Identity()
                if isinstance(module.shortcut, nn.Sequential):
                    module.shortcut = fuse_conv_bn_eval(*module.shortcut)
            elif isinstance(module, ChannelAttention | SpatialAttention | nn.ReLU):
                module.inplace = True
        network.stem.conv, network.stem.norm = fuse_conv_bn_eval(network.stem.conv, network.stem.norm), nn.Identity()
        return network

    def features(self, x: Tensor, window: int = 0) -> tuple[Tensor, Tensor]:
        """The maps of stages 2 and 3: ``(B, 32, H / 2, W / 2)`` and ``(B, 64, H / 4, W / 4)``.

        Args:
            x: ``(B, in_channels, H, W)``.
            window: 0, or what a place's channel attention sees, px; see :class:`ChannelAttention`.
        """
        x = self.stage1(self.stem(x), window)
        fine = self.stage2(x, window // 2)
        return fine, self.stage3(fine, window // 4)

    def forward(self, x: Tensor) -> Tensor:
        """Score whole images.

        Args:
            x: ``(B, in_channels, H, W)``.

        Returns:
            logits ``(B, num_classes)``.
        """
        fine, coarse = self.features(x)
        scored = [fine, coarse] if self.deep_supervision else [coarse]
        pooled: list[Tensor] = []
        for features in scored:
            pooled += [F.adaptive_avg_pool2d(features, 1), F.adaptive_max_pool2d(features, 1)]
        return self.head(torch.cat(pooled, dim=1)).flatten(1)

    def dense(self, x: Tensor, step: int = 24, margin: int = 0) -> Tensor:
        """Score every window of a large image from maps that the windows share.

        For an image of exactly one window this is :meth:`forward`. Elsewhere the two differ a little: a window that
        is cut out ends in zeros, and its channel attention sees the window alone.

        Args:
            x: ``(B, in_channels, H, W)``; sides are multiples of ``window / 4`` and at least ``window``.
            step: px between neighbouring windows; a multiple of 4.
            margin: px on each side that are context only, in no window; a multiple of 4.

        Returns:
            logits ``(B, num_classes, h, w)`` with ``h = (H - 2 * margin - window) // step + 1``.
        """
        cell = self.window // 4
        if x.shape[2] % cell or x.shape[3] % cell or min(x.shape[2], x.shape[3]) < self.window + 2 * margin:
            raise ValueError(
                f"CELNet.dense: expected sides that are multiples of {cell} px and at least "
                f"{self.window + 2 * margin} px, found {x.shape[2]} x {x.shape[3]}"
            )
        if step % 4 or margin % 4:
            raise ValueError(f"CELNet.dense: expected step and margin as multiples of 4, found {step} and {margin}")
        fine, coarse = self.features(x, self.window)
        pooled = []
        for features, stride in ((fine, 2), (coarse, 4)):
            if stride == 4 or self.deep_supervision:
                edge = margin // stride
                inner = features[:, :, edge : features.shape[2] - edge, edge : features.shape[3] - edge]
                pooled += list(pool_windows(inner, self.window // stride, step // stride))
        return self.head(torch.cat(pooled, dim=1))
