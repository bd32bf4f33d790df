"""What seeds look like and, where nuclei are outlined, how good they are: before a long training learns them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import torch
from ignite.engine import Engine, Events
from monai.utils import convert_to_numpy

from monai_ext.base.files import atomic_path, write_png
from monai_ext.data.result_files import SEED_STEPS, SEEDS
from monai_ext.formats.image import read_field, read_mask
from monai_ext.metrics.seeds import SeedQuality, seed_shares
from monai_ext.reports.instance_pictures import instance_rows
from monai_ext.transforms.label_image import file_labels

__all__ = ["SeedsReport"]

_COUNTS = ("seeds", "right", "merged", "empty", "nuclei", "missed")


@dataclass(frozen=True)
class _Picture:
    image: str
    seeds: np.ndarray
    nuclei: np.ndarray | None
    source: np.ndarray | None = None  # at the network's resolution, as the steps are
    steps: Mapping[str, np.ndarray] = field(default_factory=dict)


class SeedsReport:
    """Shows the seeds of a few images and counts what they hold; the truth is looked at and decides nothing.

    Writes ``seeds.png`` (the first images with seeds, their seeds, and the nuclei where they are outlined) and
    ``seeds.json`` into ``output_dir`` and prints one line. ``seeds.json`` has ``images``, ``seeds``, ``outlined``, the
    images whose items name an instance map under ``label``, and of these :class:`~monai_ext.metrics.SeedQuality`'s
    counts and shares, pooled. With ``steps`` also ``seed_steps.png``, how the seeds of these images come about, as in
    the paper's Fig. 2. Nothing is gathered under ``torchrun``: the first rank writes the seeds alone.

    Args:
        output_dir: where the files go.
        seeds_key: of the seeds ``(1, H, W)`` in the evaluator's output.
        label_key: of the path of the true instance map in its batch, if there is one.
        pictures: how many images are shown.
        steps: from the relevance in the evaluator's output and the image as it was loaded to maps by name, see
            :meth:`~monai_ext.transforms.SeedMasksFromRelevance.steps`; ``None`` for no such picture.
        relevance_key: of the relevance in the evaluator's output.
    """

    def __init__(
        self,
        output_dir: str | Path,
        seeds_key: str = "seeds",
        label_key: str = "label",
        pictures: int = 4,
        steps: Callable[[Any, Any], Mapping[str, np.ndarray]] | None = None,
        relevance_key: str = "pred",
    ) -> None:
        self.output_dir, self.pictures = Path(output_dir), pictures
        self.seeds_key, self.label_key = seeds_key, label_key
        self.steps, self.relevance_key = steps, relevance_key
        self._images, self._seeds = 0, 0
        self._counts: list[torch.Tensor] = []
        self._shown: list[_Picture] = []

    def attach(self, engine: Engine) -> None:
        """Register with an evaluator whose batches keep the loaded image, with its metadata, as ``source``."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, _: Engine) -> None:
        self._images, self._seeds, self._counts, self._shown = 0, 0, [], []

    def _collect(self, engine: Engine) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            seeds = file_labels(convert_to_numpy(output[self.seeds_key])[0], batch["source"])
            label = batch.get(self.label_key)
            nuclei = read_mask(label) if isinstance(label, (str, Path)) else None
            if nuclei is not None:
                maps = (torch.from_numpy(each[None, None].astype(np.int32)) for each in (seeds, nuclei))
                self._counts.append(SeedQuality()(*maps)[0])
            self._images += 1
            self._seeds += int(seeds.max())
            if seeds.any() and len(self._shown) < self.pictures:
                name, source, steps = str(batch["source"].meta["filename_or_obj"]), None, {}
                if self.steps is not None:
                    source = convert_to_numpy(batch["source"]).astype(np.uint8)
                    steps = self.steps(output[self.relevance_key], batch["source"])
                self._shown.append(_Picture(name, seeds, nuclei, source, steps))

    def _write(self, _: Engine) -> None:
        content: dict[str, Any] = {"images": self._images, "seeds": self._seeds, "outlined": len(self._counts)}
        if self._counts:
            counts = torch.stack(self._counts).sum(0)
            content["counts"] = dict(zip(_COUNTS, counts.int().tolist(), strict=True))
            content["shares"] = seed_shares(counts)
        path = self.output_dir / "seeds.json"
        with atomic_path(path) as temporary:
            temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
        if self._shown:
            self._draw()
        print(f"{path}: {_line(content)}")

    def _draw(self) -> None:
        with_truth = any(picture.nuclei is not None for picture in self._shown)
        maps = [[picture.seeds, *([_or_empty(picture)] if with_truth else [])] for picture in self._shown]
        headings = ["image", "seeds", *(["labels"] if with_truth else [])]
        # with a resolution given px stay the file's own, as the maps' are
        images = [read_field(picture.image, mpp=1.0).image for picture in self._shown]
        write_png(self.output_dir / SEEDS, instance_rows(images, maps, headings))
        if self.steps is not None:
            images = [picture.source for picture in self._shown]
            maps = [list(picture.steps.values()) for picture in self._shown]
            write_png(self.output_dir / SEED_STEPS, instance_rows(images, maps, ["image", *self._shown[0].steps]))


def _or_empty(picture: _Picture) -> np.ndarray:
    return np.zeros_like(picture.seeds) if picture.nuclei is None else picture.nuclei


def _line(content: dict[str, Any]) -> str:
    text = f"{content['seeds']} seeds in {content['images']} images"
    if "shares" not in content:
        return text
    right, merged, empty, missed = ("-" if share is None else f"{share:.0%}" for share in content["shares"].values())
    return (
        f"{text}; of those in {content['outlined']} outlined images {right} have an IoU above .5 with a nucleus, "
        f"{merged} hold two or more, {empty} none; {missed} of the nuclei are in none"
    )
