"""Memory that a process has used is kept by it, not given back to the system and cleared again."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_memory"]

OFF = "MONAI_EXT_KEEP_MEMORY"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_MOST = 2**31 - 1
_OWN_MAPPING = 2**30  # bytes; a block of a GiB is rare, and goes back to the system when it is freed
_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")


def keep_memory() -> bool:
    """Have glibc keep freed blocks of up to 1 GiB, which it otherwise returns to the system one by one.

    A convolutional network asks for the same few large blocks at every step. By default each of them is a mapping of
    its own that the system fills with zeros, page by page, at every use, which is dear on virtual machines. Called when
    `monai_ext` is imported. Nothing is done with another C library, with ``MONAI_EXT_KEEP_MEMORY=0`` in the
    environment, or where the environment sets glibc's own ``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_MMAP_MAX_``,
    ``MALLOC_TRIM_THRESHOLD_`` or their like in ``GLIBC_TUNABLES``. Blocks on a GPU are not glibc's.

    Returns:
        Whether blocks are kept.

    Example:
        >>> import os
        >>> os.environ["MONAI_EXT_KEEP_MEMORY"] = "0"
        >>> keep_memory()
        False
        >>> del os.environ["MONAI_EXT_KEEP_MEMORY"]
    """
    if os.environ.get(OFF) == "0" or any(name in os.environ for name in _SETTINGS):
        return False
    if not sys.platform.startswith("linux") or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version") or not hasattr(library, "mallopt"):
        return False  # musl and others
    # glibc before 2.35 takes no threshold above 32 MiB: no block is a mapping of its own then
    mapped = library.mallopt(_M_MMAP_THRESHOLD, _OWN_MAPPING) or library.mallopt(_M_MMAP_MAX, 0)
    return bool(mapped and library.mallopt(_M_TRIM_THRESHOLD, _MOST))
