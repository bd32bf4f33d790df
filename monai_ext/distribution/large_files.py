"""``large_files.yml``: files that a bundle lists instead of holding, with their addresses and checksums.

The model zoo's format, which ``python -m monai.bundle download_large_files`` reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml

from monai_ext.base.errors import InputError
from monai_ext.distribution.archive import file_hash

__all__ = ["LISTING", "LargeFile", "fetch", "listing", "read_listing"]

LISTING = "large_files.yml"


@dataclass(frozen=True)
class LargeFile:
    """An entry of the list.

    Attributes:
        path: of the file in the bundle.
        url: where to download it.
        hash_val: its checksum, in hexadecimal digits.
        hash_type: md5, sha1, sha256 or sha512.
    """

    path: str
    url: str
    hash_val: str
    hash_type: str


def read_listing(bundle: Path) -> dict[str, LargeFile]:
    """The large files of a bundle by their paths; none if it has no list.

    Raises:
        InputError: an entry lacks something, above all its checksum, or its path leads out of the bundle.
    """
    path = bundle / LISTING
    if not path.is_file():
        return {}
    from monai.apps.utils import SUPPORTED_HASH_TYPES  # bundles without a list need not wait for it

    names = [field.name for field in fields(LargeFile)]
    try:
        entries = [LargeFile(**entry) for entry in yaml.safe_load(path.read_bytes())["large_files"]]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(path, f"a list large_files, each with {', '.join(names)}", repr(error)) from error
    for entry in entries:
        if not all(isinstance(value, str) and value for value in asdict(entry).values()):
            raise InputError(path, f"text for each of {', '.join(names)}", repr(entry))
        if entry.hash_type not in SUPPORTED_HASH_TYPES:
            raise InputError(path, f"a hash_type among {', '.join(SUPPORTED_HASH_TYPES)}", repr(entry.hash_type))
        if not (bundle / entry.path).resolve().is_relative_to(bundle.resolve()):
            raise InputError(path, "paths in the bundle", repr(entry.path))
    return {entry.path: entry for entry in entries}


def fetch(bundle: Path, entry: LargeFile) -> None:
    """Make sure that a bundle has a large file: download it if it is not there, and compare its checksum.

    Raises:
        InputError: it cannot be downloaded, or its checksum differs.
    """
    path = bundle / entry.path
    if not path.is_file():
        from monai.apps.utils import download_url

        try:
            download_url(entry.url, path, entry.hash_val, entry.hash_type, progress=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(path, f"{entry.hash_type} {entry.hash_val} at {entry.url}", str(error)) from error
    actual = file_hash(path, entry.hash_type)
    if actual != entry.hash_val:
        raise InputError(path, f"{entry.hash_type} {entry.hash_val}, as {LISTING} says", actual)


def listing(entries: Sequence[LargeFile]) -> bytes:
    """The content of a ``large_files.yml``: JSON, which is YAML as well."""
    return (json.dumps({"large_files": [asdict(entry) for entry in entries]}, indent=2) + "\n").encode()
