"""Instances in one piece each, none smaller than what counts."""

from __future__ import annotations

import numpy as np
from skimage.measure import label as connected_parts

__all__ = ["largest_of_each", "whole_instances"]


def largest_of_each(owner: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Which of K pieces is the largest of its owner; of equal ones the first.

    Args:
        owner: ``(K,)`` integers.
        size: ``(K,)``.

    Returns:
        ``(K,)`` bool.
    """
    order = np.lexsort((-size, owner))
    largest = np.zeros(len(owner), bool)
    largest[order[np.diff(owner[order], prepend=-1) != 0]] = True
    return largest


def whole_instances(
    instances: np.ndarray, min_area: float = 0, edge: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Leave one piece of each instance, the largest, and leave out what is too small: the one rule for all ways.

    A nucleus is one body. What a network marks apart from it are specks of its mask, or what a surer neighbour on top
    of it cut off; to join them would claim pixels between them that the network gave to others or to nobody. Pieces
    are of pixels that share a side, so that each has one polygon for an outline.

    The rule is about whole objects. Of an instance that a window cuts, which piece is the largest shows in a larger
    window only: it comes apart into its pieces, of which those at the cut stay however small they are.

    Args:
        instances: ``(H, W)`` integers of at least 0, 0 is background.
        min_area: smaller instances are left out, px.
        edge: ``(H, W)`` bool, pixels beyond which an instance may go on; ``None`` for none.

    Returns:
        int32 ``(H, W)``, numbered from 1 without gaps in the order of the ids; and which numbers are pieces of
        instances that are cut, bool ``(N + 1,)``.

    Examples:
        >>> from monai_ext.instances.pieces import whole_instances
        >>> specks = np.array([[3, 3, 0, 3], [0, 0, 8, 0], [5, 5, 5, 0]])
        >>> whole_instances(specks, min_area=2)[0].tolist()
        [[1, 1, 0, 0], [0, 0, 0, 0], [2, 2, 2, 0]]
    """
    parts = connected_parts(instances, background=0, connectivity=1)
    size = np.bincount(parts.reshape(-1))
    owner = np.zeros(len(size), np.int64)
    owner[parts] = instances
    kept = size >= min_area
    cut = np.zeros(len(size), bool)
    if edge is not None and edge.any():
        open_ended = np.zeros(int(owner.max()) + 1, bool)
        open_ended[instances[edge]] = True
        cut = open_ended[owner]
        kept[parts[edge]] = True
    kept &= cut | largest_of_each(owner, size)
    kept[0] = False  # background
    numbers = np.flatnonzero(kept)
    numbers = numbers[np.argsort(owner[numbers], kind="stable")]
    number_of = np.zeros(len(size), np.int32)
    number_of[numbers] = np.arange(1, len(numbers) + 1)
    return number_of[parts], np.append(False, cut[numbers])
