"""Converter of CoNSeP (Graham et al., Medical Image Analysis 2019): colon, nuclei."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.prepare.fields import FieldSource, Truth, prepare_fields
from monai_ext.prepare.mat import labelled_fields, read_instances
from monai_ext.prepare.samples import Sample

__all__ = ["prepare_consep"]

_MPP = 0.25  # 40x


def prepare_consep(src: str | os.PathLike, dst: str | os.PathLike, **options: Any) -> Path:
    """Convert CoNSeP: 41 images of colon of 1000 x 1000 px at 40x (0.25 um/px).

    Images are ``Train/Images/<name>.png`` and ``Test/Images/<name>.png``, nuclei ``Train/Labels/<name>.mat`` and so on
    with ``inst_map``; its types of nuclei are not read. The release names no slides: ``group`` is the image. An image
    without labels is left out.

    ``split="paper"``, the default: that of Cyclic Learning (Zhou et al. 2023, section V-A), 26 images for training, 1
    for validation, 14 for the test: the release's parts, and one training image, drawn by ``seed``, for validation, as
    the paper does not name it.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        options: of :func:`~monai_ext.prepare.fields.prepare_fields`.

    Returns:
        The path of ``dataset.json``.
    """
    parts: dict[str, str] = {}

    def collect(folder: Path, problems: list[str]) -> list[FieldSource]:
        fields = labelled_fields(folder, dst, problems)
        parts.update({field.name: field.part for field in fields})
        return [FieldSource(f.name, f.name, f.image, partial(_truth, f.label), _MPP) for f in fields]

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:  # noqa: ARG001 - the parts suffice
        training = sorted(name for name, part in parts.items() if part == "training")
        if set(parts.values()) != {"training", "test"} or len(training) < 2:
            return None
        return parts | {training[np.random.RandomState(seed).randint(len(training))]: "validation"}

    return prepare_fields("consep", src, dst, collect, paper=paper, **options)


def _truth(path: Path, shape: tuple[int, int]) -> Truth:
    return Truth(read_instances(path, "inst_map", shape))
