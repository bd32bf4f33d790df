"""One line an epoch, with the time that is left; of long epochs their steps, and what they wait for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from ignite.engine import Engine, Events
from tqdm import tqdm

__all__ = ["EpochProgress"]


_PATIENCE_S = 15  # before an epoch's steps are shown
_LONG_S = 60  # of an epoch whose waiting is worth a word
_MUCH = 0.3  # of an epoch


class EpochProgress:
    """Prints an epoch's metrics and estimates the time left.

    Of an epoch that takes longer than some seconds the steps are shown too, with the time that it has left. If a long
    epoch spends much of its time waiting for data, the first such line says so: ``--num_workers`` is what helps.

    Args:
        history: entries with at least ``epoch``, as :class:`~monai_ext.handlers.TrainingState` collects them; attach
            this handler after it.
    """

    def __init__(self, history: Sequence[dict[str, Any]]) -> None:
        self.history = history
        self._started = 0.0
        self._first = 0
        self._steps: tqdm | None = None
        self._begun = self._asked = self._waited = self._lasted = 0.0
        self._told = False

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._ask)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._get)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        if not self._started:
            self._started, self._first = time.monotonic(), engine.state.epoch
        self._begun, self._waited = time.monotonic(), 0.0
        self._steps = tqdm(
            total=engine.state.epoch_length,
            desc=f"epoch {engine.state.epoch}/{engine.state.max_epochs}",
            unit="step",
            delay=_PATIENCE_S,
            leave=False,
            disable=engine.state.rank != 0,
        )

    def _ask(self) -> None:
        self._asked = time.monotonic()

    def _get(self) -> None:
        self._waited += time.monotonic() - self._asked

    def _step(self) -> None:
        if self._steps is not None:
            self._steps.update()
            if self._steps.n == self._steps.total:  # validation comes before the epoch's line
                self._steps.close()
                self._lasted = time.monotonic() - self._begun

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
        lasted = max(self._lasted, 1e-9)
        if not self._told and lasted > _LONG_S and self._waited > _MUCH * lasted:
            self._told = True
            share = f"{self._waited / lasted:.0%}"
            print(f"{share} of this epoch's {lasted:.0f} s went by waiting for data: more --num_workers", flush=True)
