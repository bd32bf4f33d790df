"""From the pixels of a tile to its cells: a network, instances, measurements, classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from monai_ext.data.cells import Cells, Grid, find_cells
from monai_ext.errors import InputError
from monai_ext.inferers.windows import MapPredictor
from monai_ext.transforms.instances import NucleusInstances

__all__ = ["CellFinder"]


class CellFinder(MapPredictor):
    """Finds the cells of a slide's tiles, each cell in one tile.

    A tile brings ``margin`` px of its surroundings along. The outer part of it is context for the network only; the
    inner ``halo`` px are looked at for nuclei, so that those on the tile's border are whole and are cut off their
    neighbours as anywhere else. A tile's cells are those whose centroid is in it.

    Args:
        network: logits ``(B, 1, H, W)`` of nucleus for ``(B, 3, H, W)``; of two channels the softmax's second counts.
        instances: from probabilities to instances.
        classifier: logits ``(N, C)`` for patches uint8 ``(N, S, S, 3)``, such as
            :class:`~monai_ext.inferers.PatchClassifier`; ``None`` for none.
        class_names: of its C classes.
        patch_size: S, px.
        mean: of each channel, 0 to 255.
        std: of each channel, 0 to 255.
        margin: px around a tile; at least half of the network's receptive field beyond a nucleus; a multiple of
            ``align``.
        halo: px around a tile in which nuclei are sought; at least twice the largest nucleus.
        align: the network's largest stride; tiles begin at its multiples.
        tolerance: of outlines, px of level 0.
        device: where to compute.
        autocast: float16 on GPUs, bfloat16 on CPUs.

    Raises:
        InputError: a margin that is smaller than the halo or off the network's grid.
    """

    def __init__(
        self,
        network: nn.Module,
        instances: NucleusInstances | None = None,
        classifier: Callable[[np.ndarray], np.ndarray] | None = None,
        class_names: Sequence[str] = (),
        patch_size: int = 32,
        *,
        mean: Sequence[float] = (0, 0, 0),
        std: Sequence[float] = (255, 255, 255),
        margin: int = 128,
        halo: int = 64,
        align: int = 16,
        tolerance: float = 0.9,
        device: torch.device | str = "cpu",
        autocast: bool = False,
    ) -> None:
        if not 0 <= halo <= margin or margin % align:
            expected = f"a halo within the margin, the margin a multiple of {align}"
            raise InputError("CellFinder", expected, f"halo {halo}, margin {margin}")
        super().__init__(network, 1, margin, mean, std, device, autocast)
        self.instances = instances or NucleusInstances()
        self.classifier, self.class_names = classifier, tuple(class_names) if classifier else ()
        self.patch_size, self.halo, self.align, self.tolerance = patch_size, halo, align, tolerance

    def probabilities(self, images: Tensor) -> Tensor:
        """``(B, 1, h, w)`` of nucleus from normalised ``(B, 3, H, W)``: a tile with its halo."""
        logits = self.infer(images, self.network)
        both = logits.shape[1] > 1
        probability = logits.softmax(1)[:, 1:2] if both else logits.sigmoid()
        cut = self.margin - self.halo
        return probability[..., cut : images.shape[2] - cut, cut : images.shape[3] - cut].float()

    def cells(self, pixels: Tensor, probability: Tensor, grid: Grid, slack: int = 0) -> Cells:
        """The cells of one tile.

        Args:
            pixels: uint8 ``(3, H, W)`` with the margin.
            probability: ``(1, h, w)`` with the halo, as :meth:`__call__` gives it.
            grid: where the tile, without halo, lies.
            slack: px by which centroids may lie outside the tile.
        """
        halo, cut = self.halo, self.margin - self.halo
        values = probability[0].cpu().numpy()
        found = self.instances(values, grid.mpp)
        image = pixels.permute(1, 2, 0).numpy()[cut : cut + values.shape[0], cut : cut + values.shape[1]]
        inner = np.array(values.shape) - 2 * halo

        def own(centroids: np.ndarray) -> np.ndarray:
            place = np.rint(centroids) - halo
            return ((place >= -slack) & (place < inner + slack)).all(axis=1)

        corner = tuple(float(at - halo * grid.scale) for at in grid.offset)
        return find_cells(
            found,
            Grid(grid.mpp, grid.scale, corner, grid.limits),
            probability=values,
            image=image,
            classifier=self.classifier,
            class_names=self.class_names,
            patch_size=self.patch_size,
            tolerance=self.tolerance,
            keep=own,
        )

    @property
    def fingerprint(self) -> str:
        """All that decides the cells, as text: what decides the map, the instances, the classes."""
        settings = {name: getattr(self, name) for name in ("tolerance", "class_names")}
        classes = getattr(self.classifier, "settings", dict)()
        return json.dumps([super().fingerprint, settings, vars(self.instances), classes], sort_keys=True)
