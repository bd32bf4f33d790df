"""Labels of atypical mitotic figures: AMi-Br, AtNorM-Br and MIDOG 2025."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from monai_ext.base.files import find_files
from monai_ext.prepare.common import prepare, remark
from monai_ext.prepare.fields import tcga_patient
from monai_ext.prepare.samples import LabelledImage, PointsImage, Sample
from monai_ext.prepare.tables import Row, has_columns, read_table

__all__ = ["add_atypical", "prepare_atypical"]

_MPP = 0.25
_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")
_AMI_BR = ("slide", "dataset", "uid", "x", "y", "majority_atypical")
_MIDOG25 = ("image_id", "filename", "coordinateX", "coordinateY", "majority")
_CLASSES = {"true": 1, "amf": 1, "false": 0, "nmf": 0}
_FOLDERS = {"atypical": 1, "normal": 0}
_NEAR = 5.0  # px between a figure and the line that speaks of it: coordinates are rounded
_EXPECTED = "Ami-Br.csv, MIDOG25_Atypical_Classification_Train_Set.csv, or Atypical/*.png and Normal/*.png"


class _Figure(NamedTuple):
    """A line of a list: where a figure is, in which image, and whether it is atypical."""

    slide: str
    patch: str
    row: float
    col: float
    atypical: int


def prepare_atypical(src: str | os.PathLike, dst: str | os.PathLike, **options: Any) -> Path:
    """Convert patches of mitotic figures with the label atypical (1) or normal (0), at about 0.25 um/px.

    Three layouts are known, and files may be in any folders:

    - MIDOG 2025, track 2 (Zenodo 15188326): ``MIDOG25_Atypical_Classification_Train_Set.csv`` with the columns
      ``image_id,filename,coordinateX,coordinateY,Tumor,Scanner,Origin,Species,expert1,expert2,expert3,majority``
      (``AMF`` or ``NMF``), and the patches ``<image_id>``.
    - AMi-Br (github.com/DeepMicroscopy/AMi-Br): ``Ami-Br.csv`` with ``slide,dataset,uid,x,y`` and, after the experts'
      votes, ``majority_atypical`` (``True`` or ``False``), and patches ``<dataset>_<uid>.png``. It has patches of the
      figures on which the experts agree only; the others are left out.
    - AtNorM-Br (and AtNorM-MD, github.com/DeepMicroscopy/AMi-Br_Benchmark): folders ``Atypical`` and ``Normal`` of
      patches. Nothing names the case but TCGA's barcode, if the file does.

    ``group`` is the slide. The releases name no split.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        options: of :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.
    """

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        tables = [path for path in find_files(folder, (".csv",), dst) if _layout(path) is not None]
        images = find_files(folder, _SUFFIXES, dst)
        sorted_out = [path for path in images if path.parent.name.lower() in _FOLDERS]
        if len(tables) > 1 or not (tables or sorted_out):
            listed = ", ".join(map(str, tables)) or "none"
            problems.append(f"{folder}: expected one of {_EXPECTED}, found {listed}")
            return []
        return _listed(folder, tables[0], images, problems) if tables else _in_folders(sorted_out, problems)

    return prepare("atypical", src, dst, collect, **options)


def add_atypical(samples: Sequence[PointsImage], lists: Sequence[Path], problems: list[str]) -> None:
    """Give images the points of their atypical figures.

    A line belongs to the image of its name, and speaks of the figure that is nearest to its coordinates. An image of
    which no list speaks gets none; its figures that no line speaks of count as normal.

    Args:
        samples: images by their files' names, with their figures.
        lists: CSV files, as AMi-Br or MIDOG 2025 have them.
        problems: takes what is wrong, a line each.
    """
    figures: dict[str, list[_Figure]] = defaultdict(list)
    for path in lists:
        for figure in _read(path, problems):
            figures[figure.slide].append(figure)
    others = figures.keys() - {sample.image.name for sample in samples}
    if others:
        remark(lists[0], f"speaks also of {len(others)} images that are not in this data set")
    silent = 0
    for sample in samples:
        listed = figures.get(sample.image.name)
        if not listed:
            continue
        places = np.array([(figure.row, figure.col) for figure in listed])
        distances = np.linalg.norm(places[:, None] - sample.points[None], axis=2)
        distances = np.pad(distances, ((0, 0), (0, 1)), constant_values=np.inf)
        far = np.flatnonzero(distances.min(axis=1) > _NEAR)
        if len(far):
            place = f"row {listed[far[0]].row:g}, col {listed[far[0]].col:g}"
            expected = f"a figure of {sample.image.name} at each place of the list of atypical figures"
            problems.append(f"{sample.image}: expected {expected}, found none at {place} ({len(far)} in all)")
            continue
        nearest = distances.argmin(axis=1)
        atypical = np.unique([index for index, figure in zip(nearest, listed, strict=True) if figure.atypical])
        sample.atypical = sample.points[atypical.astype(int)]
        silent += len(sample.points) - len(np.unique(nearest))
    if silent:
        remark(lists[0], f"is silent about {silent} figures of images that it speaks of: taken as normal")


def _layout(path: Path) -> tuple[str, ...] | None:
    return next((columns for columns in (_AMI_BR, _MIDOG25) if has_columns(path, columns)), None)


def _read(path: Path, problems: list[str]) -> list[_Figure]:
    columns = _layout(path)
    if columns is None:
        expected = f"the columns {', '.join(_AMI_BR)} or {', '.join(_MIDOG25)}"
        problems.append(f"{path}: expected {expected}, found {'others' if path.is_file() else 'no such file'}")
        return []
    figures = []
    for row in read_table(path, columns, problems):
        try:
            figures.append(_figure(row))
        except (KeyError, ValueError) as error:
            expected = "coordinates in px and AMF, NMF, True or False"
            problems.append(f"{path}: expected {expected}, found {error} in the line of {row[columns[0]]}")
    return figures


def _figure(row: Row) -> _Figure:
    if "majority_atypical" in row:
        patch = f"{row['dataset']}_{row['uid']}"
        label = _CLASSES[row["majority_atypical"].lower()]
        return _Figure(row["slide"], patch, float(row["y"]), float(row["x"]), label)
    place = float(row["coordinateY"]), float(row["coordinateX"])
    return _Figure(row["filename"], Path(row["image_id"]).stem, *place, _CLASSES[row["majority"].lower()])


def _listed(src: Path, table: Path, images: Sequence[Path], problems: list[str]) -> list[Sample]:
    """Patches of a list."""
    figures = _read(table, problems)
    names = {figure.patch for figure in figures}
    patches: dict[str, Path] = {}
    for path in images:
        if path.stem in names and patches.setdefault(path.stem, path) is not path:
            problems.append(f"{path}: expected one patch of that name, found also {patches[path.stem]}")
    missing = sorted(names - patches.keys())
    if missing and (not patches or _layout(table) is _MIDOG25):
        problems.append(f"{src}: expected {len(names)} patches, found none of {len(missing)}, as {missing[0]}.png")
    elif missing:
        remark(src, f"{len(missing)} figures of {table.name} have no patch: left out")
    prefix = "" if _layout(table) is _MIDOG25 else f"{table.stem}/"
    return [
        LabelledImage(f"{prefix}{Path(figure.slide).stem}", figure.patch, figure.atypical, patches[figure.patch], _MPP)
        for figure in figures
        if figure.patch in patches
    ]


def _in_folders(images: Sequence[Path], problems: list[str]) -> list[Sample]:
    """Patches whose folder says what they are."""
    samples: dict[str, LabelledImage] = {}
    for path in images:
        folder = path.parent.name.lower()
        name = f"{folder}/{path.stem}"
        if name in samples:
            problems.append(f"{path}: expected one patch of that name, found also {samples[name].image}")
        patient = tcga_patient(path.stem)
        group = name if patient == path.stem else patient
        samples[name] = LabelledImage(group, name, _FOLDERS[folder], path, _MPP)
    return list(samples.values())
