"""What a process of ``torchrun`` has to know."""

from __future__ import annotations

import os

import torch

__all__ = ["local_device"]


def local_device() -> torch.device:
    """The GPU of this process, by ``LOCAL_RANK``, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
