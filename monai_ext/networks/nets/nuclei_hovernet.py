"""HoVer-Net over a backbone that is shared (Graham et al. 2019)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from monai.apps.pathology.losses import HoVerNetLoss
from monai.networks.nets import HoVerNet
from monai.utils import HoVerNetBranch
from torch import Tensor, nn

from monai_ext.instances.hover import hover_instances, hover_maps
from monai_ext.instances.sparse import SparseInstances
from monai_ext.instances.targets import Target
from monai_ext.networks.nets.back_end import InstanceBackEnd

__all__ = ["NucleiHoVerNet"]

_WIDTHS = (256, 512, 1024, 1024)  # of MONAI's decoder, fine to coarse
_FINE = 64
_RIM = 2  # px
_SURE = 20.0  # a logit whose cross-entropy is 0


class NucleiHoVerNet(InstanceBackEnd):
    """MONAI's HoVer-Net decoders and loss on the features of a shared backbone.

    MONAI's network has its own encoder, a ResNet-50 whose first layers do not shrink the image, and takes no other.
    Here the two decoder branches, MONAI's modules, run on the maps of the backbone instead, so of strides 32 to 4
    where the original has 8 to 1; 1 x 1 convolutions fit the widths where they differ (for ResNet-50 and deeper only
    the bottleneck, as in the original). Two convolutions of the image itself bring in the outlines at full resolution
    before each branch's last layer. Unlike MONAI's, the network takes images of any size.

    Weights: the gradient that reaches a pixel's output is multiplied by the weight of its instance. For
    cross-entropy and the squared errors, this is the gradient of a weighted sum over pixels; the value of the loss
    does not show it. Pixels of weight 0 count as predicted correctly. Where masks overlap, a pixel is the
    earlier one's.

    Unlabelled area: trained as it is, HoVer-Net takes every pixel without a mask for background, in all terms of its
    loss, and unlike Mask R-CNN it uses every pixel. That is ``"background"``. With ``"ignore"``, unknown pixels
    have weight 0, but for a rim of 2 px around each instance that counts, or growing beyond it would cost nothing.

    Args:
        backbone: see :class:`InstanceBackEnd`.
        weights: see :class:`InstanceBackEnd`.
        unlabelled: ``"background"`` or ``"ignore"``.
        freeze_norm: see :class:`InstanceBackEnd`.
        threshold: a pixel of a higher probability is nucleus.
        min_size: smaller nuclei are left out, px.

    Raises:
        InputError: see :class:`InstanceBackEnd`.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        weights: str | Path | None = None,
        unlabelled: str = "background",
        freeze_norm: bool = False,
        *,
        threshold: float = 0.5,
        min_size: int = 10,
    ) -> None:
        super().__init__(backbone, weights, unlabelled, freeze_norm)
        self.threshold, self.min_size = threshold, min_size
        self.criterion = HoVerNetLoss()
        whole = HoVerNet(mode=HoVerNet.Mode.FAST, decoder_padding=True)
        self.nuclei, self.distances = whole.nucleus_prediction, whole.horizontal_vertical
        self.laterals = nn.ModuleList(
            nn.Identity() if width == wanted else nn.Conv2d(width, wanted, 1, bias=False)
            for width, wanted in zip(self.backbone.out_channels, _WIDTHS, strict=True)
        )
        self.outlines = nn.Sequential(
            nn.Conv2d(3, _FINE, 3, padding=1, bias=False),
            nn.BatchNorm2d(_FINE),
            nn.ReLU(inplace=True),
            nn.Conv2d(_FINE, _FINE, 3, padding=1, bias=False),
        )

    def compute_maps(self, images: Tensor) -> dict[str, Tensor]:
        """Logits ``(B, 2, H, W)`` of background and nucleus, and distances ``(B, 2, H, W)``, under MONAI's names."""
        features = [lateral(x) for lateral, x in zip(self.laterals, self.features(images).values(), strict=True)]
        outlines = self.outlines(images)
        return {
            HoVerNetBranch.NP.value: _decode(self.nuclei, features, outlines),
            HoVerNetBranch.HV.value: _decode(self.distances, features, outlines),
        }

    def compute_losses(self, maps: dict[str, Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """``loss_hover``: the sum of MONAI's four terms."""
        instances, weights = (torch.stack(part) for part in zip(*map(self._painted, targets), strict=True))
        nucleus = torch.stack([instances == 0, instances > 0], dim=1).float()
        distances = torch.stack([hover_maps(each) for each in instances])
        wanted = {HoVerNetBranch.NP.value: nucleus, HoVerNetBranch.HV.value: distances}
        right = {HoVerNetBranch.NP.value: (2 * nucleus - 1) * _SURE, HoVerNetBranch.HV.value: distances}
        predictions = {name: _counted(x, right[name], weights[:, None]) for name, x in maps.items()}
        return {"loss_hover": self.criterion(predictions, wanted).as_subclass(Tensor)}

    def find_instances(self, dense: dict[str, Tensor], _: tuple[int, int]) -> list[SparseInstances]:
        """Nuclei by their maps; a nucleus' score is the mean probability of its pixels."""
        probability = dense[HoVerNetBranch.NP.value].softmax(1)[:, 1]
        nuclei = []
        for nucleus, distances in zip(probability, dense[HoVerNetBranch.HV.value], strict=True):
            arrays = (x.cpu().numpy() for x in (nucleus, distances))
            instances = hover_instances(*arrays, threshold=self.threshold, min_size=self.min_size)
            nuclei.append(SparseInstances.from_map(torch.from_numpy(instances).to(nucleus.device), nucleus))
        return nuclei

    def _painted(self, target: Target) -> tuple[Tensor, Tensor]:
        """Instances, int32 ``(H, W)``, and the weights of the pixels, ``(H, W)``."""
        painted, which = SparseInstances.from_masks(target["masks"]).to_map()
        weights = F.pad(target["weights"][which], (1, 0))[painted[0].long()]
        return painted[0], torch.where(painted[0] > 0, weights, (self.settled(target) | self.rim(target, _RIM)).float())


def _counted(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """The prediction, its gradient times the weights; the target where the weight is 0."""
    return torch.where(weights > 0, predicted.detach(), target) + weights * (predicted - predicted.detach())


def _decode(branch: nn.Module, features: list[Tensor], outlines: Tensor) -> Tensor:
    """One branch of MONAI's decoder over maps from fine to coarse, ``(B, 2, H, W)``."""
    *skips, x = features
    finest, *between = skips
    for block, skip in zip(branch.decoder_blocks, reversed(between), strict=True):
        x = block(_enlarged(x, skip) + skip)
    narrow, last = branch.output_features
    return last(_enlarged(narrow(_enlarged(x, finest) + finest), outlines) + outlines).float()


def _enlarged(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)
