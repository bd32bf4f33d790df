"""Tissue without a figure, from any images, as a data set to train beside one with figures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.files import find_files
from monai_ext.data.datalist import read_content
from monai_ext.data.split import PARTS
from monai_ext.formats.suffixes import DICOM_SUFFIX, SLIDE_SUFFIXES, SUFFIXES, ZARR_SUFFIXES, without_suffix
from monai_ext.prepare.common import prepare
from monai_ext.prepare.samples import PointsImage, Sample

__all__ = ["prepare_negatives"]

_SLIDES = (*SLIDE_SUFFIXES, DICOM_SUFFIX, *ZARR_SUFFIXES)
_IMAGES = [suffix for suffix in SUFFIXES if suffix not in _SLIDES]  # whole slides hold more than one knows


def prepare_negatives(
    src: str | os.PathLike, dst: str | os.PathLike, *, mpp: float | None = None, **options: Any
) -> Path:
    """Make a data set of images that hold nothing to be found: hard negatives.

    Fields that were chosen for their figures show little of the tissue that a slide consists of. Trained as
    ``--dataset_dir "['FIGURES','NEGATIVES']"``, the patches without a figure come from both.

    Args:
        src: a folder of images, each of them a case of its own, or each folder in it one; or a prepared data set whose
            labels are 0 and 1, of which the images with label 0 are taken, in the lists that they are in.
        dst: the folder to write.
        mpp: um/px of images that do not state it; .25 by default.
        options: ``split``, ``seed``, ``overwrite`` and ``link`` as for every converter.

    Returns:
        The path of ``dataset.json``.

    Raises:
        DataListError: with everything that is wrong with the images.
        InputError: when ``dst`` holds a data set already, the split cannot be made, or an option is unknown.
    """
    lists: dict[str, str] = {}

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        if (folder / "dataset.json").is_file():
            return _of_data_set(folder, lists, problems)
        names = ((without_suffix(path.relative_to(folder)), path) for path in find_files(folder, _IMAGES))
        return [_empty(name.parts[0], name.as_posix(), path, mpp) for name, path in names]

    return prepare("negatives", src, dst, collect, paper=lambda *_: lists or None, **options)


def _of_data_set(folder: Path, lists: dict[str, str], problems: list[str]) -> list[Sample]:
    content, samples = read_content(folder, folder / "dataset.json"), []
    for part in PARTS:
        for item in content.get(part) or []:
            if item.get("label") not in (0, 1):
                problems.append(f"{folder / 'dataset.json'}: expected labels 0 and 1, found {item.get('label')!r:.80}")
                return []
            if item["label"] == 0:
                path = folder / item["image"]
                group = str(item.get("group", without_suffix(path).name))
                lists[group] = part
                samples.append(_empty(group, str(without_suffix(item["image"]).name), path, item.get("mpp")))
    return samples


def _empty(group: str, name: str, path: Path, mpp: float | None) -> PointsImage:
    return PointsImage(group, name, path, np.zeros((0, 2)), mpp)
