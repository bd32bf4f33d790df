"""The mean over an image's turns and mirrors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

__all__ = ["TurnsInferer"]


class TurnsInferer(Inferer):
    """Scores an image as the mean of its four turns and their mirrors, eight passes instead of one.

    Tissue has no upright position, so the mean depends on the position no longer, and errs less than each of them.

    Args:
        inferer: how the network is run on each; MONAI's ``SimpleInferer`` if ``None``.

    Examples:
        >>> from monai_ext.inferers import TurnsInferer
        >>> corner = lambda images: images[:, :, 0, 0]  # scores an image by its first pixel
        >>> TurnsInferer()(torch.tensor([[[[1.0, 2.0], [3.0, 6.0]]]]), corner)
        tensor([[3.]])
    """

    def __init__(self, inferer: Inferer | None = None) -> None:
        super().__init__()
        self.inferer = SimpleInferer() if inferer is None else inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Score images.

        Args:
            inputs: ``(B, C, H, W)``.
            network: gives scores ``(B, ...)`` of whole images, before a sigmoid or softmax.
            *args: passed on to the network.
            **kwargs: passed on to the network.

        Returns:
            the mean scores, ``(B, ...)``.
        """
        views = (torch.rot90(side, turn, (2, 3)) for side in (inputs, inputs.flip(3)) for turn in range(4))
        return torch.stack([self.inferer(view, network, *args, **kwargs) for view in views]).mean(0)
