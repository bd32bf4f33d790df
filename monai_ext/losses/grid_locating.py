"""Losses of LoopNet's locating branch: under pseudo masks (Zhang et al., CVPR 2023, equation 2), and with truth."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.errors import InputError

__all__ = ["GridLocatingLoss", "KnownGridLoss"]


class GridLocatingLoss(nn.Module):
    """Cross-entropy of the patches whose class is known: all of a healthy vessel, the background of an invaded one.

    Equation 2: in a healthy vessel patches without cells are background (0) and patches with cells hold healthy ones
    (1), a mean over all patches; in an invaded vessel only the patches without cells count, a mean over these (0 where
    there are none), as the others may be of either kind. The batch's loss is the mean over its vessels.
    """

    def forward(self, logits: Tensor, cells: Tensor, label: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: ``(B, 3, h, w)`` before softmax: background, healthy, cancerous.
            cells: ``(B, 1, h, w)`` of any dtype, not 0 where the pseudo mask has a cell.
            label: ``(B, 1)`` or ``(B,)``, 1 for an invaded vessel and 0 for a healthy one.

        Returns:
            a scalar.

        Raises:
            InputError: shapes that do not belong together.
        """
        expected = (logits.shape[0], 1, *logits.shape[2:])
        if cells.shape != expected:
            raise InputError("cells", f"shape {expected} for logits {tuple(logits.shape)}", str(tuple(cells.shape)))
        invaded = label.reshape(-1, 1, 1) > 0.5
        cell = cells[:, 0] != 0
        background, healthy, _ = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(1).unbind(1)
        labelled = ~(invaded & cell)
        terms = torch.where(labelled, torch.where(cell, healthy, background), 0)
        return -(terms.sum((1, 2)) / labelled.sum((1, 2)).clamp(min=1)).mean()


class KnownGridLoss(nn.Module):
    """Cross-entropy with the classes of patches, for the paper's 'Fully': a mean over the patches that are known.

    A vessel without marked cells does not count, its blank cells included.
    """

    def forward(self, logits: Tensor, classes: Tensor, label: Tensor) -> Tensor:  # noqa: ARG002  as GridLocatingLoss
        """The loss of a batch.

        Args:
            logits: ``(B, 3, h, w)`` before softmax: background, healthy, cancerous.
            classes: int64 ``(B, 1, h, w)``, below 0 where unknown.
            label: not used; the trainer gives it to every loss of this branch.

        Returns:
            a scalar; 0, with zero gradient, where nothing is known.
        """
        unmarked = (classes < 0).flatten(1).any(1)
        classes = classes[:, 0].masked_fill(unmarked[:, None, None], -1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = F.cross_entropy(logits, classes, ignore_index=-1, reduction="sum")
        return total / (classes >= 0).sum().clamp(min=1)
