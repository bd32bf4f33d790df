"""How good the results of a cohort of slides are, by Camelyon16's two measures, from result files alone."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from monai_ext.base.errors import DataListError, InputError
from monai_ext.base.files import atomic_path
from monai_ext.data.run_state import RunState
from monai_ext.formats.geojson import rasterize
from monai_ext.formats.resolution import file_scale
from monai_ext.formats.roles import read_areas
from monai_ext.formats.suffixes import without_suffix
from monai_ext.metrics.bootstrap import bootstrap_scores, weighted_auc
from monai_ext.metrics.froc import FALSE_ALARMS, SlideLesions, bootstrap_froc, froc_curve, match_lesions
from monai_ext.reports.pages import write_metrics, write_report

__all__ = ["evaluate_slides"]


def evaluate_slides(
    results: str | os.PathLike,
    reference: str | os.PathLike,
    dst: str | os.PathLike,
    part: str = "test",
    mask_um: float = 8.0,
    grow_um: float = 75.0,
    itc_um: float = 200.0,
    classes: Sequence[str] | str | None = None,
) -> str:
    """Evaluate the files that :class:`~monai_ext.slides.SlideInferer` wrote.

    The slide's AUC takes the score of ``summary.csv``, which is the map's maximum (CELNet, section 3.1); the FROC takes
    ``*_detections.csv`` and the annotated outlines, isolated tumour cells left out. Intervals are over slides.

    Args:
        results: folder of ``summary.csv``.
        reference: ``slides.json`` as ``prepare camelyon16`` writes it: a list of ``image``, ``label`` (0 or 1),
            ``annotation`` (GeoJSON in level-0 pixels, DICOM, or null) and ``part``. Slides are matched by their names.
        dst: folder to write: ``metrics.json``, ``slides.csv``, ``froc.csv``, ``report.html``.
        part: which of the slides count; ``"all"`` for all.
        mask_um: um/px of the mask that lesions are drawn in; Camelyon16's level 5 has 7.8.
        grow_um: regions closer than this are one lesion, um.
        itc_um: size of isolated tumour cells, um.
        classes: names of the classifications that are tumour; None for every area that was drawn
            (:func:`~monai_ext.formats.roles.read_areas`).

    Returns:
        the path of ``metrics.json``.

    Raises:
        InputError: no results, or no reference.
        DataListError: slides without results, tumour slides without annotation; all of them.
    """
    results, reference, dst = Path(results), Path(reference), Path(dst)
    classes = [classes] if isinstance(classes, str) else classes
    table, entries = _read(results, reference, part)
    rows, lesions = [], []
    for entry in tqdm(entries, desc="slides", unit="slide"):
        row = table.loc[without_suffix(entry["image"]).name]
        slide = _lesions(results, reference.parent, entry, row, (mask_um, grow_um, itc_um), classes)
        lesions.append(slide)
        rows.append(
            {
                "slide": Path(entry["image"]).name,
                "group": str(entry.get("group", without_suffix(entry["image"]).name)),
                "label": int(entry["label"]),
                "score": float(row["score"]),
                "lesions": len(slide.found),
                "isolated": slide.ignored,
                "found": int((slide.found > 0).sum()),
                "false": len(slide.false),
            }
        )
    slides = pd.DataFrame(rows)
    alarms, sensitivity = froc_curve(lesions)
    metrics: dict[str, Any] = {
        "auc": bootstrap_scores([slides], weighted_auc),
        "froc": bootstrap_froc(lesions),
        "sensitivity_at": {
            f"{rate:g}_false_alarms": float(np.interp(rate, alarms[::-1], sensitivity[::-1])) for rate in FALSE_ALARMS
        },
        "slides": len(slides),
        "with_tumour": int(slides["label"].sum()),
        "lesions": int(slides["lesions"].sum()),
        "isolated_tumour_cells": int(slides["isolated"].sum()),
    }
    notes = {"Results": str(results), "Reference": f"{reference}, {part}"}
    write_metrics(dst / "metrics.json", {**metrics, "notes": notes})
    for name, frame in (
        ("slides.csv", slides),
        ("froc.csv", pd.DataFrame({"false_alarms_per_slide": alarms, "sensitivity": sensitivity})),
    ):
        with atomic_path(dst / name) as temporary:
            frame.to_csv(temporary, index=False)
    write_report(
        dst / "report.html",
        title="Slides",
        metrics=metrics,
        curves_title="FROC",
        curves={"sensitivity at false alarms per slide": list(zip(alarms[::-1], sensitivity[::-1], strict=True))},
        tables={"Slides": slides.sort_values("score", ascending=False).round(4)},
        notes=notes,
    )
    for name in ("auc", "froc"):
        interval = metrics[name]
        if interval.value is not None:
            spread = "" if interval.low is None else f" [{interval.low:.3f}, {interval.high:.3f}]"
            print(f"{name.upper()} {interval.value:.3f}{spread} over {len(slides)} slides")
    return str(dst / "metrics.json")


def _read(results: Path, reference: Path, part: str) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    summary = results / "summary.csv"
    RunState(results).export()  # of a run that was killed
    if not summary.is_file():
        raise InputError(summary, "the results of a run over slides", "no such file")
    if not reference.is_file():
        raise InputError(reference, "the list of slides that `prepare camelyon16` writes", "no such file")
    table = pd.read_csv(summary)
    table.index = pd.Index([without_suffix(str(image)).name for image in table["image"]])
    try:
        listed = json.loads(reference.read_text(encoding="utf-8"))
        entries = [entry for entry in listed if part in ("all", entry["part"])]
        problems = [
            f"{summary}: expected a row for {entry['image']}, found none"
            for entry in entries
            if without_suffix(entry["image"]).name not in table.index
        ]
        problems += [
            f"{reference}: expected an annotation of {entry['image']}, which has tumour, found none"
            for entry in entries
            if entry["label"] and not entry.get("annotation")
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(reference, "a list of slides with image, label, annotation, part", repr(error)) from error
    if not entries:
        raise InputError(reference, f"slides of part {part!r}", "none")
    repeated = table.index[table.index.duplicated()].unique()
    problems += [f"{summary}: expected one row for {name}, found several" for name in repeated]
    if problems:
        raise DataListError(reference, problems)
    return table, entries


def _lesions(
    results: Path,
    folder: Path,
    entry: dict[str, Any],
    row: pd.Series,
    sizes: tuple[float, float, float],
    classes: Sequence[str] | None,
) -> SlideLesions:
    mask_um, grow_um, itc_um = sizes
    stem = results / without_suffix(str(row["image"]))
    detections = pd.read_csv(stem.with_name(f"{stem.name}_detections.csv"))
    scores, places = detections["score"].to_numpy(float), detections[["row", "col"]].to_numpy(float)
    if not entry["label"]:
        return SlideLesions(scores, np.zeros(0), 0)
    plan = json.loads(stem.with_name(f"{stem.name}_plan.json").read_text(encoding="utf-8"))
    scale = mask_um / plan["base_mpp"]
    shape = tuple(int(np.ceil(side / scale)) for side in plan["level0_shape"])
    on_file = file_scale(scale, tuple(plan.get("stretch", (1, 1))))  # places and annotations are in px of the file
    path = folder / entry["annotation"]
    areas = read_areas(path, classes, folder / entry["image"] if "image" in entry else None)
    if not len(areas):
        raise InputError(path, f"outlines of {' or '.join(classes or ['tumour'])}", "none")
    tumour = rasterize(areas, shape, scale=on_file)[0] > 0
    return match_lesions(scores, (places + 0.5) / np.asarray(on_file) - 0.5, tumour, mask_um, grow_um, itc_um)
