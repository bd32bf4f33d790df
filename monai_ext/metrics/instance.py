"""Agreement of instance maps: aggregated Jaccard index, object Dice, panoptic quality.

All three are read from one contingency table (:class:`Overlaps`), so their cost grows with the number of pixels, never
with pixels times instances.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.metrics import do_metric_reduction
from monai.utils import MetricReduction, convert_to_tensor, ensure_tuple

from monai_ext.base.errors import InputError
from monai_ext.metrics.detection import UnevenCumulative

__all__ = [
    "AggregatedJaccardIndex",
    "InstanceMetric",
    "ObjectDice",
    "OverlapMetric",
    "Overlaps",
    "PanopticQuality",
    "instance_map",
    "panoptic_scores",
]


@dataclass(frozen=True)
class Overlaps:
    """Contingency table of two instance maps; instances are numbered from 0 in the order of their ids.

    Attributes:
        pred_area: (P,) int64, pixels of each predicted instance.
        true_area: (T,) int64, pixels of each true instance.
        pred: (K,) int64, predicted instance of each overlapping pair; pairs are ordered by ``true``, then ``pred``.
        true: (K,) int64, true instance of each overlapping pair.
        area: (K,) int64, pixels the two share.

    Examples:
        >>> from monai_ext.metrics.instance import Overlaps
        >>> overlaps = Overlaps.count(torch.tensor([[4, 4, 4, 0]]), torch.tensor([[1, 1, 2, 2]]))
        >>> overlaps.area.tolist(), overlaps.union.tolist()  # of the pairs 4 and 1, 4 and 2
        ([2, 1], [3, 4])
    """

    pred_area: torch.Tensor
    true_area: torch.Tensor
    pred: torch.Tensor
    true: torch.Tensor
    area: torch.Tensor

    @classmethod
    def count(cls, y_pred: torch.Tensor, y: torch.Tensor) -> Overlaps:
        """Count two int64 maps of one shape: 0 is background, ids are any positive numbers."""
        y_pred, y = y_pred.reshape(-1), y.reshape(-1)
        # runs of pixels with the same two ids: far fewer than pixels, and no bound on the ids
        new = (y_pred[1:] != y_pred[:-1]).logical_or_(y[1:] != y[:-1])
        starts = torch.cat([new.new_ones(min(1, len(y))), new]).nonzero().squeeze(1)
        length = torch.diff(starts, append=starts.new_tensor([len(y)]))

        def total(index: torch.Tensor, size: int, of: torch.Tensor = length) -> torch.Tensor:
            return length.new_zeros(size).index_add_(0, index, of)

        pred_ids, pred = y_pred[starts].unique(return_inverse=True)
        true_ids, true = y[starts].unique(return_inverse=True)
        pred_area, true_area = total(pred, len(pred_ids))[pred_ids > 0], total(true, len(true_ids))[true_ids > 0]
        # the background, where there is any, is number 0 and becomes -1
        pred, true = pred - (len(pred_ids) - len(pred_area)), true - (len(true_ids) - len(true_area))
        both = (pred >= 0) & (true >= 0)
        pairs, pair = (true[both] * len(pred_area) + pred[both]).unique(return_inverse=True)
        area = total(pair, len(pairs), length[both])
        columns = max(len(pred_area), 1)
        return cls(pred_area, true_area, pairs % columns, pairs // columns, area)

    @property
    def union(self) -> torch.Tensor:
        """(K,) int64, pixels of either instance of each pair."""
        return self.pred_area[self.pred] + self.true_area[self.true] - self.area

    @staticmethod
    def best(value: torch.Tensor, owner: torch.Tensor, owners: int) -> torch.Tensor:
        """Index of each owner's pair with the largest value, the first such pair on a tie; owners without one drop."""
        largest = value.new_zeros(owners).scatter_reduce_(0, owner, value, "amax")
        tied = (value == largest[owner]).nonzero().squeeze(1)
        first = owner.new_full((owners,), len(value)).scatter_reduce_(0, owner[tied], tied, "amin")
        return first[first < len(value)]


def instance_map(image: Any, channels: int, name: str, device: torch.device | None = None) -> torch.Tensor:
    """``image`` as an int64 tensor of shape (channels, ...).

    Raises:
        InputError: another shape, boolean masks, fractions or negative ids; the message begins with ``name``.

    Examples:
        >>> from monai_ext.metrics.instance import instance_map
        >>> instances = instance_map(np.array([[[0.0, 3.0], [3.0, 9.0]]]), channels=1, name="label")
        >>> instances.dtype, instances.tolist()
        (torch.int64, [[[0, 3], [3, 9]]])
    """
    tensor = convert_to_tensor(image, device=device)
    if tensor.ndim < 2 or tensor.shape[0] != channels:
        raise InputError(name, f"a map of shape ({channels}, H, W)", f"shape {tuple(tensor.shape)}")
    integers = tensor.to(torch.int64)
    if tensor.dtype == torch.bool or (tensor.is_floating_point() and not torch.equal(integers.to(tensor), tensor)):
        raise InputError(name, "integer instance ids, not a mask or probabilities", f"{tensor.dtype} values")
    if tensor.numel() and integers.min() < 0:
        raise InputError(name, "instance ids >= 0", str(integers.min().item()))
    return integers


class InstanceMetric(UnevenCumulative):
    """Scores of pairs of instance maps, image by image; subclasses say what is counted and how it is reduced.

    Args:
        item_shape: shape of what is buffered for each image.
        reduction: as in MONAI.

    Examples:
        >>> from monai_ext.metrics.instance import InstanceMetric
        >>> class CountError(InstanceMetric):
        ...     def _score(self, pred, true):
        ...         return torch.tensor([abs(len(pred.unique()) - len(true.unique()))], dtype=torch.float64)
        >>> metric = CountError(item_shape=(1,), reduction="mean")
        >>> metric(torch.tensor([[[[0, 1, 0, 2, 0, 3]]]]), torch.tensor([[[[0, 1, 1, 1, 0, 2]]]])).tolist()
        [[1.0]]
    """

    channels = 1

    def __init__(self, item_shape: Sequence[int], reduction: MetricReduction | str) -> None:
        super().__init__(item_shape)
        self.reduction = reduction

    def __call__(self, y_pred: Any, y: Any) -> torch.Tensor:
        """Score one batch.

        Args:
            y_pred: predicted instance maps, batched (B, C, H, W) or a list of (C, H, W); torch or numpy, integers (or
                floats that hold integers), 0 is background, ids need not be consecutive. C is 1, or 2 for
                :class:`PanopticQuality` with classes. Further spatial dimensions are welcome.
            y: true instance maps, likewise.

        Returns:
            What is buffered for each image, float64 on the CPU, first dimension B.

        Raises:
            InputError: maps of different numbers or shapes, boolean masks, fractions or negative ids.
        """
        name = type(self).__name__
        if len(y_pred) != len(y):
            raise InputError(name, "as many predictions as labels", f"{len(y_pred)} and {len(y)}")
        values = []
        for predicted, labelled in zip(y_pred, y, strict=True):
            pred = instance_map(predicted, self.channels, f"{name} prediction")
            true = instance_map(labelled, self.channels, f"{name} label", pred.device)
            if pred.shape != true.shape:
                raise InputError(name, f"a prediction of the label's shape {tuple(true.shape)}", str(tuple(pred.shape)))
            values.append(self._score(pred, true).cpu())
        scores = torch.stack(values) if values else self._no_items
        self.extend(scores)
        return scores

    @abstractmethod
    def _score(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        """Float64 row to buffer for one image, of int64 maps ``(C, H, W)``."""

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor:
        """Reduce over the images of all ranks.

        Args:
            reduction: as in MONAI, default the constructor's; ``"mean"`` is the mean over images, ``"none"`` returns
                the (B, 1) values of the images.
        """
        return do_metric_reduction(self.get_buffer(), reduction or self.reduction)[0]


class OverlapMetric(InstanceMetric):
    """A metric that the overlaps of the two maps' instances decide.

    Examples:
        >>> from monai_ext.metrics.instance import OverlapMetric
        >>> class Missed(OverlapMetric):
        ...     @staticmethod
        ...     def score(overlaps):
        ...         return torch.tensor([len(overlaps.true_area) - len(overlaps.true.unique())], dtype=torch.float64)
        >>> metric = Missed(item_shape=(1,), reduction="mean")
        >>> metric(torch.tensor([[[[0, 1, 1, 0]]]]), torch.tensor([[[[0, 5, 0, 6]]]])).tolist()
        [[1.0]]
    """

    def _score(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        return self.score(Overlaps.count(pred, true))

    @staticmethod
    @abstractmethod
    def score(overlaps: Overlaps) -> torch.Tensor:
        """What is buffered for an image with these overlaps, wherever they were counted."""


class AggregatedJaccardIndex(OverlapMetric):
    """Aggregated Jaccard index (AJI) of Kumar et al. 2017 (doi:10.1109/TMI.2017.2677499, algorithm 1).

    Each true instance G_i takes the predicted instance S_j of largest IoU: sum of |G_i & S_j| over all i, divided by
    the sum of all |G_i | S_j| plus the pixels of every S that none has taken. As published, several G may take the same
    S. What the algorithm leaves open is decided as in the authors' corrected script of July 2018: a G that nothing
    overlaps adds its own pixels to the denominator, and of several S with equal IoU the one of lowest id is taken.

    Both maps empty: 1. Only one of them empty: 0. The buffer holds one value per image, (B, 1).

    Args:
        reduction: as in MONAI; default: mean over images.

    Examples:
        >>> from monai_ext.metrics import AggregatedJaccardIndex
        >>> true, pred = torch.zeros(2, 1, 1, 8, 8, dtype=torch.int64)
        >>> true[..., :4, :4], pred[..., :4, :3] = 1, 1
        >>> metric = AggregatedJaccardIndex()
        >>> _ = metric(pred, true)
        >>> metric.aggregate().item()  # 12 of 16 px
        0.75
    """

    def __init__(self, reduction: MetricReduction | str = MetricReduction.MEAN) -> None:
        super().__init__((1,), reduction)

    @staticmethod
    def score(overlaps: Overlaps) -> torch.Tensor:
        """The index, ``(1,)``."""
        taken = overlaps.best(overlaps.area.double() / overlaps.union, overlaps.true, len(overlaps.true_area))
        used = overlaps.pred[taken]
        unused = torch.ones_like(overlaps.pred_area).index_fill_(0, used, 0)
        shared = overlaps.area[taken].sum()
        everything = overlaps.true_area.sum() + overlaps.pred_area[used].sum() - shared
        everything = everything + (overlaps.pred_area * unused).sum()
        return torch.where(everything == 0, 1.0, shared.double() / everything.clamp(min=1)).reshape(1)


class ObjectDice(OverlapMetric):
    """Object-level Dice of the GlaS challenge (Sirinukunwattana et al. 2017, doi:10.1016/j.media.2016.08.008).

    Each instance of one map is compared with the instance of the other that shares most pixels with it (lowest id on a
    tie; Dice 0 if none does). The Dice coefficients are averaged with the instances' areas as weights, in both
    directions, and the result is the mean of the two.

    Both maps empty: 1. Only one of them empty: 0. The buffer holds one value per image, (B, 1).

    Args:
        reduction: as in MONAI; default: mean over images.

    Examples:
        >>> from monai_ext.metrics import ObjectDice
        >>> true, pred = torch.zeros(2, 1, 1, 8, 8, dtype=torch.int64)
        >>> true[..., :4, :4], pred[..., :4, :3] = 1, 1
        >>> metric = ObjectDice()
        >>> _ = metric(pred, true)
        >>> round(metric.aggregate().item(), 3)  # 2 x 12 / (16 + 12)
        0.857
    """

    def __init__(self, reduction: MetricReduction | str = MetricReduction.MEAN) -> None:
        super().__init__((1,), reduction)

    @staticmethod
    def score(overlaps: Overlaps) -> torch.Tensor:
        """The coefficient, ``(1,)``."""
        dice = 2 * overlaps.area.double() / (overlaps.area + overlaps.union)

        def one_way(owner: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
            pair = overlaps.best(overlaps.area, owner, len(area))
            return (area[owner[pair]] * dice[pair]).sum() / area.sum().clamp(min=1)

        both_ways = one_way(overlaps.true, overlaps.true_area) + one_way(overlaps.pred, overlaps.pred_area)
        empty = len(overlaps.true_area) + len(overlaps.pred_area) == 0
        return both_ways.new_ones(1) if empty else both_ways.reshape(1) / 2


def panoptic_scores(counts: torch.Tensor, empty: float = 1.0) -> dict[str, torch.Tensor]:
    """Panoptic, segmentation and detection quality of counts; PQ = SQ x DQ.

    Args:
        counts: (..., 4) with TP, FP, FN and the sum of the matched pairs' IoU.
        empty: value of all three where nothing was to be found and nothing was found.

    Returns:
        ``pq``, ``sq`` (0 without a match) and ``dq``, each of shape (...).

    Examples:
        >>> from monai_ext.metrics.instance import panoptic_scores
        >>> scores = panoptic_scores(torch.tensor([1, 1, 1, 0.75], dtype=torch.float64))
        >>> {name: score.item() for name, score in scores.items()}
        {'pq': 0.375, 'sq': 0.75, 'dq': 0.5}
    """
    tp, fp, fn, iou = counts.unbind(-1)
    instances = tp + (fp + fn) / 2
    scores = {"pq": iou / instances, "sq": iou / tp.clamp(min=1), "dq": tp / instances}
    return {name: torch.where(instances == 0, empty, score) for name, score in scores.items()}


class PanopticQuality(OverlapMetric):
    """Panoptic quality (Kirillov et al. 2019, arXiv:1801.00868): instances match if their IoU is > .5.

    The values are those of MONAI's ``PanopticQualityMetric``, which paints a mask per instance, without its smoothing
    constant. The buffer holds TP, FP, FN and the IoU sum of each image and class, (B, classes, 4);
    ``aggregate("none")`` gives the values of the images.

    An image where both maps are empty counts 1, one where only one of them is counts 0. With classes, a class that is
    absent from both maps of an image is NaN and left out of the means.

    Args:
        num_classes: None for maps (B, 1, H, W) of instance ids; a number for maps (B, 2, H, W) of instance ids and
            classes 0 (background)...num_classes, as in MONAI.
        metric_name: one or more of ``"pq"``, ``"sq"`` (segmentation quality), ``"dq"`` (detection quality, also called
            recognition quality).
        reduction: as in MONAI; default: mean over classes, then images.
        compute_sample: score each image, then reduce (default), or pool the counts of all images first and then take
            the mean over classes (PQ+ of the CoNIC challenge).

    Raises:
        InputError: an unknown ``metric_name``.

    Examples:
        >>> from monai_ext.metrics import PanopticQuality
        >>> true, pred = torch.zeros(2, 1, 1, 8, 8, dtype=torch.int64)
        >>> true[..., :4, :4], pred[..., :4, :3] = 1, 1  # IoU .75
        >>> true[..., 7, 7] = 2  # missed
        >>> metric = PanopticQuality(metric_name=["pq", "sq", "dq"])
        >>> _ = metric(pred, true)
        >>> [round(score.item(), 3) for score in metric.aggregate()]
        [0.5, 0.75, 0.667]
    """

    def __init__(
        self,
        num_classes: int | None = None,
        metric_name: Sequence[str] | str = "pq",
        reduction: MetricReduction | str = MetricReduction.MEAN,
        compute_sample: bool = True,
    ) -> None:
        super().__init__((num_classes or 1, 4), reduction)
        self.num_classes, self.metric_name, self.compute_sample = num_classes, ensure_tuple(metric_name), compute_sample
        self.channels = 1 if num_classes is None else 2
        if unknown := set(self.metric_name) - {"pq", "sq", "dq"}:
            raise InputError("metric_name", "'pq', 'sq' or 'dq'", repr(min(unknown)))

    def _score(self, pred: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
        if self.num_classes is None:
            return super()._score(pred, true)[None]
        classes = range(1, self.num_classes + 1)
        class_maps = ([image[0] * (image[1] == c) for image in (pred, true)] for c in classes)
        return torch.stack([self.score(Overlaps.count(*maps)) for maps in class_maps])

    @staticmethod
    def score(overlaps: Overlaps) -> torch.Tensor:
        """TP, FP, FN and the sum of the matches' IoU, ``(4,)``."""
        union = overlaps.union
        match = 2 * overlaps.area > union  # in integers: exact at IoU = .5
        tp, iou = match.sum(), (overlaps.area[match].double() / union[match]).sum()
        return torch.stack([tp, len(overlaps.pred_area) - tp, len(overlaps.true_area) - tp, iou])

    def aggregate(self, reduction: MetricReduction | str | None = None) -> torch.Tensor | list[torch.Tensor]:
        """Reduce over the images of all ranks.

        Args:
            reduction: as in MONAI, default the constructor's; ``"none"`` returns (B, classes) values.

        Returns:
            A tensor, or a list of them if ``metric_name`` names several.
        """
        counts = self.get_buffer()
        if not self.compute_sample:
            counts = counts.sum(0, keepdim=True)
        scores = panoptic_scores(counts, empty=1.0 if self.num_classes is None else torch.nan)
        values = [do_metric_reduction(scores[name], reduction or self.reduction)[0] for name in self.metric_name]
        return values[0] if len(values) == 1 else values
