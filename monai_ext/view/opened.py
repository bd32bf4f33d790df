"""Slides that are open: their tiles, objects and corrections."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import shapely

from monai_ext.base.colours import class_colours
from monai_ext.base.errors import InputError
from monai_ext.exchange.conversion import convert
from monai_ext.exchange.results import Results
from monai_ext.formats.annotation_files import read_features
from monai_ext.formats.geojson import Color, Features, GeoJSONWriter
from monai_ext.formats.point_files import read_points
from monai_ext.view.cases import Case, Cases
from monai_ext.view.drawing import drawn_shape
from monai_ext.view.object_index import ObjectIndex
from monai_ext.view.pictures import HeatTiles, SlideTiles
from monai_ext.view.review_log import ReviewLog, content_of, reviewed

__all__ = ["Opened", "Settings", "Shelf"]

_SLACK = 1.0  # px
_OPEN = 4  # slides that stay open


@dataclass(frozen=True)
class Settings:
    """What a viewer was started with.

    Attributes:
        reviewer: whose corrections these will be.
        classes: that objects may be given besides those that the result has.
        mpp: um/px of all slides, in place of what they state.
        formats: that corrected objects are written in, besides GeoJSON; see :data:`~monai_ext.exchange.FORMATS`.
    """

    reviewer: str
    classes: Sequence[str] = ()
    mpp: float | None = None
    formats: Sequence[str] = ()


class Opened:
    """A slide with what belongs to it; each part is read when it is first asked for.

    Args:
        case: which.
        settings: of the viewer.
    """

    def __init__(self, case: Case, settings: Settings) -> None:
        self.case, self.settings = case, settings
        self._lock = RLock()
        self._joined: tuple[Features, ObjectIndex] | None = None  # what was drawn, and all with it

    @cached_property
    def results(self) -> Results | None:
        """What a run over slides wrote beside the objects, if there are any."""
        return Results(self.case.objects, self.case.name).with_plan() if self.case.stem else None

    @cached_property
    def tiles(self) -> SlideTiles:
        """Of the slide.

        Raises:
            InputError: it is not where it was, or cannot be read.
        """
        if self.case.image is None:
            raise InputError(self.case.name, "the slide, or --slides with the folder that it is in now", "none")
        mpp = self.settings.mpp or self.case.mpp
        try:
            return SlideTiles(self.case.image, mpp)
        except InputError:
            stated = self.results and self.results.mpp  # the run was told by --mpp
            if mpp or not stated:
                raise
            return SlideTiles(self.case.image, min(stated))

    @cached_property
    def heat(self) -> HeatTiles | None:
        """Of the heat map, if there is one.

        Raises:
            InputError: it cannot be shown.
        """
        return HeatTiles(self.results.heatmap) if self.results and self.results.heatmap else None

    @cached_property
    def written(self) -> Features:
        """The objects as they were written, in px of the file.

        Raises:
            InputError: they cannot be read, or reach over the slide's edge.
        """
        path = self.case.objects
        if path is None:
            return Features([])
        is_table = path.suffix == ".csv"
        features = Features.from_points(read_points(path)) if is_table else read_features(path, self.case.image)
        rows, cols = self.tiles.reader.file_shape
        low_x, low_y, high_x, high_y = shapely.total_bounds(features.geometry) if len(features) else (0, 0, 0, 0)
        if min(low_x, low_y) < -_SLACK or high_x > cols + _SLACK or high_y > rows + _SLACK:
            found = f"some from x {low_x:.0f}, y {low_y:.0f} to x {high_x:.0f}, y {high_y:.0f}: those of another slide?"
            raise InputError(path, f"objects of {self.case.image} ({cols} x {rows} px)", found)
        return features

    @property
    def features(self) -> Features:
        """As :attr:`written`, then what reviewers have drawn; the geometry is missing where a drawing was undone."""
        return self.index.features

    @property
    def index(self) -> ObjectIndex:
        """The :attr:`features` by place and certainty."""
        with self._lock:
            drawn = None if self.log is None else self.log.drawn()
            if drawn is None or not len(drawn):
                return self._written_index
            if self._joined is None or self._joined[0] is not drawn:
                types = self.written.object_types  # drawn objects are of the kind that the result has
                like = replace(drawn, object_types=types[0] if len(types) else "annotation")
                self._joined = drawn, self._written_index.with_more(like)
            return self._joined[1]

    @cached_property
    def _written_index(self) -> ObjectIndex:
        return ObjectIndex(self.written, self.tiles.reader.stretch)

    @cached_property
    def colours(self) -> dict[str, Color]:
        """Classes that objects have or may be given, and the colour of each."""
        names = self._class_names() if self.log is None else self.log.classes
        return class_colours(list(names), self.written.colors)

    def _class_names(self, said: Iterable[str | None] = ()) -> tuple[str, ...]:
        """Of the result, of the settings, and of what was said before with other settings; each once."""
        present, said = (sorted({name for name in names if name is not None}) for names in (self.written.classes, said))
        return tuple(dict.fromkeys([*present, *self.settings.classes, *said]))

    @cached_property
    def log(self) -> ReviewLog | None:
        """The corrections; ``None`` where there is nothing to correct."""
        if self.case.log is None:
            return None
        log = ReviewLog(self.case.log, content_of(self.case.objects), len(self.written))
        log.classes = self._class_names(decision.name for decision in log.decisions().values())
        return log

    def facts(self) -> dict[str, Any]:
        """What the page has to know of the slide before it shows anything."""
        with self._lock:
            reader = self.tiles.reader
            notes = [reader.conflict] if reader.conflict else []
            heat = None
            try:
                if self.heat is not None:
                    # of a cell, in square px of level 0: the file's cells are oblong where its px are
                    cell = self.results.cell[0] * reader.stretch[0]
                    heat = self.heat.geometry() | {"cell": cell}
            except InputError as error:
                notes.append(f"The heat map is not shown: {error}")
            review = None
            if self.log is not None:
                self.log.decisions()
                if self.log.of_others:
                    notes.append(f"{self.log.of_others} corrections are of another result and not applied")
                if self.log.torn:
                    notes.append(f"{self.log.torn} lines of {self.log.path.name} cannot be read")
                review = {"log": self.log.path.name, "reviewer": self.settings.reviewer}
            measured = reader.resolution_source != "assumed"
            return {
                "name": self.case.name,
                "slide": self.tiles.geometry() | {"mpp": reader.base_mpp if measured else None},
                "heat": heat,
                "objects": len(self.written),
                "certain": bool(np.isfinite(self._written_index.certainty).any()),
                "classes": [{"name": name, "colour": list(rgb)} for name, rgb in self.colours.items()],
                "review": review,
                "notes": notes,
            }

    def window(self, box: tuple[float, float, float, float], px: float) -> dict[str, Any]:
        """What is to be drawn of a window, and the class of each object by its place among :attr:`colours`.

        Args:
            box: ``x0, y0, x1, y1`` in square px of level 0.
            px: those per px of the screen.
        """
        index = self.index
        drawn = index.within(box, px)
        for kind in ("dots", "rings"):
            drawn[kind]["classes"] = self._class_numbers(index.features.classes[drawn[kind]["ids"]])
        return drawn

    def order(self, by: str) -> dict[str, Any]:
        """All objects in one of the orders of :class:`ObjectIndex`: their places in the file, certainty, classes."""
        index = self.index
        places = index.order(by)
        classes = self._class_numbers(index.features.classes[places])
        return {"objects": places, "certainty": index.certainty[places].round(4), "classes": classes}

    def _class_numbers(self, classes: np.ndarray) -> np.ndarray:
        """Of names their places among :attr:`colours`; -1 for none."""
        number = {name: k for k, name in enumerate(self.colours)}
        return np.array([number.get(name, -1) for name in classes], np.int64)

    def decisions(self) -> dict[int, dict[str, Any]]:
        """What a reviewer said, by the object."""
        return {k: asdict(each) for k, each in self.log.decisions().items()} if self.log is not None else {}

    def draw(self, kind: Any, points: Any, name: str | None) -> int:
        """Save an object that the result lacks; its place.

        Args:
            kind: ``"point"`` or ``"polygon"``.
            points: ``(N, 2)`` ``x, y`` in square px of level 0.
            name: its class.

        Raises:
            InputError: there is nothing to correct, or it cannot be drawn; see :func:`drawn_shape`.
            OSError: the log cannot be written.
        """
        reader = self.tiles.reader
        shape = drawn_shape(kind, points, reader.file_shape, reader.stretch)
        return self.log.draw(shape, name, reviewer=self.settings.reviewer).object

    def corrected(self) -> Features:
        """The objects as reviewers have corrected them."""
        return reviewed(self.features, self.log.decisions() if self.log is not None else {}, self.colours)

    def export(self) -> list[Path]:
        """Write the corrected objects beside the result, which stays as it is; the files.

        Raises:
            InputError: there is nothing to correct, or a format cannot hold what there is.
            OSError: the file cannot be written.
        """
        if self.case.reviewed is None:
            raise InputError(self.case.name, "results of a run", "none: there is nothing to review")
        with GeoJSONWriter(self.case.reviewed) as writer:
            writer.write(self.corrected())
        if not self.settings.formats:
            return [writer.path]
        mpp = self.settings.mpp or self.case.mpp
        written = convert(writer.path, self.settings.formats, slide=self.case.image, mpp=mpp)
        return [writer.path, *map(Path, written.splitlines())]


class Shelf:
    """The slides of a viewer; those looked at last stay open.

    Args:
        cases: all of them.
        settings: of the viewer.
    """

    def __init__(self, cases: Cases, settings: Settings) -> None:
        self.cases, self.settings = cases, settings
        self._open: OrderedDict[int, Opened] = OrderedDict()
        self._lock = RLock()

    def __getitem__(self, number: int) -> Opened:
        if not 0 <= number < len(self.cases.cases):
            raise IndexError(number)
        with self._lock:
            if number not in self._open:
                self._open[number] = Opened(self.cases.cases[number], self.settings)
            self._open.move_to_end(number)
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
            return self._open[number]

    def table(self) -> dict[str, Any]:
        """The list of the slides: columns, rows, and of each row its slide."""
        columns = dict.fromkeys(name for row in self.cases.rows for name in row)
        cases = self.cases.cases
        return {
            "title": self.cases.title,
            "columns": list(columns),
            "rows": [[row.get(name, "") for name in columns] for row in self.cases.rows],
            "of": list(self.cases.of_case),
            "there": [case.image is not None for case in cases],
        }
