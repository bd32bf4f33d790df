"""Masks within boxes, from a pyramid of features (He et al. 2017, section 3)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, roi_align
from torchvision.ops.poolers import initLevelMapper

from monai_ext.instances.sparse import SparseInstances

__all__ = ["MaskHead", "pyramid_pool"]


def pyramid_pool(side: int) -> MultiScaleRoIAlign:
    """RoIAlign from the maps ``"0"`` to ``"3"`` of strides 4 to 32, the map being chosen by the size of a box.

    The strides are set here: torchvision infers them from the first images it sees and keeps them, and takes the
    stride of a map of 2 px for an image of 33 px to be 16.

    Args:
        side: of what it gives for each box, ``(R, C, side, side)``.
    """
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], side, sampling_ratio=2)
    pool.scales, pool.map_levels = [1 / 4, 1 / 8, 1 / 16, 1 / 32], initLevelMapper(2, 5)
    return pool


class MaskHead(nn.Module):
    """Mask R-CNN's mask branch for one class: 14 x 14 features of a box, four convolutions, 28 x 28 logits.

    Args:
        channels: of the maps and of the head.
    """

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.pool = pyramid_pool(14)
        self.convolutions = MaskRCNNHeads(channels, [channels] * 4, dilation=1)
        self.predictor = MaskRCNNPredictor(channels, channels, num_classes=1)

    def forward(self, features: Mapping[str, Tensor], boxes: list[Tensor]) -> Tensor:
        """Logits ``(R, 28, 28)`` of all boxes of a batch.

        Args:
            features: maps of the batch, as :func:`pyramid_pool` wants them.
            boxes: for each image ``(r, 4)`` ``x0, y0, x1, y1`` in px; R is the sum of all r.
        """
        pooled = self.pool(features, boxes, [])  # the images' sizes would tell the strides, which are known
        return self.predictor(self.convolutions(pooled))[:, 0].float()

    def segment(
        self,
        features: Mapping[str, Tensor],
        boxes: list[Tensor],
        scores: list[Tensor],
        size: tuple[int, int],
        threshold: float = 0.5,
    ) -> list[SparseInstances]:
        """The instances of each image in their boxes, in their order.

        Args:
            features: as in :meth:`forward`.
            boxes: as in :meth:`forward`.
            scores: for each image ``(r,)``.
            size: ``H, W`` of the images, px.
            threshold: of a pixel's probability.
        """
        masks = self(features, boxes).sigmoid().split([len(each) for each in boxes])
        parts = zip(masks, boxes, scores, strict=True)
        return [SparseInstances.paste(*part, size, threshold) for part in parts]

    @staticmethod
    def loss(
        logits: Tensor, boxes: list[Tensor], masks: list[Tensor], matched: list[Tensor], weights: Tensor
    ) -> Tensor:
        """Mean cross-entropy with the masks, weighted.

        All of a box is used, known or not: what is outside the instance's mask is no part of the instance.

        Args:
            logits: ``(R, M, M)``.
            boxes: as in :meth:`forward`.
            masks: bool ``(n, H, W)`` of each image.
            matched: ``(r,)`` int64, the mask that each box is for.
            weights: ``(R,)`` of the boxes; the divisor is R.
        """
        side = logits.shape[-1]
        wanted = [_crop(*each, side) for each in zip(masks, boxes, matched, strict=True)]
        each = F.binary_cross_entropy_with_logits(logits, torch.cat(wanted), reduction="none").mean((1, 2))
        return (each * weights).sum() / max(len(logits), 1)


def _crop(masks: Tensor, boxes: Tensor, matched: Tensor, side: int) -> Tensor:
    """Masks resampled to their boxes, ``(r, side, side)`` in [0, 1]."""
    used, index = matched.unique(return_inverse=True)  # of many masks few are sampled
    rois = torch.cat([index[:, None].to(boxes), boxes], dim=1)
    return roi_align(masks[used, None].to(boxes), rois, side, aligned=True)[:, 0]
