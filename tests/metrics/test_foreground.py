"""Metrics of foregrounds, against distances of all pairs, counted pixels and MONAI's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.metrics import HausdorffDistanceMetric, MeanIoU

from monai_ext.base.errors import InputError
from monai_ext.metrics import ForegroundHausdorff, ForegroundIoU, hausdorff_distance, outline_distances

ATOL = 1e-5  # MONAI's distances are float32
EXACT = 1e-12
QUANTILES = (1.0, 0.6, 0.95)
pairs = st.tuples(*[arrays(np.uint8, (7, 9), elements=st.integers(0, 3))] * 2)


def blobs(seed, shape=(40, 50), count=12):
    """Squares with ids of their own, with gaps, some of them touching or at the edge."""
    rng = np.random.RandomState(seed)
    ids = np.zeros(shape, np.int32)
    for number in range(count):
        row, col = rng.randint(0, shape[0]), rng.randint(0, shape[1])
        ids[row : row + 6, col : col + 5] = 3 * number + 2
    return ids


def outline(ids):
    """Pixels with a neighbour outside, one by one."""
    inside = np.pad(ids > 0, 1)
    points = np.argwhere(inside)
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    return np.array([p - 1 for p in points if not all(inside[tuple(p + step)] for step in steps)]).reshape(-1, 2)


def every_pair(pred, true):
    one, other = outline(pred), outline(true)
    apart = np.sqrt(((one[:, None] - other) ** 2).sum(-1))
    return apart.min(1), apart.min(0)


def score(metric, pred, true):
    return metric(pred[None, None], true[None, None]).item()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("quantile", QUANTILES)
def test_distances_are_those_of_every_pair(seed, quantile):
    pred, true = blobs(seed), blobs(100 + seed)
    there, back = every_pair(pred, true)
    for found, wanted in zip(outline_distances(pred, true), (there, back), strict=True):
        np.testing.assert_allclose(found, wanted, atol=EXACT)
    wanted = max(np.quantile(there, quantile), np.quantile(back, quantile))
    assert score(ForegroundHausdorff(quantile), pred, true) == pytest.approx(wanted, abs=EXACT)


@pytest.mark.parametrize("quantile", QUANTILES)
def test_values_are_monais(quantile):
    maps = [[torch.from_numpy(blobs(seed))[None] for seed in seeds] for seeds in (range(4), range(50, 54))]
    masks = [torch.stack([(ids > 0).float() for ids in side]) for side in maps]
    monai = HausdorffDistanceMetric(include_background=True, percentile=None if quantile == 1 else 100 * quantile)
    metric = ForegroundHausdorff(quantile)
    torch.testing.assert_close(metric(*maps), monai(*masks).double(), atol=ATOL, rtol=0)
    assert metric.aggregate().item() == pytest.approx(monai.aggregate().item(), abs=ATOL)
    torch.testing.assert_close(ForegroundIoU()(*maps), MeanIoU()(*masks).double(), atol=ATOL, rtol=0)


def test_two_squares_by_hand():
    pred, true = np.zeros((2, 30, 30), np.int32)
    pred[5:10, 5:10], true[5:10, 8:13] = 7, 1
    assert score(ForegroundHausdorff(), pred, true) == 3
    assert score(ForegroundIoU(), pred, true) == pytest.approx(10 / 40)
    pred[25, 25] = 9  # one stray pixel: the full distance sees it, the partial one does not
    assert score(ForegroundHausdorff(), pred, true) == pytest.approx(np.hypot(25 - 9, 25 - 12))
    assert score(ForegroundHausdorff(0.6), pred, true) <= 3


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_metrics_are_symmetric_and_blind_to_ids(maps):
    one, other = maps
    for metric in (ForegroundHausdorff(), ForegroundHausdorff(0.6), ForegroundIoU()):
        value = score(metric, one, other)
        np.testing.assert_equal(score(metric, other, one), value)
        np.testing.assert_equal(score(metric, (one > 0).astype(np.uint8), other), value)
        np.testing.assert_equal(score(metric, one[::-1].T.copy(), other[::-1].T.copy()), value)
        assert score(metric, one, one) == (1 if isinstance(metric, ForegroundIoU) else 0)
    if one.any() and other.any():
        distances = outline_distances(one, other)
        ordered = [hausdorff_distance(distances, quantile) for quantile in (0.2, 0.6, 1.0)]
        assert ordered == sorted(ordered)
        np.testing.assert_allclose(ordered[-1], max(map(np.max, every_pair(one, other))), atol=EXACT)
    both, either = ((one > 0) & (other > 0)).sum(), ((one > 0) | (other > 0)).sum()
    assert score(ForegroundIoU(), one, other) == pytest.approx(both / either if either else 1, abs=EXACT)


def test_empty_maps():
    nothing, something = np.zeros((9, 9), np.int64), np.eye(9, dtype=np.int64)
    for metric, both, one in ((ForegroundIoU(), 1, 0), (ForegroundHausdorff(), 0, np.nan)):
        np.testing.assert_equal(score(metric, nothing, nothing), both)
        np.testing.assert_equal(score(metric, nothing, something), one)
        np.testing.assert_equal(score(metric, something, nothing), one)
    hausdorff = ForegroundHausdorff()
    hausdorff([nothing[None], nothing[None]], [nothing[None], something[None]])
    assert hausdorff.aggregate().item() == 0  # of the image that has a distance
    assert hausdorff.aggregate("none").isnan().sum() == 1


def test_volumes():
    pred, true = np.zeros((2, 1, 1, 6, 7, 8), np.int64)
    pred[..., 1:3, 1:3, 1:3], true[..., 1:3, 1:3, 4:6] = 1, 1
    assert ForegroundHausdorff()(pred, true).item() == 3


@pytest.mark.parametrize("quantile", [0, -0.1, 1.5, 60])
def test_quantile_out_of_its_range(quantile):
    with pytest.raises(InputError, match=f"quantile: expected a number above 0, at most 1, found {quantile}$"):
        ForegroundHausdorff(quantile)


def test_masks_are_refused_as_by_every_metric_of_instances():
    with pytest.raises(InputError, match="integer instance ids"):
        score(ForegroundIoU(), np.ones((4, 4), bool), np.ones((4, 4), bool))
