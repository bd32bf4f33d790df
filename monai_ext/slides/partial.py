"""A slide in the making: its map so far, on disk, from which a stopped run resumes."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.formats.heatmap import HeatMap
from monai_ext.formats.tissue import Tissue
from monai_ext.slides.plan import SlidePlan, Tile

__all__ = ["PartialSlide"]

_LOCK = ".lock"


class PartialSlide:
    """Gathers the tiles of a slide in a folder of its own; use it as a context manager.

    The folder holds ``plan.json``, the map ``map.npy`` and ``progress.json``, which counts the stripes that are surely
    on disk. Glass inside a tile is set to 0, so the map does not depend on the tiles.

    Args:
        folder: where to work; no other process may work there meanwhile.
        plan: the tiles.
        tissue: where the map may differ from 0; ``None`` for everywhere.
        channels: of the map.
        fingerprint: of whatever else decides what the map holds: the network's weights, the slide's bytes.
        resume: continue an earlier run, if it was made with the same plan and fingerprint.

    Attributes:
        heat: the map.
        stripes: how many of the plan's are finished.
        seen: tissue that the network saw so far, and what of it is foreign, in tiles of its features.
        found: what was there: ``"nothing"``, ``"the same run"``, or ``"another run"``, which is deleted.

    Raises:
        InputError: another process works in this folder.
        OSError: the disk is full.
    """

    contents: tuple[str, ...] = ("map.npy",)  # files that another run can resume from, besides plan and progress

    def __init__(
        self,
        folder: Path,
        plan: SlidePlan,
        tissue: Tissue | None,
        channels: int,
        fingerprint: str = "",
        resume: bool = True,
    ) -> None:
        self.folder, self.plan, self.tissue = folder, plan, tissue
        self._stack = ExitStack()
        self._digest = _digest(plan, tissue, channels, fingerprint)
        self._shape = (channels, *plan.shape)
        self._resume = resume
        self.stripes, self.found = 0, "nothing"
        self.seen = [0.0, 0.0]
        self._seconds_before, self._began = 0.0, time.monotonic()

    def __enter__(self) -> PartialSlide:
        with ExitStack() as stack:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(FileLock(self.folder / _LOCK, timeout=0))
            except Timeout as error:
                raise InputError(self.folder, "no other run at work on this slide", "one that holds it") from error
            try:
                self.heat = stack.enter_context(self._find() or self._begin())
            except OSError:
                self.close()
                raise
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def seconds(self) -> float:
        """Time spent on this slide, by stopped runs as far as they got too."""
        return self._seconds_before + time.monotonic() - self._began

    def _find(self) -> HeatMap | None:
        """The map of an earlier run, if this run can resume from it."""
        if not (self.folder / "progress.json").is_file():
            return None
        self.found = "another run"
        try:
            progress = json.loads((self.folder / "progress.json").read_text())
            if not self._resume or progress["fingerprint"] != self._digest:
                return None
            seen = progress.get("seen", self.seen)
            store = self._open(progress)
        except (ValueError, KeyError, FileNotFoundError):  # edited or deleted by another program
            return None
        self.found, self.stripes, self._seconds_before = "the same run", progress["stripes"], progress["seconds"]
        self.seen = seen
        return store

    def _begin(self) -> HeatMap:
        self._clear([_LOCK])
        (self.folder / "plan.json").write_text(self.plan.to_json())
        return self._open(None)

    def _open(self, progress: dict[str, Any] | None) -> HeatMap:
        """The map of a run that got so far, or a new one."""
        return HeatMap(self.folder / "map.npy", None if progress else self._shape)

    def _clear(self, keep: Collection[str]) -> None:
        for path in self.folder.iterdir():
            if path.name not in keep:
                path.unlink()

    def close(self, keep_map: bool = False) -> None:
        """Remove the folder; or else all but what another run can resume from, if there is any."""
        if keep_map and self.stripes:
            self._clear([_LOCK, "plan.json", "progress.json", *self.contents])
        else:
            shutil.rmtree(self.folder)

    def add(self, tile: Tile, prediction: Tensor) -> None:
        """Take a tile's values; after the last one of a stripe, see that the stripe is on disk.

        Args:
            tile: the next of the plan.
            prediction: ``(channels, h, w)``; what reaches over the map's end is dropped.

        Raises:
            InputError: a value is not finite.
            OSError: the disk is full.
        """
        values = prediction.detach()[:, : tile.height, : tile.width].to("cpu", torch.float32).numpy()
        if not np.isfinite(values).all():
            raise InputError(f"prediction of {self.plan.file}", "finite values", f"NaN or infinity in {tile}")
        if self.tissue is not None:
            values = values * self.tissue.touched(*self.plan.edges(tile))
        for channel, plane in enumerate(values):
            self.heat.write(channel, tile.row, tile.col, plane)
        self._added(tile)

    def count(self, seen: Tensor) -> None:
        """Count tissue, ``(2,)``, before the tile that it belongs to is added."""
        self.seen = [before + more for before, more in zip(self.seen, seen.tolist(), strict=True)]

    def _added(self, tile: Tile, **more: Any) -> None:
        """After the last tile of a stripe, flush the map and save the progress, with further entries."""
        if tile == self.plan.stripes[self.stripes][-1]:
            self.heat.sync()
            self.stripes += 1
            self._save(more)

    def _save(self, more: dict[str, Any]) -> None:
        progress = {"fingerprint": self._digest, "stripes": self.stripes, "of": len(self.plan.stripes), **more}
        progress["seen"] = self.seen
        with atomic_path(self.folder / "progress.json") as temporary:
            temporary.write_text(json.dumps({**progress, "seconds": round(self.seconds, 3)}) + "\n")


def _digest(plan: SlidePlan, tissue: Tissue | None, channels: int, fingerprint: str) -> str:
    content = hashlib.sha256(json.dumps([plan.to_json(), channels, fingerprint]).encode())
    if tissue is not None:
        content.update(np.packbits(tissue.mask))
    return content.hexdigest()
