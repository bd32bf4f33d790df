"""SQLite of TIAToolbox: its ``SQLiteStore``, without TIAToolbox."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import shapely

from monai_ext.exchange.results import NO_CLASS, Results
from monai_ext.formats.geojson import Features

__all__ = ["write"]

# tables, columns and settings of tiatoolbox 2.1 (tiatoolbox/annotation/storage.py, version 1.0.1 of its stores)
_TABLES = """
CREATE TABLE metadata (key TEXT UNIQUE, value TEXT);
CREATE VIRTUAL TABLE rtree USING rtree(id, min_x, max_x, min_y, max_y);
CREATE TABLE annotations(
    id INTEGER PRIMARY KEY,
    key TEXT UNIQUE,
    objtype TEXT,
    cx FLOAT NOT NULL,
    cy FLOAT NOT NULL,
    geometry BLOB,
    properties TEXT,
    area FLOAT NOT NULL
);
"""
_AFTER = "CREATE INDEX area ON annotations(area);"


def write(results: Results, path: Path) -> None:
    """Write the objects as they come: class, name and measurements are properties, ``type`` being the class.

    Args:
        results: what there is.
        path: the file.
    """
    settings = {"version": "1.0.1", "compression": None, "compression_level": 9}
    with closing(sqlite3.connect(path)) as store:
        store.execute("PRAGMA journal_mode = OFF")  # the file has another name until it is whole
        store.executescript(_TABLES)
        store.executemany("INSERT INTO metadata VALUES (?, ?)", [(k, json.dumps(v)) for k, v in settings.items()])
        first = 1
        for features in results.batches():
            rows, boxes = zip(*_rows(features, first), strict=True)
            store.executemany("INSERT INTO annotations VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            store.executemany("INSERT INTO rtree VALUES (?, ?, ?, ?, ?)", boxes)
            first += len(features)
        store.executescript(_AFTER)
        store.commit()


def _rows(features: Features, first: int) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """Of each object its row, and its box."""
    geometry = features.geometry
    places = shapely.get_coordinates(shapely.centroid(geometry)).tolist()
    measured = {name: values.tolist() for name, values in features.measurements.items()}
    kinds = [shape.geom_type for shape in geometry]
    columns = zip(places, shapely.to_wkb(geometry), kinds, shapely.area(geometry).tolist(), strict=True)
    bounds = shapely.bounds(geometry)
    # the tree holds single precision, and finds nothing of an object that reaches out of its box
    low, high = np.floor(bounds[:, :2]).tolist(), np.ceil(bounds[:, 2:]).tolist()
    for index, ((x, y), wkb, kind, area) in enumerate(columns):
        name = features.classes[index]
        properties: dict[str, Any] = {"type": NO_CLASS if name is None else name}
        if features.names[index] is not None:
            properties["name"] = features.names[index]
        properties |= {key: column[index] for key, column in measured.items() if column[index] == column[index]}
        number = first + index
        key = features.ids[index] or str(uuid.uuid5(uuid.NAMESPACE_OID, f"{number} {wkb.hex()}"))
        row = (number, key, kind, x, y, wkb, orjson.dumps(properties).decode(), area)
        yield row, (number, low[index][0], high[index][0], low[index][1], high[index][1])
