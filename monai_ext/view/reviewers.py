"""How well reviewers of the same objects agree."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.formats.geojson import read_geojson
from monai_ext.metrics.bootstrap import Interval, bootstrap_ci
from monai_ext.reports.pages import write_report
from monai_ext.view.cases import find_cases
from monai_ext.view.object_index import ObjectIndex
from monai_ext.view.review_log import ReviewLog, content_of

__all__ = ["cohens_kappa", "compare_reviewers"]

_REJECTED, _NO_CLASS = "rejected", "object"


def cohens_kappa(counts: np.ndarray) -> np.ndarray:
    """Agreement beyond chance (Cohen 1960): 1 for full agreement, 0 for what chance gives.

    Args:
        counts: ``(..., C * C)`` of objects: what one reviewer said along rows, the other along columns.

    Returns:
        ``(...)``; NaN where both said one and the same thing of all objects, or there is none.

    Examples:
        >>> from monai_ext.view.reviewers import cohens_kappa
        >>> float(cohens_kappa(np.array([20, 5, 10, 15])).round(3))
        0.4
    """
    counts = np.asarray(counts, float)
    side = round(counts.shape[-1] ** 0.5)
    table = counts.reshape(*counts.shape[:-1], side, side)
    with np.errstate(invalid="ignore", divide="ignore"):
        table = table / table.sum((-2, -1), keepdims=True)
        chance = (table.sum(-1) * table.sum(-2)).sum(-1)
        return (np.trace(table, axis1=-2, axis2=-1) - chance) / (1 - chance)


def compare_reviewers(
    src: str | os.PathLike, dst: str | os.PathLike, *, slides: str | os.PathLike | None = None
) -> str:
    """Compare what reviewers said of the same objects of a run: kappa of their labels, F1 of what they accepted.

    A label is the class that an object was given, its own where it was accepted or drawn, or that it was rejected.
    Intervals are over slides. Each reviewer starts ``monai-ext view`` with a ``--reviewer`` of their own.

    Args:
        src: the output folder of a run, with corrections.
        dst: the folder to write: ``reviewers.csv`` and ``report.html``.
        slides: the folder that the run's images lie in now, or its only image, where they have been moved.

    Returns:
        the path of ``reviewers.csv``.

    Raises:
        InputError: no run, or no two reviewers who have seen the same object.
    """
    said = _said(src, slides)
    names = sorted(said["reviewer"].unique())
    rows, lines, confusions = [], [], {}
    for one, other in combinations(names, 2):
        keys = ["slide", "object"]
        both = said[said["reviewer"] == one].merge(said[said["reviewer"] == other], on=keys, suffixes=("_1", "_2"))
        if both.empty:
            continue
        scores = _scores(both)
        pair: dict[str, Any] = {"reviewer": one, "other": other, "objects": len(both)}
        rows.append(pair | {f"{k}{end}": getattr(v, part) for k, v in scores.items() for part, end in _COLUMNS})
        lines.append(pair | scores)
        confusions[f"{one} (rows) and {other}"] = pd.crosstab(both["label_1"], both["label_2"]).reset_index(names="")
    if not rows:
        found = f"corrections of {', '.join(names)}" if names else "no corrections"
        raise InputError(src, "two reviewers (monai-ext view --reviewer NAME) who have seen the same objects", found)
    path = Path(dst) / "reviewers.csv"
    with atomic_path(path) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    tables = {"Pairs": lines, **confusions}
    write_report(path.with_name("report.html"), title="Reviewers", metrics={}, tables=tables, notes={"Run": str(src)})
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    return str(path)


_COLUMNS = (("value", ""), ("low", " low"), ("high", " high"))


def _said(src: str | os.PathLike, slides: str | os.PathLike | None) -> pd.DataFrame:
    """A row for each object and reviewer: what was said of it."""
    rows = []
    for case in find_cases(src, slides).cases:
        if case.log is None or not case.log.is_file():
            continue
        features = read_geojson(case.objects)
        log = ReviewLog(case.log, content_of(case.objects), len(features))
        index = ObjectIndex(features).with_more(log.drawn())
        for reviewer, decisions in log.by_reviewer().items():
            labels = {}
            for decision in sorted(decisions.values(), key=lambda each: each.number):
                own = index.features.classes[decision.object] or _NO_CLASS
                label = {"reject": _REJECTED, "class": decision.name}.get(decision.action, own)
                labels[int(index.unit[decision.object])] = label  # of a point and its outline what was said last
            rows += [(case.name, number, reviewer, label) for number, label in labels.items()]
    return pd.DataFrame(rows, columns=["slide", "object", "reviewer", "label"])


def _scores(both: pd.DataFrame) -> dict[str, Interval]:
    """Of objects that two reviewers have seen, with intervals over slides."""
    labels = sorted({*both["label_1"], *both["label_2"]})
    one, other = (both[column].map(labels.index).to_numpy() for column in ("label_1", "label_2"))
    cell = np.eye(len(labels) ** 2, dtype=int)[one * len(labels) + other]
    accepted = np.stack([both[column] != _REJECTED for column in ("label_1", "label_2")], 1)
    counts = np.column_stack([2 * accepted.all(1), accepted.sum(1)])  # F1 = 2 TP / (2 TP + FP + FN)
    slides = both["slide"]
    return {"kappa": bootstrap_ci(cell, slides, cohens_kappa), "F1 of accepted": bootstrap_ci(counts, slides, _ratio)}


def _ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return sums[..., 0] / sums[..., 1]
