"""Half precision on CPUs, which MONAI's engines have for GPUs only."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor

from monai_ext.base.flags import as_flag

__all__ = ["AutocastInferer", "cpu_computes_bfloat16"]

_logger = logging.getLogger(__name__)


def cpu_computes_bfloat16() -> bool:
    """Whether oneDNN, by which PyTorch convolves on CPUs, has bfloat16 for this processor.

    Where it has none PyTorch takes convolutions of its own, many times slower than those in float32.
    """
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)  # absent where built without oneDNN
    return supported is None or supported()


@cache  # said once, however many inferers there are
def _warn() -> None:
    _logger.warning("this processor does not compute in bfloat16 (--cpu_bfloat16): float32 is used")


class AutocastInferer(SimpleInferer):
    """Runs the network under ``torch.autocast``; what it returns is float32 again.

    On a CPU for which PyTorch has no fast bfloat16 the network stays in float32, and a warning says so.

    Args:
        enabled: whether to do so at all.
        device_type: ``"cpu"`` or ``"cuda"``.
        dtype: of the matrix products and convolutions.
    """

    def __init__(self, enabled: bool = True, device_type: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.enabled, self.device_type, self.dtype = as_flag(enabled, "enabled"), device_type, dtype
        if self.enabled and (device_type, dtype) == ("cpu", torch.bfloat16) and not cpu_computes_bfloat16():
            self.enabled = False
            _warn()

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's output, a tensor or a mapping of tensors, for a batch ``inputs``; arguments are passed on."""
        if not self.enabled:
            return super().__call__(inputs, network, *args, **kwargs)
        with torch.autocast(self.device_type, self.dtype):
            out = super().__call__(inputs, network, *args, **kwargs)
            return {name: part.float() for name, part in out.items()} if isinstance(out, Mapping) else out.float()
