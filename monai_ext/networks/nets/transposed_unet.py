"""U-Net and U-Net++ whose upsampling is learnt (Háberová and Vykopal 2023, section 4.2)."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from monai.networks.blocks import Convolution
from torch import Tensor, nn

__all__ = ["TransposedUNet", "TransposedUNetPlusPlus"]

_LEVELS = 5


class _TwoConvs(nn.Sequential):
    """Twice 3 x 3 convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            Convolution(2, in_channels, out_channels, adn_ordering="NA", act="relu", norm="batch"),
            Convolution(2, out_channels, out_channels, adn_ordering="NA", act="relu", norm="batch"),
        )


def _padded(x: Tensor) -> Tensor:
    """Lengthen both sides to multiples of 16 px by repeating the last row and column."""
    rows, cols = -x.shape[2] % 16, -x.shape[3] % 16
    return F.pad(x, [0, cols, 0, rows], mode="replicate")  # also by 0: an exported graph would keep only one branch


class TransposedUNet(nn.Module):
    """U-Net with transposed convolutions of kernel 2 and stride 2 in place of upsampling (section 4.2).

    Five levels of two 3 x 3 convolutions with batch normalisation and ReLU; dropout after each pooling and after each
    concatenation. Our reading: 32 filters on the first level, 7.77 million parameters. The paper ends in a sigmoid;
    here the logits come out, so that losses and mixed precision stay exact.

    Args:
        in_channels: channels of the input.
        num_classes: channels of the output; 1 for nucleus or not.
        filters: channels of the first level; each further one has twice as many.
        dropout: share of the values set to 0 (the paper's .3).
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 1, filters: int = 32, dropout: float = 0.3) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(_LEVELS)]
        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(dropout))
        self.dropout = nn.Dropout(dropout)
        self.first = _TwoConvs(in_channels, widths[0])
        self.down = nn.ModuleList([_TwoConvs(a, b) for a, b in itertools.pairwise(widths)])
        upwards = widths[::-1]
        self.up = nn.ModuleList([nn.ConvTranspose2d(a, b, 2, 2) for a, b in itertools.pairwise(upwards)])
        self.merge = nn.ModuleList([_TwoConvs(2 * width, width) for width in upwards[1:]])
        self.head = nn.Conv2d(filters, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            x: ``(B, in_channels, H, W)``, any size; sides that 16 does not divide are padded by their last row and
                column, and what was padded is cut off again.

        Returns:
            logits ``(B, num_classes, H, W)``.
        """
        height, width = x.shape[2], x.shape[3]
        x = self.first(_padded(x))
        skips = [x]
        for down in self.down:
            x = down(self.pool(x))
            skips.append(x)
        for level, (up, merge) in enumerate(zip(self.up, self.merge)):  # noqa: B905  TorchScript knows no strict
            x = merge(self.dropout(torch.cat([up(x), skips[len(skips) - 2 - level]], dim=1)))
        return self.head(x)[:, :, :height, :width]


class TransposedUNetPlusPlus(nn.Module):
    """U-Net++ with transposed convolutions of kernel 2 and stride 2 (section 4.2; Zhou et al. 2018).

    Node (i, j) sees all nodes (i, 0) ... (i, j - 1) of its level and, upsampled, node (i + 1, j - 1). Blocks, dropout
    and width as in :class:`TransposedUNet`.

    Args:
        in_channels: channels of the input.
        num_classes: channels of the output.
        filters: channels of the first level.
        dropout: share of the values set to 0.
        deep_supervision: every node (0, 1) ... (0, 4) has a head. In training all heads come out,
            ``(B, 4, num_classes, H, W)``, the deepest first: ``monai.losses.DeepSupervisionLoss(loss, "same")`` takes
            ``list(heads.unbind(1))``. In evaluation it is their mean, Zhou's accurate mode.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 1,
        filters: int = 32,
        dropout: float = 0.3,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        widths = [filters * 2**level for level in range(_LEVELS)]
        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(dropout))
        self.dropout = nn.Dropout(dropout)
        self.down = nn.ModuleList([_TwoConvs(a, b) for a, b in zip([in_channels, *widths], widths, strict=False)])
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for column in range(1, _LEVELS):
            for level in range(_LEVELS - column):
                width = widths[level]
                self.up.append(nn.ConvTranspose2d(2 * width, width, 2, 2))
                self.merge.append(_TwoConvs((column + 1) * width, width))
        heads = _LEVELS - 1 if deep_supervision else 1
        self.heads = nn.ModuleList([nn.Conv2d(filters, num_classes, 1) for _ in range(heads)])

    def forward(self, x: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            x: ``(B, in_channels, H, W)``, any size; see :class:`TransposedUNet`.

        Returns:
            logits ``(B, num_classes, H, W)``; with deep supervision, in training, ``(B, 4, num_classes, H, W)``.
        """
        height, width = x.shape[2], x.shape[3]
        x = _padded(x)
        rows: list[list[Tensor]] = []
        for level, down in enumerate(self.down):
            x = down(x if level == 0 else self.pool(x))
            rows.append([x])
        column, level = 1, 0
        for up, merge in zip(self.up, self.merge):  # noqa: B905  TorchScript knows no strict
            seen = torch.cat(rows[level], dim=1)
            seen = torch.cat([seen, up(rows[level + 1][column - 1])], dim=1)
            rows[level].append(merge(self.dropout(seen)))
            level += 1
            if level == len(rows) - column:
                column, level = column + 1, 0
        nodes = rows[0][len(rows[0]) - len(self.heads) :]
        outputs: list[Tensor] = []
        for index, head in enumerate(self.heads):
            outputs.append(head(nodes[index])[:, :, :height, :width])
        scores = torch.stack(outputs[::-1], dim=1)
        return scores if self.training and len(outputs) > 1 else scores.mean(1)
