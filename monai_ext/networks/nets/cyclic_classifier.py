"""The front end of Cyclic Learning: does a tile hold nuclei (Zhou et al. 2023, section III-A)."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from monai_ext.networks.blocks.backbones import Backbone

__all__ = ["CyclicClassifier"]


class CyclicClassifier(nn.Module):
    """A classifier whose features are a :class:`Backbone`, to be shared with the back end.

    It computes what torchvision's network of the backbone's name does: features of stride 32, for Swin their last
    normalisation, their mean over the image, a linear head. Normalisation and head stay here when the backbone crosses.

    Args:
        backbone: name of the :class:`Backbone`; ResNet-152 in the paper.
        num_classes: scores; 2 for a tile without and with nuclei.
        weights: of the backbone, see :class:`Backbone`; the head begins at random.
        freeze_norm: of the backbone, see there.

    Raises:
        InputError: see :class:`Backbone`.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        num_classes: int = 2,
        weights: str | Path | None = None,
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = Backbone(backbone, weights, freeze_norm)
        channels = self.backbone.out_channels[-1]
        self.norm = nn.LayerNorm(channels) if self.backbone.is_swin else nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(1)  # a module, as relevance is propagated by module
        self.head = nn.Linear(channels, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """The map whose mean is scored: of stride 32, or the tokens of a plain transformer, ``(B, C, h, w)``."""
        features = self.backbone.tokens(images) if self.backbone.is_plain else self.backbone(images, ["3"])["3"]
        return self.norm(features.movedim(1, -1)).movedim(-1, 1)  # a LayerNorm reads channels last

    def classify(self, features: Tensor) -> Tensor:
        """Features -> logits ``(B, num_classes)``."""
        return self.head(self.pool(features).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        """Score images.

        Args:
            images: ``(B, 3, H, W)`` float, normalised as the weights expect; any size of at least 32 px, for a plain
                transformer one that its patches divide.

        Returns:
            logits ``(B, num_classes)``.
        """
        return self.classify(self.features(images))
