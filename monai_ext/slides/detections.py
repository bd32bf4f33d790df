"""Points of a probability map that stand for one lesion each."""

from __future__ import annotations

import numpy as np

from monai_ext.base.errors import InputError

__all__ = ["iterative_nms"]

_CHUNK = 2048


def iterative_nms(heat: np.ndarray, radius_cells: int, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Iterative non-maximum suppression: take the highest value, clear the square around it, and so on.

    The same points as MONAI's ``ProbNMS`` with ``box_size = 2 * radius_cells + 1``, which searches the whole map for
    every point. Here the values above the threshold are sorted once, and those already cleared are passed over many
    at a time.

    Args:
        heat: ``(H, W)`` finite floats; it is left as it is.
        radius_cells: points are more than this many cells apart, along rows or columns.
        threshold: only values above it are taken; at least 0.

    Returns:
        ``(N, 2)`` int64 ``row, col`` and ``(N,)`` their values, in falling order; of equal values the upper, then the
        left one comes first.

    Raises:
        InputError: ``heat`` has no two dimensions, the radius or the threshold is negative.
    """
    if heat.ndim != 2 or radius_cells < 0 or threshold < 0:
        problem = f"shape {heat.shape}, radius {radius_cells}, threshold {threshold}"
        raise InputError("iterative_nms", "a map (H, W), a radius and a threshold of at least 0", problem)
    candidates = np.flatnonzero(heat > threshold)
    candidates = candidates[np.argsort(-heat.ravel()[candidates], kind="stable")]
    cleared = np.zeros(heat.shape, dtype=bool)
    taken: list[tuple[int, int]] = []
    for start in range(0, len(candidates), _CHUNK):
        batch = candidates[start : start + _CHUNK]
        # those that are left may still clear one another
        rows, cols = np.divmod(batch[~cleared.ravel()[batch]], heat.shape[1])
        for row, col in zip(rows.tolist(), cols.tolist(), strict=True):
            if not cleared[row, col]:
                taken.append((row, col))
                top, left = max(0, row - radius_cells), max(0, col - radius_cells)
                cleared[top : row + radius_cells + 1, left : col + radius_cells + 1] = True
    points = np.array(taken, np.int64).reshape(-1, 2)
    return points, heat[tuple(points.T)]
