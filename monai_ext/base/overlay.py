"""Detections, instances and heat maps drawn on the tissue they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from monai.config import NdarrayOrTensor
from monai.utils import convert_to_numpy

from monai_ext.base.colours import COLOURS, PALETTE, RGB, to_rgb
from monai_ext.base.errors import InputError

__all__ = ["overlay"]

_HALO: RGB = (20, 20, 20)  # a dark edge under each circle: yellow is lost on white glass otherwise


def overlay(
    image: NdarrayOrTensor,
    *,
    points: NdarrayOrTensor | Sequence | None = None,
    labels: NdarrayOrTensor | None = None,
    heat: NdarrayOrTensor | None = None,
    classes: Sequence[str] | None = None,
    colours: Mapping[str, RGB] | None = None,
    radius: int = 25,
    thickness: int | None = None,
    heat_alpha: float = 0.6,
    channel_dim: int | None = None,
) -> np.ndarray:
    """Draw a heat map, instance contours and circled points on an image, in this order.

    ``classes[i]`` is the class of point ``i`` and of instance ``i + 1``, as in what ``BlobDetections`` returns. The
    classes ``TP``, ``FP`` and ``FN`` are green, yellow and blue as in the SegMitos paper's figures; others take the
    colours of a palette in alphabetical order. Without classes everything is green.

    Args:
        image: see :func:`to_rgb`.
        points: ``(N, 2 or more)``: row, col in px, further columns are ignored.
        labels: integer map ``(H, W)`` or ``(1, H, W)``, 0 is background; each instance is outlined inside its border.
        heat: map ``(h, w)`` or ``(1, h, w)`` in [0, 1] of any resolution, stretched over the image; 0 leaves the tissue
            as it is.
        classes: class names.
        colours: RGB in 0 ... 255 by class name, in place of the default colours.
        radius: radius of the circles in px.
        thickness: width of the lines in px; by default it grows with the image, up to a fifth of the radius.
        heat_alpha: opacity of a heat of 1.
        channel_dim: see :func:`to_rgb`.

    Returns:
        uint8 RGB ``(H, W, 3)``.

    Raises:
        InputError: when a shape does not fit the image or a class is missing.
    """
    canvas = to_rgb(image, channel_dim)
    # on a large field the lines grow, but never so far that a circle hides what it points at
    thickness = thickness or max(2, min(round(max(canvas.shape) / 400), radius // 5))
    colour_of = _colours(classes, colours)
    if heat is not None:
        canvas = _blend(canvas, _plane(heat, "heat"), heat_alpha)
    if labels is not None:
        _outline(canvas, _plane(labels, "labels"), colour_of, thickness)
    if points is not None:
        _circle(canvas, convert_to_numpy(points, wrap_sequence=True), colour_of, (radius, thickness))
    return canvas


def _plane(values: NdarrayOrTensor, name: str) -> np.ndarray:
    plane = convert_to_numpy(values)
    plane = plane[0] if plane.ndim == 3 and plane.shape[0] == 1 else plane
    if plane.ndim != 2 or plane.size == 0:
        raise InputError(name, "shape (H, W) or (1, H, W)", str(tuple(values.shape)))
    return plane


def _colours(classes: Sequence[str] | None, colours: Mapping[str, RGB] | None) -> np.ndarray | RGB:
    """One RGB row for each class entry, or the one colour of everything."""
    if classes is None:
        return PALETTE[0]
    colour_by_class: dict[str, Any] = {**COLOURS, **(colours or {})}
    for i, name in enumerate(sorted(set(classes) - set(colour_by_class))):
        colour_by_class[name] = PALETTE[i % len(PALETTE)]
    return np.array([colour_by_class[name] for name in classes], np.uint8).reshape(-1, 3)


def _blend(canvas: np.ndarray, heat: np.ndarray, alpha: float) -> np.ndarray:
    height, width = canvas.shape[:2]
    heat = np.clip(np.nan_to_num(cv2.resize(heat.astype(np.float32), (width, height))), 0, 1)
    hot = cv2.applyColorMap(np.rint(heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    weight = alpha * heat[..., None]
    return np.rint(canvas * (1 - weight) + hot * weight).astype(np.uint8)


def _outline(canvas: np.ndarray, labels: np.ndarray, colour_of: np.ndarray | RGB, thickness: int) -> None:
    if labels.shape != canvas.shape[:2]:
        raise InputError("labels", f"the image's shape {canvas.shape[:2]}", str(labels.shape))
    ids = labels.astype(np.float32)  # OpenCV's morphology takes no int32; exact up to 2**24 instances
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thickness + 1,) * 2)
    edge = (ids > 0) & (cv2.dilate(ids, disk) != cv2.erode(ids, disk))
    if isinstance(colour_of, tuple):
        canvas[edge] = colour_of
        return
    instance = labels[edge].astype(np.int64) - 1
    if instance.size and instance.max() >= len(colour_of):
        raise InputError("classes", f"one for each of {instance.max() + 1} instances", str(len(colour_of)))
    canvas[edge] = colour_of[instance]


def _circle(canvas: np.ndarray, points: np.ndarray, colour_of: np.ndarray | RGB, size: tuple[int, int]) -> None:
    if points.size and (points.ndim != 2 or points.shape[1] < 2):
        raise InputError("points", "shape (N, 2 or more): row, col", str(points.shape))
    if not isinstance(colour_of, tuple) and len(points) > len(colour_of):
        raise InputError("classes", f"one for each of {len(points)} points", str(len(colour_of)))
    radius, thickness = size
    drawn = np.broadcast_to(colour_of, (len(points), 3)) if isinstance(colour_of, tuple) else colour_of
    for (row, col), colour in zip(np.rint(points[:, :2]).astype(int) if points.size else [], drawn, strict=False):
        centre = (int(col), int(row))
        cv2.circle(canvas, centre, radius, _HALO, thickness + 2, cv2.LINE_AA)
        cv2.circle(canvas, centre, radius, tuple(map(int, colour)), thickness, cv2.LINE_AA)
