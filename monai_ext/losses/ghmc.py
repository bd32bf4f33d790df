"""GHM-C, the loss of LoopNet's classification branch (Li, Liu and Wang, AAAI 2019; Zhang et al. 2023, equation 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.utils import convert_to_tensor
from torch import Tensor, nn

from monai_ext.base.distributed import sum_over_ranks
from monai_ext.base.errors import InputError

__all__ = ["GHMCLoss"]


class GHMCLoss(nn.Module):
    """Binary cross-entropy, each example divided by the density of examples whose gradient is as long as its own.

    The gradient's length is ``g = |sigmoid(logit) - y|``. Its density is counted in ``bins`` of equal width ("unit
    region approximation"), as a moving average over batches ("EMA"), and the mean weight of a batch stays near 1:
    ``w_i = N / (n S_j)``, with ``N`` examples in the batch, ``n`` bins that they fill and the average count ``S_j`` of
    example i's bin. No gradient flows through the weights.

    What the papers leave open is decided so that the weights of a small batch stay of one size: a bin's average starts
    at the first count that it gets (from 0, first weights would be four times too large), and a batch that has nothing
    in a bin leaves its average as it is, as in the authors' code (16 images leave most of 30 bins empty).

    Counts are summed over the ranks of a distributed run, and the loss is scaled so that the mean of the ranks'
    gradients, which ``DistributedDataParallel`` takes, is the gradient of one large batch. Every rank has to call the
    loss equally often; an empty batch is a call like any other. The averages are part of ``state_dict()``: a run that
    resumes needs them. In evaluation mode they are used and not updated, each rank for itself.

    Args:
        bins: regions that [0, 1] is divided into.
        momentum: share of the old average that stays; 0 for the batch's own counts.

    Raises:
        InputError: numbers outside their range.
    """

    counts: Tensor

    def __init__(self, bins: int = 30, momentum: float = 0.75) -> None:
        super().__init__()
        if bins < 1:
            raise InputError("bins", "at least one", repr(bins))
        if not 0 <= momentum < 1:
            raise InputError("momentum", "a number from 0 to below 1", repr(momentum))
        self.bins, self.momentum = bins, momentum
        self.register_buffer("counts", torch.zeros(bins, dtype=torch.float64))

    def forward(self, logits: Tensor, label: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: of any floating type and shape.
            label: 0 or 1 of any dtype, of the same shape.

        Returns:
            a scalar; 0 for an empty batch.

        Raises:
            InputError: shapes that differ.
        """
        if label.shape != logits.shape:
            raise InputError("label", f"the logits' shape {tuple(logits.shape)}", str(tuple(label.shape)))
        # a MetaTensor would become the state, which torch.load(weights_only=True) then refuses
        logits, label = (convert_to_tensor(x, track_meta=False) for x in (logits, label))
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        label = label.to(logits)
        length = (logits.detach().sigmoid() - label).abs()
        region = (length * self.bins).long().clamp(max=self.bins - 1).flatten()
        batch_counts = torch.bincount(region, minlength=self.bins).to(self.counts.dtype)
        batch_counts, ranks = sum_over_ranks(batch_counts) if self.training else (batch_counts, 1)
        total, filled = batch_counts.sum().clamp(min=1), batch_counts > 0
        # configurations do not move a loss to the network's device
        counts = self.counts.to(batch_counts.device)
        started = torch.where(counts > 0, torch.lerp(batch_counts, counts, self.momentum), batch_counts)
        counts = torch.where(filled, started, counts)
        if self.training:
            self.counts = counts
        weight = total / (filled.sum() * counts)[region]
        loss = F.binary_cross_entropy_with_logits(logits, label, weight.to(logits).view_as(logits), reduction="sum")
        return loss * ranks / total.to(loss)
