"""Converter of NuInsSeg (Mahbod et al., Scientific Data 11:295, 2024): nuclei of 31 organs of human and mouse."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.data.split import carve_validation
from monai_ext.formats.image import read_mask
from monai_ext.prepare.common import remark
from monai_ext.prepare.fields import FieldSource, Truth, prepare_fields, with_labels, without_image
from monai_ext.prepare.samples import Sample, labels_per_group

__all__ = ["prepare_nuinsseg"]

_IMAGES, _LABELS, _VAGUE, _VAGUE_MASKS = "tissue images", "label masks modify", "vague areas", "mask binary"
_COUNT = 665  # images of the release
_FOLDS, _FOLDS_SEED = 5, 19  # of the authors' cross-validation


def prepare_nuinsseg(src: str | os.PathLike, dst: str | os.PathLike, *, fold: int = 1, **options: Any) -> Path:
    """Convert NuInsSeg: 665 images of 512 x 512 px from 31 slides, one of each organ of human or mouse; no classes.

    A folder of the release is an organ, such as ``human liver``. In it are the images, ``tissue images/<name>.png``,
    instance maps, ``label masks modify/<name>.tif`` (where nuclei overlap a pixel belongs to one of them; the maps of
    ``label masks``, where the overlap is an instance of its own, are not read), and the areas in which experts could
    not tell nuclei apart, ``vague areas/mask binary/<name>.png``. The latter become a mask, 0 and 255, under the key
    ``ambiguous``; no training of ours leaves them out by itself. ``group`` is the organ, which is the slide; items have
    it as ``organ`` too. The release states no size of its pixels, so items have no ``mpp`` (the scans are at 40x).
    Layout and folds: README of github.com/masih4/NuInsSeg.

    ``split="paper"``: the authors' five folds over all 665 images, by name, dealt as by scikit-learn's ``KFold(5,
    shuffle=True, random_state=19)``; a fifth of the other four folds, drawn by ``seed``, is the validation part. Images
    of one slide are then in all parts and each is its own ``group``; the default is to split by slide.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        fold: 1 to 5, the fold for the test of ``split="paper"``.
        options: of :func:`~monai_ext.prepare.fields.prepare_fields`.

    Returns:
        The path of ``dataset.json``.
    """
    if isinstance(fold, bool) or not isinstance(fold, int) or not 1 <= fold <= _FOLDS:
        raise InputError("fold", f"1 to {_FOLDS}", repr(fold))

    def collect(folder: Path, problems: list[str]) -> list[FieldSource]:
        files: dict[str, dict[str, Path]] = {"image": {}, "label": {}, "vague": {}}
        for path in find_files(folder, (".png", ".tif"), dst):
            kind, organ = _kind_of(path)
            name = f"{organ.replace(' ', '_')}/{path.stem}"
            if kind and (other := files[kind].setdefault(name, path)) is not path:
                problems.append(f"{path}: expected one {kind} of {organ} with this name, found also {other}")
        images, labels, vague = files.values()
        if not images or not labels:
            expected = f"<organ>/{_IMAGES}/<name>.png and <organ>/{_LABELS}/<name>.tif"
            problems.append(f"{folder}: expected {expected}, found {len(images)} images and {len(labels)} maps")
            return []
        problems += without_image(images, vague)
        names = with_labels(folder, images, labels, problems)
        if bare := len(set(names) - vague.keys()):
            remark(folder, f"{bare} images without a mask of vague areas")
        return [_source(name, images[name], labels[name], vague.get(name)) for name in names]

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:
        names = sorted({sample.source.name for sample in samples}, key=lambda name: name.rpartition("/")[2])
        if options.get("split") != "paper" or len(names) != _COUNT:
            return None
        for sample in samples:
            sample.group = sample.source.name
        order = np.arange(len(names))
        np.random.RandomState(_FOLDS_SEED).shuffle(order)  # as KFold does it
        test = {names[index] for index in np.array_split(order, _FOLDS)[fold - 1]}
        parts = {name: "test" if name in test else "training" for name in names}
        return carve_validation(parts, labels_per_group(samples), seed)

    return prepare_fields("nuinsseg", src, dst, collect, paper=paper, **options)


def _kind_of(path: Path) -> tuple[str, str]:
    """What a file is, by its folder, and the organ; an empty text for what is not read."""
    folder, above = path.parent.name.lower(), path.parent.parent.name.lower()
    if above == _VAGUE:
        # not "mask binary without border"
        kind = "vague" if folder.startswith(_VAGUE_MASKS) and "without" not in folder else ""
        return kind, path.parents[2].name
    kind = {_IMAGES: "image", _LABELS: "label"}.get(folder, "")
    return kind, path.parent.parent.name


def _source(name: str, image: Path, label: Path, vague: Path | None) -> FieldSource:
    organ = image.parent.parent.name
    return FieldSource(organ, name, image, partial(_truth, label, vague), more={"organ": organ})


def _truth(label: Path, vague: Path | None, shape: tuple[int, int]) -> Truth:
    instances, areas = _of_size(label, shape), {}
    if vague is not None:
        areas["ambiguous"] = np.where(_of_size(vague, shape) > 0, np.uint8(255), np.uint8(0))
    return Truth(instances, areas=areas)


def _of_size(path: Path, shape: tuple[int, int]) -> np.ndarray:
    mask = read_mask(path)
    if mask.shape != shape:
        raise InputError(path, f"a mask of its image's size {shape}", str(mask.shape))
    return mask
