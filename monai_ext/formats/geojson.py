"""QuPath GeoJSON: read, write, and exchange with pixels.

QuPath writes ``x, y`` in pixels of a slide's level 0, counted from the image's upper left corner: its first pixel
covers ``[0, 1) x [0, 1)``. Our arrays count whole pixels, ``row, col``, so the centre of pixel ``(r, c)`` is at
``x = c + 0.5, y = r + 0.5``. :func:`to_xy` and :func:`to_rowcol` are the only places that convert, also from and to a
coarser level or a tile. Where a file's pixels are oblong, ``scale`` is a pair ``row, col``.
"""

from __future__ import annotations

import codecs
import io
import json
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import orjson
import shapely
from shapely.geometry import mapping
from shapely.geometry import shape as as_geometry

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.formats.outlines import label_map_to_polygons, polygons_to_mask
from monai_ext.formats.points import as_points
from monai_ext.formats.resolution import Scale

__all__ = [
    "Features",
    "GeoJSONWriter",
    "class_numbers",
    "encode_features",
    "label_map_to_polygons",
    "parse_geojson",
    "rasterize",
    "read_geojson",
    "to_rowcol",
    "to_xy",
    "write_geojson",
]

_CHUNK = 1 << 22
_POINT, _POLYGON, _MULTIPOINT = 0, 3, 4  # shapely's type numbers
_MALFORMED = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError, shapely.errors.ShapelyError)
Color = tuple[int, int, int]


def to_xy(points: np.ndarray, offset: tuple[float, float] = (0, 0), scale: Scale = 1) -> np.ndarray:
    """Pixel indices to QuPath's coordinates.

    Args:
        points: ``(..., 2)`` rows ``row, col``; whole numbers are pixel centres.
        offset: ``row, col`` of the array's upper left corner in level-0 pixels.
        scale: level-0 pixels per pixel of the array; ``row, col`` where they differ.

    Returns:
        ``(..., 2)`` float64 ``x, y`` in level-0 pixels.

    Examples:
        >>> from monai_ext.formats.geojson import to_xy
        >>> to_xy([[0, 0], [2, 5]]).tolist()
        [[0.5, 0.5], [5.5, 2.5]]
        >>> to_xy([[0, 0]], offset=(100, 200), scale=4).tolist()  # a tile of a level that is four times as coarse
        [[202.0, 102.0]]
    """
    return ((np.asarray(points, dtype=np.float64) + 0.5) * np.asarray(scale) + offset)[..., ::-1]


def to_rowcol(xy: np.ndarray, offset: tuple[float, float] = (0, 0), scale: Scale = 1) -> np.ndarray:
    """QuPath's coordinates to pixel indices: the inverse of :func:`to_xy`.

    Examples:
        >>> from monai_ext.formats.geojson import to_rowcol
        >>> to_rowcol([[5.5, 2.5]]).tolist()
        [[2.0, 5.0]]
        >>> to_rowcol([[202.0, 102.0]], offset=(100, 200), scale=4).tolist()
        [[0.0, 0.0]]
    """
    return (np.asarray(xy, dtype=np.float64)[..., ::-1] - offset) / np.asarray(scale) - 0.5


@dataclass(frozen=True)
class Features:
    """Objects of a GeoJSON file, one column per property, so that hundreds of thousands stay small.

    Columns may be given as one value for all objects. Iterate over ``zip`` of columns; index with a slice or mask.

    Args:
        geometry: ``(N,)`` shapely geometries, ``x, y`` in level-0 pixels (see :func:`to_xy`).
        classes: ``(N,)`` names of QuPath classes, None for none.
        measurements: ``(N,)`` float64 for each name, NaN where an object lacks it.
        object_types: ``(N,)`` ``"annotation"``, ``"detection"``, ``"cell"`` or ``"tile"``.
        names: ``(N,)`` the objects' own names, or None.
        ids: ``(N,)`` UUIDs, or None: QuPath then makes its own.
        colors: red, green, blue (0 to 255) of each class.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features
        >>> shapes = [shapely.box(0, 0, 4, 3), shapely.Point(7.5, 2.5)]
        >>> features = Features(shapes, classes=["Tumor", None], measurements={"score": [0.9, np.nan]})
        >>> len(features), features.points().tolist()
        (2, [[1.0, 1.5], [2.0, 7.0]])
        >>> features[features.classes == "Tumor"].measurements["score"].tolist()
        [0.9]
    """

    geometry: np.ndarray
    classes: Any = None
    measurements: Mapping[str, np.ndarray] = field(default_factory=dict)
    object_types: Any = "annotation"
    names: Any = None
    ids: Any = None
    colors: Mapping[str, Color] = field(default_factory=dict)

    def __post_init__(self) -> None:
        geometry = np.empty(len(self.geometry), dtype=object)
        geometry[:] = self.geometry
        object.__setattr__(self, "geometry", geometry)
        for column in ("classes", "object_types", "names", "ids"):
            values = getattr(self, column)
            array_ = np.empty(len(geometry), dtype=object)
            array_[:] = values if values is None or isinstance(values, (str, np.ndarray)) else list(values)
            object.__setattr__(self, column, array_)
        measurements = {
            name: np.array(np.broadcast_to(np.asarray(values, dtype=np.float64), geometry.shape))
            for name, values in self.measurements.items()
        }
        object.__setattr__(self, "measurements", measurements)

    @classmethod
    def from_points(
        cls, points: Any, *, offset: tuple[float, float] = (0, 0), scale: Scale = 1, **columns: Any
    ) -> Features:
        """One QuPath point object for each of the ``(N, 2)`` rows ``row, col``; ``columns`` as for the class."""
        return cls(shapely.points(to_xy(as_points(points), offset, scale)), **columns)

    def __len__(self) -> int:
        return len(self.geometry)

    def __getitem__(self, index: slice | np.ndarray) -> Features:
        return Features(
            self.geometry[index],
            self.classes[index],
            {name: values[index] for name, values in self.measurements.items()},
            self.object_types[index],
            self.names[index],
            self.ids[index],
            self.colors,
        )

    def points(self, offset: tuple[float, float] = (0, 0), scale: Scale = 1) -> np.ndarray:
        """``(M, 2)`` float32 ``row, col``: each point of points and multipoints, the centroid of every other object."""
        kind = shapely.get_type_id(self.geometry)
        located = np.where(np.isin(kind, (_POINT, _MULTIPOINT)), self.geometry, shapely.centroid(self.geometry))
        return to_rowcol(shapely.get_coordinates(located), offset, scale).astype(np.float32)

    def on_file(self, stretch: Sequence[float]) -> Features:
        """Objects in square px as they lie on a file whose px are oblong.

        Args:
            stretch: square px along the rows' and the columns' side of one of the file's
                (:attr:`~monai_ext.formats.resolution.Resolution.stretch`).

        Examples:
            >>> import shapely
            >>> from monai_ext.formats import Features
            >>> Features([shapely.box(2, 2, 4, 4)]).on_file(stretch=(1, 2)).geometry[0].bounds
            (1.0, 2.0, 2.0, 4.0)
        """
        if tuple(stretch) == (1, 1):
            return self
        return replace(self, geometry=shapely.transform(self.geometry, lambda xy: xy / tuple(stretch)[::-1]))


def read_geojson(path: str | os.PathLike, nuclei: bool = False) -> Features:
    """Read a GeoJSON file as QuPath and its extensions write it.

    The file is a FeatureCollection, a list of features, one feature or one geometry. Every kind of geometry is kept as
    it is, GeometryCollections too. Features without a geometry are left out; an ``id`` that comes again is dropped.
    Classifications may be an object with ``name`` or ``names`` and ``color`` or ``colorRGB``, or a string; measurements
    an object, or a list of ``{"name", "value"}``. The file is read as a stream: it is never in memory as a whole.

    Args:
        path: the file.
        nuclei: take the outline of the nucleus where an object has one besides its own (QuPath's cells).

    Returns:
        Its features, in the file's order.

    Raises:
        InputError: when the file cannot be read, is cut off or holds something else; it names the feature at fault.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features, read_geojson, write_geojson
        >>> cell = Features([shapely.box(0, 0, 10, 10)], classes="Tumor", measurements={"area_um2": 6.25})
        >>> features = read_geojson(write_geojson(folder / "cells.geojson", cell))
        >>> features.classes.tolist(), features.measurements["area_um2"].tolist()
        (['Tumor'], [6.25])
    """
    try:
        with Path(path).open("rb") as file:
            return _read(file, str(path), nuclei)
    except OSError as error:
        raise InputError(path, "a readable GeoJSON file", error.strerror or type(error).__name__) from error


def parse_geojson(data: bytes, where: str | os.PathLike = "GeoJSON") -> Features:
    """Read GeoJSON that is in memory: see :func:`read_geojson`; ``where`` is what errors name.

    Examples:
        >>> from monai_ext.formats.geojson import parse_geojson
        >>> parse_geojson(b'{"type": "Point", "coordinates": [5.5, 2.5]}').points().tolist()
        [[2.0, 5.0]]
    """
    return _read(io.BytesIO(data), str(where))


class GeoJSONWriter:
    """Write a FeatureCollection for QuPath as its features come; only those of one call are in memory.

    Use it as a context manager. The file gets its name when the block ends without an error; else nothing is left.

    Args:
        path: the file to write; folders are made as needed.

    Examples:
        >>> from monai_ext.formats import Features, GeoJSONWriter, read_geojson
        >>> with GeoJSONWriter(folder / "cells.geojson") as writer:
        ...     for row in range(3):
        ...         writer.write(Features.from_points([[row, 0]], classes="Tumor"))
        >>> len(read_geojson(writer.path))
        3
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.count = 0
        self._stack = ExitStack()

    def __enter__(self) -> GeoJSONWriter:
        with ExitStack() as stack:
            self._file = stack.enter_context(stack.enter_context(atomic_path(self.path)).open("wb"))
            self._file.write(b'{"type":"FeatureCollection","features":[')
            self._stack = stack.pop_all()
        return self

    def write(self, features: Features) -> None:
        """Append features.

        Raises:
            InputError: for a geometry that is missing, empty or not finite.
        """
        self.write_encoded(encode_features(features, self.path))

    def write_encoded(self, features: Iterable[bytes]) -> None:
        """Append features as :func:`encode_features` gives them."""
        for feature in features:
            self._file.write(b",\n" if self.count else b"\n")
            self._file.write(feature)
            self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is not None:
                self._stack.__exit__(kind, error, trace)
            else:
                self._file.write(b"\n]}\n")


def write_geojson(path: str | os.PathLike, features: Features) -> Path:
    """Write features as a FeatureCollection for QuPath; the file appears whole or not at all.

    Examples:
        >>> import json
        >>> from monai_ext.formats import Features, write_geojson
        >>> mitoses = Features.from_points([[2, 5]], classes="Mitosis", colors={"Mitosis": (200, 0, 0)})
        >>> [feature] = json.loads(write_geojson(folder / "mitoses.geojson", mitoses).read_text())["features"]
        >>> feature["geometry"]["coordinates"], feature["properties"]["classification"]
        ([5.5, 2.5], {'name': 'Mitosis', 'color': [200, 0, 0]})
    """
    with GeoJSONWriter(path) as writer:
        writer.write(features)
    return writer.path


def rasterize(
    features: Features,
    shape: tuple[int, int],
    classes: Sequence[str] | None = None,
    offset: tuple[float, float] = (0, 0),
    scale: Scale = 1,
) -> np.ndarray:
    """Draw polygons as masks.

    A pixel belongs to a polygon when its centre does (:func:`~monai_ext.formats.outlines.polygons_to_mask`).

    Args:
        features: what to draw; points and lines have no area and leave no pixel.
        shape: ``H, W`` of the masks.
        classes: one channel for each of these names, other classes being left out; None draws everything in one.
        offset: ``row, col`` of the masks' upper left corner in level-0 pixels.
        scale: level-0 pixels per pixel of the masks; ``row, col`` where they differ.

    Returns:
        ``(C, H, W)`` uint8, 0 or 1.

    Examples:
        >>> import shapely
        >>> from monai_ext.formats import Features, rasterize
        >>> features = Features([shapely.box(0, 0, 2, 2), shapely.box(2, 0, 5, 1)], classes=["Tumor", "Stroma"])
        >>> masks = rasterize(features, shape=(4, 6), classes=["Tumor", "Stroma"])
        >>> masks.shape, masks.sum(axis=(1, 2)).tolist()
        ((2, 4, 6), [4, 3])
    """
    channels = [features] if classes is None else [features[features.classes == name] for name in classes]
    return np.stack([polygons_to_mask(chosen.geometry, shape, offset, scale) for chosen in channels]).astype(np.uint8)


def class_numbers(features: Features, class_names: Sequence[str] | Mapping[str, Sequence[str]]) -> np.ndarray:
    """The number of each feature's class.

    Args:
        features: QuPath's objects.
        class_names: the classes, or ``{class: names of it in QuPath}``.

    Returns:
        ``(N,)`` int64, 0 for the first class, -1 for an object without a class or with another one.

    Examples:
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.geojson import class_numbers
        >>> features = Features.from_points([[0, 0], [1, 1], [2, 2]], classes=["Tumor", "Lymphocyte", None])
        >>> class_numbers(features, {"tumour": ["Tumor"], "immune": ["Immune cells", "Lymphocyte"]}).tolist()
        [0, 1, -1]
    """
    aliases = class_names if isinstance(class_names, Mapping) else {name: [name] for name in class_names}
    numbers = {alias: index for index, names in enumerate(aliases.values()) for alias in names}
    return np.array([numbers.get(name, -1) for name in features.classes], dtype=np.int64)


class _JSONStream:
    """Takes one JSON value after another from a file, reading on only when a value is not complete."""

    def __init__(self, file: BinaryIO, where: str) -> None:
        self.file, self.where = file, where
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.scan = json.JSONDecoder().raw_decode
        self.text, self.offset, self.taken = "", 0, 0

    def more(self) -> bool:
        rest = self.text[self.offset :]
        data = self.file.read(max(_CHUNK, len(rest)))
        try:
            self.text, self.offset = rest + self.decode(data, final=not data), 0
        except UnicodeDecodeError as error:
            raise InputError(self.where, "GeoJSON text in UTF-8", str(error)) from error
        return bool(data)

    def peek(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            while self.offset < len(self.text):
                if self.text[self.offset] not in " \t\r\n":
                    return self.text[self.offset]
                self.offset += 1
            if not self.more():
                return ""

    def expect(self, characters: str) -> str:
        character = self.peek()
        if not character or character not in characters:
            what = repr(character) if character else "the end of the file"
            raise InputError(
                self.where, f"GeoJSON with {' or '.join(characters)!r}", f"{what} after {self.taken} features"
            )
        self.offset += 1
        return character

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = self.scan(self.text, self.offset)
            except RecursionError as error:
                raise InputError(self.where, "GeoJSON", "brackets nested too deeply") from error
            except json.JSONDecodeError as error:
                if self.more():
                    continue
                problem = f"{error.msg} after {self.taken} features (is it cut off?)"
                raise InputError(self.where, "complete GeoJSON", problem) from error
            # a number may continue in the next chunk
            if end == len(self.text) and not isinstance(value, (dict, list, str)) and self.more():
                continue
            self.offset = end
            return value

    def items(self) -> Iterator[Any]:
        """The values of a list."""
        self.expect("[")
        if self.peek() == "]":
            self.offset += 1
            return
        while True:
            yield self.value()
            self.taken += 1
            if self.expect(",]") == "]":
                return

    def features(self) -> Iterator[Any]:
        """The features of a collection, a list of features, or one feature or geometry."""
        if self.peek() == "[":
            yield from self.items()
        else:
            self.expect("{[")
            single: dict[str, Any] = {}
            collection = False
            while self.peek() != "}":
                key = self.value()
                self.expect(":")
                if key == "features" and self.peek() == "[":
                    collection = True
                    yield from self.items()
                else:
                    single[key] = self.value()
                if self.expect(",}") == "}":
                    break
            else:
                self.offset += 1
            if not collection:
                yield single if single.get("type") == "Feature" else {"type": "Feature", "geometry": single}
        if self.peek():
            raise InputError(self.where, "the end of the file after the GeoJSON", repr(self.text[self.offset :][:20]))


class _Columns:
    """Gathers features as columns; polygons, nearly all of a large file, as flat arrays of numbers."""

    def __init__(self, where: str, nuclei: bool) -> None:
        self.where, self.nuclei = where, nuclei
        self.xy, self.ring_ends, self.polygon_ends = array("d"), array("q", [0]), array("q", [0])
        self.polygons: list[int] = []
        self.geometry: list[Any] = []
        self.properties: dict[str, list[Any]] = {"classes": [], "object_types": [], "names": [], "ids": []}
        self.measurements: dict[str, tuple[array, array]] = {}
        self.colors: dict[str, Color] = {}
        self.seen: set[str | None] = set()

    def add(self, feature: Any, number: int) -> None:
        try:
            if feature["type"] != "Feature":
                raise TypeError(f"type {feature['type']!r}")
            geometry = (self.nuclei and feature.get("nucleusGeometry")) or feature.get("geometry")
            if geometry is None:
                return
            index = len(self.geometry)
            if geometry["type"] == "Polygon" and geometry["coordinates"]:
                self._polygon(geometry["coordinates"])
                self.polygons.append(index)
                self.geometry.append(None)
            else:
                self.geometry.append(as_geometry(geometry))
            properties = feature.get("properties") or {}
            name, color = _classification(properties.get("classification"))
            self._measure(properties.get("measurements") or {}, index)
            record = {
                "classes": name,
                "object_types": str(properties.get("objectType") or properties.get("object_type") or "annotation"),
                "names": _text(properties.get("name")),
                "ids": self._fresh(_text(feature.get("id"))),
            }
            if color is not None:
                self.colors.setdefault(name, color)
        except _MALFORMED as error:
            problem = f"{'no ' if isinstance(error, KeyError) else ''}{error} in {str(feature)[:80]}"
            raise InputError(f"{self.where}, feature {number}", "a GeoJSON feature", problem) from error
        for column, value in record.items():
            self.properties[column].append(value)

    def _polygon(self, rings: list) -> None:
        for ring in rings:
            if set(map(len, ring)) != {2}:
                ring = [(x, y) for x, y, *_ in ring]  # noqa: PLW2901 - a third dimension has no use here
            if len(ring) < 4:
                raise ValueError(f"a ring of {len(ring)} points")
            self.xy.extend(chain.from_iterable(ring))
            self.ring_ends.append(len(self.xy) // 2)
        self.polygon_ends.append(len(self.ring_ends) - 1)

    def _measure(self, measurements: Any, index: int) -> None:
        if isinstance(measurements, list):
            measurements = {entry["name"]: entry["value"] for entry in measurements}
        for name, value in measurements.items():
            rows, values = self.measurements.setdefault(str(name), (array("q"), array("d")))
            number = np.nan if value is None else float(value)
            rows.append(index)
            values.append(number)

    def _fresh(self, identity: str | None) -> str | None:
        if identity in self.seen:
            return None
        self.seen.add(identity)
        return identity

    def features(self) -> Features:
        geometry = np.empty(len(self.geometry), dtype=object)
        geometry[:] = self.geometry
        if self.polygons:
            xy = np.frombuffer(self.xy).reshape(-1, 2)
            ends = np.frombuffer(self.ring_ends, dtype=np.int64), np.frombuffer(self.polygon_ends, dtype=np.int64)
            geometry[self.polygons] = shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, ends)
        coordinates, owner = shapely.get_coordinates(geometry, return_index=True)
        bad = owner[~np.isfinite(coordinates).all(axis=1)]
        if len(bad):
            raise InputError(f"{self.where}, object {bad[0]}", "finite coordinates", str(geometry[bad[0]])[:80])
        keep = ~shapely.is_empty(geometry)
        measurements = {}
        for name, (rows, values) in self.measurements.items():
            measurements[name] = np.full(len(geometry), np.nan)
            measurements[name][rows] = values
        features = Features(geometry, **self.properties, measurements=measurements, colors=self.colors)
        return features if keep.all() else features[keep]


def _read(file: BinaryIO, where: str, nuclei: bool = False) -> Features:
    stream, columns = _JSONStream(file, where), _Columns(where, nuclei)
    for number, feature in enumerate(stream.features()):
        columns.add(feature, number)
    return columns.features()


def _classification(value: Any) -> tuple[str | None, Color | None]:
    """Name and colour of a classification in any of the forms QuPath has used."""
    if not isinstance(value, dict):
        return _text(value), None
    name = value.get("name")
    if name is None and value.get("names"):
        name = ": ".join(value["names"])
    color = value.get("color", value.get("colorRGB"))
    if isinstance(color, int):  # packed, 8 bits each, alpha highest
        color = [color >> 16 & 255, color >> 8 & 255, color & 255]
    if name is None or color is None:
        return _text(name), None
    if not (isinstance(color, list) and len(color) >= 3 and all(isinstance(value, int) for value in color)):
        raise ValueError(f"color {color!r}")
    return str(name), tuple(color[:3])


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def encode_features(features: Features, where: str | os.PathLike) -> Iterator[bytes]:
    """The JSON text of each feature, of one line and without what parts it from the next.

    Args:
        features: what to write.
        where: what errors name.

    Raises:
        InputError: for a geometry that is missing, empty or not finite.

    Examples:
        >>> import json
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.geojson import encode_features
        >>> [text] = encode_features(Features.from_points([[2, 5]]), "mitoses")
        >>> json.loads(text)["geometry"]
        {'type': 'Point', 'coordinates': [5.5, 2.5]}
    """
    geometry = features.geometry
    missing = shapely.is_missing(geometry) | shapely.is_empty(geometry)
    coordinates, owner = shapely.get_coordinates(geometry, return_index=True)
    unusable = np.union1d(np.flatnonzero(missing), owner[~np.isfinite(coordinates).all(axis=1)])
    if len(unusable):
        raise InputError(where, "geometries with finite coordinates", f"object {unusable[0]}: {geometry[unusable[0]]}")
    measured = {name: values.tolist() for name, values in features.measurements.items()}
    classification = {name: {"name": name, "color": list(color)} for name, color in features.colors.items()}
    for index, shape in enumerate(_as_mappings(geometry)):
        name = features.classes[index]
        properties: dict[str, Any] = {"objectType": features.object_types[index]}
        if features.names[index] is not None:
            properties["name"] = features.names[index]
        if name is not None:
            properties["classification"] = classification.get(name) or {"name": name}
        values = {key: column[index] for key, column in measured.items() if column[index] == column[index]}
        if values:
            properties["measurements"] = values
        feature = {"type": "Feature", "geometry": shape, "properties": properties}
        if features.ids[index] is not None:
            feature["id"] = features.ids[index]
        try:
            yield orjson.dumps(feature, option=orjson.OPT_SERIALIZE_NUMPY)
        except orjson.JSONEncodeError as error:
            raise InputError(where, "names and numbers that JSON can hold", f"object {index}: {error}") from error


def _as_mappings(geometry: np.ndarray) -> Iterator[Mapping[str, Any]]:
    """GeoJSON geometries; the coordinates of polygons are slices of one array."""
    is_polygon = shapely.get_type_id(geometry) == _POLYGON
    rings, spans = [], iter(())
    if is_polygon.any():
        _, xy, (ring_ends, polygon_ends) = shapely.to_ragged_array(geometry[is_polygon], include_z=False)
        rings, spans = [xy[start:end] for start, end in pairwise(ring_ends)], pairwise(polygon_ends)
    for shape, flat in zip(geometry, is_polygon, strict=True):
        if flat:
            start, end = next(spans)
            yield {"type": "Polygon", "coordinates": rings[start:end]}
        else:
            yield mapping(shape)
