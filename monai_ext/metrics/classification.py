"""Classification into several classes: F1, precision, recall and accuracy from confusion counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_numpy
from torch import Tensor

from monai_ext.base.errors import InputError
from monai_ext.metrics.bootstrap import Interval, bootstrap_ci
from monai_ext.metrics.detection import UnevenCumulative

__all__ = [
    "WEIGHTED",
    "ClassificationF1",
    "class_scores",
    "class_scores_ci",
    "confusion_counts",
    "weighted_f1",
    "weighted_share",
]

WEIGHTED = ("f1", "accuracy", "precision", "recall")
PLAIN = ("macro_f1", "balanced_accuracy")  # every class counts alike


def confusion_counts(labels: Any, predicted: Any, classes: int) -> np.ndarray:
    """Where each item belongs in the confusion matrix.

    Args:
        labels: (N,) true classes, 0 to ``classes - 1``.
        predicted: (N,) predicted classes.
        classes: their number, C.

    Returns:
        int64 ``(C, C)``, a row for each true class.

    Raises:
        InputError: classes outside the range.

    Examples:
        >>> from monai_ext.metrics.classification import confusion_counts
        >>> confusion_counts(labels=[0, 0, 1, 1], predicted=[0, 1, 1, 1], classes=2).tolist()
        [[1, 1], [0, 2]]
    """
    pair = [convert_to_numpy(x, wrap_sequence=True).astype(np.int64).reshape(-1) for x in (labels, predicted)]
    for name, ids in zip(("labels", "predicted"), pair, strict=True):
        if len(ids) and not (ids.min() >= 0 and ids.max() < classes):
            raise InputError(name, f"classes 0 to {classes - 1}", f"{ids.min()} to {ids.max()}")
    return np.bincount(pair[0] * classes + pair[1], minlength=classes**2).reshape(classes, classes)


def class_scores(confusion: Any) -> dict[str, np.ndarray]:
    """Scores of confusion counts: of each class, and their means weighted by the classes' true numbers.

    The weighted means are those of scikit-learn's ``average="weighted"`` with ``zero_division=0``: the weighted recall
    is the accuracy. In Háberová and Vykopal's Table 3 it is, so these are their figures.

    Args:
        confusion: (..., C, C), a row for each true class.

    Returns:
        ``accuracy``, and the weighted ``f1``, ``precision`` and ``recall``, each (...), NaN without an item;
        ``class_f1``, ``class_precision``, ``class_recall``, each (..., C), 0 where nothing defines them;
        ``macro_f1``, the plain mean over the classes that occur among labels or predictions; ``balanced_accuracy``,
        the mean recall of the classes that occur among labels, as scikit-learn's.

    Examples:
        >>> from monai_ext.metrics import class_scores
        >>> scores = class_scores([[8, 2], [1, 9]])
        >>> round(float(scores["accuracy"]), 3), scores["class_recall"].round(3).tolist()
        (0.85, [0.8, 0.9])
    """
    counts = convert_to_numpy(confusion, wrap_sequence=True).astype(np.float64)
    hit = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(-1), counts.sum(-2)
    per_class = {
        "precision": _ratio(hit, predicted),
        "recall": _ratio(hit, true),
        "f1": _ratio(2 * hit, true + predicted),
    }
    total, present = true.sum(-1), true + predicted > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        weighted = {name: (value * true).sum(-1) / total for name, value in per_class.items()}
        macro = (per_class["f1"] * present).sum(-1) / present.sum(-1)
        balanced = per_class["recall"].sum(-1) / (true > 0).sum(-1)  # a class without items has recall 0 here
        accuracy = hit.sum(-1) / total
    return {
        "accuracy": accuracy,
        **weighted,
        "macro_f1": macro,
        "balanced_accuracy": balanced,
        **{f"class_{name}": value for name, value in per_class.items()},
    }


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return above / np.where(below == 0, 1.0, below)


def class_scores_ci(
    labels: Any, predicted: Any, classes: Sequence[str], groups: Sequence[Any] | None = None, **options: Any
) -> dict[str, Any]:
    """Scores with 95 % bootstrap intervals over groups.

    Args:
        labels: (N,) true classes.
        predicted: (N,) predicted classes.
        classes: the classes' names.
        groups: (N,) slide or source image of each item; default: every item is a group of its own.
        **options: of :func:`~monai_ext.metrics.bootstrap_ci`: ``level``, ``resamples``, ``seed``.

    Returns:
        ``f1``, ``accuracy``, ``precision``, ``recall`` (weighted), ``macro_f1`` and ``balanced_accuracy`` as intervals;
        ``classes``: of each class ``f1``, ``precision``, ``recall`` as intervals and its ``count``.

    Examples:
        >>> from monai_ext.metrics import class_scores_ci
        >>> slides = ["a", "a", "b", "b"]
        >>> scores = class_scores_ci([0, 0, 1, 1], [0, 1, 1, 1], classes=["healthy", "tumour"], groups=slides)
        >>> scores["accuracy"].value, scores["accuracy"].low, scores["accuracy"].high
        (0.75, 0.5, 1.0)
        >>> scores["classes"]["tumour"]["recall"].value, scores["classes"]["tumour"]["count"]
        (1.0, 2)
    """
    size = len(classes)
    labels, predicted = (convert_to_numpy(x, wrap_sequence=True).astype(np.int64) for x in (labels, predicted))
    names, group = np.unique(
        np.arange(len(labels)) if groups is None else np.asarray(groups).astype(str), return_inverse=True
    )
    flat = confusion_counts(labels, predicted, size)  # refuses what lies outside, before it could leak into a neighbour
    cells = np.bincount((group * size + labels) * size + predicted, minlength=len(names) * size**2)
    cells = cells.reshape(len(names), size**2)

    def interval(score: str, index: int | None = None) -> Interval:
        def statistic(sums: np.ndarray) -> np.ndarray:
            value = class_scores(sums.reshape(*sums.shape[:-1], size, size))[score]
            return value if index is None else value[..., index]

        return bootstrap_ci(cells, names, statistic, **options)

    per_class = {
        name: {score: interval(f"class_{score}", index) for score in ("f1", "precision", "recall")}
        | {"count": int(flat[index].sum())}
        for index, name in enumerate(classes)
    }
    return {name: interval(name) for name in (*WEIGHTED, *PLAIN)} | {"classes": per_class}


def weighted_f1(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weighted F1 for :func:`~monai_ext.metrics.bootstrap_scores`, items counted ``weights`` times.

    Args:
        predicted: (N,) predicted classes.
        labels: (N,) true classes.
        weights: (R, N), a row for each value wanted.

    Returns:
        (R,); NaN where a row counts nothing.

    Examples:
        >>> from monai_ext.metrics.classification import weighted_f1
        >>> predicted, labels = np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1])
        >>> weighted_f1(predicted, labels, np.array([[1, 1, 1, 1], [1, 0, 1, 1]])).round(3).tolist()
        [0.733, 1.0]
    """
    size = int(max(predicted.max(), labels.max())) + 1
    cell = np.eye(size**2)[labels.astype(int) * size + predicted.astype(int)]
    return class_scores((weights @ cell).reshape(-1, size, size))["f1"]


def weighted_share(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of items of the right class; arguments and result as :func:`weighted_f1`.

    Examples:
        >>> from monai_ext.metrics.classification import weighted_share
        >>> predicted, labels = np.array([0, 1, 1, 1]), np.array([0, 0, 1, 1])
        >>> weighted_share(predicted, labels, np.array([[1, 1, 1, 1], [1, 0, 1, 1]])).tolist()
        [0.75, 1.0]
    """
    with np.errstate(invalid="ignore"):
        return (weights @ (predicted == labels)) / weights.sum(1)


class ClassificationF1(UnevenCumulative):
    """Weighted F1, or another of :func:`class_scores`, of all items together, as a cumulative metric.

    Args:
        num_classes: C.
        score: ``"f1"``, ``"accuracy"``, ``"precision"``, ``"recall"``, ``"macro_f1"`` or
            ``"balanced_accuracy"``.

    Raises:
        InputError: another score.

    Examples:
        >>> from monai_ext.metrics import ClassificationF1
        >>> metric = ClassificationF1(num_classes=3, score="accuracy")
        >>> metric(torch.tensor([[2.0, 0.1, 0.3], [0.2, 0.1, 3.0]]), torch.tensor([0, 1]))
        >>> metric.aggregate().item()
        0.5
        >>> metric.confusion().tolist()
        [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    """

    def __init__(self, num_classes: int, score: str = "f1") -> None:
        if score not in (*WEIGHTED, *PLAIN):
            raise InputError("score", " or ".join((*WEIGHTED, *PLAIN)), repr(score))
        super().__init__((2,), torch.int64)
        self.num_classes, self.score = num_classes, score

    def __call__(self, y_pred: Tensor | Sequence[Tensor], y: Tensor | Sequence[Tensor]) -> None:
        """Add a batch.

        Args:
            y_pred: scores ``(B, C)``, before or after softmax, or a list of ``(C,)``.
            y: true classes ``(B,)`` or ``(B, 1)``, or a list of single numbers.
        """
        scores, labels = (
            x if isinstance(x, Tensor) else torch.stack([torch.as_tensor(v) for v in x]) for x in (y_pred, y)
        )
        pairs = torch.stack([labels.reshape(-1).long().cpu(), scores.detach().argmax(1).cpu()], dim=1)
        self.extend(pairs)

    def confusion(self) -> np.ndarray:
        """Counts so far, ``(C, C)``, a row for each true class."""
        pairs = self.get_buffer()
        pairs = np.empty((0, 2)) if pairs is None else convert_to_numpy(pairs)
        return confusion_counts(pairs[:, 0], pairs[:, 1], self.num_classes)

    def aggregate(self) -> Tensor:
        """The score of everything so far, a scalar."""
        return torch.as_tensor(class_scores(self.confusion())[self.score])

    def scores(self) -> Mapping[str, np.ndarray]:
        """All of :func:`class_scores`."""
        return class_scores(self.confusion())
