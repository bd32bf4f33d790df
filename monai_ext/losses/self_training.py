"""What a student of the self-training learns from (Zhou et al. 2023, section III-B)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from monai_ext.base.errors import InputError

__all__ = ["SelfTrainingLoss"]


class SelfTrainingLoss(nn.Module):
    """``alpha * L(M) + (1 - alpha) * L(M')`` (eq. 2), or ``L(M)`` alone for the teacher (eq. 1).

    ``L`` is whatever the back end minimises, the sum of its parts. ``M`` are the masks that were there before, ``M'``
    those that the last network found.

    Args:
        alpha: weight of the masks that were there before, 0 to 1.

    Raises:
        InputError: a weight outside 0 to 1.
    """

    def __init__(self, alpha: float = 0.66) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise InputError("alpha", "a weight from 0 to 1", repr(alpha))
        self.alpha = alpha

    def forward(self, old: Mapping[str, Tensor], new: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            old: the back end's losses on ``M``, scalars by name.
            new: its losses on ``M'``; ``None`` while there are none.

        Returns:
            a scalar.

        Raises:
            InputError: no losses, or those of ``M'`` have other names.
        """
        if not old:
            raise InputError("losses", "at least one part", "none")
        total = torch.stack(tuple(old.values())).sum()
        if new is None:
            return total
        if set(new) != set(old):
            raise InputError("losses of the new masks", ", ".join(sorted(old)), ", ".join(sorted(new)))
        return self.alpha * total + (1 - self.alpha) * torch.stack(tuple(new.values())).sum()
