"""RCCNet, the student of the distillation (Basha et al. 2018; Háberová and Vykopal 2023, section 4.3.2)."""

from __future__ import annotations

from torch import Tensor, nn

from monai_ext.networks.utils import check_patch, keras_init

__all__ = ["RCCNet"]

_EPS = 1e-3  # Keras' default


class RCCNet(nn.Module):
    """A small classifier of single cells: four convolutions, two hidden layers; 1,512,868 parameters at 4 classes.

    Convolution, ReLU, batch normalisation, in this order: 32 maps with and 32 without padding, 2 x 2 maximum; 64 with
    and 64 without padding, 2 x 2 maximum; then twice 512 units, ReLU, batch normalisation, dropout; one linear layer.
    The initialisation is Keras' default, Glorot uniform with zero biases.

    Args:
        in_channels: channels of the input.
        num_classes: scores.
        dropout: after each hidden layer.
        patch_size: side of the patches, px; the paper's is 32.
        norm_momentum: share of a batch in the running statistics; .01 is what Keras calls .99. Those lag hundreds of
            steps behind the weights, so that a training of fewer steps (few patches) fits and yet evaluates badly: .1,
            torch's default, is for those.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 3,
        dropout: float = 0.5,
        patch_size: int = 32,
        norm_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        self.patch_size = check_patch("RCCNet", patch_size, least=10)
        cells = (((patch_size - 2) // 2 - 2) // 2) ** 2
        self.features = nn.Sequential()
        for channels in (32, 64):
            for padding in (1, 0):
                self.features.append(nn.Conv2d(in_channels, channels, 3, padding=padding))
                self.features.extend([nn.ReLU(), nn.BatchNorm2d(channels, _EPS, norm_momentum)])
                in_channels = channels
            self.features.append(nn.MaxPool2d(2))
        self.classifier = nn.Sequential(nn.Flatten())
        for units in (64 * cells, 512):
            self.classifier.extend(
                [nn.Linear(units, 512), nn.ReLU(), nn.BatchNorm1d(512, _EPS, norm_momentum), nn.Dropout(dropout)]
            )
        self.classifier.append(nn.Linear(512, num_classes))
        keras_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Score patches.

        Args:
            x: ``(B, in_channels, patch_size, patch_size)``.

        Returns:
            logits ``(B, num_classes)``.
        """
        return self.classifier(self.features(x))
