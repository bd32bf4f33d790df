"""JSON of HistomicsUI and the Digital Slide Archive: an annotation of large_image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely

from monai_ext.base.colours import RGB
from monai_ext.exchange.results import NO_CLASS, Results
from monai_ext.formats.geojson import Features

__all__ = ["write"]

_NO_COLOUR: RGB = (0, 0, 0)


def write(results: Results, path: Path) -> None:
    """Write the objects as elements of one annotation, as they come.

    Outlines are closed polylines with holes, points points; an object of several parts becomes several elements. The
    class is the element's group and label, measurements are below ``user``.

    Args:
        results: what there is.
        path: the file.
    """
    with path.open("wb") as file:
        about = {"name": results.name, "description": "monai_ext", "attributes": {}}
        file.write(orjson.dumps(about)[:-1] + b',"elements":[')
        first = True
        for features in results.batches():
            for element in _elements(features):
                file.write(b"\n" if first else b",\n")
                file.write(orjson.dumps(element))
                first = False
        file.write(b"\n]}\n")


def _elements(features: Features) -> Iterator[dict[str, Any]]:
    measured = {name: values.tolist() for name, values in features.measurements.items()}
    parts, owner = shapely.get_parts(features.geometry, return_index=True)
    for shape, index in zip(parts, owner.tolist(), strict=True):
        name = features.classes[index]
        red, green, blue = features.colors.get(name, _NO_COLOUR)
        about = {
            "group": NO_CLASS if name is None else name,
            "label": {"value": features.names[index] or (NO_CLASS if name is None else name)},
            "lineColor": f"rgb({red}, {green}, {blue})",
            "user": {key: column[index] for key, column in measured.items() if column[index] == column[index]},
        }
        yield from (drawn | about for drawn in _drawn(shapely.geometry.mapping(shape)))


def _drawn(shape: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A part of an object, which may be a collection's, as elements."""
    kind = shape["type"]
    if kind == "Polygon":
        shell, *holes = (_places(ring[:-1]) for ring in shape["coordinates"])  # closed without the first place again
        yield {"type": "polyline", "closed": True, "points": shell, **({"holes": holes} if holes else {})}
    elif kind == "Point":
        yield {"type": "point", "center": _places([shape["coordinates"]])[0]}
    elif kind == "LineString":
        yield {"type": "polyline", "closed": False, "points": _places(shape["coordinates"])}
    else:
        for part in shapely.get_parts(shapely.geometry.shape(shape)):
            yield from _drawn(shapely.geometry.mapping(part))


def _places(coordinates: Any) -> list[list[float]]:
    xy = np.asarray(coordinates, np.float64)
    return np.column_stack([xy, np.zeros(len(xy))]).tolist()
