"""Write results in all formats, for read.py, which other programs run: ``python tests/peers/write.py FOLDER``."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import shapely

from monai_ext.exchange import FORMATS, Exchange, Results
from monai_ext.formats import Features, HeatMap, write_geojson, write_ome_tiff

SHAPE, MPP, CELL = (400, 600), (0.25, 0.25), 8


def cells() -> Features:
    """Discs in rows, a region with two holes, one of two parts, points."""
    centres = [(x + 0.25, y + 0.5) for y in range(40, 200, 40) for x in range(40, 580, 30)]
    discs = [shapely.Point(centre).buffer(9) for centre in centres]
    region = shapely.box(50, 220, 350, 380) - shapely.box(80, 250, 120, 300) - shapely.box(200, 240, 260, 330)
    pair = shapely.MultiPolygon([shapely.box(400, 220, 440, 260), shapely.box(460, 220, 470, 225)])
    geometry = [*discs, region, pair, shapely.Point(500.5, 300.25), shapely.Point(520, 310)]
    classes = [("tumor_any", "sTIL", "other_nucleus")[k % 3] for k in range(len(discs))]
    numbers = np.arange(len(geometry), dtype=float)
    return Features(
        geometry,
        classes=[*classes, "Tumor", None, "Mitosis", "Mitosis"],
        measurements={"area_um2": shapely.area(geometry) / 16, "number": np.where(numbers % 7 == 3, np.nan, numbers)},
        object_types="detection",
        colors={"Tumor": (200, 0, 0), "sTIL": (30, 90, 255)},
    )


def main(folder: Path) -> None:
    """Write ``a.geojson`` and every format of it."""
    path = write_geojson(folder / "a.geojson", cells())
    with HeatMap(folder / "heat.npy", (1, SHAPE[0] // CELL, SHAPE[1] // CELL)) as heat:
        heat.write(0, 10, 20, np.ones((5, 5)))
        write_ome_tiff(folder / "a_heatmap.ome.tif", [heat], CELL * MPP[0], "a", ["Tumor"])
    known = {"shape": SHAPE, "mpp": MPP, "heatmap": folder / "a_heatmap.ome.tif", "cell": (CELL, CELL)}
    for file in Exchange(list(FORMATS)).write(Results(path, "a", **known), folder / "a"):
        print(file)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
