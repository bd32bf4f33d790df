"""Converter of PUMA (Schuiveling et al., GigaScience 2025): melanoma, nuclei of ten classes and five tissues."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.formats.geojson import Features, class_numbers, read_geojson
from monai_ext.formats.outlines import polygons_to_label_map
from monai_ext.formats.roles import countable
from monai_ext.prepare.fields import FieldSource, Truth, prepare_fields, with_labels, without_image

__all__ = ["prepare_puma"]

_MPP = 0.23  # 40x of a Hamamatsu NanoZoomer XR
#: The ten classes of track 2, by their names in the release.
_TEN = {
    name: [f"nuclei_{name}"]
    for name in (
        *("tumor", "lymphocyte", "plasma_cell", "histiocyte", "melanophage"),
        *("neutrophil", "stroma", "endothelium", "epithelium", "apoptosis"),
    )
}
_TIL = ("lymphocyte", "plasma_cell")
#: Classes by track; lymphocytes and plasma cells are the tumour infiltrating lymphocytes of track 1.
_TRACKS = {
    1: {
        "tumor": _TEN["tumor"],
        "til": [alias for name in _TIL for alias in _TEN[name]],
        "other": [alias for name, aliases in _TEN.items() if name not in ("tumor", *_TIL) for alias in aliases],
    },
    2: _TEN,
}
_TISSUES = {name: [f"tissue_{name}"] for name in ("stroma", "blood_vessel", "tumor", "epidermis", "necrosis")}
_GLASS = "tissue_white_background"
_STEM = re.compile(r"^(?P<name>.+?)_(?P<kind>nuclei|tissue)\.geojson$", re.IGNORECASE)
_CONTEXT = "_context"  # 5120 px around a region


def prepare_puma(src: str | os.PathLike, dst: str | os.PathLike, *, track: int = 2, **options: Any) -> Path:
    """Convert PUMA: regions of primary and metastatic melanoma, 1024 x 1024 px at 40x (0.23 um/px).

    Images are ``01_training_dataset_tif_ROIs/training_set_{primary,metastatic}_roi_<n>.tif``, nuclei
    ``01_training_dataset_geojson_nuclei/<name>_nuclei.geojson``, tissue ``..._geojson_tissue/<name>_tissue.geojson``,
    both of QuPath in pixels of the image; the 5120 px around a region (``<name>_context.tif``) are not read. Files are
    found by their names, whatever their folders. Layout: zenodo.org/records/15050523; classes of the tracks:
    puma.grand-challenge.org.

    Tissue becomes a map, 8-bit PNG, under the key ``tissue``: 0 for glass and where none is drawn, k for the k-th of
    the list's ``tissue_names``; where two overlap the smaller is seen. Items have ``tumor``, primary or metastatic.

    The parts for the challenge's tests are not public and the release names no patients: ``group`` is the region.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        track: 2 for the ten classes tumor, lymphocyte, plasma_cell, histiocyte, melanophage, neutrophil, stroma,
            endothelium, epithelium, apoptosis; 1 for tumor, til (lymphocytes and plasma cells) and other.
        options: of :func:`~monai_ext.prepare.fields.prepare_fields`.

    Returns:
        The path of ``dataset.json``.
    """
    if isinstance(track, bool) or track not in _TRACKS:
        raise InputError("track", "1 (three classes) or 2 (ten)", repr(track))
    classes = _TRACKS[track]

    def collect(folder: Path, problems: list[str]) -> list[FieldSource]:
        files: dict[str, dict[str, Path]] = {"image": {}, "nuclei": {}, "tissue": {}}
        for path in find_files(folder, (".tif", ".geojson"), dst):
            match = _STEM.match(path.name)
            kind, name = (match["kind"].lower(), match["name"]) if match else ("image", path.stem)
            if name.lower().endswith(_CONTEXT) or (match is None and path.suffix.lower() != ".tif"):
                continue
            if (other := files[kind].setdefault(name, path)) is not path:
                problems.append(f"{path}: expected one {kind} file of {name}, found also {other}")
        images, nuclei, tissue = files.values()
        if not images or not nuclei:
            expected = "training_set_<kind>_roi_<n>.tif and training_set_<kind>_roi_<n>_nuclei.geojson"
            problems.append(f"{folder}: expected {expected}, found {len(images)} images and {len(nuclei)} of nuclei")
            return []
        problems += without_image(images, tissue)
        return [
            FieldSource(
                group=name,
                name=name,
                image=images[name],
                read=partial(_truth, nuclei[name], tissue.get(name), classes),
                mpp=_MPP,
                more={"tumor": kind} if (kind := _kind(name)) else {},
            )
            for name in with_labels(folder, images, nuclei, problems)
        ]

    about = {"track": track, "tissue_names": list(_TISSUES)}
    return prepare_fields("puma", src, dst, collect, list(classes), about=about, **options)


def _kind(name: str) -> str:
    return next((kind for kind in ("primary", "metastatic") if kind in name.lower()), "")


def _truth(nuclei: Path, tissue: Path | None, classes: Mapping[str, Sequence[str]], shape: tuple[int, int]) -> Truth:
    drawn = _read(nuclei, classes, (), shape)
    instances = polygons_to_label_map(drawn.geometry, shape)
    numbers = np.append(0, class_numbers(drawn, classes) + 1).astype(np.uint8)
    areas = {}
    if tissue is not None:
        drawn = _read(tissue, _TISSUES, (_GLASS,), shape)
        kinds = np.append(0, class_numbers(drawn, _TISSUES) + 1).astype(np.uint8)
        areas["tissue"] = kinds[polygons_to_label_map(drawn.geometry, shape)]
    return Truth(instances, numbers[instances], areas)


def _read(path: Path, classes: Mapping[str, Sequence[str]], others: Sequence[str], shape: tuple[int, int]) -> Features:
    """Outlines with an area, each of a known class and on the image."""
    features = countable(read_geojson(path), path)
    known = {*(alias for aliases in classes.values() for alias in aliases), *others}
    if unknown := sorted({name or "an outline without one" for name in features.classes if name not in known}):
        raise InputError(path, f"classes among {', '.join(sorted(known))}", ", ".join(unknown))
    rows, cols = shape
    away = [index for index, outline in enumerate(features.geometry) if _is_away(outline.bounds, rows, cols)]
    if away:
        bounds = tuple(round(side, 1) for side in features.geometry[away[0]].bounds)
        found = f"{len(away)} of {len(features)} beside it, the first at {bounds}"
        raise InputError(path, f"outlines on its image of {cols} x {rows} px", found)
    return features


def _is_away(bounds: tuple[float, float, float, float], rows: int, cols: int) -> bool:
    left, top, right, bottom = bounds
    return right <= 0 or bottom <= 0 or left >= cols or top >= rows
