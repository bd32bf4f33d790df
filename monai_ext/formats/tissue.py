"""Where on the glass the tissue is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from skimage.filters import threshold_otsu
from skimage.morphology import disk, remove_small_objects

from monai_ext.base.errors import InputError

__all__ = ["Tissue", "tissue_mask"]

_BLACK = 50  # grey value; no stain is darker in a thumbnail: what scanners fill in where they did not scan
_DARKEST_GLASS = 200  # grey value
_TINT = 15  # grey values; glass is no more coloured than this, unless it is plainly there to be seen
_PINK_CAST = 40  # grey values; glass of eosin's or hematoxylin's hue, lowest in green, that is more coloured is stained
_CAST, _DARKEST_CAST = 60, 180  # grey values; then its colours may differ so much, and its brightest be so dark
_SAME, _AROUND, _REACH = 3, 12, 8  # grey values: glass is one colour, tissue is many
_SHARP = 0.7  # share of the pixels around the glass's colour that have the very colour
_LEAST_GLASS = 0.01  # of the slide
_LEAST_PIXELS = 50
_FILLED = 5  # px; a square of pure white so large is no glass but what writers fill in
_STAINED = (0.05, 0.09)  # ranges of optical density between which the threshold is sought
_SMOOTH_UM = 6.0
_GAP_UM = 20.0
_LEAST_STROKE_UM2 = 20_000.0  # of a marker on glass; spots of tissue may have the colour of ink
_EDGE_UM = 25.0  # how far a stroke's soft edge reaches
_ROWS = 256
_SLACK = 1e-6  # px; rounding makes no cell touch its neighbour


def tissue_mask(
    thumbnail: np.ndarray,
    mpp: float,
    min_area_um2: float = 2500.0,
    max_hole_um2: float = 50_000.0,
    valid: np.ndarray | None = None,
) -> np.ndarray:
    """Find stained tissue in a slide's thumbnail.

    Stain absorbs one colour more than another; glass, dust, shadows and the black or white that scanners fill in do
    not. So a pixel's measure is the range of its three optical densities relative to the glass of this slide, its
    brightest value per channel. Tinted glass is glass: by up to 15 grey values in any case, by up to 60 (40 where
    green is the lowest, as in what H&E stains) where it is to be seen as a sharp peak of one colour. Otsu's threshold
    parts the pixels, but only within bounds, and only if one of the two parts looks like glass: else a white slide
    would be parted into two kinds of noise and a slide full of tissue into pale and dark tissue. Strokes of blue,
    green, black and dense red markers are left out. Gaps are closed, holes filled and specks removed.

    Args:
        thumbnail: uint8 ``(3, H, W)`` RGB.
        mpp: its resolution in um/px; 1 to 20 is sensible.
        min_area_um2: smaller pieces are dust.
        max_hole_um2: smaller holes belong to the tissue.
        valid: bool ``(H, W)``, what was scanned. Other pixels are no tissue whatever they hold, and nothing depends on
            what they hold. None: all of it, but for what is black.

    Returns:
        ``(H, W)`` bool.

    Raises:
        InputError: ``valid`` is no mask of the thumbnail's size.

    Examples:
        >>> from monai_ext.formats import tissue_mask
        >>> thumbnail = np.full((3, 100, 100), 240, np.uint8)
        >>> thumbnail[:, 30:70, 30:70] = np.array([190, 120, 170])[:, None, None]
        >>> mask = tissue_mask(thumbnail, mpp=8)
        >>> mask.shape, bool(mask[50, 50]), bool(mask[5, 5])
        ((100, 100), True, False)
        >>> left = np.arange(100) < 50 + np.zeros((100, 1))
        >>> bool(tissue_mask(thumbnail, mpp=8, valid=left)[:, 50:].any())
        False
    """
    if valid is not None and (np.shape(valid) != thumbnail.shape[1:] or np.asarray(valid).dtype != bool):
        raise InputError("valid", f"bool {thumbnail.shape[1:]}", f"{np.asarray(valid).dtype} {np.shape(valid)}")
    pixels = np.ascontiguousarray(np.moveaxis(thumbnail, 0, -1))
    if not pixels.size:
        return np.zeros(pixels.shape[:2], bool)
    filled = _filled(pixels, mpp)
    pixels = _smooth(pixels, max(_SMOOTH_UM / mpp, 0.3), valid)
    scanned = _over_channels(np.maximum, pixels) >= _BLACK
    if valid is not None:
        scanned &= valid
    glass = _white_point(pixels, scanned & ~filled)
    level = np.arange(256)[:, None, None]
    density = cv2.LUT(pixels, np.log((glass + 1) / (np.minimum(level, glass) + 1)).astype(np.float32))
    usable = scanned & ~_ink(density, scanned, mpp)
    stain = _over_channels(np.maximum, density) - _over_channels(np.minimum, density)
    mask = (stain > _threshold(stain[usable])) & usable
    around = disk(max(1, round(_GAP_UM / 2 / mpp)))  # unlike OpenCV's ellipses the same lying and standing
    mask = cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_CLOSE, around).astype(bool) & usable
    mask = remove_small_objects(mask, max(1, round(min_area_um2 / mpp**2)))
    return (mask | _holes(mask, scanned, max_hole_um2 / mpp**2)) & usable


def _smooth(pixels: np.ndarray, sigma: float, valid: np.ndarray | None) -> np.ndarray:
    """Smooth ``(H, W, 3)``; by the mean of valid pixels alone."""
    if valid is None or valid.all():
        return cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    weight = valid.astype(np.float32)
    shares = cv2.GaussianBlur(weight, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    sums = cv2.GaussianBlur(pixels * weight[..., None], (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    means = sums / np.maximum(shares, np.finfo(np.float32).tiny)[..., None]
    return np.where(valid[..., None], np.rint(means), 0).astype(np.uint8)


def _filled(pixels: np.ndarray, mpp: float) -> np.ndarray:
    """Squares of pure white, and all that smoothing mixes with them."""
    white = (_over_channels(np.minimum, pixels) == 255).view(np.uint8)
    squares = cv2.erode(white, np.ones((_FILLED, _FILLED), np.uint8))
    reach = _FILLED // 2 + 1 + int(4 * _SMOOTH_UM / mpp)
    return cv2.dilate(squares, np.ones((2 * reach + 1,) * 2, np.uint8)).astype(bool)


def _white_point(pixels: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """The colour of glass, ``(3,)``: the brightest value of each channel, unless that is too coloured for glass.

    How coloured glass may be depends on whether its colour is a sharp peak, as only that of something smooth is.
    Everything is counted in histograms of all pixels, so that nothing depends on their order.
    """
    inside = candidates.view(np.uint8)
    total = int(cv2.countNonZero(inside))
    if not total:
        return np.full(3, 255.0)
    brightest = colour = _percentile(pixels, inside, 99)
    for _ in range(3):
        near = _within(pixels, colour, _REACH) & inside
        if not cv2.countNonZero(near):
            break
        colour = _percentile(pixels, near, 50)
    same, around = (cv2.countNonZero(_within(pixels, colour, reach) & inside) for reach in (_SAME, _AROUND))
    sharp = same >= max(_LEAST_PIXELS, _LEAST_GLASS * total, _SHARP * around)
    most = _PINK_CAST if colour.argmin() == 1 else _CAST
    if sharp and np.ptp(colour) <= most and colour.max() >= _DARKEST_CAST:
        return np.maximum(brightest, brightest.max() - _CAST)
    return np.maximum(brightest, max(_DARKEST_GLASS, brightest.max() - _TINT))


def _percentile(pixels: np.ndarray, inside: np.ndarray, percent: float) -> np.ndarray:
    """A percentile of each channel, ``(3,)``, of uint8 pixels where ``inside`` is not 0."""
    counts = np.stack([cv2.calcHist([pixels], [channel], inside, [256], [0, 256]).ravel() for channel in range(3)])
    below = counts.astype(np.float64).cumsum(axis=1)
    return np.argmax(below >= below[:, -1:] * percent / 100, axis=1).astype(np.float64)


def _within(pixels: np.ndarray, colour: np.ndarray, reach: int) -> np.ndarray:
    """Where all channels are within ``reach`` grey values of a colour: 1, else 0."""
    return cv2.inRange(pixels, colour - reach, colour + reach) & 1


def _ink(density: np.ndarray, scanned: np.ndarray, mpp: float) -> np.ndarray:
    """Strokes of markers, ``(H, W)`` bool, by what neither hematoxylin nor eosin nor any mixture of them does.

    Blue and green ink absorb red more than green; both stains absorb green more, or as much. Black ink absorbs all
    colours alike, and strongly. Red ink passes red alone, as blood does, so that only strokes denser than blood are
    told from it. The soft edge of a stroke has its hue less clearly: it is taken with the stroke it belongs to.
    """
    red, green, blue = np.moveaxis(density, -1, 0)
    least, most = _over_channels(np.minimum, density), _over_channels(np.maximum, density)
    strokes = (red > 0.5) & (red > 1.25 * green)
    strokes |= (green > 1.6) & (red < 0.3 * green) & (blue > 0.55 * green)
    strokes |= (least > 0.5) & (least > 0.8 * most)
    strokes &= scanned
    least_px = max(1, round(_LEAST_STROKE_UM2 / mpp**2))
    if cv2.countNonZero(strokes.view(np.uint8)) < least_px:
        return np.zeros_like(strokes)
    soft = (red > 0.1) & (red > 1.1 * green) & scanned
    _, labels = cv2.connectedComponents((strokes | soft).view(np.uint8), connectivity=8)
    large = np.bincount(labels[strokes], minlength=labels.max() + 1) >= least_px
    if not large.any():
        return large[labels]
    return cv2.distanceTransform((~large[labels]).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= _EDGE_UM / mpp


def _holes(mask: np.ndarray, scanned: np.ndarray, most_px: float) -> np.ndarray:
    """Holes of fewer than ``most_px`` px; none of them reaches the edge or what was not scanned."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).view(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] < max(1, round(most_px))
    edges = (labels[0], labels[-1], labels[:, 0], labels[:, -1], labels[~scanned])
    small[np.unique(np.concatenate([[0], *edges]))] = False
    return small[labels]


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
