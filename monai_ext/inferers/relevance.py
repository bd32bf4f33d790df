"""What a classifier of tiles sees in images of any size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from monai.inferers import SlidingWindowInferer
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_ext.base.errors import InputError
from monai_ext.explain.lrp import relevance
from monai_ext.networks.nets.cyclic_classifier import CyclicClassifier

__all__ = ["RelevanceInferer"]

_HAS_NUCLEI = 1


class RelevanceInferer(SlidingWindowInferer):
    """The relevance of pixels for the class of tiles with nuclei: images are read in tiles as in training.

    Tiles that overlap are explained one by one (Zhou et al. 2023, section III-A), and their results are averaged,
    weighted towards the middle of each. A larger image is no tile: convolutions that were trained with the padding at
    a tile's edges differ inside an image, and its mean hides a few nuclei. A tile classified as one without
    nuclei adds no relevance, for explaining the class that it predicts would show what there is instead of nuclei.

    A score is shared out among a tile's nuclei, so each of a few gets more than each of many. As in the paper, whose
    images are the tiles, relevance counts relative to its tile's maximum therefore, or to a quantile in its place.

    Args:
        tile_size: side of the tiles that the classifier was trained with, px.
        margin: px that images are mirrored beyond their edges, so that tiles' edges, where padding draws relevance,
            do not lie there.
        quantile: of a tile's positive relevance, by which the tile is divided; 1 for its maximum. A lower one is not
            set by a single spot.
        overlap: share of a tile's side that it has in common with the next.
        sw_batch_size: tiles explained together.

    Raises:
        InputError: a margin below 0, or a quantile outside (0, 1].
    """

    def __init__(
        self,
        tile_size: int = 224,
        margin: int = 32,
        quantile: float = 0.98,
        overlap: float = 0.5,
        sw_batch_size: int = 16,
    ) -> None:
        if margin < 0:
            raise InputError("RelevanceInferer margin", "px, at least 0", repr(margin))
        if not 0 < quantile <= 1:
            raise InputError("RelevanceInferer quantile", "a share above 0, at most 1", repr(quantile))
        super().__init__(tile_size, sw_batch_size, overlap, mode="gaussian", padding_mode="replicate")
        self.margin, self.quantile = margin, quantile

    def __call__(self, inputs: Tensor, network: CyclicClassifier, *_: Any, **__: Any) -> Tensor:
        """Relevance of a batch.

        Args:
            inputs: ``(B, 3, H, W)``, normalised.
            network: the front end, perhaps in a ``DistributedDataParallel``.

        Returns:
            float32 ``(B, 1, H, W)``, signed, in tiles' maxima; 0 where no nuclei are predicted.
        """
        network = getattr(network, "module", network)
        height, width = inputs.shape[2:]
        margin = min(self.margin, height - 1, width - 1)  # as far as an image can be mirrored

        def explained(tiles: Tensor) -> Tensor:
            with torch.no_grad():
                positive = network(tiles).argmax(1) == _HAS_NUCLEI
            maps = tiles.new_zeros((len(tiles), 1, *tiles.shape[2:]), dtype=torch.float32)
            if positive.any():  # relevance costs several passes, so of the others none is computed
                heat = relevance(network, tiles[positive], _HAS_NUCLEI)
                highest = torch.stack([_quantile(map_[map_ > 0], self.quantile) for map_ in heat])
                maps[positive] = (heat / highest[:, None, None])[:, None]
            return maps

        mirrored = F.pad(convert_to_tensor(inputs, track_meta=False), (margin,) * 4, mode="reflect")
        return super().__call__(mirrored, explained)[..., margin : margin + height, margin : margin + width]


def _quantile(values: Tensor, share: float) -> Tensor:
    """The quantile; 1 of nothing, for what is divided by it."""
    return values.quantile(share) if len(values) else values.new_ones(())
