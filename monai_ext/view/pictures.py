"""A slide, and the heat map over it, as tiles for OpenSeadragon."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import cv2
import numpy as np
import tifffile

from monai_ext.base.errors import InputError
from monai_ext.base.fingerprint import fingerprint
from monai_ext.formats.reader import SlideReader

__all__ = ["KINDS", "TILE", "HeatTiles", "SlideTiles", "Tiles", "encode_tile", "heat_colours"]

TILE = 256  # px
#: The formats that tiles are given in; PNG is exact.
KINDS = {"jpg": "image/jpeg", "png": "image/png"}
# stains differ by colour, which JPEG otherwise keeps at half the resolution
_JPEG = [cv2.IMWRITE_JPEG_QUALITY, 90, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
_KEPT = 512  # tiles of coarse levels, which take longest where a file has no such level


def heat_colours(grey: np.ndarray) -> np.ndarray:
    """A heat map in the colours of the overlays, the more opaque the hotter.

    Args:
        grey: uint8 ``(H, W)``, 255 for 1.

    Returns:
        uint8 ``(H, W, 4)`` RGB and opacity.
    """
    rgb = cv2.applyColorMap(np.ascontiguousarray(grey), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.dstack([rgb, grey])


def encode_tile(pixels: np.ndarray, kind: str = "jpg") -> bytes:
    """A picture as a file.

    Args:
        pixels: uint8 ``(H, W, 3 or 4)``, RGB and perhaps opacity.
        kind: of :data:`KINDS`.
    """
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), order)
    return cv2.imencode(f".{kind}", bgr, _JPEG if kind == "jpg" else [])[1].tobytes()


class Level(Protocol):
    """A grid over a picture.

    Attributes:
        shape: its rows and columns.
        scale: px of level 0 per px of it.
    """

    shape: tuple[int, int]
    scale: float

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        """A region, ``(C, height, width)``."""


class Tiles:
    """A pyramid of tiles of 256 px. Level 0 is the finest, and each further one about half the one before.

    Args:
        path: the file.
        levels: of it; each states its own scale.
    """

    def __init__(self, path: Path, levels: Sequence[Level]) -> None:
        self.path, self.levels = path, levels
        self._kept: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._lock = Lock()

    def geometry(self) -> dict[str, Any]:
        """``shape`` in px of level 0, ``tile``, of each level its ``shape`` and ``scale``, and ``version``.

        By the last a browser that keeps tiles asks anew where the file was written anew.
        """
        levels = [{"shape": list(level.shape), "scale": level.scale} for level in self.levels]
        version = "-".join(map(str, fingerprint(self.path)))
        return {"shape": levels[0]["shape"], "tile": TILE, "levels": levels, "version": version}

    def draw(self, values: np.ndarray) -> np.ndarray:
        """What is shown of what a level gives: uint8 ``(H, W, 3 or 4)``, RGB and perhaps opacity."""
        return np.moveaxis(values, 0, -1)

    def tile(self, level: int, row: int, col: int, kind: str = "jpg") -> bytes:
        """A tile as a file.

        Args:
            level: from 0, the finest.
            row: of tiles, from the top.
            col: of tiles, from the left.
            kind: ``jpg`` or ``png``.

        Raises:
            IndexError: there is no such tile.
            InputError: the file cannot be read there.
        """
        if not 0 <= level < len(self.levels) or kind not in KINDS:
            raise IndexError(level)
        rows, cols = self.levels[level].shape
        height, width = min(TILE, rows - row * TILE), min(TILE, cols - col * TILE)
        if row < 0 or col < 0 or height <= 0 or width <= 0:
            raise IndexError(row, col)
        key = level, row, col, kind
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        pixels = self.draw(self.levels[level].read(row * TILE, col * TILE, height, width))
        data = encode_tile(pixels, kind)
        if level:
            with self._lock:
                self._kept[key] = data
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return data


class SlideTiles(Tiles):
    """Those of a slide or an image, whatever levels its file has.

    A level of the file within 10 % of the wanted one is taken as it is.

    Args:
        path: of any format that :class:`~monai_ext.formats.SlideReader` reads.
        mpp: um/px of the file, in place of what it states.

    Attributes:
        reader: of the file; level 0 here is its level 0 in square px.

    Raises:
        InputError: as :class:`~monai_ext.formats.SlideReader`.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.view.pictures import SlideTiles
        >>> Image.new("RGB", (600, 300)).save(folder / "a.png")
        >>> [level["shape"] for level in SlideTiles(folder / "a.png").geometry()["levels"]]
        [[300, 600], [150, 300], [75, 150]]
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        self.reader = SlideReader(path, 1.0, mpp)  # an image of unknown resolution counts as being at the target
        levels = [self.reader.at(self.reader.base_mpp)]
        while max(levels[-1].shape) > TILE:
            levels.append(self.reader.at(self.reader.base_mpp * 2 ** len(levels)))
        super().__init__(path, levels)


class HeatTiles(Tiles):
    """Those of a heat map that a run wrote, of its first channel, as PNG: the hotter, the more opaque.

    No slide reader serves here: what is 0 everywhere would count as never scanned.

    Args:
        path: OME-TIFF in tiles, with reduced levels.

    Raises:
        InputError: it is something else.
    """

    def __init__(self, path: Path) -> None:
        try:
            tiff = tifffile.TiffFile(path)
            levels = [_HeatLevel(path, level, 2.0**k) for k, level in enumerate(tiff.series[0].levels)]
        except (IndexError, OSError, tifffile.TiffFileError) as error:
            raise InputError(path, "a heat map as a run writes it", str(error)) from error
        tiff.filehandle.set_lock(True)
        super().__init__(path, levels)

    def draw(self, values: np.ndarray) -> np.ndarray:  # noqa: D102 - see Tiles
        return heat_colours(np.rint(255 * np.clip(np.nan_to_num(values[0]), 0, 1)).astype(np.uint8))


class _HeatLevel:
    """A level of a heat map; its file's tiles are those that are asked for."""

    def __init__(self, path: Path, series: tifffile.TiffPageSeries, scale: float) -> None:
        self._path, self._page, self._key, self.scale = path, series.pages[0], series.keyframe, scale
        self.shape = (self._key.imagelength, self._key.imagewidth)
        if not self._key.is_tiled or (self._key.tilelength, self._key.tilewidth) != (TILE, TILE):
            raise InputError(path, f"a heat map as a run writes it, in tiles of {TILE} px", "another TIFF")

    def read(self, row: int, col: int, height: int, width: int) -> np.ndarray:
        index = row // TILE * -(-self.shape[1] // TILE) + col // TILE
        handle = self._page.parent.filehandle
        place = [self._page.dataoffsets[index]], [self._page.databytecounts[index]]
        try:
            [(data, _)] = handle.read_segments(*place, lock=handle.lock)
            values = self._key.decode(data, index)[0][0, ..., 0]
        # what the decoders raise for a damaged file is not one family
        except Exception as error:
            raise InputError(f"{self._path}, tile {index}", "a readable heat map", str(error)) from error
        return values[None, :height, :width]
