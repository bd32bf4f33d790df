"""The DenseNets that CELNet is compared with on PCam, plain and group-equivariant (Veeling et al. 2018)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_ext.networks.blocks.group_conv import GroupBatchNorm2d, GroupConv2d, GroupPool

__all__ = ["GroupDenseNet"]

_EPS, _MOMENTUM = 1.1e-5, 0.01  # of the published network; its framework calls the momentum 0.99
# stem and growth, in channels per group element
_WIDTHS: dict[str | None, tuple[int, int]] = {"p4m": (8, 9), "p4": (13, 13), None: (63, 70)}


class _DenseLayer(nn.Module):
    """Appends the maps of BN-ReLU-3x3 to its input, cropped to the same cells."""

    def __init__(self, channels: int, growth_rate: int, group: str | None, dropout: float) -> None:
        super().__init__()
        self.norm = GroupBatchNorm2d(channels, group, _EPS, _MOMENTUM)
        self.relu = nn.ReLU()
        self.conv = GroupConv2d(channels, growth_rate, 3, group)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        new = self.dropout(self.conv(self.relu(self.norm(x))))
        return torch.cat([x[:, :, 1:-1, 1:-1], new], dim=1)


class _Transition(nn.Module):
    """BN-ReLU-1x1 without compression and means of 2 x 2 cells."""

    def __init__(self, channels: int, group: str | None) -> None:
        super().__init__()
        self.norm = GroupBatchNorm2d(channels, group, _EPS, _MOMENTUM)
        self.relu = nn.ReLU()
        self.pool = nn.AvgPool2d(2)
        self.conv = GroupConv2d(channels, channels, 1, group)

    def forward(self, x: Tensor) -> Tensor:
        # means first: a 1x1 convolution gives the same either way, and has a quarter of the cells to do
        return self.conv(self.pool(self.relu(self.norm(x))))


class GroupDenseNet(nn.Module):
    """P4M-DenseNet and its plain counterpart (Veeling et al. 2018; rows 2 and 3 of CELNet's Table 1).

    Read in the authors' release (keras-gcnn) and in the layer shapes that a user of it prints for PCam: a 3 x 3 stem;
    five dense blocks of one layer each, BN-ReLU-3x3; between them transitions, BN-ReLU-1x1 without compression and
    2 x 2 means; no padding anywhere, the skipped maps are cropped; BN-ReLU, mean over the group, over the image, one
    linear layer; no other bias; He initialisation; dropout 0; batch normalisation with eps 1.1e-5 and momentum .01. A
    96 px patch gives maps of 94, 92 -> 46, 44 -> 22, 20 -> 10, 8 -> 4 and 2 cells.

    Our reading: the widths, which the release does not give. They follow from the published 119K and 902K parameters,
    counted as that framework does (running statistics included), and from both networks having about as many maps:
    8 channels growing by 9 over 8 elements give 118,738 (118,128 of them learnt), 63 growing by 70 give 902,161
    (897,401 learnt). Other widths fit the counts too; Romero et al. (2020) take 9 and 9 (124K). For ``"p4"``, which
    the table leaves out, 13 and 13 as they do. Statistics of the batch normalisation are shared by the group in
    training too, so that turning any one patch of a batch changes nothing; the release shares the running ones only.

    The logits do not change when the image is turned (``"p4"``) or turned and mirrored (``"p4m"``), if its sides are
    multiples of 16 px; else the pooling leaves out a last row or column. ``group_pool`` is the last feature map,
    ``(B, C, H / 16 - 4, W / 16 - 4)``, which Grad-CAM can ask for.

    Args:
        group: ``"p4m"``, ``"p4"`` or ``None`` for the plain network.
        in_channels: channels of the input.
        num_classes: scores; 1 for tumour or not.
        init_features: channels of the stem, per group element; ``None`` for the published size.
        growth_rate: channels that a layer adds, per group element; ``None`` for the published size.
        num_blocks: dense blocks.
        layers_per_block: layers in each.
        dropout: after each dense layer's convolution.

    Raises:
        InputError: an unknown ``group``.
    """

    def __init__(
        self,
        group: str | None = "p4m",
        in_channels: int = 3,
        num_classes: int = 1,
        init_features: int | None = None,
        growth_rate: int | None = None,
        num_blocks: int = 5,
        layers_per_block: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.group_pool = GroupPool(group)  # first, as it rejects a bad name
        channels = init_features or _WIDTHS[group][0]
        growth_rate = growth_rate or _WIDTHS[group][1]
        self.stem = GroupConv2d(in_channels, channels, 3, group, lift=True)
        self.blocks = nn.Sequential()
        for block in range(num_blocks):
            for layer in range(layers_per_block):
                self.blocks.add_module(
                    f"dense{block + 1}_{layer + 1}", _DenseLayer(channels, growth_rate, group, dropout)
                )
                channels += growth_rate
            if block < num_blocks - 1:
                self.blocks.add_module(f"transition{block + 1}", _Transition(channels, group))
        self.norm = GroupBatchNorm2d(channels, group, _EPS, _MOMENTUM)
        self.relu = nn.ReLU()
        self.head = nn.Linear(channels, num_classes)
        nn.init.xavier_uniform_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        side = 1
        for _ in range(num_blocks):
            side = 2 * (side + 2 * layers_per_block)
        self.smallest = side // 2 + 2

    def forward(self, x: Tensor) -> Tensor:
        """Score whole images.

        Args:
            x: ``(B, in_channels, H, W)``; both sides at least 80 px.

        Returns:
            logits ``(B, num_classes)``.

        Raises:
            ValueError: an image so small that nothing is left of it.
        """
        if min(x.shape[2], x.shape[3]) < self.smallest:
            raise ValueError(
                f"GroupDenseNet: expected sides of at least {self.smallest} px, found {x.shape[2]} x {x.shape[3]}"
            )
        x = self.relu(self.norm(self.blocks(self.stem(x))))
        return self.head(self.group_pool(x).mean((2, 3)))
