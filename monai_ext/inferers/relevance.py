"""What a classifier of tiles sees in images of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from monai_ext.inferers.halo import HaloInferer
from monai_ext.networks.nets.cyclic_classifier import CyclicClassifier
from monai_ext.visualize.relevance import relevance

__all__ = ["RelevanceInferer"]

_HAS_NUCLEI = 1


class RelevanceInferer(HaloInferer):
    """The relevance of pixels for the class of tiles with nuclei, large images tile by tile.

    An image without any window of ``tile_size`` that the classifier takes to have nuclei has no relevance: explaining
    the class that it predicts (Zhou et al. 2023, section III-A) would show what there is instead of nuclei. Windows,
    since an image that is larger than the tiles of the training, and holds a few nuclei, may have none on average.

    Args:
        tile_size: side of the tiles that the classifier was trained with, px.
        margin: see :func:`~monai_ext.visualize.relevance`.
        tile: see :class:`HaloInferer`.
        halo: see :class:`HaloInferer`.
        max_pixels: see :class:`HaloInferer`; four passes' activations of so many px are in memory.
    """

    def __init__(
        self, tile_size: int = 224, margin: int = 32, tile: int = 512, halo: int = 64, max_pixels: int = 1 << 20
    ) -> None:
        super().__init__(tile, halo, max_pixels=max_pixels)
        self.tile_size, self.margin = tile_size, margin

    def __call__(self, inputs: Tensor, network: CyclicClassifier, *_: Any, **__: Any) -> Tensor:
        """Relevance of a batch.

        Args:
            inputs: ``(B, 3, H, W)``, normalised.
            network: the front end, perhaps in a ``DistributedDataParallel``.

        Returns:
            float32 ``(B, 1, H, W)``, signed; 0 where no nuclei are predicted.
        """
        network = getattr(network, "module", network)

        def explained(images: Tensor) -> Tensor:
            with torch.no_grad():
                windows = network.window_logits(images, self.tile_size)
            positive = (windows.argmax(1) == _HAS_NUCLEI).flatten(1).any(1)
            found = relevance(network, images, _HAS_NUCLEI, min(self.margin, min(images.shape[2:]) - 1))
            return (found * positive[:, None, None])[:, None]

        return super().__call__(inputs, explained)
