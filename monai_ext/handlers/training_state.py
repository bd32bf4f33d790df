"""Training that can be killed at any moment and resumed with the same result."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from monai.utils import MAX_SEED

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.base.flags import as_flag
from monai_ext.networks.convention import InputConvention, save_weights

__all__ = ["EpochSeed", "TrainingState", "plain_number", "read_curves"]


def plain_number(value: Any) -> float | None:
    """A number for JSON: ``None`` stands for what is not finite."""
    number = float(value)
    return number if math.isfinite(number) else None


def read_curves(path: str | Path | None) -> dict[str, list[tuple[int, float]]] | None:
    """What a training's ``history.json`` tells, as (epoch, value) lines by name; ``None`` without such a file."""
    if path is None or not Path(path).is_file():
        return None
    entries = json.loads(Path(path).read_text(encoding="utf-8"))
    names = [n for n in dict.fromkeys(k for entry in entries for k in entry) if n not in ("epoch", "lr")]
    return {n: [(e["epoch"], e[n]) for e in entries if e.get(n) is not None] for n in names}


class EpochSeed:
    """Seeds every random generator at the start of each epoch from the run's seed and the epoch's number.

    An epoch then depends on nothing but the weights it starts from: a resumed run repeats what an undisturbed one
    does, with any number of loader workers (as long as it is the same number).

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def attach(self, engine: Engine) -> None:
        """Register with a trainer; attach it before handlers that draw random numbers."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the epoch that begins; ranks of a distributed run draw different samples."""
        words = np.random.SeedSequence([self.seed, engine.state.epoch, engine.state.rank]).generate_state(1)
        seed = int(words[0]) % MAX_SEED
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  third-party transforms use the global generator
        torch.manual_seed(seed)
        set_rnd(getattr(engine.data_loader, "dataset", None), seed)


class TrainingState:
    """Keeps the best or the last weights, the history and all that a resumed run needs.

    Writes into ``folder``, each file whole or not at all: ``model.pt``, the network's plain state dict at the best
    value of the evaluator's key metric (of the last epoch, without an evaluator or before its first run, or where the
    last ones are to be kept);
    ``training_state.pt`` after every ``interval`` epochs; ``history.json``, a list with an entry per epoch (loss
    and its parts ``loss_...`` where a step tells them, learning rate, validation metrics).

    Attach it as the trainer's last handler, so that it sees an epoch with its validation and learning rate steps done.

    Args:
        folder: where to write; made as needed.
        objects: what has ``state_dict`` and is restored: at least ``"network"``, further the optimizer, the
            scheduler, an averaged model.
        evaluator: the validating engine.
        resume: continue from ``training_state.pt`` if it exists; otherwise the run starts afresh.
        weights: which of ``objects`` is written to ``model.pt``.
        stale: files in ``folder`` that were made from the weights before, such as tuned thresholds; removed when new
            weights are written.
        keep: ``"best"`` or ``"last"``, the weights that ``model.pt`` holds.
        interval: epochs between two states to resume from; the last epoch's is always written.
        convention: of the network's input, which goes to ``model.json`` beside the weights.
    """

    def __init__(
        self,
        folder: str | Path,
        objects: Mapping[str, Any],
        evaluator: Engine | None = None,
        resume: bool = False,
        weights: str = "network",
        interval: int = 1,
        stale: Sequence[str] = (),
        keep: str = "best",
        convention: InputConvention | None = None,
    ) -> None:
        if keep not in ("best", "last"):
            raise InputError("keep", "'best' or 'last'", repr(keep))
        self.folder = Path(folder)
        self.objects = {k: _unwrapped(v) for k, v in objects.items()}
        self.evaluator, self.weights, self.interval = evaluator, weights, interval
        self.stale, self.keep, self.convention = tuple(stale), keep, convention
        self.resume = as_flag(resume, "resume")
        self.history: list[dict[str, Any]] = []
        self._losses: dict[str, list[float]] = {}

    @property
    def path(self) -> Path:
        """The file that a run resumes from."""
        return self.folder / "training_state.pt"

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_STARTED, lambda _: self._losses.clear())
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def restore(self, engine: Engine) -> None:
        """Restore everything, if there is a state and the run is to resume."""
        if not (self.resume and self.path.is_file()):
            return
        state = torch.load(self.path, map_location=engine.state.device, weights_only=True)
        for name, holder in self.objects.items():
            holder.load_state_dict(state["objects"][name])
        if engine.scaler is not None and state["scaler"] is not None:
            engine.scaler.load_state_dict(state["scaler"])
        engine.state.epoch = state["epoch"]
        engine.state.iteration = state["iteration"]
        self.history[:] = state["history"]
        if self.evaluator is not None:
            self.evaluator.state.best_metric = state["best_metric"]
            self.evaluator.state.best_metric_epoch = state["best_metric_epoch"]
        engine.logger.info(f"Resumed after epoch {state['epoch']} from {self.path}")

    def _collect(self, engine: Engine) -> None:
        output = engine.state.output  # a list of items, or a dictionary that is not taken apart
        output = output[0] if isinstance(output, list) else output
        for name in output:
            if str(name).startswith("loss"):
                self._losses.setdefault(str(name), []).append(float(torch.as_tensor(output[name]).detach()))

    def __call__(self, engine: Engine) -> None:
        """Write the state after the finished epoch (on the first rank)."""
        epoch = engine.state.epoch
        entry = {
            "epoch": epoch,
            **{name: plain_number(np.mean(values)) for name, values in self._losses.items()},
            "lr": engine.optimizer.param_groups[0]["lr"],
        }
        best = True
        if self.evaluator is not None:
            # until the first validation the last weights are all there is; -1 stands for none yet
            best = self.keep == "last" or self.evaluator.state.best_metric_epoch in (epoch, -1)
            if self.evaluator.state.epoch == epoch:
                entry |= {k: plain_number(v) for k, v in self.evaluator.state.metrics.items() if np.isscalar(v)}
        self.history.append(entry)
        if engine.state.rank != 0:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if best:
            save_weights(self.objects[self.weights].state_dict(), self.folder / "model.pt", self.convention)
            for name in self.stale:
                (self.folder / name).unlink(missing_ok=True)
        with atomic_path(self.folder / "history.json") as temporary:
            temporary.write_text(json.dumps(self.history, indent=1) + "\n", encoding="utf-8")
        if epoch % self.interval and epoch < engine.state.max_epochs:
            return
        # last, so that a run killed before this line repeats the epoch and rewrites the others
        with atomic_path(self.path) as temporary:
            torch.save(self._state(engine), temporary)

    def _state(self, engine: Engine) -> dict[str, Any]:
        return {
            "objects": {name: holder.state_dict() for name, holder in self.objects.items()},
            "scaler": None if engine.scaler is None else engine.scaler.state_dict(),
            "epoch": engine.state.epoch,
            "iteration": engine.state.iteration,
            "history": self.history,
            "best_metric": None if self.evaluator is None else float(self.evaluator.state.best_metric),
            "best_metric_epoch": None if self.evaluator is None else int(self.evaluator.state.best_metric_epoch),
        }


def _unwrapped(holder: Any) -> Any:
    """The network inside DistributedDataParallel, so that files fit with and without it."""
    return holder.module if isinstance(holder, torch.nn.parallel.DistributedDataParallel) else holder
