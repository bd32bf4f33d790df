"""Remembers that a large data list was checked, so that the next start need not read all its images again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from monai_ext.base.files import atomic_path
from monai_ext.base.fingerprint import fingerprint
from monai_ext.base.version import __version__

__all__ = ["LARGE", "CheckedLists", "is_large"]

#: Items from which on a list is worth remembering and its progress worth showing.
LARGE = 5000


def is_large(items: Sequence[Any]) -> bool:
    """Whether there are so many items that reading them takes more than a moment.

    Args:
        items: of a data list.
    """
    return len(items) >= LARGE


class CheckedLists:
    """What was found to be in order in a data set's folder, by fingerprint, in its file ``.checked.json``.

    A fingerprint is of the items, of the name, size and time of change of each of their files, of the check and its
    arguments, and of this library's version. Where the folder cannot be written to, nothing is remembered.

    Args:
        folder: of the data set.
        check: what looked at the items. Only a function that can be named, or a :func:`functools.partial` of one, can
            be told from another; of a ``lambda`` nothing is remembered.
    """

    def __init__(self, folder: Path, check: Callable[..., Any]) -> None:
        self.path = folder / ".checked.json"
        self.check = _name(check)

    def fingerprint(self, items: Iterable[Mapping[str, Any]], keys: Sequence[str]) -> str | None:
        """Of items with files; ``None`` where nothing can be remembered.

        Args:
            items: of one list, their paths resolved.
            keys: whose values are paths, or ``{name: path}``.
        """
        if self.check is None:
            return None
        digest = hashlib.sha256(f"{__version__} {self.check}".encode())
        folder = f"{self.path.parent}{os.sep}".encode()
        for item in items:
            values = [item[key] for key in keys if item.get(key) is not None]
            files = [path for value in values for path in (value.values() if isinstance(value, dict) else [value])]
            try:
                stamps = [fingerprint(path) for path in files if isinstance(path, str)]
            except OSError:  # the check says which
                return None
            text = orjson.dumps([item, stamps], default=str, option=orjson.OPT_SORT_KEYS)
            # relative, so that a folder that was moved need not be checked again
            digest.update(text.replace(folder, b""))
        return digest.hexdigest()

    def __contains__(self, mark: str | None) -> bool:
        """Whether items with this fingerprint were in order."""
        return mark is not None and mark in self._read()

    def remember(self, marks: Mapping[str, str | None]) -> None:
        """Keep the fingerprints of lists that are in order.

        Args:
            marks: name of a list -> its fingerprint. An older one of the same list and check is forgotten.
        """
        new = {mark: f"{name}: {self.check}" for name, mark in marks.items() if mark is not None}
        if not new:
            return
        kept = {mark: name for mark, name in self._read().items() if name not in new.values()}
        try:
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps(kept | new, indent=1))
        except OSError:  # read-only: checked again next time
            return

    def _read(self) -> dict[str, str]:
        try:
            content = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}


def _name(check: Callable[..., Any]) -> str | None:
    if isinstance(check, partial):
        inner = _name(check.func)
        return inner and f"{inner} {check.args!r} {sorted(check.keywords.items())!r}"
    name = getattr(check, "__qualname__", "<")
    return None if "<" in name else f"{check.__module__}.{name}"
