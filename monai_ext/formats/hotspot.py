"""Where mitoses are most frequent: the count in 2 mm2 (ten high-power fields) that grading uses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from scipy.spatial import cKDTree

from monai_ext.base.errors import InputError

__all__ = ["HotSpot", "hot_spot", "mitosis_summary"]

_SLACK = 1e-9  # relative; a point on the circle counts in spite of rounding


@dataclass(frozen=True)
class HotSpot:
    """The circle with the most mitoses.

    Attributes:
        row: centre, px.
        col: centre, px.
        radius: px; None where the whole field was counted.
        count: mitoses inside or on the circle.
        area_mm2: the circle's area, or the field's where that is smaller.
        density_per_mm2: ``count / area_mm2``.
        whole_field: whether the field is smaller than the area asked for, so that all of it was counted.

    Examples:
        >>> from monai_ext.formats import hot_spot
        >>> spot = hot_spot(np.array([[10, 10]]), shape=(1000, 1000), mpp=0.25)  # smaller than 2 mm2
        >>> spot.whole_field, round(spot.area_mm2, 4), round(spot.density_per_mm2, 2)
        (True, 0.0625, 16.0)
    """

    row: float
    col: float
    radius: float | None
    count: int
    area_mm2: float
    density_per_mm2: float
    whole_field: bool


def hot_spot(
    points: np.ndarray, shape: tuple[int, int], mpp: float, area_mm2: float = 2.0, field_mm2: float | None = None
) -> HotSpot:
    """Find the circle of a given area that holds the most points, exactly.

    Some best circle has a point on its edge, so the circles through each point are swept by angle: every other point
    within reach covers an arc of them. Points are taken in the order of how many lie within a diameter of them, which
    bounds what a circle through them can hold; the sweep ends where the bound falls to the best count found. The circle
    reported is centred on the smallest one around those points. It may hang over the field's edge; what lies outside
    the field counts as free of mitoses.

    Args:
        points: ``(N, 2 or more)`` rows ``row, col`` in px; further columns are ignored.
        shape: ``H, W`` of the field in px.
        mpp: um per px.
        area_mm2: the circle's area.
        field_mm2: area of the field, by default that of ``shape``; less where some of it was never scanned.

    Returns:
        The circle; the whole field where that is no larger than ``area_mm2``. Without points, a circle at the field's
        centre.

    Raises:
        InputError: when the resolution, the area or the points cannot be used.

    Examples:
        >>> from monai_ext.formats import hot_spot
        >>> mitoses = np.array([[100, 100], [120, 140], [7900, 7900]])
        >>> spot = hot_spot(mitoses, shape=(8000, 8000), mpp=0.25)
        >>> spot.count, spot.density_per_mm2
        (2, 1.0)
        >>> round(spot.row), round(spot.col)
        (110, 120)
    """
    if not (mpp > 0 and area_mm2 > 0):
        raise InputError("hot_spot", "a positive mpp and area_mm2", f"mpp {mpp}, area_mm2 {area_mm2}")
    points = np.asarray(points, dtype=np.float64)
    points = points.reshape(-1, 2) if points.size == 0 else points[:, :2]
    if not np.isfinite(points).all():
        raise InputError("hot_spot", "finite points", "NaN or infinity")
    middle = ((shape[0] - 1) / 2, (shape[1] - 1) / 2)
    field_mm2 = shape[0] * shape[1] * mpp**2 * 1e-6 if field_mm2 is None else field_mm2
    if field_mm2 <= area_mm2:
        return HotSpot(
            *middle, None, len(points), field_mm2, len(points) / field_mm2 if field_mm2 else 0.0, whole_field=True
        )
    radius = math.sqrt(area_mm2 * 1e6 / math.pi) / mpp
    row, col = _densest_centre(points, radius) if len(points) else middle
    reach = radius * (1 + _SLACK)
    count = int((np.hypot(points[:, 0] - row, points[:, 1] - col) <= reach).sum())
    return HotSpot(row, col, radius, count, area_mm2, count / area_mm2, whole_field=False)


def mitosis_summary(
    points: np.ndarray,
    shape: tuple[int, int],
    mpp: float | None,
    tissue_mm2: float | None = None,
    field_mm2: float | None = None,
) -> dict[str, Any]:
    """What a pathologist reads first, as one row of a table.

    Args:
        points: ``(N, 2 or more)`` rows ``row, col`` in px.
        shape: ``H, W`` of the field in px.
        mpp: um per px; None or 0 if unknown: everything but the count is then None.
        tissue_mm2: area of the tissue; by default that of the field.
        field_mm2: area of the field; by default that of ``shape``.

    Returns:
        ``count, area_mm2, density_per_mm2`` and ``hotspot_row, hotspot_col, hotspot_radius`` (px), ``hotspot_count,
        hotspot_area_mm2, hotspot_density_per_mm2, hotspot_whole_field`` (see :class:`HotSpot`).

    Examples:
        >>> from monai_ext.formats import mitosis_summary
        >>> mitoses = np.array([[100, 100], [120, 140], [7900, 7900]])
        >>> row = mitosis_summary(mitoses, shape=(8000, 8000), mpp=0.25)
        >>> row["count"], round(row["density_per_mm2"], 3), row["hotspot_count"]
        (3, 0.75, 2)
    """
    names = list(HotSpot.__dataclass_fields__)
    if not mpp:
        unknown = dict.fromkeys(("area_mm2", "density_per_mm2", *(f"hotspot_{name}" for name in names)))
        return {"count": len(points), **unknown}
    if field_mm2 is None:
        field_mm2 = shape[0] * shape[1] * mpp**2 * 1e-6
    area = tissue_mm2 or field_mm2
    spot = hot_spot(points, shape, mpp, field_mm2=field_mm2)
    return {
        "count": len(points),
        "area_mm2": area,
        "density_per_mm2": len(points) / area if area else None,
        **{f"hotspot_{name}": getattr(spot, name) for name in names},
    }


def _densest_centre(points: np.ndarray, radius: float) -> tuple[float, float]:
    """Centre of the smallest circle around a largest set of points that one circle of this radius can hold."""
    tree = cKDTree(points)
    around = tree.query_ball_point(points, radius, return_length=True)
    first = int(np.argmax(around))
    centre, best = points[first], int(around[first])
    bound = tree.query_ball_point(points, 2 * radius * (1 + _SLACK), return_length=True)
    for i in np.argsort(-bound, kind="stable"):
        if bound[i] <= best:
            break
        offset = points[tree.query_ball_point(points[i], 2 * radius * (1 + _SLACK))] - points[i]
        count, angle = _sweep(offset, radius)
        if count > best:
            best, centre = count, points[i] + radius * np.array([math.sin(angle), math.cos(angle)])
    inside = np.unique(points[tree.query_ball_point(centre, radius * (1 + _SLACK))], axis=0)
    if len(inside) == 1:  # shapely has no circle around a single point
        return float(inside[0, 0]), float(inside[0, 1])
    smallest = shapely.centroid(shapely.minimum_bounding_circle(shapely.multipoints(inside)))
    return float(shapely.get_x(smallest)), float(shapely.get_y(smallest))


def _sweep(offset: np.ndarray, radius: float) -> tuple[int, float]:
    """Most points in a circle through the origin, and the direction of its centre; offsets include the origin's own."""
    distance = np.hypot(offset[:, 0], offset[:, 1])
    away = distance > 0
    towards = np.arctan2(offset[away, 0], offset[away, 1])
    half = np.arccos(np.minimum(distance[away] / (2 * radius), 1)) + _SLACK
    begin = np.mod(towards - half, 2 * math.pi)
    end = begin + 2 * half
    begins = np.sort(begin)
    ends = np.sort(end)
    # how many arcs are open where each begins, those that run on from one turn before among them
    opened = np.arange(1, len(begins) + 1) - np.searchsorted(ends, begins)
    opened += len(begins) - np.searchsorted(ends, begins + 2 * math.pi)
    same = len(offset) - int(away.sum())
    if not len(begins):
        return same, 0.0
    densest = int(np.argmax(opened))
    return same + int(opened[densest]), float(begins[densest])
