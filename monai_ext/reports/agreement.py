"""Outlines of cells against other outlines: how far two segmentations of the same images agree."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely
import torch
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

from monai_ext.base.dicom_heads import taken_as_dicom
from monai_ext.base.errors import DataListError, InputError
from monai_ext.base.files import atomic_path
from monai_ext.base.flags import as_flag
from monai_ext.data.run_state import RunState
from monai_ext.formats.annotation_checks import Identities, same_unit, spelling_problems
from monai_ext.formats.annotation_files import annotated_images, annotation_stem, find_annotations
from monai_ext.formats.dicom_levels import is_dicom_slide, slides_in
from monai_ext.formats.find import find_images
from monai_ext.formats.geojson import Features
from monai_ext.formats.outlines import polygons_to_label_map
from monai_ext.formats.roles import Annotated, read_objects, with_nuclei
from monai_ext.formats.suffixes import DICOM_SUFFIX, without_suffix
from monai_ext.metrics.bootstrap import Interval, bootstrap_ci
from monai_ext.metrics.detection import detection_scores, match_detections
from monai_ext.metrics.instance import AggregatedJaccardIndex, Overlaps, PanopticQuality, panoptic_scores
from monai_ext.reports.pages import write_metrics, write_report

__all__ = ["compare_cells", "inside_regions", "match_outlines", "outline_overlaps"]

_WINDOW = 2048  # px of a drawing
_OUTLINES = ("nuclei", "cells")
_NOT_OBJECTS = ("state.json", "metrics.json")
_COUNTS = ("tp", "fp", "fn")
_PIXELS = ("both", "found", "true")
_BARS = {"iou": "IoU", "dice": "Dice"}


def compare_cells(
    results: str | Mapping[str, str],
    reference: str,
    dst: str,
    radius_px: float = 12.0,
    scale: float = 1.0,
    outlines: str = "nuclei",
    split_parts: bool = False,
) -> str:
    """Compare outlines with a reference, such as QuPath's own segmentation (distillation paper, Fig. 4).

    IoU and Dice are of the masks, over the pixels of all images; AJI and PQ are means over images; F1 is over all
    cells, one being found where a centroid lies within ``radius_px`` of its own, and by IoU above .5 (``f1_by_iou``).
    95 % bootstrap intervals are over images. Where both sides have classes, those of cells that match by IoU are
    tabulated.

    Regions drawn around objects (:func:`~monai_ext.formats.roles.split_roles`) are not compared. Where all objects of
    the reference lie in its regions, results outside these are left out, as nobody looked there.

    Args:
        results: a file in GeoJSON (``.geojson``, ``.json``, or these with ``.gz``) or of annotations or a segmentation
            in DICOM, a folder of such files, or ``{name: file or folder, ...}`` for several side by side.
        reference: such a file, or a folder of files of the same names. What is in DICOM may have any name: it names its
            slide, which lies there or is where the run of ``results`` found it.
        dst: folder to write: ``scores.csv``, ``metrics.json``, ``agreement.png``, ``report.html``.
        radius_px: of the centroids, px of level 0.
        scale: px of level 0 per px that the outlines are drawn with.
        outlines: ``"nuclei"`` or ``"cells"``: of QuPath's cells the outline of the nucleus, or that of the cell. Other
            objects have one outline only.
        split_parts: every part of a MultiPolygon is an object of its own, where a file has one for each class.

    Returns:
        the path of ``metrics.json``.

    Raises:
        InputError: files that are missing or hold no objects, or no outlines in the reference.
        DataListError: files of different images or in different units, and classes that are spelled in two ways.
    """
    named = {Path(results).stem: results} if isinstance(results, str | Path) else dict(results)
    if not named or not scale > 0 or not radius_px >= 0:
        raise InputError("--results, --scale, --radius_px", "some results, positive numbers", f"{results!r:.80}")
    if outlines not in _OUTLINES:
        raise InputError("--outlines", " or ".join(_OUTLINES), repr(outlines))
    split_parts = as_flag(split_parts, "split_parts")
    rows, pairs, compared, beyond = [], [], {}, Counter()
    problems, names, identities = [], Counter(), {side: Identities() for side in (*named, None)}
    for name, folder in named.items():
        for image, slide, predicted, true in tqdm(
            _matched(Path(folder), Path(reference)), desc=name, unit="image", disable=None
        ):
            try:
                one, other = (read_objects(path, split=split_parts, slide=slide) for path in (predicted, true))
            except InputError as error:
                problems.append(str(error))
                continue
            for side, path, objects in ((name, predicted, one.objects), (None, true, other.objects)):
                problems += identities[side].add(objects, path, image)
                names.update(objects.classes)
            problems += same_unit(one.objects, other.objects, predicted, true)
            inside = inside_regions(one.objects, other)
            sides = {f"results, {name}": one.objects[inside], "reference": other.objects}
            for side, objects in sides.items():
                compared.setdefault(side, Counter()).update(_kinds(objects, outlines))
            beyond[name] += int((~inside).sum())
            if outlines == "nuclei":
                sides = {side: with_nuclei(objects) for side, objects in sides.items()}
            row, classes = _scores(*sides.values(), radius_px, scale)
            rows.append({"name": name, "image": image, **row})
            pairs += [(name, *pair) for pair in classes]
    problems += spelling_problems(names, reference)
    if problems:
        raise DataListError(reference, list(dict.fromkeys(problems)))
    table, out = pd.DataFrame(rows), Path(dst)
    if not table["true_cells"].any():
        raise InputError(reference, "outlines of cells", "none")
    metrics = {name: _intervals(scores) for name, scores in table.groupby("name", sort=False)}
    notes = {"Reference": reference, **{f"Results, {name}": str(folder) for name, folder in named.items()}}
    notes |= _compared(outlines, compared)
    notes |= {f"Beyond the reference's regions, {name}": f"{n} left out" for name, n in beyond.items() if n}
    confusion = {name: _confusion([pair[1:] for pair in pairs if pair[0] == name]) for name in named}
    with atomic_path(out / "scores.csv") as temporary:
        table.to_csv(temporary, index=False)
    with atomic_path(out / "agreement.png") as temporary:
        picture = _bars(metrics)
        Image.fromarray(picture).save(temporary, format="png")
    write_metrics(out / "metrics.json", {**metrics, "classes": confusion, "notes": notes})
    tabulated = {f"Classes of {name}, by those of the reference": frame for name, frame in confusion.items() if frame}
    write_report(
        out / "report.html",
        title="Agreement of cells",
        metrics=metrics,
        tables={**{title: pd.DataFrame(counts).T for title, counts in tabulated.items()}, "Images": table.round(4)},
        cases={"Agreement of the masks": [(picture, "IoU and Dice with 95 % intervals over images")]},
        notes=notes,
    )
    texts = [{"name": name, **{key: _text(value) for key, value in scores.items()}} for name, scores in metrics.items()]
    print(pd.DataFrame(texts).to_string(index=False))
    print("\n".join(f"{key}: {text}" for key, text in notes.items() if not key.startswith(("Reference", "Results"))))
    return str(out / "metrics.json")


def _matched(results: Path, reference: Path) -> list[tuple[str, Path | None, Path, Path]]:
    """Name, slide (where one side is in DICOM, and it is at hand), result and reference of each image.

    Of those that both have, if the reference is a folder.
    """
    slides = _slides(results, reference)
    if reference.is_file():
        name = next(iter(_by_image([reference], slides)))
        if results.is_dir():
            results = _by_image(_paths(results), slides).get(name, results / f"{name}.geojson")
        elif results.is_file() and (own := next(iter(_by_image([results], slides)))) in slides:
            name = own  # which the reference must be of, whatever it names
        return [(name, slides.get(name), results, reference)]
    if not reference.is_dir():
        raise InputError(reference, "a GeoJSON or DICOM file, or a folder of them (--reference)", "nothing there")
    if not results.is_dir():
        raise InputError(results, "a folder of results, as the reference is one", "no folder")
    predicted, true = (_by_image(_paths(side), slides) for side in (results, reference))
    both = sorted(set(predicted) & set(true))
    if not both:
        raise InputError(results, f"files named as those in {reference}", ", ".join(sorted(predicted)[:3]) or "none")
    return [(name, slides.get(name), predicted[name], true[name]) for name in both]


def _slides(results: Path, reference: Path) -> dict[str, Path]:
    """The images by name that annotations in DICOM may be of: those of the run, and slides that lie with them."""
    sides = [side for side in (results, reference) if side.exists()]
    if not any(map(taken_as_dicom, chain.from_iterable(map(_paths, sides)))):
        return {}
    images = [Path(path) for path in RunState(results if results.is_dir() else results.parent).read()]
    slides: list[Path] = []
    for side in sides:
        slides += find_images(side, None, (DICOM_SUFFIX,)) if side.is_dir() else slides_in(side.parent).values()
    images = [path for path in images if path.exists()] + [path for path in slides if is_dicom_slide(path)]
    return {without_suffix(path).name: path for path in images}


def _paths(side: Path) -> list[Path]:
    """The files of annotations of a side."""
    return [path for path in find_annotations(side) if path.name not in _NOT_OBJECTS] if side.is_dir() else [side]


def _by_image(paths: Iterable[Path], slides: Mapping[str, Path]) -> dict[str, Path]:
    """Files of annotations by the image that they are of.

    Raises:
        InputError: two of one image.
    """
    named: dict[str, Path] = {}
    for path, image in annotated_images(paths, slides).items():
        name = annotation_stem(path) if image is None else image
        if (first := named.setdefault(name, path)) is not path:
            raise InputError(path, f"one file of {name}", f"also {first}")
    return named


def inside_regions(results: Features, reference: Annotated) -> np.ndarray:
    """Which results lie where the reference was made: in its regions, if all its objects do; else anywhere."""
    if not len(reference.regions) or not len(reference.objects):
        return np.ones(len(results), dtype=bool)
    tree = shapely.STRtree(reference.regions.geometry)
    true, here = (
        np.isin(np.arange(len(side)), tree.query(shapely.centroid(side.geometry), predicate="intersects")[0])
        for side in (reference.objects, results)
    )
    return here if true.all() else np.ones(len(results), dtype=bool)


def _kinds(objects: Features, outlines: str) -> Counter[str]:
    """How many objects are compared by which outline."""
    kinds = Counter(f"{kind}s" for kind in objects.object_types)
    nuclei = int((~shapely.is_missing(objects.nuclei)).sum())
    if outlines == "nuclei" and kinds["cells"]:
        kinds |= {"nuclei of cells": nuclei, "cells without a nucleus": kinds.pop("cells") - nuclei}
    return +kinds


def _compared(outlines: str, compared: Mapping[str, Counter[str]]) -> dict[str, str]:
    """What was compared, and a message where it is not like with like."""
    texts = {side: ", ".join(f"{number} {kind}" for kind, number in kinds.items()) for side, kinds in compared.items()}
    cells = {side: bool(kinds["cells"] or kinds["cells without a nucleus"]) for side, kinds in compared.items()}
    if len(set(cells.values())) > 1:
        sides = " and ".join(side for side, whole in cells.items() if whole)
        print(f"outlines of whole cells in the {sides} are compared with those of other objects", file=sys.stderr)
    return {"Outlines": outlines, **{f"Compared, {side}": text or "none" for side, text in texts.items()}}


def outline_overlaps(
    found: np.ndarray, true: np.ndarray, scale: float = 1.0
) -> tuple[Overlaps, np.ndarray, np.ndarray]:
    """Count the pixels that outlines share, drawn window by window, so that memory does not grow with the slide.

    Args:
        found: ``(P,)`` shapely geometries in px of level 0.
        true: ``(T,)`` likewise.
        scale: px of level 0 per px that they are drawn with.

    Returns:
        The overlaps, as of two instance maps, and the indices of the outlines that each side's instances are; those
        that cover no pixel's centre are left out. Where outlines of one side overlap, the smaller is seen.
    """
    sides = [np.asarray(side, dtype=object) for side in (found, true)]
    trees = [shapely.STRtree(side) for side in sides]
    areas = [np.zeros(len(side), np.int64) for side in sides]
    keys, shared = [], []
    for top, left in _windows(np.concatenate(sides), scale):
        box = shapely.box(left * scale, top * scale, (left + _WINDOW) * scale, (top + _WINDOW) * scale)
        maps = []
        for side, tree, area in zip(sides, trees, areas, strict=True):
            near = np.sort(tree.query(box))
            drawn = polygons_to_label_map(side[near], (_WINDOW, _WINDOW), (top * scale, left * scale), scale)
            maps.append(np.concatenate([[-1], near])[drawn].reshape(-1))
            np.add(area, np.bincount(maps[-1][maps[-1] >= 0], minlength=len(side)), out=area)
        both = (maps[0] >= 0) & (maps[1] >= 0)
        key, number = np.unique(maps[1][both] * max(1, len(sides[0])) + maps[0][both], return_counts=True)
        keys.append(key)
        shared.append(number)
    key, where = np.unique(np.concatenate(keys or [np.zeros(0, np.int64)]), return_inverse=True)
    area = np.bincount(where, np.concatenate(shared or [np.zeros(0)]), minlength=len(key)).astype(np.int64)
    seen = [np.flatnonzero(covered) for covered in areas]
    ranks = [np.cumsum(covered > 0) - 1 for covered in areas]
    one, other = key % max(1, len(sides[0])), key // max(1, len(sides[0]))
    columns = (areas[0][seen[0]], areas[1][seen[1]], ranks[0][one], ranks[1][other], area)
    return Overlaps(*(torch.from_numpy(column) for column in columns)), *seen


def match_outlines(overlaps: Overlaps, found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Which outlines match, as PQ has it: by an IoU above .5, which no outline has with two others.

    Args:
        overlaps: of :func:`outline_overlaps`, as the others.
        found: ``(P,)`` the outline that each instance of the one side is.
        true: ``(T,)`` likewise of the other.

    Returns:
        ``(K, 2)`` of values of ``found`` and ``true``.
    """
    match = (2 * overlaps.area > overlaps.union).numpy()
    return np.stack([found[overlaps.pred.numpy()[match]], true[overlaps.true.numpy()[match]]], axis=1)


def _windows(geometry: np.ndarray, scale: float) -> Iterator[tuple[int, int]]:
    """Upper left corners, px of the drawing, of the windows that anything lies in."""
    bounds = shapely.bounds(geometry[~shapely.is_empty(geometry)]) / (scale * _WINDOW)
    first, last = np.floor(bounds[:, :2]).astype(int), np.floor(bounds[:, 2:]).astype(int)
    # most objects are in one window: only the others need a loop
    small = (first == last).all(axis=1)
    places = set(map(tuple, np.unique(first[small], axis=0).tolist()))
    for (left, top), (right, bottom) in zip(first[~small].tolist(), last[~small].tolist(), strict=True):
        places.update(product(range(left, right + 1), range(top, bottom + 1)))
    yield from sorted((row * _WINDOW, col * _WINDOW) for col, row in places)


def _scores(predicted: Features, true: Features, radius: float, scale: float) -> tuple[dict[str, Any], list[tuple]]:
    """The scores of one image, and the classes of each pair of cells that match."""
    sides = [side[np.isin(shapely.get_type_id(side.geometry), (3, 6))] for side in (predicted, true)]
    overlaps, *seen = outline_overlaps(*(side.geometry for side in sides), scale)
    sums = [int(part.sum()) for part in (overlaps.area, overlaps.pred_area, overlaps.true_area)]
    union = sums[1] + sums[2] - sums[0]
    near = len(match_detections(*(side.points() for side in sides), radius))
    counts = PanopticQuality.score(overlaps)
    detection_counts = [near, len(sides[0]) - near, len(sides[1]) - near]
    row = {
        "iou": sums[0] / union if union else 1.0,
        "dice": 2 * sums[0] / (sums[1] + sums[2]) if union else 1.0,
        "aji": AggregatedJaccardIndex.score(overlaps).item(),
        "pq": panoptic_scores(counts)["pq"].item(),
        "f1": float(detection_scores(detection_counts)["f1"]),
        "found_cells": len(sides[0]),
        "true_cells": len(sides[1]),
        **dict(zip(_COUNTS, detection_counts, strict=True)),
        **{f"iou_{name}": int(value) for name, value in zip(_COUNTS, counts[:3], strict=True)},
        **{f"pixels_{name}": value for name, value in zip(_PIXELS, sums, strict=True)},
    }
    one, other = match_outlines(overlaps, *seen).T
    pairs = zip(sides[1].classes[other], sides[0].classes[one], strict=True)
    return row, [pair for pair in pairs if None not in pair]


def _intervals(table: pd.DataFrame) -> dict[str, Any]:
    """Each score over the images with its interval."""
    pixels = table[[f"pixels_{name}" for name in _PIXELS]].to_numpy()

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        return np.where(below > 0, above / np.maximum(below, 1), 1.0)

    counts = {"f1": list(_COUNTS), "f1_by_iou": [f"iou_{name}" for name in _COUNTS]}
    return {
        "iou": bootstrap_ci(pixels, statistic=lambda s: ratio(s[..., 0], s[..., 1] + s[..., 2] - s[..., 0])),
        "dice": bootstrap_ci(pixels, statistic=lambda s: ratio(2 * s[..., 0], s[..., 1] + s[..., 2])),
        "aji": bootstrap_ci(table["aji"].to_numpy()),
        "pq": bootstrap_ci(table["pq"].to_numpy()),
        **{
            name: bootstrap_ci(table[columns].to_numpy(), statistic=lambda s: detection_scores(s)["f1"])
            for name, columns in counts.items()
        },
        "images": len(table),
        "found_cells": int(table["found_cells"].sum()),
        "true_cells": int(table["true_cells"].sum()),
    }


def _confusion(pairs: list[tuple[str, str]]) -> dict[str, dict[str, int]]:
    """How many cells of each class of the reference (rows) have each class in the results."""
    counts = Counter(pairs)
    rows, columns = (sorted({pair[k] for pair in counts}) for k in (0, 1))
    return {row: {column: counts[row, column] for column in columns} for row in rows}


def _bars(metrics: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
    """IoU and Dice of each name side by side, uint8 RGB."""
    figure = Figure(figsize=(1.8 + 1.1 * len(metrics), 3.4), layout="constrained", dpi=160)
    axes = figure.subplots()
    for k, (key, label) in enumerate(_BARS.items()):
        scores: list[Interval] = [row[key] for row in metrics.values()]
        values = np.array([score.value for score in scores])
        spread = np.array([(0, 0) if s.low is None else (s.value - s.low, s.high - s.value) for s in scores]).clip(0)
        positions = np.arange(len(values)) + 0.38 * (k - 0.5)
        bars = axes.bar(positions, values, 0.36, yerr=spread.T, capsize=3, label=label, color=("#2f7fc1", "#d9742b")[k])
        axes.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
    axes.set_xticks(range(len(metrics)), list(metrics), fontsize=8)
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("agreement with the reference")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, ncols=2, loc="upper center", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.array(Image.open(buffer).convert("RGB"))


def _text(value: Any) -> str:
    if not isinstance(value, Interval):
        return str(value)
    return f"{value.value:.3f}" + ("" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]")
