"""From stain density to a scanned picture: Beer-Lambert absorption, the scanner's optics, sensor and compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from monai_ext.base.errors import InputError

__all__ = ["IDEAL_SCANNER", "Scanner", "beer_lambert", "stain_matrix"]

# Extremes of what slides of different laboratories show, columns hematoxylin and eosin; a slide lies between them.
_BLUE_PINK = np.array([[0.650, 0.072], [0.704, 0.990], [0.286, 0.105]])
_PURPLE_SALMON = np.array([[0.563, 0.216], [0.720, 0.801], [0.406, 0.558]])


@dataclass(frozen=True)
class Scanner:
    """How a slide scanner turns transmitted light into 8-bit RGB.

    Args:
        white: intensity of the empty glass in each of R, G, B, in levels (at most 255).
        blur: standard deviation of the optical point-spread function in um.
        noise: standard deviation of the sensor's noise on white, in levels; it falls with the root of the intensity.
        jpeg: JPEG quality 1..100, or 0 for no compression.
    """

    white: tuple[float, float, float] = (243.0, 243.0, 243.0)
    blur: float = 0.25
    noise: float = 1.5
    jpeg: int = 0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Scanner:
        """A typical scanner: slightly tinted white, sharp or soft, more or less noisy."""
        white = rng.uniform(232, 248) + rng.uniform(-5, 5, 3)
        return cls(tuple(float(v) for v in white), float(rng.uniform(0.13, 0.28)), float(rng.uniform(0.8, 2.5)))

    def __call__(
        self,
        light: NDArray[np.float32],
        mpp: float,
        rng: np.random.Generator,
        inner: tuple[slice, slice] = (slice(None),) * 2,
    ) -> NDArray[np.uint8]:
        """Scan transmitted light `(H, W, 3)` (levels, float32) at `mpp` um/px into uint8 RGB.

        `inner` cuts off the margin that only the blur needs.
        """
        if self.blur > 0:
            light = cv2.GaussianBlur(light, (0, 0), self.blur / mpp, borderType=cv2.BORDER_REFLECT)
        light = light[inner]
        if self.noise > 0:
            grain = rng.standard_normal(light.shape, dtype=np.float32)
            grain *= np.sqrt(light * np.float32(self.noise**2 / 255))
            light = light + grain
        image = np.clip(light + 0.5, 0, 255).astype(np.uint8)
        if self.jpeg:
            _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self.jpeg])
            image = np.ascontiguousarray(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1])
        return image


#: No blur, no noise, and the white that stain estimators assume by default.
IDEAL_SCANNER = Scanner(white=(240.0, 240.0, 240.0), blur=0.0, noise=0.0)


def stain_matrix(stains: ArrayLike) -> NDArray[np.float32]:
    """Check stain vectors `(3, 2)`, columns hematoxylin and eosin, and scale each to unit length.

    Raises:
        InputError: the shape is not (3, 2), or a vector is zero, negative or parallel to the other.
    """
    matrix = np.asarray(stains, np.float64)
    if matrix.shape != (3, 2):
        raise InputError("stains", "3 x 2 numbers, columns hematoxylin and eosin", f"shape {matrix.shape}")
    norms = np.linalg.norm(matrix, axis=0)
    if (matrix < 0).any() or (norms == 0).any() or abs(np.prod(matrix / norms, axis=1).sum()) > 0.9999:
        raise InputError("stains", "two different, non-negative absorption vectors", str(matrix.tolist()))
    return (matrix / norms).astype(np.float32)


def draw_stains(rng: np.random.Generator) -> NDArray[np.float32]:
    """Stain vectors `(3, 2)` of a slide, somewhere between the extremes that laboratories show."""
    mix = rng.uniform(0, 1, 2)
    return stain_matrix((1 - mix) * _BLUE_PINK + mix * _PURPLE_SALMON + rng.uniform(-0.03, 0.03, (3, 2)).clip(-0.05))


def beer_lambert(density: NDArray[np.float32], stains: ArrayLike, white: ArrayLike = 255.0) -> NDArray[np.float32]:
    """Light that passes stained tissue: `white * exp(-stains @ density)`, natural logarithm.

    Args:
        density: `(H, W, 2)`, amounts of hematoxylin and eosin, >= 0.
        stains: `(3, 2)`, the optical density in R, G, B of one unit of each stain.
        white: light without tissue, one number or one for each of R, G, B.

    Returns:
        `(H, W, 3)` float32 in (0, white].
    """
    absorbed = density @ np.asarray(stains, np.float32).T
    return np.exp(np.negative(absorbed, out=absorbed), out=absorbed) * np.asarray(white, np.float32)
