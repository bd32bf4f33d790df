"""Where synthetic data goes: a folder that appears when it is complete."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from monai_ext.base.errors import InputError

__all__ = ["new_folder"]


@contextmanager
def new_folder(dst: Path, marker: str, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to write to, which replaces `dst` when the block succeeds.

    Args:
        dst: the folder to make.
        marker: a JSON file in it whose beginning names the phantom; only a folder that has one is overwritten.
        overwrite: replace what the phantom wrote before.

    Raises:
        InputError: `dst` is not free.
    """
    if dst.exists() and not dst.is_dir():
        raise InputError(dst, "a folder", "a file")
    if dst.exists() and any(dst.iterdir()):
        listing = dst / marker
        ours = listing.is_file() and b'"phantom' in listing.read_bytes()[:200]
        if not overwrite:
            raise InputError(dst, "an empty folder (or overwrite)", "files")
        if not ours:
            raise InputError(dst, "a data set of the phantom to overwrite", "other files")
    dst.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{dst.name}-", dir=dst.parent) as scratch:
        root = Path(scratch) / "new"
        root.mkdir()
        yield root
        if dst.exists():
            dst.rename(Path(scratch) / "old")
        root.rename(dst)
