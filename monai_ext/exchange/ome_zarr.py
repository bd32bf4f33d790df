"""OME-Zarr 0.4, by zarr: the heat map as an image, and label images of classes and objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.colours import RGB, class_colours
from monai_ext.base.errors import InputError
from monai_ext.exchange.label_maps import LabelMap, class_map, object_map
from monai_ext.exchange.results import Results

__all__ = ["write"]

_CHUNK = 512
_SMALLEST = 256  # px; a pyramid ends where no side is larger
_VERSION = "0.4"
Rows = Callable[[int, int], np.ndarray]  # some rows of all channels, (C, rows, W), or of labels (rows, W)


def write(results: Results, path: Path) -> None:
    """Write a folder with an image and its labels, in chunks of 512 x 512 px with reduced levels.

    The image is the heat map, channel by channel, or where there is none the map of the classes. ``labels/classes``
    has the number of each px's class, with names and colours in its metadata, ``labels/objects`` that of its object by
    the file's order. All lie on the slide in um, or in px of the file where the resolution is unknown: places are those
    of the centres of px, the first of the file at full resolution being at 0.

    Args:
        results: what there is.
        path: the folder.
    """
    import zarr

    sides = tuple(results.mpp or (1.0, 1.0))
    measured = results.mpp is not None
    root = zarr.open_group(path, mode="w", zarr_format=2)
    classes = class_map(results)
    if results.heatmap is None:
        _write_labels(root, classes, sides, measured, results.name)
    else:
        with _heat_levels(results.heatmap) as (names, levels):
            cell = [side * cells for side, cells in zip(sides, results.cell, strict=True)]
            places = []
            for number, (shape, rows) in enumerate(levels):
                _fill(root, str(number), shape, np.dtype("<f4"), rows)
                places.append(_place([2**number * side for side in cell], sides, ndim=3))
        root.attrs["multiscales"] = [_multiscales(results.name, places, measured, channels=True)]
        root.attrs["omero"] = {"version": _VERSION, "name": results.name, "channels": _shown(names)}
    labels = root.create_group("labels")
    labels.attrs["labels"] = ["classes", "objects"]
    group = labels.create_group("classes")
    _write_labels(group, classes, sides, measured, "classes")
    group.attrs["image-label"] = _legend(classes.legend)
    group = labels.create_group("objects")
    del classes  # one map in memory at a time
    _write_labels(group, object_map(results), sides, measured, "objects")
    group.attrs["image-label"] = {"version": _VERSION, "source": {"image": "../../"}}


def _write_labels(group: Any, drawn: LabelMap, sides: Sequence[float], measured: bool, name: str) -> None:
    """Write a map and its reduced levels, of which each holds every second px of the one before."""
    values, places, factor = drawn.values, [], drawn.factor
    while True:
        scale = [factor * side for side in sides]
        places.append(_place(scale, sides, ndim=2))
        _fill(group, str(len(places) - 1), values.shape, values.dtype, lambda a, b, values=values: values[a:b])
        if max(values.shape) <= _SMALLEST:
            break
        values, factor = values[::2, ::2], 2 * factor
    group.attrs["multiscales"] = [_multiscales(name, places, measured, channels=False)]


def _fill(group: Any, name: str, shape: Sequence[int], dtype: np.dtype, rows: Rows) -> None:
    """Make an array and fill it, chunk row by chunk row."""
    from numcodecs import Blosc

    chunks = (1,) * (len(shape) - 2) + tuple(min(side, _CHUNK) for side in shape[-2:])
    array = group.create_array(
        name,
        shape=tuple(shape),
        chunks=chunks,
        dtype=dtype.newbyteorder("<"),
        compressors=Blosc("lz4", 5, Blosc.SHUFFLE),
        fill_value=0,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    for first in range(0, shape[-2], _CHUNK):
        last = min(first + _CHUNK, shape[-2])
        array[..., first:last, :] = rows(first, last)


def _place(scale: Sequence[float], sides: Sequence[float], ndim: int) -> list[dict[str, Any]]:
    """Where a level lies whose px have these sides, and those of the file ``sides``: both begin at the corner."""
    more = ndim - 2
    starts = [(whole - side) / 2 for whole, side in zip(scale, sides, strict=True)]
    return [
        {"type": "scale", "scale": [1.0] * more + [float(side) for side in scale]},
        {"type": "translation", "translation": [0.0] * more + [float(start) for start in starts]},
    ]


def _multiscales(name: str, places: Sequence[Any], measured: bool, channels: bool) -> dict[str, Any]:
    unit = {"unit": "micrometer"} if measured else {}
    axes = [{"name": "c", "type": "channel"}] if channels else []
    axes += [{"name": axis, "type": "space", **unit} for axis in "yx"]
    datasets = [{"path": str(k), "coordinateTransformations": place} for k, place in enumerate(places)]
    return {"version": _VERSION, "name": name, "axes": axes, "datasets": datasets}


def _legend(legend: Mapping[str, RGB]) -> dict[str, Any]:
    colours = [{"label-value": number, "rgba": [*colour, 255]} for number, colour in enumerate(legend.values(), 1)]
    names = [{"label-value": number, "class": name} for number, name in enumerate(legend, 1)]
    return {"version": _VERSION, "colors": colours, "properties": names, "source": {"image": "../../"}}


def _shown(names: Sequence[str]) -> list[dict[str, Any]]:
    """What viewers call the channels, and how they show probabilities."""
    window = {"min": 0.0, "max": 1.0, "start": 0.0, "end": 1.0}
    colours = class_colours(names)
    return [
        {"label": name, "color": "{:02X}{:02X}{:02X}".format(*colours[name]), "window": window, "active": number == 0}
        for number, name in enumerate(names)
    ]


@contextmanager
def _heat_levels(path: Path) -> Iterator[tuple[list[str], list[tuple[tuple[int, int, int], Rows]]]]:
    """Names of the channels, and shape ``(C, H, W)`` and rows of each level of a heat map."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        levels = []
        for level in tiff.series[0].levels:
            key = level.keyframe
            if not key.is_tiled or _CHUNK % key.tilelength:
                raise InputError(path, "a heat map as a run writes it, in tiles", "another TIFF")
            shape = (len(level.pages), key.imagelength, key.imagewidth)
            levels.append((shape, partial(_heat_rows, tiff.filehandle, level.pages)))
        channels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]["Channel"]
        named = channels if isinstance(channels, list) else [channels]
        yield [str(channel["Name"]) for channel in named], levels


def _heat_rows(file: Any, pages: Sequence[Any], first: int, last: int) -> np.ndarray:
    """Rows of each page, tile by tile; the view as Zarr that tifffile 2025.5.10 has is for zarr 2."""
    key = pages[0].keyframe
    across = -(-key.imagewidth // key.tilewidth)
    rows = np.empty((len(pages), last - first, key.imagewidth), key.dtype)
    for page, lines in zip(pages, rows, strict=True):
        for index in range(first // key.tilelength * across, -(-last // key.tilelength) * across):
            file.seek(page.dataoffsets[index])
            tile = key.decode(file.read(page.databytecounts[index]), index)[0][0, ..., 0]
            top, left = index // across * key.tilelength - first, index % across * key.tilewidth
            part = lines[top : top + len(tile), left : left + tile.shape[1]]
            part[:] = tile[: part.shape[0], : part.shape[1]]
    return rows
