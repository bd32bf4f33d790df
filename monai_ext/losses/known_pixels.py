"""Any loss of pixels, of those alone whose label is known."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

__all__ = ["KnownPixels"]


class KnownPixels(nn.Module):
    """Hands the pixels that count to another loss, as one long row; the others have no part in it and no gradient.

    MONAI's ``MaskedLoss`` multiplies prediction and target by the mask: a masked logit is 0 then, which a sigmoid takes
    for a probability of .5.

    Args:
        loss: of scores and target ``(1, 1, N)``, such as ``DiceCELoss(sigmoid=True, batch=True)``; it must not depend
            on which pixels are neighbours, nor on which image they are of.
        ignore_index: the label of pixels that do not count.

    Examples:
        >>> from monai.losses import DiceCELoss
        >>> from monai_ext.losses import KnownPixels
        >>> scores = torch.zeros(1, 1, 1, 3, requires_grad=True)
        >>> KnownPixels(DiceCELoss(sigmoid=True))(scores, torch.tensor([[[[0.0, 1.0, 255.0]]]])).backward()
        >>> (scores.grad != 0).tolist()
        [[[[True, True, False]]]]
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor], ignore_index: int = 255) -> None:
        super().__init__()
        self.loss, self.ignore_index = loss, ignore_index

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: ``(B, 1, H, W)`` scores.
            label: of that shape, with ``ignore_index``.

        Returns:
            a scalar; 0, with zero gradient, where no pixel counts.
        """
        known = label != self.ignore_index
        if not known.any():
            return logits.sum() * 0
        return self.loss(logits[known][None, None], label[known][None, None])
