"""A U-Net whose encoder is a pretrained backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from monai.networks.nets.basic_unet import TwoConv, UpCat
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.networks.blocks.backbones import Backbone

__all__ = ["BackboneUNet"]

_COARSEST = 32
_LEVELS = 5  # strides 16, 8, 4, 2 and 1
_LAYERS = {"act": "relu", "norm": "batch", "bias": False, "dropout": 0.0}


class BackboneUNet(nn.Module):
    """A score for each pixel, from the four maps of a :class:`Backbone` and two of a stem of its own.

    The decoder is MONAI's (:class:`~monai.networks.nets.basic_unet.UpCat`: transposed convolution, concatenation, two
    3 x 3 convolutions with batch normalisation and ReLU). Pretrained networks halve the image at once, too coarse for
    outlines, so that strides 1 and 2 have convolutions that begin at random. Over ``timm:tf_efficientnet_lite0`` it has
    3.9 million parameters.

    Args:
        backbone: name of the :class:`Backbone`.
        weights: of the backbone, see there; the decoder begins at random.
        num_classes: channels of the output; 1 for nucleus or not.
        channels: of the decoder, at strides 16, 8, 4, 2 and 1.
        dropout: share of the values set to 0 before the scores.
        freeze_norm: of the backbone, see there.

    Raises:
        InputError: see :class:`Backbone`; channels of another number of levels.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | Path | None = None,
        num_classes: int = 1,
        channels: Sequence[int] = (128, 64, 48, 32, 16),
        dropout: float = 0.1,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        if len(channels) != _LEVELS:
            raise InputError("channels", f"numbers for {_LEVELS} levels", repr(list(channels)))
        self.backbone = Backbone(backbone, weights, freeze_norm)
        self.norms = self.backbone.map_norms()
        *_, half, full = channels
        self.stem1 = TwoConv(2, 3, full, **_LAYERS)
        self.stem2 = nn.Sequential(nn.MaxPool2d(2), TwoConv(2, full, half, **_LAYERS))
        *skips, coarse = [full, half, *self.backbone.out_channels]
        self.up = nn.ModuleList()
        for skip, width in zip(reversed(skips), channels, strict=True):
            self.up.append(UpCat(2, coarse, skip, width, **_LAYERS, is_pad=False))
            coarse = width
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(full, num_classes, 1))
        self.multiple = math.lcm(_COARSEST, self.backbone.stride)

    def forward(self, images: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            images: ``(B, 3, H, W)``, normalised as the weights expect, any size; sides are lengthened to multiples of
                32 px, and of the patches of a plain transformer, by their last row and column, and what was added is
                cut off again.

        Returns:
            logits ``(B, num_classes, H, W)``.
        """
        height, width = images.shape[2:]
        images = F.pad(images, [0, -width % self.multiple, 0, -height % self.multiple], mode="replicate")
        full = self.stem1(images)
        maps = [norm(x) for norm, x in zip(self.norms, self.backbone(images).values(), strict=True)]
        *skips, x = [full, self.stem2(full), *maps]
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(x, skip)
        return self.head(x)[:, :, :height, :width]
