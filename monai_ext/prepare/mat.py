"""MATLAB files of releases, and releases that are an image and a MATLAB file each, in a folder for each part."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.prepare.fields import with_labels

__all__ = ["LabelledField", "labelled_fields", "read_instances", "read_mat"]

#: What scipy raises for a file that is damaged, cut short, of another kind or of MATLAB 7.3.
_NO_MAT = (MatReadError, NotImplementedError, OSError, EOFError, TypeError, ValueError, KeyError, IndexError)
_PARTS = {"train": "training", "val": "validation", "test": "test"}
_MOST = 2**31  # ids are below


def read_mat(path: Path, *keys: str) -> list[np.ndarray]:
    """Arrays of a MATLAB file, up to version 7.2.

    Raises:
        InputError: another file, or one without them.
    """
    try:
        content = loadmat(path, variable_names=keys)
        return [content[key] for key in keys]
    except _NO_MAT as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error).split("\n")[0]
        raise InputError(path, f"a MATLAB file with {', '.join(keys)}", problem or type(error).__name__) from error


def read_instances(path: Path, key: str, shape: tuple[int, int]) -> np.ndarray:
    """An instance map of a MATLAB file, of whatever type of numbers it is written in.

    Args:
        path: the file.
        key: the map's name in it.
        shape: height and width of its image.

    Returns:
        ``shape`` int32, 0 is background; ids may have gaps.

    Raises:
        InputError: no such map, one of another size, or with numbers that are no ids.
    """
    (values,) = read_mat(path, key)
    if values.shape != shape:
        raise InputError(path, f"{key} of its image's size {shape}", str(values.shape))
    if values.dtype.kind not in "uif":
        raise InputError(path, f"{key} of numbers", f"values of type {values.dtype}")
    wrong = ~((values >= 0) & (values < _MOST) & (values == np.floor(values)))  # NaN is none of these
    if wrong.any():
        raise InputError(path, f"{key} of whole numbers from 0 to {_MOST - 1}", str(values[wrong][0]))
    return values.astype(np.int32)


class LabelledField(NamedTuple):
    """An image of a release with its MATLAB file.

    Args:
        name: of both files; with the part before it where two parts have a file of this name.
        image: the image.
        label: the MATLAB file.
        part: ``training``, ``validation`` or ``test``, as the folder says; empty where none does.
    """

    name: str
    image: Path
    label: Path
    part: str


def labelled_fields(folder: Path, skip: str | os.PathLike, problems: list[str]) -> list[LabelledField]:
    """The images ``<part>/.../<name>.png`` of a release that have a ``<part>/.../<name>.mat``, in order.

    A part is the innermost folder with ``train``, ``val`` or ``test`` in its name. Pictures in a folder ``Overlay`` are
    no images. An image without a MATLAB file is left out and counted.

    Args:
        folder: of the release.
        skip: a folder in it to leave out.
        problems: takes what is wrong: no such files, a MATLAB file without an image, two images of one name in a part.
    """
    files: list[dict[tuple[str, str], Path]] = []
    for suffix in (".png", ".mat"):
        files.append({})
        for path in find_files(folder, (suffix,), skip):
            if path.parent.name.lower() == "overlay":
                continue
            other = files[-1].setdefault((_part(path.relative_to(folder)), path.stem), path)
            if other is not path:
                problems.append(f"{path}: expected one {suffix[1:].upper()} of this name, found also {other}")
    images, labels = files
    if not images or not labels:
        expected = "Train/Images/<name>.png and Train/Labels/<name>.mat"
        problems.append(f"{folder}: expected {expected}, found {len(images)} PNG and {len(labels)} MAT files")
        return []
    places = images.keys() | labels.keys()
    again = len({stem for _, stem in places}) < len(places)
    keys = {f"{part}_{stem}" if again else stem: (part, stem) for part, stem in places}
    named = [{name: paths[key] for name, key in keys.items() if key in paths} for paths in files]
    return [
        LabelledField(name, images[keys[name]], labels[keys[name]], keys[name][0])
        for name in with_labels(folder, *named, problems)
    ]


def _part(path: Path) -> str:
    """The part that the folders of a path name."""
    for name in reversed(path.parts[:-1]):
        for begins, part in _PARTS.items():
            if begins in name.lower():
                return part
    return ""
