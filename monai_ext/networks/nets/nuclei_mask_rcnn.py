"""Mask R-CNN for many small nuclei, possibly only some of them labelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead, concat_box_prediction_layers
from torchvision.ops import FeaturePyramidNetwork, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from monai_ext.instances.sparse import SparseInstances
from monai_ext.instances.targets import Target
from monai_ext.networks.blocks.mask_head import MaskHead, pyramid_pool
from monai_ext.networks.nets.back_end import InstanceBackEnd

__all__ = ["NucleiMaskRCNN"]

_STRIDES = (4, 8, 16, 32, 64)
_NEAR = 0.1  # least IoU of a box with a nucleus that it is a near miss of
_BETA = 1 / 9  # where the smooth L1 loss turns from a parabola to a line


class NucleiMaskRCNN(InstanceBackEnd):
    """Mask R-CNN with a feature pyramid (He et al. 2017), built from torchvision's parts.

    The numbers are the paper's (Zhou et al. 2023, section V-B: 400 instances, RPN suppression .9 and .7) and, where it
    is silent, its release's: anchors of 8 to 128 px, 64 anchors and 128 regions sampled in each image, detections
    suppressed at .3. What torchvision's ``MaskRCNN`` lacks is here: instances have weights, and unlabelled area can be
    ignored. With weights of 1 and everything known, the losses are torchvision's.

    Weights: an anchor or region that is matched to an instance counts by its weight in all five losses, whose divisors
    are the numbers of samples, so that every loss is linear in the weights. Matched to an instance of weight 0 it is
    not sampled at all, nor as background where it touches one, unless it is nearer to one that counts. Where an image
    has more than ``max_instances``, some are drawn at each step, and the others are as those of weight 0.

    Unlabelled area: the paper trains an ordinary Mask R-CNN, for which every box without a known nucleus is background;
    since only 64 anchors and 128 regions are sampled, few of them hit an unlabelled one. That is ``"background"``.
    With ``"ignore"``, a box is a sample of background in the RPN and in the box head only if all its pixels are known,
    or if it is a near miss: its IoU with the box of an instance that counts is at least .1 and greater than with any of
    weight 0. Around a seed nothing is known, and without near misses to tell apart from hits, a box that lies badly
    costs nothing; neighbours whose boxes overlap so much are rare.

    Args:
        backbone: see :class:`InstanceBackEnd`.
        weights: see :class:`InstanceBackEnd`.
        unlabelled: ``"background"`` or ``"ignore"``.
        freeze_norm: see :class:`InstanceBackEnd`.
        channels: of the pyramid and the mask head.
        box_channels: of the box head's two layers.
        anchor_sizes: sides of the anchors at strides 4, 8, 16, 32 and 64, px.
        aspect_ratios: of the anchors, height by width.
        max_instances: most instances of an image that are learnt in one step, and most that are found in one.
        rpn_nms: IoU above which proposals are suppressed, in training and in testing.
        proposals: most proposals of an image, in training and in testing (torchvision's).
        rpn_samples: anchors of an image that are learnt in one step, at most half of them on nuclei.
        roi_samples: regions of an image that are learnt in one step, at most a quarter (torchvision's) on nuclei.
        nms: IoU above which detections are suppressed.
        score_threshold: less sure detections are left out.
        mask_threshold: of a pixel's probability.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        weights: str | Path | None = None,
        unlabelled: str = "background",
        freeze_norm: bool = False,
        *,
        channels: int = 256,
        box_channels: int = 1024,
        anchor_sizes: Sequence[float] = (8, 16, 32, 64, 128),
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        max_instances: int = 400,
        rpn_nms: tuple[float, float] = (0.9, 0.7),
        proposals: tuple[int, int] = (2000, 1000),
        rpn_samples: int = 64,
        roi_samples: int = 128,
        nms: float = 0.3,
        score_threshold: float = 0.5,
        mask_threshold: float = 0.5,
    ) -> None:
        super().__init__(backbone, weights, unlabelled, freeze_norm)
        self.max_instances, self.rpn_nms, self.mask_threshold = max_instances, tuple(rpn_nms), mask_threshold
        self.fpn = FeaturePyramidNetwork(self.backbone.out_channels, channels, LastLevelMaxPool())
        most = dict(zip(("training", "testing"), proposals, strict=True))
        self.rpn = RegionProposalNetwork(
            AnchorGenerator([(size,) for size in anchor_sizes], [tuple(aspect_ratios)] * len(_STRIDES)),
            RPNHead(channels, len(aspect_ratios)),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=rpn_samples,
            positive_fraction=0.5,
            pre_nms_top_n=most,
            post_nms_top_n=most,
            nms_thresh=rpn_nms[0],
        )
        self.roi_heads = RoIHeads(
            pyramid_pool(7),
            TwoMLPHead(channels * 7**2, box_channels),
            FastRCNNPredictor(box_channels, 2),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=roi_samples,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score_threshold,
            nms_thresh=nms,
            detections_per_img=max_instances,
        )
        self.mask_head = MaskHead(channels)

    def train(self, mode: bool = True) -> NucleiMaskRCNN:
        """Set the mode, and with it the suppression of proposals."""
        super().train(mode)
        self.rpn.nms_thresh = self.rpn_nms[0 if mode else 1]
        return self

    def compute_maps(self, images: Tensor) -> _Maps:
        """The pyramid, what the RPN says of each anchor, and what it proposes."""
        features = self.compute_dense(images)
        objectness, deltas, anchors = self._score_anchors(features)
        proposals = self._propose(objectness, deltas, anchors, tuple(images.shape[-2:]))
        return _Maps(features, objectness, deltas, anchors, proposals)

    def compute_losses(self, maps: _Maps, targets: list[Target]) -> dict[str, Tensor]:
        """``loss_objectness``, ``loss_rpn_box_reg``, ``loss_classifier``, ``loss_box_reg`` and ``loss_mask``."""
        targets = [self._drawn(target) for target in targets]
        return {
            **self._rpn_losses(maps.objectness, maps.deltas, maps.anchors, targets),
            **self._roi_losses(maps.features, maps.proposals, targets),
        }

    def compute_dense(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid alone: how many boxes and masks the heads compute depends on what is found."""
        return self.fpn(self.features(images))

    def find_instances(self, dense: dict[str, Tensor], size: tuple[int, int]) -> list[SparseInstances]:
        """Detections, suppressed by their boxes, with their masks."""
        return self.mask_head.segment(dense, *self.detect(dense, size), size, self.mask_threshold)

    def detect(self, features: dict[str, Tensor], size: tuple[int, int]) -> tuple[list[Tensor], list[Tensor]]:
        """Boxes ``(N, 4)`` and scores ``(N,)`` of each image of a batch, surest first."""
        proposals = self._propose(*self._score_anchors(features), size)
        logits, deltas = self._look_at(features, proposals)
        sizes = [size] * len(proposals)
        return self.roi_heads.postprocess_detections(logits, deltas, proposals, sizes)[:2]

    def _score_anchors(self, features: dict[str, Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Objectness ``(B, A)``, box deltas ``(B, A, 4)`` and the anchors ``(a, 4)`` of each level."""
        maps = list(features.values())
        objectness, deltas = concat_box_prediction_layers(*self.rpn.head(maps))
        generator = self.rpn.anchor_generator
        generator.set_cell_anchors(torch.float32, maps[0].device)
        # torchvision infers strides from sizes, and 250 // 63 is not 4
        anchors = generator.grid_anchors([x.shape[-2:] for x in maps], [(stride, stride) for stride in _STRIDES])
        batch = len(maps[0])
        return objectness.float().view(batch, -1), deltas.float().view(batch, -1, 4), anchors

    def _propose(
        self, objectness: Tensor, deltas: Tensor, anchors: list[Tensor], size: tuple[int, int]
    ) -> list[Tensor]:
        """Proposals ``(n, 4)`` of each image."""
        batch = len(deltas)
        boxes = self.rpn.box_coder.decode(deltas.detach().flatten(0, 1), [torch.cat(anchors)] * batch)
        levels = [len(each) for each in anchors]
        return self.rpn.filter_proposals(boxes.view(batch, -1, 4), objectness, [size] * batch, levels)[0]

    def _look_at(self, features: dict[str, Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits ``(R, 2)`` of no nucleus and nucleus, and deltas ``(R, 8)``, for all boxes of a batch."""
        heads = self.roi_heads
        logits, deltas = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, [])))
        return logits.float(), deltas.float()

    def _drawn(self, target: Target) -> Target:
        """The target with at most so many instances that count."""
        weights = target["weights"]
        if (weights > 0).sum() <= self.max_instances:
            return target
        chance = torch.rand_like(weights) * (weights > 0)
        return Target(**{**target, "weights": weights * (chance >= chance.topk(self.max_instances).values[-1])})

    def _sample(self, boxes: Tensor, target: Target, stage: RegionProposalNetwork | RoIHeads) -> _Samples:
        """Match boxes ``(K, 4)`` to instances and draw those that a stage learns from."""
        matched = boxes.new_full((len(boxes),), Matcher.BELOW_LOW_THRESHOLD, dtype=torch.long)
        overlap = box_iou(target["boxes"], boxes)
        if len(overlap):
            matched = stage.proposal_matcher(overlap)
        nucleus, instance = matched >= 0, matched.clamp(min=0)
        weights = torch.where(nucleus, F.pad(target["weights"], (0, 1))[instance], 1.0)
        void = (matched == Matcher.BETWEEN_THRESHOLDS) | (weights == 0)
        settled = self.settled(target)
        if not settled.all():
            void |= ~nucleus & _touches(boxes, ~settled) & ~_near_misses(overlap, target["weights"])
        drawn = stage.fg_bg_sampler([nucleus.float().masked_fill(void, -1)])
        index = (drawn[0][0] | drawn[1][0]).nonzero().squeeze(1)
        return _Samples(boxes[index], index, instance[index], nucleus[index], weights[index])

    def _rpn_losses(
        self, objectness: Tensor, deltas: Tensor, anchors: list[Tensor], targets: list[Target]
    ) -> dict[str, Tensor]:
        boxes = torch.cat(anchors)
        samples = [self._sample(boxes, target, self.rpn) for target in targets]
        scores, deltas = (
            torch.cat([x[sample.index] for x, sample in zip(part, samples, strict=True)])
            for part in (objectness, deltas)
        )
        nucleus = torch.cat([sample.nucleus for sample in samples])
        errors = F.binary_cross_entropy_with_logits(scores, nucleus.float(), reduction="none")
        objectness_loss, moved = _weighted(self.rpn, errors, deltas[nucleus], samples, targets)
        return {"loss_objectness": objectness_loss, "loss_rpn_box_reg": moved}

    def _roi_losses(
        self, features: dict[str, Tensor], proposals: list[Tensor], targets: list[Target]
    ) -> dict[str, Tensor]:
        # the true boxes are among the proposals, as in Faster R-CNN
        samples = [
            self._sample(torch.cat([boxes, target["boxes"]]), target, self.roi_heads)
            for boxes, target in zip(proposals, targets, strict=True)
        ]
        logits, deltas = self._look_at(features, [sample.boxes for sample in samples])
        nucleus = torch.cat([sample.nucleus for sample in samples])
        errors = F.cross_entropy(logits, nucleus.long(), reduction="none")
        classifier_loss, moved = _weighted(self.roi_heads, errors, deltas[nucleus, 4:], samples, targets)
        boxes = [sample.boxes[sample.nucleus] for sample in samples]
        loss_mask = self.mask_head.loss(
            self.mask_head(features, boxes),
            boxes,
            [target["masks"] for target in targets],
            [sample.instance[sample.nucleus] for sample in samples],
            torch.cat([sample.weights[sample.nucleus] for sample in samples]),
        )
        return {"loss_classifier": classifier_loss, "loss_box_reg": moved, "loss_mask": loss_mask}


class _Maps(NamedTuple):
    """What is computed of a batch of images without their targets.

    Attributes:
        features: the pyramid's levels.
        objectness: ``(B, A)`` of all anchors.
        deltas: ``(B, A, 4)`` of their boxes.
        anchors: ``(a, 4)`` of each level.
        proposals: ``(n, 4)`` of each image.
    """

    features: dict[str, Tensor]
    objectness: Tensor
    deltas: Tensor
    anchors: list[Tensor]
    proposals: list[Tensor]


class _Samples(NamedTuple):
    """S boxes of an image that a stage learns from.

    Attributes:
        boxes: ``(S, 4)``.
        index: ``(S,)``, which of the boxes that were offered they are.
        instance: ``(S,)``, the one that each is for; any where it is background.
        nucleus: bool ``(S,)``.
        weights: ``(S,)``, 1 where it is background.
    """

    boxes: Tensor
    index: Tensor
    instance: Tensor
    nucleus: Tensor
    weights: Tensor


def _weighted(
    stage: RegionProposalNetwork | RoIHeads,
    errors: Tensor,
    deltas: Tensor,
    samples: list[_Samples],
    targets: list[Target],
) -> tuple[Tensor, Tensor]:
    """A stage's two losses, over all samples of a batch.

    Args:
        stage: whose coder encodes boxes.
        errors: ``(S,)`` of the classification.
        deltas: ``(F, 4)`` of the samples that are nuclei.
        samples: of each image.
        targets: of each image.
    """
    wanted = [
        stage.box_coder.encode_single(target["boxes"][sample.instance[sample.nucleus]], sample.boxes[sample.nucleus])
        for sample, target in zip(samples, targets, strict=True)
    ]
    weights = torch.cat([sample.weights for sample in samples])
    nucleus = torch.cat([sample.nucleus for sample in samples])
    shifts = F.smooth_l1_loss(deltas, torch.cat(wanted), beta=_BETA, reduction="none").sum(1)
    count = max(len(errors), 1)
    return (errors * weights).sum() / count, (shifts * weights[nucleus]).sum() / count


def _near_misses(overlap: Tensor, weights: Tensor) -> Tensor:
    """Bool ``(K,)``, whether boxes overlap an instance that counts, and less any that does not; of ``(N, K)`` IoUs."""
    counts = weights > 0
    best, other = (F.pad(overlap[each], (0, 0, 0, 1)).amax(0) for each in (counts, ~counts))
    return (best >= _NEAR) & (best > other)


def _touches(boxes: Tensor, area: Tensor) -> Tensor:
    """Bool ``(K,)``: whether a box ``(K, 4)`` has a pixel, be it in part, of an area ``(H, W)``."""
    total = F.pad(area.long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    most = boxes.new_tensor([area.shape[1], area.shape[0]])
    x0, y0 = boxes[:, :2].floor().clamp(min=0).minimum(most).long().unbind(1)
    x1, y1 = boxes[:, 2:].ceil().clamp(min=0).minimum(most).long().unbind(1)
    return total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0] > 0
