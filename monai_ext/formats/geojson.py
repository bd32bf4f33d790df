"""QuPath GeoJSON: read, write, and exchange with pixels.

QuPath writes ``x, y`` in pixels of a slide's level 0, counted from the image's upper left corner: its first pixel
covers ``[0, 1) x [0, 1)``. Our arrays count whole pixels, ``row, col``, so the centre of pixel ``(r, c)`` is at
``x = c + 0.5, y = r + 0.5``. :func:`to_xy` and :func:`to_rowcol` are the only places that convert, also from and to a
coarser level or a tile. Where a file's pixels are oblong, ``scale`` is a pair ``row, col``.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
import re
import zlib
from array import array
from collections import Counter
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
from monai_ext.formats.outlines import label_map_to_polygons, polygons_to_mask, valid_geometry
from monai_ext.formats.points import as_points
from monai_ext.formats.resolution import Scale

__all__ = [
    "Features",
    "GeoJSONWriter",
    "class_numbers",
    "encode_features",
    "geojson_stem",
    "is_geojson",
    "iterate_geojson",
    "join_features",
    "label_map_to_polygons",
    "parse_geojson",
    "rasterize",
    "read_geojson",
    "to_rowcol",
    "to_xy",
    "write_geojson",
]

_CHUNK = 1 << 22
_FARTHEST = 1e12  # px
_POINT, _POLYGON, _MULTIPOINT = 0, 3, 4  # shapely's type numbers
_MALFORMED = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
    shapely.errors.ShapelyError,
)
_AREAS = ("Polygon", "MultiPolygon", "GeometryCollection")
_SUFFIX = re.compile(r"\.(geo)?json(\.gz)?$", re.IGNORECASE)
_AT_ONCE = 20_000  # objects that come together
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"
_HEX = re.compile(r"(?:#|0x)?((?:[0-9a-f]{2})?[0-9a-f]{6}|[0-9a-f]{3})", re.IGNORECASE | re.ASCII)
#: What QuPath 0.2 to 0.6 call the types of objects, without underscores and in lower case; 0.2 has them as ``id``.
_OBJECT_TYPES = {
    alias: kind
    for kind in ("annotation", "detection", "cell", "tile", "tmaCore", "root")
    for alias in (kind.lower(), f"{kind.lower()}object", f"path{kind.lower()}object")
}
Color = tuple[int, int, int]


def is_geojson(path: str | os.PathLike) -> bool:
    """Whether a file is GeoJSON by its name: ``.geojson``, ``.json``, and both with ``.gz``.

    Examples:
        >>> from monai_ext.formats.geojson import is_geojson
        >>> [is_geojson(name) for name in ("a.geojson", "a.GeoJSON.gz", "a.json", "a.tif")]
        [True, True, True, False]
    """
    return _SUFFIX.search(Path(path).name) is not None


def geojson_stem(path: str | os.PathLike) -> str:
    """A file's name without its suffix, ``.geojson.gz`` being one.

    Examples:
        >>> from monai_ext.formats.geojson import geojson_stem
        >>> geojson_stem("folder/slide.1.geojson.gz")
        'slide.1'
    """
    name = Path(path).name
    return name[: -len(match[0])] if (match := _SUFFIX.search(name)) else Path(path).stem


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
        object_types: ``(N,)`` ``"annotation"``, ``"detection"``, ``"cell"``, ``"tile"``, ``"tmaCore"`` or ``"root"``.
        names: ``(N,)`` the objects' own names, or None.
        ids: ``(N,)`` UUIDs, or None: QuPath then makes its own.
        colors: red, green, blue (0 to 255) of each class.
        nuclei: ``(N,)`` outlines of the nuclei of cells, where ``geometry`` is the cell's; None for none.
        parents: ``(N,)`` whether the file nests other objects with an area in it (QuPath's hierarchy).

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
    nuclei: Any = None
    parents: Any = False

    def __post_init__(self) -> None:
        geometry = np.empty(len(self.geometry), dtype=object)
        geometry[:] = self.geometry
        object.__setattr__(self, "geometry", geometry)
        for column in ("classes", "object_types", "names", "ids", "nuclei"):
            values = getattr(self, column)
            array_ = np.empty(len(geometry), dtype=object)
            array_[:] = values if values is None or isinstance(values, (str, np.ndarray)) else list(values)
            object.__setattr__(self, column, array_)
        object.__setattr__(self, "parents", np.array(np.broadcast_to(np.asarray(self.parents, bool), geometry.shape)))
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
            self.nuclei[index],
            self.parents[index],
        )

    def of_classes(self, classes: Iterable[str] | None) -> Features:
        """Those of the named classes; all for None."""
        names = None if classes is None else set(classes)
        return self if names is None else self[np.array([name in names for name in self.classes], dtype=bool)]

    def with_nuclei(self) -> Features:
        """The outline of the nucleus in place of the object's own, where there is one."""
        return replace(
            self, geometry=np.where(shapely.is_missing(self.nuclei), self.geometry, self.nuclei), nuclei=None
        )

    def points(self, offset: tuple[float, float] = (0, 0), scale: Scale = 1) -> np.ndarray:
        """``(M, 2)`` float32 ``row, col``: each point of points and multipoints, the centroid of every other object.

        Outlines that cross themselves are made valid before.
        """
        kind = shapely.get_type_id(self.geometry)
        centroids = shapely.centroid(valid_geometry(self.geometry))
        located = np.where(np.isin(kind, (_POINT, _MULTIPOINT)), self.geometry, centroids)
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
        moved = (shapely.transform(each, lambda xy: xy / tuple(stretch)[::-1]) for each in (self.geometry, self.nuclei))
        return replace(self, **dict(zip(("geometry", "nuclei"), moved, strict=True)))


def join_features(*parts: Features) -> Features:
    """Several as one; a measurement is NaN where a part lacks it. Of two colours of a class the first holds.

    Examples:
        >>> from monai_ext.formats import Features
        >>> from monai_ext.formats.geojson import join_features
        >>> cells = Features.from_points([[0, 0]], classes="Tumor", measurements={"score": 0.5})
        >>> both = join_features(cells, Features.from_points([[1, 1]]))
        >>> both.classes.tolist(), both.measurements["score"].tolist()
        (['Tumor', None], [0.5, nan])
    """
    names = dict.fromkeys(name for part in parts for name in part.measurements)
    measured = {
        name: np.concatenate([part.measurements.get(name, np.full(len(part), np.nan)) for part in parts])
        for name in names
    }
    columns = ("geometry", "classes", "object_types", "names", "ids", "nuclei", "parents")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in columns} if parts else {}
    colors = {name: color for part in reversed(parts) for name, color in part.colors.items()}
    return Features(**{"geometry": [], **joined}, measurements=measured, colors=colors)


def read_geojson(path: str | os.PathLike, nuclei: bool = False) -> Features:
    """Read a GeoJSON file as QuPath and its extensions write it.

    The file is a FeatureCollection, a list of features or geometries, one of them, several line by line, or QuPath's
    hierarchy; compressed by gzip or not. Objects that are nested in others (``childObjects``) come after those. Every
    kind of geometry is kept as it was drawn, GeometryCollections too: which of them are objects to count, and with
    which outline, :func:`~monai_ext.formats.roles.read_objects` says. Features without a geometry are left out; an
    ``id`` that comes again is dropped. Classifications may be an object with ``name`` or ``names`` and ``color`` or
    ``colorRGB``, or a string; measurements an object, or a list of ``{"name", "value"}``; what of names, colours and
    measurements is something else is left out. The file is read as a stream: it is never in memory as a whole, but for
    what is nested in one object.

    Args:
        path: the file.
        nuclei: take the outline of the nucleus where an object has one besides its own (QuPath's cells).

    Returns:
        Its features, in the file's order.

    Raises:
        InputError: when the file cannot be read, is cut off or holds something else; it names the feature at fault.
            When it holds objects of several planes (z, t), which no image of ours has.

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
        raise InputError(path, "a readable GeoJSON file", error.strerror or str(error)) from error


def iterate_geojson(path: str | os.PathLike, at_once: int = _AT_ONCE) -> Iterator[Features]:
    """Read a GeoJSON file as :func:`read_geojson` does, some objects at a time, for files of any size.

    Args:
        path: the file.
        at_once: so many objects come together, the last ones apart.

    Yields:
        features, in the file's order; colours are those that were met so far.

    Raises:
        InputError: as :func:`read_geojson`; what is wrong further down is found when it is reached.

    Examples:
        >>> from monai_ext.formats import Features, write_geojson
        >>> from monai_ext.formats.geojson import iterate_geojson
        >>> path = write_geojson(folder / "mitoses.geojson", Features.from_points([[0, 0], [1, 1], [2, 2]]))
        >>> [len(features) for features in iterate_geojson(path, at_once=2)]
        [2, 1]
    """
    try:
        with Path(path).open("rb") as file:
            yield from _batches(file, str(path), at_once)
    except OSError as error:
        raise InputError(path, "a readable GeoJSON file", error.strerror or str(error)) from error


def parse_geojson(data: bytes, where: str | os.PathLike = "GeoJSON", nuclei: bool = False) -> Features:
    """Read GeoJSON that is in memory: see :func:`read_geojson`; ``where`` is what errors name.

    Examples:
        >>> from monai_ext.formats.geojson import parse_geojson
        >>> parse_geojson(b'{"type": "Point", "coordinates": [5.5, 2.5]}').points().tolist()
        [[2.0, 5.0]]
    """
    return _read(io.BytesIO(data), str(where), nuclei)


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
        try:
            data = self.file.read(max(_CHUNK, len(rest)))
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(self.where, "a complete gzip file", str(error)) from error
        try:
            self.text, self.offset = rest + self.decode(data, final=not data), 0
        except UnicodeDecodeError as error:
            raise InputError(self.where, "GeoJSON text in UTF-8", str(error)) from error
        return bool(data)

    def peek(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            while self.offset < len(self.text):
                if self.text[self.offset] not in " \t\r\n\x1e":  # RFC 8142 begins records with \x1e
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
        """The features of the file; collections line by line too."""
        while True:
            yield from self._document()
            if not self.peek():
                return
            if self.peek() != "{":
                found = repr(self.text[self.offset :][:20])
                raise InputError(self.where, "the end of the file after the GeoJSON", found)

    def _document(self) -> Iterator[Any]:
        """The features of a collection, a list of features, or one feature or geometry."""
        if self.peek() == "[":
            yield from self.items()
            return
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
        if isinstance(single.get("root"), dict):  # QuPath's whole hierarchy
            yield single["root"]
        elif not collection:
            yield single
            self.taken += 1


def _with_children(item: Any) -> Iterator[tuple[Any, bool]]:
    """A feature, or those of a collection, and what is nested in it at any depth; whether each has areas in it."""
    stack = [item]
    while stack:
        item = stack.pop()
        if item["type"] == "FeatureCollection":
            stack.extend(reversed(item["features"]))
            continue
        if item["type"] != "Feature":
            item = {"type": "Feature", "geometry": item}
        properties = _dict(item.get("properties"))
        children = properties.get("childObjects") or properties.get("children")
        if not (isinstance(children, list) and all(isinstance(child, dict) for child in children)):
            yield item, False
            continue
        yield item, any(_dict(child.get("geometry")).get("type") in _AREAS for child in children)
        stack.extend(reversed(children))


class _Geometries:
    """Gathers geometries; polygons, nearly all of a large file, as flat arrays of numbers."""

    def __init__(self) -> None:
        self.xy, self.ring_ends, self.polygon_ends = array("d"), array("q", [0]), array("q", [0])
        self.polygons: list[int] = []
        self.others: list[Any] = []

    def add(self, geometry: Mapping[str, Any] | None) -> None:
        if geometry is not None and geometry["type"] == "Polygon" and geometry["coordinates"]:
            if geometry["coordinates"][0]:
                self._polygon(geometry["coordinates"])
                self.polygons.append(len(self.others))
                self.others.append(None)
                return
            geometry = {"type": "Polygon", "coordinates": []}
        self.others.append(None if geometry is None else as_geometry(_flat(geometry)))

    def _polygon(self, rings: list) -> None:
        for ring in rings:
            if not ring:
                continue
            if set(map(len, ring)) != {2}:
                ring = [(x, y) for x, y, *_ in ring]  # noqa: PLW2901 - a third dimension has no use here
            if ring[0] != ring[-1]:
                ring = [*ring, ring[0]]  # noqa: PLW2901
            if len(ring) < 4:
                raise ValueError(f"a ring of {len(ring)} points")
            self.xy.extend(chain.from_iterable(ring))
            self.ring_ends.append(len(self.xy) // 2)
        self.polygon_ends.append(len(self.ring_ends) - 1)

    def array(self) -> np.ndarray:
        geometry = np.empty(len(self.others), dtype=object)
        geometry[:] = self.others
        if self.polygons:
            xy = np.frombuffer(self.xy).reshape(-1, 2)
            ends = np.frombuffer(self.ring_ends, dtype=np.int64), np.frombuffer(self.polygon_ends, dtype=np.int64)
            geometry[self.polygons] = shapely.from_ragged_array(shapely.GeometryType.POLYGON, xy, ends)
        return geometry


def _flat(geometry: Mapping[str, Any]) -> dict[str, Any]:
    """A geometry without a third dimension and without empty rings."""
    if geometry["type"] == "GeometryCollection":
        return {"type": "GeometryCollection", "geometries": [_flat(part) for part in geometry["geometries"]]}
    coordinates = _xy(geometry["coordinates"])
    if geometry["type"] == "MultiPolygon":
        coordinates = [[ring for ring in rings if ring] for rings in coordinates if rings and rings[0]]
    return {"type": geometry["type"], "coordinates": coordinates}


def _xy(coordinates: list) -> list:
    if coordinates and isinstance(coordinates[0], list):
        return [_xy(part) for part in coordinates]
    return coordinates[:2]


class _Columns:
    """Gathers features as columns."""

    def __init__(self, where: str) -> None:
        self.where, self.before = where, 0  # objects of the file that came before these
        self.geometry, self.nuclei = _Geometries(), _Geometries()
        self.properties: dict[str, list[Any]] = {
            name: [] for name in ("classes", "object_types", "names", "ids", "parents")
        }
        self.measurements: dict[str, tuple[array, array]] = {}
        self.colors: dict[str, Color] = {}
        self.planes: Counter[tuple[int, int]] = Counter()
        self.seen: set[str | None] = set()

    def __len__(self) -> int:
        return len(self.properties["ids"])

    def following(self) -> _Columns:
        """Empty ones for what comes next in the file: what must be one for all of it is kept."""
        columns = _Columns(self.where)
        columns.before = self.before + len(self)
        columns.colors, columns.planes, columns.seen = self.colors, self.planes, self.seen
        return columns

    def add(self, feature: Any, number: int) -> None:
        """Take a feature and what is nested in it; ``number`` is its place in the file."""
        try:
            for item, has_children in _with_children(feature):
                self._add(item, has_children)
        except _MALFORMED as error:
            problem = f"{'no ' if isinstance(error, KeyError) else ''}{error} in {str(feature)[:80]}"
            raise InputError(f"{self.where}, feature {number}", "a GeoJSON feature", problem) from error

    def _add(self, feature: Mapping[str, Any], has_children: bool) -> None:
        geometry, nucleus = feature.get("geometry"), feature.get("nucleusGeometry") or None
        if geometry is None and nucleus is None:
            return
        index = len(self)
        self.geometry.add(nucleus if geometry is None else geometry)
        self.nuclei.add(nucleus)
        self.planes[_plane(geometry or nucleus)] += 1
        properties = _dict(feature.get("properties"))
        name, color = _classification(properties.get("classification"))
        self._measure(properties.get("measurements"), index)
        record = {
            "classes": name,
            "object_types": _object_type(feature, properties),
            "names": _text(properties.get("name")),
            "ids": self._fresh(_text(feature.get("id"))),
            "parents": has_children,
        }
        if color is not None:
            self.colors.setdefault(name, color)
        for column, value in record.items():
            self.properties[column].append(value)

    def _measure(self, measurements: Any, index: int) -> None:
        if isinstance(measurements, list):  # before QuPath 0.4
            entries = [(entry.get("name"), entry.get("value")) for entry in measurements if isinstance(entry, dict)]
        else:
            entries = _dict(measurements).items()
        for name, value in entries:
            rows, values = self.measurements.setdefault(str(name), (array("q"), array("d")))
            rows.append(index)
            values.append(_number(value))

    def _fresh(self, identity: str | None) -> str | None:
        if identity in self.seen:
            return None
        self.seen.add(identity)
        return identity

    def features(self) -> Features:
        if len(self.planes) > 1:
            planes = ", ".join(f"{count} at z {z}, t {t}" for (z, t), count in sorted(self.planes.items()))
            raise InputError(self.where, "objects of one plane", planes)
        geometry, nuclei = self.geometry.array(), self.nuclei.array()
        for outlines in (geometry, nuclei):
            coordinates, owner = shapely.get_coordinates(outlines, return_index=True)
            bad = owner[_off_any_slide(coordinates)]
            if len(bad):
                raise InputError(
                    f"{self.where}, object {self.before + bad[0]}",
                    "finite coordinates up to 1e12",
                    str(outlines[bad[0]])[:80],
                )
        nuclei[shapely.is_empty(nuclei)] = None
        keep = ~shapely.is_empty(geometry)
        measurements = {}
        for name, (rows, values) in self.measurements.items():
            measurements[name] = np.full(len(geometry), np.nan)
            measurements[name][rows] = values
        features = Features(
            geometry, **self.properties, measurements=measurements, colors=dict(self.colors), nuclei=nuclei
        )
        return features if keep.all() else features[keep]


def _read(file: BinaryIO, where: str, nuclei: bool = False) -> Features:
    # what is gathered takes as much memory again as the geometries that are made of it
    features = join_features(*_batches(file, where, _AT_ONCE))
    return features.with_nuclei() if nuclei else features


def _batches(file: BinaryIO, where: str, at_once: int) -> Iterator[Features]:
    stream, columns = _stream(file, where), _Columns(where)
    for number, feature in enumerate(stream.features()):
        columns.add(feature, number)
        if len(columns) >= at_once:
            yield columns.features()
            columns = columns.following()
    if len(columns):
        yield columns.features()


def _stream(file: BinaryIO, where: str) -> _JSONStream:
    start = file.read(4)
    file.seek(0)
    if start == _ZIP:
        raise InputError(where, "GeoJSON, compressed by gzip or not", "a zip archive: unpack it")
    return _JSONStream(gzip.GzipFile(fileobj=file) if start[:2] == _GZIP else file, where)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _object_type(feature: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
    """QuPath's type of an object; an annotation where it has none that QuPath knows."""
    names = properties.get("objectType"), properties.get("object_type"), properties.get("type"), feature.get("id")
    for name in names:
        if isinstance(name, str) and (kind := _OBJECT_TYPES.get(name.replace("_", "").lower())):
            return kind
    return "annotation"


def _plane(geometry: Mapping[str, Any]) -> tuple[int, int]:
    """``z, t`` of QuPath's image plane; its channel does not move an object."""
    plane = geometry.get("plane")
    if not isinstance(plane, dict):
        return 0, 0
    z, t = (_number(plane.get(axis)) for axis in "zt")
    return (int(z) if np.isfinite(z) else 0, int(t) if np.isfinite(t) else 0)


def _number(value: Any) -> float:
    """A number, also as text; NaN for anything else."""
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError):
        return np.nan


def _classification(value: Any) -> tuple[str | None, Color | None]:
    """Name and colour of a classification in any of the forms QuPath has used."""
    if isinstance(value, list):
        value = {"names": value}
    if not isinstance(value, dict):
        return _text(value), None
    name = value.get("name")
    if name is None and isinstance(value.get("names"), list) and value["names"]:
        name = ": ".join(map(str, value["names"]))
    return _text(name), None if name is None else _color(value.get("color", value.get("colorRGB")))


def _color(value: Any) -> Color | None:
    """A colour: packed in a whole number (8 bits each, alpha highest), hexadecimal text, or three numbers.

    Fractions up to 1 are shares of 255. None for anything else: a colour is no reason to refuse a file.
    """
    if isinstance(value, str) and (match := _HEX.fullmatch(value.strip())):
        digits = match[1]
        value = int("".join(digit * 2 for digit in digits) if len(digits) == 3 else digits, 16)
    if isinstance(value, int) and not isinstance(value, bool):
        return value >> 16 & 255, value >> 8 & 255, value & 255
    if not isinstance(value, list) or len(value) < 3 or not all(isinstance(part, int | float) for part in value[:3]):
        return None
    parts = value[:3]
    if any(isinstance(part, float) for part in parts) and all(part <= 1 for part in parts):
        parts = [255 * part for part in parts]
    if not all(0 <= part <= 255 for part in parts):
        return None
    return tuple(round(part) for part in parts)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _off_any_slide(coordinates: np.ndarray) -> np.ndarray:
    """Which of ``(N, 2)`` are no place, bool ``(N,)``: not finite, or so far that an area or float32 overflows."""
    return ~(np.abs(coordinates) <= _FARTHEST).all(axis=1)


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
    unusable = np.union1d(np.flatnonzero(missing), owner[_off_any_slide(coordinates)])
    if len(unusable):
        raise InputError(
            where, "geometries with finite coordinates up to 1e12", f"object {unusable[0]}: {geometry[unusable[0]]}"
        )
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
        if features.nuclei[index] is not None:
            feature["nucleusGeometry"] = mapping(features.nuclei[index])
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
