"""Xception for patches of single cells (Chollet 2017; Háberová and Vykopal 2023, section 4.3.1)."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from monai_ext.networks.utils import keras_init

__all__ = ["Xception"]

_EPS, _MOMENTUM = 1e-3, 0.01  # of the published network; Keras calls the momentum .99


def _convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels, _EPS, _MOMENTUM),
    )


def _separable(in_channels: int, out_channels: int) -> nn.Sequential:
    """3 x 3 in each channel, 1 x 1 across them, batch normalisation."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels, _EPS, _MOMENTUM),
    )


class _Block(nn.Module):
    """Separable convolutions, each behind a ReLU, with a shortcut."""

    def __init__(self, channels: list[int], stride: int = 1, first_relu: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential()
        for index, (before, after) in enumerate(itertools.pairwise(channels)):
            if index or first_relu:
                self.body.append(nn.ReLU())  # not in place: the shortcut reads the same tensor
            self.body.append(_separable(before, after))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1:
            self.body.append(nn.MaxPool2d(3, stride, 1))
            self.shortcut = _convolution(channels[0], channels[-1], 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)


class Xception(nn.Module):
    """Chollet's Xception (Fig. 5), fitted to small patches: the stem keeps the resolution.

    Entry, middle and exit flow with the published widths: 22,855,952 trainable parameters at 1000 classes, as Keras
    counts them. Our reading of "adapted": stride 1 and padding in the stem, so that 32 px give 2 x 2 cells before the
    mean and 16 px one.

    Args:
        in_channels: channels of the input.
        num_classes: scores.
    """

    def __init__(self, in_channels: int = 3, num_classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(_convolution(in_channels, 32, 3), nn.ReLU(), _convolution(32, 64, 3), nn.ReLU()),
            _Block([64, 128, 128], stride=2, first_relu=False),
            _Block([128, 256, 256], stride=2),
            _Block([256, 728, 728], stride=2),
            *(_Block([728] * 4) for _ in range(8)),
            _Block([728, 728, 1024], stride=2),
            *(_separable(1024, 1536), nn.ReLU(), _separable(1536, 2048), nn.ReLU()),
        )
        self.head = nn.Linear(2048, num_classes)
        keras_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Score patches.

        Args:
            x: ``(B, in_channels, H, W)``; both sides at least 16 px.

        Returns:
            logits ``(B, num_classes)``.
        """
        return self.head(self.features(x).mean((2, 3)))
