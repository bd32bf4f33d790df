"""What every training does around its epochs, as one handler."""

from __future__ import annotations

import math
from typing import Any

from ignite.engine import Engine, Events
from monai.handlers import LrScheduleHandler, ValidationHandler

from monai_ext.base.errors import InputError
from monai_ext.handlers.progress import EpochProgress
from monai_ext.handlers.training_state import EpochSeed, TrainingState
from monai_ext.handlers.weight_average import WeightAverage

__all__ = ["TrainingRoutine", "count_epochs"]


def count_epochs(epochs: int | None, max_steps: int | None, steps_per_epoch: int) -> int:
    """How many epochs a training has that ends with an epoch or with a step, whichever comes first.

    Args:
        epochs: the last epoch; ``None`` for no limit.
        max_steps: the last step of the optimizer, in the middle of an epoch perhaps; ``None`` for no limit.
        steps_per_epoch: batches of an epoch.

    Raises:
        InputError: neither of the two, or one that is no whole number above 0.

    Examples:
        >>> from monai_ext.handlers import count_epochs
        >>> count_epochs(None, 2500, 1000), count_epochs(2, 2500, 1000), count_epochs(90, None, 35)
        (3, 2, 90)
    """
    limits = {"epochs": epochs, "max_steps": max_steps}
    for name, value in limits.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(name, "a whole number above 0, or null for no limit", repr(value))
    ends = [end for end in (epochs, max_steps and math.ceil(max_steps / steps_per_epoch)) if end is not None]
    if not ends:
        raise InputError("epochs", "a number, or max_steps", "neither")
    return min(ends)


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
        max_steps: the step of the optimizer with which the last epoch ends, see :func:`count_epochs`; ``None`` for its
            last batch.
        summary: what the training draws from, in a few lines that are printed when it begins.
    """

    def __init__(
        self,
        state: TrainingState,
        seed: int = 0,
        scheduler: Any | None = None,
        average: WeightAverage | None = None,
        interval: int = 1,
        max_steps: int | None = None,
        summary: str | None = None,
    ) -> None:
        self.state, self.seed, self.scheduler, self.average, self.interval = state, seed, scheduler, average, interval
        self.max_steps, self.summary = max_steps, summary

    def attach(self, engine: Engine) -> None:
        """Register all of them with a trainer."""
        if self.summary and engine.state.rank == 0:
            engine.add_event_handler(Events.STARTED, lambda: print(self.summary, flush=True))
        EpochSeed(self.seed).attach(engine)
        if self.max_steps is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED(once=self.max_steps), Engine.terminate_epoch)
        if self.average is not None:
            self.average.attach(engine)
        if self.scheduler is not None:
            LrScheduleHandler(self.scheduler, print_lr=False).attach(engine)
        if self.state.evaluator is not None:
            interval = min(self.interval, engine.state.max_epochs)
            ValidationHandler(interval, self.state.evaluator, epoch_level=True).attach(engine)
        self.state.attach(engine)
        EpochProgress(self.state.history).attach(engine)
