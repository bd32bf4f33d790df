"""Converter of NuCLS (Amgad et al., GigaScience 2022): breast cancer, nuclei of four classes."""

from __future__ import annotations

import csv
import os
import re
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from monai_ext.base.arrays import load_arrays
from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.formats.outlines import polygons_to_label_map
from monai_ext.prepare.common import remark
from monai_ext.prepare.fields import FieldSource, Truth, prepare_fields, tcga_patient

__all__ = ["prepare_nucls"]

_CLASSES = ("tumor_any", "nonTIL_stromal", "sTIL", "other_nucleus")
_TYPES = ("Non-Tumor", "Tumor")
_IMAGES = ("images", "rgb", "rgbs")
_MPP = 0.2  # the release's fields
_COLUMNS = {"super_classification", "type", "xmin", "ymin", "xmax", "ymax", "coords_x", "coords_y"}
_CIRCLE = 16  # segments in a quarter of an ellipse


def prepare_nucls(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    boxes: bool = True,
    types: bool = False,
    mpp: float | None = None,
    **options: Any,
) -> Path:
    """Convert NuCLS: fields of breast cancer, super-classes tumor_any, nonTIL_stromal, sTIL, other_nucleus.

    Two layouts are known:

    - the release's: ``rgb/<name>.png`` with ``csv/<name>.csv``, a line for each nucleus with ``super_classification``,
      ``type`` and its outline (``polyline``) or box (``rectangle``); 0.2 um/px. ``group`` is the TCGA patient. A
      nucleus of another super-class (``AMBIGUOUS``) has an instance and no class.
    - ``segmentation/train/labels/<name>.npz`` (``inst_map``, ``type_map``) with ``detection/train/labels/<name>.csv``,
      lines ``x,y,class`` (0 to 3) without a header. A nucleus has the class of the point in it; without one it has an
      instance and no class. No slides are named: ``group`` is the image.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        boxes: draw a nucleus that has a box only as the ellipse in it; False leaves it out.
        types: second layout: take the two classes Non-Tumor and Tumor of ``type_map`` instead.
        mpp: um/px; None: 0.2 for the release's layout, unknown for the other.
        options: of :func:`~monai_ext.prepare.fields.prepare_fields`.

    Returns:
        The path of ``dataset.json``.
    """

    def collect(folder: Path, problems: list[str]) -> list[FieldSource]:
        images = {path.stem: path for path in find_files(folder, (".png",), dst) if path.parent.name in _IMAGES}
        tables = {path.stem: path for path in find_files(folder, (".csv",), dst)}
        maps = {path.stem: path for path in find_files(folder, (".npz",), dst)}
        readers: dict[str, partial] = {}
        for name in images:
            if name in maps and (types or name in tables):
                readers[name] = partial(_from_maps, maps[name], None if types else tables[name])
            elif name in maps:
                problems.append(f"{maps[name]}: expected points of this name as CSV (or types=True), found none")
            elif name in tables and not types:
                readers[name] = partial(_from_table, tables[name], boxes)
        if not readers:
            expected = "images/<name>.png with labels/<name>.npz"
            expected = expected if types else f"rgb/<name>.png with csv/<name>.csv, or {expected}"
            problems.append(f"{folder}: expected {expected}, found {len(images)} images, none with labels")
        elif bare := len(images) - len(readers):
            remark(folder, f"{bare} images without labels left out")
        return [
            FieldSource(tcga_patient(name), name, images[name], read, mpp or (None if name in maps else _MPP))
            for name, read in sorted(readers.items())
        ]

    return prepare_fields("nucls", src, dst, collect, _TYPES if types else _CLASSES, **options)


def _from_table(path: Path, boxes: bool, shape: tuple[int, int]) -> Truth:
    outlines, kinds = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file)
            if missing := _COLUMNS - set(lines.fieldnames or ()):
                raise InputError(path, f"columns {', '.join(sorted(_COLUMNS))}", f"no {', '.join(sorted(missing))}")
            for line in lines:
                outline = _outline(line, boxes)
                if outline is not None:
                    outlines.append(outline)
                    kinds.append(_number(line["super_classification"]))
    except UnicodeDecodeError as error:
        raise InputError(path, "CSV text in UTF-8", str(error)) from error
    except (TypeError, ValueError, shapely.errors.ShapelyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}, line {lines.line_num}", "a nucleus with its outline or box", str(error)) from error
    instances = polygons_to_label_map(np.array(outlines, dtype=object), shape)
    return Truth(instances, np.append(0, kinds).astype(np.uint8)[instances])


def _outline(line: Mapping[str, str], boxes: bool) -> shapely.Polygon | None:
    if line["type"] == "polyline":
        xy = np.array([[float(v) for v in line[f"coords_{axis}"].split(",")] for axis in "xy"]).T
        return shapely.Polygon(xy)
    if line["type"] != "rectangle":
        raise ValueError(f"type {line['type']!r}")
    if not boxes:
        return None
    x0, y0, x1, y1 = (float(line[side]) for side in ("xmin", "ymin", "xmax", "ymax"))
    circle = shapely.Point(0, 0).buffer(0.5, quad_segs=_CIRCLE)
    return shapely.transform(circle, lambda xy: xy * (x1 - x0, y1 - y0) + ((x0 + x1) / 2, (y0 + y1) / 2))


def _number(name: str) -> int:
    return _CLASSES.index(name) + 1 if name in _CLASSES else 0


def _from_maps(path: Path, table: Path | None, shape: tuple[int, int]) -> Truth:
    try:
        instances, kinds = load_arrays(path, ("inst_map", "type_map"))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(path, "an NPZ file with inst_map and type_map", str(error).split("\n")[0]) from error
    if instances.shape != shape or kinds.shape != shape:
        raise InputError(path, f"maps of their image's size {shape}", f"{instances.shape} and {kinds.shape}")
    if table is None:
        return Truth(instances, kinds.astype(np.uint8))
    numbers = np.zeros(int(instances.max(initial=0)) + 1, dtype=np.uint8)
    for x, y, kind in _points(table, shape):
        numbers[instances[y, x]] = kind + 1  # of several points in one nucleus the last
    numbers[0] = 0
    return Truth(instances, numbers[instances])


def _points(path: Path, shape: tuple[int, int]) -> list[tuple[int, int, int]]:
    points = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        if not re.fullmatch(r"\d+(\.0*)?,\d+(\.0*)?,[0-3]", line.strip(), re.ASCII):
            raise InputError(f"{path}, line {number}", "x,y,class with a class 0 to 3", repr(line[:60]))
        x, y, kind = (int(float(value)) for value in line.split(","))
        if not (y < shape[0] and x < shape[1]):
            raise InputError(f"{path}, line {number}", f"a point inside {shape[1]} x {shape[0]} px", f"{x},{y}")
        points.append((x, y, kind))
    return points
