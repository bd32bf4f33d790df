"""Metrics; the peer for panoptic quality is MONAI's PanopticQualityMetric (which needs about 8 GB here)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.metrics import PanopticQualityMetric

from monai_ext.metrics.bootstrap import bootstrap_ci
from monai_ext.metrics.detection import detection_scores, match_detections, sweep_detection_thresholds
from monai_ext.metrics.instance import AggregatedJaccardIndex, ObjectDice, PanopticQuality

SIDE, CELLS = 1000, 32


def nuclei(seed: int) -> torch.Tensor:
    """(1, 1, 1000, 1000) int32 with 1,000 elliptic nuclei on a jittered grid."""
    rng = np.random.default_rng(seed)
    instance_map = np.zeros((SIDE, SIDE), dtype=np.int32)
    rows, cols = np.mgrid[:SIDE, :SIDE]
    for k in range(1000):
        row, col = (np.array(divmod(k, CELLS)) + 0.5) * SIDE / CELLS + rng.uniform(-3, 3, 2)
        height, width = rng.uniform(9, 14, 2)
        box = np.s_[max(0, int(row) - 16) : int(row) + 16, max(0, int(col) - 16) : int(col) + 16]
        instance_map[box][((rows[box] - row) / height) ** 2 + ((cols[box] - col) / width) ** 2 < 1] = k + 1
    return torch.tensor(instance_map)[None, None]


@pytest.fixture(scope="module")
def maps():
    return nuclei(0), nuclei(1)


def score(metric, pred, true):
    metric.reset()
    metric(pred, true)
    return float(metric.aggregate())


@pytest.mark.benchmark(group="panoptic quality, 1000x1000, 1,000 instances")
class TestPanopticQuality:
    def test_monai_ext(self, benchmark, maps):
        assert 0.5 < benchmark.pedantic(score, (PanopticQuality(), *maps), rounds=20, warmup_rounds=2) < 0.8

    def test_monai(self, benchmark, maps):
        with_class = [torch.cat([m, (m > 0).int()], dim=1) for m in maps]
        value = benchmark.pedantic(score, (PanopticQualityMetric(num_classes=1), *with_class), rounds=1)
        assert value == pytest.approx(score(PanopticQuality(), *maps), abs=1e-5)


@pytest.mark.benchmark(group="object metrics, 1000x1000, 1,000 instances")
@pytest.mark.parametrize("metric", [AggregatedJaccardIndex, ObjectDice], ids=lambda m: m.__name__)
def test_object_metric(benchmark, maps, metric):
    assert 0.5 < benchmark.pedantic(score, (metric(), *maps), rounds=20, warmup_rounds=2) < 0.95


@pytest.mark.benchmark(group="point matching")
@pytest.mark.parametrize("n", [100, 10_000, 100_000])
def test_match_detections(benchmark, n):
    rng = np.random.default_rng(0)
    truth = rng.uniform(0, 60 * n**0.5, (n, 2))  # the density of tumour nuclei at .25 um/px
    pred = truth + rng.normal(0, 8, truth.shape)
    assert len(benchmark.pedantic(match_detections, (pred, truth, 30), rounds=5)) > 0.95 * n


@pytest.mark.benchmark(group="threshold sweep, 140 x 60 pairs, 100 fields")
def test_sweep(benchmark):
    rng = np.random.default_rng(0)
    detections, truths = [], []
    for _ in range(100):
        truth = rng.uniform(0, 2000, (50, 2))
        place = np.concatenate([truth + rng.normal(0, 10, truth.shape), rng.uniform(0, 2000, (50, 2))])
        detections.append(np.column_stack([place, rng.uniform(200, 1100, 100), rng.uniform(0.2, 1, 100)]))
        truths.append(truth)
    grid = np.arange(301, 997, 5), np.arange(30, 90) / 100
    assert len(benchmark.pedantic(sweep_detection_thresholds, (detections, truths, 30, *grid), rounds=3)) == 8400


@pytest.mark.benchmark(group="bootstrap, 2,000 resamples of pooled F1")
@pytest.mark.parametrize("groups", [50, 1000])
def test_bootstrap(benchmark, groups):
    counts = np.random.default_rng(0).integers(0, 20, (groups, 3))
    assert benchmark(bootstrap_ci, counts, None, lambda c: detection_scores(c)["f1"]).groups == groups
