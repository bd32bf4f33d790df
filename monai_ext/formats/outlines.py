"""From pixels to polygons and back, exactly: an outline runs along the edges of its pixels."""

from __future__ import annotations

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import label as connected_parts

from monai_ext.formats.resolution import Scale

__all__ = [
    "instance_centroids",
    "label_map_to_polygons",
    "paint_polygons",
    "polygons_to_label_map",
    "polygons_to_mask",
    "single_parts",
    "valid_areas",
    "valid_geometry",
]

_AT_ONCE = 1 << 22  # pixels that are drawn at once
# the edges around a pixel, clockwise: going east along its top, south, west, north; the pixel lies to the right
_STEP = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])  # d row, d col
_BEHIND = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # from a pixel to its neighbour across the edge
_BEGIN = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])  # the corner at which an edge begins


def instance_centroids(instances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a map's instances in ascending order, and their centroids.

    Args:
        instances: ``(H, W)`` integers, 0 is background.

    Returns:
        ``(N,)`` numbers and float64 ``(N, 2)`` ``row, col``.

    Examples:
        >>> from monai_ext.formats.outlines import instance_centroids
        >>> numbers, centroids = instance_centroids(np.array([[0, 5, 5], [0, 0, 0], [2, 0, 0]]))
        >>> numbers.tolist(), centroids.tolist()
        ([2, 5], [[2.0, 0.0], [0.0, 1.5]])
    """
    rows, cols = np.nonzero(instances)
    values = instances[rows, cols]
    if values.max(initial=0) <= instances.size:  # as nearly always: no need to sort
        count = np.bincount(values)
        values = np.flatnonzero(count)
        sums = [np.bincount(instances[rows, cols], coordinate)[values] for coordinate in (rows, cols)]
        return values, np.stack(sums, axis=1) / count[values, None]
    values, index, count = np.unique(values, return_inverse=True, return_counts=True)
    return values, np.stack([np.bincount(index, coordinate) for coordinate in (rows, cols)], axis=1) / count[:, None]


def label_map_to_polygons(
    labels: np.ndarray, offset: tuple[float, float] = (0, 0), scale: Scale = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Outline each instance of a label map exactly, along the edges of its pixels.

    Args:
        labels: ``(H, W)`` integers, 0 is background.
        offset: ``row, col`` of the map's upper left corner in level-0 pixels.
        scale: level-0 pixels per pixel of the map; ``row, col`` where they differ.

    Returns:
        The ``(N,)`` labels in ascending order and their ``(N,)`` valid shapely polygons with holes (multipolygons
        where an instance is in several parts), ``x, y`` in level-0 pixels. :func:`polygons_to_mask` gives the same
        pixels back.

    Examples:
        >>> from monai_ext.formats import label_map_to_polygons
        >>> labels, polygons = label_map_to_polygons(np.array([[0, 7, 7], [0, 7, 7]]))
        >>> labels.tolist(), polygons[0].bounds, polygons[0].area
        ([7], (1.0, 0.0, 3.0, 2.0), 4.0)
    """
    labels = np.asarray(labels)
    # Each part of a label is a polygon of its own. Within a part, pixels that meet at a corner only are joined there:
    # the one choice by which no ring touches itself.
    parts = np.pad(connected_parts(labels, background=0, connectivity=1), 1)
    if not parts.any():
        return np.zeros(0, dtype=labels.dtype), np.zeros(0, dtype=object)
    pixel, direction, following = _edges(parts)
    walk, ring = _walk(following)
    pixel, direction = pixel[walk], direction[walk]
    first = np.flatnonzero(np.diff(ring, prepend=-1))
    before = np.arange(len(ring)) - 1
    before[first] = np.append(first[1:], len(ring)) - 1
    corner = direction != direction[before]
    begin = pixel + _BEGIN[direction] - 1
    # twice the area left of the y axis that an edge sweeps; positive in sum for shells, negative for holes
    swept = np.add.reduceat(begin[:, 1] * _STEP[direction, 0], first)
    ring_part = parts[tuple(pixel[first].T)]
    order = np.lexsort((swept < 0, ring_part))  # each part's shell, then its holes
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))

    corners = np.flatnonzero(corner)
    corners = corners[np.argsort(rank[ring[corners]], kind="stable")]
    xy = (begin[corners] * np.asarray(scale, dtype=np.float64) + offset)[:, ::-1]
    rings = shapely.linearrings(xy, indices=rank[ring[corners]])
    polygons = shapely.polygons(rings, indices=ring_part[order] - 1)
    shells = pixel[first[order]][np.diff(ring_part[order], prepend=0) > 0] - 1
    return _merge_parts(labels[tuple(shells.T)], polygons)


def polygons_to_mask(
    geometry: np.ndarray, shape: tuple[int, int], offset: tuple[float, float] = (0, 0), scale: Scale = 1
) -> np.ndarray:
    """Draw polygons: a pixel is covered when its centre is inside.

    A centre exactly on an outline counts at the polygon's left and upper sides only, so that polygons side by side
    share no pixel and leave none between them. Exact for holes and overlaps; self-crossing outlines are made valid.

    Args:
        geometry: shapely geometries, ``x, y`` in level-0 pixels; points and lines cover nothing.
        shape: ``H, W`` of the mask.
        offset: ``row, col`` of the mask's upper left corner in level-0 pixels.
        scale: level-0 pixels per pixel of the mask; ``row, col`` where they differ.

    Returns:
        ``(H, W)`` bool.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import polygons_to_mask
        >>> polygons_to_mask(np.array([shapely.box(1, 0, 3, 2)]), shape=(3, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    height, width = shape
    polygons, _ = _valid_polygons(geometry)
    if not len(polygons):
        return np.zeros(shape, dtype=bool)
    _, rows, cols, turn = _crossings(polygons, shape, offset, scale)
    change = np.bincount(rows * (width + 1) + cols, turn, minlength=height * (width + 1))
    # each polygon that covers a pixel turns around it once
    return np.cumsum(change.reshape(height, width + 1)[:, :width], axis=1) < -0.5


def polygons_to_label_map(
    geometry: np.ndarray, shape: tuple[int, int], offset: tuple[float, float] = (0, 0), scale: Scale = 1
) -> np.ndarray:
    """Draw each object with its own number, by the rule of :func:`polygons_to_mask`.

    Where objects overlap the smaller one is seen, so that none vanishes under a larger one.

    Args:
        geometry: ``(N,)`` shapely geometries, ``x, y`` in level-0 pixels; points and lines cover nothing.
        shape: ``H, W`` of the map.
        offset: ``row, col`` of the map's upper left corner in level-0 pixels.
        scale: level-0 pixels per pixel of the map; ``row, col`` where they differ.

    Returns:
        ``(H, W)`` int32: ``k + 1`` where the ``k``-th object is, 0 elsewhere.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import polygons_to_label_map
        >>> large, small = shapely.box(0, 0, 4, 2), shapely.box(1, 0, 2, 1)
        >>> polygons_to_label_map(np.array([large, small]), shape=(2, 4)).tolist()
        [[1, 2, 1, 1], [1, 1, 1, 1]]
    """
    labels = np.zeros(shape, dtype=np.int32)
    paint_polygons(labels, geometry, np.arange(1, len(geometry) + 1), offset, scale)
    return labels


def paint_polygons(
    labels: np.ndarray,
    geometry: np.ndarray,
    numbers: np.ndarray,
    offset: tuple[float, float] = (0, 0),
    scale: Scale = 1,
) -> None:
    """Draw objects into a map that is there, by the rules of :func:`polygons_to_label_map`.

    Args:
        labels: ``(H, W)``, changed where the objects are.
        geometry: ``(N,)`` shapely geometries, ``x, y`` in level-0 pixels; points and lines cover nothing.
        numbers: ``(N,)``, what each is drawn with.
        offset: ``row, col`` of the map's upper left corner in level-0 pixels.
        scale: level-0 pixels per pixel of the map; ``row, col`` where they differ.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats.outlines import paint_polygons
        >>> labels = np.full((2, 4), 9, np.uint8)
        >>> paint_polygons(labels, np.array([shapely.box(1, 0, 3, 1)]), np.array([5]))
        >>> labels.tolist()
        [[9, 5, 5, 9], [9, 9, 9, 9]]
    """
    polygons, owner = _valid_polygons(geometry)
    if not len(polygons):
        return
    area = np.bincount(owner, shapely.area(polygons), minlength=len(geometry))
    order = np.lexsort((owner, -area[owner]))
    polygons, owner = polygons[order], owner[order]
    number, rows, cols, _ = _crossings(polygons, labels.shape, offset, scale)
    # along a row of a polygon its outline is crossed inwards and outwards by turns
    order = np.lexsort((cols, rows, number))
    number, rows, start, stop = number[order][::2], rows[order][::2], cols[order][::2], cols[order][1::2]
    values, length = np.asarray(numbers)[owner[number]], stop - start
    ends = np.cumsum(length)
    begins = ends - length
    first = 0
    while first < len(length):  # so many pixels at once, however large the objects are
        last = max(first + 1, int(np.searchsorted(ends, begins[first] + _AT_ONCE, side="right")))
        part = slice(first, last)
        span = np.repeat(np.arange(first, last), length[part])
        place = np.arange(len(span)) - np.repeat(
            ends[part] - length[part] - (ends[first] - length[first]), length[part]
        )
        # where several are, numpy keeps the last
        labels[rows[span], start[span] + place] = values[span]
        first = last


def _crossings(
    polygons: np.ndarray, shape: tuple[int, int], offset: tuple[float, float], scale: Scale
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Where outlines cross the lines through the pixels' centres.

    Returns:
        Of each crossing: the polygon, the row, the first column whose centre lies behind it (0 to W), and which way the
        outline turns there, -1 where it is entered from the left.
    """
    height, width = shape
    _, xy, (ring_ends, polygon_ends) = shapely.to_ragged_array(polygons)
    # in units of the mask's pixels, whole numbers being pixel centres
    col, row = ((xy - offset[::-1]) / np.broadcast_to(scale, 2)[::-1] - 0.5).T
    start = np.delete(np.arange(len(xy)), ring_ends[1:] - 1)  # rings are closed: their last point starts no edge
    row0, row1, col0, col1 = row[start], row[start + 1], col[start], col[start + 1]
    edge_ring = np.repeat(np.arange(len(ring_ends) - 1), np.diff(ring_ends) - 1)
    ring_polygon = np.repeat(np.arange(len(polygon_ends) - 1), np.diff(polygon_ends))
    # shells shall run one way and holes the other, whichever way they were drawn
    area = np.bincount(edge_ring, col0 * row1 - col1 * row0)
    shell = np.zeros(len(area), dtype=bool)
    shell[polygon_ends[:-1]] = True
    turn = np.where((area > 0) == shell, 1, -1)[edge_ring] * np.sign(row1 - row0).astype(np.int64)

    # the rows whose centres an edge crosses, half open so that a corner is crossed once
    low = np.clip(np.ceil(np.minimum(row0, row1)), 0, height).astype(np.int64)
    high = np.clip(np.ceil(np.maximum(row0, row1)), 0, height).astype(np.int64)
    count = np.maximum(high - low, 0)
    edge = np.repeat(np.arange(len(count)), count)
    rows = low[edge] + np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    cross = col0[edge] + (rows - row0[edge]) * ((col1 - col0)[edge] / (row1 - row0)[edge])
    cols = np.clip(np.ceil(cross), 0, width).astype(np.int64)
    return ring_polygon[edge_ring[edge]], rows, cols, turn[edge]


def _edges(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The edges between parts: the pixel ``(E, 2)`` each belongs to, its direction, and the edge that follows it."""
    width = parts.shape[1]
    flat = parts.reshape(-1)
    foreground = np.flatnonzero(flat)  # none on the map's rim
    number = flat[foreground]
    step, behind = (turn[:, 0] * width + turn[:, 1] for turn in (_STEP, _BEHIND))
    keys = [
        foreground[flat[foreground + back] != number] * 4 + direction for direction, back in enumerate(behind.tolist())
    ]
    key = np.sort(np.concatenate(keys), kind="stable")  # four sorted runs: to be merged only
    pixel, direction = key >> 2, key & 3
    number, ahead = flat[pixel], pixel + step[direction]
    left = ahead + behind[direction]
    turn_left = flat[left] == number
    straight = ~turn_left & (flat[ahead] == number)
    next_pixel = np.where(turn_left, left, np.where(straight, ahead, pixel))
    next_direction = (direction + np.where(turn_left, 3, np.where(straight, 0, 1))) & 3
    following = np.searchsorted(key, next_pixel * 4 + next_direction)
    return np.column_stack(np.divmod(pixel, width)), direction, following


def _walk(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put edges in the order of their rings: the edges' order, and the number of the ring at each place."""
    edges = np.arange(len(following))
    _, ring = connected_components(coo_array((np.ones(len(edges), dtype=bool), (edges, following))), directed=False)
    last = np.unique(ring, return_index=True)[1]
    # the distance to a ring's last edge, by jumps that double
    jump = following.copy()
    jump[last] = last
    distance = (jump != edges).astype(np.int64)
    while (jump[jump] != jump).any():
        distance += distance[jump]
        jump = jump[jump]
    walk = np.lexsort((-distance, ring))
    return walk, ring[walk]


def _merge_parts(values: np.ndarray, polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(values, kind="stable")
    labels, index, count = np.unique(values[order], return_inverse=True, return_counts=True)
    polygons = polygons[order]
    merged = polygons[np.cumsum(count) - count]
    several = count > 1
    if several.any():
        merged[several] = shapely.multipolygons(
            polygons[several[index]], indices=np.repeat(np.arange(several.sum()), count[several])
        )
    return labels, merged


def valid_geometry(geometry: np.ndarray) -> np.ndarray:
    """Geometries ``(N,)`` as they are where they are valid, else made valid: outlines that cross themselves, say.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats.outlines import valid_geometry
        >>> bow_tie = shapely.Polygon([(0, 0), (2, 2), (2, 0), (0, 2)])
        >>> [valid] = valid_geometry([bow_tie])
        >>> bow_tie.is_valid, valid.is_valid, valid.area
        (False, True, 2.0)
    """
    geometry = np.asarray(geometry, dtype=object)
    crossing = ~shapely.is_valid(geometry) & ~shapely.is_missing(geometry)
    if not crossing.any():
        return geometry
    geometry = geometry.copy()
    geometry[crossing] = shapely.make_valid(geometry[crossing])
    return geometry


def valid_areas(geometry: np.ndarray) -> np.ndarray:
    """Geometries ``(N,)`` made valid, without the lines and points of those collections that have an area.

    Such collections come from files, and from the repair of outlines.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats.outlines import valid_areas
        >>> pair = shapely.GeometryCollection([shapely.box(0, 0, 2, 2), shapely.Point(99, 99)])
        >>> [shape.bounds for shape in valid_areas([pair, shapely.Point(3, 3)])]
        [(0.0, 0.0, 2.0, 2.0), (3.0, 3.0, 3.0, 3.0)]
    """
    geometry = valid_geometry(geometry)
    mixed = (shapely.get_type_id(geometry) == shapely.GeometryType.GEOMETRYCOLLECTION) & (shapely.area(geometry) > 0)
    if not mixed.any():
        return geometry
    geometry, number = geometry.copy(), np.flatnonzero(mixed)
    polygons, owner = _valid_polygons(geometry[mixed])
    # areas of one collection may overlap
    geometry[number] = [shapely.union_all(polygons[owner == index]) for index in range(len(number))]
    return geometry


def _valid_polygons(geometry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The valid polygons that geometries consist of, and the index of the geometry that each is a part of."""
    geometry, owner = single_parts(valid_geometry(geometry))
    polygons = (shapely.get_type_id(geometry) == 3) & ~shapely.is_empty(geometry)
    return geometry[polygons], owner[polygons]


def single_parts(geometry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points, lines and polygons that geometries consist of, and the index of the geometry that each is a part of.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats.outlines import single_parts
        >>> pair = shapely.GeometryCollection([shapely.MultiPoint([(1, 2), (3, 4)]), shapely.box(0, 0, 1, 1)])
        >>> parts, owner = single_parts(np.array([shapely.Point(5, 6), pair]))
        >>> [part.geom_type for part in parts], owner.tolist()
        (['Point', 'Point', 'Point', 'Polygon'], [0, 1, 1, 1])
    """
    owner = np.arange(len(geometry))
    while (shapely.get_type_id(geometry) > shapely.GeometryType.POLYGON).any():  # a part of a collection may be one
        geometry, part_of = shapely.get_parts(geometry, return_index=True)
        owner = owner[part_of]
    return geometry, owner
