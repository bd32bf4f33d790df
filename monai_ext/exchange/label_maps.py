"""Results as maps: the class, or the object, of each px, at the place and the scale of the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_ext.base.colours import RGB
from monai_ext.exchange.results import NO_CLASS, Results
from monai_ext.formats.outlines import paint_polygons

__all__ = ["LabelMap", "class_map", "object_map"]

_MOST = 1 << 28  # px of a map; beyond that its px are 2, 4, ... of the file's


@dataclass(frozen=True)
class LabelMap:
    """A map that begins where its image does.

    Attributes:
        values: ``(H, W)``, 0 is background.
        factor: px of the file along the side of one of the map.
        sides: mm along the rows' and the columns' side of one px of the map, thus ``height, width``; None if unknown.
        legend: name and RGB of the values 1, 2, ...; empty where values are objects.
    """

    values: np.ndarray
    factor: int
    sides: tuple[float, float] | None
    legend: dict[str, RGB]

    @property
    def origin(self) -> tuple[float, float]:
        """Where the centre of the first px lies, ``y, x`` in mm from that of the file's first px."""
        return tuple(side * (self.factor - 1) / (2 * self.factor) for side in self.sides)


def class_map(results: Results) -> LabelMap:
    """Draw the class of each object: the numbers of :attr:`Results.legend`; uint8, or uint16 for more than 255.

    A px is an object's when its centre is inside. Objects overlap as in the file, later ones in front, but among 20,000
    that come together smaller ones. Points and lines have no area, and leave no px. A map has at most 2**28 px.

    Examples:
        >>> import shapely
        >>> from monai_ext.exchange import Results
        >>> from monai_ext.exchange.label_maps import class_map
        >>> from monai_ext.formats import Features, write_geojson
        >>> path = write_geojson(folder / "a.geojson", Features([shapely.box(1, 0, 3, 1)], classes="Tumor"))
        >>> class_map(Results(path, "a", shape=(2, 4))).values.tolist()
        [[0, 1, 1, 0], [0, 0, 0, 0]]
    """
    legend = results.legend
    number = {name: k for k, name in enumerate(legend, 1)}
    drawn = _empty(results, np.uint8 if len(legend) < 1 << 8 else np.uint16, legend)
    for features in results.batches():
        values = np.array([number[NO_CLASS if name is None else name] for name in features.classes], drawn.values.dtype)
        paint_polygons(drawn.values, features.geometry, values, scale=drawn.factor)
    return drawn


def object_map(results: Results) -> LabelMap:
    """Draw each object with its place in the file, from 1, uint32; see :func:`class_map`."""
    drawn, first = _empty(results, np.uint32, {}), 1
    for features in results.batches():
        paint_polygons(drawn.values, features.geometry, np.arange(first, first + len(features)), scale=drawn.factor)
        first += len(features)
    return drawn


def _empty(results: Results, dtype: type, legend: dict[str, RGB]) -> LabelMap:
    rows, cols = results.extent
    factor = 1
    while -(-rows // factor) * -(-cols // factor) > _MOST:
        factor *= 2
    values = np.zeros((-(-rows // factor), -(-cols // factor)), dtype)
    sides = results.mpp and tuple(factor * side / 1000 for side in results.mpp)
    return LabelMap(values, factor, sides, legend)
