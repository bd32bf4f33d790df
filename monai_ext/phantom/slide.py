"""What makes a slide: its tissue, its stains, its scanner. No pixels here."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from monai_ext.base.errors import InputError
from monai_ext.phantom.noise import hash64
from monai_ext.phantom.optics import Scanner, draw_stains, stain_matrix
from monai_ext.phantom.structures import Blob, Structure
from monai_ext.phantom.tissue import Tissue, structures_in

__all__ = ["PhantomSlide", "phantom_slide"]


@dataclass(frozen=True)
class PhantomSlide:
    """Everything that makes one slide; it holds no pixels.

    Args:
        name: the slide's id.
        seed: where its tissue comes from.
        mpp: um per pixel of level 0.
        stains: `(3, 2)` unit absorption vectors, columns hematoxylin and eosin.
        strength: amount of each stain relative to the usual.
        scanner: optics, sensor and compression.
        tissue: composition.
        fibres: main direction of the collagen in radians.
        fragments: outlines of the pieces of tissue on the glass; empty: tissue everywhere.
    """

    name: str
    seed: int
    mpp: float
    stains: NDArray[np.float32]
    strength: tuple[float, float]
    scanner: Scanner
    tissue: Tissue
    fibres: float
    fragments: tuple[Blob, ...] = ()

    def structures(self, origin: tuple[int, int], size: tuple[int, int]) -> list[Structure]:
        """Glands and vessels that touch a field; lengths in um from the slide's corner."""
        top, left = (o * self.mpp for o in origin)
        return structures_in(self.seed, self.tissue, (top, left, top + size[0] * self.mpp, left + size[1] * self.mpp))


def phantom_slide(
    seed: int,
    *,
    name: str | None = None,
    mpp: float = 0.25,
    size: tuple[int, int] | None = None,
    stains: ArrayLike | None = None,
    strength: tuple[float, float] | None = None,
    scanner: Scanner | None = None,
    tissue: Tissue | None = None,
) -> PhantomSlide:
    """Draw a slide from its seed: stain vectors and strengths, scanner, direction of fibres.

    Args:
        seed: any integer.
        name: the slide's id; default `slide_<seed>`.
        mpp: um per pixel, 0.1 to 4.
        size: height and width of the glass in pixels, on which a few pieces of tissue lie; default: tissue everywhere.
        stains: known absorption vectors `(3, 2)`, columns hematoxylin and eosin, instead of drawn ones.
        strength: known amounts of hematoxylin and eosin instead of drawn ones.
        scanner: a known scanner instead of a drawn one.
        tissue: composition; default a cellular carcinoma.

    Raises:
        InputError: the resolution or the stain vectors make no sense.
    """
    if not 0.1 <= mpp <= 4:
        raise InputError("mpp", "0.1 to 4 um per pixel", str(mpp))
    rng = np.random.default_rng(int(hash64(seed, "slide")[0]))
    drawn_stains, drawn_scanner = draw_stains(rng), Scanner.draw(rng)
    drawn_strength = (float(rng.uniform(0.85, 1.15)), float(rng.uniform(0.75, 1.2)))
    return PhantomSlide(
        name=name or f"slide_{seed}",
        seed=seed,
        mpp=float(mpp),
        stains=drawn_stains if stains is None else stain_matrix(stains),
        strength=strength or drawn_strength,
        scanner=scanner or drawn_scanner,
        tissue=tissue or Tissue(),
        fibres=float(rng.uniform(0, np.pi)),
        fragments=() if size is None else _fragments(rng, size[0] * mpp, size[1] * mpp),
    )


def _fragments(rng: np.random.Generator, height: float, width: float) -> tuple[Blob, ...]:
    """Two to four pieces of tissue side by side along the longer side of the glass (um)."""
    count = int(rng.integers(2, 5))
    middles = (np.arange(count) + 0.5) / count
    pieces = []
    for middle in middles:
        y, x = (middle * height, width / 2) if height > width else (height / 2, middle * width)
        room = min(height, width, max(height, width) / count)
        nudge = rng.uniform(-0.06, 0.06, 2) * room
        blob = Blob.draw(rng, y + nudge[0], x + nudge[1], room * rng.uniform(0.34, 0.43), wobble=0.15)
        across = np.pi / 2 if height <= width else 0.0  # the longer axis across the row of pieces
        pieces.append(replace(blob, angle=across + rng.uniform(-0.4, 0.4)))
    return tuple(pieces)
