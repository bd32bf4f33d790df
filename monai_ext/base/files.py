"""Files that appear whole or not at all, and files found in folders."""

from __future__ import annotations

import heapq
import os
import shutil
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from monai_ext.base.companions import companions
from monai_ext.base.dicom_heads import taken_as_dicom

__all__ = ["atomic_path", "find_files", "locked", "path_below", "remove_path", "write_png"]

_DICOM = ".dcm"
_IMAGE_FOLDER = ".zarr"  # one image, of thousands of files


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary name beside ``path``; it takes ``path``'s place when the block ends well, else it is removed.

    A file or a folder may be made under that name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        if temporary.is_dir():  # which takes no other folder's place
            remove_path(path)
        temporary.replace(path)
    finally:
        remove_path(temporary)


@contextmanager
def locked(path: str | os.PathLike) -> Iterator[None]:
    """Exclude other processes, and other threads of this one, from the block; waits for as long as they take.

    Where there is ``flock`` it is called itself: :class:`filelock.FileLock` 4.1 takes thirty times as long, .15 ms,
    which counts where it comes once an image.

    Args:
        path: a file that is locked; it is made, with its folders, and left. Not reentrant.

    Examples:
        >>> from monai_ext.base.files import locked
        >>> with locked(folder / "results" / ".lock"):
        ...     (folder / "results" / ".lock").is_file()
        True
    """
    path = Path(path)
    if fcntl is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path):
            yield
        return
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)  # which releases it, and is done for a process that is killed too


def remove_path(path: str | os.PathLike) -> None:
    """Remove a file, or a folder with all that is in it, if it is there.

    Examples:
        >>> from monai_ext.base.files import remove_path
        >>> (folder / "a" / "b").mkdir(parents=True)
        >>> remove_path(folder / "a"), remove_path(folder / "a")
        (None, None)
    """
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write a PNG; the file appears whole or not at all.

    Args:
        path: the file to write; folders are made as needed.
        image: ``(H, W)`` uint8 or uint16, or ``(H, W, 3)`` uint8 RGB, or ``(H, W, 4)`` with its opacity.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    encoded = cv2.imencode(".png", image)[1]
    with atomic_path(path) as temporary:
        # through Python's file: OpenCV reports a full disk by a return value, if at all
        temporary.write_bytes(encoded.data)


def find_files(folder: Path, suffixes: Sequence[str], skip: str | os.PathLike | None = None) -> list[Path]:
    """All files below ``folder``, but not below ``skip``, that end in one of the lower-case ``suffixes``, sorted.

    With ``.dcm`` among these, DICOM whose names have no ending is found too.

    Linked files and folders are followed under the name of the link. A folder that is reached in several ways is taken
    once, by its own name where that is below ``folder``. Hidden files, what a Mac adds to archives and the
    :func:`~monai_ext.base.companions.companions` of slides are left out; how many of the latter is printed. A folder
    whose name ends in ``.zarr`` counts as a file.
    """
    endings = tuple(suffixes)
    seen = set() if skip is None else {os.path.realpath(skip)}
    files: list[str] = []
    parts: list[str] = []
    top = os.fspath(folder)
    waiting, links = [(top, False)], []
    while waiting or links:
        root, of_slide = waiting.pop() if waiting else heapq.heappop(links)
        resolved = os.path.realpath(root)
        if resolved in seen:
            continue
        seen.add(resolved)
        names, folders = _entries(root, top)
        wanted = {name for name in names if name.lower().endswith(endings)}
        others = set(names) - wanted if _DICOM in endings else ()
        unnamed = {name for name in others if taken_as_dicom(os.path.join(root, name))}  # noqa: PTH118
        belonging = companions(Path(root), names, folders, unnamed)
        for name in wanted | unnamed:
            (parts if of_slide or name in belonging else files).append(os.path.join(root, name))  # noqa: PTH118
        for name, is_link in folders.items():
            below = os.path.join(root, name), of_slide or name in belonging  # noqa: PTH118 - ten times faster
            heapq.heappush(links, below) if is_link else waiting.append(below)
    if parts:
        first = min(parts)
        print(f"{folder}: left out {len(parts)} files that are parts of slides, as {first}", file=sys.stderr)
    return [Path(file) for file in sorted(files, key=lambda file: file.replace(os.sep, "\0"))]  # as paths are sorted


def _entries(root: str, top: str) -> tuple[list[str], dict[str, bool]]:
    """Names of the files of a folder, and of its folders with whether each is a link; without the hidden ones."""
    names: list[str] = []
    folders: dict[str, bool] = {}
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                is_folder = entry.is_dir()
                if is_folder and not entry.name.lower().endswith(_IMAGE_FOLDER):
                    folders[entry.name] = entry.is_symlink()
                # a link into nowhere is a file that cannot be read
                elif is_folder or entry.is_file() or entry.is_symlink():
                    names.append(entry.name)
    except OSError as error:
        if root != top:
            print(f"left out: {root}: {error.strerror}", file=sys.stderr)
    return names, folders


def path_below(path: str | os.PathLike, root: str | os.PathLike) -> Path:
    """A path relative to ``root``, or to the file system's own root where it lies elsewhere.

    Links keep their own name and folder; only where a path lies elsewhere by its name, links are followed.

    Examples:
        >>> from monai_ext.base.files import path_below
        >>> (folder / "store").mkdir()
        >>> (folder / "images").symlink_to(folder / "store")
        >>> path_below(folder / "images/a.svs", folder).as_posix()
        'images/a.svs'
        >>> path_below(folder / "store/a.svs", folder / "images").as_posix()
        'a.svs'
    """
    for follow in (os.path.abspath, os.path.realpath):
        absolute, base = Path(follow(path)), Path(follow(root))
        if absolute.is_relative_to(base):
            return absolute.relative_to(base)
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - unlike resolve() it follows no links
    return absolute.relative_to(absolute.anchor)
