"""What can be shown of a slide's objects as numbers: what the file has of each, area and doubt."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import shapely

from monai_ext.view.object_index import ObjectIndex

__all__ = ["Measure", "measures_of"]

_UNIT = re.compile(r"^(.+?)[_ ]\(?(um|\u00b5m|\u03bcm|px)(?:\^?(2)|\u00b2)?\)?$")


@dataclass(frozen=True, eq=False)
class Measure:
    """A number of each object.

    Attributes:
        name: without the unit.
        unit: ``um``, ``um2``, ``px`` or ``px2``; empty for none.
        values: ``(N,)`` float64; NaN where an object has none.
    """

    name: str
    unit: str
    values: np.ndarray


def measures_of(index: ObjectIndex, mpp: float | None = None) -> list[Measure]:
    """What is known of the objects as numbers.

    A detection that is written as a point and an outline counts once, as the point
    (:func:`~monai_ext.formats.roles.units`). Area is that of the outline where the file states none; doubt is what the
    order of the least certain goes by.

    Args:
        index: of the objects.
        mpp: um per square px, for areas.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> from monai_ext.view import ObjectIndex
        >>> from monai_ext.view.measures import measures_of
        >>> cells = Features([shapely.box(0, 0, 8, 8)], measurements={"score": [0.75], "length_um": [4.0]})
        >>> [(each.name, each.unit, each.values.tolist()) for each in measures_of(ObjectIndex(cells), mpp=0.5)]
        [('score', '', [0.75]), ('length', 'um', [4.0]), ('area', 'um2', [16.0]), ('doubt', '', [0.25])]
    """
    whole = (index.unit == np.arange(len(index.unit))) & ~shapely.is_missing(index.geometry)
    found = [_named(name, values) for name, values in index.features.measurements.items()]
    if not any(each.name.lower() == "area" and each.unit == ("um2" if mpp else "px2") for each in found):
        area = shapely.area(index.geometry)
        found.append(Measure("area", "um2" if mpp else "px2", np.where(area > 0, area, np.nan) * (mpp or 1) ** 2))
    if ((index.certainty >= 0) & (index.certainty <= 1) | np.isnan(index.certainty)).all():
        found.append(Measure("doubt", "", 1 - index.certainty))
    found = [Measure(each.name, each.unit, np.where(whole, each.values, np.nan)) for each in found]
    return [each for each in found if np.isfinite(each.values).any()]


def _named(name: str, values: np.ndarray) -> Measure:
    match = _UNIT.match(name)
    if match is None:
        return Measure(name, "", values)
    square = "2" if match[3] or name.rstrip(")").endswith("\u00b2") or match[1].lower() == "area" else ""
    return Measure(match[1], ("px" if match[2] == "px" else "um") + square, values)
