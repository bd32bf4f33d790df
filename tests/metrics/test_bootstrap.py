from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from monai_ext.base.errors import InputError
from monai_ext.metrics import bootstrap
from monai_ext.metrics.bootstrap import Interval, bootstrap_ci, bootstrap_scores, weighted_accuracy, weighted_auc
from monai_ext.metrics.detection import detection_scores

RTOL = 1e-9


def f1(counts):
    return detection_scores(counts)["f1"]


def loop_bootstrap(items, groups, statistic, resamples, seed, level):
    """Draw groups one resample at a time, put their items together and compute the statistic on them."""
    rng = np.random.default_rng(seed)
    names = sorted(set(groups))
    drawn = []
    for _ in range(resamples):
        study = []
        for k in rng.integers(len(names), size=len(names)):
            study += [item for item, group in zip(items, groups, strict=True) if group == names[k]]
        drawn.append(statistic(np.array(study)))
    return np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])


class TestBootstrap:
    GROUPS = ("a", "c", "b", "c", "a", "d", "d", "d", "e")

    def test_mean_equals_loop(self):
        values = np.random.default_rng(1).normal(size=len(self.GROUPS))
        found = bootstrap_ci(values, self.GROUPS, level=0.9, resamples=200, seed=5)
        assert_allclose((found.low, found.high), loop_bootstrap(values, self.GROUPS, np.mean, 200, 5, 0.9), rtol=RTOL)
        assert found.value == pytest.approx(values.mean())
        assert (found.level, found.groups) == (0.9, 5)

    @pytest.mark.parametrize("draws", [10_000_000, 50], ids=["at once", "in chunks"])
    def test_pooled_f1_equals_loop(self, monkeypatch, draws):
        monkeypatch.setattr(bootstrap, "_DRAWS", draws)
        counts = np.random.default_rng(2).integers(0, 9, (len(self.GROUPS), 3))
        found = bootstrap_ci(torch.tensor(counts), self.GROUPS, f1, resamples=200, seed=3)
        expected = loop_bootstrap(counts, self.GROUPS, lambda study: f1(study.sum(0)), 200, 3, 0.95)
        assert_allclose((found.low, found.high), expected, rtol=RTOL)
        assert found.value == pytest.approx(float(f1(counts.sum(0))))

    def test_order_of_items_is_irrelevant(self):
        values, order = np.arange(9) ** 2, np.random.default_rng(0).permutation(9)
        shuffled = bootstrap_ci(values[order], np.array(self.GROUPS)[order], seed=1)
        assert_allclose(
            list(shuffled.to_dict().values()), list(bootstrap_ci(values, self.GROUPS, seed=1).to_dict().values())
        )
        assert bootstrap_ci(values, self.GROUPS, seed=1) != bootstrap_ci(values, self.GROUPS, seed=2)

    def test_groups_widen_the_interval(self):
        # ten copies of each slide carry no more information than the slides themselves
        slides = np.random.default_rng(0).normal(size=30)
        values, names = np.repeat(slides, 10), np.repeat(np.arange(30), 10)
        alone, grouped, naive = bootstrap_ci(slides), bootstrap_ci(values, names), bootstrap_ci(values)
        assert grouped.high - grouped.low == pytest.approx(alone.high - alone.low, rel=0.1)
        assert grouped.high - grouped.low > 2 * (naive.high - naive.low)

    def test_width_is_that_of_the_normal_interval(self):
        values = np.random.default_rng(0).normal(size=400)
        found = bootstrap_ci(values)
        half = 1.96 * values.std() / 20
        assert_allclose((found.low, found.high), (values.mean() - half, values.mean() + half), atol=0.2 * half)

    def test_undefined_values_are_left_out(self):
        with_nan = bootstrap_ci(torch.tensor([[0.1], [torch.nan], [0.5], [0.9]]), ["a", "b", "c", "d"])
        assert with_nan == bootstrap_ci(torch.tensor([0.1, 0.5, 0.9]), ["a", "c", "d"])

    @pytest.mark.parametrize(
        ("values", "groups", "expected"),
        [
            ([], None, Interval(None, None, None, 0.95, 0)),
            ([np.nan, np.nan], None, Interval(None, None, None, 0.95, 0)),
            ([0.25, 0.75], ["a", "a"], Interval(0.5, None, None, 0.95, 1)),
            ([0.5, 0.5], None, Interval(0.5, 0.5, 0.5, 0.95, 2)),
        ],
        ids=["nothing", "only nan", "one group", "constant"],
    )
    def test_little_data(self, values, groups, expected):
        found = bootstrap_ci(values, groups)
        assert found == expected
        assert Interval(**json.loads(json.dumps(found.to_dict(), allow_nan=False))) == expected

    def test_statistic_that_is_undefined(self):
        def ratio(sums):
            with np.errstate(invalid="ignore", divide="ignore"):
                return sums[..., 0] / sums[..., 1]

        assert bootstrap_ci([[0, 0], [0, 0]], None, ratio) == Interval(None, None, None, 0.95, 2)
        found = bootstrap_ci([[0, 0], [1, 2]], None, ratio)  # a quarter of the resamples is 0 / 0
        assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)

    @pytest.mark.parametrize(
        ("values", "arguments"),
        [
            ([1, 2], {"groups": ["a"]}),
            ([1, 2], {"level": 95}),
            ([[1, 2], [3, 4]], {}),
            ([1, 2], {"statistic": f1}),
        ],
        ids=["groups", "level", "counts without statistic", "statistic without counts"],
    )
    def test_refuses(self, values, arguments):
        with pytest.raises(InputError):
            bootstrap_ci(values, **arguments)

    def test_coverage(self):
        # pooled recall-like ratio over 40 slides of unequal size and quality; the truth is its limit
        rng = np.random.default_rng(0)
        hits, studies, slides = 0, 400, 40
        for study in range(studies):
            n = rng.integers(1, 30, slides)
            tp = rng.binomial(n, rng.beta(6, 2, slides))
            counts = np.stack([tp, np.zeros_like(tp), n - tp], axis=1)
            found = bootstrap_ci(counts, None, lambda c: detection_scores(c)["recall"], resamples=500, seed=study)
            hits += found.low <= 6 / 8 <= found.high
        assert 0.90 <= hits / studies <= 0.98


def slow_auc(scores, labels, weights):
    """Every pair of a positive and a negative, counted as often as both were drawn."""
    won = total = 0.0
    for i, j in itertools.product(range(len(scores)), repeat=2):
        if labels[i] == 1 and labels[j] == 0:
            pair = weights[i] * weights[j]
            won += pair * (1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0)
            total += pair
    return won / total if total else float("nan")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75]), st.integers(0, 1), st.integers(0, 3)), min_size=1),
)
def test_weighted_auc_equals_counting_pairs(items):
    scores, labels, weights = (np.array(column) for column in zip(*items, strict=True))
    found = weighted_auc(scores.astype(float), labels, weights[None])
    np.testing.assert_allclose(found, [slow_auc(scores, labels, weights)], atol=RTOL)


def test_weighted_accuracy_counts_the_right_side():
    scores, labels = np.array([0.2, 0.6, 0.7]), np.array([0, 0, 1])
    np.testing.assert_allclose(weighted_accuracy(scores, labels, np.array([[1, 1, 1], [0, 2, 2]])), [2 / 3, 0.5])


def run(seed, shift, groups=60):
    rng = np.random.default_rng(seed)
    label = np.tile([0, 1], groups // 2)
    return {"score": rng.normal(size=groups) + shift * label, "label": label, "group": [f"g{i}" for i in range(groups)]}


def test_scores_interval_covers_and_narrows_with_trainings():
    one = bootstrap_scores([run(0, 1.0)], weighted_auc)
    five = bootstrap_scores([run(seed, 1.0) for seed in range(5)], weighted_auc)
    assert one.low < one.value < one.high
    assert five.high - five.low < one.high - one.low
    assert five == bootstrap_scores([run(seed, 1.0) for seed in range(5)], weighted_auc)


def test_difference_to_a_baseline_is_paired():
    """A run less itself is zero in every resample; a better run's difference excludes zero."""
    same = bootstrap_scores([run(0, 1.0)], weighted_auc, baseline=[run(0, 1.0)])
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = bootstrap_scores([run(0, 4.0)], weighted_auc, baseline=[run(0, 0.5)])
    assert better.low > 0


def test_scores_need_runs():
    with pytest.raises(InputError, match="runs with scores"):
        bootstrap_scores([], weighted_auc)
