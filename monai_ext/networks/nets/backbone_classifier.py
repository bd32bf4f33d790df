"""A classifier over a pretrained backbone that can point at its evidence."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.networks.blocks.backbones import Backbone

__all__ = ["BackboneClassifier"]


class BackboneClassifier(nn.Module):
    """The maps of a :class:`Backbone`, their means over the image, a linear head.

    It scores the maps of strides 16 and 32 together, as :class:`CELNet` does those of its last two stages, so that both
    learn to tell the classes apart; a plain transformer has its grid of tokens alone. ``fine`` and ``coarse`` are the
    layers for :class:`~monai_ext.explain.EvidenceMap` (``fine=None`` for a plain transformer). As the head is linear
    in the means, a class activation map of both layers sums to the logit less its bias.

    Args:
        backbone: name of the :class:`Backbone`.
        weights: of the backbone, see there; the head begins at random.
        num_classes: scores; 1 for tumour or not.
        magnify: images are enlarged so many times before the backbone; 2 for patches of 96 px, as most pretrained
            networks have seen 224 px and their coarsest map has a value for every 32 px.
        dropout: share of the means set to 0 before the head.
        freeze_norm: of the backbone, see there.

    Raises:
        InputError: see :class:`Backbone`; a ``magnify`` that is not above 0.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | Path | None = None,
        num_classes: int = 1,
        magnify: float = 1.0,
        dropout: float = 0.0,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        if not magnify > 0:
            raise InputError("magnify", "a number above 0", repr(magnify))
        self.magnify = float(magnify)
        self.backbone = Backbone(backbone, weights, freeze_norm)
        *_, fine, coarse = self.backbone.out_channels
        *_, self.fine, self.coarse = self.backbone.map_norms()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(coarse if self.backbone.is_plain else fine + coarse, num_classes)

    def features(self, images: Tensor) -> list[Tensor]:
        """The maps that are scored, of strides 16 and 32, or the tokens of a plain transformer."""
        if self.magnify != 1:
            images = F.interpolate(images, scale_factor=self.magnify, mode="bilinear", align_corners=False)
        if self.backbone.is_plain:
            return [self.coarse(self.backbone.tokens(images))]
        maps = self.backbone(images, ["2", "3"])
        return [self.fine(maps["2"]), self.coarse(maps["3"])]

    def forward(self, images: Tensor) -> Tensor:
        """Score whole images.

        Args:
            images: ``(B, 3, H, W)``, normalised as the weights expect.

        Returns:
            logits ``(B, num_classes)``.
        """
        means = torch.cat([maps.mean((2, 3)) for maps in self.features(images)], dim=1)
        return self.head(self.dropout(means))
