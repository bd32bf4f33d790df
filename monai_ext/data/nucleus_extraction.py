"""From segmented nuclei and annotations to patches with labels: the paper's preprocessing 2 (section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import pandas as pd
import shapely

from monai_ext.base.errors import InputError
from monai_ext.data.nuclei import BACKGROUND, crop_patches
from monai_ext.formats.geojson import Features, class_numbers, to_rowcol, to_xy
from monai_ext.formats.outlines import instance_centroids, label_map_to_polygons, valid_geometry

__all__ = ["extract_nuclei", "nucleus_labels"]

_REGION = 0.1  # IoU with a nucleus; an area with a lower one was drawn around several

_POINTS = (0, 4)  # shapely's type numbers of points and multipoints
_AREAS = (3, 6, 7)


def extract_nuclei(
    image: np.ndarray,
    instances: np.ndarray,
    annotations: Mapping[str, Features | np.ndarray],
    class_names: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    size: int = 32,
    scales: Sequence[int] = (1,),
) -> tuple[np.ndarray, pd.DataFrame]:
    """Cut out a patch around each nucleus and look up its class in each annotation.

    The paper has patches of 32 px at full resolution, and of 16 px at 1, 1/2 and 1/4.

    Args:
        image: uint8 ``(3, H, W)`` RGB, at full resolution.
        instances: ``(H, W)`` integers, 0 is background: the nuclei.
        annotations: by the name of their quality (``wsa``, ``ssa``, ``ea``), GeoJSON features in pixels of the image or
            a class map; see :func:`nucleus_labels`.
        class_names: the classes, or ``{class: names of it in the annotations}``.
        size: side of the patches in pixels.
        scales: 1, 2 and 4 for patches at full, half and quarter resolution, each of ``size`` pixels.

    Returns:
        Patches uint8 ``(N, size, size, 3)``, zero beyond the image's border, and their table ``row``, ``col`` (px at
        full resolution), ``scale``, and a column of labels for each annotation: what
        :func:`~monai_ext.data.nuclei.write_nuclei` takes. Nuclei come in the order of their numbers, all at one scale
        after the other.

    Raises:
        InputError: images and maps of different sizes, or scales that are none.
    """
    image = np.moveaxis(image, 0, -1)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError("image", "uint8 (3, H, W)", f"{image.dtype} {np.moveaxis(image, -1, 0).shape}")
    if instances.shape != image.shape[:2]:
        raise InputError("instances", f"the image's size {image.shape[:2]}", str(instances.shape))
    if not scales or not set(scales) <= {1, 2, 4}:
        raise InputError("scales", "some of 1, 2 and 4", repr(tuple(scales)))
    _, centres = instance_centroids(instances)
    labels = {name: nucleus_labels(instances, annotation, class_names) for name, annotation in annotations.items()}
    patches, tables = [], []
    for scale in scales:
        coarse = image if scale == 1 else _reduce(image, scale)
        patches.append(crop_patches(coarse, (centres + 0.5) / scale - 0.5, size))
        tables.append(pd.DataFrame({"row": centres[:, 0], "col": centres[:, 1], "scale": scale, **labels}))
    return np.concatenate(patches), pd.concat(tables, ignore_index=True)


def nucleus_labels(
    instances: np.ndarray,
    annotation: Features | np.ndarray,
    class_names: Sequence[str] | Mapping[str, Sequence[str]],
) -> np.ndarray:
    """The class of each nucleus: that of the annotation which covers it.

    An area covers a nucleus when the nucleus' centroid is in it or on its outline. Of several, the one most like the
    nucleus counts, by IoU: a cell before the region around it, however much of the nucleus it leaves out; of equals the
    smallest, then the first in the file. A nucleus that no area covers, or only one of ten times its size, has the
    class of a point in it, the first in the file. Of a class map the class with most of the nucleus' pixels counts, if
    half of them or more have any.

    Args:
        instances: ``(H, W)`` integers, 0 is background.
        annotation: features, ``x, y`` in pixels of the map (:func:`~monai_ext.formats.geojson.to_xy`), or a class map
            ``(H, W)``, 0 for none, k for the k-th class.
        class_names: the classes, or ``{class: names of it in the annotation}``.

    Returns:
        ``(N,)`` text in the order of the instances' numbers: a class, ``background`` where nothing covers the nucleus,
        or empty where what covers it has no class or none of these.

    Raises:
        InputError: a class map of another size, or with other numbers.
    """
    names = list(class_names)
    if isinstance(annotation, Features):
        numbers = class_numbers(annotation, class_names)
        texts = np.array([*names, "", BACKGROUND], dtype=object)
        return texts[_covering(instances, annotation, np.where(numbers < 0, len(names), numbers))]
    if annotation.shape != instances.shape:
        raise InputError("class map", f"the size of the instance map {instances.shape}", str(annotation.shape))
    if annotation.min(initial=0) < 0 or annotation.max(initial=0) > len(names):
        expected = f"numbers 0 to {len(names)} for {', '.join(names)}"
        raise InputError("class map", expected, f"{annotation.min()} to {annotation.max()}")
    rows, cols = np.nonzero(instances)
    values, index = np.unique(instances[rows, cols], return_inverse=True)
    width = len(names) + 1
    count = np.bincount(index * width + annotation[rows, cols], minlength=len(values) * width).reshape(-1, width)
    majority = np.where(2 * count[:, 0] > count.sum(axis=1), 0, count[:, 1:].argmax(axis=1) + 1)
    return np.array([BACKGROUND, *names], dtype=object)[majority]


def _covering(instances: np.ndarray, features: Features, labels: np.ndarray) -> np.ndarray:
    """The label of the feature that covers each nucleus, -1 where none does."""
    values, centres = instance_centroids(instances)
    assigned = np.full(len(values), -1, dtype=np.int64)
    if not len(values) or not len(features):
        return assigned
    _label_by_points(instances, values, features, labels, assigned)
    areas = np.flatnonzero(np.isin(shapely.get_type_id(features.geometry), _AREAS))
    geometry = valid_geometry(features.geometry[areas])
    nucleus, area = shapely.STRtree(geometry).query(shapely.points(to_xy(centres)), predicate="intersects")
    several = np.bincount(nucleus, minlength=len(values)) + (assigned >= 0) > 1
    iou = np.ones(len(nucleus))
    contested = several[nucleus]
    if contested.any():
        outlines = np.empty(len(values), dtype=object)
        table = np.append(0, np.where(several, values, 0))
        outlines[several] = label_map_to_polygons(table[_ranks(instances, values)])[1]
        iou[contested] = _ious(outlines[nucleus[contested]], geometry[area[contested]])
    best = np.lexsort((-area, -shapely.area(geometry)[area], iou, nucleus))  # the last of each nucleus
    last = best[np.append(np.diff(nucleus[best]) > 0, True)] if len(best) else best
    last = last[(assigned[nucleus[last]] < 0) | (iou[last] >= _REGION)]
    assigned[nucleus[last]] = labels[areas[area[last]]]
    return assigned


def _ious(nuclei: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """The IoU ``(N,)`` of each nucleus with an annotation."""
    shapely.prepare(areas)
    shared = shapely.area(nuclei)
    cut = ~shapely.contains_properly(areas, nuclei)  # what lies wholly inside is found much faster
    shared[cut] = shapely.area(shapely.intersection(nuclei[cut], areas[cut]))
    union = shapely.area(nuclei) + shapely.area(areas) - shared
    return (shared / union).round(9)  # what rounding made differ are equals


def _label_by_points(
    instances: np.ndarray, values: np.ndarray, features: Features, labels: np.ndarray, assigned: np.ndarray
) -> None:
    points = np.flatnonzero(np.isin(shapely.get_type_id(features.geometry), _POINTS))
    xy, owner = shapely.get_coordinates(features.geometry[points], return_index=True)
    rows, cols = np.floor(to_rowcol(xy) + 0.5).astype(np.int64).T
    inside = (rows >= 0) & (cols >= 0) & (rows < instances.shape[0]) & (cols < instances.shape[1])
    value, label = instances[rows[inside], cols[inside]], labels[points[owner[inside]]]
    hit = value > 0
    # numpy keeps the last of several: so the first in the file goes last
    assigned[np.searchsorted(values, value[hit][::-1])] = label[hit][::-1]


def _ranks(instances: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The map with instances numbered from 1 without gaps."""
    ranks = np.zeros(int(values[-1]) + 1, dtype=np.int64)
    ranks[values] = np.arange(1, len(values) + 1)
    return ranks[instances]


def _reduce(image: np.ndarray, scale: int) -> np.ndarray:
    """The mean over squares of ``scale`` pixels; the last ones are filled up with zeros, as patches are."""
    missing = [(0, -side % scale) for side in image.shape[:2]]
    padded = np.pad(image, [*missing, (0, 0)])
    return cv2.resize(padded, None, fx=1 / scale, fy=1 / scale, interpolation=cv2.INTER_AREA)
