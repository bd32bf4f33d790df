"""A slide, and the heat map over it, as tiles for OpenSeadragon."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.fingerprint import fingerprint
from monai_ext.formats.reader import SlideReader

__all__ = ["KINDS", "TILE", "Tiles", "heat_colours", "heat_tiles"]

TILE = 256  # px
#: The formats that tiles are given in; PNG is exact.
KINDS = {"jpg": "image/jpeg", "png": "image/png"}
_QUALITY = 90
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


class Tiles:
    """A pyramid of tiles of 256 px, whatever levels the file has.

    Level 0 is the file at full resolution, and each further one about half the one before. A level of the file within
    10 % of that is taken as it is, so each states its own scale.

    Args:
        path: an image of any format that :class:`~monai_ext.formats.SlideReader` reads.
        mpp: um/px of the file, in place of what it states.
        colours: turns uint8 RGB ``(H, W, 3)`` into what is shown.

    Attributes:
        reader: of the file.
        levels: of the same file, each on its grid.

    Raises:
        InputError: as :class:`~monai_ext.formats.SlideReader`.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.view.pictures import Tiles
        >>> Image.new("RGB", (600, 300)).save(folder / "a.png")
        >>> tiles = Tiles(folder / "a.png")
        >>> [level["shape"] for level in tiles.geometry()["levels"]]
        [[300, 600], [150, 300], [75, 150]]
    """

    def __init__(
        self,
        path: Path,
        mpp: float | None = None,
        colours: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        # an image of unknown resolution counts as being at the target
        self.reader = SlideReader(path, 1.0, mpp)
        self._colours = colours
        self.levels = [self.reader.at(self.reader.base_mpp)]
        while max(self.levels[-1].shape) > TILE:
            self.levels.append(self.reader.at(self.reader.base_mpp * 2 ** len(self.levels)))
        self._kept: OrderedDict[tuple[Any, ...], bytes] = OrderedDict()
        self._lock = Lock()

    def geometry(self) -> dict[str, Any]:
        """``shape`` in square px of level 0, ``tile``, of each level its ``shape`` and ``scale``, and ``version``.

        By the last a browser that keeps tiles asks anew where the file was written anew.
        """
        levels = [{"shape": list(level.shape), "scale": level.scale} for level in self.levels]
        version = "-".join(map(str, fingerprint(self.reader.path)))
        return {"shape": list(self.reader.level0_shape), "tile": TILE, "levels": levels, "version": version}

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
        pixels = np.moveaxis(self.levels[level].read(row * TILE, col * TILE, height, width), 0, -1)
        data = _encoded(pixels if self._colours is None else self._colours(pixels), kind)
        if level:
            with self._lock:
                self._kept[key] = data
                if len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return data


def heat_tiles(path: Path) -> Tiles:
    """The tiles of a heat map that a run wrote, of one channel.

    Raises:
        InputError: it cannot be read, or has several channels.
    """
    return Tiles(path, 1.0, lambda rgb: heat_colours(rgb[..., 0]))


def _encoded(pixels: np.ndarray, kind: str) -> bytes:
    bgr = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    done, data = cv2.imencode(f".{kind}", bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if kind == "jpg" else [])
    if not done:
        raise InputError("tile", f"pixels that {kind} can hold", str(pixels.shape))
    return data.tobytes()
