"""Names for what a cache on disk keeps: they change with the files and with what is done to them, with nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monai_ext.base.version import __version__

__all__ = ["item_hash", "settings_hash"]


def item_hash(item: Mapping[str, Any]) -> bytes:
    """A name for an item that changes with the files it names; for MONAI's ``PersistentDataset``, as its ``hash_func``.

    Args:
        item: of a data list, its paths as text.
    """
    files = [Path(value) for value in item.values() if isinstance(value, str)]
    stamps = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    return settings_hash([dict(item), stamps, __version__])


def settings_hash(transforms: Any) -> bytes:
    """A name for transforms that changes with their settings; as ``hash_transform`` of a ``PersistentDataset``.

    Unlike a hash of pickles it is the same in every process: tensors are pickled with marks of their own.

    Args:
        transforms: objects whose attributes are plain values, arrays, tensors and such objects. What is no setting
            their ``__getstate__`` leaves out.
    """
    return hashlib.sha256(repr(_described(transforms)).encode()).hexdigest().encode()


def _described(value: Any) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        array = np.ascontiguousarray(torch.as_tensor(value).cpu().numpy())
        return array.shape, str(array.dtype), hashlib.sha256(array.tobytes()).hexdigest()
    if isinstance(value, Mapping):
        return sorted((repr(key), _described(inner)) for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return [_described(inner) for inner in value]
    if isinstance(value, (str, bytes, int, float, bool, type(None), Path, torch.dtype, torch.device)):
        return repr(value)
    if hasattr(value, "__qualname__"):  # classes and functions
        return value.__qualname__
    # Python 3.10 gives objects no __getstate__ of their own
    state = value.__getstate__() if hasattr(value, "__getstate__") else vars(value)
    return type(value).__qualname__, _described(state)
