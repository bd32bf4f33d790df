"""From the pixels of a tile to its cells: a network, instances, measurements, classes."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.errors import InputError
from monai_ext.data.cells import Cells, Grid, find_cells
from monai_ext.formats.measurements import Shapes
from monai_ext.inferers.instances import SLACK, instance_maps
from monai_ext.inferers.windows import MapPredictor
from monai_ext.instances.pieces import whole_instances
from monai_ext.instances.sparse import SparseInstances
from monai_ext.networks.convention import InputConvention
from monai_ext.networks.runtime import RuntimeNetwork
from monai_ext.networks.utils import settings_text
from monai_ext.transforms.instances import NucleusInstances

__all__ = ["CellFinder", "InstanceFinder", "TileFinder"]

_BARE = 0.08  # optical density of the mean colour, against a white of 255, up to which there is bare glass
_BARE_SIDE = 5  # px, of the square whose mean is taken
_MOSTLY_BARE = 0.5  # share of an instance


class TileFinder(MapPredictor):
    """Finds the cells of a slide's tiles, each cell in one tile.

    A tile includes ``margin`` px of its surroundings. The outer part of it is context for the network only; the
    inner ``halo`` px are searched for nuclei, so that those on the tile's border are whole and are separated from
    their neighbours as elsewhere. A tile's cells are those whose centroid is in it, or up to ``slack`` px outside: two
    tiles do not see a nucleus on their border alike to the last bit. Of such versions one has to be dropped.

    What reaches from the tile through the whole halo is cut by the edge of the window. Such pieces are marked,
    wherever their centroid is: the object has to be found again in a window that holds all of it.

    Args:
        network: see the subclass.
        classifier: logits ``(N, C)`` for patches uint8 ``(N, S, S, 3)``, such as
            :class:`~monai_ext.inferers.PatchClassifier`; ``None`` for none.
        class_names: of its C classes.
        patch_size: S, px.
        convention: of the network's input; ``None`` for RGB divided by 255.
        margin: px around a tile; a multiple of ``align``.
        halo: px around a tile in which nuclei are sought; at least twice the largest nucleus.
        align: the network's largest stride; tiles begin at its multiples.
        min_area_um2: smaller cells are left out, see :func:`~monai_ext.instances.whole_instances`; what a window cuts
            is judged when it is whole.
        tolerance: of outlines, px of level 0.
        device: where to compute.
        autocast: float16 on GPUs, bfloat16 on CPUs.

    Attributes:
        slack: px.
        reach: px; centroids of two tiles' versions of one cell are no further apart.
        iou: of two versions' outlines, above it; 0 where nearness is enough.
        rim: px; what is this near to the edge of the window may continue beyond it.

    Raises:
        InputError: a margin that is smaller than the halo or off the network's grid.
    """

    slack, reach, iou, rim = 1, 2, 0.0, 1

    def __init__(
        self,
        network: nn.Module,
        classifier: Callable[[np.ndarray], np.ndarray] | None = None,
        class_names: Sequence[str] = (),
        patch_size: int = 32,
        *,
        convention: InputConvention | None = None,
        margin: int = 128,
        halo: int = 64,
        align: int = 16,
        min_area_um2: float = 0.0,
        tolerance: float = 0.9,
        device: torch.device | str = "cpu",
        autocast: bool = False,
    ) -> None:
        if not min_area_um2 >= 0:
            raise InputError(f"{type(self).__name__} min_area_um2", "a number of at least 0", repr(min_area_um2))
        if not 0 <= halo <= margin or margin % align:
            expected = f"a halo within the margin, the margin a multiple of {align}"
            raise InputError(type(self).__name__, expected, f"halo {halo}, margin {margin}")
        super().__init__(network, 1, margin, convention, device, autocast)
        self.classifier, self.class_names = classifier, tuple(class_names) if classifier else ()
        self.patch_size, self.halo, self.align, self.tolerance = patch_size, halo, align, tolerance
        self.min_area_um2 = min_area_um2

    @abstractmethod
    def found(self, prediction: Tensor, mpp: float) -> tuple[np.ndarray, np.ndarray]:
        """The instances of a tile with its halo, of any size and in any number of pieces.

        Args:
            prediction: of the tile, as :meth:`__call__` gives it.
            mpp: um per px.

        Returns:
            integers ``(h, w)``, 0 is background; float ``(h, w)``, how sure of nucleus each pixel is.
        """

    def cells(
        self, pixels: Tensor, prediction: Tensor, grid: Grid, all_inside: bool = False
    ) -> tuple[Cells, np.ndarray]:
        """The cells of one tile, and the pieces of those that are cut.

        Args:
            pixels: uint8 ``(3, H, W)`` with the margin.
            prediction: of the tile, as :meth:`__call__` gives it.
            grid: where the tile, without halo, lies.
            all_inside: take whatever has a pixel in the tile, wherever its centroid is.

        Returns:
            N cells, and which of them are pieces, ``(N,)`` bool.
        """
        halo, cut = self.halo, self.margin - self.halo
        instances, values = self.found(prediction, grid.mpp)
        image = pixels.permute(1, 2, 0).numpy()[cut : cut + values.shape[0], cut : cut + values.shape[1]]
        corner = tuple(float(start - halo * grid.scale) for start in grid.offset)
        around = replace(grid, offset=corner)
        edge = self._edge(instances.shape, around)
        instances, open_ended = whole_instances(instances, self.min_area_um2 / grid.mpp**2, edge)
        inside = np.zeros_like(open_ended)
        inside[instances[halo : instances.shape[0] - halo, halo : instances.shape[1] - halo]] = True

        def wanted(shapes: Shapes) -> np.ndarray:
            position = np.rint(shapes.centroids) - halo
            inner = np.array(instances.shape) - 2 * halo
            of_tile = ((position >= -self.slack) & (position < inner + self.slack)).all(axis=1)
            return of_tile | (inside & (open_ended | all_inside))[shapes.ids]

        cells = find_cells(
            instances,
            around,
            probability=values,
            image=image,
            classifier=self.classifier,
            class_names=self.class_names,
            patch_size=self.patch_size,
            tolerance=self.tolerance,
            keep=wanted,
        )
        return cells, open_ended[cells.ids]

    def _edge(self, shape: tuple[int, int], grid: Grid) -> np.ndarray:
        """Pixels of a window, bool ``(H, W)``, at an edge beyond which the slide continues."""
        edge = np.zeros(shape, bool)
        for axis, turned in enumerate((edge, edge.T)):
            first, last = grid.offset[axis], grid.offset[axis] + len(turned) * grid.scale
            if first > 0:
                turned[: self.rim] = True
            if grid.limits is None or last < grid.limits[axis]:
                turned[len(turned) - self.rim :] = True
        return edge

    @property
    def fingerprint(self) -> str:
        """All that decides the cells, as text: what decides the map, the instances, the classes."""
        names = ("min_area_um2", "tolerance", "class_names", "slack", "reach", "iou", "rim")
        settings = {name: getattr(self, name) for name in names}
        classes = getattr(self.classifier, "settings", dict)()
        return json.dumps([super().fingerprint, settings, classes], sort_keys=True)


class CellFinder(TileFinder):
    """Finds cells by a map of probabilities; as it is dense, two tiles see the same but for the last bits.

    Args:
        network: logits ``(B, 1, H, W)`` of nucleus for ``(B, 3, H, W)``; of two channels the softmax's second counts.
        instances: from probabilities to instances; its least area is the finder's.
        *args: further arguments of :class:`TileFinder`; the margin is at least half of the network's receptive field
            beyond a nucleus.
        **options: as ``args``.
    """

    def __init__(
        self, network: nn.Module, instances: NucleusInstances | None = None, *args: Any, **options: Any
    ) -> None:
        instances = instances or NucleusInstances()
        super().__init__(network, *args, min_area_um2=instances.keep.min_area_um2, **options)
        self.instances = instances

    def probabilities(self, images: Tensor) -> Tensor:
        """``(B, 1, h, w)`` of nucleus from normalised ``(B, 3, H, W)``: a tile with its halo."""
        logits = self.infer(images, self.network)
        both = logits.shape[1] > 1
        probability = logits.softmax(1)[:, 1:2] if both else logits.sigmoid()
        cut = self.margin - self.halo
        return probability[..., cut : images.shape[2] - cut, cut : images.shape[3] - cut].float()

    def found(self, prediction: Tensor, mpp: float) -> tuple[np.ndarray, np.ndarray]:
        """Instances of a map ``(1, h, w)``, and the map."""
        values = prediction[0].cpu().numpy()
        return self.instances.parted(values, mpp), values

    @property
    def fingerprint(self) -> str:
        """With what decides the instances."""
        settings = {**vars(self.instances), "keep": vars(self.instances.keep)}
        return json.dumps([super().fingerprint, settings], sort_keys=True)


def _share(instances: SparseInstances, where: Tensor) -> Tensor:
    """The share of each instance, ``(N,)``, that is in ``where``, bool ``(H, W)``."""
    within = where.reshape(-1)[instances.pixel].float()
    return within.new_zeros(len(instances)).index_add_(0, instances.owner, within) / instances.area


class InstanceFinder(TileFinder):
    """Finds the nuclei that a network for instances sees, as :class:`~monai_ext.inferers.InstanceInferer` does.

    A tile with its halo is one window. Two windows may see a nucleus differently, so that versions of one are
    recognised by the overlap of their outlines. What lets nearly all light through is no nucleus, whatever the network
    says: fields that are cut from tissue hold no bare glass from which it could learn that.

    Args:
        network: an :class:`~monai_ext.networks.nets.InstanceBackEnd`, or a
            :class:`~monai_ext.networks.RuntimeNetwork` of one.
        halo: px around a tile, at least the diameter of a large nucleus; a multiple of ``align``.
        align: the network's largest stride, px.
        iou: above it, the less sure of two instances is left out.
        **options: further arguments of :class:`TileFinder`.

    Raises:
        InputError: an IoU that is none.
    """

    channels = 2
    slack, rim = SLACK, SLACK
    reach = 24  # discs that are further apart have a radius of 45 px, or a smaller IoU than .5

    def __init__(
        self, network: nn.Module, *, halo: int = 64, align: int = 32, iou: float = 0.5, **options: Any
    ) -> None:
        if not 0 < iou <= 1:
            raise InputError("InstanceFinder iou", "a number above 0, up to 1", repr(iou))
        super().__init__(network, margin=halo, halo=halo, align=align, **options)
        self.iou = iou

    def probabilities(self, images: Tensor) -> Tensor:
        """``(B, 2, H, W)`` from normalised ``(B, 3, H, W)``: the number of each pixel's instance, and its score."""
        return self.infer(images, self._maps)

    def _maps(self, images: Tensor) -> Tensor:
        bare = self._is_bare(images)
        seen = [
            each[_share(each, glass) <= _MOSTLY_BARE]
            for each, glass in zip(self.network.find(images), bare, strict=True)
        ]
        instances, scores = instance_maps([each.suppress(self.iou) for each in seen], self.rim)
        return torch.cat([instances, scores], dim=1)

    def _is_bare(self, images: Tensor) -> Tensor:
        """Bool ``(B, H, W)``: bare glass."""
        light = self.convention.undo(images.float()).mean(1) / 255
        return F.avg_pool2d(light, _BARE_SIDE, 1, _BARE_SIDE // 2, count_include_pad=False) > 10**-_BARE

    def found(self, prediction: Tensor, *_: Any) -> tuple[np.ndarray, np.ndarray]:
        """Instances and scores of a tile."""
        instances, scores = prediction.cpu().numpy()
        return instances.astype(np.int32), scores

    @property
    def fingerprint(self) -> str:
        """With the network's thresholds, which its weights do not tell."""
        network = self.network.network if isinstance(self.network, RuntimeNetwork) else self.network
        return json.dumps([super().fingerprint, settings_text(network)])
