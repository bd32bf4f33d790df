"""Zips whose bytes depend on their content alone, and the checksums of files."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

from monai_ext.base.files import atomic_path

__all__ = ["file_hash", "write_zip"]

_CHUNK = 1 << 20
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can state
_UNIX, _MODE = 3, 0o100644  # a plain file that all may read, whoever unpacks it


def write_zip(path: Path, files: Mapping[str, Path | bytes]) -> None:
    """Write a zip: equal files give equal bytes, on every machine, at any time.

    The files are stored, not compressed: weights hardly shrink, and what deflate makes of the rest depends on the
    version of zlib.

    Args:
        path: the zip; it appears when it is complete.
        files: a file on disk, or the content, for each name in the zip.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(name, _DATE)
            member.create_system, member.external_attr = _UNIX, _MODE << 16
            content = files[name]
            if isinstance(content, bytes):
                archive.writestr(member, content)
                continue
            member.file_size = content.stat().st_size  # decides, before the file is read, whether zip64 is needed
            with content.open("rb") as source, archive.open(member, "w") as target:
                shutil.copyfileobj(source, target, _CHUNK)


def file_hash(path: Path, kind: str) -> str:
    """A file's checksum in hexadecimal digits.

    Args:
        path: the file.
        kind: md5, sha1, sha256 or sha512.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
