"""The cells of a slide in the making: on disk as they come, sorted when all are there."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import shapely
from scipy.spatial import cKDTree

from monai_ext.base.errors import InputError
from monai_ext.data.cells import Cells
from monai_ext.formats.geojson import Color, encode_features, parse_geojson
from monai_ext.formats.outlines import valid_geometry

__all__ = ["CellSpool"]

_MEASURED = ("area_um2", "perimeter_um", "eccentricity", "solidity", "nucleus_probability")
_AT_ONCE = 50_000  # records whose text is in memory


class CellSpool:
    """Cells in two files: their encoded features, and a record of fixed size for each.

    ``features.jsonl`` is only read again to be copied in another order, so that memory holds the records alone, about
    100 bytes a cell. Use it as a context manager.

    Args:
        folder: of the files.
        class_names: of the cells' classes.
        position: what :attr:`position` was when an earlier run saved it: existing files are truncated to it and
            appended to; ``None`` for new ones.

    Raises:
        InputError: the files are shorter than that.
        OSError: the disk is full.
    """

    FILES = ("features.jsonl", "cells.bin")

    def __init__(self, folder: Path, class_names: Sequence[str], position: dict[str, int] | None = None) -> None:
        self.columns = ["confidence", *(f"probability_{name}" for name in class_names), *_MEASURED]
        fields = [("begin", "<i8"), ("length", "<i4"), ("tile", "<i4"), ("class", "<i2")]
        fields += [(name, "?") for name in ("seam", "across", "cut")]
        numbers = [("row", "<f8"), ("col", "<f8"), *((name, "<f8") for name in self.columns)]
        self.dtype = np.dtype([*fields, *numbers])
        self._files = [(folder / name).open("w+b" if position is None else "r+b") for name in self.FILES]
        ends = (0, 0) if position is None else (position["bytes"], position["cells"] * self.dtype.itemsize)
        for file, end in zip(self._files, ends, strict=True):
            if os.fstat(file.fileno()).st_size < end:
                raise InputError(file.name, f"at least {end} bytes", "fewer")
            file.truncate(end)
            file.seek(end)

    def __enter__(self) -> CellSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()

    @property
    def position(self) -> dict[str, int]:
        """How much there is: ``cells``, and ``bytes`` of their features."""
        features, records = self._files
        return {"bytes": features.tell(), "cells": records.tell() // self.dtype.itemsize}

    def add(
        self, cells: Cells, tile: int, colours: dict[str, Color], object_type: str, **marks: np.ndarray | bool
    ) -> None:
        """Append cells.

        Args:
            cells: of one tile.
            tile: its number.
            colours: RGB of each class.
            object_type: see :meth:`~monai_ext.data.cells.Cells.features`.
            **marks: ``(N,)`` bool: ``seam``, those that a neighbouring tile might have too; ``across``, those of which
                it might have a piece; ``cut``, those that are pieces.
        """
        features, records = self._files
        texts = list(encode_features(cells.features(colours, object_type), features.name))
        table = np.zeros(len(cells), self.dtype)
        table["length"] = [len(text) for text in texts]
        table["begin"] = features.tell() + np.cumsum(table["length"], dtype=np.int64) - table["length"]
        table["tile"], table["class"] = tile, cells.class_ids
        for name, values in marks.items():
            table[name] = values
        table["row"], table["col"] = cells.centres.T
        for name, values in cells.numbers().items():
            table[name] = values
        features.write(b"".join(texts))
        records.write(table.tobytes())

    def sync(self) -> None:
        """See that what was written is on the disk."""
        for file in self._files:
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> np.ndarray:
        """All records, in the order in which they came."""
        file = self._files[1]
        end = file.tell()
        file.seek(0)
        table = np.frombuffer(file.read(end), self.dtype)
        file.seek(end)
        return table

    def texts(self, records: np.ndarray, stretch: tuple[float, float] = (1, 1)) -> Iterator[bytes]:
        """The encoded feature of each of these records.

        Args:
            records: some of them.
            stretch: see :meth:`Features.on_file`; cells are gathered in square px.
        """
        self._files[0].flush()
        descriptor = self._files[0].fileno()
        spans = zip(records["begin"].tolist(), records["length"].tolist(), strict=True)
        texts = (os.pread(descriptor, length, begin) for begin, length in spans)
        if stretch == (1, 1):
            yield from texts
            return
        while batch := [*islice(texts, _AT_ONCE)]:
            features = parse_geojson(b"[" + b",".join(batch) + b"]", self._files[0].name)
            yield from encode_features(features.on_file(stretch), self._files[0].name)

    def outlines(self, records: np.ndarray) -> np.ndarray:
        """The outlines of N records, valid polygons, ``(N,)``."""
        return valid_geometry(shapely.from_geojson([*self.texts(records)]))

    def ious(self, records: np.ndarray, others: np.ndarray) -> np.ndarray:
        """Intersection over union of the outlines of each of K records and its partner, ``(K,)``."""
        values = np.zeros(len(records))
        for start in range(0, len(records), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            one, other = (self.outlines(each[part]) for each in (records, others))
            common = shapely.area(shapely.intersection(one, other))
            values[part] = common / (shapely.area(one) + shapely.area(other) - common)
        return values


def drop_second_versions(
    records: np.ndarray, reach: float, alike: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Which records to keep so that no cell comes twice: of two tiles' versions the surer, or else the earlier tile's.

    Args:
        records: as :meth:`CellSpool.records` gives them.
        reach: centroids of versions of one cell are no further apart than this, px of level 0.
        alike: takes K records and K others, and gives which of the pairs are versions of one; default: all.

    Returns:
        ``(N,)`` bool.
    """
    keep = np.ones(len(records), bool)
    on_seam = np.flatnonzero(records["seam"])
    if len(on_seam):
        on_seam = on_seam[np.argsort(-records["confidence"][on_seam], kind="stable")]
        seam = records[on_seam]
        pairs = cKDTree(np.stack([seam["row"], seam["col"]], axis=1)).query_pairs(reach, output_type="ndarray")
        pairs = np.sort(pairs[seam["tile"][pairs[:, 0]] != seam["tile"][pairs[:, 1]]], axis=1)
        if alike is not None:
            pairs = pairs[alike(*seam[pairs.T])]
        # few, and by rising rank, so that whether the first of them stays is settled
        for first, second in on_seam[pairs[np.lexsort(pairs.T[::-1])]].tolist():
            keep[second] &= not keep[first]
    return keep


def write_csv(
    file: io.TextIOBase,
    records: np.ndarray,
    spool: CellSpool,
    class_names: Sequence[str],
    stretch: tuple[float, float] = (1, 1),
) -> None:
    """A row for each record as :meth:`Cells.table` has it, some at a time; ``row, col`` in px of the file."""
    import pandas as pd

    names = np.array([*class_names, None], dtype=object)
    for start in range(0, max(1, len(records)), _AT_ONCE):
        batch = records[start : start + _AT_ONCE]
        columns: dict[str, Any] = {"row": batch["row"], "col": batch["col"], "class": names[batch["class"]]}
        if stretch != (1, 1):
            sides = zip(("row", "col"), stretch, strict=True)
            columns |= {name: (batch[name] + 0.5) / side - 0.5 for name, side in sides}
        columns |= {name: batch[name] for name in spool.columns}
        pd.DataFrame(columns).to_csv(file, index=False, header=start == 0)
