"""Slides that are open: their tiles, objects and corrections."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock, RLock
from typing import Any

import cv2
import numpy as np
import shapely

from monai_ext.base.colours import class_colours
from monai_ext.base.errors import InputError
from monai_ext.data.review_order import appearance, farthest_first
from monai_ext.exchange.conversion import convert
from monai_ext.exchange.results import Results
from monai_ext.formats.annotation_files import read_features
from monai_ext.formats.geojson import Color, Features, GeoJSONWriter
from monai_ext.formats.image import is_mask, read_field, read_mask
from monai_ext.formats.outlines import label_map_to_polygons
from monai_ext.formats.point_files import read_points
from monai_ext.formats.tissue import tissue_mask
from monai_ext.slides.thumbnail import slide_thumbnail, thumbnail_scale
from monai_ext.view.cases import Beside, Case, Cases
from monai_ext.view.comparison import KINDS, RADIUS_UM, Comparison, compare_objects
from monai_ext.view.drawing import drawn_shape
from monai_ext.view.measures import measures_of
from monai_ext.view.object_index import ObjectIndex
from monai_ext.view.pictures import HeatTiles, SlideTiles, encode_tile
from monai_ext.view.review_log import Decision, ReviewLog, content_of, reviewed

__all__ = ["DIFFERENCES", "DIVERSE", "Opened", "Settings", "Shelf"]

#: The order of what only one side has.
DIFFERENCES = "differences"
#: The order in which each object looks least like those before it.
DIVERSE = "diverse"
_COMPARED = 1000  # objects by their looks: each is read from the slide
_PICTURE, _SMALL = 96, 256  # px, sides of pictures of an object and of an image
_OVERLAY = "_overlay.png"  # what a run's picture of its result ends with
_GLASS, _UNSCANNED = (90, 96, 104, 120), (40, 42, 46, 200)  # RGB and opacity
_PATCH, _AROUND_UM = 32, 16.0  # px that an object is looked at with; what is seen around it at least
_SLACK = 1.0  # px
_USUAL_MPP = 0.25  # where none is known
_OPEN = 4  # slides that stay open


@dataclass(frozen=True)
class Settings:
    """What a viewer was started with.

    Attributes:
        reviewer: whose corrections these will be.
        classes: that objects may be given besides those that the result has.
        mpp: um/px of all slides, in place of what they state.
        formats: that corrected objects are written in, besides GeoJSON; see :data:`~monai_ext.exchange.FORMATS`.
        radius_um: within which a point is that of another result; see :func:`compare_objects`.
    """

    reviewer: str
    classes: Sequence[str] = ()
    mpp: float | None = None
    formats: Sequence[str] = ()
    radius_um: float = RADIUS_UM


class Opened:
    """A slide with what belongs to it; each part is read when it is first asked for.

    Args:
        case: which.
        settings: of the viewer.
        beside: where other objects of it are from, and their file.
    """

    def __init__(self, case: Case, settings: Settings, beside: tuple[str, Path] | None = None) -> None:
        self.case, self.settings, self.beside = case, settings, beside if case.objects else None
        self._lock, self._comparing = RLock(), Lock()
        self._compared: tuple[Comparison, ObjectIndex] | None = None
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
        return Features([]) if self.case.objects is None else self._read(self.case.objects)

    def _read(self, path: Path) -> Features:
        if is_mask(path):
            features = Features(label_map_to_polygons(read_mask(path))[1])
        elif path.suffix == ".csv":
            features = Features.from_points(read_points(path))
        else:
            features = read_features(path, self.case.image)
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

    @property
    def compared(self) -> tuple[Comparison, ObjectIndex]:
        """The objects as they were written beside the other ones, and those that they lack by place and certainty.

        Raises:
            InputError: there are no others, or they cannot be read.
        """
        if self.beside is None:
            raise InputError(self.case.name, "objects beside it (--beside)", "none of this image")
        with self._comparing:  # a slide may take a while, in which it can be looked at
            if self._compared is None:
                path = self.beside[1]
                sides = (self._squared(side) for side in (self.written, self._read(path)))
                about = {"radius_um": self.settings.radius_um, "where": (self.case.objects, path)}
                comparison = compare_objects(*sides, self._mpp(), **about)
                self._compared = comparison, ObjectIndex(comparison.missed)
            return self._compared

    def differences(self) -> dict[str, Any]:
        """What became of it: the other's ``name``, ``counts`` of each kind, ``scores``, ``how`` they were matched."""
        comparison, _ = self.compared
        counts = dict(zip(KINDS, comparison.counts.tolist(), strict=True))
        return {"name": self.beside[0], "counts": counts, "scores": comparison.scores(), "how": comparison.how}

    def _kinds(self, places: np.ndarray) -> np.ndarray:
        """Of objects their places among :data:`KINDS`; -1 for what was drawn, which is of neither side."""
        kinds = np.append(self.compared[0].kinds, -1)
        return kinds[np.minimum(places, len(kinds) - 1)]

    def _squared(self, features: Features) -> Features:
        """Objects in square px."""
        stretch = tuple(self.tiles.reader.stretch)
        shapes = (features.geometry, features.nuclei)
        if stretch != (1, 1):
            shapes = (shapely.transform(each, lambda xy: xy * stretch[::-1]) for each in shapes)
        return replace(features, **dict(zip(("geometry", "nuclei"), shapes, strict=True)))

    def _mpp(self) -> float | None:
        """Resolution, um per square px; ``None`` where nobody says."""
        reader = self.tiles.reader
        return reader.base_mpp if reader.resolution_source != "assumed" else None

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
            return {
                "name": self.case.name,
                "slide": self.tiles.geometry() | {"mpp": self._mpp()},
                "heat": heat,
                "objects": len(self.written),
                "certain": bool(np.isfinite(self._written_index.certainty).any()),
                "classes": [{"name": name, "colour": list(rgb)} for name, rgb in self.colours.items()],
                "review": review,
                "beside": self.beside and self.beside[0],
                "hot_spot": self._hot_spot(),
                "tissue": self._tissue_width(),
                "notes": notes,
            }

    def _hot_spot(self) -> list[float] | None:
        """``x, y, radius`` in square px of level 0."""
        if self.case.hot_spot is None:
            return None
        (row, col, radius), (down, right) = self.case.hot_spot, self.tiles.reader.stretch
        return [col * right, row * down, radius * min(down, right)]

    def _tissue_width(self) -> float | None:
        """How far :meth:`tissue` reaches, as a share of the slide's width; ``None`` where no run sought it."""
        if self.results is None or self.results.shape is None:
            return None
        scale, width = thumbnail_scale(self.tiles.reader), self.tiles.reader.level0_shape[1]
        return math.ceil(width / scale) * scale / width

    def tissue(self) -> bytes:
        """What a run over slides does not take for tissue, dimmed, and what was never scanned, more so: a PNG.

        Raises:
            IndexError: no run sought tissue here.
            InputError: the slide cannot be read.
        """
        if self._tissue_width() is None:
            raise IndexError("tissue")
        reader = self.tiles.reader
        thumbnail, valid, scale = slide_thumbnail(reader)
        veil = np.zeros((*thumbnail.shape[1:], 4), np.uint8)
        veil[~tissue_mask(thumbnail, scale * reader.base_mpp, valid=valid)] = _GLASS
        if valid is not None:
            veil[~valid] = _UNSCANNED
        return encode_tile(veil, "png")

    def picture(self, number: int | None = None) -> bytes:
        """An object with what is around it, as a JPEG; without a number the whole image, as its run drew it.

        Raises:
            IndexError: there is no such object.
            InputError: the image cannot be read.
        """
        if number is not None:
            self.index.about(number)
            return encode_tile(self.patch(number, _PICTURE))
        drawn = self.case.stem and self.case.stem.with_name(f"{self.case.stem.name}{_OVERLAY}")
        if drawn is not None and drawn.is_file():
            pixels = np.moveaxis(read_field(drawn).image, 0, -1)
            by = min(1.0, _SMALL / max(pixels.shape[:2]))
            size = tuple(max(1, round(side * by)) for side in pixels.shape[1::-1])
            return encode_tile(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
        return self.tiles.tile(len(self.tiles.levels) - 1, 0, 0)

    def window(self, box: tuple[float, float, float, float], px: float, compare: bool = False) -> dict[str, Any]:
        """What is to be drawn of a window, and the class of each object by its place among :attr:`colours`.

        Args:
            box: ``x0, y0, x1, y1`` in square px of level 0.
            px: those per px of the screen.
            compare: with ``kinds``, the place of each object among :data:`KINDS`, and ``missed``, drawn likewise, whose
                ``ids`` are -1 for the first of them, -2 and so on.
        """
        drawn = self._drawn(self.index, box, px)
        if compare:
            for shapes in (drawn["dots"], drawn["rings"]):
                shapes["kinds"] = self._kinds(np.array(shapes["ids"], np.int64))
            drawn["missed"] = missed = self._drawn(self.compared[1], box, px)
            for shapes in (missed["dots"], missed["rings"]):
                shapes["ids"] = [-1 - number for number in shapes["ids"]]
                shapes["kinds"] = [KINDS.index("missed")] * len(shapes["ids"])
        return drawn

    def _drawn(self, index: ObjectIndex, box: tuple[float, float, float, float], px: float) -> dict[str, Any]:
        drawn = index.within(box, px)
        for shapes in (drawn["dots"], drawn["rings"]):
            shapes["classes"] = self._class_numbers(index.features.classes[shapes["ids"]])
        return drawn

    def order(self, by: str, compare: bool = False) -> dict[str, Any]:
        """Objects in an order: their places in the file, certainty, classes.

        Args:
            by: of :data:`ORDERS`; ``diverse`` for what looks least like those before, see :func:`farthest_first`;
                ``differences`` for what only one side has, or has with another class: first what is missed, then what
                is found here alone, the surest first.
            compare: with ``kinds``; see :meth:`window`.
        """
        index = self.index
        places = self._diverse() if by == DIVERSE else index.order("sure" if by == DIFFERENCES else by)
        missed = np.zeros(0, np.int64)
        if by == DIFFERENCES:
            kinds = self._kinds(places)
            places = np.concatenate([places[kinds == KINDS.index(kind)] for kind in ("only", "class")])
            missed = self.compared[1].order("sure")
        objects = [(self.compared[1], missed)] if len(missed) else []
        objects.append((index, places))
        listed = {
            "objects": np.concatenate([-1 - missed, places]),
            "certainty": np.concatenate([each.certainty[these] for each, these in objects]).round(4),
            "classes": self._class_numbers(np.concatenate([each.features.classes[these] for each, these in objects])),
        }
        if compare:
            kinds = np.append(np.full(len(missed), KINDS.index("missed")), self._kinds(places))
            listed["kinds"] = kinds.astype(np.int64)
        return listed

    def _diverse(self) -> np.ndarray:
        """First :attr:`_different`, then all others by certainty."""
        others = self.index.order("doubt")
        return np.concatenate([self._different, others[~np.isin(others, self._different)]])

    @cached_property
    def _different(self) -> np.ndarray:
        """The least certain objects as they were written, each the farthest in looks from those before."""
        near = self._written_index.order("doubt")[:_COMPARED]
        if not len(near):
            return near
        return near[farthest_first(appearance(np.stack([self.patch(place) for place in near])), len(near))]

    def patch(self, place: int, side: int = _PATCH) -> np.ndarray:
        """An object with what is around it, 16 um at least, uint8 ``(side, side, 3)``."""
        low_x, low_y, high_x, high_y = self.index.bounds[place]
        reach = max(_AROUND_UM / (self._mpp() or _USUAL_MPP), high_x - low_x, high_y - low_y)  # square px of level 0
        reader = self.tiles.reader.at(self.tiles.reader.base_mpp * reach / side)
        middle = np.array([low_y + high_y, low_x + high_x]) / 2 / reader.scale
        row, col = np.rint(middle - side / 2).astype(int).tolist()
        return np.moveaxis(reader.read(row, col, side, side), 0, -1)

    def about(self, number: int) -> dict[str, Any]:
        """What is known of an object; of one of those missed, -1 and so on, with its class's name alone.

        Raises:
            IndexError: there is no such object.
        """
        about = self.index.about(number) if number >= 0 else self.compared[1].about(-1 - number)
        return about | {"object": number}

    def at(self, x: float, y: float, reach: float, compare: bool = False) -> dict[str, Any] | None:
        """As :meth:`about`, of the object at a place, see :meth:`ObjectIndex.at`; else of one that is missed there."""
        number = self.index.at(x, y, reach)
        if number is None and compare:
            missed = self.compared[1].at(x, y, reach)
            number = None if missed is None else -1 - missed
        return None if number is None else self.about(number)

    def _class_numbers(self, classes: np.ndarray) -> np.ndarray:
        """Of names their places among :attr:`colours`; -1 for none."""
        number = {name: k for k, name in enumerate(self.colours)}
        return np.array([number.get(name, -1) for name in classes], np.int64)

    def measures(self) -> list[dict[str, Any]]:
        """Of each of :func:`measures_of` its ``name``, ``unit`` and ``values`` by the object, to 6 digits."""
        return [
            {"name": each.name, "unit": each.unit, "values": _rounded(each.values)}
            for each in measures_of(self.index, self._mpp())
        ]

    def decisions(self) -> dict[int, dict[str, Any]]:
        """What was said, by the object; of a point and its outline by both, of what was adopted by -1 and so on."""
        said = self._decisions()
        return {k: asdict(each) for k, each in (said | self._adopted() if self.log else said).items()}

    def _decisions(self) -> dict[int, Decision]:
        if self.log is None:
            return {}
        index, said = self.index, {}
        for decision in sorted(self.log.decisions().values(), key=lambda each: each.number):
            said[int(index.unit[decision.object])] = decision  # of several about one, the last
        parts = index.parts(np.array(list(said), np.int64)).tolist()
        return {k: replace(said[int(index.unit[k])], object=k) for k in parts}

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

    def adopt(self, missed: int, name: str | None = None) -> int:
        """Save an object of the other side that the result lacks, as it is there; its place.

        One that was saved before is not saved again.

        Args:
            missed: its place among those missed.
            name: its class; by default its own, where the result has that, or the only one that there is.

        Raises:
            IndexError: there is no such object.
            InputError: there is nothing to correct, or no class was given for one whose class the result has not.
            OSError: the log cannot be written.
        """
        log, others = self.log, self.compared[0].missed
        if not 0 <= missed < len(others):
            raise IndexError(missed)
        known = [*filter(log.classes.__contains__, (others.classes[missed],)), *log.classes[: len(log.classes) == 1]]
        name = name or next(iter(known), None)
        before = self._adopted().get(-1 - missed)
        if before is None:
            return log.draw(self._missed_shapes[missed], name, reviewer=self.settings.reviewer).object
        if name != before.name:
            log.decide(before.object, "class", name, reviewer=self.settings.reviewer)
        return before.object

    @cached_property
    def _missed_shapes(self) -> np.ndarray:
        """Of what is missed, in px of the file."""
        stretch = np.array(self.tiles.reader.stretch)[::-1]
        return shapely.transform(self.compared[0].missed.geometry, lambda xy: xy / stretch)

    @cached_property
    def _missed_numbers(self) -> dict[bytes, int]:
        """By their geometry: -1 and so on."""
        return {shape: -1 - place for place, shape in enumerate(shapely.to_wkb(self._missed_shapes))}

    def _adopted(self) -> dict[int, Decision]:
        """Of what was missed and is now here, -1 and so on: what was said of it."""
        if self._compared is None:
            return {}
        said, drawn = self.log.decisions(), shapely.to_wkb(self.log.drawn().geometry)
        numbers = self._missed_numbers
        places = {numbers[shape]: place for place, shape in enumerate(drawn, self.log.count) if shape in numbers}
        return {missed: said[place] for missed, place in places.items()}

    def corrected(self) -> Features:
        """The objects as reviewers have corrected them."""
        return reviewed(self.features, self._decisions(), self.colours)

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


def _rounded(values: np.ndarray, digits: int = 6) -> np.ndarray:
    """To so many significant digits, which are fewer to send."""
    with np.errstate(divide="ignore", invalid="ignore"):
        power = 10.0 ** (digits - 1 - np.floor(np.log10(np.abs(values))))
        return np.where(values == 0, 0, np.round(values * power) / power)


class Shelf:
    """The slides of a viewer; those looked at last stay open.

    Args:
        cases: all of them.
        settings: of the viewer.
        beside: other objects of them.
    """

    def __init__(self, cases: Cases, settings: Settings, beside: Beside | None = None) -> None:
        self.cases, self.settings, self.beside = cases, settings, beside
        self._open: OrderedDict[int, Opened] = OrderedDict()
        self._lock = RLock()

    def __getitem__(self, number: int) -> Opened:
        if not 0 <= number < len(self.cases.cases):
            raise IndexError(number)
        with self._lock:
            if number not in self._open:
                path = self.beside and self.beside.objects.get(number)
                beside = path and (self.beside.title, path)
                self._open[number] = Opened(self.cases.cases[number], self.settings, beside)
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
