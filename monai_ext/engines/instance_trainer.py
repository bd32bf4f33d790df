"""Training of a back end of Cyclic Learning on masks that may be incomplete (Zhou et al. 2023, section III-B)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from monai_ext.engines.clip_gradients import clip_gradients
from monai_ext.instances.targets import Target
from monai_ext.losses import SelfTrainingLoss

__all__ = ["InstanceTrainer"]


class InstanceTrainer(SupervisedTrainer):
    """Trains an :class:`~monai_ext.networks.nets.InstanceBackEnd`, whose losses are its output.

    Batches are dictionaries of ``image``, ``label`` (targets of the masks that were there before) and, for a student,
    ``found`` (targets of the masks that its teacher found): eq. 2; without ``found`` eq. 1. The network's maps
    are computed once for both. Beside ``loss``, the output of a step has the parts of the losses on
    ``label`` by their names.

    Args:
        device: where to train.
        max_epochs: how many.
        train_data_loader: of batches as above.
        network: the back end; called as ``network(images, targets)`` or ``network(images, targets, found)``.
        optimizer: the paper's is SGD.
        loss_function: of the losses on ``label`` and, where there are any, on ``found``.
        clip: largest norm of the gradient of all parameters; ``None`` for any.
        kwargs: further arguments of ``SupervisedTrainer``.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_function: SelfTrainingLoss | None = None,
        clip: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            device,
            max_epochs,
            train_data_loader,
            network,
            optimizer,
            loss_function=self._objective,
            prepare_batch=_prepare,
            decollate=False,
            **kwargs,
        )
        self.self_training_loss = loss_function or SelfTrainingLoss()
        clip_gradients(self, clip)

    def _objective(self, losses: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]], _: Sequence[Target]) -> Tensor:
        """The loss of the step; ``SupervisedTrainer`` calls it in the step's precision."""
        old, new = (losses, None) if isinstance(losses, Mapping) else losses
        self.state.output |= {name: value.detach() for name, value in old.items()}
        return self.self_training_loss(old, new)


def _prepare(
    batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **kwargs: Any
) -> tuple[Tensor, list[Target], tuple, dict[str, Any]]:
    """Inputs, targets, and all targets again for the network."""
    images = batch["image"].to(device, non_blocking=non_blocking, **kwargs)
    return images, batch["label"], tuple(batch[key] for key in ("label", "found") if key in batch), {}
