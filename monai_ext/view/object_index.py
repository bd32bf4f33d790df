"""Objects of a slide by where they lie and how certain they are."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import shapely

from monai_ext.base.errors import InputError
from monai_ext.formats.geojson import Features, join_features
from monai_ext.formats.roles import units

__all__ = ["ORDERS", "ObjectIndex"]

#: Orders in which objects can be gone through.
ORDERS = ("doubt", "sure", "file", "random")
_SURE = ("confidence", "score", "mean_score", "mean_evidence", "probability", "nucleus_probability")
_POINT, _LINE, _RING, _POLYGON = range(4)  # shapely's type numbers
_SMALL = 2.0  # px of the screen: what is smaller is drawn as a dot


class ObjectIndex:
    """Finds objects in a window, simplified for the scale that they are drawn at.

    Args:
        features: in px of the file.
        stretch: square px along the rows' and the columns' side of one of the file's; places here are in square ones.

    Attributes:
        features: as given.
        geometry: ``(N,)`` in square px of level 0.
        certainty: ``(N,)`` how sure each is, by the first measurement that says so; NaN where none does.
        unit: ``(N,)`` the object that each belongs to: of a detection that a run wrote as a point and an outline, both
            of one class and as certain, the point; else itself. Orders and places give these alone.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.view import ObjectIndex
        >>> cells = Features([shapely.box(0, 0, 8, 8), shapely.box(90, 90, 99, 99)], measurements={"score": [0.9, 0.6]})
        >>> index = ObjectIndex(cells)
        >>> index.order("doubt").tolist(), index.at(95, 95)
        ([1, 0], 1)
        >>> index.within((0, 0, 50, 50), px=1.0)["rings"]["ids"]
        [0]
    """

    def __init__(self, features: Features, stretch: Sequence[float] = (1, 1)) -> None:
        self.features, self._stretch = features, tuple(stretch)
        self.geometry = features.geometry
        if tuple(stretch) != (1, 1):
            self.geometry = shapely.transform(features.geometry, lambda xy: xy * tuple(stretch)[::-1])
        self._trees = [shapely.STRtree(self.geometry)]
        self.bounds = shapely.bounds(self.geometry).reshape(-1, 4)
        self.certainty = np.full(len(features), np.nan)
        for name in _SURE:
            values = features.measurements.get(name)
            if values is not None:
                self.certainty = np.where(np.isnan(self.certainty), values, self.certainty)
        unit, places = units(self.geometry), np.arange(len(features))
        alike = (features.classes == features.classes[unit]) & (self.certainty == self.certainty[unit])
        self.unit = np.where(alike, unit, places)  # else an outline is a region that somebody drew around a point
        # where not all can be drawn, those that are stay the same while one moves
        self._rank = np.random.default_rng(0).permutation(len(features))

    def with_more(self, features: Features) -> ObjectIndex:
        """The same with a few more objects after its own, which are drawn before all others; some may be missing."""
        more, joined = ObjectIndex(features, self._stretch), copy(self)
        joined.features = join_features(self.features, features)
        for name in ("geometry", "bounds", "certainty"):
            setattr(joined, name, np.concatenate([getattr(self, name), getattr(more, name)]))
        joined.unit = np.concatenate([self.unit, np.arange(len(features)) + len(self.unit)])
        joined._rank = np.concatenate([self._rank, np.full(len(features), -1)])
        joined._trees = [*self._trees, *more._trees]
        return joined

    def _query(self, *args: Any, **options: Any) -> np.ndarray:
        """Places of the objects that a tree finds, in their order."""
        first = np.cumsum([0, *map(len, self._trees)])
        found = [tree.query(*args, **options) + start for tree, start in zip(self._trees, first, strict=False)]
        return np.sort(np.concatenate(found))

    def order(self, by: str) -> np.ndarray:
        """All objects that there are, by their places in the file.

        Args:
            by: of :data:`ORDERS`: the least certain first, the surest first, as in the file, or shuffled, always alike.
                Where the file has no number for how certain an object is, it comes last.

        Raises:
            InputError: another order.
        """
        if by not in ORDERS:
            raise InputError("order", " or ".join(ORDERS), repr(by))
        if by == "file":
            places = np.arange(len(self.certainty))
        elif by == "random":
            places = np.argsort(np.where(self._rank < 0, len(self._rank), self._rank), kind="stable")
        else:
            places = np.argsort(self.certainty if by == "doubt" else -self.certainty, kind="stable")
        return places[~shapely.is_missing(self.geometry[places]) & (self.unit[places] == places)]

    def within(self, box: tuple[float, float, float, float], px: float, most: int = 20_000) -> dict[str, Any]:
        """What is to be drawn of a window.

        Args:
            box: ``x0, y0, x1, y1`` in square px of level 0.
            px: those per px of the screen: outlines keep to half a px of it, what is smaller than two is a dot.
            most: so many objects are given, the same ones wherever the window lies.

        Returns:
            ``total`` that meet the window's box, ``shown`` of them; ``dots`` with ``ids`` and ``xy``; ``rings`` with
            ``ids`` (one for each ring), ``ends`` (how many points there are up to its end) and ``xy``, flat.
        """
        found = self._query(shapely.box(*box))
        total = len(found)
        if total > most:
            found = np.sort(found[np.argpartition(self._rank[found], most)[:most]])
        bounds = self.bounds[found]
        small = (bounds[:, 2:] - bounds[:, :2]).max(axis=1, initial=0) < _SMALL * px
        parts, owner = shapely.get_parts(self.geometry[found[~small]], return_index=True)
        while (shapely.get_type_id(parts) > _POLYGON).any():  # collections hold collections
            parts, of_part = shapely.get_parts(parts, return_index=True)
            owner = owner[of_part]
        kind = shapely.get_type_id(parts)
        is_line = (kind == _LINE) | (kind == _RING)
        rings, of_ring = shapely.get_rings(parts[kind == _POLYGON], return_index=True)
        rings = shapely.simplify(np.concatenate([rings, parts[is_line]]), px / 2, preserve_topology=True)
        ids = found[~small][np.concatenate([owner[kind == _POLYGON][of_ring], owner[is_line]])]
        points = shapely.get_coordinates(parts[kind == _POINT])
        dots = np.concatenate([(bounds[small, :2] + bounds[small, 2:]) / 2, points])
        return {
            "total": total,
            "shown": len(found),
            "dots": {
                "ids": np.concatenate([found[small], found[~small][owner[kind == _POINT]]]).tolist(),
                "xy": dots.round(2).ravel().tolist(),
            },
            "rings": {
                "ids": ids.tolist(),
                "ends": np.cumsum(shapely.get_num_coordinates(rings)).tolist(),
                "xy": shapely.get_coordinates(rings).round(2).ravel().tolist(),
            },
        }

    def at(self, x: float, y: float, reach: float = 0.0) -> int | None:
        """The object at a place, the smallest of several; else the nearest within ``reach``; else ``None``.

        Args:
            x: square px of level 0, as ``y`` and ``reach``.
            y: from the top.
            reach: how far off it may be.
        """
        place = shapely.Point(x, y)
        near = self._query(place, predicate="dwithin", distance=max(reach, 0.0))
        if not len(near):
            return None
        distance, size = shapely.distance(self.geometry[near], place), shapely.area(self.geometry[near])
        beside = (distance > 0) & (size > 0)  # a point near the pointer wins over the region that both lie in
        return int(self.unit[near[np.lexsort((distance, size, beside))[0]]])

    def parts(self, objects: np.ndarray) -> np.ndarray:
        """All that belongs to some objects, by their places in the file."""
        return np.flatnonzero(np.isin(self.unit, objects))

    def about(self, number: int) -> dict[str, Any]:
        """What is known of an object.

        Returns:
            ``object`` (its place in the file), ``type``, ``name``, ``class``, ``certainty``, ``measurements``,
            ``bounds`` and ``centre`` in square px of level 0.

        Raises:
            IndexError: there is no such object.
        """
        if not 0 <= number < len(self.features) or self.geometry[number] is None:
            raise IndexError(number)
        low_x, low_y, high_x, high_y = bounds = self.bounds[number].tolist()
        measured = {name: float(values[number]) for name, values in self.features.measurements.items()}
        sure = float(self.certainty[number])
        return {
            "object": number,
            "type": self.features.object_types[number],
            "name": self.features.names[number],
            "class": self.features.classes[number],
            "certainty": None if np.isnan(sure) else sure,
            "measurements": {name: value for name, value in measured.items() if np.isfinite(value)},
            "bounds": bounds,
            "centre": [(low_x + high_x) / 2, (low_y + high_y) / 2],
        }
