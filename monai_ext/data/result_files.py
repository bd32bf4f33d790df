"""Where the results of an image go, and the table that has a row for each."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path, find_files, locked, path_below, write_png
from monai_ext.data.geometry import image_resolution
from monai_ext.data.run_state import RewriteSchedule
from monai_ext.exchange.registry import Exchange, is_exchanged
from monai_ext.exchange.results import Results
from monai_ext.formats.geojson import Color, Features, GeoJSONWriter
from monai_ext.formats.image import SUFFIXES
from monai_ext.formats.resolution import Scale
from monai_ext.formats.suffixes import without_suffix

__all__ = [
    "CLASSES",
    "CYCLES",
    "HEATMAP",
    "MAP",
    "OVERLAY",
    "REVIEWED",
    "REVIEW_LOG",
    "SEEDS",
    "SEED_STEPS",
    "ResultFiles",
    "SummaryTable",
    "is_result",
    "is_review",
    "maps_in_datalists",
    "warn_of_no_resolution",
    "warnings_of",
]

#: What the names of the pictures that a run writes end with; it may write them among the images.
OVERLAY, CLASSES, HEATMAP = "_overlay.png", "_classes.png", "_heatmap.ome.tif"
#: The name of the picture that a training by cycles writes.
CYCLES = "cycles.png"
#: The name of the picture of seeds, and of the one of how they come about.
SEEDS, SEED_STEPS = "seeds.png", "seed_steps.png"
#: What the names of maps end with, which the list of the data set that they are written into names.
MAP = ".tif"
#: What the names of a review of a result end with: the corrected objects, and the corrections.
REVIEWED, REVIEW_LOG = "_reviewed.geojson", "_review.jsonl"


def is_result(path: Path) -> bool:
    """Whether a file is, by its name, a picture that a run of a bundle wrote, or results for another program."""
    pictures = path.name.endswith((OVERLAY, CLASSES, HEATMAP)) or path.name in (CYCLES, SEEDS, SEED_STEPS)
    return pictures or is_exchanged(path)


def is_review(path: Path) -> bool:
    """Whether a file is what a reviewer made of a run's GeoJSON that lies beside it, and so no result of its own.

    Examples:
        >>> from monai_ext.data.result_files import is_review
        >>> for name in ("a.geojson", "a_reviewed.geojson", "b_reviewed.geojson"):
        ...     _ = (folder / name).write_bytes(b"")
        >>> [is_review(path) for path in sorted(folder.iterdir())]  # the last is of an image b_reviewed
        [False, True, False]
    """
    result = path.with_name(f"{path.name.removesuffix(REVIEWED)}.geojson")
    return path.name.endswith(REVIEWED) and result.is_file()


def maps_in_datalists(folder: Path) -> set[Path]:
    """The labels and masks that the data lists below a folder name: the maps that a run wrote are among them."""
    maps = set()
    for path in find_files(folder, (".json",)):
        if path.name != "dataset.json":
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # another program's
        lists = content.values() if isinstance(content, dict) else ()
        items = [item for items in lists if isinstance(items, list) for item in items if isinstance(item, dict)]
        maps |= {
            Path(os.path.normpath(path.parent / name))
            for item in items
            for key, name in item.items()
            # an OME-Zarr may be an image and hold its label
            if isinstance(name, str) and name != item.get("image")
        }
    return maps


class SummaryTable:
    """``summary.csv``, a row for each image in the order of their names, which any number of processes write.

    A row is appended, so that it costs the same however many there are. By a
    :class:`~monai_ext.data.run_state.RewriteSchedule`, and at the end, the table is written anew: in order, and with
    the last row alone of an image that was done again.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_path = path.with_name(".summary.lock")
        self._schedule = RewriteSchedule()

    def add(self, row: Mapping[str, Any]) -> None:
        """Add an image's row, or replace it.

        Args:
            row: ``image`` and further columns.

        Raises:
            InputError: the file is another table.
        """
        cells = {name: "" if pd.isna(value) else value for name, value in row.items()}
        with locked(self._lock_path):
            if not self._schedule.is_due() and self._append(cells):
                self._schedule.changes += 1
            else:
                self._write(cells)

    def order(self) -> None:
        """Bring the rows into order, if there are any."""
        if self.path.is_file():
            with locked(self._lock_path):
                self._write()

    def close(self) -> None:
        """Bring the rows into order, if this process appended any since they were."""
        if self._schedule.changes:
            self.order()

    def _append(self, row: Mapping[str, Any]) -> bool:
        """Append a row, unless it has columns that the file has not, or the file ends in a torn line."""
        try:
            file = self.path.open("r+b")
        except FileNotFoundError:
            return False
        with file:
            names = next(csv.reader([file.readline().decode()]), None)
            end = file.seek(-1, os.SEEK_END)
            if names is None or not set(row) <= set(names) or file.read(1) != b"\n":
                return False
            line = io.StringIO()
            csv.writer(line, lineterminator=os.linesep).writerow(row.get(name, "") for name in names)
            try:
                file.write(line.getvalue().encode())
                file.flush()
            except OSError:
                file.truncate(end + 1)
                raise
        return True

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        text = self.path.read_text(encoding="utf-8")
        text = text[: text.rfind("\n") + 1]  # a power cut or a full disk may have torn the last line
        table = csv.DictReader(io.StringIO(text))
        if text and "image" not in table.fieldnames:
            raise InputError(self.path, "a table of images, or no such file", f"columns {', '.join(table.fieldnames)}")
        return list(table)

    def _write(self, *more: Mapping[str, Any]) -> None:
        """Write the table with some more rows."""
        began = time.monotonic()
        rows = {row["image"]: row for row in (*self._read(), *more)}
        columns = dict.fromkeys(name for row in rows.values() for name in row)
        with atomic_path(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, columns, lineterminator=os.linesep)
            table.writeheader()
            table.writerows(rows[image] for image in sorted(rows))
        self._schedule.written(len(rows), began)


class ResultFiles:
    """Names the files of each image after its path below the input folder, and keeps ``summary.csv``.

    Where two images differ only in their suffix, the second keeps its suffix in its files' names.

    Args:
        output_dir: folder to write to; it is made.
        data_root_dir: folder that the images lie below; images elsewhere are written below their own full path.
        max_side: pictures are reduced until no side is longer, px.
        formats: of the objects, besides GeoJSON; see :class:`~monai_ext.exchange.Exchange`.

    Raises:
        InputError: a format that is none, or needs a package that is not installed.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        data_root_dir: str | os.PathLike[str],
        max_side: int = 4096,
        formats: str | Sequence[str] = ("geojson",),
    ) -> None:
        self.output_dir, self.data_root_dir = Path(output_dir), Path(data_root_dir)
        self.exchange = Exchange(formats)
        self.max_side = max_side
        self._sources: dict[Path, Path] = {}
        self._summary = SummaryTable(self.output_dir / "summary.csv")
        self._warned = False
        weakref.finalize(self, self._summary.close)

    def source(self, image: Any, name: str = "image") -> Path:
        """The image's path below the input folder.

        Args:
            image: a MetaTensor that names its file.
            name: of the image in an error.

        Raises:
            InputError: it names no file.
        """
        meta = image.meta if isinstance(image, MetaTensor) else {}
        if not meta.get("filename_or_obj"):
            raise InputError(f"{name!r}", "a MetaTensor that names its file", type(image).__name__)
        return path_below(str(meta["filename_or_obj"]), self.data_root_dir)

    def path(self, source: Path, ending: str) -> Path:
        """The file of an image that ends in ``ending``, as ``_overlay.png``.

        Raises:
            ValueError: a picture that :func:`is_result` does not know, which the next run might take for an image.
        """
        if ending.endswith(SUFFIXES) and ending != MAP and not is_result(Path(ending)):
            raise ValueError(f"{ending!r} is not among the endings of result pictures")
        stem = without_suffix(source)
        if self._sources.setdefault(stem, source) != source:
            stem = source
        return (self.output_dir / stem).with_name(f"{stem.name}{ending}")

    def write_picture(self, path: Path, picture: np.ndarray) -> None:
        """Write uint8 RGB ``(H, W, 3)``, reduced where it is too large."""
        shrink = self.max_side / max(picture.shape)
        if shrink < 1:
            picture = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        write_png(path, picture)

    def write_objects(
        self, source: Path, image: MetaTensor, objects: Iterable[Features], colours: Mapping[str, Color]
    ) -> None:
        """Write an image's objects as GeoJSON, and in the other formats that were asked for.

        Args:
            source: the image's path, as :meth:`source` gives it.
            image: whose metadata name the file, and say where its pixels lie.
            objects: in px of the file's full resolution.
            colours: RGB of each class that there may be, in the order of their numbers in maps.

        Raises:
            InputError: objects that a format cannot hold; it needs a resolution, and that is unknown.
        """
        path = self.path(source, ".geojson")
        with GeoJSONWriter(path) as writer:
            for features in objects:
                writer.write(features)
        stem = path.with_name(path.name.removesuffix(".geojson"))
        self.exchange.discard(stem)
        if self.exchange.names:
            mpp, scale = image_resolution(image.meta)
            sides = np.broadcast_to(scale, 2).tolist()
            shape = image.meta.get("slide_shape", image.meta.get("file_shape"))  # of which the image may be a part
            if shape is None:
                shape = [round(a * b) for a, b in zip(image.shape[1:], sides, strict=True)]
            known = {"image": Path(image.meta["filename_or_obj"]), "shape": tuple(int(side) for side in shape)}
            known |= {"mpp": tuple(mpp / side for side in sides) if mpp else None}
            known |= {"classes": tuple(colours), "colours": colours}
            self.exchange.write(Results(path, stem.name, **known), stem, may_be_empty=True)

    def resolution(self, image: MetaTensor, mpp: float | None = None) -> tuple[float, Scale]:
        """:func:`~monai_ext.data.geometry.image_resolution` of an image; of unknown ones the first is named."""
        resolution = image_resolution(image.meta, mpp)
        if not resolution[0] and not self._warned:
            self._warned = True
            warn_of_no_resolution(image.meta.get("filename_or_obj"))
        return resolution

    def write_row(self, row: Mapping[str, Any], image: MetaTensor | None = None) -> None:
        """Add an image's row to ``summary.csv``, or replace it; any number of processes may do so.

        Args:
            row: ``image`` and further columns.
            image: what else there is to say of it, see :func:`warnings_of`; a table has a column ``warnings`` as soon
                as a row needs it.
        """
        self._summary.add({**row, **(warnings_of(image.meta) if image is not None else {})})


def warn_of_no_resolution(path: Any) -> None:
    """Say what follows of it for an image; a run does so for its first one."""
    what = (
        "this image and others like it are taken as they are, without areas, lengths and densities (um2, um, per mm2)"
    )
    print(f"{path}: no resolution: {what}; give um/px by --mpp", file=sys.stderr)


def warnings_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What an image's row says beyond its results.

    Args:
        meta: of the image: ``foreign_share``, where its tissue was compared with the training data, and ``foreign``,
            the warning that follows; ``conflict``, where its file contradicts itself.

    Returns:
        ``foreign_share``, if it was measured, and ``warnings``, where there is anything to say.
    """
    row: dict[str, Any] = {}
    if meta.get("foreign_share") is not None:
        share = float(meta["foreign_share"])
        row["foreign_share"] = None if math.isnan(share) else share
    told = [str(meta[name]) for name in ("conflict", "foreign") if meta.get(name)]
    return row | ({"warnings": "; ".join(told)} if told else {})
