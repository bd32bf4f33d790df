"""The residual teachers for patches of single cells (Háberová and Vykopal 2023, sections 4.3.1 and 5.2)."""

from __future__ import annotations

from monai.networks.nets import ResNet

from monai_ext.base.errors import InputError

__all__ = ["SmallResNet"]

_BLOCKS = {18: [2, 2, 2, 2], 16: [2, 2, 2, 1]}


class SmallResNet(ResNet):
    """MONAI's ResNet of basic blocks with a stem for small images: 3 x 3 at stride 1 and no maximum after it.

    The paper says only that the architecture "was changed for the needs of the chosen patch size". Our reading: this
    stem; depth 16 has one basic block less than ResNet-18, on the last stage.

    Args:
        depth: 18 (for 32 px) or 16 (for 16 px).
        in_channels: channels of the input.
        num_classes: scores.

    Raises:
        InputError: another depth.
    """

    def __init__(self, depth: int = 18, in_channels: int = 3, num_classes: int = 3) -> None:
        if depth not in _BLOCKS:
            raise InputError("depth", " or ".join(map(str, _BLOCKS)), repr(depth))
        super().__init__(
            "basic",
            _BLOCKS[depth],
            [64, 128, 256, 512],
            spatial_dims=2,
            n_input_channels=in_channels,
            conv1_t_size=3,
            conv1_t_stride=1,
            no_max_pool=True,
            num_classes=num_classes,
            bias_downsample=False,
        )
