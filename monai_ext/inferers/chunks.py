"""Large batches through a network, a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from monai_ext.base.errors import InputError

__all__ = ["ChunkInferer"]


class ChunkInferer(Inferer):
    """Runs the network on at most ``batch_size`` images at once: memory does not grow with the mosaics of a vessel.

    Args:
        batch_size: images at once.
        inferer: what runs the network on them; by default it is called as it is.

    Raises:
        InputError: fewer than one.
    """

    def __init__(self, batch_size: int = 8, inferer: Inferer | None = None) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError("batch_size", "at least 1", repr(batch_size))
        self.batch_size, self.inferer = batch_size, inferer or SimpleInferer()

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the network.

        Args:
            inputs: ``(..., C, H, W)``, at least one image; ``(B, M, C, H, W)`` are M mosaics of each of B vessels.
            network: called with ``(N, C, H, W)``; gives a tensor or a mapping of tensors.
            *args: for the network.
            **kwargs: for the network.

        Returns:
            The network's output, with the leading dimensions of the inputs.
        """
        leading = inputs.shape[:-3]
        images = inputs.reshape(-1, *inputs.shape[-3:])
        parts = [self.inferer(part, network, *args, **kwargs) for part in images.split(self.batch_size)]

        def joined(outputs: list[Tensor]) -> Tensor:
            whole = torch.cat(outputs)
            return whole.reshape(*leading, *whole.shape[1:])

        if isinstance(parts[0], Mapping):
            return {name: joined([part[name] for part in parts]) for name in parts[0]}
        return joined(parts)
