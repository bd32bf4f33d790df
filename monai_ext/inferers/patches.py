"""Many small patches through a classifier."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from monai_ext.networks.convention import InputConvention
from monai_ext.networks.utils import weights_digest

__all__ = ["PatchClassifier"]


class PatchClassifier:
    """Scores patches in batches, normalised on the device.

    Args:
        network: from ``(B, 3, S, S)`` to logits ``(B, C)``; it is set to evaluation.
        convention: of the network's input.
        batch_size: patches computed together.
        device: where; by default where the network is.
        amp: mixed precision on CUDA.
    """

    def __init__(
        self,
        network: nn.Module,
        convention: InputConvention,
        batch_size: int = 1024,
        device: torch.device | str | None = None,
        amp: bool = False,
    ) -> None:
        self.device = torch.device(device) if device is not None else next(network.parameters()).device
        self.network = network.to(self.device).eval()
        self.convention, self.batch_size, self.amp = convention, batch_size, amp

    def settings(self) -> dict[str, Any]:
        """What scores depend on: the weights by their digest, and their input."""
        return {"weights": weights_digest(self.network), "convention": self.convention.content()}

    def __call__(self, patches: np.ndarray | Tensor) -> np.ndarray:
        """Score patches.

        Args:
            patches: uint8 ``(N, S, S, 3)``, RGB, N from 1; it may be memory-mapped, a batch is read at a time.

        Returns:
            logits, float32 ``(N, C)``.
        """
        scores = []
        with torch.no_grad(), torch.autocast(self.device.type, enabled=self.amp and self.device.type == "cuda"):
            for start in range(0, len(patches), self.batch_size):
                batch = torch.as_tensor(np.array(patches[start : start + self.batch_size])).to(self.device)
                scores.append(self.network(self.convention(batch.permute(0, 3, 1, 2))).float().cpu())
        return torch.cat(scores).numpy()
