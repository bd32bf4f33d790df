"""Slides that stay where they are: a small file names one, by its address in a storage, and stands for it."""

from __future__ import annotations

import os
from configparser import ConfigParser
from configparser import Error as ConfigError
from pathlib import Path
from typing import BinaryIO

from monai_ext.base.errors import InputError
from monai_ext.formats.suffixes import LINK_SUFFIX

__all__ = ["address_in", "is_link", "open_remote"]

# what is read at once, and how much of it is kept: tiles of one region lie near each other, and the next region's too
_BLOCK_BYTES, _BLOCKS = 1 << 20, 64
_MOST_BYTES = 1 << 16  # of a link


def is_link(path: Path) -> bool:
    """Whether a file names a slide elsewhere, by its own name: ``<slide's name>.url``.

    Examples:
        >>> from pathlib import Path
        >>> from monai_ext.formats.remote import is_link
        >>> is_link(Path("a.svs.url")), is_link(Path("a.svs"))
        (True, False)
    """
    return path.name.lower().endswith(LINK_SUFFIX)


def address_in(path: Path) -> str:
    """The address in a link: its only line, or what browsers write (``[InternetShortcut]`` with ``URL=``).

    Raises:
        InputError: there is none.

    Examples:
        >>> from monai_ext.formats.remote import address_in
        >>> _ = (folder / "a.svs.url").write_text("s3://slides/a.svs")
        >>> address_in(folder / "a.svs.url")
        's3://slides/a.svs'
    """
    expected = "one line with an address, such as https://host/a.svs or s3://bucket/a.svs"
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(path, expected, f"{path.stat().st_size} bytes")
        text = path.read_text(encoding="utf-8-sig").strip()
        if text.startswith("["):
            shortcut = ConfigParser(interpolation=None)
            shortcut.read_string(text)
            text = shortcut["InternetShortcut"]["URL"].strip()
    except (UnicodeDecodeError, ConfigError, KeyError) as error:
        raise InputError(path, expected, type(error).__name__) from error
    if "\n" in text or "://" not in text:
        raise InputError(path, expected, repr(text[:80]))
    return text


def open_remote(path: Path) -> BinaryIO:
    """The file that a link names, of which only what is asked for is fetched.

    Args:
        path: the link. Its address is any that fsspec knows; accounts and keys are those that its file system finds
            for itself, in the environment or in the user's configuration.

    Returns:
        a file that can be read and sought.

    Raises:
        InputError: a package that the storage needs is missing, or the storage cannot give parts of a file.
        OSError: the storage cannot be reached, or has no such file.

    Examples:
        >>> from monai_ext.formats.remote import open_remote
        >>> _ = (folder / "a.tif").write_bytes(b"pixels")
        >>> _ = (folder / "b.tif.url").write_text((folder / "a.tif").as_uri())
        >>> with open_remote(folder / "b.tif.url") as file:
        ...     file.read(3)
        b'pix'
    """
    address = address_in(path)
    needed = 'the packages of its storage: pip install "monai_ext[remote]" for http, s3fs for s3, gcsfs for gs'
    settings = {"block_size": _BLOCK_BYTES, "cache_type": "blockcache", "cache_options": {"maxblocks": _BLOCKS}}
    try:
        import fsspec

        file = fsspec.open(address, "rb", **settings).open()
    except ImportError as error:
        raise InputError(path, needed, " ".join(str(error).split())[:160]) from error
    try:
        file.seek(0, os.SEEK_END)
        file.seek(0)
    except ValueError as error:  # a stream, whatever it says of itself
        file.close()
        raise InputError(path, "a storage that gives parts of files (for HTTP: range requests)", address) from error
    return file
