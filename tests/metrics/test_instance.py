from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from monai.data import MetaTensor
from monai.metrics import PanopticQualityMetric
from numpy.testing import assert_allclose, assert_array_equal

from monai_ext.base.errors import InputError
from monai_ext.metrics.instance import AggregatedJaccardIndex, ObjectDice, Overlaps, PanopticQuality, panoptic_scores

RTOL = 1e-6  # MONAI's reductions return float32
MONAI_ATOL = 2e-6  # its smoothing constant and float32 sums
METRICS = (AggregatedJaccardIndex, ObjectDice, PanopticQuality)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def masks(instance_map):
    return [instance_map == k for k in np.unique(instance_map) if k != 0]


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def literal_aji(pred, true):
    """Algorithm 1 of Kumar et al. 2017, mask by mask."""
    segmented, used = masks(pred), set()
    c = u = 0
    for g in masks(true):
        ious = [iou(g, s) for s in segmented]
        if not any(ious):
            u += g.sum()
            continue
        j = int(np.argmax(ious))
        c += (g & segmented[j]).sum()
        u += (g | segmented[j]).sum()
        used.add(j)
    u += sum(s.sum() for k, s in enumerate(segmented) if k not in used)
    return c / u if u else 1.0


def literal_object_dice(pred, true):
    """Equation of the GlaS challenge, mask by mask."""

    def one_way(objects, others):
        total = 0.0
        for a in objects:
            shared = [(a & b).sum() for b in others]
            if any(shared):
                k = int(np.argmax(shared))
                total += a.sum() / sum(o.sum() for o in objects) * 2 * shared[k] / (a.sum() + others[k].sum())
        return total

    segmented, truths = masks(pred), masks(true)
    if not segmented and not truths:
        return 1.0
    return (one_way(truths, segmented) + one_way(segmented, truths)) / 2


def literal_pq(pred, true):
    segmented, truths = masks(pred), masks(true)
    ious = [iou(g, s) for g in truths for s in segmented]
    matched = [x for x in ious if x > 0.5]
    if not segmented and not truths:
        return 1.0
    return sum(matched) / (len(segmented) / 2 + len(truths) / 2)


LITERAL = {AggregatedJaccardIndex: literal_aji, ObjectDice: literal_object_dice, PanopticQuality: literal_pq}


def score(metric, pred, true, **arguments):
    metric = metric(**arguments)
    metric(pred[None, None], true[None, None])
    return metric.aggregate().item()


def nuclei(seed, side=96, n=25, empty=0.1):
    """Disks on a jittered grid, some overlapping their neighbours, some missing."""
    rng = np.random.default_rng(seed)
    instance_map = np.zeros((side, side), dtype=np.int32)
    rows, cols = np.mgrid[:side, :side]
    cells = int(np.ceil(n**0.5))
    for k in range(n):
        row, col = (np.array(divmod(k, cells)) + 0.5) * side / cells + rng.uniform(-2, 2, 2)
        if rng.random() > empty:
            instance_map[np.hypot(rows - row, cols - col) < rng.uniform(0.3, 0.55) * side / cells] = k + 1
    return instance_map


small_maps = arrays(np.int64, (5, 6), elements=st.integers(0, 4), fill=st.just(0))


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__)
class TestEveryMetric:
    @settings(max_examples=150, deadline=None)
    @given(small_maps, small_maps)
    def test_equals_literal(self, metric, pred, true):
        assert score(metric, pred, true) == pytest.approx(LITERAL[metric](pred, true), rel=RTOL)

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("device", DEVICES)
    def test_equals_literal_on_nuclei(self, metric, seed, device):
        pred, true = nuclei(seed), nuclei(seed + 100)
        expected = LITERAL[metric](pred, true)
        assert 0.2 < expected < 0.95
        on_device = torch.tensor(pred, device=device), torch.tensor(true, device=device)
        assert score(metric, *on_device) == pytest.approx(expected, rel=RTOL)

    @settings(max_examples=50, deadline=None)
    @given(small_maps, small_maps, st.permutations(range(1, 5)), st.integers(0, 3), st.integers(0, 3))
    def test_invariance(self, metric, pred, true, ids, down, right):
        if metric is not PanopticQuality:  # which of two equally good partners is taken depends on the ids
            assume(not any(has_tie(a, b, metric) for a, b in ((pred, true), (true, pred))))
        value = score(metric, pred, true)
        new_ids = np.array([0, *(1000 * i for i in ids)])
        assert score(metric, new_ids[pred], true) == pytest.approx(value)
        assert score(metric, pred, new_ids[true]) == pytest.approx(value)
        shifted = (np.pad(m, ((down, 3 - down), (right, 3 - right))) for m in (pred, true))
        assert score(metric, *shifted) == pytest.approx(value)
        assert score(metric, pred.T, true.T) == pytest.approx(value)
        assert 0 <= value <= 1
        if metric is not AggregatedJaccardIndex:
            assert score(metric, true, pred) == pytest.approx(value)

    @settings(max_examples=25, deadline=None)
    @given(small_maps)
    def test_perfect(self, metric, true):
        assert score(metric, true + 10 * (true > 0), true) == 1

    @pytest.mark.parametrize(("pred", "true", "expected"), [(0, 0, 1), (0, 3, 0), (3, 0, 0), (3, 7, 1)])
    def test_empty_and_full(self, metric, pred, true, expected):
        assert score(metric, np.full((4, 4), pred), np.full((4, 4), true)) == expected

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32])
    def test_dtypes(self, metric, dtype):
        pred, true = nuclei(0), nuclei(100)
        expected = score(metric, pred, true)
        assert score(metric, pred.astype(dtype), true.astype(dtype)) == expected
        assert score(metric, torch.from_numpy(pred.astype(dtype)), true) == expected
        assert score(metric, MetaTensor(pred.astype(np.int32)), true) == expected

    def test_large_ids(self, metric):
        pred, true = nuclei(0).astype(np.int64), nuclei(100).astype(np.int64)
        large = np.where(pred, 2**62 + pred * 12345, 0), np.where(true, 2**62 + true, 0)
        assert score(metric, *large) == score(metric, pred, true)

    def test_batches_and_reduction(self, metric):
        images = [(nuclei(s), nuclei(s + 100)) for s in range(3)]
        expected = [LITERAL[metric](*pair) for pair in images]
        batched, listed = metric(), metric()
        batched(*(np.stack(side)[:, None] for side in zip(*images, strict=True)))
        for pair in images:
            listed(*([torch.tensor(side)[None]] for side in pair))
        for found in (batched, listed):
            assert_allclose(found.aggregate(), [np.mean(expected)], rtol=RTOL)
            assert_allclose(found.aggregate("none"), np.array(expected)[:, None], rtol=RTOL)
            assert len(found.get_buffer()) == len(found) == 3
        batched.reset()
        batched([], [])
        assert len(batched) == 0

    def test_three_dimensions(self, metric):
        pred, true = nuclei(0), nuclei(100)
        assert score(metric, np.stack([pred] * 3), np.stack([true] * 3)) == score(metric, pred, true)

    @pytest.mark.parametrize(
        ("pred", "true", "said"),
        [
            (np.zeros((1, 1, 4, 4)) + 0.5, np.zeros((1, 1, 4, 4)), "float64"),
            (np.ones((1, 1, 4, 4), bool), np.ones((1, 1, 4, 4), int), "bool"),
            (np.full((1, 1, 4, 4), -1), np.ones((1, 1, 4, 4), int), "-1"),
            (np.ones((1, 1, 4, 4), int), np.ones((1, 1, 4, 5), int), "(1, 4, 4)"),
            (np.ones((1, 4, 4), int), np.ones((1, 4, 4), int), "(4, 4)"),
            (np.ones((2, 1, 4, 4), int), np.ones((1, 1, 4, 4), int), "2 and 1"),
        ],
        ids=["probabilities", "mask", "negative", "shapes", "no channel", "batch sizes"],
    )
    def test_refuses(self, metric, pred, true, said):
        with pytest.raises(InputError) as caught:
            metric()(pred, true)
        assert said in str(caught.value)


def has_tie(pred, true, metric):
    """Whether some instance of ``true`` has two best partners in ``pred``."""
    for g in masks(true):
        values = [iou(g, s) if metric is AggregatedJaccardIndex else (g & s).sum() for s in masks(pred)]
        if values and max(values) > 0 and values.count(max(values)) > 1:
            return True
    return False


class TestAggregatedJaccardIndex:
    # rows of pixels: truth, prediction, intersection / union by hand
    @pytest.mark.parametrize(
        ("true", "pred", "expected"),
        [
            ([1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 2, 2], 2 / 6),  # the unused prediction counts
            ([1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 0, 0], 4 / 8),  # one prediction taken twice
            ([1, 1, 0, 2, 2, 2], [1, 1, 0, 0, 0, 0], 2 / 5),  # the missed truth counts
            ([1, 1, 1, 1, 1, 0], [1, 2, 2, 2, 0, 3], 3 / 7),  # only the best part of a split nucleus
            ([1, 1, 1, 1, 0, 0], [1, 1, 2, 2, 0, 0], 2 / 6),  # a tie: the lower id
        ],
        ids=["unused", "merged", "missed", "split", "tie"],
    )
    def test_by_hand(self, true, pred, expected):
        assert score(AggregatedJaccardIndex, np.array([pred]), np.array([true])) == pytest.approx(expected)

    def test_is_not_foreground_iou(self):
        true = np.zeros((8, 8), int)
        true[:4, :4], true[:4, 4:] = 1, 2
        assert score(AggregatedJaccardIndex, (true > 0).astype(int), true) == pytest.approx(0.5)


def test_object_dice_by_hand():
    true, pred = np.array([[1, 1, 1, 1, 2, 2, 0]]), np.array([[1, 1, 1, 0, 0, 3, 3]])
    from_true = 4 / 6 * (6 / 7) + 2 / 6 * (2 / 4)
    from_pred = 3 / 5 * (6 / 7) + 2 / 5 * (2 / 4)
    assert score(ObjectDice, pred, true) == pytest.approx((from_true + from_pred) / 2)


class TestPanopticQuality:
    def test_exactly_half_is_no_match(self):
        assert score(PanopticQuality, np.array([[1, 1, 0]]), np.array([[1, 0, 0]])) == 0
        assert score(PanopticQuality, np.array([[1, 1, 0]]), np.array([[1, 1, 1]])) == pytest.approx(2 / 3)

    @pytest.mark.parametrize("seed", range(3))
    def test_equals_monai(self, seed):
        pred, true = (torch.tensor(nuclei(s))[None, None] for s in (seed, seed + 100))
        ours = PanopticQuality(metric_name=["pq", "sq", "dq"])
        peer = PanopticQualityMetric(num_classes=1, metric_name=["pq", "sq", "rq"])
        ours(pred, true)
        peer(*(torch.cat([m, (m > 0).int()], dim=1) for m in (pred, true)))
        assert_allclose(ours.aggregate(), peer.aggregate(), atol=MONAI_ATOL)
        assert_allclose(ours.get_buffer(), peer.get_buffer(), atol=1e-4)

    def test_classes_equal_monai(self):
        rng = np.random.default_rng(0)
        pred, true = (np.stack([nuclei(s) for s in range(first, first + 3)]) for first in (0, 100))
        classes = np.concatenate([[0], rng.integers(1, 4, 25)])
        pred, true = (torch.tensor(np.stack([m, classes[m]], axis=1).astype(np.int32)) for m in (pred, true))
        ours, peer = PanopticQuality(num_classes=3, compute_sample=False), PanopticQualityMetric(num_classes=3)
        for metric in (ours, peer):
            metric(pred, true)
        assert_allclose(ours.get_buffer(), peer.get_buffer(), atol=1e-4)
        assert_allclose(ours.aggregate("none")[0], peer.aggregate(), atol=MONAI_ATOL)
        assert_allclose(ours.aggregate(), [peer.aggregate().mean()], atol=MONAI_ATOL)

    def test_absent_class_is_left_out(self):
        ids = np.array([[1, 1, 2, 2]])
        pred, true = np.stack([ids, [[1, 1, 2, 2]]]), np.stack([ids, [[1, 1, 1, 1]]])
        metric = PanopticQuality(num_classes=3)
        metric(pred[None], true[None])  # class 1: one of two found; class 2: one false; class 3: absent
        assert_allclose(metric.aggregate("none"), [[2 / 3, 0, np.nan]])
        assert_allclose(metric.aggregate(), [1 / 3])

    def test_mean_over_images_and_pooled(self):
        first, second = np.array([[[[1, 2, 3]]]]), np.array([[[[1, 0, 0]]]])
        for compute_sample, expected in ((True, (1 + 0) / 2), (False, 3 / (3 + 0.5 + 0.5))):
            metric = PanopticQuality(compute_sample=compute_sample)
            metric(first, first)
            metric(np.array([[[[0, 0, 1]]]]), second)
            assert_allclose(metric.aggregate(), [expected])

    def test_scores(self):
        scores = panoptic_scores(torch.tensor([[2.0, 1, 3, 1.5], [0, 0, 0, 0], [0, 1, 0, 0]]))
        assert_allclose(scores["pq"], [1.5 / 4, 1, 0])
        assert_allclose(scores["sq"], [0.75, 1, 0])
        assert_allclose(scores["dq"], [2 / 4, 1, 0])

    def test_refuses_unknown_name(self):
        with pytest.raises(InputError):
            PanopticQuality(metric_name="rq")


def test_overlaps():
    overlaps = Overlaps.count(torch.tensor([[7, 7, 0, 9]]), torch.tensor([[0, 4, 4, 4]]))
    assert_array_equal(overlaps.pred_area, [2, 1])
    assert_array_equal(overlaps.true_area, [3])
    assert_array_equal(
        torch.stack([overlaps.true, overlaps.pred, overlaps.area, overlaps.union]), [[0, 0], [0, 1], [1, 1], [4, 3]]
    )
