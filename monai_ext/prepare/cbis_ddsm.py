"""Converter of CBIS-DDSM (Lee et al., 2017): mammograms and the masks of their masses."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from monai_ext.base.dicom_heads import taken_as_dicom
from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files, write_png
from monai_ext.base.flags import as_flag
from monai_ext.data.split import carve_validation
from monai_ext.formats.radiograph import read_radiograph
from monai_ext.prepare.common import prepare, remark
from monai_ext.prepare.samples import Sample, copy_or_link, labels_per_group
from monai_ext.prepare.tables import Row, one_file, read_table

__all__ = ["prepare_cbis_ddsm"]

_TABLES = {"training": "mass_case_description_train_set.csv", "test": "mass_case_description_test_set.csv"}
_COLUMNS = ("patient_id", "left or right breast", "image view", "abnormality id", "pathology")
_PREFIXES = {"training": "Mass-Training", "test": "Mass-Test"}
_CASE = re.compile(r"(Mass-(?:Training|Test)_P_\d+_(?:LEFT|RIGHT)_(?:CC|MLO))(?:_(\d+))?")
_PATHOLOGY = {"MALIGNANT": True, "BENIGN": False, "BENIGN_WITHOUT_CALLBACK": False}
_INFO = "dicom_info.csv"
_GREY = 127  # masks are above it; JPEG makes 0 and 255 into all that lies between
_SAME_SHAPE = 0.02  # of the sides' ratio: some of the release's masks have another size than their image


class _Mass(NamedTuple):
    """A mass of the tables: the case that its files are named after, and whether it is malignant."""

    case: str
    malignant: bool


@dataclass
class _Mammogram(Sample):
    """A mammogram and the files of its masses, of which one each is the mask and another the cropped image."""

    image: Path
    masks: list[list[Path]]
    labels: int = 0
    mpp: float | None = None
    chosen: list[Path] = field(default_factory=list)

    def check(self) -> list[str]:
        """Decode the image and its masks, and see which of a mass's files is the mask."""
        try:
            image, self.mpp = read_radiograph(self.image)
        except InputError as error:
            return [str(error)]
        problems = []
        for files in self.masks:
            try:
                self.chosen.append(_mask_among(files, image.shape))
            except InputError as error:
                problems.append(str(error))
        return problems

    def write(self, dst: Path, link: bool) -> dict[str, object]:
        """The image as 8-bit PNG, or the file itself where it is no DICOM; its masses as one mask, 0 and 255."""
        is_dicom = taken_as_dicom(self.image)
        entry: dict[str, object] = {
            "image": f"images/{self.name}{'.png' if is_dicom else self.image.suffix}",
            "label": f"labels/{self.name}.png",
        }
        image = read_radiograph(self.image).image
        if is_dicom:
            write_png(dst / entry["image"], image)
        else:
            copy_or_link(self.image, dst / entry["image"], link)
        merged = np.zeros(image.shape, np.uint8)
        for path in self.chosen:
            mask = read_radiograph(path).image > _GREY
            if mask.shape != merged.shape:
                mask = cv2.resize(mask.view(np.uint8), merged.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0
            merged[mask] = 255
        write_png(dst / entry["label"], merged)
        return entry if self.mpp is None else entry | {"mpp": self.mpp}


def prepare_cbis_ddsm(src: str | os.PathLike, dst: str | os.PathLike, *, benign: bool = False, **options: Any) -> Path:
    """Convert the masses of CBIS-DDSM: 1231 mammograms to train on, 361 to test (SegMitos, section 4.6 and Table 8).

    ``mass_case_description_train_set.csv`` and ``mass_case_description_test_set.csv`` list the masses: ``patient_id``,
    ``left or right breast``, ``image view``, ``abnormality id``, ``pathology`` and paths. Files are found by what these
    columns say, in one of two layouts:

    - DICOM of The Cancer Imaging Archive: a folder ``Mass-Training_P_00001_LEFT_CC`` with the mammogram, and a folder
      ``Mass-Training_P_00001_LEFT_CC_1`` for each mass, below which lie the mask and the cropped image. Which is which
      their sizes tell: the tables' paths are known to have them swapped. PNG or JPEG in the place of DICOM will do.
    - the common JPEG copy (Kaggle, awsaf49): ``dicom_info.csv``, whose ``PatientID`` has these names and whose
      ``image_path`` the file, ``jpeg/<series>/<name>.jpg``.

    All masks of an image are merged into one, ``label``: 255 where a mask is above 127. As in the paper, only malignant
    masses count and benign ones are background, so a mammogram with benign ones has an empty mask. Images of more than
    8 bits keep the upper 8. A mask of another size with the sides' ratio of its image (the release has some) is brought
    to its image's. The release states no size of pixels; where a file does, it is the item's ``mpp``.

    The paper's split is the release's, with a fifth of the training patients, drawn by ``seed``, for validation. A
    patient that is in both of the release's lists stays in both, under two groups, and is named.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        benign: benign masses count as well.
        options: of :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.
    """
    benign = as_flag(benign, "benign")
    official: dict[str, str] = {}
    mammograms: list[Sample] = []

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        images: dict[str, list[_Mass]] = {}
        for part, name in _TABLES.items():
            files = [path for path in find_files(folder, (".csv",), dst) if path.name == name]
            path = one_file(folder, files, name, problems)
            for case, masses in _masses(path, part, problems).items() if path else ():
                images[case], official[case] = masses, part
        files = _files(folder, dst, problems)
        if not images:
            return []
        if not files:
            expected = f"mammograms below {_PREFIXES['training']}_P_00001_LEFT_CC ..., or jpeg/ with {_INFO}"
            problems.append(f"{folder}: expected {expected}, found none")
            return []
        mammograms.extend(_samples(folder, images, official, files, benign, problems))
        return mammograms

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:
        sides = defaultdict(set)
        for sample in samples:
            sides[sample.group].add(official[sample.name])
        both = sorted(group for group, parts in sides.items() if len(parts) > 1)
        if both:
            remark(Path(src), f"in the training and in the test list of the release: {', '.join(both)}")
        for sample in samples:
            sample.group = f"{sample.group} ({official[sample.name]})" if sample.group in both else sample.group
        parts = {sample.group: official[sample.name] for sample in samples}
        return carve_validation(parts, labels_per_group(samples), seed) if set(parts.values()) > {"test"} else parts

    def extras(folder: Path, parts: dict[str, str]) -> None:  # noqa: ARG001 - nothing is written
        if unknown := sum(sample.mpp is None for sample in mammograms):
            remark(
                Path(src), f"{unknown} of {len(mammograms)} mammograms do not state the size of their pixels: no mpp"
            )

    return prepare("cbis_ddsm", src, dst, collect, paper=paper, extras=extras, **options)


def _masses(path: Path, part: str, problems: list[str]) -> dict[str, list[_Mass]]:
    """The masses of each image of a table."""
    images: dict[str, list[_Mass]] = defaultdict(list)
    for row in read_table(path, _COLUMNS, problems):
        case = _case(row, part)
        mass = f"{case}_{row['abnormality id']}"
        if not _CASE.fullmatch(mass) or row["pathology"].upper() not in _PATHOLOGY:
            problems.append(
                f"{path}: expected a mass with patient, LEFT or RIGHT, CC or MLO, its number and "
                f"{', '.join(_PATHOLOGY)}, found {[row[name] for name in _COLUMNS]}"
            )
        elif mass in (other.case for other in images[case]):
            problems.append(f"{path}: expected each mass once, found {mass} again")
        else:
            images[case].append(_Mass(mass, _PATHOLOGY[row["pathology"].upper()]))
    return images


def _case(row: Row, part: str) -> str:
    return f"{_PREFIXES[part]}_{row['patient_id']}_{row['left or right breast']}_{row['image view']}"


def _files(src: Path, dst: str | os.PathLike, problems: list[str]) -> dict[str, list[Path]]:
    """The files of each case of the release: a mammogram's, or those of a mass."""
    tables = [path for path in find_files(src, (".csv",), dst) if path.name == _INFO]
    files: dict[str, list[Path]] = defaultdict(list)
    for path in find_files(src, (".dcm", ".png", ".jpg", ".jpeg"), dst):
        case = next((part for part in path.relative_to(src).parts if _CASE.fullmatch(part)), None)
        if case is not None:
            files[case].append(path)
    if not tables:
        return files
    if files:
        problems.append(f"{src}: expected one copy of the images, found folders {next(iter(files))} ... and {_INFO}")
    path = one_file(src, tables, _INFO, problems)
    if path is None:
        return {}
    jpegs = {(jpeg.parent.name, jpeg.name): jpeg for jpeg in find_files(src, (".jpg", ".jpeg"), dst)}
    missing = []
    for row in read_table(path, ("PatientID", "image_path"), problems):
        if _CASE.fullmatch(row["PatientID"]):
            key = tuple(Path(row["image_path"]).parts[-2:])
            if key in jpegs:
                files[row["PatientID"]].append(jpegs[key])
            else:
                missing.append("/".join(key))
    if missing:
        problems.append(f"{path}: expected {len(missing)} further images, as jpeg/{missing[0]}, found none")
    return files


def _samples(
    src: Path,
    images: Mapping[str, Sequence[_Mass]],
    official: Mapping[str, str],
    files: Mapping[str, Sequence[Path]],
    benign: bool,
    problems: list[str],
) -> list[Sample]:
    """The mammograms of the tables; a part of the release that is missing as a whole is named once."""
    for part, prefix in _PREFIXES.items():
        if part in official.values() and not any(case.startswith(prefix) for case in files):
            count = sum(other == part for other in official.values())
            problems.append(f"{src}: expected the {count} mammograms of {prefix}, found none of them")
    there = {part for part, prefix in _PREFIXES.items() if any(case.startswith(prefix) for case in files)}
    listed = {mass.case for masses in images.values() for mass in masses}
    if others := sorted(files.keys() - listed - images.keys()):
        remark(src, f"{len(others)} cases that no table lists left out: {', '.join(others):.200}")
    samples: list[Sample] = []
    for case, masses in images.items():
        if official[case] not in there:
            continue
        counted = [mass for mass in masses if mass.malignant or benign]
        lost = [mass.case for mass in counted if mass.case not in files]
        problems += [f"{src}: expected the mask {name}, found none" for name in lost]
        mammograms = files.get(case, ())
        if len(mammograms) == 1:
            candidates = [list(files[mass.case]) for mass in counted if mass.case in files]
            patient = re.search(r"P_\d+", case)[0]
            samples.append(_Mammogram(patient, case, mammograms[0], candidates, len(candidates)))
            continue
        listing = ", ".join(map(str, mammograms)) or "none"
        masks = [mass.case for mass in masses if mass.case in files]
        beside = f" for the masks {', '.join(masks)}" if masks and not mammograms else ""
        problems.append(f"{src}: expected one mammogram {case}{beside}, found {listing}")
    return samples


def _mask_among(files: Sequence[Path], shape: tuple[int, int]) -> Path:
    """Which of a mass's files is its mask: the one of its image's size, or else of its sides' ratio."""
    arrays = {path: read_radiograph(path).image for path in files}
    whole = [path for path, array in arrays.items() if array.shape == shape]
    if len(whole) > 1:  # a crop of the whole image has greys
        whole = [path for path in whole if _is_binary(arrays[path])]
    if len(whole) == 1:
        return whole[0]
    ratio = shape[0] / shape[1]
    similar = [
        path
        for path, array in arrays.items()
        if abs(array.shape[0] / array.shape[1] / ratio - 1) < _SAME_SHAPE and _is_binary(array)
    ]
    if not whole and len(similar) == 1:
        remark(similar[0], f"a mask of {arrays[similar[0]].shape} px is brought to its mammogram's {shape}")
        return similar[0]
    sizes = ", ".join(f"{path.name} {array.shape}" for path, array in arrays.items())
    raise InputError(files[0].parent, f"one mask of its mammogram's size {shape}", sizes)


def _is_binary(image: np.ndarray) -> bool:
    """Whether nearly all of an image is black or white, as a mask even in JPEG."""
    return bool(((image < 32) | (image > 223)).mean() > 0.98)
