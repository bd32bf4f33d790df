"""Which share of each image's tissue is unlike the training data."""

from __future__ import annotations

import sys

import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents

from monai_ext.networks.tissue_check import TissueCheck, TissueWatch

__all__ = ["WatchTissue"]


class WatchTissue:
    """Holds the tissue of each image against the training data, while the network runs, and warns on stderr.

    What came of it goes into the metadata of the image that results are named after, from which the transforms that
    write results add ``foreign_share`` and a warning to ``summary.csv``. Batches are single images.

    Args:
        check: what it is held against.
        key: of the image, a MetaTensor.
    """

    def __init__(self, check: TissueCheck, key: str = "source") -> None:
        self.check, self.key = check, key
        self._watch: TissueWatch | None = None

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator; its network is listened to while it runs."""
        if self.check.seen is not None:
            engine.add_event_handler(Events.STARTED, self._begin)
            engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self)
            engine.add_event_handler(Events.COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        self._end()
        self._watch = self.check.watch(engine.network)

    def _end(self, *_: Engine) -> None:
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def __call__(self, engine: Engine) -> None:
        """After the network has run on an image."""
        facts = self.check.facts(self._watch.take())
        meta = engine.state.batch[self.key].meta
        meta["foreign_share"] = torch.tensor([facts["foreign_share"]], dtype=torch.float64)
        meta["foreign"] = [facts["foreign"]]
        if facts["foreign"]:
            name = meta.get("filename_or_obj", ["image"])
            print(f"{name[0] if isinstance(name, list) else name}: {facts['foreign']}", file=sys.stderr)
