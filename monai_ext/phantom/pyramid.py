"""Whole slides: pyramidal tiled TIFF, written tile by tile with memory bounded by one row of tiles."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson
import tifffile
from numpy.typing import NDArray
from tqdm import tqdm

from monai_ext.base.errors import InputError
from monai_ext.phantom.field import BLOCK, PhantomField, phantom_field
from monai_ext.phantom.nuclei import CellClass
from monai_ext.phantom.slide import PhantomSlide, phantom_slide

__all__ = ["render_slide", "write_slide"]

Tile = NDArray[np.uint8]
Record = Callable[[PhantomField], None]
_RECORDED = {CellClass.MITOSIS: [200, 0, 0], CellClass.LOOKALIKE: [0, 120, 200]}


def _halve(row: Tile) -> Tile:
    """Average 2 x 2 pixels; the last row or column of an odd side stands for two."""
    h, w = row.shape[:2]
    row = np.pad(row, ((0, h % 2), (0, w % 2), (0, 0)), mode="edge").astype(np.uint16)
    return ((row[0::2, 0::2] + row[1::2, 0::2] + row[0::2, 1::2] + row[1::2, 1::2] + 2) // 4).astype(np.uint8)


class _Level:
    """A reduced level: collects rows from the level above, spools its own tiles to disk, hands rows on to the next."""

    def __init__(self, shape: tuple[int, int], spool: BinaryIO, below: list[_Level]) -> None:
        self.shape, self.spool, self.below = shape, spool, below
        self.lengths: list[int] = []
        self.waiting: list[Tile] = []

    def add(self, strip: Tile, last: bool) -> None:
        """Take the half-size image of a row of tiles above; two such strips make one row of tiles here."""
        self.waiting.append(strip)
        if len(self.waiting) < 2 and not last:
            return
        row = np.concatenate(self.waiting)
        self.waiting = []
        for tile in _cut(row):
            packed = zlib.compress(tile.tobytes(), 1)
            self.spool.write(packed)
            self.lengths.append(len(packed))
        if self.below:
            self.below[0].add(_halve(row), last)

    def tiles(self) -> Iterator[Tile]:
        """The spooled tiles, in order."""
        self.spool.seek(0)
        for length in self.lengths:
            yield np.frombuffer(zlib.decompress(self.spool.read(length)), np.uint8).reshape(BLOCK, BLOCK, 3)


def _spool(stack: ExitStack, folder: Path) -> BinaryIO:
    return stack.enter_context(tempfile.TemporaryFile(dir=folder))


def _levels(size: tuple[int, int], spool: Callable[[], BinaryIO]) -> list[_Level]:
    """The reduced levels of a slide, each half the one above, down to one tile."""
    if max(size) <= BLOCK:
        return []
    half = (-(-size[0] // 2), -(-size[1] // 2))
    smaller = _levels(half, spool)
    return [_Level(half, spool(), smaller[:1]), *smaller]


def _cut(row: Tile) -> Iterator[Tile]:
    """Tiles of a strip at most one tile high, filled up with the edge's colour."""
    h, w = row.shape[:2]
    row = np.pad(row, ((0, BLOCK - h), (0, -w % BLOCK), (0, 0)), mode="edge")
    yield from (np.ascontiguousarray(row[:, x : x + BLOCK]) for x in range(0, row.shape[1], BLOCK))


def _features(view: PhantomField) -> Iterator[bytes]:
    """GeoJSON points (x, y in level-0 pixels) of the mitoses and look-alikes of a field."""
    for label, color in _RECORDED.items():
        for row, col in view.points(label) + view.origin:
            yield orjson.dumps({
                "type": "Feature",
                "geometry": {"type": "Point", "coordinates": [int(col), int(row)]},
                "properties": {
                    "objectType": "annotation",
                    "classification": {"name": label.name.lower(), "color": color},
                },
            })  # fmt: skip


class _Renderer:
    """Renders the slide row by row of tiles; feeds the pyramid and the ground truth on the way."""

    def __init__(self, slide: PhantomSlide, size: tuple[int, int], levels: list[_Level], record: Record) -> None:
        self.slide, self.size, self.levels, self.record = slide, size, levels, record

    def tiles(self) -> Iterator[Tile]:
        """Level 0."""
        height, width = self.size
        rows = range(0, height, BLOCK)
        for top in tqdm(rows, desc="phantom slide", unit="row", disable=None):
            row_height = min(BLOCK, height - top)
            half = np.empty((-(-row_height // 2), -(-width // 2), 3), np.uint8)
            for left in range(0, width, BLOCK):
                view = phantom_field((row_height, min(BLOCK, width - left)), slide=self.slide, origin=(top, left))
                self.record(view)
                small = _halve(view.image)
                half[:, left // 2 : left // 2 + small.shape[1]] = small
                if self.levels and left + BLOCK >= width:  # before the last tile: nothing resumes this after it
                    self.levels[0].add(half, last=top == rows[-1])
                yield next(_cut(view.image))


def render_slide(
    path: Path,
    slide: PhantomSlide,
    size: tuple[int, int],
    record: Record,
    *,
    compression: str = "jpeg",
    quality: int = 85,
) -> None:
    """Write a slide as a pyramidal tiled TIFF.

    Args:
        path: the file, written in one pass; temporary files go beside it.
        slide: what to render.
        size: height and width of level 0 in pixels.
        record: is shown every tile of level 0 with its ground truth, row by row.
        compression: `jpeg`, or `deflate` for no loss.
        quality: of JPEG, 1 to 100.

    Raises:
        InputError: a size or a compression that makes no sense.
    """
    if min(size) < 64:
        raise InputError("size", "at least 64 px", f"{size[0]} x {size[1]}")
    if compression not in ("jpeg", "deflate"):
        raise InputError("compression", "jpeg or deflate", compression)
    lossy = compression == "jpeg"
    layout = {
        "tile": (BLOCK, BLOCK),
        "dtype": np.uint8,
        "photometric": "rgb",
        "compression": "jpeg" if lossy else "zlib",
        "compressionargs": {"level": quality} if lossy else None,
        "resolutionunit": "CENTIMETER",
        "metadata": None,
        "software": "monai_ext phantom",
    }
    big = size[0] * size[1] * 4 > 2**31
    with ExitStack() as stack:
        tiff = stack.enter_context(tifffile.TiffWriter(path, bigtiff=big))
        levels = _levels(size, partial(_spool, stack, path.parent))
        density = 1e4 / slide.mpp
        tiles = _Renderer(slide, size, levels, record).tiles()
        tiff.write(tiles, shape=(*size, 3), resolution=(density, density), **layout)
        for number, level in enumerate(levels, start=1):
            resolution = (density / 2**number,) * 2
            tiff.write(level.tiles(), shape=(*level.shape, 3), subfiletype=1, resolution=resolution, **layout)


def write_slide(
    path: str | Path,
    size: int | tuple[int, int] = 20_000,
    seed: int = 0,
    *,
    mpp: float = 0.25,
    compression: str = "jpeg",
    quality: int = 85,
    overwrite: bool = False,
    **options: object,
) -> Path:
    """Write a synthetic whole slide: pieces of tissue on glass, as a pyramidal tiled TIFF.

    Tiles of 512 px are rendered and written one after the other and each level is halved as the rows above it are
    finished, so memory is bounded by one row of tiles, whatever the height. Beside the slide, `<name>.geojson` takes
    the centroids of its mitoses and look-alikes.

    Args:
        path: the file to make, `.tif` or `.tiff`; it appears only when it is complete.
        size: side, or height and width, of level 0 in pixels.
        seed: the same seed gives the same slide.
        mpp: um per pixel of level 0; written into the resolution tags.
        compression: `jpeg`, or `deflate` for no loss.
        quality: of JPEG, 1 to 100.
        overwrite: replace an existing file.
        **options: further arguments of `phantom_slide`: stains, strength, scanner, tissue, name.

    Raises:
        InputError: a size, a resolution or a compression that makes no sense, or a file that is already there.
    """
    path = Path(path)
    size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if path.suffix not in (".tif", ".tiff"):
        raise InputError(path, "a file name ending in .tif or .tiff", path.suffix or "no ending")
    truth_path = path.with_suffix(".geojson")
    for made in (path, truth_path):
        if made.exists() and not overwrite:
            raise InputError(made, "a new file (or overwrite)", "an existing one")
    slide = phantom_slide(seed, mpp=mpp, size=size, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as scratch:
        folder = Path(scratch)
        with (folder / "truth").open("wb") as truth:
            truth.write(b'{"type": "FeatureCollection", "features": [\n')
            separator = b""

            def record(view: PhantomField) -> None:
                nonlocal separator
                for feature in _features(view):
                    truth.write(separator + feature)
                    separator = b",\n"

            render_slide(folder / "slide", slide, size, record, compression=compression, quality=quality)
            truth.write(b"\n]}\n")
        (folder / "truth").replace(truth_path)
        (folder / "slide").replace(path)
    return path
