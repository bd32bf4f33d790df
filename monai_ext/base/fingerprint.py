"""Whether files are still those that a result was made from."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["fingerprint"]


def fingerprint(path: str | os.PathLike) -> list[int]:
    """Size and time of change of a file, ``[bytes, ns]``: cheap for gigabytes, and any rewriting shows."""
    state = Path(path).stat()
    return [state.st_size, state.st_mtime_ns]
