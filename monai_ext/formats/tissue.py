"""Where on the glass the tissue is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_objects

__all__ = ["Tissue", "tissue_mask"]

_BLACK = 50  # grey value; no stain is darker in a thumbnail: what scanners fill in where they did not scan
_DARKEST_GLASS = 200  # grey value
_TINT = 15  # grey values; glass is no more coloured than this
_STAINED = (0.05, 0.09)  # ranges of optical density between which the threshold is sought
_SMOOTH_UM = 6.0
_GAP_UM = 20.0
_ROWS = 256
_SLACK = 1e-6  # px; rounding makes no cell touch its neighbour


def tissue_mask(
    thumbnail: np.ndarray, mpp: float, min_area_um2: float = 2500.0, max_hole_um2: float = 50_000.0
) -> np.ndarray:
    """Find stained tissue in a slide's thumbnail.

    Stain absorbs one colour more than another; glass, dust, shadows and the black or white that scanners fill in do
    not. So a pixel's measure is the range of its three optical densities relative to the glass of this slide (its
    brightest value per channel, so that tinted glass is glass). Otsu's threshold parts the pixels, but only
    within bounds, and only if one of the two parts looks like glass: else a white slide would be parted into two kinds
    of noise and a slide full of tissue into pale and dark tissue. Gaps are closed, holes filled and specks removed.

    Args:
        thumbnail: uint8 ``(3, H, W)`` RGB.
        mpp: its resolution in um/px; 1 to 20 is sensible.
        min_area_um2: smaller pieces are dust.
        max_hole_um2: smaller holes belong to the tissue.

    Returns:
        ``(H, W)`` bool.

    Examples:
        >>> from monai_ext.formats import tissue_mask
        >>> thumbnail = np.full((3, 100, 100), 240, np.uint8)
        >>> thumbnail[:, 30:70, 30:70] = np.array([190, 120, 170])[:, None, None]
        >>> mask = tissue_mask(thumbnail, mpp=8)
        >>> mask.shape, bool(mask[50, 50]), bool(mask[5, 5])
        ((100, 100), True, False)
    """
    pixels = np.ascontiguousarray(np.moveaxis(thumbnail, 0, -1))
    pixels = cv2.GaussianBlur(pixels, (0, 0), max(_SMOOTH_UM / mpp, 0.3), borderType=cv2.BORDER_REFLECT)
    brightest = np.percentile(pixels.reshape(-1, 3)[::7], 99, axis=0)
    glass = np.maximum(brightest, max(_DARKEST_GLASS, brightest.max() - _TINT))
    level = np.arange(256)[:, None, None]
    density = cv2.LUT(pixels, np.log((glass + 1) / (np.minimum(level, glass) + 1)).astype(np.float32))
    stain = _over_channels(np.maximum, density) - _over_channels(np.minimum, density)
    scanned = _over_channels(np.maximum, pixels) >= _BLACK
    mask = (stain > _threshold(stain[scanned])) & scanned
    reach = max(1, round(_GAP_UM / 2 / mpp))
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
    mask = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, disk).astype(bool)
    mask = remove_small_objects(mask, max(1, round(min_area_um2 / mpp**2)))
    holes = binary_fill_holes(mask) & ~mask
    small = holes & ~remove_small_objects(holes, max(1, round(max_hole_um2 / mpp**2)))
    return (mask | small) & scanned


def _over_channels(larger: np.ufunc, pixels: np.ndarray) -> np.ndarray:
    """Reduce ``(H, W, 3)`` to ``(H, W)``: many times faster than numpy's own reduction over so short an axis."""
    red, green, blue = np.moveaxis(pixels, -1, 0)
    return larger(larger(red, green), blue)


def _threshold(stain: np.ndarray) -> float:
    least, most = _STAINED
    if not stain.size:
        return least
    threshold = float(np.clip(threshold_otsu(stain), least, most))
    below = stain[stain <= threshold]
    return threshold if below.size and below.mean() < least else least


@dataclass(frozen=True)
class Tissue:
    """A tissue mask with its geometry on the slide.

    Args:
        mask: ``(H, W)`` bool, px ``(0, 0)`` at the slide's upper left corner.
        scale: px of level 0 per px of the mask.

    Examples:
        >>> from monai_ext.formats import Tissue
        >>> tissue = Tissue(np.array([[True, False], [True, True]]), scale=100)
        >>> tissue.at(np.array([[50, 50], [50, 150]])).tolist()
        [True, False]
        >>> round(tissue.area_mm2(base_mpp=0.25), 6)  # three squares of 25 um
        0.001875
    """

    mask: np.ndarray
    scale: float

    @cached_property
    def _sums(self) -> np.ndarray:
        """How many px of the mask lie above and to the left of each corner."""
        sums = np.zeros([side + 1 for side in self.mask.shape], np.int64)
        sums[1:, 1:] = self.mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
        return sums

    def touched(self, row_edges: np.ndarray, col_edges: np.ndarray) -> np.ndarray:
        """Which cells of a lattice touch tissue.

        Args:
            row_edges: where its rows of cells begin, and where the last ends, px of level 0.
            col_edges: the same for columns.

        Returns:
            bool ``(len(row_edges) - 1, len(col_edges) - 1)``.
        """
        rows, down = self._spans(row_edges, self.mask.shape[0])
        cols, right = self._spans(col_edges, self.mask.shape[1])
        return self._any(rows, cols).repeat(down, axis=0).repeat(right, axis=1)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Which points ``(N, 2)``, ``row, col`` from the slide's corner in px of level 0, lie on tissue."""
        pixels = np.clip((points / self.scale).astype(np.int64), 0, np.array(self.mask.shape) - 1)
        return self.mask[tuple(pixels.T)]

    def count(self, row_edges: np.ndarray, col_edges: np.ndarray) -> int:
        """How many cells of a lattice touch tissue; without listing them: there may be billions."""
        rows, down = self._spans(row_edges, self.mask.shape[0])
        cols, right = self._spans(col_edges, self.mask.shape[1])
        chunks = range(0, len(down), _ROWS)
        return sum(int(down[k : k + _ROWS] @ (self._any(rows[:, k : k + _ROWS], cols) @ right)) for k in chunks)

    def _any(self, rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
        (top, bottom), (left, right) = rows, cols
        below, above = self._sums[bottom], self._sums[top]
        return below[:, right] - above[:, right] - below[:, left] + above[:, left] > 0

    def _spans(self, edges: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
        """The px of the mask that the cells along one side touch: the first, and the one after the last.

        Returns:
            ``(2, N)`` for each kind of cell, and ``(N,)`` how many cells of it follow one another: where cells are
            smaller than the mask's px many are alike.
        """
        edges = np.asarray(edges) / self.scale
        first = np.clip(np.floor(edges[:-1] + _SLACK).astype(np.int64), 0, side - 1)
        after = np.clip(np.ceil(edges[1:] - _SLACK).astype(np.int64), first + 1, side)
        begins = np.flatnonzero(np.diff(first, prepend=-1) | np.diff(after, prepend=-1))
        return np.stack([first[begins], after[begins]]), np.diff(begins, append=len(first))

    def area_mm2(self, base_mpp: float) -> float:
        """Its area, with ``base_mpp`` um per px of level 0."""
        return float(self.mask.sum()) * (self.scale * base_mpp) ** 2 * 1e-6
