"""Converter of PanNuke (Gamper et al., ECDP 2019 and arXiv:2003.10778): nuclei of five classes, 19 organs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.arrays import load_array
from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.prepare.fields import FieldSource, Truth, prepare_fields
from monai_ext.prepare.samples import Sample

__all__ = ["prepare_pannuke"]

_CLASSES = ("Neoplastic", "Inflammatory", "Connective", "Dead", "Epithelial")
_MPP = 0.25  # 40x
_FOLD = re.compile(r"fold[ _-]*([123])", re.IGNORECASE)
_FOLDS = "123"
_FILES = ("images", "masks", "types")
#: The folds for training, validation and test of each of the three splits.
_SPLITS = {1: "123", 2: "213", 3: "321"}
_PARTS = ("training", "validation", "test")
_MOST = 2**31  # ids are below


@dataclass(frozen=True)
class _Fold:
    """The arrays of a fold, memory-mapped, and their files."""

    number: str
    paths: Mapping[str, Path]
    arrays: Mapping[str, np.ndarray]

    def sources(self) -> list[FieldSource]:
        return [
            FieldSource(
                group=name,
                name=name,
                image=self.paths["images"],
                read=partial(self.truth, index),
                mpp=_MPP,
                pixels=partial(self.pixels, index),
                more={"organ": str(organ)},
            )
            for index, organ in enumerate(self.arrays["types"])
            for name in [f"fold{self.number}/{index:05d}"]
        ]

    def pixels(self, index: int) -> np.ndarray:
        return _whole(self.arrays["images"][index], f"{self.paths['images']}, image {index}", 255).astype(np.uint8)

    def truth(self, index: int, shape: tuple[int, int]) -> Truth:
        instances, classes = np.zeros(shape, np.int32), np.zeros(shape, np.uint8)
        masks = _whole(self.arrays["masks"][index], f"{self.paths['masks']}, image {index}", _MOST)
        last = 0
        for number in range(len(_CLASSES)):
            nuclei = masks[..., number]
            here = nuclei > 0
            values, own = np.unique(nuclei[here], return_inverse=True)
            instances[here], classes[here] = own + last + 1, number + 1
            last += len(values)
        return Truth(instances, classes)


def prepare_pannuke(src: str | os.PathLike, dst: str | os.PathLike, *, fold_split: int = 1, **options: Any) -> Path:
    """Convert PanNuke: 7,901 images of 256 x 256 px at 40x (0.25 um/px) of 19 organs, nuclei of five classes.

    The classes are Neoplastic, Inflammatory, Connective, Dead, Epithelial. In the release ``Fold <k>/images/fold<k>/``
    has ``images.npy`` ``(N, 256, 256, 3)`` and ``types.npy`` ``(N,)``, the organs, and ``Fold <k>/masks/fold<k>/``
    ``masks.npy`` ``(N, 256, 256, 6)``, an instance map for each class, in this order, and the background, which is not
    read. Any folder will do that names the fold. A nucleus is a number of one map: another map may have the same.
    Where maps overlap the later class is seen, as in the authors' code (``binarize`` of PanNuke-metrics, github.com/
    TissueImageAnalytics). The release names no patients: ``group`` is the image; items have their ``organ``.

    ``split="paper"``, the default: the first of the authors' three splits, whose folds for training, validation and
    test are 1, 2, 3; 2, 1, 3; and 3, 2, 1. Other splits take the folds that are there.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        fold_split: 1, 2 or 3, which of the three splits.
        options: of :func:`~monai_ext.prepare.fields.prepare_fields`.

    Returns:
        The path of ``dataset.json``.
    """
    if isinstance(fold_split, bool) or fold_split not in _SPLITS:
        raise InputError("fold_split", "1, 2 or 3", repr(fold_split))
    parts = dict(zip(_SPLITS[fold_split], _PARTS, strict=True))
    official = options.get("split") in (None, "paper")

    def collect(folder: Path, problems: list[str]) -> list[FieldSource]:
        return [source for fold in _folds(folder, dst, official, problems) for source in fold.sources()]

    def paper(samples: list[Sample], seed: int) -> dict[str, str]:  # noqa: ARG001 - nothing is drawn
        # an image, or a square of one, is in the part of its fold
        return {sample.group: parts[sample.group[len("fold")]] for sample in samples}

    about = {"fold_split": fold_split} if official else None
    return prepare_fields("pannuke", src, dst, collect, _CLASSES, paper=paper, about=about, **options)


def _folds(src: Path, skip: str | os.PathLike, official: bool, problems: list[str]) -> list[_Fold]:
    """The folds that are whole and fit; all three must be there for the authors' splits."""
    found: dict[tuple[str, str], Path] = {}
    for path in find_files(src, tuple(f"{name}.npy" for name in _FILES), skip):
        number = next((match[1] for name in reversed(path.parts[:-1]) if (match := _FOLD.search(name))), None)
        if path.stem.lower() not in _FILES:
            continue
        if number is None:
            problems.append(f"{path}: expected a folder that names its fold, such as fold1, found none")
        elif (other := found.setdefault((number, path.stem.lower()), path)) is not path:
            problems.append(f"{path}: expected one {path.name} of fold {number}, found also {other}")
    if not found:
        expected = "Fold 1/images/fold1/images.npy, types.npy and Fold 1/masks/fold1/masks.npy"
        problems.append(f"{src}: expected {expected}, found none")
        return []
    folds = []
    for number in _FOLDS if official else sorted({number for number, _ in found}):
        paths = {name: found[number, name] for name in _FILES if (number, name) in found}
        missing = [f"{name}.npy" for name in _FILES if name not in paths]
        if missing:
            problems.append(f"{src}: expected {', '.join(missing)} of fold {number}, found none")
        elif (fold := _opened(number, paths, problems)) is not None:
            folds.append(fold)
    return folds


def _opened(number: str, paths: Mapping[str, Path], problems: list[str]) -> _Fold | None:
    """A fold whose arrays fit each other."""
    arrays = {}
    for name, path in paths.items():
        try:
            arrays[name] = load_array(path)
        except (OSError, ValueError, EOFError) as error:
            problem = str(error).split("\n")[0] or type(error).__name__
            problems.append(str(InputError(path, "a whole NPY file of numbers or text", problem)))
    if len(arrays) < len(paths):
        return None
    images, masks, types = (arrays[name] for name in _FILES)
    expected = (*images.shape[:3], len(_CLASSES) + 1)
    wrong = []
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype.kind not in "uif":
        wrong.append((paths["images"], "numbers of shape (N, H, W, 3)", f"{images.dtype} {images.shape}"))
    elif masks.shape != expected or masks.dtype.kind not in "uif":
        wrong.append((paths["masks"], f"numbers of shape {expected}, as its images", f"{masks.dtype} {masks.shape}"))
    if images.ndim and (types.shape != images.shape[:1] or types.dtype.kind != "U"):
        wrong.append((paths["types"], f"{len(images)} names, one for each image", f"{types.dtype} {types.shape}"))
    problems += [str(InputError(*each)) for each in wrong]
    return None if wrong else _Fold(number, paths, arrays)


def _whole(values: np.ndarray, where: str, most: int) -> np.ndarray:
    """An image's values, which the release holds as floating point, as whole numbers."""
    # NaN is none of these
    wrong = ~((values >= 0) & (values <= most) & (values == np.floor(values)))
    if wrong.any():
        raise InputError(where, f"whole numbers from 0 to {most}", str(values[wrong][0]))
    return values.astype(np.int64)
