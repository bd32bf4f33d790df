"""Templates of cells from points on an image or from crops, and a picture of what they find."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from monai_ext.base.colours import class_colours
from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path, write_png
from monai_ext.base.flags import as_flag
from monai_ext.base.overlay import overlay
from monai_ext.data.templates import LEAST_SIDE, Templates, check_template, read_templates
from monai_ext.formats.image import SUFFIXES, Field, read_field
from monai_ext.formats.point_files import read_points
from monai_ext.formats.points import points_outside
from monai_ext.formats.suffixes import without_suffix
from monai_ext.transforms.kcf import KCFPseudoMask

__all__ = ["choose_templates", "cut_templates"]

_ZOOM = 96  # px: side of a template in the preview


def cut_templates(image: np.ndarray, points: np.ndarray, size: int, where: str | os.PathLike = "points") -> Templates:
    """Crops about points of an image.

    Args:
        image: uint8 ``(3, H, W)``.
        points: ``(N, 2)`` row, column of typical cells, px; a whole number is a pixel's centre.
        size: side of the crops, px: about the diameter of a cell.
        where: the file of the points, for errors.

    Returns:
        ``template_00`` and so on: uint8 ``(3, size, size)``.

    Raises:
        InputError: no points, or a crop that reaches over the image's border or shows one colour.
    """
    if not len(points):
        raise InputError(where, "points on typical cells", "none")
    first = np.rint(points - (size - 1) / 2).astype(int)
    limit = np.array(image.shape[1:]) - size
    outside = ((first < 0) | (first > limit)).any(axis=1)
    if outside.any():
        row, col = points[outside][0]
        expected = f"points whose {size} x {size} px lie inside {image.shape[1]} x {image.shape[2]} px"
        raise InputError(where, expected, f"{int(outside.sum())} that do not, the first at row {row:g}, col {col:g}")
    templates = {
        f"template_{number:02d}": image[:, row : row + size, col : col + size].copy()
        for number, (row, col) in enumerate(first)
    }
    for (name, template), (row, col) in zip(templates.items(), points, strict=True):
        check_template(template, f"{where}, {name} at row {row:g}, col {col:g}")
    return templates


def choose_templates(
    dst: str | os.PathLike,
    *,
    image: str | os.PathLike | None = None,
    points: str | os.PathLike | None = None,
    size: int | None = None,
    crops: str | os.PathLike | None = None,
    classes: Sequence[str] | str | None = None,
    show: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    mpp: float | None = None,
    target_mpp: float | None = None,
    split_parts: bool = False,
    overwrite: bool = False,
    **filter_options: float,
) -> Path:
    """Make a folder of templates, from points on an image or from crops, and show what they find.

    ``dst`` takes the crops as PNG. Below it, ``preview/<image>.png`` shows the cells found in each image, circled in
    the colours of the templates that found them, beside the templates and how many each found; ``preview/found.csv``
    lists them (``image,template,row,col,response``, px of the picture).

    Args:
        dst: the folder to write.
        image: the image that the points lie on.
        points: GeoJSON (QuPath) or CSV of typical cells, in pixels of the image's file.
        size: side of the crops, px at ``target_mpp``: about the diameter of a cell.
        crops: a folder of crops, in place of ``image``, ``points`` and ``size``.
        classes: names of the GeoJSON classifications that count; by default all objects.
        show: images to find cells in; by default ``image``.
        mpp: um/px of the files, in place of what they state.
        target_mpp: um/px to work at, that of the vessels to come.
        split_parts: of GeoJSON, every part of a MultiPolygon is a cell of its own.
        overwrite: replace the templates that are in ``dst`` already.
        filter_options: further arguments of :class:`~monai_ext.transforms.KCFPseudoMask`.

    Returns:
        ``dst``.

    Raises:
        InputError: crops and points at once or neither, a file that cannot serve, or a folder that is in use.
    """
    dst, cut = Path(dst), (image, points, size)
    if (crops is None) == (None in cut) or (crops is not None and any(value is not None for value in cut)):
        raise InputError("templates", "--image, --points and --size, or --crops", "both, or not all of them")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < LEAST_SIDE):
        raise InputError("size", f"a whole number of px from {LEAST_SIDE}", repr(size))
    old = [path for path in dst.glob("*") if path.suffix.lower() in SUFFIXES]
    if old and not as_flag(overwrite, "overwrite"):
        raise InputError(dst, "no templates there yet (--overwrite replaces them)", f"{len(old)}")
    if crops is not None:
        templates = read_templates(crops)
    else:
        field = read_field(image, mpp, target_mpp)
        classes = [classes] if isinstance(classes, str) else classes
        split_parts = as_flag(split_parts, "split_parts")
        cells = read_points(points, classes=classes, split_parts=split_parts, slide=image)
        templates = _from_points(field, cells.astype(np.float64), size, points)
    find = KCFPseudoMask(templates, **filter_options)
    images = [show] if isinstance(show, (str, os.PathLike)) else show or [image]
    pictures = {Path(path): read_field(path, mpp, target_mpp).image for path in images if path is not None}
    detections = {path: find.points(picture).numpy() for path, picture in pictures.items()}
    for path in old:
        path.unlink()
    for name, template in templates.items():
        write_png(dst / f"{name}.png", np.moveaxis(template, 0, -1))
    for path, picture in pictures.items():
        write_png(
            dst / "preview" / f"{without_suffix(path).name}.png",
            _preview(picture, templates, detections[path], find.cell_size),
        )
    _write_detections(dst / "preview" / "found.csv", list(templates), detections)
    return dst


def _from_points(field: Field, points: np.ndarray, size: int, path: str | os.PathLike) -> Templates:
    shape = field.file_shape
    if outside := points_outside(points, shape):
        raise InputError(path, f"points inside the image ({shape[0]} x {shape[1]} px)", outside)
    return cut_templates(field.image, (points + 0.5) / np.asarray(field.file_scale) - 0.5, size, path)


def _preview(
    image: np.ndarray, templates: Mapping[str, np.ndarray], detections: np.ndarray, cell_size: float
) -> np.ndarray:
    """``(H, W, 3)``: the image with the detections, and the templates below each other on its left."""
    names = list(templates)
    colours = class_colours(names)
    numbers = detections[:, 3].astype(int)
    circled = overlay(
        image,
        points=detections[:, :2],
        classes=[names[number] for number in numbers],
        colours=colours,
        radius=max(2, round(cell_size / 2)),
        thickness=1,
        channel_dim=0,
    )
    counts = np.bincount(numbers, minlength=len(names))
    columns = -(-len(names) * (_ZOOM + 24) // max(circled.shape[0], _ZOOM + 24))
    rows = -(-len(names) // columns)
    legend = np.full((rows * (_ZOOM + 24), columns * (_ZOOM + 8), 3), 255, np.uint8)
    for number, name in enumerate(names):
        top, left = number // columns * (_ZOOM + 24), number % columns * (_ZOOM + 8)
        picture = cv2.resize(np.moveaxis(templates[name], 0, -1), (_ZOOM, _ZOOM), interpolation=cv2.INTER_CUBIC)
        legend[top : top + _ZOOM, left : left + _ZOOM] = cv2.copyMakeBorder(
            picture[3:-3, 3:-3], 3, 3, 3, 3, cv2.BORDER_CONSTANT, value=colours[name]
        )
        text = f"{name[-8:]}: {counts[number]}"
        cv2.putText(legend, text, (left, top + _ZOOM + 14), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    height = max(len(legend), len(circled))
    parts = [np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255) for p in (legend, circled)]
    return np.concatenate(parts, axis=1)


def _write_detections(path: Path, names: Sequence[str], detections: Mapping[Path, np.ndarray]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["image", "template", "row", "col", "response"])
        for image, points in detections.items():
            lines.writerows([image.name, names[int(n)], f"{r:g}", f"{c:g}", f"{s:.4f}"] for r, c, s, n in points)
