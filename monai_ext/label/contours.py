"""The objects of a bundle's post-processing, as MONAI Label's clients draw them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import shapely
from monai.utils import convert_to_numpy

from monai_ext.data.geometry import image_resolution
from monai_ext.formats.geojson import Color, Features, join_features
from monai_ext.transforms.diagnose_vessel import HEALTHY_CLASSES, VesselDiagnosis
from monai_ext.transforms.save_detections import detection_features
from monai_ext.transforms.save_evidence import evidence_features

__all__ = ["as_annotation", "found_features", "uncertainty"]

_NUCLEUS = "nucleus"  # a cell without a class
_SURE = ("confidence", "score", "mean_evidence")  # measurements that say how sure an object is
_DIGITS = 2
_POINT = 0


def found_features(data: Mapping[str, Any], image_key: str = "source") -> Features:
    """The objects in an item after a bundle's post-processing, in px of level 0 from the image's corner.

    Args:
        data: with ``diagnosis``, or ``cells``, or ``points`` and ``blobs``, or ``pieces`` and ``evidence``.
        image_key: of the image, a MetaTensor with ``mpp`` and ``scale``.

    Returns:
        Outlines, and for detections their points too; every object has a class.

    Raises:
        KeyError: the item has nothing of the kind.
    """
    if "diagnosis" in data:
        return _vessel_features(data["diagnosis"])
    meta = data[image_key].meta
    resolution = dict(zip(("mpp", "scale"), image_resolution(meta), strict=True))
    if "cells" in data:
        features = data["cells"].features(object_type="annotation")
        names = np.array([name or _NUCLEUS for name in features.classes], dtype=object)
        return Features(features.geometry, names, features.measurements, colors=features.colors)
    if "points" in data:
        return join_features(
            *detection_features(convert_to_numpy(data["points"]), convert_to_numpy(data["blobs"]), **resolution)
        )
    return evidence_features(convert_to_numpy(data["pieces"])[0], convert_to_numpy(data["evidence"])[0], **resolution)


def _vessel_features(diagnosis: VesselDiagnosis) -> Features:
    """A vessel's outline, which is its verdict, and its cells; cancerous ones and patches of invaded vessels only."""
    sure = {"confidence": abs(2 * diagnosis.score - 1)}
    parts = [part for part in diagnosis.features() if diagnosis.invaded or part.classes[0] in HEALTHY_CLASSES]
    return join_features(*(replace(part, measurements=sure) for part in parts))


def as_annotation(
    features: Features,
    location: Sequence[int],
    size: Sequence[int],
    colours: Mapping[str, Color] | None = None,
    min_area: float = 0,
) -> dict[str, Any]:
    """Objects as an annotation of MONAI Label's: contours and points by label, in px of level 0.

    Args:
        features: the objects, each with a class.
        location: ``x, y`` of the region.
        size: ``width, height`` of the region.
        colours: RGB of labels, before the features' own.
        min_area: smaller outlines are left out, px of level 0.

    Returns:
        ``{"location", "size", "elements": [{"label", "contours", "points"}], "labels": {label: RGB}}``. A contour is a
        ring's ``[x, y]``, its first not repeated; holes, which these clients do not know, are left out.
    """
    palette = {**features.colors, **(colours or {})}
    elements: dict[str, dict[str, Any]] = defaultdict(lambda: {"contours": [], "points": []})
    for geometry, label in zip(features.geometry, features.classes, strict=True):
        if shapely.get_type_id(geometry) == _POINT:
            elements[label]["points"].append([round(geometry.x, _DIGITS), round(geometry.y, _DIGITS)])
            continue
        for part in shapely.get_parts(geometry):
            if part.area >= min_area:
                ring = shapely.get_coordinates(part.exterior)[:-1]
                elements[label]["contours"].append(ring.round(_DIGITS).tolist())
    return {
        "location": [int(value) for value in location],
        "size": [int(value) for value in size],
        "elements": [{"label": label, **shapes} for label, shapes in elements.items()],
        "labels": {label: [int(value) for value in palette.get(label, (255, 0, 0))] for label in elements},
    }


def uncertainty(features: Features) -> float:
    """How unsure a network is of an image: the mean of 1 - confidence over what it found; 0 where it found nothing."""
    sure = next((features.measurements[name] for name in _SURE if name in features.measurements), np.ones(0))
    sure = sure[np.isfinite(sure)]
    return float(1 - np.clip(sure, 0, 1).mean()) if len(sure) else 0.0
