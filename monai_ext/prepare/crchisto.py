"""Converter of CRCHistoPhenotypes (Sirinukunwattana et al., IEEE TMI 2016): patches of colon nuclei of four classes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.formats.image import read_field
from monai_ext.prepare.common import prepare
from monai_ext.prepare.mat import read_mat
from monai_ext.prepare.samples import Sample

__all__ = ["prepare_crchisto"]

_CLASSES = ("epithelial", "fibroblast", "inflammatory", "others")
_SIZE = 32
_NAME = re.compile(r"(img\d+)_(\d+)")
_LABELS = re.compile(rf"(img\d+)_({'|'.join(_CLASSES)})")
_MIXED = 20  # pieces that a random split divides all nuclei into: 70/15/15 are 14, 3 and 3 of them


@dataclass
class _Nuclei(Sample):
    """Nuclei of one source image.

    Args:
        files: ``(N,)`` the patch of each nucleus, or the image that it is cut from.
        kinds: ``(N,)`` their classes.
        points: ``(N, 2)`` ``row, col``; -1 where unknown, and the file is the patch.
    """

    files: np.ndarray
    kinds: np.ndarray
    points: np.ndarray

    @property
    def labels(self) -> int:
        return len(self.kinds)

    def check(self) -> list[str]:
        try:
            self._patches()
        except InputError as error:
            return [str(error)]
        return []

    def write(self, dst: Path, link: bool) -> dict[str, object]:  # noqa: ARG002 - there is no file to link
        from monai_ext.data.nuclei import write_nuclei  # it imports torch, which no other converter needs

        table = {"row": self.points[:, 0], "col": self.points[:, 1], "scale": 1, "ea": self.kinds}
        return write_nuclei(dst, self.name, self._patches(), table)

    def _patches(self) -> np.ndarray:
        return np.stack([_patch(path, *point) for path, point in zip(self.files, self.points, strict=True)])


def prepare_crchisto(src: str | os.PathLike, dst: str | os.PathLike, **options: Any) -> Path:
    """Convert CRCHistoPhenotypes: patches of 32 x 32 px, colon at 20x, each with its class as ``ea``.

    The classes are epithelial, fibroblast, inflammatory, others; ``group`` is the source image. Two layouts are known:

    - the release's: ``Classification/img1/img1.bmp`` with ``img1_epithelial.mat`` and so on, whose ``detection`` lists
      ``x, y`` of nuclei counted from 1. Patches are cut out around them, zero beyond the border.
    - ``<class>/img<N>_<k>.jpeg``: the patches themselves; their places are not known, ``row`` and ``col`` are -1.

    The data set is one of nuclei (:mod:`monai_ext.data.nuclei`). With ``split="random"``, as the paper has it, the
    nuclei of all images are shuffled into 20 pieces; a piece is then the ``group``.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        options: of :func:`~monai_ext.prepare.common.prepare`: split (``slide``: 70/15/15 by source image, the
            default; ``random``; ``test``; or a file), seed, overwrite.

    Returns:
        The path of ``dataset.json``.
    """

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        patches = [
            path
            for path in find_files(folder, (".jpeg", ".jpg", ".png"), dst)
            if path.parent.name in _CLASSES and _NAME.fullmatch(path.stem)
        ]
        tables = [path for path in find_files(folder, (".mat",), dst) if _LABELS.fullmatch(path.stem)]
        if bool(patches) == bool(tables):
            expected = "<class>/img<N>_<k>.jpeg or Classification/img<N>/img<N>_<class>.mat"
            problems.append(f"{folder}: expected {expected}, found {len(patches)} patches, {len(tables)} tables")
            return []
        samples = _from_patches(patches) if patches else _from_tables(tables, problems)
        return _mixed(samples, options.get("seed", 0)) if options.get("split") == "random" else samples

    return prepare("crchisto", src, dst, collect, about={"class_names": _CLASSES}, by_slide=True, **options)


def _from_patches(paths: list[Path]) -> list[Sample]:
    files: dict[str, list[Path]] = {}
    for path in sorted(paths, key=lambda path: int(_NAME.fullmatch(path.stem)[2])):
        files.setdefault(_NAME.fullmatch(path.stem)[1], []).append(path)
    return [
        _Nuclei(
            name, name, *_columns(patches, [path.parent.name for path in patches], np.full((len(patches), 2), -1.0))
        )
        for name, patches in files.items()
    ]


def _from_tables(paths: list[Path], problems: list[str]) -> list[Sample]:
    tables: dict[str, list[Path]] = {}
    for path in paths:
        tables.setdefault(_LABELS.fullmatch(path.stem)[1], []).append(path)
    samples: list[Sample] = []
    for name, image_tables in tables.items():
        images = [
            path
            for path in image_tables[0].parent.glob(f"{name}.*")
            if path.suffix in (".bmp", ".png", ".tif", ".tiff")
        ]
        if len(images) != 1:
            problems.append(f"{image_tables[0].parent}: expected one image {name}.bmp, found {len(images)}")
            continue
        points, kinds = [], []
        for path in image_tables:
            try:
                points.append(_detections(path, images[0]))
            except InputError as error:
                problems.append(str(error))
                continue
            kinds += [_LABELS.fullmatch(path.stem)[2]] * len(points[-1])
        if kinds:
            columns = _columns([images[0]] * len(kinds), kinds, np.concatenate(points))
            samples.append(_Nuclei(name, name, *columns))
    return samples


def _detections(path: Path, image: Path) -> np.ndarray:
    """``(N, 2)`` ``row, col`` from 0."""
    (xy,) = read_mat(path, "detection")
    xy = xy.reshape(-1, 2) if xy.size == 0 else xy
    height, width = _image(image).shape[:2]
    if xy.ndim != 2 or xy.shape[1] != 2 or xy.dtype.kind not in "iuf":
        raise InputError(path, "detection, pairs x, y", f"{xy.dtype} {xy.shape}")
    if not ((xy >= 0.5) & (xy <= (width + 0.5, height + 0.5))).all():
        raise InputError(path, f"detections inside {width} x {height} px, counted from 1", f"{xy.min()} to {xy.max()}")
    return xy[:, ::-1].astype(np.float64) - 1


def _columns(files: list[Path], kinds: list[str], points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.array(files, dtype=object), np.array(kinds, dtype=object), points


def _mixed(samples: list[Sample], seed: int) -> list[Sample]:
    """All nuclei in random order, in pieces of one size."""
    if not samples:
        return []
    files, kinds, points = (
        np.concatenate([getattr(sample, column) for sample in samples]) for column in ("files", "kinds", "points")
    )
    order = np.random.RandomState(seed).permutation(len(kinds))
    pieces = [order[start::_MIXED] for start in range(min(_MIXED, len(order)))]
    first = samples[0]
    return [
        replace(first, group=name, name=name, files=files[piece], kinds=kinds[piece], points=points[piece])
        for name, piece in ((f"mixed_{number:02d}", piece) for number, piece in enumerate(pieces))
    ]


def _patch(path: Path, row: float, col: float) -> np.ndarray:
    """``(32, 32, 3)``: the file, or what is around a point of it."""
    image = _image(path)
    if row < 0 and col < 0:
        if image.shape != (_SIZE, _SIZE, 3):
            raise InputError(path, f"a patch of {_SIZE} x {_SIZE} px", f"{image.shape[0]} x {image.shape[1]}")
        return image
    from monai_ext.data.nuclei import crop_patches  # it imports torch

    return crop_patches(image, np.array([[row, col]]), _SIZE)[0]


@lru_cache(maxsize=128)  # images of 500 x 500 px, and patches
def _image(path: Path) -> np.ndarray:
    return np.moveaxis(read_field(path).image, 0, -1)
