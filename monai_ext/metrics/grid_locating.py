"""How well cancerous cells are located on a grid of patches (LoopNet, Zhang et al., CVPR 2023, Tables 2 to 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_tensor
from torch import Tensor

from monai_ext.base.errors import InputError
from monai_ext.metrics.detection import UnevenCumulative, detection_scores

__all__ = ["GridLocating", "grid_locating_scores", "marked_grids"]


def grid_locating_scores(counts: Any) -> dict[str, np.ndarray]:
    """Precision, recall and Dice of counted patches.

    Where no patch is cancerous and none was found all three are 1; any other ratio without a denominator is 0.

    Args:
        counts: ``(..., 3)`` with true positives, false positives, false negatives.

    Returns:
        ``precision``, ``recall`` and ``dice``, each float64 of shape (...).

    Examples:
        >>> from monai_ext.metrics import grid_locating_scores
        >>> {name: float(score) for name, score in grid_locating_scores([3, 1, 3]).items()}
        {'precision': 0.75, 'recall': 0.5, 'dice': 0.6}
    """
    scores = detection_scores(counts)  # F1 of patches is their Dice coefficient
    return {"precision": scores["precision"], "recall": scores["recall"], "dice": scores["f1"]}


def marked_grids(outputs: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Predictions and truth of the mosaics that :class:`GridLocating` can judge, as a handler's ``output_transform``.

    Args:
        outputs: with ``label``; class ids ``located`` and ``truth``, ``(1, h, w)``; ``uncut``, the number of cancerous
            patches in no mosaic, below 0 where none was marked (``missed`` of
            :class:`~monai_ext.transforms.PatchClassesd`); and ``places``, ``(1, h, w)``, the patches' numbers, below 0
            where none lies (``order`` of :class:`~monai_ext.transforms.CellGridMosaicd`).

    Returns:
        The two grids of each mosaic of an invaded vessel whose cells were marked.

    Examples:
        >>> from monai_ext.metrics import marked_grids
        >>> grid, places = torch.tensor([[[2, 2]]]), torch.tensor([[[0, -1]]])
        >>> invaded = {"label": 1, "uncut": 0, "located": grid, "truth": grid, "places": places}
        >>> located, truth = marked_grids([invaded, {**invaded, "label": 0}])
        >>> len(truth), located[0].tolist()
        (1, [[[2, 0]]])
    """
    marked = [out for out in outputs if float(out["label"]) > 0.5 and int(out["uncut"]) >= 0]
    return [out["located"] * (out["places"] >= 0) for out in marked], [out["truth"] for out in marked]


class GridLocating(UnevenCumulative):
    """Precision, recall and Dice of the patches called cancerous, for each vessel, and the means over vessels.

    Our reading of the paper: a patch is cancerous if it holds a centroid of a cancerous cell, and called so if that is
    its most probable class; a vessel counts as much as any other, however large. The buffer (``get_buffer()``) holds
    the patches of each vessel, ``(N, 3)`` true positives, false positives, false negatives, which
    :func:`grid_locating_scores` turns into scores, also for ``bootstrap_ci``.

    Args:
        positive: id of the class that is scored; 2 of LoopNet's.
        score: the one of the scores that :meth:`aggregate` gives, as MONAI's handlers expect; ``None`` for all.

    Raises:
        InputError: another score.

    Examples:
        >>> from monai_ext.metrics import GridLocating
        >>> metric = GridLocating(score="dice")
        >>> metric(torch.tensor([[[[2, 1], [2, 1]]]]), torch.tensor([[[[2, 1], [0, 2]]]])).tolist()
        [[1, 1, 1]]
        >>> metric.aggregate().item()
        0.5
    """

    def __init__(self, positive: int = 2, score: str | None = None) -> None:
        if score not in (None, "precision", "recall", "dice"):
            raise InputError("score", "'precision', 'recall' or 'dice'", repr(score))
        super().__init__(item_shape=(3,), dtype=torch.int64)
        self.positive, self.score = positive, score

    def __call__(self, y_pred: Any, y: Any) -> Tensor:
        """Count one batch.

        Args:
            y_pred: grids ``(B, 1, h, w)`` of class ids, or bool where the class is ``positive``; or a list of
                ``(1, h, w)``, which may differ in size.
            y: what is true, likewise.

        Returns:
            int64 ``(B, 3)`` on the CPU.

        Raises:
            InputError: grids of different numbers or shapes, or with more than one channel.
        """
        if len(y_pred) != len(y):
            raise InputError("GridLocating", "as many predictions as labels", f"{len(y_pred)} and {len(y)}")
        rows = [self._count(pred, truth) for pred, truth in zip(y_pred, y, strict=True)]
        counts = torch.stack(rows) if rows else self._no_items
        self.extend(counts)
        return counts

    def _count(self, pred: Any, truth: Any) -> Tensor:
        predicted, labelled = self._mask(pred), self._mask(truth)
        if predicted.shape != labelled.shape or predicted.shape[0] != 1:
            raise InputError(
                "GridLocating",
                "grids (1, h, w) of one size",
                f"a prediction {tuple(predicted.shape)} and a label {tuple(labelled.shape)}",
            )
        labelled = labelled.to(predicted.device)
        return torch.stack(
            [(predicted & labelled).sum(), (predicted & ~labelled).sum(), (~predicted & labelled).sum()]
        ).cpu()

    def _mask(self, grid: Any) -> Tensor:
        classes = convert_to_tensor(grid, track_meta=False)
        return classes if classes.dtype == torch.bool else classes == self.positive

    def aggregate(self) -> dict[str, Tensor] | Tensor:
        """``precision``, ``recall``, ``dice``, or one of them: means over the vessels of all ranks; NaN without any."""
        scores = grid_locating_scores(self.get_buffer())
        means = {name: torch.from_numpy(values).mean() for name, values in scores.items()}
        return means if self.score is None else means[self.score]
