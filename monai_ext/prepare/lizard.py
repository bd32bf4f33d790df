"""Converter of Lizard (Graham et al., ICCV workshops 2021): colon, nuclei of six classes."""

from __future__ import annotations

import csv
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.prepare.fields import FieldSource, Truth, prepare_fields, with_labels
from monai_ext.prepare.mat import read_instances, read_mat
from monai_ext.prepare.samples import Sample

__all__ = ["prepare_lizard"]

_CLASSES = ("Neutrophil", "Epithelial", "Lymphocyte", "Plasma", "Eosinophil", "Connective")
_MPP = 0.5  # 20x
_FOLDS = {"1": "training", "2": "validation", "3": "test"}


def prepare_lizard(src: str | os.PathLike, dst: str | os.PathLike, **options: Any) -> Path:
    """Convert Lizard: regions of colon at 20x (0.5 um/px) from six sources.

    Images are ``<name>.png`` (``Lizard_Images1``, ``Lizard_Images2``), labels ``<name>.mat`` (``Lizard_Labels/Labels``)
    with ``inst_map`` and, for each number of it, ``id`` and ``class`` (1 to 6). The classes are Neutrophil, Epithelial,
    Lymphocyte, Plasma, Eosinophil, Connective. The release names no slides: ``group`` is the image. An image without
    labels (they are withheld for the test part of a challenge) is left out.

    ``split="paper"``, the default where all images are listed: the three folds of ``info.csv`` (column ``Split``), 1
    for training, 2 for validation, 3 for test.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        options: of :func:`~monai_ext.prepare.fields.prepare_fields`.

    Returns:
        The path of ``dataset.json``.
    """

    def collect(folder: Path, problems: list[str]) -> list[FieldSource]:
        images = {path.stem: path for path in find_files(folder, (".png",), dst)}
        labels = {path.stem: path for path in find_files(folder, (".mat",), dst)}
        if not images or not labels:
            expected = "Lizard_Images1/<name>.png and Lizard_Labels/Labels/<name>.mat"
            problems.append(f"{folder}: expected {expected}, found {len(images)} PNG and {len(labels)} MAT files")
            return []
        return [
            FieldSource(name, name, images[name], partial(_truth, labels[name]), _MPP)
            for name in with_labels(folder, images, labels, problems)
        ]

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:  # noqa: ARG001 - nothing is drawn
        folds = _folds(Path(src), dst)
        groups = {sample.group for sample in samples}
        return {group: folds[group] for group in groups} if groups <= folds.keys() else None

    return prepare_fields("lizard", src, dst, collect, _CLASSES, paper=paper, **options)


def _truth(path: Path, shape: tuple[int, int]) -> Truth:
    instances = read_instances(path, "inst_map", shape)
    identity, kind = read_mat(path, "id", "class")
    identity, kind = identity.ravel().astype(np.int64), kind.ravel().astype(np.int64)
    table = np.zeros(int(max(instances.max(initial=0), identity.max(initial=0))) + 1, dtype=np.uint8)
    if len(identity) != len(kind) or identity.min(initial=1) < 1:
        raise InputError(
            path, "an id above 0 and a class for each nucleus", f"{len(identity)} ids, {len(kind)} classes"
        )
    table[identity] = np.where((kind >= 1) & (kind <= len(_CLASSES)), kind, 255)
    classes = table[instances]
    wrong = np.unique(instances[(instances > 0) & ((classes == 0) | (classes == 255))])
    if len(wrong):
        raise InputError(path, f"a class 1 to {len(_CLASSES)} for each nucleus", f"none for {wrong[:5].tolist()}")
    return Truth(instances, classes)


def _folds(src: Path, dst: str | os.PathLike) -> dict[str, str]:
    """The part of each image by the release's ``info.csv``."""
    folds = {}
    for path in find_files(src, (".csv",), dst):
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            for line in csv.DictReader(file):
                name, fold = Path((line.get("Filename") or "").strip()).stem, (line.get("Split") or "").strip()
                if name and fold in _FOLDS:
                    folds[name] = _FOLDS[fold]
    return folds
