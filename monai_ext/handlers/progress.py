"""One line an epoch, with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from ignite.engine import Engine, Events

__all__ = ["EpochProgress"]


class EpochProgress:
    """Prints an epoch's metrics and estimates the time left.

    Args:
        history: entries with at least ``epoch``, as :class:`~monai_ext.handlers.TrainingState` collects them; attach
            this handler after it.
    """

    def __init__(self, history: Sequence[dict[str, Any]]) -> None:
        self.history = history
        self._started = 0.0
        self._first = 0

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        if not self._started:
            self._started, self._first = time.monotonic(), engine.state.epoch

    def __call__(self, engine: Engine) -> None:
        """Print the line of the epoch that ended."""
        if engine.state.rank != 0:
            return
        done = engine.state.epoch - self._first + 1
        pace = (time.monotonic() - self._started) / done
        left = timedelta(seconds=round(pace * (engine.state.max_epochs - engine.state.epoch)))
        values = "  ".join(f"{k} {v:.4g}" for k, v in self.history[-1].items() if k != "epoch" and v is not None)
        print(
            f"epoch {engine.state.epoch}/{engine.state.max_epochs}  {values}  {pace:.1f} s/epoch, {left} left",
            flush=True,
        )
