"""Agreement of the foregrounds of instance maps: IoU, and the Hausdorff distance of the outlines.

Next to the metrics of instances these say little of nuclei that were merged or split. They are here because papers on
nuclei report them, at times under other names: an "AJI" of masks instead of instances is :class:`ForegroundIoU`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from monai.config import NdarrayOrTensor
from monai.utils import MetricReduction, convert_to_numpy
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from monai_ext.base.errors import InputError
from monai_ext.metrics.instance import InstanceMetric, OverlapMetric, Overlaps

__all__ = ["ForegroundHausdorff", "ForegroundIoU", "hausdorff_distance", "outline_distances"]


class ForegroundIoU(OverlapMetric):
    """Intersection over union of the pixels of any instance.

    Both maps empty: 1. Only one of them empty: 0. The buffer holds one value per image, (B, 1).

    Args:
        reduction: as in MONAI; default: mean over images.

    Examples:
        >>> from monai_ext.metrics import ForegroundIoU
        >>> true = torch.zeros(1, 1, 20, 20, dtype=torch.int64)
        >>> true[..., 5:10, 5:10] = 1
        >>> metric = ForegroundIoU()
        >>> _ = metric(true.roll(3, dims=-1), true)
        >>> metric.aggregate().item()  # 10 of 40 px
        0.25
    """

    def __init__(self, reduction: MetricReduction | str = MetricReduction.MEAN) -> None:
        super().__init__((1,), reduction)

    @staticmethod
    def score(overlaps: Overlaps) -> torch.Tensor:
        """The IoU, ``(1,)``."""
        shared = overlaps.area.sum()
        union = overlaps.pred_area.sum() + overlaps.true_area.sum() - shared
        return torch.where(union == 0, 1.0, shared.double() / union.clamp(min=1)).reshape(1)


class ForegroundHausdorff(InstanceMetric):
    """Hausdorff distance, full or partial, between the outlines of two foregrounds, in px.

    Huttenlocher et al. 1993 (doi:10.1109/34.232073): of the pixels of either outline, how far the worst one lies from
    the other outline; partial (section II-C there), how far the one of rank ``quantile`` lies, so that a share of
    stray pixels costs nothing. The larger one of the two directions counts. The outline is every pixel of an instance
    that has a neighbour (of four) outside all instances or lies at the image's edge; nuclei that touch share one. Where
    both maps have pixels the value is that of ``monai.metrics.HausdorffDistanceMetric``, ``percentile`` being 100 times
    the quantile.

    Both maps empty: 0. Only one of them empty: there is no distance, so NaN, which MONAI's reductions leave out
    (``get_buffer`` and ``aggregate("none")`` show how often). MONAI's own metric has NaN where both are empty, and
    where one is infinity, with a percentile NaN. The buffer holds one value per image, (B, 1).

    Args:
        quantile: rank of the distance in each direction, above 0; 1 is the full distance, .6 what the release of
            Cyclic Learning reports. Between two ranks it is interpolated.
        reduction: as in MONAI; default: mean over the images that have a distance.

    Raises:
        InputError: a quantile outside (0, 1].

    Examples:
        >>> from monai_ext.metrics import ForegroundHausdorff
        >>> true = torch.zeros(1, 1, 20, 20, dtype=torch.int64)
        >>> true[..., 5:10, 5:10] = 1
        >>> metric = ForegroundHausdorff()
        >>> _ = metric(true.roll(3, dims=-1), true)
        >>> metric.aggregate().item()
        3.0
    """

    def __init__(self, quantile: float = 1.0, reduction: MetricReduction | str = MetricReduction.MEAN) -> None:
        super().__init__((1,), reduction)
        if not 0 < quantile <= 1:
            raise InputError("quantile", "a number above 0, at most 1", repr(quantile))
        self.quantile = quantile

    def _score(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        distance = hausdorff_distance(outline_distances(pred[0], true[0]), self.quantile)
        return torch.tensor([distance], dtype=torch.float64)


def outline_distances(pred: NdarrayOrTensor, true: NdarrayOrTensor) -> tuple[np.ndarray, np.ndarray]:
    """How far each pixel of one foreground's outline is from the other's, in both directions.

    Args:
        pred: instance map or mask ``(H, W)``, 0 is background.
        true: the other one, of the same shape.

    Returns:
        Float64 px: one for each pixel of the outline of ``pred``, and one for each of ``true``, in order. They are
        infinite where the other outline has no pixel.

    Examples:
        >>> from monai_ext.metrics import outline_distances
        >>> of_pred, of_true = outline_distances(np.array([[1, 0, 0, 0, 1]]), np.array([[0, 0, 1, 0, 0]]))
        >>> of_pred.tolist(), of_true.tolist()
        ([2.0, 2.0], [2.0])
    """
    masks = (convert_to_numpy(image) > 0 for image in (pred, true))
    one, other = (np.argwhere(mask & ~binary_erosion(mask)) for mask in masks)
    return cKDTree(other).query(one)[0], cKDTree(one).query(other)[0]


def hausdorff_distance(distances: tuple[np.ndarray, np.ndarray], quantile: float = 1.0) -> float:
    """The Hausdorff distance of :func:`outline_distances`, px; see :class:`ForegroundHausdorff`.

    Examples:
        >>> from monai_ext.metrics import hausdorff_distance, outline_distances
        >>> distances = outline_distances(np.array([[1, 0, 0, 0, 1]]), np.array([[1, 0, 0, 0, 0]]))
        >>> hausdorff_distance(distances), hausdorff_distance(distances, quantile=0.5)
        (4.0, 2.0)
    """
    empty = [not len(way) for way in distances]
    if any(empty):
        return 0.0 if all(empty) else math.nan
    return float(max(np.quantile(way, quantile) for way in distances))
