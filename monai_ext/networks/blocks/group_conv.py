"""Convolutions that are equivariant to quarter turns and mirror images (Cohen and Welling 2016, sections 4 and 6).

A map over a group with ``G`` elements is stored as ``G`` ordinary maps side by side: ``(B, C * G, H, W)``, channel
major, so that concatenation along the channels, ReLU, pooling and ``channels_last`` work as for ordinary maps. Element
``4 * m + r`` mirrors left and right if ``m`` is 1, then turns ``r`` times by 90 degrees as :func:`torch.rot90` does.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.errors import InputError

__all__ = ["GroupBatchNorm2d", "GroupConv2d", "GroupPool", "group_order", "transform"]

_ORDERS = {None: 1, "p4": 4, "p4m": 8}


def group_order(group: str | None) -> int:
    """Number of elements: 8 for ``"p4m"`` (turns and mirrors), 4 for ``"p4"`` (turns), 1 for ``None``.

    Raises:
        InputError: any other name.
    """
    if group not in _ORDERS:
        raise InputError("group", "'p4m', 'p4' or None", repr(group))
    return _ORDERS[group]


def transform(image: Tensor, element: int) -> Tensor:
    """Apply one element of p4m to the last two axes of ``image``."""
    mirrored = image.flip(-1) if element >= 4 else image
    return torch.rot90(mirrored, element % 4, (-2, -1))


def _left_divide(g: int, h: int) -> int:
    """The element ``g^-1 h``. A turn passes a mirror by changing its sense: ``s r = r^-1 s``."""
    sense = -1 if g >= 4 else 1
    return 4 * (g // 4 ^ h // 4) + sense * (h % 4 - g % 4) % 4


def _filter_index(order: int, size: int) -> Tensor:
    """Where the filters of output element ``g`` come from in a ``(order, size, size)`` filter, ``(order, -1)``."""
    cells = torch.arange(order * size * size).view(order, size, size)
    return torch.stack(
        [transform(cells[[_left_divide(g, h) for h in range(order)]], g).flatten() for g in range(order)]
    )


class GroupConv2d(nn.Module):
    """Group convolution; its ``G`` filters per output channel are turned and mirrored copies of one.

    Output element ``g`` sees element ``h`` of the input through ``g w(g^-1 h)`` (Cohen and Welling 2016, equations 10
    and 11). The copies are made anew in each forward pass; that is cheap for a batch (5 ms of 2.7 s for 64 patches in
    P4M-DenseNet on one core), so there is no cache to go stale.

    Args:
        in_channels: channels of the input, not counting the group.
        out_channels: channels of the output, not counting the group.
        kernel_size: side of the filters, cells.
        group: ``"p4m"``, ``"p4"`` or ``None`` (an ordinary convolution).
        lift: the input is an image, ``(B, in_channels, H, W)``, and not yet a map over the group.
        padding: zeros on each side.

    Raises:
        InputError: an unknown ``group``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        group: str | None = "p4m",
        lift: bool = False,
        padding: int = 0,
    ) -> None:
        super().__init__()
        order = group_order(group)
        self.padding, self.kernel_size = padding, kernel_size
        # four axes, as channels_last allows no fifth
        planes = in_channels if lift else in_channels * order
        self.weight = nn.Parameter(torch.empty(out_channels, planes, kernel_size, kernel_size))
        self.in_channels = in_channels
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        if lift:
            cells = torch.arange(kernel_size**2).view(kernel_size, kernel_size)
            index = torch.stack([transform(cells, g).flatten() for g in range(order)])
        else:
            index = _filter_index(order, kernel_size)
        self.register_buffer("index", index, persistent=False)

    def filters(self) -> Tensor:
        """All filters, ``(out_channels * G, in_channels * G or in_channels, kernel_size, kernel_size)``."""
        out_channels, size = self.weight.shape[0], self.kernel_size
        copies = self.weight.reshape(out_channels, self.in_channels, -1)[:, :, self.index]  # (out, in, G, cells)
        return copies.transpose(1, 2).reshape(out_channels * self.index.shape[0], -1, size, size)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, in_channels * G, H, W)`` (``in_channels`` if lifting) to ``(B, out_channels * G, H', W')``."""
        return F.conv2d(x, self.filters(), padding=self.padding)

    def extra_repr(self) -> str:
        """What ``print`` shows."""
        return f"{self.in_channels}, {self.weight.shape[0]}, order={self.index.shape[0]}, padding={self.padding}"


class GroupBatchNorm2d(nn.Module):
    """Batch normalisation whose statistics, weight and bias are shared by a channel's maps over the group.

    Args:
        channels: channels, not counting the group.
        group: ``"p4m"``, ``"p4"`` or ``None``.
        eps: added to the variance.
        momentum: share of the new statistics in the running ones.
    """

    def __init__(self, channels: int, group: str | None = "p4m", eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.order = group_order(group)
        # a part and not a base class, so that SyncBatchNorm can take its place
        self.norm = nn.BatchNorm3d(channels, eps, momentum)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(B, channels * G, H, W)``."""
        return self.norm(x.unflatten(1, (-1, self.order))).flatten(1, 2)


class GroupPool(nn.Module):
    """Mean over the group: the maps that are left turn and mirror with the image.

    Args:
        group: ``"p4m"``, ``"p4"`` or ``None``.
    """

    def __init__(self, group: str | None = "p4m") -> None:
        super().__init__()
        self.order = group_order(group)

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``(B, C * G, H, W)`` to ``(B, C, H, W)``."""
        return x.unflatten(1, (-1, self.order)).mean(2)
