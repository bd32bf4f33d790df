"""From slides to results: one slide, or a cohort of them over any number of processes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch.distributed as dist
from torch import Tensor
from tqdm import tqdm

from monai_ext.base.distributed import has_joined, is_first, shard
from monai_ext.base.errors import InputError
from monai_ext.base.files import path_below, remove_path
from monai_ext.base.flags import as_flag
from monai_ext.data.cohort import Cohort
from monai_ext.data.result_files import OVERLAY, warn_of_no_resolution, warnings_of
from monai_ext.exchange.registry import Exchange
from monai_ext.exchange.results import Results
from monai_ext.formats.geojson import Color
from monai_ext.formats.reader import SlideReader
from monai_ext.formats.suffixes import without_suffix
from monai_ext.formats.tissue import Tissue, tissue_mask
from monai_ext.networks.tissue_check import TissueCheck, report_tissue
from monai_ext.reports.pages import write_report
from monai_ext.slides.outputs import OUTPUTS, OutputSettings, write_outputs
from monai_ext.slides.partial import PartialSlide
from monai_ext.slides.plan import SlidePlan, Tile, plan_slide
from monai_ext.slides.predictor import TilePredictor
from monai_ext.slides.stains import fit_stains, tissue_squares
from monai_ext.slides.stream import stream_tiles
from monai_ext.slides.thumbnail import slide_thumbnail
from monai_ext.transforms.stain import MacenkoNormalize

__all__ = ["SlideInferer", "SlideResult"]

_PATIENCE = timedelta(days=30)  # ranks end hours apart; the default would end the run after half an hour
_PICTURES = 12


@dataclass(frozen=True)
class SlideResult:
    """What a slide came to.

    Attributes:
        path: the slide.
        name: what its files' paths below ``output_dir`` begin with.
        summary: see :func:`~monai_ext.slides.outputs.write_outputs`; ``warnings`` too, if there are any.
        tiles: how many were computed.
        seconds: time it took, in all runs together.
    """

    path: Path
    name: str
    summary: dict[str, Any]
    tiles: int
    seconds: float

    @property
    def seconds_per_mm2(self) -> float | None:
        """Seconds per mm2 of tissue; ``None`` without tissue."""
        return self.seconds / self.summary["tissue_mm2"] if self.summary["tissue_mm2"] else None


class SlideInferer:
    """Computes a map of whole slides, and what is to be seen in it, with bounded memory.

    For a slide ``a/b.svs`` below the input folder these appear below ``output_dir``, each whole or not at all:
    ``a/b_heatmap.ome.tif``, ``a/b.geojson``, ``a/b_detections.csv``, ``a/b_overlay.png``, ``a/b_plan.json``; they
    depend on the slide and the settings only. Meanwhile ``a/b.partial`` holds the map so far: a run that was killed
    resumes after its last finished stripe.

    Args:
        predictor: what computes a tile.
        output_dir: folder to write to; it is made.
        target_mpp: um/px of the network's grid; ``None`` for level 0 as it is.
        mpp: um/px of level 0 of all slides, in place of what they state.
        tile_px: no tile is larger, margins included.
        batch_size: tiles computed at once.
        workers: threads that decode.
        prefetch: batches decoded ahead.
        backend: the decoder: ``openslide``, ``cucim`` or ``tifffile``.
        tissue: compute tissue only; else glass too, but not what was never scanned.
        stains: the target that each slide's stains are normalised to; ``None`` leaves it as it is.
        outputs: what counts as a detection or a region.
        resume: continue partial maps, and leave out slides that are done, if they were made with these settings.
        fingerprint: of what the predictor's own ``fingerprint`` does not cover.
        title: of the report.
        notes: further lines for the report.
        check: whether slides are like the training data; the summary then has ``foreign_share``, and a warning where
            that is high. It listens to the predictor's ``network``.
        formats: of the objects, besides GeoJSON, for other programs; see :class:`~monai_ext.exchange.Exchange`.

    Raises:
        InputError: a format that is none, or needs a package that is not installed.
    """

    suffixes: tuple[str, ...] = OUTPUTS  # what a slide's files end with
    totals: tuple[str, ...] = ("tissue_mm2", "positive_mm2", "regions", "detections")  # of the summary, for the report
    ranked_by = "score"  # of the summary; slides with the highest are shown
    caption = "score {score:.3f}, {detections} detections"

    def __init__(
        self,
        predictor: TilePredictor,
        output_dir: str | os.PathLike,
        target_mpp: float | None = None,
        mpp: float | None = None,
        *,
        tile_px: int = 1536,
        batch_size: int = 1,
        workers: int = 1,
        prefetch: int = 2,
        backend: str = "openslide",
        tissue: bool = True,
        stains: MacenkoNormalize | None = None,
        outputs: OutputSettings | None = None,
        resume: bool = True,
        fingerprint: str = "",
        title: str = "Slides",
        notes: Mapping[str, Any] | None = None,
        check: TissueCheck | None = None,
        formats: str | Sequence[str] = ("geojson",),
    ) -> None:
        self.exchange = Exchange(formats)
        self.predictor, self.output_dir = predictor, Path(output_dir)
        self.target_mpp, self.mpp, self.tile_px, self.backend = target_mpp, mpp, tile_px, backend
        self.batch_size, self.workers, self.prefetch = batch_size, workers, prefetch
        self.tissue, self.resume = as_flag(tissue, "tissue"), as_flag(resume, "resume")
        self.stains, self.outputs = stains, outputs or OutputSettings()
        self.title, self.notes = title, dict(notes or {})
        self._warned = False
        self.check = check
        self._watch = check.watch(predictor.network) if check is not None else None
        self._seen: deque[Tensor | None] = deque()
        kind = type(predictor)
        predictor_fingerprint = getattr(predictor, "fingerprint", "")
        self._maker = [
            f"{kind.__module__}.{kind.__qualname__}",
            predictor_fingerprint,
            fingerprint,
            batch_size,
            backend,
            stains and stains.settings(),
            *([check.digest] if self._watch is not None else []),
        ]

    def __call__(self, path: str | os.PathLike, name: str | None = None, mpp: float | None = None) -> SlideResult:
        """Compute one slide and write its files.

        Args:
            path: the slide, or any image.
            name: what its files' paths begin with, below ``output_dir``; by default the file's name without its ending.
            mpp: um/px of level 0, in place of the inferer's.

        Raises:
            InputError: the slide cannot be read; nothing is left of it.
            Exception: a full disk, or what the predictor raises; what was finished of the map is kept, to resume from.
        """
        path = Path(path)
        name = without_suffix(path).name if name is None else name
        try:
            reader = SlideReader(path, self.target_mpp, mpp or self.mpp, self.backend)
            self.exchange.check(path, None if reader.resolution_source == "assumed" else reader.base_mpp)
            thumbnail, valid, scale = slide_thumbnail(reader)
        except InputError:
            self._discard(name)
            raise
        tissue = None if valid is None else Tissue(valid, scale)
        if self.tissue:
            tissue = Tissue(tissue_mask(thumbnail, scale * reader.base_mpp, valid=valid), scale)
        step, margin, align = self._lattice
        plan = plan_slide(reader, step, margin, self.tile_px, tissue, align)
        work = self.output_dir / f"{name}.partial"
        maker = json.dumps([*self._maker, _identity(path)])
        with self._partial(work, plan, tissue, maker) as partial:
            if partial.found == "another run":
                print(f"{path}: begun anew, for {work} was made with other settings or weights", file=sys.stderr)
            try:
                self._compute(reader, partial)
                summary = self._write(partial, (thumbnail, scale))
                suffixes = [*self.suffixes, *self._exchange(path, name, work / "output")]
                self._discard(name)  # killed from here on, the files are incomplete, never of two runs
                for suffix in suffixes:
                    (work / f"output{suffix}").replace(self._output(name, suffix))
            except Exception as error:
                self._discard(name)
                partial.close(keep_map=not isinstance(error, InputError))
                raise
            seconds = partial.seconds
            partial.close()
        if not plan.measured and not self._warned:
            self._warned = True
            warn_of_no_resolution(path)
        facts = vars(plan) | ({} if self._watch is None else self.check.facts(partial.seen))
        if facts.get("foreign"):
            print(f"{path}: {facts['foreign']}", file=sys.stderr)
        return SlideResult(path, name, summary | warnings_of(facts), plan.tile_count, seconds)

    @property
    def _lattice(self) -> tuple[int, int, int]:
        return self.predictor.step, self.predictor.margin, getattr(self.predictor, "align", 1)

    def _partial(self, work: Path, plan: SlidePlan, tissue: Tissue | None, maker: str) -> PartialSlide:
        """Where the slide's tiles are gathered."""
        return PartialSlide(work, plan, tissue, self.predictor.channels, maker, self.resume)

    def _write(self, partial: PartialSlide, thumbnail: tuple[np.ndarray, float]) -> dict[str, Any]:
        """Write ``output`` and each of the suffixes into the partial slide's folder; the summary."""
        return write_outputs(partial.folder, partial.heat, partial.plan, self.outputs, thumbnail)

    @property
    def _colours(self) -> Mapping[str, Color]:
        """RGB of each class of objects, in the order of their numbers in maps."""
        return {self.outputs.classification: tuple(self.outputs.colour)}

    def _exchange(self, path: Path, name: str, stem: Path) -> list[str]:
        """Write the objects of a GeoJSON in the formats that were asked for; what the files' names end with."""
        if not self.exchange.names:
            return []
        known = {"image": path, "classes": tuple(self._colours), "colours": self._colours}
        results = Results(stem.with_name(f"{stem.name}.geojson"), Path(name).name, **known).with_plan()
        written = self.exchange.write(results, stem, may_be_empty=True)
        return [each.name.removeprefix(stem.name) for each in written]

    def _caption(self, summary: Mapping[str, Any]) -> str:
        """A line about a slide."""
        return self.caption.format(**summary)

    def _discard(self, name: str) -> None:
        """Remove what an earlier run wrote of a slide that now fails, so that it is not mistaken for this run's."""
        for suffix in self.suffixes:
            remove_path(self._output(name, suffix))
        self.exchange.discard(self._output(name, ""))

    def _compute(self, reader: SlideReader, partial: PartialSlide) -> None:
        plan, first = partial.plan, partial.stripes
        before = sum(map(len, plan.stripes[:first]))
        tiles = stream_tiles(
            reader,
            plan,
            self.predictor,
            first=first,
            batch_size=self.batch_size,
            workers=self.workers,
            prefetch=self.prefetch,
            normalize=self._normalize(reader, plan),
            tissue=partial.tissue,
            computed=self._take_seen,
        )
        self._forget_seen()
        for tile, prediction in tqdm(tiles, plan.file, plan.tile_count, initial=before, unit="tile"):
            self._count_seen(partial)
            partial.add(tile, prediction)

    def _forget_seen(self) -> None:
        """Begin a slide."""
        self._seen.clear()
        if self._watch is not None:
            self._watch.take()

    def _take_seen(self, batch: list[Tile]) -> None:
        """Keep what the watch counted in a batch with its first tile, until that is added."""
        if self._watch is not None:
            self._seen += [self._watch.take(), *[None] * (len(batch) - 1)]

    def _count_seen(self, partial: PartialSlide) -> None:
        """Count what belongs to the next tile, before that is added."""
        seen = self._seen.popleft() if self._seen else None
        if seen is not None:
            partial.count(seen)

    def _normalize(self, reader: SlideReader, plan: SlidePlan) -> MacenkoNormalize | None:
        """What brings the slide's tiles to the stains asked for."""
        return fit_stains(self.stains, reader, tissue_squares(plan)) if self.stains and plan.tile_count else None

    def _output(self, name: str, suffix: str) -> Path:
        return self.output_dir / f"{name}{suffix}"

    def run(self, cohort: Cohort) -> list[SlideResult]:
        """Compute the slides of a cohort, each process of ``torchrun`` its share of them, and write the report.

        A slide that fails is recorded with its reason, and the next one begins. Call ``cohort.close()`` afterwards.

        Args:
            cohort: the slides; made with ``resume=True`` it remembers which are done.

        Returns:
            What this process computed.
        """
        group = None
        if has_joined():
            group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        elif int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("torchrun", "torch.distributed.init_process_group before the run", "processes apart")
        names = _names([item["image"] for item in cohort.items], cohort.root)
        done = {image for image, name in names.items() if self._is_exchanged(name)}
        todo = [
            [
                item
                for item in cohort.items
                if not (item["image"] in done and self._is_done(cohort, item, names[item["image"]]))
            ]
        ]
        if group is not None:  # as the first process sees it: another one may look after that one's first slide
            dist.broadcast_object_list(todo, src=0, group=group)
        results = [self._attempt(cohort, item, names[item["image"]]) for item in shard(todo[0], allow_empty=True)]
        if group is not None:
            dist.barrier(group)
        try:
            if is_first():
                self._write_report(cohort)
        finally:
            if group is not None:
                dist.barrier(group)
                dist.destroy_process_group(group)
        return [result for result in results if result is not None]

    def _attempt(self, cohort: Cohort, item: Mapping[str, Any], name: str) -> SlideResult | None:
        """Compute a slide and record the outcome."""
        image = item["image"]
        try:
            if self._is_done(cohort, item, name):  # but for formats that an earlier run was not asked for
                self._exchange(Path(image), name, self._output(name, ""))
                return None
            result = self(image, name, item.get("mpp"))
            cohort.done(image, **self._entry(cohort, item, result))
            print(f"{image}: {self._caption(result.summary)}, {result.seconds:.0f} s", flush=True)
        # whatever is wrong with one slide, the others are to be computed
        except Exception as error:
            if not isinstance(error, (InputError, OSError)):
                traceback.print_exc()
            reason = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            print(f"failed: {image}: {reason}", file=sys.stderr)
            try:
                cohort.failed(image, reason)
            except OSError as full:  # then it stays pending
                print(f"could not be noted: {full}", file=sys.stderr)
            return None
        return result

    def _settings(self, item: Mapping[str, Any]) -> str:
        """A digest of all that the files of a slide depend on."""
        mpp = [self.target_mpp, item.get("mpp") or self.mpp]
        shape = [*self._lattice, self.predictor.channels, self.tile_px, self.tissue]
        everything = [*self._maker, *mpp, *shape, asdict(self.outputs), _identity(Path(item["image"]))]
        return hashlib.sha256(json.dumps(everything).encode()).hexdigest()

    def _is_done(self, cohort: Cohort, item: Mapping[str, Any], name: str) -> bool:
        entry = cohort.state[item["image"]]
        return (
            self.resume
            and entry["status"] == "done"
            and entry.get("settings") == self._settings(item)
            and all(self._output(name, suffix).is_file() for suffix in self.suffixes)
        )

    def _is_exchanged(self, name: str) -> bool:
        return all(self._output(name, suffix).exists() for suffix in self.exchange.suffixes)

    def _entry(self, cohort: Cohort, item: Mapping[str, Any], result: SlideResult) -> dict[str, Any]:
        pace = result.seconds_per_mm2
        return {
            "settings": self._settings(item),
            "seconds": round(result.seconds, 1),
            "seconds_per_mm2": None if pace is None else round(pace, 3),
            "tiles": result.tiles,
            "name": result.name,
            "summary": {"image": path_below(result.path, cohort.root).as_posix(), **result.summary},
        }

    def _write_report(self, cohort: Cohort) -> None:
        cohort.reload()
        done = [entry for entry in cohort.state.values() if entry["status"] == "done"]
        failed = {image: entry for image, entry in cohort.state.items() if entry["status"] == "failed"}
        timing = ("seconds", "seconds_per_mm2", "tiles")
        table = pd.DataFrame([{**entry["summary"], **{key: entry[key] for key in timing}} for entry in done])
        tables: dict[str, Any] = {"Slides": table.round(4)} if done else {}
        if failed:
            tables["Failed"] = [{"image": image, "reason": entry["reason"]} for image, entry in failed.items()]
        highest = sorted(done, key=lambda entry: -entry["summary"][self.ranked_by])[:_PICTURES]
        sums = {key: table[key].dropna() for key in self.totals} if done else {}
        totals = {key: column.sum().item() if len(column) else None for key, column in sums.items()}
        tissue = report_tissue(self.check, [entry["summary"] for entry in done], "slides")
        path = self.output_dir / "report.html"
        try:
            write_report(
                path,
                title=self.title,
                metrics={"slides": len(done), "failed": len(failed), **totals, **tissue.metrics},
                tables=tables,
                cases={f"Highest {self.ranked_by}": [self._case(entry) for entry in highest]},
                notes=self.notes | tissue.notes,
                warning=tissue.warning,
            )
        except OSError as error:
            raise InputError(path, "room for the report", str(error)) from error

    def _case(self, entry: Mapping[str, Any]) -> tuple[np.ndarray, str]:
        summary = entry["summary"]
        picture = cv2.imread(str(self._output(entry["name"], OVERLAY)))[..., ::-1]
        return picture, f"{summary['image']}: {self._caption(summary)}"


def _identity(path: Path) -> list[int]:
    """What distinguishes a file from a later one of the same name."""
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _names(images: list[str], root: Path) -> dict[str, str]:
    """What the files' names of each image begin with: its path without the ending, with it where two would be one."""
    relative = {image: path_below(image, root) for image in images}
    alike = Counter(without_suffix(path) for path in relative.values())
    return {
        image: (path if alike[without_suffix(path)] > 1 else without_suffix(path)).as_posix()
        for image, path in relative.items()
    }
