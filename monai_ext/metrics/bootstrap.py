"""Confidence intervals by resampling whole slides or patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from monai.utils import convert_to_numpy

from monai_ext.errors import InputError

__all__ = ["Interval", "bootstrap_ci"]

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

    .. code-block:: python

        bootstrap_ci(aji.aggregate("none"), slides)  # mean over images
        bootstrap_ci(detection_f1.get_buffer(), slides, lambda counts: detection_scores(counts)["f1"])  # pooled F1

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
    if len(names) == 0:
        return Interval(None, None, None, level, 0)
    sums = np.zeros((len(names), items.shape[1]))
    np.add.at(sums, group, items)
    value = _number(statistic(sums.sum(0)))
    if len(names) == 1:
        return Interval(value, None, None, level, 1)
    rng, chunk = np.random.default_rng(seed), max(1, _DRAWS // len(names))
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    drawn = np.concatenate([np.asarray(statistic(_draws(rng, size, len(names)) @ sums), float) for size in sizes])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) == 0:
        return Interval(value, None, None, level, len(names))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), level, len(names))


def _draws(rng: np.random.Generator, resamples: int, groups: int) -> np.ndarray:
    """How often each of the groups is drawn in each resample: (resamples, groups)."""
    drawn = rng.integers(groups, size=(resamples, groups)) + groups * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * groups).reshape(resamples, groups)


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
