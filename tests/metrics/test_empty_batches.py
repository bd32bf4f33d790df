"""A rank without an item: metrics hold an empty buffer of the right shape, so that it can be gathered with others."""

import pytest
import torch

from monai_ext.metrics import (
    AggregatedJaccardIndex,
    BestDetectionF1,
    DetectionF1,
    EvidenceLocalization,
    GridLocating,
    GridPointing,
    ObjectDice,
    PanopticQuality,
)
from monai_ext.metrics.foreground import ForegroundHausdorff, ForegroundIoU


@pytest.mark.parametrize(
    ("metric", "shape", "dtype"),
    [
        (AggregatedJaccardIndex(), (1,), torch.float64),
        (ObjectDice(), (1,), torch.float64),
        (PanopticQuality(), (1, 4), torch.float64),
        (PanopticQuality(num_classes=3), (3, 4), torch.float64),
        (ForegroundIoU(), (1,), torch.float64),
        (ForegroundHausdorff(), (1,), torch.float64),
        (EvidenceLocalization(), (3,), torch.int64),
        (GridPointing(), (2,), torch.float64),
        (GridLocating(), (3,), torch.int64),
        (DetectionF1(5.0), (3,), torch.int64),
        (BestDetectionF1(5.0, areas=[1, 2], scores=[0.1, 0.2, 0.3]), (2, 3, 3), torch.int64),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_items(metric, shape, dtype):
    for values in (metric([], []), metric.get_buffer()):
        assert (tuple(values.shape), values.dtype) == ((0, *shape), dtype)
