"""Converter of MoNuSeg (Kumar et al., IEEE TMI 2020): nuclei of several organs."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.data.split import carve_validation
from monai_ext.formats.asap import read_xml
from monai_ext.formats.outlines import polygons_to_label_map, valid_geometry
from monai_ext.prepare.common import remark
from monai_ext.prepare.fields import FieldSource, Truth, prepare_fields, tcga_patient, with_labels
from monai_ext.prepare.samples import Sample, labels_per_group

__all__ = ["prepare_monuseg", "read_aperio"]

_MPP = 0.25  # 40x
_LIMIT = 1e9  # no slide is larger
# The 30 training images by patient, as Kumar et al. (IEEE TMI 2017) part them: of four organs four each for training,
# one of them for validation, and two each for the test; of three other organs two each for the test
_KUMAR = {
    "training": (
        *("TCGA-A7-A13E", "TCGA-A7-A13F", "TCGA-AR-A1AK", "TCGA-B0-5711", "TCGA-HE-7128", "TCGA-HE-7129"),
        *("TCGA-18-5592", "TCGA-38-6178", "TCGA-49-4488", "TCGA-G9-6336", "TCGA-G9-6348", "TCGA-G9-6356"),
    ),
    "validation": ("TCGA-AR-A1AS", "TCGA-HE-7130", "TCGA-50-5931", "TCGA-G9-6363"),
    "test": (
        *("TCGA-E2-A1B5", "TCGA-E2-A14V", "TCGA-B0-5710", "TCGA-B0-5698", "TCGA-21-5784", "TCGA-21-5786"),
        *("TCGA-CH-5767", "TCGA-G9-6362", "TCGA-DK-A2I6", "TCGA-G2-A2EK", "TCGA-AY-A8YK", "TCGA-NH-A8F7"),
        *("TCGA-KB-A93J", "TCGA-RD-A8N9"),
    ),
}
_ELLIPSE, _WITHOUT_AREA = "2", ("3", "4")  # ImageScope's types of regions; arrows and rulers


def prepare_monuseg(src: str | os.PathLike, dst: str | os.PathLike, **options: Any) -> Path:
    """Convert MoNuSeg: 1000 x 1000 px at 40x (0.25 um/px), the outline of each nucleus, no classes.

    Images are ``<name>.tif`` (``Tissue Images`` of the 2018 training release, ``MoNuSegTestData``), outlines
    ``<name>.xml`` of Aperio ImageScope (``Annotations``, or beside the image). ``group`` is the patient of a TCGA name,
    else the image. Where outlines overlap the smaller nucleus is in front.

    ``split="paper"``, the default where there is a test part: the challenge's. Images below a folder with ``test`` in
    its name are the test part, a fifth of the others, drawn by ``seed``, the validation part. Of the training release
    alone it is the split of Kumar et al. (2017), 12, 4 and 14 images, as Zhou et al. (2023) use it; the images that the
    challenge added later are left out.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        options: of :func:`~monai_ext.prepare.fields.prepare_fields`.

    Returns:
        The path of ``dataset.json``.
    """

    def collect(folder: Path, problems: list[str]) -> list[FieldSource]:
        images: dict[str, Path] = {}
        for path in find_files(folder, (".tif", ".tiff", ".png"), dst):
            if images.setdefault(path.stem, path) is not path:
                problems.append(f"{path}: expected one image of this name, found also {images[path.stem]}")
        outlines = {path.stem: path for path in find_files(folder, (".xml",), dst)}
        if not images or not outlines:
            expected = "Tissue Images/<name>.tif and Annotations/<name>.xml"
            problems.append(f"{folder}: expected {expected}, found {len(images)} images and {len(outlines)} XML files")
            return []
        return [
            FieldSource(tcga_patient(name), name, images[name], partial(_truth, outlines[name]), _MPP)
            for name in with_labels(folder, images, outlines, problems)
        ]

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:
        groups = {sample.group for sample in samples}
        test = {s.group for s in samples if any("test" in part.lower() for part in _folders(s, src))}
        if test and test != groups:
            parts = {group: "test" if group in test else "training" for group in groups}
            return carve_validation(parts, labels_per_group(samples), seed)
        kumar = {group: part for part, patients in _KUMAR.items() for group in patients if group in groups}
        return kumar if not test and options.get("split") == "paper" and len(set(kumar.values())) == 3 else None

    def choose(samples: list[Sample], parts: dict[str, str]) -> list[Sample]:
        chosen = [sample for sample in samples if sample.group in parts]
        if len(chosen) < len(samples):
            remark(Path(src), f"{len(samples) - len(chosen)} images that are not of the paper's 30 left out")
        return chosen

    return prepare_fields("monuseg", src, dst, collect, paper=paper, choose=choose, **options)


def read_aperio(path: str | os.PathLike) -> np.ndarray:
    """Read the outlines of an Aperio ImageScope XML.

    Args:
        path: the file. A document type is refused.

    Returns:
        ``(N,)`` shapely polygons as they were drawn, ``x, y`` in level-0 pixels counted from the upper left corner.
        Ellipses (which ImageScope writes as two corners of their box) are polygons too; regions that ImageScope calls
        negative are cut out of the others; arrows, rulers and regions of fewer than three corners are left out.

    Raises:
        InputError: no such file, no XML of ImageScope, or coordinates that are no numbers; it names the region.
    """
    root = read_xml(path, "Annotations", "Aperio ImageScope")
    polygons, holes = [], []
    for number, region in enumerate(root.iter("Region")):
        try:
            xy = np.array([[float(v.attrib[axis]) for axis in "XY"] for v in region.iter("Vertex")]).reshape(-1, 2)
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}, region {number}", "vertices with X and Y", str(error)) from error
        if not (np.abs(xy) < _LIMIT).all():
            raise InputError(f"{path}, region {number}", "finite coordinates", str(np.abs(xy).max()))
        outline = _outline(region.get("Type"), xy)
        if outline is not None:
            (holes if region.get("NegativeROA") == "1" else polygons).append(outline)
    outlines = np.array(polygons, dtype=object)
    if not holes:
        return outlines
    cut = shapely.difference(valid_geometry(outlines), shapely.union_all(valid_geometry(holes)))
    return cut[shapely.area(cut) > 0]


def _outline(kind: str | None, xy: np.ndarray) -> shapely.Polygon | None:
    if kind in _WITHOUT_AREA:
        return None
    corners = len(np.unique(xy, axis=0))
    if kind == _ELLIPSE and 2 <= corners <= 4:
        low, high = xy.min(axis=0), xy.max(axis=0)
        circle = shapely.Point(0, 0).buffer(0.5, quad_segs=16)
        return shapely.transform(circle, lambda unit: unit * (high - low) + (low + high) / 2)
    return shapely.Polygon(xy) if corners > 2 else None


def _truth(path: Path, shape: tuple[int, int]) -> Truth:
    polygons = read_aperio(path)
    if not len(polygons):
        raise InputError(path, "outlines of nuclei", "none")
    return Truth(polygons_to_label_map(polygons, shape))


def _folders(sample: Sample, src: str | os.PathLike) -> tuple[str, ...]:
    return sample.source.image.relative_to(src).parent.parts
