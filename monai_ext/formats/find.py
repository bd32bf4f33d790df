"""Images found in folders, each once: a slide of several files or in a folder of its own is one."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from monai_ext.base.dicom_heads import dicom_head, taken_as_dicom
from monai_ext.base.files import find_files
from monai_ext.formats.dicom_levels import files_of
from monai_ext.formats.suffixes import SUFFIXES, ZARR_SUFFIXES

__all__ = ["find_images", "is_image"]


def is_image(path: str | os.PathLike) -> bool:
    """Whether a path is that of an image by its name: a file, DICOM without an ending too, or an OME-Zarr folder.

    Examples:
        >>> from monai_ext.formats.find import is_image
        >>> (folder / "a.ome.zarr").mkdir()
        >>> is_image(folder / "a.ome.zarr"), is_image(folder), is_image(folder / "missing.png")
        (True, False, False)
    """
    path, named = Path(path), str(path).lower().endswith(SUFFIXES)
    if not named:
        return taken_as_dicom(path)
    return path.is_file() or (path.is_dir() and path.name.lower().endswith(ZARR_SUFFIXES))


def find_images(
    folder: str | os.PathLike,
    skip: str | os.PathLike | None = None,
    suffixes: Sequence[str] = SUFFIXES,
    leave_out: Callable[[Path], bool] | None = None,
) -> list[Path]:
    """The images below a folder, as :func:`~monai_ext.base.files.find_files` finds files.

    A slide in DICOM of several files is their folder where that holds no other image, so that results are named after
    it; else the first file of its series. DICOM that is no slide, such as annotations of one, is left out; how much is
    printed.

    Args:
        folder: where to look.
        skip: a folder below it that is left out.
        suffixes: lower-case endings of the names.
        leave_out: tells what is no image besides, such as results that a run wrote there.

    Returns:
        Their paths, sorted; ``folder`` itself, alone, if it holds one slide.

    Examples:
        >>> from monai_ext.formats.find import find_images
        >>> for name in ("a.png", "b.csv"):
        ...     _ = (folder / name).write_bytes(b"")
        >>> [path.name for path in find_images(folder)]
        ['a.png']
    """
    folder = Path(folder)
    found = [path for path in find_files(folder, suffixes, skip) if not (leave_out and leave_out(path))]
    heads = {path: dicom_head(path) for path in found if taken_as_dicom(path)}
    others = [path for path, head in heads.items() if head is not None and not head.is_slide]
    if others:
        print(f"{folder}: left out {len(others)} DICOM files that are no slides, as {others[0]}", file=sys.stderr)
    paths = [path for path in found if path not in set(others)]
    slides = {path for path in paths if heads.get(path)}
    if not slides:
        return paths
    below = Counter(parent for path in paths for parent in path.parents)
    alone = {path for path in slides if below[path.parent] == 1 and len(files_of(path)) > 1}
    return [path.parent if path in alone else path for path in paths]
