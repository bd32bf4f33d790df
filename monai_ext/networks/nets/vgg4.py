"""VGG of one block, a teacher for patches of 16 px (Háberová and Vykopal 2023, section 4.3.1)."""

from __future__ import annotations

from torch import nn

from monai_ext.networks.utils import check_patch, keras_init

__all__ = ["VGG4"]


class VGG4(nn.Sequential):
    """VGG's first block (3 x 3 with 64 maps, twice, and 2 x 2 maximum) and two linear layers (section 4.3.1).

    Our reading: ``hidden`` units, and dropout between the linear layers as in VGG. Initialised as in Keras. Patches
    ``(B, in_channels, patch_size, patch_size)`` give logits ``(B, num_classes)``.

    Args:
        in_channels: channels of the input.
        num_classes: scores.
        hidden: units of the first linear layer.
        dropout: before the second one.
        patch_size: side of the patches, px.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 3,
        hidden: int = 512,
        dropout: float = 0.5,
        patch_size: int = 16,
    ) -> None:
        check_patch("VGG4", patch_size, least=2)
        super().__init__(
            nn.Conv2d(in_channels, 64, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * (patch_size // 2) ** 2, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )
        keras_init(self)
