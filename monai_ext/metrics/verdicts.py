"""Verdicts on slides from the scores of their vessels: a slide is as suspicious as its most suspicious vessel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from monai_ext.base.errors import InputError
from monai_ext.metrics.bootstrap import bootstrap_ci, bootstrap_scores, weighted_auc

__all__ = ["slide_scores", "slide_threshold", "verdict_scores"]


def slide_scores(table: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    """Of each slide the highest label and score of its vessels.

    Args:
        table: of the vessels ``group`` (their slide), ``label`` (1 if invaded) and ``score`` (0 to 1).

    Returns:
        ``group``, ``label``, ``score`` and ``vessels``, a row for each slide.

    Examples:
        >>> from monai_ext.metrics.verdicts import slide_scores
        >>> vessels = {"group": ["a", "a", "b"], "label": [0, 1, 0], "score": [0.2, 0.9, 0.4]}
        >>> slide_scores(vessels).values.tolist()
        [['a', 1, 0.9, 2], ['b', 0, 0.4, 1]]
    """
    vessels = pd.DataFrame({name: list(table[name]) for name in ("group", "label", "score")})
    grouped = vessels.groupby("group", sort=True)
    return grouped.agg(label=("label", "max"), score=("score", "max"), vessels=("score", "size")).reset_index()


def verdict_scores(table: Mapping[str, Sequence[Any]], threshold: float = 0.5) -> dict[str, Any]:
    """How good verdicts are, with 95 % bootstrap intervals over slides.

    Args:
        table: see :func:`slide_scores`.
        threshold: one vessel of a higher score makes a slide positive.

    Returns:
        ``sensitivity``, of the slides that have an invaded vessel; ``specificity``, of those that have none; ``auc``;
        the numbers of both, ``with_invaded`` and ``free``; and ``threshold``.

    Examples:
        >>> from monai_ext.metrics.verdicts import verdict_scores
        >>> vessels = {"group": ["a", "a", "b", "c"], "label": [0, 1, 0, 0], "score": [0.2, 0.9, 0.6, 0.1]}
        >>> scores = verdict_scores(vessels)
        >>> [scores[name].value for name in ("sensitivity", "specificity", "auc")]
        [1.0, 0.5, 1.0]
    """
    slides = slide_scores(table)
    invaded, positive = (slides["label"] > 0).to_numpy(), (slides["score"] > threshold).to_numpy()
    return {
        "sensitivity": bootstrap_ci(positive[invaded].astype(float), slides["group"][invaded]),
        "specificity": bootstrap_ci(1.0 - positive[~invaded], slides["group"][~invaded]),
        "auc": bootstrap_scores([slides], weighted_auc),
        "with_invaded": int(invaded.sum()),
        "free": int((~invaded).sum()),
        "threshold": float(threshold),
    }


def slide_threshold(table: Mapping[str, Sequence[Any]], specificity: float) -> float:
    """A threshold at which at least so large a share of the slides free of invaded vessels is called so.

    Of all such thresholds the least ones serve, between the score of a slide that is free and the next higher score of
    any slide; the middle between these two is taken.

    Args:
        table: see :func:`slide_scores`.
        specificity: above 0, at most 1.

    Raises:
        InputError: a share outside its range, or no slide that is free.

    Examples:
        >>> from monai_ext.metrics.verdicts import slide_threshold
        >>> vessels = {"group": list("abcd"), "label": [0, 0, 0, 1], "score": [0.2, 0.6, 0.1, 0.9]}
        >>> slide_threshold(vessels, specificity=0.6), slide_threshold(vessels, specificity=0.95)
        (0.4, 0.75)
    """
    if not 0 < specificity <= 1:
        raise InputError("specificity", "a share above 0, at most 1", repr(specificity))
    slides = slide_scores(table)
    free = np.sort(slides["score"][slides["label"] == 0].to_numpy())
    if not len(free):
        raise InputError("slide_threshold", "slides free of invaded vessels", f"none of {len(slides)}")
    least = free[int(np.ceil(specificity * len(free) - 1e-9)) - 1]
    above = slides["score"][slides["score"] > least]
    return float((least + min([1.0, *above])) / 2)
