"""A slide as one pixel grid at the resolution a network wants, whatever levels its file holds."""

from __future__ import annotations

import copy
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from monai_ext.base.errors import InputError
from monai_ext.formats.levels import open_levels
from monai_ext.formats.resolution import SAME_MPP, Scale, file_scale, warn_of_conflict

__all__ = ["SlideReader", "check_slide"]

_SLACK = 1e-6  # px; how far rounding can take a whole number
_PHASES = 1024  # Pillow keeps places in single precision; at multiples of this fraction of a px that is exact
_BLOCK = 1024  # px of a level along the side of what is decoded at once
_READERS = 2  # threads that share the blocks of a region


@dataclass(frozen=True)
class _Grid:
    """A pixel grid over the slide: px ``(i, j)`` covers ``scale`` x ``scale`` px of level 0, from ``(i, j) * scale``.

    Attributes:
        scale: square px of level 0 per px of the grid.
        level: where its pixels come from.
        factors: px of that level per px of the grid, down and to the right: equal where the file's px are square.
        shape: rows and columns that cover level 0.
    """

    scale: float
    level: int
    factors: tuple[float, float]
    shape: tuple[int, int]


class SlideReader:
    """Reads any region of a slide on one grid of ``target_mpp`` um/px.

    Pixels come from the coarsest level that is fine enough, and are averaged from there, by a whole number of 1024ths.
    A level within 10 % of the target is taken as it is, as :func:`~monai_ext.formats.image.read_field` does. The grid's
    true resolution is ``mpp``. Where a file states that its pixels are oblong, level 0 counts here in square ones of
    their shorter side; ``stretch`` leads back to the file's. Every region is cut from the same grid: its position
    follows from the slide's corner, not from the region before it, and resampling sees the pixels around it, so that
    regions side by side join without a trace. What was never scanned is white.

    Safe to use from several threads. After an unreadable region the others can still be read.

    Args:
        path: a slide, or an image that :func:`~monai_ext.formats.image.read_field` reads, which is then held in memory.
        target_mpp: um/px wanted; ``None`` for level 0 as it is.
        mpp: um/px of level 0, in place of what the file states.
        backend: ``openslide``, ``cucim`` or ``tifffile``.

    Attributes:
        path: the file.
        target_mpp: um/px asked for.
        base_mpp: um/px of level 0. An image (not a slide) of unknown resolution counts as being at ``target_mpp``.
        mpp: um/px of the grid.
        scale: px of level 0 per px of the grid.
        level: the level that pixels come from.
        shape: rows and columns of the grid; its last row and column may reach over the slide's edge.
        level0_shape: rows and columns of level 0.
        file_shape: the same in the file's px, which differ where those are oblong.
        file_scale: px of the file per px of the grid; ``row, col`` where the file's are oblong.
        downsamples: px of level 0 per px of each level of the file.
        stretch: square px of level 0 along the rows' and the columns' side of one of the file's, 1 if it is square.
        resolution_source: who states the resolution: ``mpp``, part of the file, or ``assumed``.
        conflict: what the file states of its resolution besides, where that differs by more than 2 %; else empty.
        backend: who decodes the file; not the one asked for where that cannot.

    Raises:
        InputError: no such file, not an image, or a slide without a resolution.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats import SlideReader
        >>> Image.fromarray(np.full((200, 300, 3), 128, np.uint8)).save(folder / "slide.png")
        >>> reader = SlideReader(folder / "slide.png", target_mpp=0.5, mpp=0.25)
        >>> reader.shape, reader.scale
        ((100, 150), 2.0)
        >>> reader.read(row=98, col=0, height=4, width=50)[0, :, 0].tolist()  # white outside the slide
        [128, 128, 255, 255]
    """

    def __init__(
        self,
        path: str | os.PathLike,
        target_mpp: float | None = None,
        mpp: float | None = None,
        backend: str = "openslide",
    ) -> None:
        self.path, self.target_mpp = Path(path), target_mpp
        for name, value in (("mpp", mpp), ("target_mpp", target_mpp)):
            if value is not None and not (isinstance(value, int | float) and 0 < value < math.inf):
                raise InputError(f"--{name}", "um/px, a positive number", repr(value))
        self._levels, is_slide = open_levels(self.path, backend)
        stated = self._levels.resolution
        base = mpp or (stated and stated.mpp) or (None if is_slide else target_mpp)
        if base is None:
            raise InputError(path, "a slide that states its resolution (um/px), or --mpp", "no resolution")
        self.base_mpp, self.backend = float(base), self._levels.backend
        self.resolution_source = "mpp" if mpp else stated.source if stated else "assumed"
        self.stretch, self.conflict = (stated.stretch, stated.conflict) if stated and not mpp else ((1.0, 1.0), "")
        warn_of_conflict(self.path, self.conflict)
        self.file_shape = self._levels.shapes[0]
        self.level0_shape = tuple(
            side if factor == 1 else max(1, round(side * factor))
            for side, factor in zip(self.file_shape, self.stretch, strict=True)
        )
        self.downsamples = tuple(self._levels.downsamples)
        self._take(self._grid_at(target_mpp or self.base_mpp))

    def _take(self, grid: _Grid) -> None:
        self._grid, self.scale, self.level, self.shape = grid, grid.scale, grid.level, grid.shape
        self.mpp = round(self.base_mpp * self.scale, 9)
        self.file_scale: Scale = file_scale(self.scale, self.stretch)

    def at(self, target_mpp: float) -> SlideReader:
        """The same open file on another grid, without opening it again.

        Args:
            target_mpp: um/px; a level within 10 % is taken as it is.

        Examples:
            >>> from PIL import Image
            >>> from monai_ext.formats import SlideReader
            >>> Image.fromarray(np.full((200, 300, 3), 128, np.uint8)).save(folder / "slide.png")
            >>> SlideReader(folder / "slide.png", mpp=0.25).at(1.0).shape
            (50, 75)
        """
        other = copy.copy(self)
        other.target_mpp = target_mpp
        other._take(self._grid_at(target_mpp))
        return other

    def _grid_at(self, mpp: float) -> _Grid:
        """The grid of ``mpp`` um/px, or a level's own where it is nearly that."""
        scale = mpp / self.base_mpp
        downsamples = self._levels.downsamples
        # where a level is nearly the wanted one, the finer ones need not be read
        level = min(range(len(downsamples)), key=lambda k: abs(downsamples[k] / scale - 1))
        factor = 1.0
        if abs(downsamples[level] / scale - 1) > SAME_MPP:
            level = max((k for k, d in enumerate(downsamples) if d <= scale), default=0)
            factor = max(1, round(scale / downsamples[level] * _PHASES)) / _PHASES
        scale = factor * downsamples[level]
        shape = tuple(max(1, math.ceil(side / scale - _SLACK)) for side in self.level0_shape)
        return _Grid(scale, level, tuple(factor / side for side in self.stretch), shape)

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """A region of the grid.

        Args:
            row: its first row, px of the grid; the region may reach over the slide's edges, or lie outside.
            col: its first column.
            height: its rows.
            width: its columns.

        Returns:
            uint8 ``(3, height, width)`` RGB, white outside the slide; channels lie last in memory.

        Raises:
            InputError: the file cannot be read there.
        """
        return self.read_valid(row, col, height, width)[0]

    def read_valid(self, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        """:meth:`read`, and where of the region there is data.

        Returns:
            The pixels, and bool ``(height, width)``, False beyond the grid and where nothing was scanned, or ``None``
            if all of it is data.
        """
        pixels, valid = self._assemble(self._grid, row, col, height, width)
        inside = [
            (np.arange(first, first + length) >= 0) & (np.arange(first, first + length) < side)
            for first, length, side in zip((row, col), (height, width), self.shape, strict=True)
        ]
        if not (inside[0].all() and inside[1].all()):
            on_slide = inside[0][:, None] & inside[1]
            valid = on_slide if valid is None else valid & on_slide
        return np.moveaxis(pixels, -1, 0), valid

    def thumbnail(self, mpp: float) -> np.ndarray:
        """The whole slide at about ``mpp`` um/px, from its corner.

        It is assembled from blocks, so that a slide of one level only needs little more memory than its thumbnail.

        Args:
            mpp: um/px; a level within 10 % is taken as it is.

        Returns:
            uint8 ``(3, rows, cols)`` RGB; see :meth:`thumbnail_scale` for its scale.

        Raises:
            InputError: the file cannot be read.
        """
        return self.overview(mpp)[0]

    def overview(self, mpp: float) -> tuple[np.ndarray, np.ndarray | None]:
        """:meth:`thumbnail`, and where something was scanned.

        Returns:
            The thumbnail, and bool ``(rows, cols)``, or ``None`` if all of the slide was scanned.
        """
        pixels, valid = self._assemble(self._grid_at(mpp))
        return np.moveaxis(pixels, -1, 0), valid

    def thumbnail_scale(self, mpp: float) -> float:
        """Px of level 0 per px of ``thumbnail(mpp)``."""
        return self._grid_at(mpp).scale

    def _assemble(
        self, grid: _Grid, row: int = 0, col: int = 0, height: int | None = None, width: int | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A region, by default all of the grid, from blocks that threads read: a tile is there in half the time."""
        shape = [end if side is None else side for side, end in zip((height, width), grid.shape, strict=True)]
        canvas, gaps = np.empty((*shape, 3), np.uint8), []
        block = max(1, int(_BLOCK / max(grid.factors)))

        def read_block(top: int, left: int) -> None:
            part = np.s_[top : top + block, left : left + block]
            canvas[part], valid = self._read(grid, row + top, col + left, *canvas[part].shape[:2])
            if valid is not None:
                gaps.append((part, valid))

        corners = list(product(*(range(0, side, block) for side in shape)))
        if len(corners) == 1:  # a thread would only take longer
            read_block(*corners[0])
        else:
            with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool:
                for done in [pool.submit(read_block, *corner) for corner in corners]:
                    done.result()
        if not gaps:
            return canvas, None
        scanned = np.ones(shape, bool)
        for part, valid in gaps:
            scanned[part] = valid
        return canvas, scanned

    def _read(self, grid: _Grid, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        (down, right), size = grid.factors, (width, height)
        if down == right == 1:
            return self._crop(grid.level, row, col, height, width)[:2]
        if down == round(down) and right == round(right):  # whole pixels: their mean
            region = (int(down) * row, int(right) * col, int(down) * height, int(right) * width)
            pixels, valid, _ = self._crop(grid.level, *region)
            return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), _shrink(valid, size)
        corner, end = [], []
        for start, length, factor in ((row, height, down), (col, width, right)):
            reach = math.ceil(2 * max(factor, 1)) + 1  # the filters' support
            corner.append(math.floor(start * factor) - reach)
            end.append(math.ceil((start + length) * factor) + reach)
        region = (*corner, end[0] - corner[0], end[1] - corner[1])
        pixels, valid, (first_row, first_col) = self._crop(grid.level, *region)
        box = (col * right - first_col, row * down - first_row)
        box = (*box, box[0] + width * right, box[1] + height * down)
        # Hamming comes closest to a mean over fractions of pixels, which Pillow does not have
        kernel = Image.Resampling.HAMMING if max(down, right) > 1 else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(pixels).resize(size, kernel, box=box)), _shrink(valid, size, box)

    def _crop(
        self, level: int, row: int, col: int, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray | None, tuple[float, float]]:
        """Pixels of a level, white outside the slide; which of them were scanned; where they begin, px of the level."""
        rows, cols = self._levels.shapes[level]
        top, left = min(max(row, 0), rows), min(max(col, 0), cols)
        bottom, right = max(min(row + height, rows), top), max(min(col + width, cols), left)
        first = self._levels.first(level, top) - top + row, self._levels.first(level, left) - left + col
        if (bottom - top) * (right - left) == 0:
            return np.full((height, width, 3), 255, np.uint8), None, first
        try:
            pixels, valid = self._levels.read(level, top, left, bottom - top, right - left)
        # what the decoders raise for a damaged file is not one family
        except Exception as error:
            self._levels.reopen()
            where = f"{self.path}, level {level}, row {top} to {bottom}, column {left} to {right}"
            raise InputError(where, "readable pixels", str(error).split("\n")[0] or type(error).__name__) from error
        if pixels.shape[:2] == (height, width):
            return pixels, valid, first
        part = np.s_[top - row : bottom - row, left - col : right - col]
        canvas = np.full((height, width, 3), 255, np.uint8)
        canvas[part] = pixels
        if valid is not None:
            whole = np.ones((height, width), bool)
            whole[part] = valid
            valid = whole
        return canvas, valid, first


def _shrink(
    valid: np.ndarray | None, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> np.ndarray | None:
    """What was scanned, on a coarser grid: pixels of which at least half were."""
    if valid is None:
        return None
    return np.asarray(Image.fromarray(valid.view(np.uint8) * 255).resize(size, Image.Resampling.BOX, box=box)) >= 128


def check_slide(
    path: str | os.PathLike,
    mpp: float | None = None,
    target_mpp: float | None = None,
    backend: str = "openslide",
) -> None:
    """See that a slide can be opened and states its resolution, without reading its pixels.

    For :class:`~monai_ext.data.Cohort`, as its ``check``.

    Raises:
        InputError: as :class:`SlideReader` does.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats import check_slide
        >>> try:
        ...     check_slide("nowhere.svs", mpp=0.25)
        ... except InputError as error:
        ...     print(error)
        nowhere.svs: expected an image, found no such file
    """
    SlideReader(path, target_mpp, mpp, backend)
