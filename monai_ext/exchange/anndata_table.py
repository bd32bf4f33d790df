"""A table of objects for scanpy and squidpy, by anndata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import shapely

from monai_ext.exchange.results import NO_CLASS, Results

__all__ = ["write"]


def write(results: Results, path: Path) -> None:
    """Write objects x measurements.

    ``X`` is float64, NaN where an object lacks a measurement, ``var`` names its columns. ``obs`` has the class, the
    name and the outline as WKT (``geopandas.GeoSeries.from_wkt(adata.obs["outline"])``); ``obsm["spatial"]`` the
    centroids ``x, y`` in px of the file. ``uns["spatial_image"]`` holds the image's name, its shape and um per px,
    where known; ``uns["class_colors"]`` what scanpy draws the classes with.

    Args:
        results: what there is. About 1 kB an object is held in memory.
        path: the file.
    """
    import anndata
    import pandas as pd

    legend, names = results.legend, results.survey.measurements
    count, first = results.survey.count, 0
    matrix, places = np.full((count, len(names)), np.nan), np.zeros((count, 2))
    text: dict[str, list[Any]] = {"class": [], "name": [], "type": [], "outline": []}
    for features in results.batches():
        part = slice(first, first + len(features))
        for name, values in features.measurements.items():
            matrix[part, names.index(name)] = values
        places[part] = shapely.get_coordinates(shapely.centroid(features.geometry))
        text["class"] += [NO_CLASS if name is None else name for name in features.classes]
        text["name"] += ["" if name is None else name for name in features.names]
        text["type"] += features.object_types.tolist()
        text["outline"] += shapely.to_wkt(features.geometry, rounding_precision=-1).tolist()
        first = part.stop
    used = [name for name in legend if name in set(text["class"])]
    obs = pd.DataFrame(text, index=[str(number) for number in range(1, count + 1)])
    obs["class"] = pd.Categorical(obs["class"], used)
    for name in ("name", "type"):
        obs[name] = obs[name].astype("category")
    about: dict[str, Any] = {"image": results.name}
    about |= {} if results.shape is None else {"rows": results.shape[0], "columns": results.shape[1]}
    about |= {} if results.mpp is None else dict(zip(("mpp_row", "mpp_column"), results.mpp, strict=True))
    table = anndata.AnnData(matrix, obs, pd.DataFrame(index=list(names)), obsm={"spatial": places})
    table.uns["spatial_image"] = about
    table.uns["class_colors"] = ["#{:02x}{:02x}{:02x}".format(*legend[name]) for name in used]
    table.write_h5ad(path, compression="gzip")
