"""Half precision on CPUs, which MONAI's engines have for GPUs only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor

from monai_ext.base.flags import as_flag

__all__ = ["AutocastInferer"]


class AutocastInferer(SimpleInferer):
    """Runs the network under ``torch.autocast``; what it returns is float32 again.

    Args:
        enabled: whether to do so at all.
        device_type: ``"cpu"`` or ``"cuda"``.
        dtype: of the matrix products and convolutions.
    """

    def __init__(self, enabled: bool = True, device_type: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.enabled, self.device_type, self.dtype = as_flag(enabled, "enabled"), device_type, dtype

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's output, a tensor or a mapping of tensors, for a batch ``inputs``; arguments are passed on."""
        if not self.enabled:
            return super().__call__(inputs, network, *args, **kwargs)
        with torch.autocast(self.device_type, self.dtype):
            out = super().__call__(inputs, network, *args, **kwargs)
            return {name: part.float() for name, part in out.items()} if isinstance(out, Mapping) else out.float()
