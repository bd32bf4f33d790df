"""Random fields that are pure functions of position: no state, no order, the same from whichever tile they are read."""

from __future__ import annotations

from typing import Protocol
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Noise", "grid_noise", "hash64", "point_noise", "uniform"]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = 0xFFFFFFFFFFFFFFFF
_BSPLINE_POWER = 151 / 315  # integral of the squared cubic B-spline: what smoothing leaves of the lattice's variance
_UNIT_VARIANCE = np.float32(12**0.5 / _BSPLINE_POWER)


class Noise(Protocol):
    """A smooth random field of mean 0 and variance about 1, already bound to a seed and to positions."""

    def __call__(self, name: str, wavelength: float) -> NDArray[np.float32]:
        """Values of the field `name` with bumps about `wavelength` um apart."""
        ...


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def hash64(seed: int, *keys: str | ArrayLike) -> NDArray[np.uint64]:
    """64 well-mixed bits for a seed and any number of names and integer coordinates, which broadcast."""
    value = np.array(seed & _MASK, np.uint64).reshape(1)
    for key in keys:
        number = np.asarray(crc32(key.encode()) if isinstance(key, str) else key, np.int64).astype(np.uint64)
        value = _mix(_mix(value + np.uint64(_GOLDEN)) ^ (number + np.uint64(_GOLDEN >> 1)))
    return value


def uniform(bits: NDArray[np.uint64], stream: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), one per element of `bits` and another set for each `stream`."""
    return (_mix(bits + np.uint64(_GOLDEN * (stream + 1) & _MASK)) >> np.uint64(11)) * 2.0**-53


def _bspline(position: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """First of the four lattice points around each position, and their cubic B-spline weights `(..., 4)`."""
    base = np.floor(position)
    t = position - base
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=-1) / 6
    return base.astype(np.int64) - 1, weights.astype(np.float32)


def _band(position: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Lattice points that ascending positions touch, and the matrix that interpolates between them."""
    first, weights = _bspline(position)
    lattice = np.arange(first[0], first[-1] + 4)
    matrix = np.zeros((len(position), len(lattice)), np.float32)
    columns = first[:, None] - first[0] + np.arange(4)
    np.put_along_axis(matrix, columns, weights, axis=1)
    return lattice, matrix


def _centred(bits: NDArray[np.uint64]) -> NDArray[np.float32]:
    return (uniform(bits, 0) - 0.5).astype(np.float32)


def grid_noise(
    seed: int, name: str, wavelength: float, y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Value noise on the grid of ascending coordinates `y` (H,) and `x` (W,): shape `(H, W)`, variance about 1.

    Interpolation is separable, so a map is two small matrix products.
    """
    rows, down = _band(y / wavelength)
    columns, across = _band(x / wavelength)
    lattice = _centred(hash64(seed, name, rows[:, None], columns[None, :]))
    return (down @ (lattice * _UNIT_VARIANCE)) @ across.T


def point_noise(
    seed: int, name: str, wavelength: float, y: NDArray[np.float64], x: NDArray[np.float64]
) -> NDArray[np.float32]:
    """The same field as `grid_noise` at scattered points `y`, `x` of equal shape."""
    rows, down = _bspline(y / wavelength)
    columns, across = _bspline(x / wavelength)
    step = np.arange(4)
    bits = hash64(seed, name, rows[..., None, None] + step[:, None], columns[..., None, None] + step)
    return np.einsum("...i,...ij,...j->...", down, _centred(bits), across) * _UNIT_VARIANCE
