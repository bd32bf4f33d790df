"""Converters of the MIDOG releases: 2021, 2022, MIDOG++, and labels of atypical figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files
from monai_ext.data.split import carve_validation
from monai_ext.prepare.atypical import add_atypical
from monai_ext.prepare.common import prepare, remark
from monai_ext.prepare.samples import PointsImage, Sample, labels_per_group
from monai_ext.prepare.tables import Row, one_file, read_table

__all__ = ["prepare_midog", "prepare_midogpp"]

_FIGURE, _LOOKALIKE = 1, 2
_IMAGES = (".tif", ".tiff", ".png", ".jpg")
_CASES = "datasets_xvalidation.csv"
_COLUMNS = ("Slide", "Dataset", "Tumor", "Scanner", "Origin", "Species")
#: What datasets_xvalidation.csv spells in another way than MIDOG++.json, or in two ways.
_SPELLINGS = {"canine lymphoma": "canine lymphosarcoma", "Hamammatsu XR": "Hamamatsu XR"}
_MOST = 20  # missing images that are named one by one


@dataclass
class _Case:
    """An image of a COCO file: ``row, col`` of the middle of its boxes."""

    tumour: str | None = None
    figures: list[tuple[float, float]] = field(default_factory=list)
    lookalikes: list[tuple[float, float]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.figures or self.lookalikes)


def prepare_midog(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    annotations: str | os.PathLike | None = None,
    keep_unannotated: bool = False,
    **options: Any,
) -> Path:
    """Convert MIDOG 2021 or MIDOG 2022 (Aubreville et al., 2023): one image a case.

    A COCO file (``MIDOG.json`` ...) lists images and boxes ``x1, y1, x2, y2`` of mitotic figures
    (category 1) and of look-alikes (category 2, key ``lookalikes``); a point is the centre of its box. The papers name
    no split by case. The resolution is that of the image file, or 0.25 um/px where it states none. MIDOG++ has tumour
    types and scanners besides: :func:`prepare_midogpp`.

    Args:
        src: the folder of the unpacked release; the images may be anywhere below it.
        dst: the folder to write.
        annotations: the COCO file; by default the only one below ``src``.
        keep_unannotated: keep images without any box as images without mitoses. They are left out by default, since
            the releases list the images of unannotated scanners in the same way.
        options: of :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.
    """

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        listed = _read_coco(folder, dst, annotations, "MIDOG.json", problems)
        kept = {name: case for name, case in listed.items() if keep_unannotated or not case.is_empty}
        if len(kept) < len(listed):
            remark(folder, f"{len(listed) - len(kept)} images without any annotation left out (keep_unannotated=True)")
        return _samples(folder, dst, kept, problems)

    return prepare("midog", src, dst, collect, **options)


def prepare_midogpp(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    annotations: str | os.PathLike | None = None,
    leave_out: str | None = None,
    atypical: str | os.PathLike | Sequence[str | os.PathLike] = (),
    **options: Any,
) -> Path:
    """Convert MIDOG++ (Aubreville et al., 2023): 503 cases of seven tumour types, one image each.

    ``MIDOG++.json`` (COCO, but boxes are ``x1, y1, x2, y2``, of 50 px around the point that was marked) lists images
    with their ``tumor_type``, mitotic figures (category 1) and look-alikes (category 2). ``datasets_xvalidation.csv``
    (``Slide;Dataset;Tumor;Scanner;Origin;Species``) tells the paper's training and test cases and the scanners. Both
    are in the repository github.com/DeepMicroscopy/MIDOGpp, whose notebook downloads the images to
    ``images/001.tiff`` ...; they may be anywhere below ``src``. Images 151 to 200 stand in the JSON without
    annotations, are not in the CSV and not to be downloaded; they are left out.

    The paper's split is the CSV's, with a fifth of the training cases, drawn by ``seed``, for validation (one of its
    five folds). ``leave_out`` makes its leave-one-domain-out split: that type's test cases are the test part, the other
    types' training cases the training and the validation part. Without the CSV cases are drawn, and all cases of the
    type that is left out are the test part.

    Items have ``tumor``, ``scanner``, ``origin`` and ``species``; the CSV's two spellings are brought together (canine
    lymphoma is the JSON's canine lymphosarcoma, Hamammatsu XR is Hamamatsu XR).

    Args:
        src: the folder with the images and the two lists.
        dst: the folder to write.
        annotations: the COCO file; by default ``MIDOG++.json`` (or ``MIDOGpp.json``) below ``src``.
        leave_out: a tumour type, such as ``"human melanoma"``, that is tested on and not trained on.
        atypical: lists of atypical figures, of AMi-Br or of MIDOG 2025 (see :func:`.prepare_atypical`). Where a list
            speaks of an image's figures, its item has ``atypical``, the points of those that are atypical: a second
            class among the figures of ``label``.
        options: of :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.
    """
    lists = [Path(path) for path in ([atypical] if isinstance(atypical, str | os.PathLike) else atypical)]
    if leave_out is not None and options.get("split") not in (None, "paper"):
        raise InputError("leave_out", "no --split of another kind beside it", repr(options["split"]))
    official: dict[str, str] = {}

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        listed = _read_coco(folder, dst, annotations, "MIDOG++.json", problems)
        rows = _read_cases(folder, dst, problems)
        if rows:
            listed = {name: case for name, case in listed.items() if Path(name).stem.lstrip("0") in rows}
        else:
            listed = {name: case for name, case in listed.items() if not case.is_empty}
        samples = _samples(folder, dst, listed, problems)
        for sample in samples:
            row = rows.get(sample.name.lstrip("0"), {})
            if row:
                official[sample.group] = row["Dataset"]
            sample.more = {"tumor": listed[sample.image.name].tumour or row.get("Tumor", "")}
            sample.more |= {key.lower(): row[key] for key in ("Scanner", "Origin", "Species") if key in row}
            if not sample.more["tumor"]:
                problems.append(f"{sample.image}: expected its tumor_type in MIDOG++.json or in {_CASES}, found none")
        add_atypical(samples, lists, problems)
        return samples

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:
        tumours = {sample.group: sample.more["tumor"] for sample in samples}
        if leave_out is not None and leave_out not in tumours.values():
            raise InputError("leave_out", ", ".join(sorted(set(tumours.values()))), repr(leave_out))
        if not official and leave_out is None:
            return None
        parts = {case: "test" if tumours[case] == leave_out else "training" for case in tumours}
        if leave_out is None:
            parts = {case: "test" if official[case] == "test" else "training" for case in tumours}
        wrong = {case for case in tumours if official and (official[case] == "test") != (parts[case] == "test")}
        weights = {case: count for case, count in labels_per_group(samples).items() if case not in wrong}
        return parts | carve_validation({case: parts[case] for case in weights}, weights, seed)

    def choose(samples: list[Sample], parts: dict[str, str]) -> list[Sample]:  # noqa: ARG001 - by type and list
        if leave_out is None or not official:
            return samples
        tests = {sample.group: sample.more["tumor"] == leave_out for sample in samples}
        kept = [sample for sample in samples if tests[sample.group] == (official[sample.group] == "test")]
        remark(Path(src), f"{len(samples) - len(kept)} cases left out: the paper trains on no test case of any type")
        return kept

    about = {} if leave_out is None else {"left_out": leave_out}
    return prepare("midogpp", src, dst, collect, paper=paper, choose=choose, about=about, **options)


def _read_coco(
    src: Path, dst: str | os.PathLike, annotations: str | os.PathLike | None, name: str, problems: list[str]
) -> dict[str, _Case]:
    """The images of a COCO file by their names."""
    files = [Path(annotations)] if annotations else find_files(src, (".json",), dst)
    if "++" in name:  # its repository has others besides
        files = [path for path in files if annotations or path.name.lower() in ("midog++.json", "midogpp.json")]
    path = one_file(src, files, f"COCO file such as {name} (annotations= names it)", problems)
    if path is None:
        return {}
    try:
        content = orjson.loads(path.read_bytes())
        images = {image["id"]: image for image in content["images"]}
        cases = {number: _Case(image.get("tumor_type")) for number, image in images.items()}
        for box in content["annotations"]:
            x1, y1, x2, y2 = box["bbox"]
            category, case = box["category_id"], cases[box["image_id"]]
            if category not in (_FIGURE, _LOOKALIKE) or not (x1 < x2 and y1 < y2):
                expected = "category 1 or 2 and a box x1 < x2, y1 < y2"
                problems.append(f"{path}: expected {expected}, found {category} {box['bbox']}")
                continue
            points = case.figures if category == _FIGURE else case.lookalikes
            points.append(((y1 + y2) / 2, (x1 + x2) / 2))
    except (AttributeError, OSError, KeyError, TypeError, ValueError) as error:
        problems.append(f"{path}: expected COCO with images and annotations, found {type(error).__name__}: {error}")
        return {}
    return {Path(images[number]["file_name"]).name: case for number, case in cases.items()}


def _read_cases(src: Path, dst: str | os.PathLike, problems: list[str]) -> dict[str, Row]:
    """The lines of ``datasets_xvalidation.csv`` by the number of the image; none without the file."""
    files = [path for path in find_files(src, (".csv",), dst) if path.name == _CASES]
    path = one_file(src, files, _CASES, problems, required=False)
    if path is None:
        if not files:
            remark(src, f"no {_CASES}: neither the paper's split nor scanners")
        return {}
    rows: dict[str, Row] = {}
    for row in read_table(path, _COLUMNS, problems):
        if not row["Slide"].isdecimal() or row["Dataset"] not in ("train", "test") or row["Slide"] in rows:
            actual = "its line twice" if row["Slide"] in rows else f"{row['Dataset']!r}"
            problems.append(f"{path}: expected for slide {row['Slide']} one line with train or test, found {actual}")
        rows[row["Slide"]] = {name: _SPELLINGS.get(cell, cell) for name, cell in row.items()}
    return {number: row for number, row in rows.items() if number.isdecimal()}


def _samples(src: Path, dst: str | os.PathLike, listed: Mapping[str, _Case], problems: list[str]) -> list[PointsImage]:
    """The images that are listed; those that are missing, and copies of one, are problems."""
    images: dict[str, Path] = {}
    for path in find_files(src, _IMAGES, dst):
        if path.name in listed and images.setdefault(path.name, path) is not path:
            problems.append(f"{path}: expected one image of that name, found also {images[path.name]}")
    missing = sorted(listed.keys() - images.keys())
    problems += [f"{src}: expected image {name}, found none" for name in missing[:_MOST]]
    if len(missing) > _MOST:
        rest = missing[_MOST:]
        problems.append(f"{src}: expected {len(rest)} further images, {rest[0]} to {rest[-1]}, found none")
    samples = []
    for name in sorted(listed.keys() & images.keys()):
        points, lookalikes = (
            np.array(points, dtype=np.float32).reshape(-1, 2)
            for points in (listed[name].figures, listed[name].lookalikes)
        )
        case = Path(name).stem
        samples.append(PointsImage(case, case, images[name], points, None, lookalikes))
    return samples
