"""Files that are not what their names say, because a copy or a download went wrong."""

from __future__ import annotations

import logging
import os
import struct
from pathlib import Path

import numpy as np
import tifffile

from monai_ext.base.errors import InputError

__all__ = ["check_whole"]

# of plain and big TIFF in both orders: where the first directory is named, numbers of entries, bytes of each, offsets
_TIFF = {
    b"II*\0": (4, "<H", 12, "<I"),
    b"MM\0*": (4, ">H", 12, ">I"),
    b"II+\0": (8, "<Q", 20, "<Q"),
    b"MM\0+": (8, ">Q", 20, ">Q"),
}
_HEAD_BYTES = 512


def check_whole(path: str | os.PathLike) -> None:
    """Refuse a file that is empty, a web page, or a TIFF (SVS, NDPI, SCN, BIF, ...) of which the end is missing.

    Decoders notice most of that too, but say it in words of their own, only where they come to a tile that is cut off,
    or not at all: tifffile takes tiles beyond the file's end for empty ones. No pixels are read here. What is wrong in
    other ways is left to them.

    Args:
        path: the file.

    Raises:
        InputError: with how much of it is missing.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats import check_whole
        >>> _ = (folder / "slide.svs").write_text("<html>404 Not Found</html>")
        >>> try:
        ...     check_whole(folder / "slide.svs")
        ... except InputError as error:
        ...     print(error.found)
        a web page (HTML), as of a download that failed
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:  # whoever reads it will say so
        return
    if not size:
        raise InputError(path, "an image", "an empty file, as of a download that failed")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        raise InputError(path, "an image", "a web page (HTML), as of a download that failed")
    if head[:4] in _TIFF:
        needed = _directories_end(path, size) or _pixels_end(path)
        if needed > size:
            raise InputError(path, f"a whole file of {needed:,} bytes or more", f"{size:,}: its end is missing")


def _directories_end(path: Path, size: int) -> int:
    """Up to where, at least, a TIFF must reach that does not hold all of its directories; else 0."""
    with path.open("rb") as file:
        at, count_type, entry, offset_type = _TIFF[file.read(4)]
        if path.suffix.lower() == ".ndpi":  # plain but for this
            offset_type = "<Q"

        def number(offset: int, kind: str) -> int:
            file.seek(offset)
            return struct.unpack(kind, file.read(struct.calcsize(kind)))[0]

        seen: set[int] = set()
        while True:
            if at + struct.calcsize(offset_type) > size:
                return at + struct.calcsize(offset_type)
            start = number(at, offset_type)
            if not start or start in seen:
                return 0
            seen.add(start)
            if start + struct.calcsize(count_type) > size:
                return start + struct.calcsize(count_type)
            at = start + struct.calcsize(count_type) + entry * number(start, count_type)


def _pixels_end(path: Path) -> int:
    """Up to where the strips and tiles of a TIFF reach."""
    logger = logging.getLogger("tifffile")
    before, logger.disabled = logger.disabled, True  # what it warns of is what is looked for
    try:
        with tifffile.TiffFile(path) as tiff:
            return max((_page_end(page) for page in _pages(tiff)), default=0)
    except Exception:  # not damage of the kind that is looked for here; the decoder will name it
        return 0
    finally:
        logger.disabled = before


def _pages(tiff: tifffile.TiffFile) -> list[tifffile.TiffPage]:
    pages = [page.aspage() for page in tiff.pages]
    return [*pages, *(level.aspage() for page in pages if page.subifds for level in page.pages)]


def _page_end(page: tifffile.TiffPage) -> int:
    """The end of a page's last strip or tile; one of no bytes was never written."""
    offsets, counts = (np.asarray(values, np.int64) for values in (page.dataoffsets, page.databytecounts))
    number = min(len(offsets), len(counts))
    ends = (offsets[:number] + counts[:number])[(offsets[:number] > 0) & (counts[:number] > 0)]
    return int(ends.max(initial=0))
