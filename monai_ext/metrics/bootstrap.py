"""Confidence intervals by resampling whole slides or patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from monai.utils import convert_to_numpy

from monai_ext.base.errors import InputError

__all__ = [
    "Interval",
    "bootstrap_ci",
    "bootstrap_scores",
    "percentile_interval",
    "weighted_accuracy",
    "weighted_auc",
    "weighted_detection_f1",
    "weighted_mean",
]

_DRAWS = 10_000_000  # drawn at once: bounds the memory with very many groups


@dataclass(frozen=True)
class Interval:
    """A value with its confidence interval; None, never NaN, where a number cannot be had, so that JSON can hold it.

    Attributes:
        value: the statistic of all data; None without data.
        low: lower end; None with fewer than two groups, which say nothing about the spread between groups.
        high: upper end, likewise.
        level: share of repeated studies whose interval would hold the true value, e.g. 0.95.
        groups: number of groups resampled.

    Examples:
        >>> from monai_ext.metrics import Interval
        >>> Interval(value=0.8, low=0.7, high=0.9, level=0.95, groups=12).to_dict()
        {'value': 0.8, 'low': 0.7, 'high': 0.9, 'level': 0.95, 'groups': 12}
    """

    value: float | None
    low: float | None
    high: float | None
    level: float
    groups: int

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the fields as plain JSON types."""
        return asdict(self)


def _mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def bootstrap_ci(
    values: Any,
    groups: Sequence[Any] | None = None,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over groups: slides or patients are drawn with replacement, each with all of its items.

    Items of one slide resemble each other, so resampling items would make intervals too narrow. With few groups (under
    about ten) percentile intervals are themselves somewhat narrow.

    Args:
        values: without ``statistic``, one value per item, (N,) or (N, 1); NaN (a score that is not defined) is left
            out. With ``statistic``, counts per item, (N, K).
        groups: group of each item, (N,), any labels; default: every item is a group of its own.
        statistic: from the counts' sums over the items, (..., K), to the value, (...), all resamples in one call;
            default: the mean of the values. Resamples where it is not finite are left out.
        level: confidence level in (0, 1).
        resamples: number of resamples.
        seed: equal seeds give equal intervals, whatever the order of the items.

    Returns:
        The statistic of all data and its interval.

    Raises:
        InputError: values of a wrong shape, another number of groups than of items, or a level outside (0, 1).

    Examples:
        >>> from monai_ext.metrics import bootstrap_ci
        >>> slides = ["a", "a", "b", "b"]
        >>> interval = bootstrap_ci([0.9, 0.8, 0.5, 0.6], slides)  # mean over images
        >>> round(interval.value, 3), round(interval.low, 3), round(interval.high, 3)
        (0.7, 0.55, 0.85)
        >>> from monai_ext.metrics.detection import detection_scores
        >>> counts = [[8, 1, 0], [2, 0, 1], [0, 1, 1], [5, 0, 2]]  # true positives, false positives, misses
        >>> round(bootstrap_ci(counts, slides, lambda sums: detection_scores(sums)["f1"]).value, 3)  # pooled F1
        0.833
    """
    items = convert_to_numpy(values, wrap_sequence=True).astype(np.float64)
    labels = np.arange(len(items)) if groups is None else np.asarray([str(group) for group in groups])
    if len(labels) != len(items):
        raise InputError("groups", f"one of each of the {len(items)} items", str(len(labels)))
    if not 0 < level < 1:
        raise InputError("level", "a number between 0 and 1", str(level))
    if statistic is None:
        if items.size != len(items):
            raise InputError("values", "one value per item, or a statistic of counts", f"shape {items.shape}")
        defined = ~np.isnan(items.reshape(-1))
        labels, items = labels[defined], items.reshape(-1)[defined]
        items, statistic = np.stack([items, np.ones_like(items)], axis=1), _mean
    elif items.ndim != 2:
        raise InputError("values", "counts of shape (items, K)", f"shape {items.shape}")

    names, group = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(names), items.shape[1]))
    np.add.at(sums, group, items)
    return percentile_interval(len(names), lambda draws: statistic(draws @ sums), level, resamples, seed)


def bootstrap_scores(
    runs: Sequence[Mapping[str, Any]],
    statistic: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    baseline: Sequence[Mapping[str, Any]] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over groups of a statistic of scores and labels, averaged over several trainings.

    The groups of all runs are drawn together, so a group that several runs were tested on counts once, and the
    difference to a baseline is taken on the same draws.

    Args:
        runs: one training each, with ``score`` (N,), ``label`` (N,) of 0 and 1, and ``group`` (N,).
        statistic: from scores (N,), labels (N,) and weights (R, N) to R values, as :func:`weighted_auc`.
        baseline: runs whose mean is subtracted.
        level: confidence level in (0, 1).
        resamples: number of resamples.
        seed: equal seeds give equal intervals.

    Returns:
        The mean over runs, or the difference of means, and its interval.

    Raises:
        InputError: no run, or one without scores.

    Examples:
        >>> from monai_ext.metrics import bootstrap_scores
        >>> from monai_ext.metrics.bootstrap import weighted_auc
        >>> run = {"score": [0.9, 0.2, 0.6, 0.4], "label": [1, 0, 0, 1], "group": ["a", "a", "b", "b"]}
        >>> bootstrap_scores([run], weighted_auc).value
        0.75
    """
    everything = [*runs, *(baseline or [])]
    if not runs or not all(len(run["score"]) for run in everything):
        raise InputError("bootstrap_scores", "runs with scores", f"{len(runs)} runs")
    names = np.unique(np.concatenate([np.asarray(run["group"]).astype(str) for run in everything]))

    def mean(trainings: Sequence[Mapping[str, Any]], draws: np.ndarray) -> np.ndarray:
        values = [
            statistic(
                np.asarray(run["score"], float),
                np.asarray(run["label"], int),
                draws[:, np.searchsorted(names, np.asarray(run["group"]).astype(str))],
            )
            for run in trainings
        ]
        return np.mean(values, axis=0)

    def value(draws: np.ndarray) -> np.ndarray:
        return mean(runs, draws) - (mean(baseline, draws) if baseline else 0.0)

    items = max(len(run["score"]) for run in everything)
    return percentile_interval(len(names), value, level, resamples, seed, items)


def weighted_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, items counted ``weights`` times: the chance that a positive scores above a negative.

    Args:
        scores: (N,); equal scores count half.
        labels: (N,) of 0 and 1.
        weights: (R, N), a row for each value wanted.

    Returns:
        (R,); NaN where a row has no positive or no negative.

    Examples:
        >>> from monai_ext.metrics.bootstrap import weighted_auc
        >>> scores, labels = np.array([0.9, 0.2, 0.6, 0.4]), np.array([1, 0, 0, 1])
        >>> weighted_auc(scores, labels, np.array([[1, 1, 1, 1], [1, 1, 1, 0]])).tolist()
        [0.75, 1.0]
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) > 0])
    ranked = weights[:, order]
    positive = np.add.reduceat(ranked * labels[order], starts, axis=1)
    negative = np.add.reduceat(ranked * (1 - labels[order]), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    with np.errstate(invalid="ignore"):
        return (positive * below).sum(1) / (positive.sum(1) * negative.sum(1))


def weighted_accuracy(
    scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, threshold: float = 0.5
) -> np.ndarray:
    """Share of items on the right side of ``threshold``; arguments and result as :func:`weighted_auc`.

    Examples:
        >>> from monai_ext.metrics.bootstrap import weighted_accuracy
        >>> scores, labels = np.array([0.9, 0.2, 0.6, 0.4]), np.array([1, 0, 0, 1])
        >>> weighted_accuracy(scores, labels, np.array([[1, 1, 1, 1], [1, 1, 0, 0]])).tolist()
        [0.5, 1.0]
    """
    right = (scores > threshold) == (labels > 0)
    with np.errstate(invalid="ignore"):
        return (weights @ right) / weights.sum(1)


def weighted_mean(scores: np.ndarray, _: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of the scores (N,), items counted ``weights`` (R, N) times: (R,); labels do not matter.

    Examples:
        >>> from monai_ext.metrics.bootstrap import weighted_mean
        >>> weighted_mean(np.array([1.0, 3.0]), None, np.array([[1, 1], [2, 0]])).tolist()
        [2.0, 1.0]
    """
    with np.errstate(invalid="ignore"):
        return (weights @ scores) / weights.sum(1)


def weighted_detection_f1(counts: np.ndarray, _: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """F1 of pooled counts (N, 3) of true positives, false positives and misses; else as :func:`weighted_mean`.

    Examples:
        >>> from monai_ext.metrics.bootstrap import weighted_detection_f1
        >>> counts = np.array([[8, 2, 2], [0, 0, 4]])
        >>> weighted_detection_f1(counts, None, np.array([[1, 1], [1, 0]])).round(3).tolist()
        [0.667, 0.8]
    """
    true, false, missed = (weights @ counts).T
    with np.errstate(invalid="ignore"):
        return 2 * true / (2 * true + false + missed)


def percentile_interval(
    groups: int,
    statistic: Callable[[np.ndarray], np.ndarray],
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    items: int = 0,
) -> Interval:
    """The percentile interval of a statistic of how often each group is drawn.

    Args:
        groups: how many there are.
        statistic: from draws (R, groups) to R values; of all ones it gives the value itself.
        level: confidence level in (0, 1).
        resamples: number of resamples.
        seed: equal seeds give equal intervals.
        items: values that the statistic makes of each resample, which bound how many resamples are made at once.

    Examples:
        >>> from monai_ext.metrics.bootstrap import percentile_interval
        >>> values = np.array([3.0, 5.0])  # of two slides
        >>> interval = percentile_interval(len(values), lambda draws: draws @ values / draws.sum(axis=1))
        >>> interval.value, interval.low, interval.high
        (4.0, 3.0, 5.0)
    """
    if groups == 0:
        return Interval(None, None, None, level, 0)
    value = _number(np.squeeze(statistic(np.ones((1, groups), int))))
    if groups == 1:
        return Interval(value, None, None, level, 1)
    rng, chunk = np.random.default_rng(seed), max(1, _DRAWS // max(groups, items))
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    drawn = np.concatenate([np.asarray(statistic(_draws(rng, size, groups)), float) for size in sizes])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) == 0:
        return Interval(value, None, None, level, groups)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, groups)


def _draws(rng: np.random.Generator, resamples: int, groups: int) -> np.ndarray:
    """How often each of the groups is drawn in each resample: (resamples, groups)."""
    drawn = rng.integers(groups, size=(resamples, groups)) + groups * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * groups).reshape(resamples, groups)


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
