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

    What does not learn, such as a frozen backbone, is left as it is: rounding would change it a little in each step,
    and with it what was computed from it and kept.

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

    def _update_ema_model(self, engine: Engine, name: str) -> None:
        """Average what learns: parameters with gradients, and the statistics of modules in training mode."""
        if self.handle_buffers != "update" or all(parameter.requires_grad for parameter in self.model.parameters()):
            super()._update_ema_model(engine, name)
            return
        momentum = getattr(engine.state, name)
        fixed = {id(b) for module in self.model.modules() if not module.training for b in module.buffers(recurse=False)}
        tensors = [*self.model.parameters(), *self.model.buffers()]
        for average, tensor in zip([*self.ema_model.parameters(), *self.ema_model.buffers()], tensors, strict=True):
            if id(tensor) in fixed or (isinstance(tensor, nn.Parameter) and not tensor.requires_grad):
                continue
            if tensor.is_floating_point():
                average.mul_(1 - momentum).add_(tensor.data, alpha=momentum)
            else:
                average.copy_(tensor)

    def __call__(self, _: Engine | None = None) -> None:
        """Restart from the network's weights."""
        self.ema_model.load_state_dict(self.model.state_dict())
