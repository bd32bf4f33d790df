"""Size and shape of the instances of a label map, all of them at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from monai_ext.base.errors import InputError

__all__ = ["Shapes", "measure_instances", "simplify_outlines", "solidity"]

# what a border pixel adds to the perimeter by which of its neighbours are border pixels of the same instance: 1 for
# itself, 2 for each beside it, 10 for each across a corner (scikit-image's table, after Benkrid and Crookes)
_STEP = np.zeros(50)
_STEP[[5, 7, 15, 17, 25, 27]] = 1
_STEP[[21, 33]] = np.sqrt(2)
_STEP[[13, 23]] = (1 + np.sqrt(2)) / 2


@dataclass(frozen=True)
class Shapes:
    """Instances in the order of their ids; lengths in px of the map.

    Attributes:
        ids: ``(N,)`` int64.
        centroids: ``(N, 2)`` float64 ``row, col``, whole numbers are pixel centres.
        area: ``(N,)`` float64, px.
        perimeter: ``(N,)`` float64, px, as ``skimage.measure.perimeter`` measures it.
        eccentricity: ``(N,)`` float64 of the ellipse of equal second moments, 0 (circle) to 1 (line).
        mean: ``(N,)`` float64, mean of ``values``; 0 without them.

    Examples:
        >>> from monai_ext.formats import measure_instances
        >>> shapes = measure_instances(np.array([[0, 3, 3], [0, 3, 3]]))
        >>> shapes.ids.tolist(), shapes.centroids.tolist(), shapes.eccentricity.tolist()
        ([3], [[0.5, 1.5]], [0.0])
    """

    ids: np.ndarray
    centroids: np.ndarray
    area: np.ndarray
    perimeter: np.ndarray
    eccentricity: np.ndarray
    mean: np.ndarray


def measure_instances(labels: np.ndarray, values: np.ndarray | None = None) -> Shapes:
    """Measure every instance of a label map in a few passes over its foreground.

    Args:
        labels: ``(H, W)`` integers, 0 is background; ids need not be consecutive, but memory grows with the largest.
        values: ``(H, W)`` to average over each instance, such as a probability.

    Raises:
        InputError: another shape, or negative ids.

    Examples:
        >>> from monai_ext.formats import measure_instances
        >>> labels = np.zeros((6, 8), int)
        >>> labels[1:4, 1:5], labels[5, 7] = 1, 2
        >>> shapes = measure_instances(labels, values=labels / 4)
        >>> shapes.area.tolist(), shapes.centroids.tolist(), shapes.mean.tolist()
        ([12.0, 1.0], [[2.0, 2.5], [5.0, 7.0]], [0.25, 0.5])
    """
    labels = np.asarray(labels)
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or (labels.size and labels.min() < 0):
        raise InputError("instances", "integers (H, W) of at least 0", f"{labels.dtype} {labels.shape}")
    width = labels.shape[1] + 2
    flat = np.pad(labels, 1).reshape(-1)
    pixels = np.flatnonzero(flat)
    ids = flat[pixels]
    area = np.bincount(ids, minlength=1)
    numbers = np.flatnonzero(area)
    count = len(area)

    row, col = np.divmod(pixels, width)
    row, col = row - 1.0, col - 1.0
    total = [np.bincount(ids, weights, count)[numbers] for weights in (row, col, row * row, col * col, row * col)]
    size = area[numbers].astype(np.float64)
    y, x, yy, xx, yx = (part / size for part in total)
    a, b, c = yy - y * y, xx - x * x, yx - y * x  # central second moments
    spread = np.sqrt(((a - b) / 2) ** 2 + c * c)
    longest = (a + b) / 2 + spread
    shape = np.sqrt(np.clip(2 * spread / np.where(longest > 0, longest, 1), 0, 1))
    mean = np.zeros(len(numbers))
    if values is not None:
        inside = np.asarray(values, np.float64).reshape(-1)[(row * labels.shape[1] + col).astype(np.intp)]
        mean = np.bincount(ids, inside, count)[numbers] / size
    perimeter = _perimeters(flat, pixels, ids, width)[numbers]
    return Shapes(numbers, np.stack([y, x], axis=1), size, perimeter, shape, mean)


def _perimeters(flat: np.ndarray, pixels: np.ndarray, ids: np.ndarray, width: int) -> np.ndarray:
    """Perimeter of each id, from a padded map."""
    beside, across = (-1, 1, -width, width), (-width - 1, -width + 1, width - 1, width + 1)
    border = np.zeros(len(pixels), bool)
    for step in beside:
        border |= flat[pixels + step] != ids
    edge, edge_ids = pixels[border], ids[border]
    outline = np.zeros_like(flat)  # of each instance; its own id
    outline[edge] = edge_ids
    kind = np.ones(len(edge), np.intp)
    for steps, weight in ((beside, 2), (across, 10)):
        for step in steps:
            kind += weight * (outline[edge + step] == edge_ids)
    return np.bincount(edge_ids, _STEP[kind], minlength=int(flat.max()) + 1)


def solidity(outlines: np.ndarray) -> np.ndarray:
    """Area of each polygon as a share of its convex hull's, ``(N,)`` in 0 ... 1.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats.measurements import solidity
        >>> square = shapely.box(0, 0, 2, 2)
        >>> solidity(np.array([square, square - shapely.box(1, 1, 2, 2)])).round(3).tolist()
        [1.0, 0.857]
    """
    hull = shapely.area(shapely.convex_hull(outlines))
    return shapely.area(outlines) / np.where(hull > 0, hull, 1)


def simplify_outlines(outlines: np.ndarray, tolerance: float) -> np.ndarray:
    """Leave out corners of polygons: no outline moves further than ``tolerance`` (Douglas and Peucker).

    A polygon that would cross itself, vanish or fall apart stays as it is.

    Args:
        outlines: ``(N,)`` shapely polygons or multipolygons.
        tolerance: in the unit of their coordinates; 0 for none.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats.measurements import simplify_outlines
        >>> outline = shapely.Polygon([(0, 0), (5, 0.1), (10, 0), (10, 10), (0, 10)])
        >>> [simple] = simplify_outlines(np.array([outline]), tolerance=0.5)
        >>> len(outline.exterior.coords), len(simple.exterior.coords)  # the first corner comes again at the end
        (6, 5)
    """
    if not len(outlines) or tolerance <= 0:
        return outlines
    simple = shapely.simplify(outlines, tolerance, preserve_topology=False)
    usable = shapely.is_valid(simple) & ~shapely.is_empty(simple)
    for count in (shapely.get_type_id, shapely.get_num_geometries, shapely.get_num_interior_rings):
        usable &= count(simple) == count(outlines)
    return np.where(usable, simple, outlines)
