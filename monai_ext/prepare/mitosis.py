"""Converters of the mitosis releases: ICPR 2012, ICPR 2014, AMIDA13 and TUPAC16; MIDOG's is in :mod:`.midog`.

Each takes the folder of the unpacked release, the folder to write, and the options of
:func:`monai_ext.prepare.common.prepare`: ``split``, ``seed``, ``overwrite``, ``link``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.data.split import carve_validation
from monai_ext.formats.point_files import read_points
from monai_ext.prepare.common import prepare, remark
from monai_ext.prepare.samples import PointsImage, Sample, labels_per_group

__all__ = ["prepare_amida13", "prepare_mitos12", "prepare_mitos14", "prepare_tupac16"]

_NO_POINTS = np.zeros((0, 2), dtype=np.float32)
_MITOS12_MPP = {"A": 0.2456, "H": 0.2273}  # Aperio XT, Hamamatsu NanoZoomer
_MITOS14_MPP = {"A": 0.2455, "H": 0.2273}
_MITOS14_TRAINING = ("04", "05", "07", "10", "11", "12", "14")
_MITOS14_VALIDATION = "03"
_TUPAC16_VALIDATION = frozenset({30, 37, 44, 51, 58, 65, 72})
_AMIDA13_CASES = 23  # of TUPAC16's 73, the first ones
_PARTS = {f"mitoses_image_data_part_{number}" for number in (1, 2, 3)}


def prepare_mitos12(
    src: str | os.PathLike, dst: str | os.PathLike, *, scanner: str = "A", masks: bool = False, **options: Any
) -> Path:
    """Convert the ICPR 2012 MITOS set (Roux et al., 2013): five slides, ten fields each.

    Fields are ``A00_v2/A00_00.bmp`` (or ``.tif``, ``.png``; the ``.jpg`` beside them has the outlines drawn in and is
    left alone). In ``A00_00.csv`` a line lists the pixels of one mitosis, ``x1,y1,x2,y2,...``: its label is their
    centroid.

    The paper's split is the contest's: 35 fields for training, 15 for testing, identified by a folder named ``eval...``
    or ``test...``, else by the fields' numbers (00 to 06, 07 to 09) if all ten of a slide are together. It tests on
    fields of the training slides, so with it ``group`` is the field, not the slide; the validation part is a fifth of
    the training fields, drawn by ``seed``. All other splits are by slide.

    Args:
        src: the folder of the unpacked release.
        dst: the folder to write.
        scanner: ``"A"`` (Aperio) or ``"H"`` (Hamamatsu, ``H00_v2`` ...), which scanned the same slides.
        masks: also write instance masks, under the key ``mask`` (16-bit PNG, 0 is background).
        options: of :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.
    """
    pattern = re.compile(rf"({_scanner(scanner, _MITOS12_MPP)}\d+)_(\d+)", re.IGNORECASE)

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        images: dict[str, Path] = {}
        for suffix in (".png", ".tiff", ".tif", ".bmp"):  # of several versions of a field, the last named here
            images |= {path.stem: path for path in find_files(folder, (suffix,), dst) if pattern.fullmatch(path.stem)}
        tables = {path.stem: path for path in find_files(folder, (".csv",), dst) if pattern.fullmatch(path.stem)}
        places = f"{scanner}00_v2/{scanner}00_00.bmp", f"{scanner}00_v2/{scanner}00_00.csv"
        if not _both_there(folder, images, tables, problems, places):
            return []
        samples = []
        for field, image in images.items():
            regions = _pixel_lists(tables.get(field), problems)
            points = np.array([region.mean(axis=0) for region in regions], dtype=np.float32).reshape(-1, 2)
            sample = PointsImage(pattern.fullmatch(field)[1], field, image, points, _MITOS12_MPP[scanner])
            sample.regions = regions if masks else None
            samples.append(sample)
        return samples

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:
        test = {s.name for s in samples if _has_test_folder(s.image.relative_to(src))}
        if not test and len(samples) == 50:
            test = {s.name for s in samples if int(s.name.split("_")[1]) >= 7}
        if not test or len(test) == len(samples):
            return None
        for sample in samples:
            sample.group = sample.name
        parts = {sample.group: "test" if sample.name in test else "training" for sample in samples}
        return carve_validation(parts, labels_per_group(samples), seed)

    return prepare("mitos12", src, dst, collect, paper=paper, **options)


def prepare_mitos14(
    src: str | os.PathLike, dst: str | os.PathLike, *, scanner: str = "A", frames: str = "x40", **options: Any
) -> Path:
    """Convert the mitosis part of MITOS-ATYPIA-14 (ICPR 2014).

    Frames are ``A03/frames/x40/A03_00Aa.tiff``; ``A03/mitosis/A03_00Aa_mitosis.csv`` has lines ``x,y,confidence``, and
    ``A03_00Aa_not_mitosis.csv`` likewise lists cells that were considered and rejected (key ``lookalikes``). Slides
    without a folder ``mitosis`` are the contest's test slides, whose labels are withheld; they are left out.

    The paper's split (SegMitos, section 4.3): slide 03 for validation, 04, 05, 07, 10, 11, 12 and 14 for training; the
    other labelled slides are the test part.

    Args:
        src: the folder of the unpacked release.
        dst: the folder to write.
        scanner: ``"A"`` (Aperio) or ``"H"`` (Hamamatsu, ``H03`` ...), which scanned the same slides.
        frames: ``"x40"``, or ``"x20"``, where a frame ``A03_00A`` shows the four x40 frames ``A03_00Aa`` to ``d``.
        options: of :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.
    """
    mpp = _MITOS14_MPP[_scanner(scanner, _MITOS14_MPP)]
    if frames not in ("x40", "x20"):
        raise InputError("frames", "'x40' or 'x20'", repr(frames))

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        images = [
            path
            for path in find_files(folder, (".tif", ".tiff"), dst)
            if path.parts[-3:-1] == ("frames", frames) and path.parents[2].name.startswith(scanner)
        ]
        labelled = [path for path in images if (path.parents[2] / "mitosis").is_dir()]
        if not labelled:
            places = f"{scanner}03/frames/{frames}/*.tiff with {scanner}03/mitosis/*_mitosis.csv"
            problems.append(f"{folder}: expected frames at {places}, found {len(images)} frames, none with labels")
        elif len(labelled) < len(images):
            remark(folder, f"{len(images) - len(labelled)} frames of slides without labels left out")
        samples = []
        for path in labelled:
            points, lookalikes = (_frame_points(path, kind, frames, problems) for kind in ("mitosis", "not_mitosis"))
            slide = path.parents[2].name
            resolution = mpp if frames == "x40" else 2 * mpp
            samples.append(PointsImage(slide, f"{slide}/{path.stem}", path, points, resolution, lookalikes))
        return samples

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:  # noqa: ARG001 - nothing is drawn
        slides = {sample.group for sample in samples}
        named = {scanner + slide: "training" for slide in _MITOS14_TRAINING}
        named[scanner + _MITOS14_VALIDATION] = "validation"
        return {slide: named.get(slide, "test") for slide in slides} if slides >= set(named) else None

    return prepare("mitos14", src, dst, collect, paper=paper, **options)


def prepare_amida13(src: str | os.PathLike, dst: str | os.PathLike, **options: Any) -> Path:
    """Convert AMIDA13 (Veta et al., 2015): 23 cases of fields of 2000 x 2000 pixels at 0.25 um/px.

    Images are ``<case>/<nn>.tif``, their points ``<case>/<nn>.csv`` with lines ``row,col``, in one tree or two; an
    image without a CSV has no mitoses. AMIDA13's own site is closed, but its cases are the first 23 of TUPAC16's
    auxiliary mitosis set, under the same numbers (SegMitos, section 4.5): given that release, cases 1 to 23 are taken.
    The paper's split is the challenge's: cases 1 to 12 for training, of which a fifth drawn by ``seed`` is the
    validation part, 13 to 23 for testing. It applies to all 23 cases only.

    Args:
        src: the folder of the unpacked release, AMIDA13's or TUPAC16's.
        dst: the folder to write.
        options: of :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.
    """

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        return _case_folders(folder, dst, problems, ("<case>/<nn>.tif", "<case>/<nn>.csv"), _AMIDA13_CASES)

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:
        cases = _numbered(samples)
        if set(cases.values()) != set(range(1, _AMIDA13_CASES + 1)):
            return None
        parts = {case: "training" if number <= 12 else "test" for case, number in cases.items()}
        return carve_validation(parts, labels_per_group(samples), seed)

    return prepare("amida13", src, dst, collect, paper=paper, **options)


def prepare_tupac16(src: str | os.PathLike, dst: str | os.PathLike, **options: Any) -> Path:
    """Convert the auxiliary mitosis set of TUPAC16 (Veta et al., 2019): 73 cases at 0.25 um/px.

    Images are ``mitoses_image_data*/<case>/<nn>.tif`` (whole or in the three parts of the download), their points
    ``mitoses_ground_truth/<case>/<nn>.csv`` with lines ``row,col``; an image without a CSV has no mitoses.
    ``mitoses-test-image-data/<case>/<nn>.tif``, if it was unpacked beside them, has the challenge's 34 test cases,
    under numbers that the training cases have too. Their labels are withheld, so they are left out here; inference
    takes that folder as it is, and ``python -m monai_ext hand_in`` writes the files that the challenge asks for.

    The paper's split (SegMitos, section 4.5): cases 30, 37, 44, 51, 58, 65 and 72 for validation, the others for
    training, and no test part. It applies to all 73 cases only.

    Args:
        src: the folder of the unpacked release.
        dst: the folder to write.
        options: of :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.
    """

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        places = "mitoses_image_data*/<case>/<nn>.tif", "mitoses_ground_truth/<case>/<nn>.csv"
        return _case_folders(folder, dst, problems, places)

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:  # noqa: ARG001 - nothing is drawn
        cases = _numbered(samples)
        if set(cases.values()) != set(range(1, 74)):
            return None
        return {case: "validation" if number in _TUPAC16_VALIDATION else "training" for case, number in cases.items()}

    return prepare("tupac16", src, dst, collect, paper=paper, **options)


def _case_folders(
    src: Path, dst: str | os.PathLike, problems: list[str], places: tuple[str, str], last: int | None = None
) -> list[Sample]:
    """Samples of a release whose images and CSV files are named ``<case>/<nn>``: of TUPAC16 up to the last case."""
    files = find_files(src, (".tif", ".tiff"), dst)
    withheld = dict.fromkeys(path for path in files if _withheld(path.relative_to(src), last is None))
    if withheld:
        test = next(iter(withheld)).parents[1]
        remark(src, f"{len(withheld)} test images, whose labels are withheld, left out: inference takes {test}")
    images: dict[tuple[str, str], Path] = {}
    for path in files:
        case, field = key = path.parent.name, path.stem
        if path not in withheld and images.setdefault(key, path) is not path:
            problems.append(f"{path}: expected one image of case {case}, field {field}, found also {images[key]}")
    cases = {case for case, _ in images}
    tables: dict[tuple[str, str], Path] = {}
    for path in find_files(src, (".csv",), dst):
        key = path.parent.name, path.stem
        if path.parent.name not in cases and not path.parent.name.isdigit():
            remark(path, "not in a case's folder: left out")
        elif tables.setdefault(key, path) is not path:
            problems.append(f"{path}: expected the points of a field once, found also {tables[key]}")
    if last is not None:
        beyond = {case for case, _ in {**images, **tables} if case.isdecimal() and int(case) > last}
        if beyond:
            remark(src, f"cases above {last}, which are not AMIDA13's, left out ({len(beyond)})")
        images, tables = ({k: v for k, v in each.items() if k[0] not in beyond} for each in (images, tables))
    if tables.keys() - images.keys():
        problems += _missing_parts(src, images.values())
    if not _both_there(src, images, tables, problems, places):
        return []
    return [
        PointsImage(case, f"{case}/{field}", images[case, field], _points(tables.get((case, field)), problems), 0.25)
        for case, field in images
    ]


def _withheld(path: Path, is_tupac16: bool) -> bool:
    """Whether an image is of TUPAC16's test set; AMIDA13's test cases have labels, in whatever folder."""
    named = re.search("mitos[ei]s.test.image", str(path.parent), re.IGNORECASE) is not None
    return named or (is_tupac16 and _has_test_folder(path))


def _missing_parts(src: Path, images: Iterable[Path]) -> list[str]:
    """Which of the parts that TUPAC16's images come in are not there, if any of them is."""
    there = {part for path in images for part in path.relative_to(src).parts} & _PARTS
    missing = _PARTS - there if there else ()
    return [f"{src}: expected also {part}, found {', '.join(sorted(there))}" for part in sorted(missing)]


def _both_there(src: Path, images: dict, tables: dict, problems: list[str], places: tuple[str, str]) -> bool:
    """Whether there are images and tables; a table without its image is a problem, the reverse is a field without."""
    for kind, files, pattern in zip(("images", "labels"), (images, tables), places, strict=True):
        if not files:
            problems.append(f"{src}: expected {kind} at {pattern}, found none")
    if not (images and tables):
        return False
    problems += [f"{tables[key]}: expected its image, found none" for key in sorted(tables.keys() - images.keys())]
    bare = len(images.keys() - tables.keys())
    if bare:
        remark(src, f"{bare} of {len(images)} images have no CSV: taken as having no mitoses")
    return True


def _points(path: Path | None, problems: list[str], xy: bool = False) -> np.ndarray:
    if path is None:
        return _NO_POINTS
    try:
        return read_points(path, xy)
    except InputError as error:
        problems.append(str(error))
        return _NO_POINTS


def _frame_points(frame: Path, kind: str, frames: str, problems: list[str]) -> np.ndarray:
    """Points of one frame of MITOS-ATYPIA-14; of an x20 frame from the x40 frames that are its quadrants."""
    folder = frame.parents[2] / "mitosis"
    if frames == "x40":
        path = folder / f"{frame.stem}_{kind}.csv"
        return _points(path if path.exists() else None, problems, xy=True)
    from monai_ext.formats.image import (
        read_field,  # an x40 frame has as many pixels as the x20 frame it is a quarter of
    )

    size = np.array(read_field(frame).file_shape)
    parts = [_NO_POINTS]
    for quadrant, letter in enumerate("abcd"):
        path = folder / f"{frame.stem}{letter}_{kind}.csv"
        if path.exists():
            points = _points(path, problems, xy=True) + size * divmod(quadrant, 2)
            parts.append((points + 0.5) / 2 - 0.5)
    return np.concatenate(parts).astype(np.float32)


def _pixel_lists(path: Path | None, problems: list[str]) -> list[np.ndarray]:
    """The mitoses of a field of ICPR 2012: one array of pixels ``row, col`` a line."""
    regions = []
    lines = [] if path is None else path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in line.split(",")]
        while cells and not cells[-1]:
            cells.pop()
        if not cells:
            continue
        if len(cells) % 2 or not all(re.fullmatch(r"\d+", cell, re.ASCII) for cell in cells):
            problems.append(f"{path}, line {number}: expected pixels x1,y1,x2,y2,... , found {line!r:.60}")
            continue
        regions.append(np.array(cells, dtype=np.int64).reshape(-1, 2)[:, ::-1])
    return regions


def _numbered(samples: list[Sample]) -> dict[str, int]:
    return {sample.group: int(sample.group) if sample.group.isdecimal() else -1 for sample in samples}


def _has_test_folder(path: Path) -> bool:
    return any(re.search("eval|test", part, re.IGNORECASE) for part in path.parent.parts)


def _scanner(scanner: str, resolutions: dict[str, float]) -> str:
    if scanner not in resolutions:
        raise InputError("scanner", " or ".join(resolutions), repr(scanner))
    return scanner
