"""FCN-8s over a pretrained backbone, in the place of SegMitos' VGG-16."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.networks.blocks.backbones import Backbone

__all__ = ["BackboneFCN"]


class BackboneFCN(nn.Module):
    """Scores of the maps of strides 32, 16 and 8, each upsampled to the next and added (Long et al. 2015).

    The decoder of :class:`SegMitosFCN` over any :class:`Backbone`: the scores start at zero and are upsampled
    bilinearly; in the place of fc6 and fc7 stand a 3 x 3 convolution of the coarsest map and dropout.

    Args:
        backbone: name of the :class:`Backbone`.
        weights: of the backbone, see there; the scores begin at zero.
        num_classes: channels of the output.
        channels: of the 3 x 3 convolution.
        dropout: share of its values set to 0.
        freeze_norm: of the backbone, see there.

    Raises:
        InputError: see :class:`Backbone`.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | Path | None = None,
        num_classes: int = 2,
        channels: int = 256,
        dropout: float = 0.5,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, weights, freeze_norm)
        self.norms = self.backbone.map_norms()[1:]
        _, eighth, sixteenth, coarsest = self.backbone.out_channels
        self.head = nn.Sequential(
            nn.Conv2d(coarsest, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.scores = nn.ModuleList(nn.Conv2d(width, num_classes, 1) for width in (eighth, sixteenth, channels))
        for score in self.scores:
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)

    @property
    def halo(self) -> int:
        """Pixels of surroundings that a tile is computed with."""
        return 256

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, num_classes, H, W)`` of an image ``(B, 3, H, W)`` of any size.

        Sides are lengthened to multiples of 32 px, and of the patches of a plain transformer, by their last row and
        column, and what was added is cut off again.
        """
        height, width = x.shape[2:]
        x = self.backbone.lengthen(x)
        _, *maps = self.backbone(x).values()
        fine, middle, coarse = (norm(each) for norm, each in zip(self.norms, maps, strict=True))
        scores = self.scores[2](self.head(coarse))
        for score, finer in ((self.scores[1], middle), (self.scores[0], fine)):
            scores = _enlarged(scores, finer.shape[2:]) + score(finer)
        return _enlarged(scores, x.shape[2:])[:, :, :height, :width]


def _enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
