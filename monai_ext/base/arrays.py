"""NumPy's files, read by any number of threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np

__all__ = ["load_array", "load_arrays"]

# NumPy parses a file's header as Python, which CPython 3.11 does not survive in threads (python/cpython#106905)
_PARSER = Lock()


def load_array(path: str | os.PathLike) -> Any:
    """What an ``.npy`` file holds, memory-mapped read-only; nothing is unpickled. Raises what ``numpy.load`` does."""
    with _PARSER:
        return np.load(path, mmap_mode="r", allow_pickle=False)


def load_arrays(path: str | os.PathLike, names: Sequence[str]) -> list[np.ndarray]:
    """Arrays of an ``.npz`` file by their names; nothing is unpickled.

    Raises:
        KeyError: no array of a name; else what ``numpy.load`` raises.
    """
    with _PARSER, np.load(path, allow_pickle=False) as content:
        return [content[name] for name in names]
