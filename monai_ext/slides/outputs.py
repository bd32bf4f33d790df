"""What a slide's map becomes: heat map, regions, detections, picture, numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from monai_ext.data.geojson import Features, GeoJSONWriter, to_xy
from monai_ext.slides.detections import iterative_nms
from monai_ext.slides.heatmap import HeatMap, halve
from monai_ext.slides.ome import write_ome_tiff
from monai_ext.slides.overlay import slide_overlay
from monai_ext.slides.plan import SlidePlan
from monai_ext.slides.regions import Regions, find_regions

__all__ = ["OUTPUTS", "OutputSettings", "write_outputs", "write_png"]

#: What the names of a slide's files end with.
OUTPUTS = ("_heatmap.ome.tif", ".geojson", "_detections.csv", "_overlay.png", "_plan.json")
_SMALLEST = 256  # cells; the heat map's pyramid ends where no side is larger
_MOST_CELLS = 1 << 24  # of the map that regions and detections are sought in


@dataclass(frozen=True)
class OutputSettings:
    """What counts as found.

    Args:
        threshold: regions are where the map is above it.
        detection_threshold: detections are above it.
        nms_radius_um: detections are further apart than this along rows or columns.
        channel: of the map that all of this is about.
        classification: QuPath class of regions and detections.
        colour: RGB of that class, 0 to 255.
    """

    threshold: float = 0.5
    detection_threshold: float = 0.5
    nms_radius_um: float = 75.0
    channel: int = 0
    classification: str = "Tumor"
    colour: tuple[int, int, int] = (200, 0, 0)


def write_outputs(
    folder: Path, heat: HeatMap, plan: SlidePlan, settings: OutputSettings, thumbnail: tuple[np.ndarray, float]
) -> dict[str, Any]:
    """Write a slide's files into a folder, as ``output`` and each of :data:`OUTPUTS`; equal maps give equal bytes.

    Regions and detections are sought in the map itself or, where that has more than 16 million cells, in the first
    reduced level that has not, whose cells hold the largest of the values they replace. Memory is bounded either way.

    Args:
        folder: the files and what is needed to make them go here.
        heat: the finished map.
        plan: its geometry.
        settings: what counts as found.
        thumbnail: uint8 ``(3, H, W)`` of the slide, and px of level 0 per px of it.

    Returns:
        ``score`` (the map's maximum), ``mean`` (over the tissue), ``tumour_mm2`` (above the threshold), ``tissue_mm2``,
        ``regions`` and ``detections`` (how many).

    Raises:
        OSError: the disk is full.
    """
    heatmap, geojson, csv, picture, plan_json = (folder / f"output{suffix}" for suffix in OUTPUTS)
    summary = _statistics(heat, plan, settings)
    with _pyramid(heat, folder) as levels:
        names = [settings.classification if heat.shape[0] == 1 else f"channel {k}" for k in range(heat.shape[0])]
        write_ome_tiff(heatmap, levels, plan.cell_um, f"{plan.file} heat map", names)
        number = next(k for k, level in enumerate(levels) if np.prod(level.shape[1:]) <= _MOST_CELLS)
        values = levels[number].rows(0, levels[number].shape[1], settings.channel)
    cell_scale, cell_um = plan.cell_scale * 2**number, plan.cell_um * 2**number
    regions = find_regions(values, settings.threshold, cell_scale, plan.level0_shape)
    cells, scores = iterative_nms(values, round(settings.nms_radius_um / cell_um), settings.detection_threshold)
    # a cell's middle, or the slide's edge where the cell reaches over it
    points = np.minimum((cells + 0.5) * cell_scale - 0.5, np.array(plan.level0_shape) - 1)

    _write_geojson(geojson, regions, (points, scores), cell_um, settings)
    xy = to_xy(points)
    table = {"row": points[:, 0], "col": points[:, 1], "x": xy[:, 0], "y": xy[:, 1], "score": scores}
    pd.DataFrame(table).astype(np.float64).round(6).to_csv(csv, index=False)
    drawn = slide_overlay(*thumbnail, values, regions.labels, points, cell_scale, plan.base_mpp, settings.colour)
    write_png(picture, drawn)
    plan_json.write_text(plan.to_json(), encoding="utf-8")
    return {**summary, "regions": len(regions.polygons), "detections": len(points)}


def _statistics(heat: HeatMap, plan: SlidePlan, settings: OutputSettings) -> dict[str, float]:
    score = total = above = 0.0
    for _, strip in heat.strips(settings.channel):
        score = max(score, float(strip.max()))
        total += float(strip.sum(dtype=np.float64))
        above += np.count_nonzero(strip > settings.threshold)
    return {
        "score": score,
        "mean": total / max(plan.tissue_cells, 1),
        "tumour_mm2": above * plan.cell_um**2 * 1e-6,
        "tissue_mm2": plan.tissue_mm2,
    }


@contextmanager
def _pyramid(heat: HeatMap, folder: Path) -> Iterator[list[HeatMap]]:
    """The map and its reduced levels, each half the one before; their files are removed in the end."""
    with ExitStack() as stack:
        levels = [heat]
        while max(levels[-1].shape[1:]) > _SMALLEST:
            path = folder / f"level{len(levels)}.npy"
            stack.callback(path.unlink, missing_ok=True)
            levels.append(stack.enter_context(halve(levels[-1], path)))
        yield levels


def _write_geojson(
    path: Path, regions: Regions, detections: tuple[np.ndarray, np.ndarray], cell_um: float, settings: OutputSettings
) -> None:
    look = {"classes": settings.classification, "colors": {settings.classification: settings.colour}}
    measured = {"area_um2": regions.cells * cell_um**2, "mean_score": regions.mean, "max_score": regions.max}
    points, scores = detections
    with GeoJSONWriter(path) as writer:
        writer.write(Features(regions.polygons, measurements=measured, **look))
        writer.write(Features.from_points(points, measurements={"score": scores}, **look))


def write_png(path: Path, picture: np.ndarray) -> None:
    """Write uint8 RGB ``(H, W, 3)``."""
    # through Python's file: OpenCV reports a full disk by a return value, if at all
    path.write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())
