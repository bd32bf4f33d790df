"""The two options of a command line that ask for half precision, understood in one place."""

from __future__ import annotations

import torch

from monai_ext.base.flags import as_flag

__all__ = ["Precision"]


class Precision:
    """Where half precision is wanted: MONAI's engines on GPUs, our inferers on CPUs, or both.

    Args:
        amp: automatic mixed precision; a bool or, from a command line, its text.
        device: what the network runs on.
        cpu_bfloat16: bfloat16 on a CPU; as ``amp``.

    Attributes:
        amp: for MONAI's trainers and evaluators.
        cpu: whether bfloat16 is wanted and the device is a CPU, for :class:`~monai_ext.inferers.AutocastInferer`.
        autocast: either of both, for the predictors of slides, which have a type for each device.

    Raises:
        InputError: an option that is neither true nor false.
    """

    def __init__(self, amp: bool | str, device: torch.device | str, cpu_bfloat16: bool | str = False) -> None:
        bfloat16 = as_flag(cpu_bfloat16, "cpu_bfloat16")
        self.amp = as_flag(amp, "amp")
        self.cpu = bfloat16 and torch.device(device).type == "cpu"
        self.autocast = self.amp or bfloat16
