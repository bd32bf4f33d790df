"""The loss that closes LoopNet's loop (Zhang et al., CVPR 2023, equation 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn

from monai_ext.base.distributed import sum_over_ranks

__all__ = ["LoopbackLoss"]


class LoopbackLoss(nn.Module):
    """What the classifier says of an invaded vessel's cancerous part and of the rest, as the locating branch sees them.

    ``CE(F_cls(x * U(p0 + p1)), 0) + CE(F_cls(x * U(p2)), 1)``, a mean over the invaded vessels of the batch, where U is
    nearest-neighbour interpolation to the image's size. The classifier only judges: its parameters get no gradient in
    this pass and it runs in evaluation mode, so that it normalises as in use, drops nothing out, and no running
    statistic changes. The gradient reaches the locating branch, head and backbone, through ``p_loc`` alone.

    The mean is over the invaded vessels of all ranks of a distributed run, scaled as that of :class:`GHMCLoss`; every
    rank has to call the loss equally often.

    Args:
        loss: of logits and targets ``(2 M, 1)`` for M invaded vessels, possibly none; ``None`` for cross-entropy. With
            :class:`GHMCLoss` this is the ablation in the last column of Table 5.
        blank: value of the network's input, one for all channels or one for each, that an area fades to where it is
            masked out. 0 is the equation's plain product; with another value that of ``x - blank``. Masked patches
            then look like the mosaic's blank ones, which a classifier knows to mean nothing.
    """

    blank: Tensor

    def __init__(
        self, loss: Callable[[Tensor, Tensor], Tensor] | None = None, blank: float | Sequence[float] = 0.0
    ) -> None:
        super().__init__()
        self.loss = loss
        self.register_buffer("blank", torch.as_tensor(blank, dtype=torch.float32).reshape(-1, 1, 1), persistent=False)

    def forward(
        self, images: Tensor, logits: Tensor, label: Tensor, network: nn.Module, inferer: Inferer | None = None
    ) -> Tensor:
        """The loss of a batch.

        Args:
            images: ``(B, 3, H, W)``, the network's input.
            logits: ``(B, 3, h, w)`` before softmax, the network's ``p_loc`` for these images.
            label: ``(B, 1)`` or ``(B,)``, 1 for an invaded vessel and 0 for a healthy one.
            network: gives ``{"logit": (B, 1)}`` for ``network(images, locate=False)``.
            inferer: what calls the network, for its precision.

        Returns:
            a scalar; 0, with zero gradient, without an invaded vessel.
        """
        invaded = label.flatten() > 0.5
        p_loc = logits[invaded].to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)
        masks = torch.cat([p_loc[:, :2].sum(1, keepdim=True), p_loc[:, 2:]])
        blank = self.blank.to(images)
        content = (images[invaded] - blank).repeat(2, 1, 1, 1)
        inputs = blank + content * F.interpolate(masks, images.shape[2:], mode="nearest")
        if len(inputs):
            with _frozen(network):
                judged = (inferer or SimpleInferer())(inputs, network, locate=False)["logit"]
        else:  # every rank takes part in the loss, and its p_loc in the gradient
            judged = inputs.sum((1, 2, 3))[:, None]
        judged = judged.to(p_loc.dtype)
        ideal = torch.arange(2).repeat_interleave(len(p_loc))[:, None].to(judged)
        if self.loss is not None:
            return 2 * self.loss(judged, ideal)
        total, ranks = sum_over_ranks(judged.new_tensor(len(p_loc)))
        return F.binary_cross_entropy_with_logits(judged, ideal, reduction="sum") * ranks / total.clamp(min=1)


@contextmanager
def _frozen(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients of parameters, but with those of the input; as before afterwards."""
    modes = [(module, module.training) for module in network.modules()]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        network.eval().requires_grad_(False)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for parameter in trained:
            parameter.requires_grad_(True)
