"""The concentric loss (Li et al. 2019, equation 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from monai_ext.base.errors import InputError

__all__ = ["ConcentricLoss"]


class ConcentricLoss(nn.Module):
    """Softmax cross-entropy over disk and background; the ring between them is left out.

    Equation 1 sums over pixels and images, and the paper's learning rate of 1e-10 belongs to that sum. A mean over the
    counted pixels gives the same steps at 500 x 500 px with a learning rate of 2.5e-5 and a weight decay of 2e-9. The
    equation's third term, ``lambda * ||W||^2``, is the optimizer's weight decay.

    Args:
        reduction: ``"sum"`` as in the paper, or ``"mean"`` over the pixels that count.
        ignore_index: label of the ring.
        weight: one weight per class, as in ``torch.nn.functional.cross_entropy``; ``None`` as in the paper.
    """

    def __init__(
        self, reduction: str = "mean", ignore_index: int = 255, weight: tuple[float, ...] | None = None
    ) -> None:
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise InputError("reduction", "'sum' or 'mean'", repr(reduction))
        self.reduction, self.ignore_index = reduction, ignore_index
        self.register_buffer("weight", None if weight is None else torch.tensor(weight, dtype=torch.float32))

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: ``(B, C, H, W)`` scores before softmax.
            label: ``(B, 1, H, W)`` of any dtype, with class ids and ``ignore_index``.

        Returns:
            a scalar; 0, with zero gradient, where every pixel is ignored.

        Raises:
            InputError: shapes that do not belong together.
        """
        if label.shape != (logits.shape[0], 1, *logits.shape[2:]):
            expected = (logits.shape[0], 1, *logits.shape[2:])
            raise InputError("label", f"shape {expected} for logits {tuple(logits.shape)}", str(tuple(label.shape)))
        target = label[:, 0].long()
        # a sum over pixels is too large for half precision
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        # configurations do not move a loss to the network's device
        weight = None if self.weight is None else self.weight.to(logits)
        total = F.cross_entropy(logits, target, weight, ignore_index=self.ignore_index, reduction="sum")
        if self.reduction == "sum":
            return total
        counted = target != self.ignore_index
        mass = counted.sum() if weight is None else weight[target[counted]].sum()
        return total / mass.where(mass > 0, 1)
