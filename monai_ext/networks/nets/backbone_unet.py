"""A U-Net whose encoder is a pretrained backbone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from monai_ext.networks.blocks.backbones import Backbone
from monai_ext.networks.blocks.unet_decoder import UNetDecoder

__all__ = ["BackboneUNet"]


class BackboneUNet(nn.Module):
    """A score for each pixel, by a :class:`UNetDecoder` over the maps of a :class:`Backbone`.

    Over ``timm:tf_efficientnet_lite0`` it has 3.9 million parameters.

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
        self.backbone = Backbone(backbone, weights, freeze_norm)
        self.norms = self.backbone.map_norms()
        self.decoder = UNetDecoder(self.backbone.out_channels, channels)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Conv2d(channels[-1], num_classes, 1))

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
        images = self.backbone.lengthen(images)
        maps = [norm(x) for norm, x in zip(self.norms, self.backbone(images).values(), strict=True)]
        x = self.decoder(images, maps)
        return self.head(x)[:, :, :height, :width]
