"""Slides as OME-Zarr, written array by array, by the standard's versions 0.4 and 0.5."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

zarr = pytest.importorskip("zarr", reason="zarr is not installed (the extra [zarr])")

KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def write_zarr(
    path: Path,
    pixels: np.ndarray,
    *,
    version: str = "0.5",
    axes: str = "tczyx",
    levels: tuple[int, ...] = (1, 2),
    mpp: tuple[float, float] = (0.25, 0.25),
    unit: str | None = "micrometer",
    chunk: int = 150,
    sizes: dict[str, int] | None = None,
    shrink: Callable[[np.ndarray, int], np.ndarray] = lambda image, factor: image[::factor, ::factor],
    whole: bool = False,
    inside: str = "",
) -> Path:
    """A folder with an array for each level.

    Args:
        path: the folder.
        pixels: ``(H, W, 3)`` RGB, or ``(H, W)`` where ``axes`` have no c.
        version: of the standard.
        axes: names of the axes, in their order.
        levels: downsampling of each.
        mpp: um of a row and of a column.
        unit: of the axes y and x, and thereby of the scale; None for none.
        chunk: side.
        sizes: of axes that have not one element, t and z; c for repeated channels.
        shrink: makes a level.
        whole: the scale of level 0 is that of the whole image, those of the levels are relative.
        inside: the group that the image is, as bioformats2raw has it.
    """
    sizes = sizes or {}
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    if inside:
        root = {"bioformats2raw.layout": 3}
        group.attrs.update({"ome": {"version": version, **root}} if version == "0.5" else root)
        group = group.create_group(inside)
    per_unit = {"nanometer": 1e3, "millimeter": 1e-3}.get(unit, 1.0)
    datasets = []
    for number, factor in enumerate(levels):
        level = shrink(pixels, factor)
        left = [axis for axis in axes if axis in "yxc"]
        level = level.transpose([{"y": 0, "x": 1, "c": 2}[axis] for axis in left]) if level.ndim == 3 else level
        for place, axis in enumerate(axes):
            if axis not in left or (axis == "c" and level.ndim < len(axes) and pixels.ndim == 2):
                level = np.repeat(np.expand_dims(level, place), sizes.get(axis, 1), axis=place)
        if "c" in sizes and pixels.ndim == 3:
            level = np.resize(level, [sizes.get(axis, n) for axis, n in zip(axes, level.shape, strict=True)])
        chunks = tuple(chunk if axis in "yx" else 1 for axis in axes)
        array = group.create_array(str(number), shape=level.shape, chunks=chunks, dtype=level.dtype, fill_value=0)
        array[...] = level
        scale = [1.0] * len(axes)
        for axis, side in zip("yx", mpp, strict=True):
            scale[axes.index(axis)] = factor * (1.0 if whole else side * per_unit)
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    named = [{"name": axis, "type": KINDS[axis]} | ({"unit": unit} if unit and axis in "yx" else {}) for axis in axes]
    image = {"axes": named, "datasets": datasets, "name": "slide"}
    if whole:
        scale = [dict(zip("yx", mpp, strict=True)).get(axis, 1.0) for axis in axes]
        image["coordinateTransformations"] = [{"type": "scale", "scale": scale}]
    if version == "0.5":
        group.attrs["ome"] = {"version": version, "multiscales": [image]}
    else:
        group.attrs["multiscales"] = [{**image, "version": version}]
    return path


def zipped(folder: Path, path: Path) -> Path:
    """The folder as an archive whose root is its root, without compression."""
    archive = Path(shutil.make_archive(str(path.with_name("made")), "zip", folder))
    return archive.rename(path)
