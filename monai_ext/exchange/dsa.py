"""JSON of HistomicsUI and the Digital Slide Archive: an annotation of large_image."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely

from monai_ext.base.colours import RGB
from monai_ext.exchange.results import NO_CLASS, Results
from monai_ext.formats.geojson import Features
from monai_ext.formats.outlines import single_parts

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
                file.write(orjson.dumps(element, option=orjson.OPT_SERIALIZE_NUMPY))
                first = False
        file.write(b"\n]}\n")


def _elements(features: Features) -> Iterator[dict[str, Any]]:
    measured = {name: values.tolist() for name, values in features.measurements.items()}
    shapes, owner = single_parts(features.geometry)
    for drawn, index in zip(_drawn(shapes), owner.tolist(), strict=True):
        name = features.classes[index]
        red, green, blue = features.colors.get(name, _NO_COLOUR)
        yield drawn | {
            "group": NO_CLASS if name is None else name,
            "label": {"value": features.names[index] or (NO_CLASS if name is None else name)},
            "lineColor": f"rgb({red}, {green}, {blue})",
            "user": {key: column[index] for key, column in measured.items() if column[index] == column[index]},
        }


def _drawn(shapes: np.ndarray) -> Iterator[dict[str, Any]]:
    """Polygons, lines and points as elements; the places of polygons are slices of one array."""
    is_polygon = shapely.get_type_id(shapes) == shapely.GeometryType.POLYGON
    rings, spans = [], iter(())
    if is_polygon.any():
        _, xy, (ring_ends, polygon_ends) = shapely.to_ragged_array(shapes[is_polygon], include_z=False)
        places = _places(xy)
        rings = [places[start : end - 1] for start, end in pairwise(ring_ends)]  # closed without the first place again
        spans = pairwise(polygon_ends)
    for shape, flat in zip(shapes, is_polygon, strict=True):
        if flat:
            start, end = next(spans)
            holes = {"holes": rings[start + 1 : end]} if end - start > 1 else {}
            yield {"type": "polyline", "closed": True, "points": rings[start], **holes}
        elif shape.geom_type == "Point":
            yield {"type": "point", "center": _places(shapely.get_coordinates(shape))[0]}
        else:
            yield {"type": "polyline", "closed": False, "points": _places(shapely.get_coordinates(shape))}


def _places(xy: np.ndarray) -> np.ndarray:
    return np.column_stack([xy, np.zeros(len(xy))])
