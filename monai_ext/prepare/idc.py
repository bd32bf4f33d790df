"""Nuclei of the Imaging Data Commons: annotations in DICOM of slides in DICOM."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from monai_ext.base.dicom_heads import taken_as_dicom
from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.base.threads import cache_in_threads, in_threads
from monai_ext.formats.annotation_checks import misfits
from monai_ext.formats.dicom import (
    ANNOTATION_CLASS,
    HEADER,
    SLIDE_CLASS,
    SlideFrame,
    load_pydicom,
    read_dicom,
    referenced_images,
    referenced_series,
    slide_frame,
    slide_of,
    stated,
)
from monai_ext.formats.dicom_annotations import read_dicom_annotations
from monai_ext.formats.geojson import Features, class_numbers
from monai_ext.formats.outlines import polygons_to_label_map
from monai_ext.formats.roles import countable
from monai_ext.prepare.common import remark
from monai_ext.prepare.fields import FieldSource, Truth, prepare_fields

if TYPE_CHECKING:
    from monai_ext.formats.reader import SlideReader

__all__ = ["prepare_idc"]

_NUMBERS = ("size", "squares")
_UNSAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, eq=False)
class _Slide:
    """A slide, its annotation, and the resolution wanted."""

    frame: SlideFrame
    annotation: Path
    target_mpp: float | None

    @property
    def name(self) -> str:
        """The barcode, where the file has one."""
        return _UNSAFE.sub("_", self.frame.container) or self.frame.series

    @property
    def group(self) -> str:
        return self.frame.patient or self.name


def prepare_idc(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    size: int = 512,
    squares: int = 64,
    target_mpp: float | None = None,
    **options: Any,
) -> Path:
    """Cut squares of slides whose nuclei the Imaging Data Commons (IDC) publishes, such as Pan-Cancer-Nuclei-Seg-DICOM.

    Slides are whole slide images, nuclei Microscopy Bulk Simple Annotations, both ``.dcm``, in any folders, as
    idc-index downloads them (``<collection>/<patient>/<study>/{SM,ANN}_<series>/*.dcm``). An annotation names its slide
    by the image that it counts pixels in, or by the coordinate system of the glass. Needs pydicom
    (``pip install 'monai_ext[dicom]'``).

    From each slide ``squares`` are drawn, by ``seed``, of those that lie side by side on it and hold the middle of a
    nucleus: what has no annotation may be tissue that nobody looked at. Classes are the coded types of the objects
    (``Nucleus``), in alphabetical order. Where outlines overlap the smaller one is in front; points and lines are no
    nuclei. ``group`` is the patient. The nuclei were found by a program: weak labels, not an expert's.

    Args:
        src: the folder of the downloads.
        dst: the folder to write.
        size: side of a square, px.
        squares: how many of each slide at most; 0 for all.
        target_mpp: um/px of the squares; None: the slide's full resolution.
        options: of :func:`~monai_ext.prepare.fields.prepare_fields`.

    Returns:
        The path of ``dataset.json``.

    Raises:
        DataListError: with every file that cannot be read, annotation without its slide, and slide with two.
    """
    for name, value in zip(_NUMBERS, (size, squares), strict=True):
        least = 32 if name == "size" else 0
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InputError(name, f"a whole number, at least {least}", repr(value))
    about: dict[str, object] = {}

    def collect(folder: Path, problems: list[str]) -> list[FieldSource]:
        slides = _slides(folder, dst, target_mpp, problems)
        names: set[str] = set()
        for found, problem in in_threads(_checked, slides, "idc: reading annotations"):
            names |= found
            problems += problem
        if problems:
            return []
        about["class_names"] = sorted(names)
        seed = options.get("seed", 0)
        return [source for slide in slides for source in _sources(slide, size, squares, seed, sorted(names))]

    return prepare_fields("idc", src, dst, collect, about=about, **options)


def _slides(src: Path, skip: str | os.PathLike, target_mpp: float | None, problems: list[str]) -> list[_Slide]:
    """The slides that have an annotation."""
    # of each series one file is found, but all of them are read
    folders = sorted({path.parent for path in find_files(src, (".dcm",), skip)})
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if taken_as_dicom(path)]
    if paths:
        load_pydicom(src)
    series: dict[str, dict[Path, Any]] = {}
    annotations: dict[Path, Any] = {}
    others = 0
    for path, header in zip(paths, in_threads(_header, paths, "idc: reading files"), strict=True):
        if isinstance(header, InputError):
            problems.append(str(header))
        elif header.get("SOPClassUID") == SLIDE_CLASS:
            series.setdefault(str(header.get("SeriesInstanceUID")), {})[path] = header
        elif header.get("SOPClassUID") == ANNOTATION_CLASS:
            annotations[path] = header
        else:
            others += 1
    if not problems and not (series and annotations):
        expected = "whole slide images and their Microscopy Bulk Simple Annotations (SM_<series>/, ANN_<series>/*.dcm)"
        found = f"{len(series)} slides, {len(annotations)} annotations"
        problems.append(f"{src}: expected {expected}, found {found}")
    if others:
        remark(src, f"{others} DICOM files of other kinds left out")
    frames = []
    for files in series.values():
        try:
            frames.append(slide_frame(_in_one_folder(files, problems)))
        except InputError as error:
            problems.append(str(error))
    return _matched(src, frames, _once(annotations, problems), target_mpp, problems)


def _header(path: Path) -> Any:
    """What a file is; or what is wrong with it."""
    try:
        header = read_dicom(path, HEADER)
        with stated(path):  # what it lacks shows when it is asked for
            referenced_images(header), referenced_series(header)
            str(header.SOPInstanceUID), str(header.SeriesInstanceUID)
    except InputError as error:
        return error
    return header


def _in_one_folder(files: Mapping[Path, Any], problems: list[str]) -> dict[Path, Any]:
    """The files of a series; a series in several folders was unpacked twice."""
    first, *others = sorted({path.parent for path in files})
    series = next(iter(files.values())).get("SeriesInstanceUID")
    problems += [f"{other}: expected one folder with the slide {series}, found also {first}" for other in others]
    return {path: header for path, header in files.items() if path.parent == first}


def _once(annotations: Mapping[Path, Any], problems: list[str]) -> dict[Path, Any]:
    """Annotations without copies."""
    seen: dict[str, Path] = {}
    for path, header in annotations.items():
        if (first := seen.setdefault(str(header.get("SOPInstanceUID")), path)) is not path:
            problems.append(f"{path}: expected one file of this annotation, found also {first}")
    return {path: annotations[path] for path in seen.values()}


def _matched(
    src: Path, frames: list[SlideFrame], annotations: Mapping[Path, Any], target_mpp: float | None, problems: list[str]
) -> list[_Slide]:
    slides: dict[str, _Slide] = {}
    for path, header in annotations.items():
        own = slide_of(header, frames)
        if own is None:
            named = (header.get("FrameOfReferenceUID"), *referenced_images(header), *referenced_series(header))
            of = ", ".join(sorted({str(uid) for uid in named if uid})) or "none"
            problems.append(f"{path}: expected its slide (of {of}) in {src}, found none")
        elif (other := slides.setdefault(own.series, _Slide(own, path, target_mpp))).annotation is not path:
            problems.append(f"{path}: expected one annotation of {own.path}, found also {other.annotation}")
    if bare := len(frames) - len(slides):
        remark(src, f"{bare} slides without an annotation left out")
    return list(slides.values())


def _checked(slide: _Slide) -> tuple[set[str], list[str]]:
    """Classes of a slide's nuclei, and what is wrong with it."""
    try:
        shape = _reader(slide).file_shape
        nuclei, _ = _nuclei(slide)
    except InputError as error:
        return set(), [str(error)]
    if shape != slide.frame.shape:
        expected, found = ("{} x {} px".format(*sides[::-1]) for sides in (slide.frame.shape, shape))
        return set(), [f"{slide.frame.path}: expected {expected}, as it states, found {found}"]
    if not len(nuclei):
        return set(), [f"{slide.annotation}: expected outlines of nuclei, found none"]
    # their unit is stated, so that nothing is to be told from their size
    return set(nuclei.classes), misfits(nuclei, slide.annotation, shape, None, slide.frame.path)


def _sources(slide: _Slide, size: int, squares: int, seed: int, names: list[str]) -> list[FieldSource]:
    """The squares that are drawn of a slide."""
    reader = _reader(slide)
    nuclei, _ = _nuclei(slide)
    # whole squares only: beyond the slide there is nothing
    grid = np.array(reader.shape) // size
    places = (nuclei.points(scale=reader.file_scale) // size).astype(int)
    places = np.unique(places[((places >= 0) & (places < grid)).all(axis=1)], axis=0)
    if squares and len(places) > squares:
        places = places[np.sort(np.random.RandomState(seed).choice(len(places), squares, replace=False))]
    return [
        FieldSource(
            group=slide.group,
            name=f"{slide.name}/{row * size:06d}_{col * size:06d}",
            image=slide.frame.path,
            read=partial(_truth, slide, row * size, col * size, names),
            mpp=reader.mpp,
            pixels=partial(_pixels, slide, row * size, col * size, size),
        )
        for row, col in places.tolist()
    ]


def _pixels(slide: _Slide, row: int, col: int, size: int) -> np.ndarray:
    return np.moveaxis(_reader(slide).read(row, col, size, size), 0, -1)


def _truth(slide: _Slide, row: int, col: int, names: list[str], shape: tuple[int, int]) -> Truth:
    nuclei, tree = _nuclei(slide)
    down, across = np.broadcast_to(_reader(slide).file_scale, 2).tolist()
    here = shapely.box(col * across, row * down, (col + shape[1]) * across, (row + shape[0]) * down)
    near = nuclei[np.sort(tree.query(here))]
    instances = polygons_to_label_map(near.geometry, shape, offset=(row * down, col * across), scale=(down, across))
    numbers = np.append(0, class_numbers(near, names) + 1).astype(np.uint8)
    return Truth(instances, numbers[instances])


@cache_in_threads(4)
def _reader(slide: _Slide) -> SlideReader:
    from monai_ext.formats.reader import SlideReader  # it imports torch, which no other converter needs

    return SlideReader(slide.frame.path, slide.target_mpp)


@cache_in_threads(2)  # hundreds of thousands of outlines each
def _nuclei(slide: _Slide) -> tuple[Features, shapely.STRtree]:
    """Outlines with an area, valid."""
    nuclei = countable(read_dicom_annotations(slide.annotation, slide.frame), slide.annotation)
    return nuclei, shapely.STRtree(nuclei.geometry)
