"""What a slide's map becomes: heat map, regions, detections, picture, numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from monai_ext.base.errors import InputError
from monai_ext.base.files import write_png
from monai_ext.data.result_files import HEATMAP, OVERLAY
from monai_ext.formats.geojson import Features, GeoJSONWriter, to_xy
from monai_ext.formats.heatmap import HeatMap, halve
from monai_ext.formats.hotspot import HotSpot, hot_spot
from monai_ext.formats.ome import write_ome_tiff
from monai_ext.slides.detections import iterative_nms
from monai_ext.slides.overlay import slide_overlay
from monai_ext.slides.plan import SlidePlan
from monai_ext.slides.regions import Regions, find_regions

__all__ = ["OUTPUTS", "OutputSettings", "write_outputs"]

#: What the names of a slide's files end with.
OUTPUTS = (HEATMAP, ".geojson", "_detections.csv", OVERLAY, "_plan.json")
_SMALLEST = 256  # cells; the heat map's pyramid ends where no side is larger
_LEAST_MM2 = 1e-6  # a hot spot's
_MOST_CELLS = 1 << 24  # of the map in which regions and detections are searched


@dataclass(frozen=True)
class OutputSettings:
    """What counts as a detection or a region.

    Args:
        threshold: regions are where the map is above it.
        objects: what a detection is: a ``"peak"`` of the map, by iterative non-maximum suppression, scored by its
            height; or a ``"region"``, at the mean position of its cells weighted by their values, scored by their mean.
        detection_threshold: peaks are above it; by default ``threshold``.
        nms_radius_um: peaks are further apart than this along rows or columns.
        min_area_um2: regions are larger.
        min_score: regions have a higher mean.
        hotspot_mm2: area of the circle that holds the most detections; ``None`` for no such circle.
        channel: of the map that all of this is about.
        classification: QuPath class of regions and detections.
        colour: RGB of that class, 0 to 255.

    Raises:
        InputError: other ``objects``, a threshold that is not in 0 ... 1, or a negative length or area.
    """

    threshold: float = 0.5
    objects: str = "peak"
    detection_threshold: float | None = None
    nms_radius_um: float = 75.0
    min_area_um2: float = 0.0
    min_score: float = 0.0
    hotspot_mm2: float | None = None
    channel: int = 0
    classification: str = "Tumor"
    colour: Sequence[int] = (200, 0, 0)

    def __post_init__(self) -> None:
        if self.objects not in ("peak", "region"):
            raise InputError("OutputSettings objects", "'peak' or 'region'", repr(self.objects))
        for name in ("threshold", "detection_threshold", "min_score"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= 1):
                raise InputError(f"OutputSettings {name}", "a probability in 0 ... 1", repr(value))
        # here, as the map would be lost where it came out at the end
        for name, least in (("nms_radius_um", 0), ("min_area_um2", 0), ("hotspot_mm2", _LEAST_MM2)):
            value = getattr(self, name)
            optional = name == "hotspot_mm2" and value is None
            if not optional and not (isinstance(value, int | float) and least <= value < math.inf):
                raise InputError(f"OutputSettings {name}", f"a number of at least {least:g}", repr(value))


@dataclass(frozen=True)
class _Detections:
    """Detections, the highest score first.

    Attributes:
        points: ``(N, 2)`` ``row, col`` in px of level 0.
        scores: ``(N,)``.
        measured: further measurements of each.
    """

    points: np.ndarray
    scores: np.ndarray
    measured: dict[str, np.ndarray]


def write_outputs(
    folder: Path, heat: HeatMap, plan: SlidePlan, settings: OutputSettings, thumbnail: tuple[np.ndarray, float]
) -> dict[str, Any]:
    """Write a slide's files into a folder, as ``output`` and each of :data:`OUTPUTS`; equal maps give equal bytes.

    Peaks, and the regions around them, are sought in the map itself or, where that has more than 16 million cells, in
    the first reduced level that has not, whose cells hold the largest of the values they replace. Regions that are
    detections have an area that counts: they are always sought in the map itself, strip by strip.

    Args:
        folder: the files and what is needed to make them go here.
        heat: the finished map.
        plan: its geometry.
        settings: what counts as a detection or a region.
        thumbnail: uint8 ``(3, H, W)`` of the slide, and px of level 0 per px of it.

    Files have places in px of the file; where its resolution is unknown nothing is given in um.

    Returns:
        ``score`` (the map's maximum), ``mean`` (over the tissue), ``positive_mm2`` (above the threshold),
        ``tissue_mm2``, ``regions``, ``detections`` (how many), ``density_per_mm2`` (detections per mm2 of tissue,
        ``None`` without) and, with ``hotspot_mm2``, what :class:`~monai_ext.formats.hotspot.HotSpot` says, in px of
        the file, its radius in those of the shorter side. Areas and densities are ``None`` where the resolution is
        unknown.

    Raises:
        OSError: the disk is full.
    """
    heatmap, geojson, csv, picture, plan_json = (folder / f"output{suffix}" for suffix in OUTPUTS)
    summary = _statistics(heat, plan, settings)
    with _pyramid(heat, folder) as levels:
        names = [settings.classification if heat.shape[0] == 1 else f"channel {k}" for k in range(heat.shape[0])]
        write_ome_tiff(heatmap, levels, plan.cell_um if plan.measured else None, f"{plan.file} heat map", names)
        number = next(k for k, level in enumerate(levels) if np.prod(level.shape[1:]) <= _MOST_CELLS)
        values = levels[number].rows(0, levels[number].shape[1], settings.channel)
        fine = number if settings.objects == "peak" else 0
        cell_um2 = (plan.cell_um * 2**fine) ** 2
        regions = find_regions(
            levels[fine].strips(settings.channel),
            settings.threshold,
            plan.cell_scale * 2**fine,
            plan.level0_shape,
            settings.min_area_um2 / cell_um2,
            settings.min_score,
        )
    areas = regions.cells * (cell_um2 if plan.measured else np.nan)
    detections = (
        _peaks(values, plan, 2**number, settings) if settings.objects == "peak" else _centres(regions, areas, plan)
    )

    _write_geojson(geojson, regions, areas, detections, settings, plan.stretch)
    on_file = _on_file(detections.points, plan)
    table = {"row": on_file[:, 0], "col": on_file[:, 1]}
    table |= dict(zip("xy", to_xy(on_file).T, strict=True)) | {"score": detections.scores} | detections.measured
    pd.DataFrame(table).astype(np.float64).round(6).to_csv(csv, index=False)
    spot, spot_row = None, {}
    if settings.hotspot_mm2 is not None and plan.measured:
        spot = hot_spot(detections.points, plan.level0_shape, plan.base_mpp, settings.hotspot_mm2)
        row, col = _on_file(np.array([[spot.row, spot.col]]), plan)[0].tolist()
        spot_row = asdict(spot) | {"row": row, "col": col}
    elif settings.hotspot_mm2 is not None:
        spot_row = dict.fromkeys(HotSpot.__dataclass_fields__)
    heat_scale = plan.cell_scale * 2**number
    look = {"mpp": plan.base_mpp if plan.measured else None, "colour": tuple(settings.colour), "spot": spot}
    write_png(picture, slide_overlay(*thumbnail, values, heat_scale, regions.polygons, detections.points, **look))
    plan_json.write_text(plan.to_json(), encoding="utf-8")
    count = len(detections.points)
    return {
        **summary,
        "regions": len(regions.polygons),
        "detections": count,
        "density_per_mm2": count / plan.tissue_mm2 if plan.tissue_mm2 else None,
        **{f"hotspot_{name}": value for name, value in spot_row.items()},
    }


def _on_file(points: np.ndarray, plan: SlidePlan) -> np.ndarray:
    """Places ``row, col`` on level 0 in px of the file."""
    return points if plan.stretch == (1, 1) else (points + 0.5) / plan.stretch - 0.5


def _peaks(values: np.ndarray, plan: SlidePlan, reduced: int, settings: OutputSettings) -> _Detections:
    threshold = settings.threshold if settings.detection_threshold is None else settings.detection_threshold
    radius = round(settings.nms_radius_um / (plan.cell_um * reduced))
    cells, scores = iterative_nms(values, radius, threshold)
    return _Detections(_places(cells, plan, reduced), scores, {})


def _centres(regions: Regions, areas: np.ndarray, plan: SlidePlan) -> _Detections:
    order = np.lexsort((*regions.centres.T[::-1], -regions.mean))
    return _Detections(_places(regions.centres[order], plan), regions.mean[order], {"area_um2": areas[order]})


def _places(cells: np.ndarray, plan: SlidePlan, reduced: int = 1) -> np.ndarray:
    """Where places ``row, col`` of the map lie on level 0; on its edge where the cell reaches over it."""
    return np.minimum((cells + 0.5) * plan.cell_scale * reduced - 0.5, np.array(plan.level0_shape) - 1)


def _statistics(heat: HeatMap, plan: SlidePlan, settings: OutputSettings) -> dict[str, float | None]:
    score = total = above = 0.0
    for _, strip in heat.strips(settings.channel):
        score = max(score, float(strip.max()))
        total += float(strip.sum(dtype=np.float64))
        above += np.count_nonzero(strip > settings.threshold)
    return {
        "score": score,
        "mean": total / max(plan.tissue_cells, 1),
        "positive_mm2": above * plan.cell_um**2 * 1e-6 if plan.measured else None,
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
    path: Path,
    regions: Regions,
    areas: np.ndarray,
    detections: _Detections,
    settings: OutputSettings,
    stretch: tuple[float, float],
) -> None:
    look = {"classes": settings.classification, "colors": {settings.classification: tuple(settings.colour)}}
    measured = {"area_um2": areas, "mean_score": regions.mean, "max_score": regions.max}
    with GeoJSONWriter(path) as writer:
        kind = "detection" if settings.objects == "region" else "annotation"
        writer.write(Features(regions.polygons, measurements=measured, object_types=kind, **look).on_file(stretch))
        scores = {"score": detections.scores} | detections.measured
        writer.write(Features.from_points(detections.points, measurements=scores, **look).on_file(stretch))
