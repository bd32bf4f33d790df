"""Otsu's threshold."""

from __future__ import annotations

import cv2
import numpy as np

__all__ = ["otsu_threshold"]

_FLAT = 1e-6  # what float32 filtering and blending leave as noise: a range below it is a constant map


def otsu_threshold(image: np.ndarray, bins: int = 256) -> float:
    """Otsu's threshold of a float image, as ``skimage.filters.threshold_otsu`` computes it.

    Args:
        image: float32 array of any 2-D shape; ``image > threshold`` is the foreground.
        bins: bins of the histogram between the image's minimum and maximum.

    Returns:
        The centre of the bin that separates the classes best; a constant image's own value, so nothing lies above it.
    """
    low, high, *_ = cv2.minMaxLoc(image)
    if high - low <= _FLAT:
        return high
    counts = cv2.calcHist([image], [0], None, [bins], [low, high]).ravel().astype(np.float64)
    counts[-1] += image.size - counts.sum()  # the range's upper end is exclusive in OpenCV
    centres = low + (np.arange(bins) + 0.5) * (high - low) / bins
    below, weighted = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below[:-1]
    difference = weighted[:-1] / below[:-1] - (weighted[-1] - weighted[:-1]) / above
    return float(centres[np.argmax(below[:-1] * above * difference**2)])
