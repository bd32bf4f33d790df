"""No network at all: what is darker than Otsu's threshold, as the floor of trained networks."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from monai.utils import convert_to_numpy
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.base.otsu import otsu_threshold
from monai_ext.networks.convention import InputConvention
from monai_ext.networks.nets.hematoxylin import HematoxylinMap

__all__ = ["OtsuMap"]

_CHANNELS = ("grey", "hematoxylin")
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as OpenCV weighs R, G and B
_SURE = 10.0  # logit of what lies beyond the threshold: probabilities of nearly 0 and 1, nothing between


class OtsuMap(nn.Module):
    """Maps an image to logits of its dark part, in the place of a segmentation network.

    The image's grey value or its hematoxylin is blurred; Otsu's threshold, of each image by itself, parts dark from
    light. An image of one colour has nothing dark. Give it whole images: a threshold of each tile would be another one.

    Args:
        convention: of the images that it is given; ``None`` for RGB divided by 255.
        channel: ``"grey"``, or ``"hematoxylin"``, unmixed by the fixed vectors of hematoxylin and eosin.
        sigma: standard deviation of the Gaussian, px; 0 for none.

    Raises:
        InputError: another channel, or a negative ``sigma``.

    Examples:
        >>> from monai_ext.networks.nets import OtsuMap
        >>> image = torch.full((1, 3, 32, 32), 0.9)
        >>> image[..., 8:20, 8:20] = 0.3  # a nucleus
        >>> int((OtsuMap(sigma=0)(image) > 0).sum())
        144
    """

    def __init__(self, convention: InputConvention | None = None, channel: str = "grey", sigma: float = 1.0) -> None:
        super().__init__()
        if channel not in _CHANNELS:
            raise InputError("OtsuMap channel", " or ".join(map(repr, _CHANNELS)), repr(channel))
        if not 0 <= sigma < float("inf"):
            raise InputError("OtsuMap sigma", "px, at least 0", repr(sigma))
        self.channel, self.sigma = channel, float(sigma)
        self.convention = convention or InputConvention()
        self.stain = HematoxylinMap(self.convention)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(B, 1, H, W)`` of a normalised image ``(B, 3, H, W)``; above 0 is dark."""
        masks = np.stack([self._mask(convert_to_numpy(image)) for image in self._darkness(x.float())])
        return torch.from_numpy(masks).to(x.device)[:, None] * (2 * _SURE) - _SURE

    def _darkness(self, x: Tensor) -> Tensor:
        """``(B, H, W)``, large where a nucleus would be."""
        if self.channel == "hematoxylin":
            return self.stain.amount(x)
        return 255 - torch.einsum("c,bchw->bhw", x.new_tensor(_GREY), self.convention.undo(x))

    def _mask(self, darkness: np.ndarray) -> np.ndarray:
        image = np.ascontiguousarray(darkness, dtype=np.float32)
        if self.sigma > 0:
            image = cv2.GaussianBlur(image, (0, 0), self.sigma)
        return (image > otsu_threshold(image)).astype(np.float32)
