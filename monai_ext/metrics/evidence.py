"""Does a map point at the evidence? The 75 % rule (Huang and Chung 2019, section 3.3) and the grid pointing game."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.utils import convert_to_numpy, convert_to_tensor
from torch import Tensor

from monai_ext.base.errors import InputError
from monai_ext.base.smoothing import gaussian_smooth
from monai_ext.metrics.detection import UnevenCumulative

__all__ = [
    "EvidenceLocalization",
    "GridPointing",
    "evidence_mask",
    "localization_counts",
    "localization_scores",
    "pointing_canvas",
    "pointing_scores",
]

_TILES = 9


def evidence_mask(evidence: Tensor, threshold: float = 0.5, smooth: float = 2.0, peak: float | None = None) -> Tensor:
    """Segment maps "by thresholding and smoothing" (section 3.3).

    Our reading, in this order: a pixel is evidence if its value is above a share of the map's maximum; then each pixel
    takes the majority of those around it, weighted by a Gaussian. Specks vanish, pinholes close, outlines become
    round. A share and not a value, as the maximum of CELM differs from image to image: of a product of two maps it is
    the lower the less they agree.

    Args:
        evidence: ``(..., H, W)`` of a floating type, not negative.
        threshold: in [0, 1].
        smooth: standard deviation of the Gaussian, px; 0 for none.
        peak: what the threshold is a share of; by default the maximum of each map. For maps that are to be compared
            with each other, as those of ``EvidenceInferer``, 1.

    Returns:
        bool, the shape of ``evidence``; nothing of a map that is 0 everywhere.

    Examples:
        >>> from monai_ext.metrics import evidence_mask
        >>> evidence = torch.zeros(1, 30, 30)
        >>> evidence[:, 4:16, 4:16] = 0.8
        >>> evidence[:, 25, 25] = 0.8  # a speck
        >>> mask = evidence_mask(evidence, threshold=0.5)
        >>> bool(mask[0, 10, 10]), bool(mask[0, 25, 25])
        (True, False)
    """
    mask = evidence > threshold * (evidence.amax((-2, -1), keepdim=True) if peak is None else peak)
    return gaussian_smooth(mask.to(evidence.dtype), smooth) > 0.5


def localization_counts(pred: Tensor, truth: Tensor, share: float = 0.75) -> Tensor:
    """Judge one mask per image: true positive, false positive, or neither.

    Args:
        pred: bool ``(B, ...)``, what the method shows.
        truth: bool of the same shape, the tumour.
        share: of the mask's pixels; at least so many inside the tumour make it a true positive, at least so many
            outside a false positive.

    Returns:
        int64 ``(B, 3)``: true positive, false positive, image with tumour; each 0 or 1.

    Examples:
        >>> from monai_ext.metrics.evidence import localization_counts
        >>> shown = torch.tensor([[True, True, True, True], [True, True, False, False]])
        >>> tumour = torch.tensor([[True, True, True, False], [False, False, True, True]])
        >>> localization_counts(shown, tumour).tolist()
        [[1, 0, 1], [0, 1, 1]]
    """
    pred, truth = pred.flatten(1), truth.flatten(1)
    size, inside = pred.sum(1), (pred & truth).sum(1)
    predicted = size > 0
    return torch.stack(
        [predicted & (inside >= share * size), predicted & (size - inside >= share * size), truth.any(1)], 1
    ).long()


def localization_scores(counts: Any) -> dict[str, np.ndarray]:
    """Precision ``TP / (TP + FP)``, recall ``TP / images with tumour`` and their harmonic mean.

    Images whose mask is neither (or empty) count against recall alone. A ratio without a denominator is 0.

    Args:
        counts: ``(..., 3)``, sums of :func:`localization_counts`.

    Returns:
        ``precision``, ``recall`` and ``f1``, each float64 of shape (...).

    Examples:
        >>> from monai_ext.metrics.evidence import localization_scores
        >>> {name: float(score) for name, score in localization_scores([3, 1, 6]).items()}
        {'precision': 0.75, 'recall': 0.5, 'f1': 0.6}
    """
    tp, fp, images = np.moveaxis(convert_to_numpy(counts, wrap_sequence=True).astype(np.float64), -1, 0)

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        return above / np.where(below == 0, 1.0, below)

    precision, recall = ratio(tp, tp + fp), ratio(tp, images)
    return {"precision": precision, "recall": recall, "f1": ratio(2 * precision * recall, precision + recall)}


class EvidenceLocalization(UnevenCumulative):
    """Precision and recall of evidence by the 75 % rule (section 3.3).

    Our reading: the mask of an image is judged as a whole. It is a true positive if at least ``share`` of it lies in
    the tumour, a false positive if at least ``share`` of it lies in normal tissue, otherwise neither; an empty mask is
    a miss. The buffer (``get_buffer()``) holds for each image 0 or 1 for true positive, false positive, image with
    tumour, ``(N, 3)``; :func:`localization_scores` turns their sums into scores, also for ``bootstrap_ci``.

    Args:
        share: of the mask's pixels, above one half.

    Raises:
        InputError: a ``share`` outside (0.5, 1].

    Examples:
        >>> from monai_ext.metrics import EvidenceLocalization
        >>> tumour = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
        >>> tumour[:, :, :2] = True
        >>> metric = EvidenceLocalization()
        >>> metric(torch.stack([tumour[0], ~tumour[1]]), tumour).tolist()
        [[1, 0, 1], [0, 1, 1]]
        >>> metric.aggregate()["precision"].item()
        0.5
    """

    def __init__(self, share: float = 0.75) -> None:
        super().__init__(item_shape=(3,), dtype=torch.int64)
        if not 0.5 < share <= 1:
            raise InputError("share", "a number above 0.5 and at most 1", repr(share))
        self.share = share

    def __call__(self, y_pred: Any, y: Any) -> Tensor:
        """Judge one batch.

        Args:
            y_pred: masks ``(B, 1, H, W)``, bool or numbers where 0 is background; or a list of ``(1, H, W)``.
            y: tumour, likewise.

        Returns:
            int64 ``(B, 3)`` on the CPU.

        Raises:
            InputError: masks of different shapes.
        """
        rows = [
            localization_counts(pred != 0, truth != 0, self.share).cpu()
            for pred, truth in _pairs(y_pred, y, type(self).__name__)
        ]
        counts = torch.cat(rows) if rows else self._no_items
        self.extend(counts)
        return counts

    def aggregate(self) -> dict[str, Tensor]:
        """``precision``, ``recall`` and ``f1`` over all images and ranks, 0-dim float64 tensors."""
        scores = localization_scores(self.get_buffer().sum(0))
        return {name: torch.tensor(float(value), dtype=torch.float64) for name, value in scores.items()}


def pointing_canvas(
    positives: Tensor, negatives: Tensor, seed: int | Sequence[int] = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Hide each positive image among eight negatives, in a 3 x 3 canvas (grid pointing game, Boehle et al. 2021).

    Where no masks exist, this tells whether a map finds the evidence: it must lie on the positive tile.

    Args:
        positives: ``(N, C, h, w)``.
        negatives: ``(M, C, h, w)``, at least eight; each canvas takes eight different ones.
        seed: of the places and of the negatives taken.

    Returns:
        canvases ``(N, C, 3h, 3w)``; int64 ``(N,)``, the number of the positive tile, row by row from 0; bool
        ``(N, 1, 3h, 3w)``, its pixels.

    Raises:
        InputError: fewer than eight negatives, or tiles of another size.

    Examples:
        >>> from monai_ext.metrics import pointing_canvas
        >>> canvases, numbers, tiles = pointing_canvas(torch.ones(5, 3, 2, 2), torch.zeros(8, 3, 2, 2))
        >>> tuple(canvases.shape), tuple(numbers.shape)
        ((5, 3, 6, 6), (5,))
        >>> torch.equal(canvases[:, :1] == 1, tiles)
        True
    """
    if len(negatives) < _TILES - 1:
        raise InputError("pointing game", f"at least {_TILES - 1} negative images", str(len(negatives)))
    if positives.shape[1:] != negatives.shape[1:]:
        raise InputError(
            "pointing game", f"tiles of shape {tuple(positives.shape[1:])}", str(tuple(negatives.shape[1:]))
        )
    rng = np.random.default_rng(seed)
    count, channels, height, width = positives.shape
    canvases = positives.new_empty((count, 3, 3, channels, height, width))
    tiles = torch.zeros((count, 3, 3, 1, height, width), dtype=torch.bool, device=positives.device)
    cells = rng.integers(_TILES, size=count)
    for canvas, tile, positive, cell in zip(canvases, tiles, positives, cells, strict=True):
        chosen = rng.choice(len(negatives), _TILES - 1, replace=False)
        around = negatives[torch.as_tensor(chosen, device=negatives.device)]
        canvas.view(_TILES, channels, height, width)[:] = torch.cat([around[:cell], positive[None], around[cell:]])
        tile.view(_TILES, 1, height, width)[cell] = True

    def assembled(parts: Tensor) -> Tensor:
        return parts.permute(0, 3, 1, 4, 2, 5).reshape(count, -1, 3 * height, 3 * width)

    return assembled(canvases), torch.as_tensor(cells), assembled(tiles)


def pointing_scores(evidence: Tensor, tiles: Tensor) -> Tensor:
    """How well maps point at a region.

    Args:
        evidence: ``(B, 1, H, W)``, not negative.
        tiles: bool ``(B, 1, H, W)``, the region.

    Returns:
        float64 ``(B, 2)``: the share of the evidence in the region, and whether the map's maximum lies there (its
        share, should it be reached more than once). Both are 0 for a map that is 0 everywhere: it points nowhere.

    Examples:
        >>> from monai_ext.metrics.evidence import pointing_scores
        >>> evidence = torch.tensor([[[[3.0, 0.0], [0.0, 1.0]]]])
        >>> pointing_scores(evidence, torch.tensor([[[[True, False], [False, False]]]])).tolist()
        [[0.75, 1.0]]
    """
    evidence, tiles = evidence.flatten(1).double(), tiles.flatten(1)
    total = evidence.sum(1)
    peaks = (evidence == evidence.amax(1, keepdim=True)) & (evidence > 0)
    inside, hits = torch.where(tiles, evidence, 0).sum(1), (peaks & tiles).sum(1).double()
    return torch.stack([inside / torch.where(total > 0, total, 1), hits / peaks.sum(1).clamp(min=1)], dim=1)


class GridPointing(UnevenCumulative):
    """The grid pointing game: share of the evidence on the positive tile, and hit rate; by chance both are 1/9.

    The buffer holds both for each canvas, float64 ``(N, 2)``; see :func:`pointing_scores`.

    Examples:
        >>> from monai_ext.metrics import GridPointing, pointing_canvas
        >>> _, _, tiles = pointing_canvas(torch.ones(5, 3, 2, 2), torch.zeros(8, 3, 2, 2))
        >>> metric = GridPointing()
        >>> _ = metric(torch.where(tiles, 2.0, 0.25), tiles)  # 8 on the positive tile, 8 on the other eight together
        >>> {name: value.item() for name, value in metric.aggregate().items()}
        {'share': 0.5, 'hit': 1.0}
    """

    def __init__(self) -> None:
        super().__init__(item_shape=(2,))

    def __call__(self, y_pred: Any, y: Any) -> Tensor:
        """Score one batch.

        Args:
            y_pred: maps ``(B, 1, H, W)``, not negative; or a list of ``(1, H, W)``.
            y: the positive tiles' pixels, as :func:`pointing_canvas` gives them.

        Returns:
            float64 ``(B, 2)`` on the CPU.

        Raises:
            InputError: maps and tiles of different shapes, negative or undefined evidence.
        """
        rows = []
        for evidence, tile in _pairs(y_pred, y, type(self).__name__):
            if not bool((evidence >= 0).all()):
                raise InputError("GridPointing", "evidence >= 0", f"a minimum of {evidence.min().item():g}")
            rows.append(pointing_scores(evidence, tile != 0).cpu())
        scores = torch.cat(rows) if rows else self._no_items
        self.extend(scores)
        return scores

    def aggregate(self) -> dict[str, Tensor]:
        """``share`` and ``hit``, means over all canvases and ranks; NaN without any."""
        share, hit = self.get_buffer().mean(0)
        return {"share": share, "hit": hit}


def _pairs(y_pred: Any, y: Any, name: str) -> list[tuple[Tensor, Tensor]]:
    """Predictions and truths on one device: batches of one size, ``(b, ...)``."""
    if len(y_pred) != len(y):
        raise InputError(name, "as many predictions as labels", f"{len(y_pred)} and {len(y)}")
    if isinstance(y_pred, Tensor) and isinstance(y, Tensor) and y_pred.shape == y.shape:
        return [(convert_to_tensor(y_pred, track_meta=False), convert_to_tensor(y, track_meta=False).to(y_pred.device))]
    pairs = []
    for predicted, true in zip(y_pred, y, strict=True):
        pred = convert_to_tensor(predicted, track_meta=False)
        truth = convert_to_tensor(true, track_meta=False, device=pred.device)
        if pred.shape != truth.shape:
            raise InputError(name, f"a prediction of the label's shape {tuple(truth.shape)}", str(tuple(pred.shape)))
        pairs.append((pred[None], truth[None]))
    return pairs
