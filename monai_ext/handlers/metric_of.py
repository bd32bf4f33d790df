"""MONAI's metrics over two entries of each item, without what every configuration would have to repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from monai.handlers import IgniteMetricHandler, from_engine
from monai.metrics import CumulativeIterationMetric, LossMetric

__all__ = ["LossOf", "MetricOf"]


class MetricOf(IgniteMetricHandler):
    """A metric of a prediction and a truth that are entries of the engine's items.

    Args:
        metric_fn: called with the lists of both entries of each iteration.
        keys: names of the two.
    """

    def __init__(self, metric_fn: CumulativeIterationMetric, keys: Sequence[str] = ("pred", "label")) -> None:
        super().__init__(metric_fn=metric_fn, output_transform=from_engine(list(keys)), save_details=False)


class LossOf(MetricOf):
    """The mean of a loss, as a metric; the less the better, which the evaluator has to be told.

    Args:
        loss_fn: with ``reduction="none"``, so that every item counts alike.
        keys: names of prediction and truth.
    """

    def __init__(self, loss_fn: Callable, keys: Sequence[str] = ("pred", "label")) -> None:
        super().__init__(LossMetric(loss_fn=loss_fn), keys)
