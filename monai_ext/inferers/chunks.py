"""Large batches through a network, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor

from monai_ext.errors import InputError

__all__ = ["ChunkInferer"]


class ChunkInferer(SimpleInferer):
    """Runs the network on at most ``batch_size`` images at once: memory does not grow with the mosaics of a vessel.

    Args:
        batch_size: images at once.

    Raises:
        InputError: fewer than one.
    """

    def __init__(self, batch_size: int = 8) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError("batch_size", "at least 1", repr(batch_size))
        self.batch_size = batch_size

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's output, a tensor or a mapping of tensors, for a batch ``inputs`` of at least one."""
        call = super().__call__
        call = super().__call__
        parts = [call(part, network, *args, **kwargs) for part in inputs.split(self.batch_size)]
        if isinstance(parts[0], Mapping):
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        return torch.cat(parts)
