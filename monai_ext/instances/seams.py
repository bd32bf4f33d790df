"""Instances that windows cut: larger and larger windows until they are whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["MOSTLY", "GrowingWindow", "first_of_each_group"]

#: Share of the smaller of two instances above which they are versions of one.
MOSTLY = 0.5

T = TypeVar("T")
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class GrowingWindow:
    """Windows on a grid of ``align`` px that grow with what is seen in them.

    Attributes:
        shape: ``H, W`` of the image, px.
        align: windows begin and end at its multiples.
        margin: read around a window on each side, px.
        reach: what comes so near to the end of what was read may go on beyond it: px from the window's edge, outwards.
        side: no window, margins included, has a larger area than a square of so many px.
    """

    shape: tuple[int, int]
    align: int
    margin: int
    reach: int
    side: int

    def follow(self, box: np.ndarray, look: Callable[[Window], tuple[T, np.ndarray | None]]) -> T | None:
        """Look at larger and larger windows until nothing is cut.

        Args:
            box: ``[[row, col], [row, col]]``, where to begin: first px and end.
            look: takes first row and column and ends of a window, without margins; gives what there is, and the box of
                what of it is cut, or ``None`` for nothing.

        Returns:
            what there is in the first window that cuts nothing; ``None`` where it would be too large.
        """
        before = None
        while (window := self._smallest(box)) not in (None, before):
            seen, cut = look(window)
            if cut is None:
                return seen
            box = self._grown(np.stack([np.minimum(box[0], cut[0]), np.maximum(box[1], cut[1])]), window)
            before = window
        return None

    def _smallest(self, box: np.ndarray) -> Window | None:
        """The smallest window that holds a box; ``None`` if it is too large."""
        most = np.ceil(np.array(self.shape) / self.align)
        low, high = np.maximum(np.floor(box[0] / self.align), 0), np.minimum(np.ceil(box[1] / self.align), most)
        if np.prod((high - low) * self.align + 2 * self.margin) > self.side**2:
            return None
        return tuple((np.append(low, high) * self.align).astype(int).tolist())

    def _grown(self, box: np.ndarray, window: Window) -> np.ndarray:
        """A box half as large again wherever it comes to the end of what was looked at."""
        outwards = np.array([[-1], [1]])
        ends = (box - np.array(window).reshape(2, 2)) * outwards >= self.reach
        more = np.maximum((box[1] - box[0]) / 2, self.align) * outwards
        grown = box + ends * more
        return grown if self._smallest(grown) != window else box + more


def first_of_each_group(meeting: np.ndarray, count: int) -> np.ndarray:
    """The first of each group of N items that meet, directly or through others.

    Args:
        meeting: ``(2, K)`` pairs that meet.
        count: N, at least 1.

    Returns:
        their numbers, ascending.
    """
    graph = coo_array((np.ones(meeting.shape[1], dtype=bool), tuple(meeting)), shape=(count, count))
    return np.unique(connected_components(graph, directed=False)[1], return_index=True)[1]
