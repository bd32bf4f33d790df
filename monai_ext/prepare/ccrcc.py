"""Converter of the ccRCC grading data (Gao et al., MICCAI 2021): kidney, nuclei."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.prepare.common import remark
from monai_ext.prepare.fields import FieldSource, Truth, prepare_fields, tcga_patient
from monai_ext.prepare.mat import labelled_fields, read_instances, read_mat
from monai_ext.prepare.samples import Sample

__all__ = ["prepare_ccrcc"]

_MPP = 0.25  # 40x


def prepare_ccrcc(src: str | os.PathLike, dst: str | os.PathLike, **options: Any) -> Path:
    """Convert the nuclei of clear cell renal cell carcinoma: 1000 images of 512 x 512 px at 40x (0.25 um/px).

    Images are ``<name>.png`` and labels ``<name>.mat`` with ``instance_map`` and ``TCGA_file_name``, below folders
    named ``train``, ``val...`` and ``test``; its grades are not read. ``group`` is the patient, or the image where no
    slide is named. An image without labels is left out.

    ``split="paper"``, the default: the release's folders, 700, 100 and 200 images. Where they part the images of a
    patient, ``group`` is the image.

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
        return [
            FieldSource(_patient(f.label) or f.name, f.name, f.image, partial(_truth, f.label), _MPP) for f in fields
        ]

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:  # noqa: ARG001 - nothing is drawn
        if set(parts.values()) != {"training", "validation", "test"}:
            return None
        if len({(s.group, parts[s.source.name]) for s in samples}) > len({s.group for s in samples}):
            remark(Path(src), "patients have images in several of the release's parts: group is the image")
            for sample in samples:
                sample.group = sample.source.name
        return {sample.group: parts[sample.source.name] for sample in samples}

    return prepare_fields("ccrcc", src, dst, collect, paper=paper, **options)


def _patient(path: Path) -> str | None:
    """The patient whose slide a MATLAB file names, if it can be read and does."""
    try:
        (name,) = read_mat(path, "TCGA_file_name")
    except InputError:  # other faults of the file are reported when its map is read
        return None
    return tcga_patient(str(np.ravel(name)[0])) if np.size(name) else None


def _truth(path: Path, shape: tuple[int, int]) -> Truth:
    return Truth(read_instances(path, "instance_map", shape))
