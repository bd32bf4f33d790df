"""A U-Net over a shared backbone that learns nuclei and the seams between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.instances.parting import grow_parts, split_touching
from monai_ext.instances.sparse import SparseInstances
from monai_ext.instances.targets import Target
from monai_ext.networks.blocks.unet_decoder import UNetDecoder
from monai_ext.networks.nets.back_end import InstanceBackEnd

__all__ = ["NucleiUNet"]

_BACKGROUND, _INSIDE, _SEAM = range(3)
_RIM = 2  # px


class NucleiUNet(InstanceBackEnd):
    """Background, inside of a nucleus, or seam to the next one: a class for each pixel, by a :class:`UNetDecoder`.

    A seam is what of a nucleus has a pixel of another one beside it. So where nuclei touch there is a line between
    their insides, and where none touches there is no seam. Few pixels are seams, but they decide what is one nucleus:
    they count ``seam_weight`` times in the cross-entropy. To it are added the soft Dice losses of nucleus (inside or
    seam) and of inside. To find nuclei, what is surely inside is parted at its waists
    (:func:`~monai_ext.instances.split_touching`), and the parts grow until they fill the nuclei; pieces too thin to
    have an inside are nuclei too.

    Weights: a pixel counts as much as its instance. Where masks overlap, a pixel is the earlier one's.

    Unlabelled area is background, or with ``unlabelled="ignore"`` unknown pixels do not count, but for a rim of 2 px
    around each instance that does, or growing beyond it would cost nothing.

    Args:
        backbone: see :class:`InstanceBackEnd`.
        weights: see :class:`InstanceBackEnd`.
        unlabelled: ``"background"`` or ``"ignore"``.
        freeze_norm: see :class:`InstanceBackEnd`.
        seam_weight: of a seam's pixels, at least 0.
        threshold: a pixel of a higher probability, of inside and seam together, is nucleus.
        inside_threshold: a pixel whose share of inside is higher is surely inside.
        sigma: of the Gaussian that smooths the distances by which the insides are parted, px.
        depth: of the waist that parts, px.
        min_size: smaller nuclei are left out, px.

    Raises:
        InputError: a negative ``seam_weight``; see :class:`InstanceBackEnd`.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        weights: str | Path | None = None,
        unlabelled: str = "background",
        freeze_norm: bool = False,
        *,
        seam_weight: float = 4.0,
        threshold: float = 0.5,
        inside_threshold: float = 0.6,
        sigma: float = 2.0,
        depth: float = 1.0,
        min_size: int = 10,
    ) -> None:
        super().__init__(backbone, weights, unlabelled, freeze_norm)
        if not seam_weight >= 0:
            raise InputError("seam_weight", "a number of at least 0", repr(seam_weight))
        self.seam_weight, self.threshold, self.inside_threshold = float(seam_weight), threshold, inside_threshold
        self.sigma, self.depth, self.min_size = sigma, depth, min_size
        self.decoder = UNetDecoder(self.backbone.out_channels)
        self.head = nn.Conv2d(self.decoder.out_channels, 3, 1)

    def compute_maps(self, images: Tensor) -> Tensor:
        """Logits ``(B, 3, H, W)`` of background, inside and seam."""
        height, width = images.shape[2:]
        images = self.backbone.lengthen(images)
        return self.head(self.decoder(images, list(self.features(images).values())))[:, :, :height, :width].float()

    def compute_losses(self, maps: Tensor, targets: list[Target]) -> dict[str, Tensor]:
        """``loss_pixels``, the cross-entropy, and ``loss_dice``, the sum of both Dice losses."""
        instances, weights = (torch.stack(part) for part in zip(*map(self._painted, targets), strict=True))
        nucleus, seam = instances > 0, _seams(instances)
        classes = torch.where(seam, _SEAM, torch.where(nucleus, _INSIDE, _BACKGROUND))
        each = F.cross_entropy(maps, classes, reduction="none")
        heavy = weights * torch.where(seam, self.seam_weight, 1.0)
        probability = maps.softmax(1)
        dice = _dice_loss(1 - probability[:, _BACKGROUND], nucleus, weights)
        dice = dice + _dice_loss(probability[:, _INSIDE], nucleus & ~seam, weights)
        pixels = (each * heavy).sum() / heavy.sum().clamp(min=1)
        return {"loss_pixels": pixels.as_subclass(Tensor), "loss_dice": dice.as_subclass(Tensor)}

    def find_instances(self, dense: Tensor, _: tuple[int, int]) -> list[SparseInstances]:
        """Nuclei by their maps; a nucleus' score is the mean probability of its pixels."""
        probability = dense.softmax(1)
        nuclei = []
        for nucleus, inside in zip(1 - probability[:, _BACKGROUND], probability[:, _INSIDE], strict=True):
            instances = self._parted(nucleus.cpu().numpy(), inside.cpu().numpy())
            nuclei.append(SparseInstances.from_map(torch.from_numpy(instances).to(dense.device), nucleus))
        return nuclei

    def _parted(self, nucleus: np.ndarray, inside: np.ndarray) -> np.ndarray:
        """An instance map, int32 ``(H, W)``."""
        mask = nucleus > self.threshold
        parts = split_touching(mask & (inside > self.inside_threshold), self.sigma, self.depth)
        parts *= (np.bincount(parts.reshape(-1)) >= self.min_size)[parts]
        grown = grow_parts(parts, mask, inside)
        return grown * (np.bincount(grown.reshape(-1)) >= self.min_size)[grown]

    def _painted(self, target: Target) -> tuple[Tensor, Tensor]:
        """Instances, int32 ``(H, W)``, and the weights of the pixels, ``(H, W)``."""
        painted, which = SparseInstances.from_masks(target["masks"]).to_map()
        weights = F.pad(target["weights"][which], (1, 0))[painted[0].long()]
        return painted[0], torch.where(painted[0] > 0, weights, (self.settled(target) | self.rim(target, _RIM)).float())


def _seams(instances: Tensor) -> Tensor:
    """Bool ``(B, H, W)``: the pixels of an instance that have one of another instance among their eight neighbours."""
    ids = instances[:, None].double()  # whole numbers stay exact
    highest = F.max_pool2d(ids, 3, stride=1, padding=1)
    lowest = -F.max_pool2d(-ids.where(ids > 0, torch.inf), 3, stride=1, padding=1)
    return ((ids > 0) & ((highest > ids) | (lowest < ids)))[:, 0]


def _dice_loss(probability: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Soft Dice loss over the batch, each pixel as often as its weight."""
    shared = (probability * target * weights).sum()
    return 1 - (2 * shared + 1) / ((probability * weights).sum() + (target * weights).sum() + 1)
