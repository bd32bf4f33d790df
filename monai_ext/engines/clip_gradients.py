"""Clipping of gradients, as a handler of MONAI's trainers."""

from __future__ import annotations

from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from torch import nn

__all__ = ["clip_gradients"]


def clip_gradients(trainer: SupervisedTrainer, most: float | None) -> None:
    """Scale the gradient of all parameters down where its norm exceeds a limit, in mixed precision too.

    Args:
        trainer: clips after each backward pass.
        most: the largest norm; ``None`` for any.
    """
    if most is not None:
        trainer.add_event_handler(IterationEvents.BACKWARD_COMPLETED, _clip, most)


def _clip(trainer: SupervisedTrainer, most: float) -> None:
    if trainer.scaler is not None:
        trainer.scaler.unscale_(trainer.optimizer)
    nn.utils.clip_grad_norm_(trainer.network.parameters(), most)
