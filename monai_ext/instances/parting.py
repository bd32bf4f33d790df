"""Nuclei that touch parted: distance transform, significant peaks, watershed."""

from __future__ import annotations

import cv2
import numpy as np
from skimage.segmentation import watershed

__all__ = ["fill_holes", "grow_parts", "split_touching"]

_UNITS = 64  # heights are whole numbers of this fraction of a px, so that no rounding depends on the position


def split_touching(mask: np.ndarray, sigma: float = 1.0, depth: float = 0.25) -> np.ndarray:
    """Part a mask where it has a waist: watershed of its smoothed distance transform.

    The height of a pixel is its distance to the background. Each pixel belongs to the peak that the steepest way up
    leads to; where the pass between two peaks is less than ``depth`` below the lower one, they are one (the peaks that
    remain are those of the h-maxima transform). Both steps are table look-ups over all pixels at once, and what comes
    out around a pixel depends on its surroundings alone, so that tiles with a margin agree with the whole.

    Args:
        mask: ``(H, W)`` bool; outside it is background.
        sigma: standard deviation of the Gaussian that smooths the distances, px; 0 for none.
        depth: of the pass that parts two peaks, px; the smaller, the more is parted.

    Returns:
        ``(H, W)`` int32, parts numbered from 1 in the order of their highest pixels from top to bottom, 0 outside.

    Examples:
        >>> from monai_ext.instances import split_touching
        >>> rows, cols = np.mgrid[:32, :48]
        >>> disks = (rows - 16) ** 2 + (abs(cols - 24) - 8) ** 2 < 9.5**2  # two that touch
        >>> parts = split_touching(disks)
        >>> int(parts.max()), int(parts[16, 16]) != int(parts[16, 32])
        (2, True)
    """
    inside = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    height = _heights(inside, sigma)
    pixels = np.flatnonzero(inside.reshape(-1).view(bool))
    peak_of, peaks = _climb(height, pixels, inside.shape[1])
    basins = np.zeros(height.size, np.int32)
    basins[pixels] = peak_of
    owner = _merge_basins(basins, height, pixels[peaks], inside.shape[1], max(1, round(depth * _UNITS)))
    number = np.unique(owner, return_inverse=True)[1]
    parts = np.concatenate([[0], number + 1]).astype(np.int32)[basins]
    return np.ascontiguousarray(parts.reshape(inside.shape)[1:-1, 1:-1])


def _heights(inside: np.ndarray, sigma: float) -> np.ndarray:
    """Distances to the background in units, uint32, flat, 0 outside and at least 1 inside."""
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 5)
    if sigma > 0:
        distance = cv2.GaussianBlur(distance, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT)
    height = (distance * _UNITS).astype(np.uint32)
    height *= inside
    height += inside
    return height.reshape(-1)


def _climb(height: np.ndarray, pixels: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The peak, from 1, that each pixel's way up ends at, and which of the pixels are peaks."""
    steps = np.array([-width - 1, -width, -width + 1, -1, 0, 1, width - 1, width, width + 1])
    # the height with the step's number below it: the largest is the highest neighbour, of equal ones the last in
    # order, so that no two pixels are equally high and a plateau has one way out
    key = height << 4
    best = key[width + 1 : len(key) - width - 1] + np.uint32(4)
    neighbour = np.empty_like(best)
    for number, step in enumerate(steps.tolist()):
        if step:
            np.add(key[width + 1 + step : len(key) - width - 1 + step], np.uint32(number), out=neighbour)
            np.maximum(best, neighbour, out=best)
    step = best[pixels - (width + 1)] & 15
    index = np.zeros(len(height), np.int32)
    index[pixels] = np.arange(len(pixels), dtype=np.int32)
    above = index[pixels + steps[step]]
    peaks = np.flatnonzero(step == 4)
    above = _ends(above)
    number = np.zeros(len(pixels), np.int32)
    number[peaks] = np.arange(1, len(peaks) + 1)
    return number[above], peaks


def _ends(pointers: np.ndarray) -> np.ndarray:
    """Where each chain of pointers ends, by jumps that double."""
    while not np.array_equal(further := pointers[pointers], pointers):
        pointers = further
    return pointers


def _merge_basins(basins: np.ndarray, height: np.ndarray, peaks: np.ndarray, width: int, depth: int) -> np.ndarray:
    """The basin, from 0, that each basin becomes a part of, passes being taken from the highest down."""
    sides = []
    for step in (1, width - 1, width, width + 1):
        one, other = basins[:-step], basins[step:]
        border = np.flatnonzero((one != other) & (one != 0) & (other != 0))
        sides.append((one[border] - 1, other[border] - 1, np.minimum(height[border], height[border + step])))
    one, other, level = (np.concatenate(part) for part in zip(*sides, strict=True))
    top = height[peaks].astype(np.int64)
    shallow = np.minimum(top[one], top[other]) - level < depth  # the others never become so: peaks only grow
    one, other, level = one[shallow], other[shallow], level[shallow].astype(np.int64)
    order = np.argsort(-level, kind="stable")
    parent, tops = list(range(len(peaks))), top.tolist()

    def root(basin: int) -> int:
        while parent[basin] != basin:
            parent[basin] = basin = parent[parent[basin]]
        return basin

    # few: only where a nucleus has several peaks
    for a, b, passed in zip(one[order].tolist(), other[order].tolist(), level[order].tolist(), strict=True):
        high, low = root(a), root(b)
        if tops[high] < tops[low]:
            high, low = low, high
        if high != low and tops[low] - passed < depth:
            parent[low] = high
    return _ends(np.array(parent, np.intp))


def fill_holes(mask: np.ndarray, area: float) -> None:
    """Fill what lies inside the mask and has at most so many px, in place; the image's edge closes no hole."""
    if area < 1:
        return
    # 4-connected: a hole's corner is no way out
    _, gaps, stats, _ = cv2.connectedComponentsWithStats((~mask).view(np.uint8), connectivity=4, ltype=cv2.CV_32S)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    hole = (stats[:, cv2.CC_STAT_AREA] <= area) & (left > 0) & (top > 0)
    hole &= (right < mask.shape[1]) & (bottom < mask.shape[0])
    hole[0] = False  # the mask itself
    if hole.any():
        mask |= hole[gaps]


def grow_parts(parts: np.ndarray, mask: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Let parts grow until they fill a mask, from the highest pixels down; what no part reaches is a part of its own.

    Args:
        parts: ``(H, W)`` int32, 0 where there is none.
        mask: ``(H, W)`` bool, the parts and more.
        height: ``(H, W)``, low where one part ends and the next begins.

    Returns:
        ``(H, W)`` int32, the numbers of ``parts``, further ones for 4-connected pieces without a part, 0 outside.

    Examples:
        >>> from monai_ext.instances import grow_parts
        >>> parts = np.array([[1, 0, 0, 2, 0, 0, 0]], np.int32)
        >>> mask = np.array([[1, 1, 1, 1, 0, 1, 1]], bool)
        >>> grow_parts(parts, mask, np.array([[9.0, 8.0, 2.0, 9.0, 0.0, 9.0, 9.0]])).tolist()
        [[1, 1, 2, 2, 0, 3, 3]]
    """
    grown = watershed(-height, parts, mask=mask).astype(np.int32)
    missed = (mask & (grown == 0)).view(np.uint8)
    pieces = cv2.connectedComponents(missed, connectivity=4, ltype=cv2.CV_32S)[1]
    return np.where(pieces > 0, pieces + parts.max(initial=0), grown).astype(np.int32)
