"""Files that appear whole or not at all, and files found in folders."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

__all__ = ["atomic_path", "find_files", "write_png"]


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary name beside ``path``; it takes ``path``'s place when the block ends well, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_png(path: str | os.PathLike, image: np.ndarray) -> None:
    """Write a PNG; the file appears whole or not at all.

    Args:
        path: the file to write; folders are made as needed.
        image: ``(H, W)`` uint8 or uint16, or ``(H, W, 3)`` uint8 RGB.

    Raises:
        OSError: the file cannot be written, as on a full disk.
    """
    image = image if image.ndim == 2 else image[..., ::-1]
    encoded = cv2.imencode(".png", image)[1]
    with atomic_path(path) as temporary:
        # through Python's file: OpenCV reports a full disk by a return value, if at all
        temporary.write_bytes(encoded.data)


def find_files(folder: Path, suffixes: Sequence[str], skip: str | os.PathLike) -> list[Path]:
    """All files below ``folder``, but not below ``skip``, that end in one of the lower-case ``suffixes``, sorted.

    Linked folders are followed; hidden files and what a Mac adds to archives are left out.
    """
    files: list[Path] = []
    seen = {os.path.realpath(skip)}
    for root, folders, names in os.walk(folder, followlinks=True):
        resolved = os.path.realpath(root)
        if resolved in seen:
            folders.clear()
            continue
        seen.add(resolved)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        files += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(path for path in files if path.suffix.lower() in suffixes)
