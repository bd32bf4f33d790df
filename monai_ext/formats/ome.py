"""Heat maps as pyramidal OME-TIFF, which QuPath and Bio-Formats open."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence

import numpy as np
import tifffile

from monai_ext.formats.heatmap import HeatMap

__all__ = ["write_ome_tiff"]

_TILE = 256


def write_ome_tiff(
    path: str | os.PathLike, levels: Sequence[HeatMap], cell_um: float | None, name: str, channels: Sequence[str]
) -> None:
    """Write a map and its reduced levels, tile by tile; the same map gives the same bytes.

    Args:
        path: the file to write.
        levels: float32 ``(C, H, W)`` each half the one before.
        cell_um: side of a cell of the first level in um, by which the map covers its slide when both are shown in um;
            ``None`` if unknown.
        name: of the image.
        channels: name of each channel.

    Examples:
        >>> import tifffile
        >>> from monai_ext.formats import HeatMap, write_ome_tiff
        >>> from monai_ext.formats.heatmap import halve
        >>> with HeatMap(folder / "0.npy", shape=(2, 512, 768)) as heat, halve(heat, folder / "1.npy") as half:
        ...     write_ome_tiff(folder / "heat.ome.tif", [heat, half], 16.0, "cells", ["healthy", "tumour"])
        >>> with tifffile.TiffFile(folder / "heat.ome.tif") as tiff:
        ...     [level.shape for level in tiff.series[0].levels]
        [(2, 512, 768), (2, 256, 384)]
    """
    shape = levels[0].shape
    content = hashlib.sha256(f"{name} {shape} {cell_um!r}".encode())
    metadata = {
        "axes": "CYX",
        "Name": name,
        "Description": "probability, 0 to 1, of each cell; a reduced level holds the largest of the values it replaces",
        **({} if cell_um is None else {"PhysicalSizeX": cell_um, "PhysicalSizeXUnit": "µm"}),
        **({} if cell_um is None else {"PhysicalSizeY": cell_um, "PhysicalSizeYUnit": "µm"}),
        "Channel": {"Name": list(channels)},
        "UUID": str(uuid.UUID(bytes=content.digest()[:16], version=4)),
    }
    layout = {"dtype": np.float32, "tile": (_TILE, _TILE), "photometric": "minisblack", "compression": "zlib"}
    layout |= {"compressionargs": {"level": 6}, "maxworkers": 1}
    big = 4 * int(np.prod(shape, dtype=np.int64)) > 2**31
    with tifffile.TiffWriter(path, bigtiff=big, ome=True) as tiff:
        for number, level in enumerate(levels):
            if cell_um is not None:
                layout |= {"resolution": (1e4 / cell_um / 2**number,) * 2, "resolutionunit": "CENTIMETER"}
            more = {"subifds": len(levels) - 1, "metadata": metadata} if number == 0 else {"subfiletype": 1}
            tiff.write(_tiles(level), shape=level.shape, **layout, **more)


def _tiles(level: HeatMap) -> Iterator[np.ndarray]:
    """The tiles of each channel in turn, filled up with 0."""
    channels, rows, cols = level.shape
    for channel in range(channels):
        for top in range(0, rows, _TILE):
            strip = level.rows(top, min(top + _TILE, rows), channel)
            strip = np.pad(strip, ((0, _TILE - len(strip)), (0, -cols % _TILE)))
            for left in range(0, strip.shape[1], _TILE):
                yield np.ascontiguousarray(strip[:, left : left + _TILE])
