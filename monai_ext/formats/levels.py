"""The pixels of a file's levels, whatever it is and whoever decodes it."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from pathlib import Path

import cv2
import numpy as np
import tifffile

from monai_ext.base.colours import to_rgb8
from monai_ext.base.errors import InputError
from monai_ext.formats.image import SLIDE_SUFFIXES, TIFF_SUFFIXES, plausible_mpp, read_field, tiff_mpp

__all__ = ["BACKENDS", "ImageLevels", "Levels", "TiffLevels", "WSILevels", "open_levels"]

#: What can decode a slide: the backends of MONAI's ``WSIReader``.
BACKENDS = ("openslide", "cucim", "tifffile")
_BOUNDS = ("y", "x", "height", "width")
_TILE_BYTES = 64 << 20  # of decoded tiles that the tifffile backend holds in memory at once


class Levels(ABC):
    """An image as one or more levels of falling resolution; safe to read from several threads.

    Attributes:
        shapes: rows and columns of each level.
        downsamples: px of level 0 per px of each level.
        mpp: um per px of level 0 as the file states it; ``None`` where it does not, or not plausibly.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats.levels import Levels, open_levels
        >>> Image.fromarray(np.full((200, 300, 3), 255, np.uint8)).save(folder / "image.png")
        >>> levels, _ = open_levels(folder / "image.png", backend="openslide")
        >>> isinstance(levels, Levels), levels.shapes, levels.downsamples
        (True, [(200, 300)], [1.0])
    """

    shapes: list[tuple[int, int]]
    downsamples: list[float]
    mpp: float | None

    @abstractmethod
    def read(self, level: int, row: int, col: int, height: int, width: int) -> np.ndarray:
        """A region that lies inside a level, as uint8 ``(height, width, 3)`` RGB, transparency laid over white."""

    def first(self, level: int, at: int) -> float:
        """Where a region really begins, along one side, that was asked to begin at px ``at`` of ``level``."""
        del level
        return at

    def reopen(self) -> None:  # noqa: B027 - most need not
        """Make the file readable again after an error."""


class ImageLevels(Levels):
    """An image in memory: PNG, JPEG, BMP, a TIFF without tiles.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats.levels import ImageLevels
        >>> Image.fromarray(np.full((200, 300, 3), 255, np.uint8)).save(folder / "image.png")
        >>> ImageLevels(folder / "image.png").read(level=0, row=10, col=20, height=30, width=40).shape
        (30, 40, 3)
    """

    def __init__(self, path: Path) -> None:
        field = read_field(path)
        self._image = np.moveaxis(field.image, 0, -1)
        self.shapes, self.downsamples, self.mpp = [self._image.shape[:2]], [1.0], field.mpp

    def read(self, level: int, row: int, col: int, height: int, width: int) -> np.ndarray:  # noqa: D102 - see Levels
        del level
        return self._image[row : row + height, col : col + width]


class WSILevels(Levels):
    """A slide through MONAI's ``WSIReader``, by OpenSlide or cuCIM.

    Where a slide states what part of its plane was scanned (MRXS, some SCN: ``openslide.bounds-*``), that part is the
    slide, as it is to QuPath; the rest is empty and often the larger part.

    Examples:
        >>> import tifffile
        >>> from monai_ext.formats.levels import WSILevels
        >>> pixels = np.full((200, 300, 3), 255, np.uint8)
        >>> tifffile.imwrite(folder / "slide.tif", pixels, photometric="rgb", tile=(64, 64))
        >>> levels = WSILevels(folder / "slide.tif", backend="openslide")
        >>> levels.shapes, levels.read(level=0, row=10, col=20, height=30, width=40).shape
        ([(200, 300)], (30, 40, 3))
    """

    def __init__(self, path: Path, backend: str) -> None:
        from monai.data import WSIReader  # who reads images alone need not wait for it

        self._path = str(path)
        # cuCIM has no transparency
        self._reader = WSIReader(backend=backend, mode="RGBA" if backend == "openslide" else "RGB", channel_dim=-1)
        self._slide = self._reader.read(self._path)
        levels = range(self._reader.get_level_count(self._slide))
        self.shapes = [tuple(map(int, self._reader.get_size(self._slide, level))) for level in levels]
        self.downsamples = [float(self._reader.get_downsample_ratio(self._slide, level)) for level in levels]
        self._corner = (0, 0)
        if backend == "openslide" and "openslide.bounds-x" in self._slide.properties:
            top, left, rows, cols = (int(self._slide.properties[f"openslide.bounds-{name}"]) for name in _BOUNDS)
            self._corner = (top, left)
            self.shapes = [(max(1, int(rows / d)), max(1, int(cols / d))) for d in self.downsamples]
        self.mpp = self._stated_mpp(backend)

    def _stated_mpp(self, backend: str) -> float | None:
        # not the reader's own get_mpp: it takes a missing unit for a micrometre, and any scanner's 72 dpi as it is
        if backend == "openslide":
            stated = self._slide.properties.get("openslide.mpp-x")
        else:
            metadata = self._slide.metadata
            spacing = metadata.get("cucim", {}).get("spacing") or [None]
            stated = metadata.get("aperio", {}).get("MPP") or spacing[0]
        return plausible_mpp(stated)

    def read(self, level: int, row: int, col: int, height: int, width: int) -> np.ndarray:  # noqa: D102 - see Levels
        corner = tuple(
            first + round(start * self.downsamples[level])
            for first, start in zip(self._corner, (row, col), strict=True)
        )
        pixels, _ = self._reader.get_data(self._slide, location=corner, size=(height, width), level=level)
        if pixels.shape[-1] == 4 and pixels[..., 3].min() == 255:
            return cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB)
        return to_rgb8(pixels, self._path)

    def first(self, level: int, at: int) -> float:  # noqa: D102 - see Levels
        # OpenSlide and cuCIM take the corner in whole px of level 0
        return round(at * self.downsamples[level]) / self.downsamples[level]

    def reopen(self) -> None:
        """Open the file anew: after an error OpenSlide's handle answers every call with that error.

        The old handle is not closed here: another thread may still be in it. It closes when the last one leaves.
        """
        self._slide = self._reader.read(self._path)


class TiffLevels(Levels):
    """A tiled TIFF through tifffile, for what OpenSlide does not open.

    ``WSIReader`` opens the file. Its tifffile backend's ``get_data`` decodes the whole level for every region, and
    counts labels and thumbnails as levels, so the tiles are read from the open file here.

    Examples:
        >>> import tifffile
        >>> from monai_ext.formats.levels import TiffLevels
        >>> pixels = np.full((200, 300, 3), 255, np.uint8)
        >>> tifffile.imwrite(folder / "slide.tif", pixels, photometric="rgb", tile=(64, 64))
        >>> levels = TiffLevels(folder / "slide.tif")
        >>> levels.shapes, levels.read(level=0, row=10, col=20, height=30, width=40).shape
        ([(200, 300)], (30, 40, 3))
    """

    def __init__(self, path: Path) -> None:
        from monai.data import WSIReader

        self._path = path
        self._tiff = WSIReader(backend="tifffile").read(path)
        self._tiff.filehandle.set_lock(True)
        self._pages = [level.pages[0] for level in self._tiff.series[0].levels if level.pages[0].is_tiled]
        self.shapes = [(page.imagelength, page.imagewidth) for page in self._pages]
        self.downsamples = [self.shapes[0][0] / rows for rows, _ in self.shapes]
        aperio = re.search(r"\|MPP *= *([\d.]+)", self._pages[0].description)
        self.mpp = plausible_mpp(aperio and aperio[1]) or tiff_mpp(self._pages[0])

    def read(self, level: int, row: int, col: int, height: int, width: int) -> np.ndarray:  # noqa: D102 - see Levels
        page = self._pages[level]
        rows, cols = page.tilelength, page.tilewidth
        across = -(-page.imagewidth // cols)
        wanted = [
            down * across + right
            for down in range(row // rows, -(-(row + height) // rows))
            for right in range(col // cols, -(-(col + width) // cols))
        ]
        canvas = np.full((height, width, 3), 255, np.uint8)
        handle = self._tiff.filehandle
        at_once = max(1, _TILE_BYTES // (rows * cols * 3))
        for start in range(0, len(wanted), at_once):
            batch = wanted[start : start + at_once]
            offsets, counts = [page.dataoffsets[i] for i in batch], [page.databytecounts[i] for i in batch]
            for data, index in handle.read_segments(offsets, counts, batch, lock=handle.lock):
                if not data:  # a tile that was never written is glass
                    continue
                tile = page.decode(data, index, jpegtables=page.jpegtables)[0]
                down, right = divmod(index, across)
                _paste(canvas, to_rgb8(tile[0], self._path), down * rows - row, right * cols - col)
        return canvas


def _paste(canvas: np.ndarray, tile: np.ndarray, row: int, col: int) -> None:
    """Paste a tile on a canvas, possibly partly outside."""
    top, left = max(0, -row), max(0, -col)
    bottom, right = min(tile.shape[0], canvas.shape[0] - row), min(tile.shape[1], canvas.shape[1] - col)
    canvas[row + top : row + bottom, col + left : col + right] = tile[top:bottom, left:right]


def open_levels(path: Path, backend: str) -> tuple[Levels, bool]:
    """Open a slide, or an image as a slide of one level.

    Args:
        path: whatever :func:`~monai_ext.formats.image.read_field` reads; a TIFF with tiles counts as a slide.
        backend: who decodes slides; one of :data:`BACKENDS`.

    Returns:
        The levels, and whether the file is a slide.

    Raises:
        InputError: no such file, not an image, or no such backend.

    Examples:
        >>> import tifffile
        >>> from monai_ext.formats import open_levels
        >>> pixels = np.full((200, 300, 3), 255, np.uint8)
        >>> tifffile.imwrite(folder / "slide.tif", pixels, photometric="rgb", tile=(64, 64))
        >>> levels, is_slide = open_levels(folder / "slide.tif", backend="openslide")
        >>> is_slide, levels.shapes
        (True, [(200, 300)])
    """
    if backend not in BACKENDS:
        raise InputError("backend", " or ".join(BACKENDS), repr(backend))
    suffix = path.suffix.lower()
    if not path.is_file() or suffix not in (*SLIDE_SUFFIXES, *TIFF_SUFFIXES):
        return ImageLevels(path), False
    try:
        if suffix in TIFF_SUFFIXES and not _is_slide(path, backend):
            return ImageLevels(path), False
        levels = TiffLevels(path) if backend == "tifffile" else WSILevels(path, backend)
    except InputError:
        raise
    # what the decoders raise for a damaged file is not one family
    except Exception as error:
        raise InputError(path, "a readable slide", str(error).split("\n")[0] or type(error).__name__) from error
    if levels.mpp is None and suffix in TIFF_SUFFIXES:
        with tifffile.TiffFile(path) as tiff:
            levels.mpp = tiff_mpp(tiff.pages[0])
    if not all(math.prod(shape) for shape in levels.shapes):
        raise InputError(path, "a slide with pixels", f"levels {levels.shapes}")
    return levels, True


def _is_slide(path: Path, backend: str) -> bool:
    """Whether a TIFF has tiles that the backend can read."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        if not page.is_tiled or page.bitspersample != 8:
            return False
    if backend != "openslide":
        return True
    import openslide

    return openslide.OpenSlide.detect_format(str(path)) is not None
