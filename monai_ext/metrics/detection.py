"""Detection of points: one-to-one matching within a radius, precision, recall and F1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from monai.metrics import Cumulative, Metric
from monai.utils import convert_to_numpy, ensure_tuple, evenly_divisible_all_gather
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from monai_ext.base.errors import InputError

__all__ = [
    "BestDetectionF1",
    "DetectionF1",
    "UnevenCumulative",
    "detection_scores",
    "match_detections",
    "sweep_detection_thresholds",
]

COUNTS = ["tp", "fp", "fn"]
_BLOCK = 1024  # candidate pairs solved together: the assignment solver is quadratic in the size of its problem


class UnevenCumulative(Cumulative, Metric):
    """A cumulative metric whose ranks may hold different numbers of items, or none at all.

    MONAI's :class:`~monai.metrics.Cumulative` skips the gathering on a rank that has seen no item, and the other ranks
    then wait for it for ever. Here every rank takes part, with an empty tensor if need be.

    Args:
        item_shape: shape of the tensor that is buffered for each item.
        dtype: its type.

    Examples:
        >>> from monai_ext.metrics.detection import UnevenCumulative
        >>> class Mean(UnevenCumulative):
        ...     def __call__(self, values):
        ...         self.extend(values)
        ...     def aggregate(self):
        ...         return self.get_buffer().mean(0)
        >>> mean = Mean(item_shape=(2,))
        >>> mean(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
        >>> mean.aggregate().tolist()
        [2.0, 4.0]
    """

    def __init__(self, item_shape: Sequence[int], dtype: torch.dtype = torch.float64) -> None:
        self._no_items = torch.empty((0, *item_shape), dtype=dtype)
        super().__init__()

    def extend(self, *data: Any) -> None:
        """Add a batch of items, which may be empty."""
        if len(data[0]):
            super().extend(*data)

    def _sync(self) -> None:
        if self._synced:
            return
        rows = self._buffers[0] if self._buffers else []
        local = torch.stack(rows) if rows else self._no_items
        self._synced_tensors = [evenly_divisible_all_gather(local, concat=True).cpu()]
        self._synced = True


def _points(points: Any, name: str) -> np.ndarray:
    """First two columns (row, col) of ``points`` as float64 (N, 2); an empty array of any shape is no point."""
    array = convert_to_numpy(points, wrap_sequence=True)
    if array.size == 0:
        return np.empty((0, 2))
    if array.ndim != 2 or array.shape[1] < 2:
        raise InputError(name, "points of shape (N, >=2) with columns row, col", f"shape {tuple(array.shape)}")
    array = array[:, :2].astype(np.float64)
    if not np.isfinite(array).all():
        raise InputError(name, "finite coordinates", f"{array[~np.isfinite(array).all(1)][0].tolist()}")
    return array


def _candidates(pred: np.ndarray, truth: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every pair at a distance <= radius: indices into ``pred``, indices into ``truth``, distances."""
    pairs = cKDTree(pred).sparse_distance_matrix(cKDTree(truth), radius, output_type="ndarray")
    return pairs["i"], pairs["j"], pairs["v"]


def match_detections(pred: Any, truth: Any, radius: float) -> np.ndarray:
    """Match detections to true points one to one, as many as possible, then as closely as possible.

    The assignment is optimal, not greedy: among all one-to-one matchings of pairs at a distance <= ``radius`` it has
    the largest number of pairs and, among those, the smallest sum of distances. 100,000 points take under a second.

    Args:
        pred: detections, (N, >=2), first columns row, col; array or tensor. N may be 0.
        truth: true points, (M, >=2), likewise.
        radius: largest distance of a match, in the unit of the points.

    Returns:
        int64 array (K, 2) of indices into ``pred`` and ``truth``, ordered by the first. Detections that do not appear
        are false positives, true points that do not appear are false negatives.

    Raises:
        InputError: points of another shape, or not finite.

    Examples:
        >>> from monai_ext.metrics import match_detections
        >>> detections, truth = [[0, 0], [10, 10], [50, 50]], [[11, 10], [1, 0]]
        >>> match_detections(detections, truth, radius=5).tolist()
        [[0, 1], [1, 0]]
    """
    pred, truth = _points(pred, "detections"), _points(truth, "true points")
    row, col, distance = _candidates(pred, truth, radius)
    if len(row) == 0:
        return np.empty((0, 2), dtype=np.int64)
    # independent groups of points side by side in blocks of moderate size
    graph = coo_array((np.ones(len(row)), (row, len(pred) + col)), shape=(len(pred) + len(truth),) * 2)
    component = connected_components(graph, directed=False)[1][row]
    order = np.argsort(component, kind="stable")
    component = component[order]
    block = np.searchsorted(component, component) // _BLOCK
    blocks = np.split(order, np.flatnonzero(np.diff(block)) + 1)
    matches = np.concatenate([_assign(row[b], col[b], distance[b], radius) for b in blocks])
    return matches[np.argsort(matches[:, 0])]


def _assign(row: np.ndarray, col: np.ndarray, distance: np.ndarray, radius: float) -> np.ndarray:
    """Optimal matching among the given pairs: (K, 2) of the values in ``row`` and ``col``."""
    rows, i = np.unique(row, return_inverse=True)
    cols, j = np.unique(col, return_inverse=True)
    # Each row also gets a private dummy column, dearer than any rearrangement of distances, so that a full matching
    # exists and has the fewest dummies. The 1 keeps zero distances in the sparse matrix; every row pays it once.
    unmatched = (min(len(rows), len(cols)) + 1) * radius + 2
    dummy = np.arange(len(rows))
    costs = np.concatenate([distance + 1, np.full(len(rows), unmatched)])
    index = np.concatenate([i, dummy]), np.concatenate([j, len(cols) + dummy])
    a, b = min_weight_full_bipartite_matching(
        coo_array((costs, index), shape=(len(rows), len(cols) + len(rows))).tocsr()
    )
    real = b < len(cols)
    return np.stack([rows[a[real]], cols[b[real]]], axis=1).astype(np.int64)


def detection_scores(counts: Any) -> dict[str, np.ndarray]:
    """Precision, recall and F1 of counts.

    Where nothing was to be found and nothing was found all three are 1; any other ratio without a denominator
    (precision without a detection, recall without a true point) is 0. No value is ever NaN.

    Args:
        counts: (..., 3) with true positives, false positives, false negatives.

    Returns:
        ``precision``, ``recall`` and ``f1``, each float64 of shape (...).

    Examples:
        >>> from monai_ext.metrics.detection import detection_scores
        >>> scores = detection_scores([8, 2, 0])
        >>> {name: round(float(score), 3) for name, score in scores.items()}
        {'precision': 0.8, 'recall': 1.0, 'f1': 0.889}
    """
    tp, fp, fn = np.moveaxis(convert_to_numpy(counts, wrap_sequence=True).astype(np.float64), -1, 0)
    empty = tp + fp + fn == 0

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        return np.where(empty, 1.0, above / np.where(below == 0, 1.0, below))

    return {"precision": ratio(tp, tp + fp), "recall": ratio(tp, tp + fn), "f1": ratio(2 * tp, 2 * tp + fp + fn)}


def _score_table(counts: Any, **columns: Any) -> pd.DataFrame:
    counts = np.asarray(counts).reshape(-1, 3)
    return pd.DataFrame({**columns, **dict(zip(COUNTS, counts.T, strict=True)), **detection_scores(counts)})


class DetectionF1(UnevenCumulative):
    """Precision, recall and F1 of point detections by optimal one-to-one matching within a radius.

    Pooled over all fields: F1 = 2 TP / (2 TP + FP + FN). :meth:`table` gives the same per field and per group.
    The buffer (``get_buffer()``) holds the int64 counts TP, FP, FN of each field, (F, 3), gathered over all ranks.
    See :func:`detection_scores` for fields without truth or detections; they leave pooled counts as they are.
    With MONAI's engines: ``IgniteMetricHandler(metric_fn=metric, output_transform=from_engine(["points", "label"]))``.

    Args:
        radius: largest distance between a detection and its true point; a pair at exactly this distance matches.
        unit: ``"px"`` or ``"um"``, the unit of ``radius``. Points are always in pixels.
        mpp: pixel size in um, for ``unit="um"``; a call may give its own. Not used with ``"px"``.
        metric_name: what :meth:`aggregate` returns, one or more of ``"f1"``, ``"precision"``, ``"recall"``.

    Raises:
        InputError: an argument outside these values.

    Examples:
        >>> from monai_ext.metrics import DetectionF1
        >>> metric = DetectionF1(radius=7.5, unit="um", mpp=0.25)  # 30 px
        >>> detections, truth = [[100, 100], [400, 400]], [[110, 100], [200, 200]]
        >>> metric([detections], [truth], groups=["slide 1"]).tolist()
        [[1, 1, 1]]
        >>> metric.aggregate().item()
        0.5
        >>> metric.table("group")["recall"].tolist()
        [0.5]
    """

    def __init__(
        self,
        radius: float,
        unit: Literal["px", "um"] = "px",
        mpp: float | None = None,
        metric_name: Sequence[str] | str = "f1",
    ) -> None:
        super().__init__(item_shape=(3,), dtype=torch.int64)
        if not radius >= 0:
            raise InputError("radius", "a distance >= 0", str(radius))
        if unit not in ("px", "um"):
            raise InputError("unit", "'px' or 'um'", repr(unit))
        self.radius, self.unit, self.mpp, self.metric_name = radius, unit, mpp, ensure_tuple(metric_name)
        if unknown := set(self.metric_name) - {"f1", "precision", "recall"}:
            raise InputError("metric_name", "'f1', 'precision' or 'recall'", repr(min(unknown)))

    def __call__(
        self,
        y_pred: Sequence[Any],
        y: Sequence[Any],
        groups: Sequence[Any] | None = None,
        mpp: float | Sequence[float] | None = None,
    ) -> torch.Tensor:
        """Count one batch of fields.

        Args:
            y_pred: detections of each field, (N, >=2) with columns row, col in pixels; N may be 0.
            y: true points of each field, (M, >=2), likewise.
            groups: slide or patient of each field; fields without one share the group ``""``.
            mpp: pixel size in um, one for all or one per field; default: the constructor's.

        Returns:
            int64 tensor (fields, 3): TP, FP, FN.

        Raises:
            InputError: lists of different lengths, points of a wrong shape, or a radius in um without ``mpp``.
        """
        groups = [""] * len(y) if groups is None else [str(group) for group in groups]
        pixel_sizes = list(mpp) if isinstance(mpp, (Sequence, np.ndarray, torch.Tensor)) else [mpp] * len(y)
        if not len(y_pred) == len(y) == len(groups) == len(pixel_sizes):
            lengths = (
                f"{len(y_pred)} predictions, {len(y)} labels, {len(groups)} groups, {len(pixel_sizes)} pixel sizes"
            )
            raise InputError("DetectionF1", "one of each per field", lengths)
        counts = torch.tensor(
            [self._count(*field) for field in zip(y_pred, y, pixel_sizes, strict=True)], dtype=torch.int64
        ).reshape(-1, 3)
        self.extend(counts)
        self._groups.extend(groups)
        return counts

    def _count(self, pred: Any, truth: Any, mpp: float | None) -> tuple[int, int, int]:
        pred, truth = _points(pred, "detections"), _points(truth, "true points")
        tp = len(match_detections(pred, truth, self._radius_px(mpp)))
        return tp, len(pred) - tp, len(truth) - tp

    def _radius_px(self, mpp: float | None) -> float:
        if self.unit == "px":
            return self.radius
        mpp = self.mpp if mpp is None else float(mpp)
        if mpp is None or not mpp > 0:
            raise InputError("mpp", "a pixel size in um > 0 for a radius in um", str(mpp))
        return self.radius / mpp

    def reset(self) -> None:
        """Forget all fields."""
        super().reset()
        self._groups: list[str] = []
        self._synced_groups: list[str] = []

    def _sync(self) -> None:
        if not self._synced:
            # every name ends in NUL, so that the ranks' bytes can simply be joined and a rank may have none
            names = bytearray("".join(f"{group}\0" for group in self._groups).encode())
            joined = evenly_divisible_all_gather(torch.tensor(names, dtype=torch.uint8), concat=True)
            self._synced_groups = bytes(joined.tolist()).decode().split("\0")[:-1]
        super()._sync()

    def aggregate(self) -> torch.Tensor | list[torch.Tensor]:
        """Return the pooled score over all fields and ranks.

        Returns:
            0-dim float64 tensor, or a list of them if ``metric_name`` names several.
        """
        pooled = detection_scores(self.get_buffer().sum(0))
        scores = [torch.tensor(float(pooled[name]), dtype=torch.float64) for name in self.metric_name]
        return scores[0] if len(scores) == 1 else scores

    def table(self, by: Literal["field", "group", "pooled"] = "field") -> pd.DataFrame:
        """Tabulate counts and scores over all ranks; like :meth:`aggregate`, call it on every rank.

        Args:
            by: one row per field (in the order of the calls, rank after rank), per group (in the order of their first
                field), or a single row.

        Returns:
            Columns ``group`` (not when pooled), ``tp``, ``fp``, ``fn``, ``precision``, ``recall``, ``f1``.
        """
        counts = self.get_buffer().numpy()
        if by == "field":
            return _score_table(counts, group=self._synced_groups)
        if by == "group":
            sums = pd.DataFrame(counts, columns=COUNTS).groupby(self._synced_groups, sort=False).sum()
            return _score_table(sums, group=sums.index)
        if by == "pooled":
            return _score_table(counts.sum(0))
        raise InputError("by", "'field', 'group' or 'pooled'", repr(by))


def sweep_detection_thresholds(
    detections: Sequence[Any], truths: Sequence[Any], radius: float, areas: Any, scores: Any
) -> pd.DataFrame:
    """Score every pair of an area and a score threshold (SegMitos section 3.3: areas 301...996, scores .30....89).

    A detection is kept if its area is larger than the first and its mean score larger than the second. Each pair is
    scored by the optimal matching of what it keeps, pooled over the fields.

    Args:
        detections: per field (N, 4) with columns row, col in px, area in px, mean score; N may be 0.
        truths: per field (M, >=2) with columns row, col; M may be 0.
        radius: matching radius in px.
        areas: (A,) area thresholds.
        scores: (S,) score thresholds.

    Returns:
        A x S rows, area-major: ``area``, ``score``, ``tp``, ``fp``, ``fn``, ``precision``, ``recall``, ``f1``.

    Raises:
        InputError: lists of different lengths, or tables of a wrong shape.

    Examples:
        >>> from monai_ext.metrics import sweep_detection_thresholds
        >>> detections = [[10, 10, 400, 0.9], [50, 50, 100, 0.8], [80, 80, 500, 0.4]]
        >>> truth = [[10, 10], [50, 50]]
        >>> table = sweep_detection_thresholds([detections], [truth], radius=5, areas=[0, 200], scores=[0, 0.5])
        >>> table["f1"].round(3).tolist()
        [0.8, 1.0, 0.5, 0.667]
    """
    if len(detections) != len(truths):
        raise InputError("sweep", "one table of detections per field", f"{len(detections)} for {len(truths)} fields")
    areas, scores = np.asarray(areas, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    area_order, score_order = np.argsort(areas), np.argsort(scores)
    tp = np.zeros((len(areas) + 1, len(scores) + 1), dtype=np.int64)
    kept, n_truth = np.zeros_like(tp), 0
    for detected, true in zip(detections, truths, strict=True):
        table, truth = convert_to_numpy(detected, wrap_sequence=True), _points(true, "true points")
        n_truth += len(truth)
        if table.size == 0:
            continue
        if table.ndim != 2 or table.shape[1] < 4:
            raise InputError("detections", "columns row, col, area, score", f"shape {tuple(table.shape)}")
        # survives[k] = number of sorted thresholds that detection k passes, so it is kept at every index below
        survives = np.stack(
            [np.searchsorted(areas[area_order], table[:, 2]), np.searchsorted(scores[score_order], table[:, 3])], axis=1
        )
        np.add.at(kept, tuple(survives.T), 1)
        _add_matches(tp, survives, *_candidates(_points(table, "detections"), truth, radius)[:2])
    tp, kept = _suffix_sum(tp, (0,)), _suffix_sum(kept, (0, 1))
    counts = np.empty((len(areas), len(scores), 3), dtype=np.int64)
    counts[np.ix_(area_order, score_order)] = np.stack([tp, kept - tp, n_truth - tp], axis=-1)
    area, score = np.meshgrid(areas, scores, indexing="ij")
    return _score_table(counts, area=area.ravel(), score=score.ravel())


class BestDetectionF1(UnevenCumulative):
    """The F1 that the best pair of an area and a score threshold reaches, pooled over all fields.

    Thresholds are tuned after a training. An epoch that is chosen by F1 at fixed ones is the epoch whose scores happen
    to fit these, and not the one that tells figures from look-alikes best. The buffer holds the counts TP, FP, FN of
    each field at each pair, ``(F, A, S, 3)``, gathered over all ranks.

    Args:
        radius: largest distance between a detection and its true point, px.
        areas: area thresholds, px; a detection is kept if its area is larger.
        scores: score thresholds; likewise.

    Raises:
        InputError: a radius below 0, or no thresholds.

    Examples:
        >>> from monai_ext.metrics import BestDetectionF1
        >>> metric = BestDetectionF1(radius=5, areas=[0, 200], scores=[0.0, 0.5])
        >>> detections = [[10, 10, 400, 0.9], [50, 50, 100, 0.8], [80, 80, 500, 0.4]]  # row, column, area, score
        >>> metric([detections], [[[10, 10], [50, 50]]])[0, 0, 1].tolist()
        [2, 0, 0]
        >>> metric.aggregate().item()  # at an area of 0 and a score of .5
        1.0
    """

    def __init__(self, radius: float, areas: Sequence[float], scores: Sequence[float]) -> None:
        if not radius >= 0:
            raise InputError("radius", "a distance >= 0", str(radius))
        if not (len(areas) and len(scores)):
            raise InputError("BestDetectionF1", "thresholds of area and of score", f"{list(areas)}, {list(scores)}")
        super().__init__(item_shape=(len(areas), len(scores), 3), dtype=torch.int64)
        self.radius, self.areas, self.scores = radius, list(areas), list(scores)

    def __call__(self, y_pred: Sequence[Any], y: Sequence[Any]) -> torch.Tensor:
        """Count one batch of fields.

        Args:
            y_pred: detections of each field, ``(N, 4)`` with row, column, area in px, mean score; N may be 0.
            y: true points of each field, ``(M, >=2)``; M may be 0.

        Returns:
            int64 tensor ``(fields, A, S, 3)``: TP, FP, FN.

        Raises:
            InputError: as :func:`sweep_detection_thresholds`.
        """
        tables = [
            sweep_detection_thresholds([pred], [truth], self.radius, self.areas, self.scores)[COUNTS].to_numpy()
            for pred, truth in zip(y_pred, y, strict=True)
        ]
        counts = torch.tensor(np.array(tables, dtype=np.int64)).reshape(-1, *self._no_items.shape[1:])
        self.extend(counts)
        return counts

    def aggregate(self) -> torch.Tensor:
        """The best F1 over all fields and ranks, 0-dim float64."""
        return torch.tensor(float(detection_scores(self.get_buffer().sum(0))["f1"].max()), dtype=torch.float64)


def _suffix_sum(histogram: np.ndarray, axes: Sequence[int]) -> np.ndarray:
    """``out[i] = histogram[i+1:].sum()`` along each of ``axes``; the last index of both axes is dropped."""
    for axis in axes:
        histogram = np.flip(np.flip(histogram, axis).cumsum(axis), axis)
    return histogram[tuple(slice(1, None) if axis in axes else slice(None, -1) for axis in (0, 1))]


def _add_matches(tp: np.ndarray, survives: np.ndarray, row: np.ndarray, col: np.ndarray) -> None:
    """Add one field's largest matchings to ``tp``, a histogram over the area index and a value per score index.

    For one score threshold the detections enter in the order of falling area. The matching stays the largest possible
    if each newcomer is given an augmenting path where there is one (Berge), so one pass counts it at every area.
    """
    neighbours: dict[int, list[int]] = {}
    for i, j in zip(row.tolist(), col.tolist(), strict=True):
        neighbours.setdefault(i, []).append(j)
    by_area = sorted((i for i in neighbours if survives[i].all()), key=lambda i: -survives[i, 0])
    area_index, score_index = survives[:, 0].tolist(), survives[:, 1].tolist()
    successes: list[int] = []
    changes = set(score_index)
    for score in range(max((score_index[i] for i in by_area), default=0)):
        if score == 0 or score in changes:
            match: dict[int, int] = {}
            kept = (i for i in by_area if score_index[i] > score)
            successes = [area_index[i] for i in kept if _augment(i, neighbours, match)]
        np.add.at(tp[:, score], successes, 1)


def _augment(start: int, neighbours: Mapping[int, Sequence[int]], match: dict[int, int]) -> bool:
    """Match the detection ``start``, moving others if need be; ``match`` maps true points to detections."""
    reached_from: dict[int, int] = {}  # true point -> detection
    held: dict[int, int | None] = {start: None}  # detection -> the true point it would give up
    queue = [start]
    for i in queue:
        for j in neighbours[i]:
            if j in reached_from:
                continue
            reached_from[j] = i
            if j in match:
                queue.append(match[j])
                held[match[j]] = j
                continue
            free: int | None = j
            while free is not None:  # each detection on the path takes the new point and frees the one it held
                taker = reached_from[free]
                match[free], free = taker, held[taker]
            return True
    return False
