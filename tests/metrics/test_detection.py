from __future__ import annotations

import datetime as dt
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.handlers import IgniteMetricHandler, from_engine
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linear_sum_assignment

from monai_ext.base.errors import InputError
from monai_ext.metrics.detection import (
    BestDetectionF1,
    DetectionF1,
    detection_scores,
    match_detections,
    sweep_detection_thresholds,
)

ATOL = 1e-9
NONE = np.empty((0, 2))


def literal_matching(pred, truth, radius):
    """Best (number, -total distance) by trying every injection of the smaller side into the larger."""
    if len(pred) > len(truth):
        pred, truth = truth, pred
    best = (0, 0.0)
    for image in itertools.permutations(range(len(truth)), len(pred)):
        distances = [math.dist(pred[i], truth[j]) for i, j in enumerate(image)]
        near = [d for d in distances if d <= radius]
        best = max(best, (len(near), -math.fsum(near)))
    return best


def dense_matching(pred, truth, radius):
    """The same for larger sets, by one dense assignment."""
    distance = np.linalg.norm(pred[:, None] - truth[None], axis=-1)
    cost = np.where(distance <= radius, distance, 1e6)
    i, j = linear_sum_assignment(cost)
    near = distance[i, j] <= radius
    return near.sum(), -distance[i, j][near].sum()


def quality(matches, pred, truth):
    return len(matches), -sum(math.dist(pred[i], truth[j]) for i, j in matches)


coordinates = st.tuples(st.integers(0, 12), st.integers(0, 12))
points = st.lists(coordinates, max_size=6).map(lambda p: np.array(p, dtype=float).reshape(-1, 2))


class TestMatchDetections:
    @settings(max_examples=150, deadline=None)
    @given(points, points, st.sampled_from([0, 1, 3, 5, 20]))
    def test_equals_literal(self, pred, truth, radius):
        matches = match_detections(pred, truth, radius)
        assert len(set(matches[:, 0])) == len(set(matches[:, 1])) == len(matches)
        assert all(math.dist(pred[i], truth[j]) <= radius for i, j in matches)
        assert_allclose(quality(matches, pred, truth), literal_matching(pred, truth, radius), atol=ATOL)

    @pytest.mark.parametrize("side", [60, 300, 1000], ids=["one cluster", "clusters", "sparse"])
    def test_equals_dense_assignment(self, side):
        rng = np.random.default_rng(side)
        pred, truth = rng.uniform(0, side, (180, 2)), rng.uniform(0, side, (200, 2))
        expected = dense_matching(pred, truth, 20)
        assert_allclose(quality(match_detections(pred, truth, 20), pred, truth), expected, atol=1e-6)

    def test_many_points_in_blocks(self):
        rng = np.random.default_rng(0)
        truth = np.stack(np.meshgrid(np.arange(120), np.arange(120)), -1).reshape(-1, 2) * 50.0
        order = rng.permutation(len(truth))
        pred = truth[order] + rng.uniform(-10, 10, truth.shape)
        assert_array_equal(match_detections(pred, truth, 30)[:, 1], order)

    def test_number_comes_before_distance(self):
        # greedy takes the pair at distance 1 and leaves the other two points alone
        pred, truth = np.array([[0.0, 0], [0, 6]]), np.array([[0.0, 5], [0, 11]])
        assert_array_equal(match_detections(pred, truth, 5), [[0, 0], [1, 1]])

    def test_indices_are_ordered_by_detection(self):
        truth = np.array([[90.0, 0], [0, 0], [40, 0]])
        assert_array_equal(match_detections(truth[[2, 0, 1]], truth, 1), [[0, 2], [1, 0], [2, 1]])

    @pytest.mark.parametrize(("offset", "matched"), [((18, 24), 1), ((18, 24.001), 0)], ids=["at radius", "beyond"])
    def test_radius_is_inclusive(self, offset, matched):
        assert len(match_detections([offset], [(0.0, 0.0)], 30)) == matched

    @pytest.mark.parametrize(
        "empty",
        [torch.zeros(0), torch.zeros(0, 4), np.empty((0, 2)), []],
        ids=["flat", "four columns", "numpy", "list"],
    )
    def test_no_points(self, empty):
        assert match_detections(empty, [[1, 2]], 5).shape == (0, 2)
        assert match_detections([[1, 2]], empty, 5).shape == (0, 2)
        assert match_detections(empty, empty, 5).shape == (0, 2)

    @pytest.mark.parametrize(
        ("bad", "said"),
        [(np.zeros((3, 1)), "shape (3, 1)"), (np.zeros(4), "shape (4,)"), ([[1, np.nan]], "[1.0, nan]")],
        ids=["one column", "flat", "nan"],
    )
    def test_refuses(self, bad, said):
        with pytest.raises(InputError) as caught:
            match_detections(bad, [[0, 0]], 5)
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((6, 2, 4), (6 / 8, 6 / 10, 12 / 18)),
        ((0, 0, 0), (1, 1, 1)),
        ((0, 3, 0), (0, 0, 0)),
        ((0, 0, 3), (0, 0, 0)),
        ((0, 1, 1), (0, 0, 0)),
    ],
    ids=["ordinary", "nothing to find", "no truth", "no detection", "all wrong"],
)
def test_detection_scores(counts, expected):
    scores = detection_scores(counts)
    assert_allclose([scores["precision"], scores["recall"], scores["f1"]], expected, atol=ATOL)


class TestDetectionF1:
    FIELDS = (
        ([[10, 10], [50, 50], [90, 90]], [[12, 10], [50, 53]]),  # 2 tp, 1 fp
        ([], [[5, 5]]),  # 1 fn
        ([], []),
        ([[1, 1]], []),  # 1 fp
    )
    COUNTS = ([2, 1, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0])

    def fields(self):
        return tuple(
            [torch.tensor(f, dtype=torch.float32).reshape(-1, 2) for f in side]
            for side in zip(*self.FIELDS, strict=True)
        )

    def test_pooled(self):
        metric = DetectionF1(radius=4, metric_name=["f1", "precision", "recall"])
        pred, truth = self.fields()
        for batch in (slice(0, 3), slice(3, 4)):
            metric(pred[batch], truth[batch])
        assert_array_equal(metric.get_buffer(), self.COUNTS)
        scores = metric.aggregate()
        assert all(score.ndim == 0 for score in scores)
        assert_allclose(scores, [4 / 7, 2 / 4, 2 / 3], atol=ATOL)
        metric.reset()
        assert metric.get_buffer().shape == (0, 3)
        assert metric([], []).shape == (0, 3)
        assert metric.aggregate() == [1, 1, 1]  # nothing to find, nothing found

    def test_tables(self):
        metric = DetectionF1(radius=4)
        metric(*self.fields(), groups=["b", "a", "b", "a"])
        fields, groups, pooled = (metric.table(by) for by in ("field", "group", "pooled"))
        assert_array_equal(fields[["tp", "fp", "fn"]], self.COUNTS)
        assert fields["group"].tolist() == ["b", "a", "b", "a"]
        assert_allclose(fields["f1"], [4 / 5, 0, 1, 0], atol=ATOL)
        assert groups["group"].tolist() == ["b", "a"]
        assert_array_equal(groups[["tp", "fp", "fn"]], [[2, 1, 0], [0, 1, 1]])
        assert pooled["f1"].item() == pytest.approx(metric.aggregate().item())
        for table in (fields, groups, pooled, DetectionF1(radius=4).table(), DetectionF1(radius=4).table("group")):
            assert not table.isna().any(axis=None)
            json.loads(table.to_json(orient="records"))

    def test_further_columns_are_ignored(self):
        pred, truth = [torch.tensor([[1.0, 2, 400, 0.9]])], [torch.tensor([[1.0, 2, 7]])]
        assert_array_equal(DetectionF1(radius=0)(pred, truth), [[1, 0, 0]])

    @pytest.mark.parametrize(
        ("own", "of_call", "matched"),
        [(0.25, None, 1), (0.5, None, 0), (0.5, 0.25, 1), (None, [0.25], 1), (None, torch.tensor([0.5]), 0)],
        ids=["own fine", "own coarse", "call over own", "per field", "tensor"],
    )
    def test_radius_in_um(self, own, of_call, matched):
        metric = DetectionF1(radius=7.5, unit="um", mpp=own)
        assert metric([torch.zeros(1, 2)], [torch.tensor([[18.0, 24.0]])], mpp=of_call)[0, 0] == matched

    @pytest.mark.parametrize(
        "call",
        [
            lambda: DetectionF1(radius=-1),
            lambda: DetectionF1(radius=float("nan")),
            lambda: DetectionF1(radius=1, unit="mm"),
            lambda: DetectionF1(radius=1, metric_name="accuracy"),
            lambda: DetectionF1(radius=1, unit="um")([NONE], [NONE]),
            lambda: DetectionF1(radius=1)([NONE], [NONE, NONE]),
            lambda: DetectionF1(radius=1)([NONE], [NONE], groups=["a", "b"]),
            lambda: DetectionF1(radius=1).table("slide"),
        ],
        ids=["negative", "nan", "unit", "metric name", "no mpp", "lengths", "groups", "by"],
    )
    def test_refuses(self, call):
        with pytest.raises(InputError):
            call()

    @settings(max_examples=50, deadline=None)
    @given(points, points, st.integers(-50, 50), st.randoms(use_true_random=False))
    def test_invariance(self, pred, truth, shift, random):
        metric = DetectionF1(radius=3)
        tp, fp, fn = metric([pred], [truth])[0].tolist()
        assert (tp + fp, tp + fn) == (len(pred), len(truth))
        assert metric([pred + shift], [truth + shift])[0].tolist() == [tp, fp, fn]
        assert metric([truth], [pred])[0].tolist() == [tp, fn, fp]
        assert metric([np.array(random.sample(list(pred), len(pred)))], [truth])[0].tolist() == [tp, fp, fn]
        assert metric([truth], [truth])[0].tolist() == [len(truth), 0, 0]

    def test_with_ignite_handler(self):
        batches = [
            [{"points": MetaTensor(p), "label": t} for p, t in zip(*self.fields(), strict=True)][i : i + 3]
            for i in range(0, 4, 3)
        ]
        engine = Engine(lambda _, batch: batch)
        handler = IgniteMetricHandler(
            metric_fn=DetectionF1(radius=4), output_transform=from_engine(["points", "label"])
        )
        handler.attach(engine, "f1")
        for _ in range(2):  # the second run must not add to the first
            state = engine.run(batches)
        assert state.metrics["f1"] == pytest.approx(4 / 7)
        assert_array_equal(state.metric_details["f1"], self.COUNTS)


def _rank(rank: int, fields: list, folder: str) -> None:
    minute = dt.timedelta(minutes=1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", minute, world_size=2, rank=rank)
    metric = DetectionF1(radius=4)
    assert metric.get_buffer().shape == (0, 3)  # no rank has anything
    for n_first in (3, 4):  # unequal shards; the second rank has nothing
        metric.reset()
        for pred, truth, group in fields[n_first:] if rank else fields[:n_first]:
            metric([pred], [truth], groups=[group])
        out = {"f1": metric.aggregate().item(), "table": metric.table().to_dict("list"), "len": len(metric)}
        Path(folder, f"{rank}-{n_first}.json").write_text(json.dumps(out))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes(tmp_path):
    pred, truth = TestDetectionF1().fields()
    fields = list(zip(pred, truth, ["Fall 1", "µ", "Fall 1", ""], strict=True))
    torch.multiprocessing.spawn(_rank, (fields, str(tmp_path)), nprocs=2)
    alone = DetectionF1(radius=4)
    alone(pred, truth, groups=[group for *_, group in fields])
    expected = {"f1": alone.aggregate().item(), "table": alone.table().to_dict("list"), "len": 4}
    found = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert found == [expected] * 4


class TestSweep:
    @staticmethod
    def fields(rng, n_fields, n):
        detections, truths = [], []
        for _ in range(n_fields):
            truth = rng.uniform(0, 150, (rng.integers(0, n + 1), 2))
            place = np.concatenate([truth + rng.normal(0, 10, truth.shape), rng.uniform(0, 150, (n, 2))])
            detections.append(
                np.column_stack([place, rng.integers(1, 12, len(place)), rng.integers(0, 11, len(place)) / 10])
            )
            truths.append(truth)
        return detections, truths

    @pytest.mark.parametrize("seed", range(4))
    def test_equals_brute_force(self, seed):
        rng = np.random.default_rng(seed)
        detections, truths = self.fields(rng, n_fields=4, n=12)
        areas, scores = rng.permutation(np.arange(0, 13, 2)), np.arange(0, 11) / 10  # thresholds that equal values
        table = sweep_detection_thresholds(detections, truths, 25, areas, scores)
        assert len(table) == len(areas) * len(scores)
        for row in table.itertuples():
            metric = DetectionF1(radius=25, metric_name=["precision", "recall", "f1"])
            metric([d[(d[:, 2] > row.area) & (d[:, 3] > row.score)] for d in detections], truths)
            assert_array_equal(metric.get_buffer().sum(0), [row.tp, row.fp, row.fn])
            assert_allclose(metric.aggregate(), [row.precision, row.recall, row.f1], atol=ATOL)
        assert table[["area", "score"]].to_numpy().tolist() == [[a, s] for a in areas for s in scores]

    def test_long_chain(self):
        # each detection lies between two true points: the augmenting paths are as long as the chain
        n = 3000
        truth = np.column_stack([np.arange(n) * 2.0, np.zeros(n)])
        detection = np.column_stack([np.arange(n) * 2.0 - 1, np.zeros(n), np.arange(n), np.ones(n)])
        assert sweep_detection_thresholds([detection], [truth], 1, [-1], [0])["tp"].tolist() == [n]

    def test_empty(self):
        fields = [torch.zeros(0, 4), torch.tensor([[1.0, 1, 9, 0.9]])], [torch.zeros(2, 2), torch.zeros(0)]
        table = sweep_detection_thresholds(*fields, 5, [5, 10], [0.5])
        assert table[["tp", "fp", "fn"]].to_numpy().tolist() == [[0, 1, 2], [0, 0, 2]]
        assert sweep_detection_thresholds([], [], 5, [5], [0.5])["f1"].tolist() == [1]

    @pytest.mark.parametrize(
        ("detections", "truths"), [([NONE], []), ([np.zeros((2, 3))], [NONE])], ids=["lengths", "columns"]
    )
    def test_refuses(self, detections, truths):
        with pytest.raises(InputError):
            sweep_detection_thresholds(detections, truths, 5, [1], [0.5])


# -- the best of all thresholds ----------------------------------------------------------------------------------------


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=30)
def test_best_f1_is_that_of_the_sweep_over_all_fields(seed):
    rng = np.random.default_rng(seed)
    areas, scores = [0, 300, 600], [0.2, 0.5, 0.8]
    fields = []
    for _ in range(rng.integers(1, 4)):
        truth = rng.uniform(0, 200, (rng.integers(0, 6), 2))
        others = np.concatenate([truth + rng.normal(0, 4, truth.shape), rng.uniform(0, 200, (rng.integers(0, 5), 2))])
        filters = np.column_stack([rng.uniform(0, 900, len(others)), rng.uniform(0, 1, len(others))])
        fields.append((np.column_stack([others, filters]), truth))
    metric = BestDetectionF1(10, areas, scores)
    for pred, truth in fields:
        metric([pred], [truth])
    detections, truths = zip(*fields, strict=True)
    expected = max(
        pooled([pred[(pred[:, 2] > area) & (pred[:, 3] > score)] for pred in detections], truths)
        for area in areas
        for score in scores
    )
    assert metric.aggregate().item() == pytest.approx(expected, nan_ok=True)


def pooled(detections, truths):
    metric = DetectionF1(10)
    metric(list(detections), list(truths))
    return metric.aggregate().item()


def test_best_f1_does_not_care_for_the_scale_of_scores():
    truth = [[10, 10], [50, 50], [90, 90]]
    rows = np.array([[10, 10, 400, 0.9], [50, 50, 400, 0.85], [90, 90, 400, 0.8], [150, 150, 400, 0.7]])
    best = BestDetectionF1(5, [300], np.arange(0.05, 1, 0.05).tolist())
    best([rows], [truth])
    timid = BestDetectionF1(5, [300], np.arange(0.05, 1, 0.05).tolist())
    timid([rows * [1, 1, 1, 0.5]], [truth])
    assert best.aggregate().item() == timid.aggregate().item() == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": -1, "areas": [1], "scores": [1]}, "radius: expected a distance >= 0"),
        ({"radius": 1, "areas": [], "scores": [1]}, "expected thresholds of area and of score"),
    ],
)
def test_best_f1_needs_thresholds(options, message):
    with pytest.raises(InputError, match=message):
        BestDetectionF1(**options)
