"""Point labels on disk, in the formats that they come in.

Points are ``row, col`` in pixels of the image, counted from 0; a whole number is the centre of a pixel. QuPath counts
from that pixel's corner instead; :mod:`monai_ext.formats.geojson` converts.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from monai_ext.base.dicom_heads import taken_as_dicom
from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.formats.geojson import is_geojson
from monai_ext.formats.image import is_mask, read_mask
from monai_ext.formats.points import as_points
from monai_ext.formats.roles import read_objects

__all__ = ["read_points", "write_points"]

_GZIP = b"\x1f\x8b"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)


def read_points(
    path: str | os.PathLike,
    xy: bool = False,
    classes: Sequence[str] | None = None,
    split_parts: bool = False,
    slide: str | os.PathLike | None = None,
) -> np.ndarray:
    """Read points from a CSV, JSON or QuPath GeoJSON file, or from a mask of the figures.

    - ``.csv``: ``row,col`` without a header (AMIDA13, TUPAC16), or with a header that names ``row,col`` (or ``y,x``) in
      any order. Further columns are ignored. An empty file means that there are no points.
    - ``.json``: a list of ``[row, col]`` or of ``{"row": .., "col": ..}``, or GeoJSON.
    - ``.geojson``: points and multipoints as they are, the centroid of anything with an area. Regions around objects
      (:func:`~monai_ext.formats.roles.split_roles`) are none. Both kinds of JSON may end in ``.gz``.
    - ``.png``, ``.tif``, ``.tiff``, ``.bmp``: an instance map (MONAI Label's annotations are such), the centroid of
      each number; or a mask, whose only number is 1 or 255, the centroid of each piece.

    Args:
        path: the file.
        classes: names of the GeoJSON classifications to keep; ``None`` keeps every object. Other formats have none.
        xy: the columns of a CSV without a header are ``x,y`` (col,row), as in MITOS-ATYPIA 2014.
        split_parts: of GeoJSON, every part of a MultiPolygon is an object of its own.
        slide: the image that they are of; see :func:`~monai_ext.formats.annotation_files.read_features`.

    Returns:
        ``(N, 2)`` float32, rows ``row, col`` in pixels; whole numbers are pixel centres, also for GeoJSON.

    Raises:
        InputError: when there is no such file or it holds something else; the message names the line where it can.

    Examples:
        >>> from monai_ext.formats import read_points
        >>> options = {"fmt": "%d", "delimiter": ",", "comments": ""}
        >>> np.savetxt(folder / "mitoses.csv", [[5, 2], [40, 31]], header="x,y", **options)
        >>> read_points(folder / "mitoses.csv").tolist()
        [[2.0, 5.0], [31.0, 40.0]]
    """
    path = Path(path)
    kind = path.suffix.lower()
    if is_mask(path):
        return _centroids(path)
    if taken_as_dicom(path):
        objects = read_objects(path, split=split_parts, areas=False, slide=slide).objects
        return objects.of_classes(classes).points().astype(np.float32)
    if kind != ".csv" and not is_geojson(path):
        raise InputError(path, "points in a .csv, .json or .geojson file", repr(path.suffix or "no suffix"))
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(path, "a readable file of points", error.strerror or type(error).__name__) from error
    if kind == ".csv":
        return _read_csv(data, path, (1, 0) if xy else (0, 1))
    if data[:2] == _GZIP:
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(path, "a complete gzip file", str(error)) from error
    plain = path.name.lower().endswith((".json", ".json.gz"))
    read = partial(_read_geojson, classes=classes, split_parts=split_parts)
    return _read_json(data, path, read) if plain else read(data, path)


def _centroids(path: Path) -> np.ndarray:
    from skimage.measure import label, regionprops_table

    mask = read_mask(path)
    table = regionprops_table(
        label(mask) if mask.max(initial=0) in (1, 255) and len(np.unique(mask)) <= 2 else mask, properties=("centroid",)
    )
    return np.column_stack([table["centroid-0"], table["centroid-1"]]).astype(np.float32)


def write_points(path: str | os.PathLike, points: Any) -> Path:
    """Write points as CSV with the header ``row,col``; the file appears whole or not at all.

    Args:
        path: the file to write; folders are made as needed.
        points: ``(N, 2)`` numbers ``row, col``.

    Returns:
        The path.

    Examples:
        >>> from monai_ext.formats import write_points
        >>> write_points(folder / "mitoses.csv", [[2, 5], [31.5, 40]]).read_text().split()
        ['row,col', '2,5', '31.5,40']
    """
    path = Path(path)
    rows = [[np.format_float_positional(number, trim="-") for number in point] for point in as_points(points, path)]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{row},{col}\n" for row, col in [("row", "col"), *rows]))
    return path


def _read_csv(data: bytes, path: Path, columns: tuple[int, int]) -> np.ndarray:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(path, "CSV text in UTF-8", f"byte {data[error.start]:#04x} at {error.start}") from error
    lines = csv.reader(io.StringIO(text, newline=""))
    points: list[list[float]] = []
    first = True
    try:
        for line in lines:
            cells = [cell.strip() for cell in line]
            if not any(cells):
                continue
            header = _header(cells) if first else None
            first = False
            if header is None:
                points.append(_point(cells, columns))
            else:
                columns = header
    except (csv.Error, ValueError) as error:
        where = f"{path}, line {lines.line_num}"
        raise InputError(where, "two numbers row,col, or a header that names row,col (or y,x)", str(error)) from error
    return as_points(points, path)


def _header(cells: list[str]) -> tuple[int, int] | None:
    """Where a header has row and col; None if the line is no such header."""
    names = [cell.lower() for cell in cells]
    for row, col in (("row", "col"), ("y", "x")):
        if names.count(row) == names.count(col) == 1:
            return names.index(row), names.index(col)
    return None


def _point(cells: list[str], columns: tuple[int, int]) -> list[float]:
    chosen = [cells[column] for column in columns if column < len(cells)]
    # float() would also take nan, 1_000 and figures of other scripts
    if len(chosen) < 2 or not all(_NUMBER.fullmatch(cell) for cell in chosen):
        raise ValueError(repr(",".join(cells))[:80])
    return [float(cell) for cell in chosen]


def _read_json(data: bytes, path: Path, read: Callable[[bytes, Path], np.ndarray]) -> np.ndarray:
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InputError(path, "JSON", str(error)) from error
    if isinstance(content, dict) or (isinstance(content, list) and content and _is_feature(content[0])):
        return read(data, path)
    if isinstance(content, list) and content and all(isinstance(item, dict) for item in content):
        content = [[item.get("row"), item.get("col")] for item in content]
    return as_points(content, path)


def _is_feature(item: Any) -> bool:
    return isinstance(item, dict) and "type" in item


def _read_geojson(data: bytes, path: Path, classes: Sequence[str] | None, split_parts: bool) -> np.ndarray:
    objects = read_objects(path, areas=False, split=split_parts, data=data).objects
    return objects.of_classes(classes).points()
