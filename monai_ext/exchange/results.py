"""What a run found in an image, as the formats of other programs take it: objects as a stream, and their image."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import shapely

from monai_ext.base.colours import RGB, class_colours
from monai_ext.base.errors import InputError
from monai_ext.formats.geojson import Features, geojson_stem, iterate_geojson

__all__ = ["NO_CLASS", "NothingFoundError", "Results", "Survey"]

#: What objects without a class are called where a format asks for one.
NO_CLASS = "object"
_HEATMAP, _PLAN = "_heatmap.ome.tif", "_plan.json"  # what a run's files end with
_REVIEWED = "_reviewed"  # what the name of a reviewer's GeoJSON ends with, before its suffix


class NothingFoundError(InputError):
    """There is nothing that a format could hold, which must not be empty."""


@dataclass(frozen=True)
class Survey:
    """What one pass over all objects tells.

    Attributes:
        count: how many there are.
        classes: their classes, in alphabetical order; those without one are not counted in.
        unclassified: whether any has no class.
        colours: RGB of each class that states one.
        measurements: the names of all measurements, in the order in which they come.
        right: the largest x, px of the file.
        lower: the largest y.
    """

    count: int
    classes: tuple[str, ...]
    unclassified: bool
    colours: Mapping[str, RGB]
    measurements: tuple[str, ...]
    right: float
    lower: float


@dataclass(frozen=True)
class Results:
    """The objects of an image, and what is known of that.

    Args:
        geojson: the objects, in px of the image's file at full resolution.
        name: of the image, in formats that name it.
        image: the image's file, where it is at hand.
        shape: rows and columns of the file, px; None: as far as the objects reach.
        mpp: um per px of the file along rows' and columns' side, thus ``height, width`` of a px; None if unknown.
        heatmap: a map of the image, OME-TIFF whose levels halve; None for none.
        cell: px of the file along the rows' and the columns' side of one of the heat map's.
        classes: names of classes in the order of their numbers in maps, from 1; others follow in alphabetical order.
        colours: RGB of classes, 0 to 255; by default what the GeoJSON states.
        drawn: a person drew the objects; else a program found them.
        checked: a person has looked through what a program found, and corrected it.

    Examples:
        >>> import shapely
        >>> from monai_ext.exchange import Results
        >>> from monai_ext.formats import Features, write_geojson
        >>> cells = Features([shapely.box(0, 0, 3, 2), shapely.box(5, 5, 9, 8)], classes=["Tumor", "Stroma"])
        >>> results = Results(write_geojson(folder / "a.geojson", cells), "a", classes=["Tumor"])
        >>> list(results.legend), results.extent
        (['Tumor', 'Stroma'], (8, 9))
    """

    geojson: Path
    name: str
    image: Path | None = None
    shape: tuple[int, int] | None = None
    mpp: tuple[float, float] | None = None
    heatmap: Path | None = None
    cell: tuple[float, float] = (1.0, 1.0)
    classes: Sequence[str] = ()
    colours: Mapping[str, RGB] = field(default_factory=dict)
    drawn: bool = False
    checked: bool = False

    def batches(self) -> Iterator[Features]:
        """The objects in the file's order, 20,000 at a time."""
        return iterate_geojson(self.geojson)

    def with_plan(self) -> Results:
        """With what a run over slides wrote beside the GeoJSON: its plan's geometry, and the heat map.

        A reviewer's GeoJSON has those of the result that it was made from, and is marked as checked.

        Raises:
            InputError: there is a plan that no run wrote.
        """
        stem = geojson_stem(self.geojson)
        result = stem.removesuffix(_REVIEWED)
        if result != stem and self.geojson.with_name(f"{result}.geojson").is_file():
            return replace(self._with_plan(result), checked=True)
        return self._with_plan(stem)

    def _with_plan(self, stem: str) -> Results:
        plan, heatmap = (self.geojson.with_name(f"{stem}{suffix}") for suffix in (_PLAN, _HEATMAP))
        if not plan.is_file():
            return self
        try:
            stated = json.loads(plan.read_bytes())
            stretch, measured = stated["stretch"], stated["resolution_source"] != "assumed"
            shape = tuple(round(side / long) for side, long in zip(stated["level0_shape"], stretch, strict=True))
            mpp = tuple(stated["base_mpp"] * long for long in stretch) if measured else None
            cell = tuple(stated["scale"] * stated["step"] / long for long in stretch)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(plan, "a plan as a run writes it", f"{type(error).__name__}: {error}") from error
        return replace(self, shape=shape, mpp=mpp, heatmap=heatmap if heatmap.is_file() else None, cell=cell)

    @cached_property
    def survey(self) -> Survey:
        """One pass over all objects."""
        count, corner = 0, np.zeros(2)
        names: set[str | None] = set()
        colours: dict[str, RGB] = {}
        measurements: dict[str, None] = {}
        for features in self.batches():
            count += len(features)
            names |= set(features.classes)
            colours |= features.colors
            measurements |= dict.fromkeys(features.measurements)
            corner = np.fmax(corner, shapely.total_bounds(features.geometry)[2:])
        classes = tuple(sorted(name for name in names if name is not None))
        return Survey(count, classes, None in names, colours, tuple(measurements), *corner.tolist())

    @property
    def legend(self) -> dict[str, RGB]:
        """Classes with their colours; the k-th has number k in maps, from 1."""
        names = list(dict.fromkeys([*self.classes, *self.survey.classes]))
        if self.survey.unclassified and NO_CLASS not in names:
            names.append(NO_CLASS)
        return class_colours(names, {**self.survey.colours, **self.colours})

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns that are covered, px of the file: the image's, or as far as objects reach."""
        if self.shape is not None:
            return self.shape
        return max(1, int(np.ceil(self.survey.lower))), max(1, int(np.ceil(self.survey.right)))
