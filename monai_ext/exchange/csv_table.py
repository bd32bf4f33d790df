"""A table of objects for spreadsheets, R and pandas."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import shapely

from monai_ext.exchange.results import NO_CLASS, Results

__all__ = ["write"]


def write(results: Results, path: Path) -> None:
    """Write a row for each object: class, name, type, centroid ``x, y``, measurements, outline as WKT; px of the file.

    A measurement that an object lacks is empty. UTF-8, parted by commas.

    Args:
        results: what there is; read 20,000 objects at a time.
        path: the file.
    """
    import pandas as pd

    measured = results.survey.measurements
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerow(["class", "name", "type", "x", "y", *measured, "outline"])
        for features in results.batches():
            classes = [NO_CLASS if name is None else name for name in features.classes]
            centres = shapely.get_coordinates(shapely.centroid(features.geometry)).round(2)
            columns = [classes, features.names, features.object_types, *centres.T]
            columns += [features.measurements.get(name, np.full(len(features), np.nan)) for name in measured]
            columns += [shapely.to_wkt(features.geometry, rounding_precision=-1)]
            pd.DataFrame(dict(enumerate(columns))).to_csv(file, index=False, header=False)
