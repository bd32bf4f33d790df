"""The decoder of a U-Net, over the maps of a pretrained backbone."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets.basic_unet import TwoConv, UpCat
from torch import Tensor, nn

from monai_ext.base.errors import InputError

__all__ = ["UNetDecoder"]

_LEVELS = 5  # strides 16, 8, 4, 2 and 1
_LAYERS = {"act": "relu", "norm": "batch", "bias": False, "dropout": 0.0}


class UNetDecoder(nn.Module):
    """Features of every pixel, from a backbone's four maps and two of a stem of its own.

    MONAI's layers (:class:`~monai.networks.nets.basic_unet.UpCat`: transposed convolution, concatenation, two 3 x 3
    convolutions with batch normalisation and ReLU). Pretrained networks halve the image at once, too coarse for
    outlines, so strides 1 and 2 have convolutions that begin at random.

    Args:
        in_channels: of the backbone's maps, of strides 4, 8, 16 and 32.
        channels: of the decoder, at strides 16, 8, 4, 2 and 1.

    Attributes:
        out_channels: of the features.

    Raises:
        InputError: channels of another number of levels.
    """

    def __init__(self, in_channels: Sequence[int], channels: Sequence[int] = (128, 64, 48, 32, 16)) -> None:
        super().__init__()
        if len(channels) != _LEVELS:
            raise InputError("channels", f"numbers for {_LEVELS} levels", repr(list(channels)))
        *_, half, full = channels
        self.out_channels = full
        self.stem1 = TwoConv(2, 3, full, **_LAYERS)
        self.stem2 = nn.Sequential(nn.MaxPool2d(2), TwoConv(2, full, half, **_LAYERS))
        *skips, coarse = [full, half, *in_channels]
        self.up = nn.ModuleList()
        for skip, width in zip(reversed(skips), channels, strict=True):
            self.up.append(UpCat(2, coarse, skip, width, **_LAYERS, is_pad=False))
            coarse = width

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Decode.

        Args:
            images: ``(B, 3, H, W)``; sides that 32 divides.
            maps: of the backbone, fine to coarse.

        Returns:
            ``(B, channels[-1], H, W)``.
        """
        full = self.stem1(images)
        *skips, x = [full, self.stem2(full), *maps]
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = up(x, skip)
        return x
