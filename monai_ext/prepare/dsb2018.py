"""Converter of the 2018 Data Science Bowl (BBBC038, Caicedo et al., Nature Methods 2019)."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.base.flags import as_flag
from monai_ext.base.threads import in_threads
from monai_ext.formats.image import read_field, read_mask
from monai_ext.prepare.common import remark
from monai_ext.prepare.fields import FieldSource, Truth, prepare_fields

__all__ = ["is_he_like", "prepare_dsb2018"]

_DARK = 20  # %: the darkest pixels of an image are stain
_COLOURED = 10  # grey values


def prepare_dsb2018(src: str | os.PathLike, dst: str | os.PathLike, *, he_only: bool = True, **options: Any) -> Path:
    """Convert the 2018 Data Science Bowl: an image and a PNG for each nucleus, no classes, resolution unknown.

    Images are ``stage1_train/<id>/images/<id>.png``, nuclei ``<id>/masks/*.png``. The release names no slides:
    ``group`` is the image. Images without masks (``stage1_test``) are left out.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        he_only: keep H&E-like images only (:func:`is_he_like`); the others are fluorescence and brightfield.
        options: of :func:`~monai_ext.prepare.fields.prepare_fields`.

    Returns:
        The path of ``dataset.json``.
    """
    he_only = as_flag(he_only, "he_only")

    def collect(folder: Path, problems: list[str]) -> list[FieldSource]:
        paths = find_files(folder, (".png",), dst)
        images = [path for path in paths if path.parent.name == "images"]
        masks: dict[Path, list[Path]] = {}
        for path in paths:
            if path.parent.name == "masks":
                masks.setdefault(path.parent.parent, []).append(path)
        labelled = [path for path in images if path.parent.parent in masks]
        if not labelled:
            expected = "stage1_train/<id>/images/<id>.png and <id>/masks/*.png"
            problems.append(f"{folder}: expected {expected}, found {len(images)} images, none with masks")
            return []
        if len(labelled) < len(images):
            remark(folder, f"{len(images) - len(labelled)} images without masks left out")
        if he_only:
            kept = list(in_threads(partial(_keep, problems), labelled, "dsb2018: looking for H&E"))
            labelled = [path for path, keep in zip(labelled, kept, strict=True) if keep]
            remark(folder, f"{len(kept) - len(labelled)} of {len(kept)} images left out, as they are not H&E-like")
            if not labelled and not problems:
                problems.append(f"{folder}: expected H&E-like images (he_only=False keeps all), found none")
        return [
            FieldSource(path.stem, path.stem, path, partial(_truth, masks[path.parent.parent])) for path in labelled
        ]

    return prepare_fields("dsb2018", src, dst, collect, **options)


def is_he_like(image: np.ndarray) -> bool:
    """Whether an image looks like H&E by its colour.

    The darkest fifth of its pixels, its most stained ones, are coloured, and darkest in green: hematoxylin and eosin
    both absorb green most. Fluorescence and brightfield images are grey.

    Args:
        image: uint8 ``(3, H, W)`` RGB.
    """
    pixels = image.reshape(3, -1).astype(np.float32)
    grey = pixels.mean(axis=0)
    red, green, blue = pixels[:, grey <= np.percentile(grey, _DARK)].mean(axis=1)
    return bool(green < min(red, blue) and max(red, blue) - green >= _COLOURED)


def _keep(problems: list[str], path: Path) -> bool:
    try:
        return is_he_like(read_field(path).image)
    except InputError as error:
        problems.append(str(error))
        return False


def _truth(masks: list[Path], shape: tuple[int, int]) -> Truth:
    instances = np.zeros(shape, dtype=np.int32)
    for number, path in enumerate(masks, start=1):
        mask = read_mask(path) > 0
        if mask.shape != shape:
            raise InputError(path, f"a mask of its image's size {shape}", str(mask.shape))
        instances[mask] = number
    return Truth(instances)
