"""KG Instance: boxes from keypoints that are grouped by a graph, then masks (Yi et al. 2019, arXiv:1907.09140)."""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, clip_boxes_to_image, nms

from monai_ext.instances.sparse import SparseInstances
from monai_ext.instances.targets import Target
from monai_ext.networks.blocks.mask_head import MaskHead
from monai_ext.networks.nets.back_end import InstanceBackEnd

__all__ = ["NucleiKGInstance"]

_STRIDE = 2
_KINDS = 5  # top left, top right, bottom left, bottom right, centre
_KEYPOINTS = "keypoints"
_NEAR = 1.5  # radii around a keypoint that count, whatever else is known
_FAR = 1e6  # px; position of a keypoint out of reach
_EXACT = "donot_use_mm_for_euclid_dist"


class NucleiKGInstance(InstanceBackEnd):
    """Finds the corners and the centre of each nucleus' box, groups them, and segments within the boxes.

    For each of the five kinds of keypoints a heat map says what lies within ``radius`` of one, and from there one
    offset map leads to the keypoint itself and four to the other keypoints of the same nucleus: the keypoint graph,
    in which every two are joined. Heat votes for the place it leads to; peaks of the votes are keypoints. From each
    keypoint the graph leads to where the others should be; those that are there make up a group. A group of three or
    of two opposite corners gives a box.

    Our reading of the paper: keypoints are found at one scale, stride 2, from a feature pyramid, where the original
    does so at four scales of its own decoder, since nuclei differ little in size. All keypoints start a group, and of
    equal boxes the one of the surest group stays, where the original takes the keypoints one after the other; a
    keypoint that is missing counts 0 in the group's score, the mean of five. A side that no corner tells is as far
    from the centre as the opposite one. The mask branch is Mask R-CNN's, and is trained on true boxes moved by up to
    ``jitter`` of their size.

    Weights: the discs around an instance's keypoints and its mask count by its weight, divisors are the numbers of
    pixels and of masks. Pixels of an instance of weight 0 count in no map.

    Unlabelled area: trained as it is, the network takes all that is off the known keypoints for empty
    (``"background"``). With ``"ignore"``, unknown pixels count in no heat map; those within ``radius`` of a known
    keypoint do, and so do those around them, up to ``1.5 * radius`` and in no instance of weight 0: heat that spreads
    there is a near miss.

    Args:
        backbone: see :class:`InstanceBackEnd`.
        weights: see :class:`InstanceBackEnd`.
        unlabelled: ``"background"`` or ``"ignore"``.
        freeze_norm: see :class:`InstanceBackEnd`.
        channels: of the pyramid and the heads.
        radius: of a keypoint's disc, px.
        keypoint_threshold: share of a disc's votes that makes a keypoint.
        score_threshold: less sure groups are left out.
        nms: IoU above which boxes are suppressed.
        mask_threshold: of a pixel's probability.
        max_instances: most instances of an image whose masks are learnt in one step, and most that are found.
        jitter: of the boxes that masks are learnt in.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        weights: str | Path | None = None,
        unlabelled: str = "background",
        freeze_norm: bool = False,
        *,
        channels: int = 256,
        radius: float = 5.0,
        keypoint_threshold: float = 0.2,
        score_threshold: float = 0.3,
        nms: float = 0.5,
        mask_threshold: float = 0.5,
        max_instances: int = 400,
        jitter: float = 0.1,
    ) -> None:
        super().__init__(backbone, weights, unlabelled, freeze_norm)
        self.radius, self.nms, self.jitter, self.max_instances = radius, nms, jitter, max_instances
        self.keypoint_threshold, self.score_threshold = keypoint_threshold, score_threshold
        self.mask_threshold = mask_threshold
        self.fpn = FeaturePyramidNetwork(self.backbone.out_channels, channels)
        self.keypoints = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=4 // _STRIDE, mode="bilinear"),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, _KINDS + 2 * _KINDS**2, 1),
        )
        nn.init.constant_(self.keypoints[-1].bias[:_KINDS], -2.0)  # keypoints are rare
        self.mask_head = MaskHead(channels)

    def compute_maps(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The pyramid, and heat and offsets at stride 2.

        Returns:
            the pyramid's levels, logits ``(B, 5, h, w)``, and ``(B, 5, 5, 2, h, w)`` x, y in units of the radius from
            a cell near a keypoint of the first kind to that of the second kind of the same nucleus.
        """
        return _parts(self.compute_dense(images))

    def compute_dense(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid's levels, and ``keypoints``, heat and offsets at stride 2 as one map."""
        features = self.fpn(self.features(images))
        return {**features, _KEYPOINTS: self.keypoints(features["0"])}

    def compute_losses(
        self, maps: tuple[dict[str, Tensor], Tensor, Tensor], targets: list[Target]
    ) -> dict[str, Tensor]:
        """``loss_keypoint``, ``loss_offset`` (to a cell's own keypoint), ``loss_group`` (to others), ``loss_mask``."""
        features, heat, offsets = maps
        parts = [self._wanted(target, heat.shape[-2:]) for target in targets]
        near, weights, places = (torch.stack(part) for part in zip(*parts, strict=True))
        errors = F.binary_cross_entropy_with_logits(heat, near.float(), reduction="none")

        owned = (weights * near)[:, :, None]
        distance = (offsets - places).abs().mean(3)  # (B, from, to, h, w)
        diagonal = torch.eye(_KINDS, dtype=torch.bool, device=heat.device)[..., None, None]
        count = near.sum().clamp(min=1)
        return {
            "loss_keypoint": (errors * weights).mean(),
            "loss_offset": (distance * owned * diagonal).sum() / count,
            "loss_group": 0.25 * (distance * owned * ~diagonal).sum() / (count * (_KINDS - 1)),
            "loss_mask": self._mask_loss(features, targets),
        }

    def find_instances(self, dense: dict[str, Tensor], size: tuple[int, int]) -> list[SparseInstances]:
        """Boxes of the keypoints' groups, with their masks."""
        features, heat, offsets = _parts(dense)
        groups = [self._boxes(*each, size) for each in zip(heat.sigmoid(), offsets, strict=True)]
        boxes, scores = map(list, zip(*groups, strict=True))
        return self.mask_head.segment(features, boxes, scores, size, self.mask_threshold)

    def _wanted(self, target: Target, shape: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """For one image which cells are near a keypoint, bool ``(5, h, w)``, all weights, and the offsets."""
        cells = _cells(shape, target["boxes"].device)
        far = target["boxes"].new_full((1, _KINDS, 2), _FAR)  # so that there is always a nearest one
        points = torch.cat([_points(target["boxes"]), far])
        distances = (torch.cdist(cells, of_kind, compute_mode=_EXACT) for of_kind in points.unbind(1))
        nearest = torch.stack([each.argmin(1) for each in distances])  # (5, hw)
        places = points[nearest] - cells[:, None]  # (5, hw, 5, 2), to all keypoints of the nucleus
        distance = torch.stack([places[kind, :, kind].norm(dim=1) for kind in range(_KINDS)])
        near = distance <= self.radius
        places = torch.where(near[..., None, None], places / self.radius, 0.0)

        settled = self.settled(target)
        rows, cols = (_STRIDE * cell - side for cell, side in zip(shape, settled.shape, strict=True))
        unsettled = F.pad((~settled).float(), (0, cols, 0, rows), value=1.0)
        free = 1 - F.max_pool2d(unsettled[None], _STRIDE).view(1, -1)
        weights = F.pad(target["weights"], (0, 1))[nearest]
        missed = F.pad(target["masks"][target["weights"] == 0].any(0).float(), (0, cols, 0, rows), value=1.0)
        missed = F.max_pool2d(missed[None], _STRIDE).view(1, -1) > 0
        around = (distance <= _NEAR * self.radius) & (weights > 0) & ~missed
        weights = torch.where(near, weights, torch.where(around, 1.0, free))
        return near.view(-1, *shape), weights.view(-1, *shape), places.permute(0, 2, 3, 1).unflatten(-1, shape)

    def _mask_loss(self, features: dict[str, Tensor], targets: list[Target]) -> Tensor:
        chosen, boxes = [], []
        for target in targets:
            counts = (target["weights"] > 0).nonzero().squeeze(1)
            index = counts[torch.randperm(len(counts), device=counts.device)[: self.max_instances]]
            box = target["boxes"][index]
            side = (box[:, 2:] - box[:, :2]).repeat(1, 2)
            chosen.append(index)
            boxes.append(box + side * self.jitter * (2 * torch.rand_like(box) - 1))
        return self.mask_head.loss(
            self.mask_head(features, boxes),
            boxes,
            [target["masks"] for target in targets],
            chosen,
            torch.cat([target["weights"][index] for target, index in zip(targets, chosen, strict=True)]),
        )

    def _boxes(self, heat: Tensor, offsets: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Boxes ``(N, 4)`` and scores ``(N,)`` of one image from its heat and offsets."""
        shape = tuple(heat.shape[-2:])
        # where each cell points, (from, to, hw, 2) px
        leads = _cells(shape, heat.device) + self.radius * offsets.flatten(-2).transpose(-1, -2)
        destinations = torch.stack([leads[kind, kind] for kind in range(_KINDS)])
        votes = self._votes(heat.flatten(1), destinations, shape)
        peak = (votes == F.max_pool2d(votes[None], 3, stride=1, padding=1)[0]) & (votes > self.keypoint_threshold)
        peaks = [kind.flatten().nonzero().squeeze(1) for kind in peak]  # cells
        places = [destinations[kind, cells] for kind, cells in enumerate(peaks)]
        sure = [votes[kind].flatten()[cells].clamp(max=1) for kind, cells in enumerate(peaks)]
        # each keypoint starts a group: of each kind what is there where it leads to
        groups = [self._group(leads[kind, :, cells], places, sure) for kind, cells in enumerate(peaks)]
        points, scores = (torch.cat(part, dim=1).transpose(0, 1) for part in zip(*groups, strict=True))
        boxes, whole = _group_boxes(points, scores > 0)
        boxes, scores = clip_boxes_to_image(boxes, size), scores.mean(1)
        whole &= (boxes[:, 2:] - boxes[:, :2] >= 1).all(1) & (scores >= self.score_threshold)
        boxes, scores = boxes[whole], scores[whole]
        keep = nms(boxes, scores, self.nms)[: self.max_instances]
        return boxes[keep], scores[keep]

    def _group(self, wanted: Tensor, places: list[Tensor], scores: list[Tensor]) -> tuple[Tensor, Tensor]:
        """For wanted places ``(5, K, 2)`` the nearest keypoints, and their scores ``(5, K)``, 0 if out of reach."""
        points, sure = [], []
        for one, keypoints, score in zip(wanted, places, scores, strict=True):
            there = torch.cat([keypoints, keypoints.new_full((1, 2), _FAR)])
            distance, nearest = torch.cdist(one, there, compute_mode=_EXACT).min(1)
            points.append(there[nearest])
            sure.append(torch.where(distance <= self.radius + 1, F.pad(score, (0, 1))[nearest], 0.0))
        return torch.stack(points), torch.stack(sure)

    def _votes(self, heat: Tensor, places: Tensor, shape: tuple[int, int]) -> Tensor:
        """Heat ``(5, hw)`` gathered where it leads to, ``(5, hw, 2)`` px, as a share of a disc, ``(5, h, w)``."""
        cell = (places / _STRIDE).floor().long()
        most = cell.new_tensor([shape[1] - 1, shape[0] - 1])
        near = ((cell >= -1) & (cell <= most + 1)).all(-1)  # a box that ends with the image has its corner beyond
        col, row = cell.clamp(min=0).minimum(most).unbind(-1)
        votes = torch.zeros_like(heat).scatter_add_(1, row * shape[1] + col, heat * near).view(-1, 1, *shape)
        # places are no whole cells: votes of the next cells count half
        blurred = F.avg_pool2d(F.avg_pool2d(F.pad(votes, (1,) * 4), 2, stride=1), 2, stride=1)[:, 0]
        return 4 * blurred / (math.pi * (self.radius / _STRIDE) ** 2)


def _parts(dense: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Features, heat and offsets, see :meth:`NucleiKGInstance.compute_maps`."""
    features = dict(dense)
    heat, offsets = features.pop(_KEYPOINTS).float().split([_KINDS, 2 * _KINDS**2], dim=1)
    return features, heat, offsets.unflatten(1, (_KINDS, _KINDS, 2))


def _cells(shape: tuple[int, int], device: torch.device) -> Tensor:
    """Centres of all cells, ``(h * w, 2)`` x, y in px."""
    row, col = torch.meshgrid(*(torch.arange(side, device=device) for side in shape), indexing="ij")
    return (torch.stack([col, row], dim=-1).view(-1, 2) + 0.5) * _STRIDE


def _points(boxes: Tensor) -> Tensor:
    """The keypoints of boxes ``(N, 4)``: ``(N, 5, 2)`` x, y."""
    x0, y0, x1, y1 = boxes.unbind(1)
    x = torch.stack([x0, x1, x0, x1, (x0 + x1) / 2], dim=1)
    y = torch.stack([y0, y0, y1, y1, (y0 + y1) / 2], dim=1)
    return torch.stack([x, y], dim=2)


def _group_boxes(points: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes of groups.

    Args:
        points: ``(K, 5, 2)`` x, y.
        present: bool ``(K, 5)``.

    Returns:
        ``(K, 4)``, and bool ``(K,)``, whether the group tells one.
    """
    two = present.new_tensor([[1, 0, 0, 1, 0], [0, 1, 1, 0, 0]])
    enough = (present.sum(1) >= 3) | (present[:, None] | ~two).all(2).any(1)
    left, right, top, bottom = ([0, 2], [1, 3], [0, 1], [2, 3])
    centre = torch.where(present[:, 4:], points[:, 4], torch.nan)
    sides = []
    for axis, (low, high) in enumerate(((left, right), (top, bottom))):
        first = torch.where(present[:, low], points[:, low, axis], torch.inf).amin(1)
        last = torch.where(present[:, high], points[:, high, axis], -torch.inf).amax(1)
        middle = 2 * centre[:, axis]
        sides.append((first.where(first.isfinite(), middle - last), last.where(last.isfinite(), middle - first)))
    boxes = torch.stack([sides[0][0], sides[1][0], sides[0][1], sides[1][1]], dim=1)
    told = boxes.isfinite().all(1)
    return boxes.where(told[:, None], 0.0), enough & told
