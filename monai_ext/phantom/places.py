"""Cells and where they lie: the table of cells, and jittered grids of places for them.

Lengths are in um; everything is a pure function of the seed and the position.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from monai_ext.phantom.noise import hash64, point_noise, uniform
from monai_ext.phantom.nuclei import FORMS

__all__ = [
    "FORM_NAMES",
    "FORM_NUMBER",
    "Cells",
    "Floats",
    "Window",
    "cells_at",
    "jittered_grid",
    "noise_at",
    "uid_of",
]

Floats = NDArray[np.float64]
Window = tuple[float, float, float, float]  # top, left, bottom, right in um

FORM_NAMES = tuple(FORMS)
FORM_NUMBER = {name: index for index, name in enumerate(FORM_NAMES)}
_VARIANTS = np.array([form.variants for form in FORMS.values()])


@dataclass(frozen=True)
class Cells:
    """A table of cells in the order in which they are painted; every array has one entry per cell.

    Args:
        uid: a number that names the cell within its slide, whichever tile it is read from.
        y: row of the nucleus' centre in um.
        x: column of the nucleus' centre in um.
        form: index into the sprites' forms.
        variant: which sprite of that form.
        angle: rotation in radians.
        scale: size relative to the sprite.
        tone: stain uptake relative to the sprite.
        flip: mirrored or not.
    """

    uid: NDArray[np.int64]
    y: Floats
    x: Floats
    form: NDArray[np.int64]
    variant: NDArray[np.int64]
    angle: Floats
    scale: Floats
    tone: Floats
    flip: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.uid)

    @property
    def bodies(self) -> int:
        """How many come first as mere cytoplasm, below all nuclei."""
        return int(np.searchsorted(self.uid >> 59, 1))

    def take(self, index: NDArray) -> Cells:
        """The cells at these indices, or where a mask is true."""
        return Cells(*(getattr(self, f.name)[index] for f in fields(self)))

    @staticmethod
    def none() -> Cells:
        """An empty table."""
        return cells_at(0, *(np.empty(0, kind) for kind in (np.int64, float, float, np.int64)))

    @staticmethod
    def join(tables: list[Cells]) -> Cells:
        """One table after the other."""
        return Cells(*(np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(Cells)))


def uid_of(layer: int, i: NDArray[np.int64], j: NDArray[np.int64], k: NDArray[np.int64] | int = 0) -> NDArray[np.int64]:
    """Pack layer (4 bits), grid place (2 x 23 bits) and a number within the place (13 bits)."""
    half = 1 << 22
    return (np.int64(layer) << 59) | ((i + half) << 36) | ((j + half) << 13) | np.asarray(k, np.int64)


def cells_at(
    seed: int, uid: NDArray[np.int64], y: Floats, x: Floats, form: NDArray | int, *, angle: Floats | None = None
) -> Cells:
    """Cells at given places; the rest (variant, size, tone, mirror, angle) follows from the uid."""
    bits = hash64(seed, "cell", uid)
    form = np.broadcast_to(np.asarray(form, np.int64), uid.shape)
    free = uniform(bits, 1) * 2 * np.pi
    return Cells(
        uid=uid, y=y, x=x, form=form,
        variant=(uniform(bits, 0) * _VARIANTS[form]).astype(np.int64),
        angle=free if angle is None else angle + 0.2 * (uniform(bits, 1) - 0.5),
        scale=0.9 + 0.2 * uniform(bits, 2),
        tone=0.85 + 0.3 * uniform(bits, 3),
        flip=uniform(bits, 4) < 0.5,
    )  # fmt: skip


def jittered_grid(
    seed: int, name: str, pitch: float, window: Window, jitter: float
) -> tuple[NDArray, NDArray, Floats, Floats, NDArray]:
    """Jittered points of a staggered grid in a window (and a little around): i, j, y, x and 64 random bits of each."""
    top, left, bottom, right = window
    i, j = np.mgrid[int(top // pitch) - 1 : int(bottom // pitch) + 2, int(left // pitch) - 1 : int(right // pitch) + 2]
    i, j = i.ravel().astype(np.int64), j.ravel().astype(np.int64)
    bits = hash64(seed, name, i, j)
    y = (i + 0.5 + jitter * (uniform(bits, 0) - 0.5)) * pitch
    x = (j + 0.5 + 0.5 * (i % 2) - 0.25 + jitter * (uniform(bits, 1) - 0.5)) * pitch
    inside = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return i[inside], j[inside], y[inside], x[inside], bits[inside]


def noise_at(seed: int, y: Floats | float, x: Floats | float, name: str, wavelength: float) -> NDArray[np.float32]:
    """Smooth noise of unit variance at points that broadcast; see :func:`point_noise`."""
    return point_noise(seed, name, wavelength, np.asarray(y, np.float64), np.asarray(x, np.float64))
