"""OME-Zarr (NGFF 0.4 and 0.5) as a slide, and label images in it: a folder, or one in a ZIP archive, read by zarr."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.formats.level_base import Levels, check_axes, check_size
from monai_ext.formats.resolution import MICRONS_PER, Resolution, resolution_of
from monai_ext.formats.scanned import rgb_and_valid
from monai_ext.formats.suffixes import ZARR_SUFFIXES

__all__ = ["ZarrLevels", "read_zarr_labels", "zarr_label"]

_PLANE = ("y", "x")
_LABELS = "labels"


class ZarrLevels(Levels):
    """The first image of an OME-Zarr.

    Axes may be any of time, channel, z, y and x in the standard's order; one grey or RGB image is read, so that there
    is one time and one focal plane, and one channel or three of 8 bits. Chunks that were never written are what the
    array says of them (its fill value); where that is black, nothing was scanned there.

    Args:
        path: the folder, or the archive.

    Raises:
        InputError: zarr is not installed, no OME-Zarr, a level that is missing, or not one image.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats.zarr_levels import ZarrLevels
        >>> (folder / "slide.ome.zarr").mkdir()
        >>> try:
        ...     ZarrLevels(folder / "slide.ome.zarr")
        ... except InputError as error:
        ...     print(error.expected)
        an OME-Zarr (.zgroup or zarr.json)
    """

    backend = "zarr"

    def __init__(self, path: Path) -> None:
        self._path = path
        group, metadata = _image(_root(path), path)
        image = metadata["multiscales"][0]
        axes, arrays = _arrays(group, image, path)
        check_axes(path, "".join(axes).upper(), arrays[0].shape, arrays[0].dtype)
        self._axes = axes
        sizes, tiles = (
            [tuple(getattr(each, name)[axes.index(side)] for side in _PLANE) for each in arrays]
            for name in ("shape", "chunks")
        )
        self._arrays = [arrays[number] for number in self._lay_out(sizes, tiles)]
        self.resolution = _resolution(image, axes)

    def _decode(self, level: int, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        part = {"y": slice(row, row + height), "x": slice(col, col + width), "c": slice(None)}
        pixels = np.asarray(self._arrays[level][tuple(part.get(axis, 0) for axis in self._axes)])
        if "c" in self._axes:  # with y and x it is all that is left, in this order or another
            left = [axis for axis in self._axes if axis in part]
            pixels = pixels.transpose([left.index(axis) for axis in ("y", "x", "c")])
        return rgb_and_valid(np.ascontiguousarray(pixels), self._path)


def zarr_label(path: str | os.PathLike) -> tuple[Path, str] | None:
    """The OME-Zarr that a path lies in, and the label image in it that the path names, by its name alone.

    Returns:
        The folder or archive, and the group in it: empty for the whole; ``None`` for any other path.

    Examples:
        >>> from monai_ext.formats.zarr_levels import zarr_label
        >>> [zarr_label(name) and zarr_label(name)[1] for name in ("a.zarr", "a.zarr/labels/nuclei", "a.zarr/0", "a")]
        ['', 'labels/nuclei', None, None]
    """
    path = Path(path)
    for whole in (path, *path.parents):
        if whole.name.lower().endswith(ZARR_SUFFIXES):
            inside = path.relative_to(whole).parts
            return (whole, "/".join(inside)) if not inside or _LABELS in inside else None
    return None


def read_zarr_labels(path: Path) -> np.ndarray:
    """Read a label image at full resolution: the one that an image has, or an OME-Zarr that is one itself.

    Args:
        path: the OME-Zarr, or a label image in it (``a.ome.zarr/labels/nuclei``).

    Returns:
        ``(H, W)`` numbers, of the array's type.

    Raises:
        InputError: zarr is not installed, no such label image, several of which none is named, several planes, or more
            than 500 Mpx.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats.zarr_levels import read_zarr_labels
        >>> (folder / "slide.ome.zarr").mkdir()
        >>> try:
        ...     read_zarr_labels(folder / "slide.ome.zarr" / "labels" / "nuclei")
        ... except InputError as error:
        ...     print(error.expected)
        an OME-Zarr (.zgroup or zarr.json)
    """
    whole, inside = zarr_label(path) or (path, "")
    root = _root(whole)
    group = _label_group(root, inside, path)
    axes, arrays = _arrays(group, _metadata(group)["multiscales"][0], path)
    shape = dict(zip(axes, arrays[0].shape, strict=True))
    if any(shape[axis] != 1 for axis in axes if axis not in _PLANE):
        raise InputError(path, "labels of one plane", ", ".join(f"{axis} {size}" for axis, size in shape.items()))
    check_size(path, shape["y"], shape["x"])
    labels = np.asarray(arrays[0][tuple(slice(None) if axis in _PLANE else 0 for axis in axes)])
    return labels if axes.index("y") < axes.index("x") else labels.T


def _label_group(root: Any, inside: str, path: Path) -> Any:
    """The group of the label image that is meant.

    Raises:
        InputError: there is none, or one has to be named.
    """
    if inside and inside not in root:
        raise InputError(path, "a label image of that name", "none")
    group = root[inside] if inside else root
    if not inside and "bioformats2raw.layout" in _metadata(root) and "0" in root:
        group = root["0"]
    metadata = _metadata(group)
    if hasattr(group, "shape"):
        raise InputError(path, "the group of a label image", "an array: name the folder that it lies in")
    labels = group if _LABELS in metadata else group.get(_LABELS)
    names = [str(name) for name in (_metadata(labels).get(_LABELS) or ())] if labels is not None else []
    if len(names) == 1 and names[0] in labels:
        group, metadata = labels[names[0]], _metadata(labels[names[0]])
    elif names:
        listed = ", ".join(f"labels/{name}" for name in names)
        raise InputError(path, "one label image, or the path of the one that is meant", listed)
    if not metadata.get("multiscales"):
        raise InputError(path, "a label image (multiscales)", "none in its metadata")
    return group


def _arrays(group: Any, image: Mapping[str, Any], path: Path) -> tuple[list[str], list[Any]]:
    """The names of the axes of an image, and its levels.

    Raises:
        InputError: they do not fit each other.
    """
    axes = [axis["name"] if isinstance(axis, Mapping) else str(axis) for axis in image.get("axes") or "tczyx"]
    arrays = [_array(group, str(dataset["path"]), path) for dataset in image["datasets"]]
    if len(axes) != arrays[0].ndim or not {*_PLANE} <= set(axes) or any(each.ndim != len(axes) for each in arrays):
        raise InputError(path, "an axis for each dimension, y and x among them", f"axes {', '.join(axes)}")
    return axes, arrays


def _root(path: Path) -> Any:
    """The group that a folder or an archive is."""
    try:
        zarr = import_module("zarr")
    except ImportError as error:
        raise InputError(path, "zarr to read it (pip install 'monai_ext[zarr]')", "no such package") from error
    try:
        store = zarr.storage.ZipStore(path, mode="r") if path.is_file() else str(path)
        return zarr.open_group(store, mode="r")
    # a damaged archive, JSON or key; what is raised is not one family
    except Exception as error:
        found = "none" if path.is_dir() and not any(path.iterdir()) else str(error).split("\n")[0]
        raise InputError(path, "an OME-Zarr (.zgroup or zarr.json)", found or type(error).__name__) from error


def _image(group: Any, path: Path) -> tuple[Any, Mapping[str, Any]]:
    """The group of the first image, and its metadata.

    Raises:
        InputError: there is none.
    """
    metadata = _metadata(group)
    if "plate" in metadata or "well" in metadata:
        raise InputError(path, "an image", "a plate of wells: name one of its images")
    if not metadata.get("multiscales") and "bioformats2raw.layout" in metadata and "0" in group:
        group = group["0"]  # of a slide; its label and macro image are the next ones
        metadata = _metadata(group)
    try:
        named = [dataset["path"] for dataset in metadata["multiscales"][0]["datasets"]]
    except (KeyError, IndexError, TypeError):
        named = []
    if not named:
        raise InputError(path, "an OME-Zarr image (multiscales)", "none in its metadata")
    return group, metadata


def _metadata(group: Any) -> Mapping[str, Any]:
    attributes = dict(group.attrs)
    return attributes.get("ome", attributes)  # since 0.5


def _array(group: Any, name: str, path: Path) -> Any:
    try:
        array = group[name]
    except KeyError as error:
        raise InputError(path, f"the level {name!r} that its metadata name", "none") from error
    if not hasattr(array, "chunks"):
        raise InputError(path, f"an array at {name!r}", "a group")
    return array


def _resolution(image: Mapping[str, Any], axes: list[str]) -> Resolution | None:
    """What the transformations of the first level say of its pixels, where the axes have a unit of length."""
    scales = np.ones(len(axes))
    transformations = [
        *(image["datasets"][0].get("coordinateTransformations") or ()),
        *(image.get("coordinateTransformations") or ()),
    ]
    for each in transformations:
        if each.get("type") == "scale" and len(each.get("scale") or ()) == len(axes):
            scales *= np.array(each["scale"], np.float64)
    sides = []
    for side in _PLANE:
        axis = next(
            (axis for axis in image.get("axes") or () if isinstance(axis, Mapping) and axis["name"] == side), {}
        )
        unit = MICRONS_PER.get(str(axis.get("unit", "")).lower())
        sides.append(unit and scales[axes.index(side)] * unit)
    return resolution_of(*sides, "OME-Zarr") if all(sides) else None
