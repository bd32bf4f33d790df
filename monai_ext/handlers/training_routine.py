"""What every training does around its epochs, as one handler."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine
from monai.handlers import LrScheduleHandler, ValidationHandler

from monai_ext.handlers.progress import EpochProgress
from monai_ext.handlers.training_state import EpochSeed, TrainingState
from monai_ext.handlers.weight_average import WeightAverage

__all__ = ["TrainingRoutine"]


class TrainingRoutine:
    """Seeds, averages, steps the learning rate, validates, saves and reports, in the order in which they depend.

    The order is what matters: :class:`EpochSeed` before whatever draws random numbers, the average before the state
    that brings a resumed one back, the state after validation and the learning rate's step, the line of progress last.
    In a configuration's list of handlers it may stand beside others: before it what loads weights, after it what looks
    at a finished epoch.

    Args:
        state: keeps weights, history and what a resumed run needs; its evaluator is the one that validates.
        seed: of the run, see :class:`EpochSeed`.
        scheduler: of the learning rate, stepped after each epoch; ``None`` for a constant one.
        average: moving average of the network's weights, or ``None``.
        interval: epochs between two validations; a shorter training is validated at its end.
    """

    def __init__(
        self,
        state: TrainingState,
        seed: int = 0,
        scheduler: Any | None = None,
        average: WeightAverage | None = None,
        interval: int = 1,
    ) -> None:
        self.state, self.seed, self.scheduler, self.average, self.interval = state, seed, scheduler, average, interval

    def attach(self, engine: Engine) -> None:
        """Register all of them with a trainer."""
        EpochSeed(self.seed).attach(engine)
        if self.average is not None:
            self.average.attach(engine)
        if self.scheduler is not None:
            LrScheduleHandler(self.scheduler, print_lr=False).attach(engine)
        if self.state.evaluator is not None:
            interval = min(self.interval, engine.state.max_epochs)
            ValidationHandler(interval, self.state.evaluator, epoch_level=True).attach(engine)
        self.state.attach(engine)
        EpochProgress(self.state.history).attach(engine)
