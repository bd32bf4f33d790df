"""What all decoders of images have in common: levels, regions of them, and what was scanned."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.formats.pyramid import level_factors
from monai_ext.formats.resolution import Resolution
from monai_ext.formats.scanned import REACH, blank_unscanned, may_be_unscanned

__all__ = ["Levels", "check_axes", "check_size", "paste"]

_MOST_PIXELS = 500_000_000


class Levels(ABC):
    """An image as one or more levels of falling resolution; safe to read from several threads.

    Attributes:
        shapes: rows and columns of each level, without what a writer padded.
        downsamples: px of level 0 per px of each level.
        resolution: the sides of a px of level 0 as the file states them; ``None`` where it does not, or not plausibly.
        backend: who decodes it.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats.level_base import Levels
        >>> from monai_ext.formats.levels import open_levels
        >>> Image.fromarray(np.full((200, 300, 3), 255, np.uint8)).save(folder / "image.png")
        >>> levels, _ = open_levels(folder / "image.png", backend="openslide")
        >>> isinstance(levels, Levels), levels.shapes, levels.downsamples
        (True, [(200, 300)], [1.0])
    """

    shapes: list[tuple[int, int]]
    downsamples: list[float]
    resolution: Resolution | None
    backend: str

    def read(self, level: int, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A region that lies inside a level.

        Returns:
            uint8 ``(height, width, 3)`` RGB, white where nothing was scanned: transparent parts, tiles that were never
            written, large areas of pure black. And where something was, bool ``(height, width)``, or ``None`` for all
            of it.
        """
        # whether black is a gap is decided by what lies around it, so that regions side by side agree
        rows, cols = self.shapes[level]
        top, left = max(0, row - REACH), max(0, col - REACH)
        bottom, right = min(rows, row + height + REACH), min(cols, col + width + REACH)
        pixels, valid = self._decode(level, row, col, height, width)
        if not may_be_unscanned(pixels):
            return pixels, valid
        if (top, left, bottom, right) != (row, col, row + height, col + width):
            pixels, valid = self._decode(level, top, left, bottom - top, right - left)
        pixels, scanned = blank_unscanned(pixels)
        if scanned is not None:
            valid = scanned if valid is None else valid & scanned
        part = np.s_[row - top : row - top + height, col - left : col - left + width]
        return np.ascontiguousarray(pixels[part]), None if valid is None or valid[part].all() else valid[part]

    @abstractmethod
    def _decode(self, level: int, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        """As :meth:`read`, but with black as it is."""

    def _lay_out(self, sizes: Sequence[tuple[int, int]], tiles: Sequence[tuple[int, int] | None]) -> list[int]:
        """Set shapes and downsamples by the sizes and tiles of all levels that a file has; the numbers of those used.

        What a level has beyond the finest one's edge is padding.
        """
        factors = level_factors(sizes, tiles)
        used = [number for number, factor in enumerate(factors) if factor is not None]
        self.downsamples = [factors[number] for number in used]
        self.shapes = [
            tuple(
                min(side, math.ceil(whole / factors[number]))
                for side, whole in zip(sizes[number], sizes[0], strict=True)
            )
            for number in used
        ]
        return used

    def try_tile(self) -> None:
        """Decode a pixel: some decoders open what they cannot read.

        Raises:
            Exception: whatever the decoder raises.
        """
        self._decode(len(self.shapes) - 1, 0, 0, 1, 1)

    def try_ends(self) -> None:
        """Decode the last pixel of each level: of a file that was cut off it is missing.

        Raises:
            Exception: whatever the decoder raises.
        """
        for level, (rows, cols) in enumerate(self.shapes):
            self._decode(level, rows - 1, cols - 1, 1, 1)

    def first(self, level: int, at: int) -> float:
        """Where a region really begins, along one side, that was asked to begin at px ``at`` of ``level``."""
        del level
        return at

    def reopen(self) -> None:  # noqa: B027 - most need not
        """Make the file readable again after an error."""


def check_size(path: Path, rows: int, cols: int) -> None:
    """Whether so many px fit in memory as one field.

    Raises:
        InputError: more than 500 Mpx.

    Examples:
        >>> from pathlib import Path
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats.level_base import check_size
        >>> try:
        ...     check_size(Path("slide.svs"), 40000, 60000)
        ... except InputError as error:
        ...     print(error.found)
        60000 x 40000 px: cut out a region
    """
    if rows * cols > _MOST_PIXELS:
        problem = f"{cols} x {rows} px: cut out a region"
        raise InputError(path, f"at most {_MOST_PIXELS // 10**6} Mpx in one field", problem)


def paste(canvas: np.ndarray, tile: np.ndarray, row: int, col: int) -> None:
    """Paste a tile on a canvas, possibly partly outside.

    Examples:
        >>> from monai_ext.formats.level_base import paste
        >>> canvas = np.zeros((2, 3), int)
        >>> paste(canvas, np.ones((2, 2), int), row=-1, col=2)
        >>> canvas.tolist()
        [[0, 0, 1], [0, 0, 0]]
    """
    top, left = max(0, -row), max(0, -col)
    bottom, right = min(tile.shape[0], canvas.shape[0] - row), min(tile.shape[1], canvas.shape[1] - col)
    if bottom > top and right > left:
        canvas[row + top : row + bottom, col + left : col + right] = tile[top:bottom, left:right]


def check_axes(path: Path, axes: str, shape: Sequence[int], dtype: np.dtype) -> None:
    """That an array is one RGB or grey image.

    Args:
        path: the file that an error names.
        axes: a letter for each: Y and X, S for samples, C for channels, Z for planes, T for times.
        shape: of all of them.
        dtype: of its numbers.

    Raises:
        InputError: it has other channels, or is a stack or a time series.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats.level_base import check_axes
        >>> check_axes(folder / "a.tif", "CYX", (3, 200, 300), np.dtype(np.uint8))
        >>> try:
        ...     check_axes(folder / "a.tif", "ZYX", (5, 200, 300), np.dtype(np.uint8))
        ... except InputError as error:
        ...     print(error.found)
        a stack of 5 focal planes (axes ZYX, 5 x 200 x 300)
    """
    sizes = dict(zip(axes, shape, strict=True))
    samples, channels = sizes.pop("S", 1), sizes.pop("C", 1)
    rows, cols = sizes.pop("Y", 1), sizes.pop("X", 1)
    del rows, cols
    names = {"Z": "a stack of {} focal planes", "T": "a time series of {} frames"}
    more = [names.get(axis, "{} pages").format(size) for axis, size in sizes.items() if size > 1]
    planes_are_rgb = channels == 3 and samples == 1 and dtype == np.uint8
    if channels > 1 and not planes_are_rgb:
        more.append(f"{channels} channels of {dtype}")
    if samples > 4:
        more.append(f"{samples} samples")
    if more:
        problem = " and ".join(more) + f" (axes {axes}, {' x '.join(map(str, shape))})"
        raise InputError(path, "one RGB or grey image", problem)
