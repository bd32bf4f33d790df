"""The moving average of a network's weights, which is what is validated and kept."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn

__all__ = ["WeightAverage"]


class WeightAverage(EMAHandler):
    """Exponential moving average that begins from the weights which the network has when the run starts.

    Ignite's handler copies the network when it is made. Weights that come later, from a ``CheckpointLoader`` as MONAI
    Label puts it before all handlers, would then reach the network but not its average. Attach it after what loads
    weights and before :class:`~monai_ext.handlers.TrainingState`, which brings a resumed run's average back.

    Args:
        model: the network, or its ``DistributedDataParallel``.
        momentum: weight of the newest parameters, above 0 and below 1.
        handle_buffers: ``"update"`` averages running statistics too, as the averaged network is the one that is used.
        **options: further arguments of ignite's ``EMAHandler``.
    """

    def __init__(self, model: nn.Module, momentum: float, handle_buffers: str = "update", **options: Any) -> None:
        super().__init__(model, momentum, handle_buffers=handle_buffers, **options)

    def attach(self, engine: Engine, *args: Any, **options: Any) -> None:
        """Register with a trainer; arguments as ignite's."""
        engine.add_event_handler(Events.STARTED, self)
        super().attach(engine, *args, **options)

    def __call__(self, _: Engine | None = None) -> None:
        """Restart from the network's weights."""
        self.ema_model.load_state_dict(self.model.state_dict())
