"""The back end of Cyclic Learning: the interface of an instance segmentation network (Zhou et al. 2023, III-B)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.instances.sparse import SparseInstances
from monai_ext.instances.targets import Target, check_targets
from monai_ext.networks.blocks.backbones import Backbone

__all__ = ["InstanceBackEnd"]


class InstanceBackEnd(nn.Module, ABC):
    """A network that learns instances from masks, perhaps incomplete, over a shared backbone.

    A subclass gives :meth:`compute_maps`, :meth:`compute_losses` and :meth:`find_instances`, and :meth:`compute_dense`
    where its maps are more than that. Users call :meth:`losses` to train and :meth:`predict` (dense masks) or
    :meth:`find` (lists of pixels, for large images) to apply it. ``backbone`` is all that crosses to the front end and
    back.

    Args:
        backbone: name of the :class:`~monai_ext.networks.blocks.Backbone`.
        weights: of the backbone, see there.
        unlabelled: what the area is taken for of which a target's ``known`` is ``False``: ``"background"`` (the
            paper's, which trains an ordinary network on the masks it has) or ``"ignore"``: it teaches nothing. Each
            back end says how. What is no nucleus is then learnt from known area alone: some there must be, if only
            in other images.
        freeze_norm: of the backbone, see there.

    Raises:
        InputError: an unknown backbone or choice.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        weights: str | Path | None = None,
        unlabelled: str = "background",
        freeze_norm: bool = False,
    ) -> None:
        super().__init__()
        if unlabelled not in ("background", "ignore"):
            raise InputError("unlabelled", "'background' or 'ignore'", repr(unlabelled))
        self.unlabelled = unlabelled
        self.backbone = Backbone(backbone, weights, freeze_norm)
        self.norms = self.backbone.map_norms()

    @abstractmethod
    def compute_maps(self, images: Tensor) -> Any:
        """All that the losses need of the images, whatever the targets."""

    @abstractmethod
    def compute_losses(self, maps: Any, targets: list[Target]) -> dict[str, Tensor]:
        """Scalar losses by name, for targets that have been checked and are on the images' device."""

    def compute_dense(self, images: Tensor) -> Tensor | dict[str, Tensor]:
        """What instances are found in: maps ``(B, C, h, w)``, one or several by name, computed alike for all images.

        Another engine can compute it (:func:`~monai_ext.networks.with_runtime`), as its steps do not depend on what is
        in the images.
        """
        return self.compute_maps(images)

    @abstractmethod
    def find_instances(self, dense: Any, size: tuple[int, int]) -> list[SparseInstances]:
        """The instances of each image of ``size`` ``H, W``, from what :meth:`compute_dense` gives of the images.

        Called in evaluation mode, without gradients.
        """

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """What to minimise, part by part: the sum of the values is trained.

        Args:
            images: ``(B, 3, H, W)`` float32, normalised as the backbone expects.
            targets: one for each image; images without instances are allowed.

        Returns:
            scalars by name.

        Raises:
            InputError: targets that do not fit the images.
        """
        return self.compute_losses(self.compute_maps(images), check_targets(images, targets))

    @torch.no_grad()
    def find(
        self, images: Tensor, compute: Callable[[Tensor], Tensor | dict[str, Tensor]] | None = None
    ) -> list[SparseInstances]:
        """The instances of each image, surest first; the network's mode and statistics stay as they are.

        Args:
            images: as for :meth:`losses`.
            compute: gives what :meth:`compute_dense` would; ``None`` for this itself.
        """
        compute = compute or self.compute_dense
        training = self.training
        self.eval()
        try:
            found = self.find_instances(compute(images), tuple(images.shape[-2:]))
            return [nuclei.surest_first() for nuclei in found]
        finally:
            self.train(training)

    def predict(self, images: Tensor) -> list[dict[str, Tensor]]:
        """The instances of each image as dense masks, surest first.

        Args:
            images: as for :meth:`losses`.

        Returns:
            for each image ``masks``, bool ``(N, H, W)``; ``scores``, float32 ``(N,)`` in [0, 1]; ``boxes``, float32
            ``(N, 4)`` ``x0, y0, x1, y1`` around the masks.
        """
        return [
            {"masks": nuclei.masks(), "scores": nuclei.scores, "boxes": nuclei.boxes} for nuclei in self.find(images)
        ]

    def forward(self, images: Tensor, *targets: Sequence[Target]) -> Any:
        """:meth:`losses` where targets are given, of several sets of them in a list, else :meth:`predict`.

        The maps of the images are computed once for all sets: eq. 2 has two.
        """
        if not targets:
            return self.predict(images)
        maps = self.compute_maps(images)
        losses = [self.compute_losses(maps, check_targets(images, each)) for each in targets]
        return losses if len(losses) > 1 else losses[0]

    def features(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The backbone's four maps, of strides 4 to 32, normalised where it is a Swin transformer."""
        maps = self.backbone(images).items()
        return OrderedDict((name, norm(x)) for norm, (name, x) in zip(self.norms, maps, strict=True))

    def settled(self, target: Target) -> Tensor:
        """Bool ``(H, W)``: the pixels whose label is known and counts."""
        masks, counts = target["masks"], target["weights"] > 0
        known_area = target["known"]
        rest = ~masks[~counts].any(0)
        if known_area is not None and self.unlabelled == "ignore":
            rest &= known_area
        return rest | masks[counts].any(0)

    def rim(self, target: Target, width: int) -> Tensor:
        """Bool ``(H, W)``: the pixels within so many px of an instance that counts, in none that does not.

        What is beside a known nucleus is not that nucleus, even where nothing else is known: there it ends.
        """
        masks, counts = target["masks"], target["weights"] > 0
        counted = masks[counts].any(0).float()
        wide = F.max_pool2d(counted[None], 2 * width + 1, stride=1, padding=width)[0] > 0
        return wide & ~masks[~counts].any(0)
