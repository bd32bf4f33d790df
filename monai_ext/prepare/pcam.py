"""Converter of PatchCamelyon (Veeling et al., 2018), from its HDF5 files or from Kaggle's version."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.files import find_files, write_png
from monai_ext.base.flags import as_flag
from monai_ext.prepare.common import prepare, remark
from monai_ext.prepare.samples import LabelledImage, LabelledSample, Sample
from monai_ext.prepare.tables import read_table

__all__ = ["prepare_pcam"]

#: um/px: patches are level 2, a quarter of the resolution, of slides that were scanned at 0.243 um/px.
_MPP = 4 * 0.243
_SIZE = 96
_FILE = "camelyonpatch_level_2_split_{}_{}"
_PARTS = {"train": "training", "valid": "validation", "test": "test"}
_CACHE = 1 << 26  # bytes of decompressed chunks; patches are read in their order
_PNG_BYTES = 26_000  # of one patch on a disk
_PROBED, _AGREEING = 1000, 0.9  # patches whose mask is compared with their label, and the share that must agree


@dataclass
class _Patch(LabelledSample):
    """One image of an HDF5 file: written as PNG."""

    patches: h5py.Dataset
    index: int
    masks: h5py.Dataset | None = None

    def check(self) -> list[str]:
        for array in (self.patches, self.masks):
            try:
                _ = array is None or array[self.index]
            except OSError as error:  # a compressed chunk that is damaged
                return [f"{array.file.filename}: expected a readable patch {self.index}, found {error}"]
        return []

    def write(self, dst: Path, link: bool) -> dict[str, object]:  # noqa: ARG002 - there is no file to link
        relative_path = f"images/{self.name}.png"
        write_png(dst / relative_path, self.patches[self.index])
        entry: dict[str, object] = {"image": relative_path, "label": self.label, "mpp": _MPP}
        if self.masks is not None:
            entry["mask"] = f"masks/{self.name}.png"
            tumour = self.masks[self.index].reshape(_SIZE, _SIZE) > 0
            write_png(dst / entry["mask"], np.where(tumour, np.uint8(255), np.uint8(0)))
        return entry


def prepare_pcam(
    src: str | os.PathLike, dst: str | os.PathLike, *, limit: int | None = None, masks: bool = False, **options: Any
) -> Path:
    """Convert PatchCamelyon: patches of 96 x 96 px, label 1 where the central 32 x 32 px hold metastasis.

    Two layouts are known:

    - the release's HDF5 pairs ``camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5``, unpacked. Their split is the
      paper's. Where ``..._meta.csv`` lies beside them, its column ``wsi`` is the group, else every patch is its own.
      Patches become PNG files, one at a time, about 26 KB each on a disk: 8.5 GB for all 327,680.
    - Kaggle's: ``train/<id>.tif`` and ``train_labels.csv`` (``id,label``; Kaggle's folder ``test`` has no labels). It
      names no slides, so the split is random over patches, stratified by label: patches of one slide may be in two
      parts, which flatters the figures of the test part.

    The release has masks of its training patches, ``camelyonpatch_level_2_split_train_mask.h5`` (key ``mask``, ``(N,
    96, 96, 1)``, tumour where it is not 0), none of the others. With ``masks`` the data set holds the patches that have
    one, and, as these are one part of the release, is split by slide: to judge evidence by CELNet's 75 % rule on real
    masks, with a network that is trained on the same data set's training list.

    Sources of the layout: the README of github.com/basveeling/pcam and the files of its Zenodo record.

    Resolution: 0.972 um/px. PCam is level 2 (a quarter) of slides at 0.243 um/px; 10x, or 1 um/px, is the round figure.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        limit: at most so many patches in each part, drawn by the seed with each label's share as it is.
        masks: keep the patches that have a mask of their tumour, which goes under the key ``mask`` (PNG, 0 and 255).
        options: of :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InputError("limit", "a number of patches, at least 1", repr(limit))
    masks = as_flag(masks, "masks")
    official: dict[str, str] = {}

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        hdf5: dict[str, Path] = {}
        for path in find_files(folder, (".h5", ".gz"), dst):
            named = re.fullmatch(_FILE.format("(train|valid|test)", r"(x|y|mask)\.h5(\.gz)?"), path.name)
            if named and hdf5.setdefault(path.name, path) is not path:
                problems.append(f"{path}: expected one file of that name, found also {hdf5[path.name]}")
        tables = [path for path in find_files(folder, (".csv",), dst) if path.name == "train_labels.csv"]
        if len(tables) + bool(hdf5) != 1:
            expected = f"{_FILE.format('train', 'x.h5')}, or train_labels.csv beside train/*.tif"
            listed = ", ".join(map(str, [*tables, *hdf5.values()])) or "none"
            problems.append(f"{folder}: expected one of {expected}, found {listed}")
            return []
        if tables and masks:
            problems.append(
                f"{folder}: expected the release's HDF5 files, which have masks, found Kaggle's {tables[0]}"
            )
        if tables:
            return _kaggle(tables[0], problems)
        samples = _hdf5(hdf5, official, problems, masks)
        count = len(samples) if limit is None else min(len(samples), limit * len(_PARTS))
        remark(folder, f"{count} patches will take about {count * _PNG_BYTES / 1e9:.2g} GB as PNG (limit= for fewer)")
        return samples

    def choose(samples: list[Sample], parts: dict[str, str]) -> list[Sample]:
        return _limited(samples, parts, limit, options.get("seed", 0))

    def paper(samples: list[Sample], seed: int) -> dict[str, str] | None:  # noqa: ARG001 - nothing is drawn
        return None if not official or (masks and len(set(official.values())) == 1) else official

    return prepare("pcam", src, dst, collect, paper=paper, choose=choose, **options)


def _kaggle(table: Path, problems: list[str]) -> list[Sample]:
    folder = table.parent / "train"
    labels = _read_column(table, "label", problems, key="id")
    images = {path.stem: path for path in folder.glob("*.tif")} if folder.is_dir() else {}
    samples: list[Sample] = []
    for name, label in labels.items():
        if label not in ("0", "1"):
            problems.append(f"{table}: expected label 0 or 1 for {name}, found {label!r}")
        elif name not in images:
            problems.append(f"{folder / name}.tif: expected a patch, found none")
        else:
            samples.append(LabelledImage(name, name, int(label), images[name], _MPP))
    if unlabelled := len(images.keys() - labels.keys()):
        remark(folder, f"{unlabelled} patches without a label left out")
    return samples


def _hdf5(files: Mapping[str, Path], official: dict[str, str], problems: list[str], masked: bool) -> list[Sample]:
    """The samples of all parts, or of those with masks; ``official`` takes the part of each group."""
    samples: list[Sample] = []
    if masked and not any(_FILE.format(name, "mask.h5") in files for name in _PARTS):
        zipped = files.get(f"{_FILE.format('train', 'mask.h5')}.gz")
        expected = f"{_FILE.format('train', 'mask.h5')} (--masks)"
        problems.append(f"{next(iter(files.values())).parent}: expected {expected}, found {zipped or 'none'}")
    for name, part in _PARTS.items():
        try:
            part_samples = _hdf5_part(name, files, problems, masked)
        except InputError as error:
            problems.append(str(error))
            continue
        for sample in part_samples:
            if official.setdefault(sample.group, part) != part:
                both = f"{sample.group} in {official[sample.group]} and {part}"
                problems.append(f"{_FILE.format(name, 'meta')}.csv: expected each slide in one part, found {both}")
                break
        samples += part_samples
    return samples


def _hdf5_part(name: str, files: Mapping[str, Path], problems: list[str], masked: bool) -> list[Sample]:
    for kind in ("x.h5", "y.h5"):
        wanted = _FILE.format(name, kind)
        if wanted not in files and f"{wanted}.gz" in files:
            raise InputError(
                files[f"{wanted}.gz"], "an unpacked file (gunzip, about 7 GB for the training patches)", ".gz"
            )
    x, y, mask = (files.get(_FILE.format(name, kind)) for kind in ("x.h5", "y.h5", "mask.h5"))
    if (x is None and y is None and mask is None) or (masked and mask is None):
        return []
    if x is None or y is None:
        raise InputError(x or y or mask, f"{_FILE.format(name, 'y.h5' if y is None else 'x.h5')} beside it", "none")
    labels = np.asarray(_dataset(y, "y")[()]).reshape(-1)
    patches = _dataset(x, "x")
    if patches.shape != (len(labels), _SIZE, _SIZE, 3) or patches.dtype != np.uint8:
        expected = f"x of shape ({len(labels)}, {_SIZE}, {_SIZE}, 3), uint8, as there are {len(labels)} labels"
        raise InputError(x, expected, f"{patches.shape}, {patches.dtype}")
    if not np.isin(labels, (0, 1)).all():
        raise InputError(y, "labels 0 and 1", f"{np.setdiff1d(labels, (0, 1))[:5].tolist()}")
    masks = _masks(mask, labels) if masked else None
    names = [f"{name}/{index // 1000:03d}/{index:06d}" for index in range(len(labels))]
    groups: Sequence[str] = names
    meta = x.with_name(f"{_FILE.format(name, 'meta')}.csv")
    if meta.is_file():
        groups = list(_read_column(meta, "wsi", problems).values())
        if len(groups) != len(labels):
            raise InputError(meta, f"a line for each of {len(labels)} patches", str(len(groups)))
    return [
        _Patch(group, patch_name, int(label), patches, index, masks)
        for index, (group, patch_name, label) in enumerate(zip(groups, names, labels, strict=True))
    ]


def _masks(path: Path, labels: np.ndarray) -> h5py.Dataset:
    """Masks that belong to these labels: a patch is positive where tumour is in its central 32 x 32 px."""
    masks = _dataset(path, "mask")
    if masks.shape not in ((len(labels), _SIZE, _SIZE, 1), (len(labels), _SIZE, _SIZE)):
        raise InputError(path, f"mask of shape ({len(labels)}, {_SIZE}, {_SIZE}, 1), as its patches", str(masks.shape))
    try:
        first = masks[:_PROBED].reshape(-1, _SIZE, _SIZE) > 0
    except OSError as error:
        raise InputError(path, "a complete HDF5 file", str(error)) from error
    third = slice(_SIZE // 3, 2 * _SIZE // 3)
    agreeing = float((first[:, third, third].any(axis=(1, 2)) == labels[:_PROBED]).mean())
    if agreeing < _AGREEING:
        raise InputError(
            path, "tumour in the middle of the positive patches alone", f"so in {agreeing:.0%} of the first"
        )
    return masks


def _dataset(path: Path, key: str) -> h5py.Dataset:
    try:
        data = h5py.File(path, "r", rdcc_nbytes=_CACHE).get(key)
    except OSError as error:
        raise InputError(path, "a complete HDF5 file", str(error)) from error
    if not isinstance(data, h5py.Dataset):
        raise InputError(path, f"an array {key}", "none")
    return data


def _read_column(path: Path, column: str, problems: list[str], key: str | None = None) -> dict[str, str]:
    """One column of a CSV by another, or by the line's number; a name that comes twice is a problem."""
    values: dict[str, str] = {}
    for number, row in enumerate(read_table(path, [column] if key is None else [key, column], problems)):
        name = str(number) if key is None else row[key]
        if name in values:
            problems.append(f"{path}: expected each {key} once, found {name} again")
        values[name] = row[column]
    return values


def _limited(samples: list[Sample], parts: Mapping[str, str], limit: int | None, seed: int) -> list[Sample]:
    """At most ``limit`` samples of each part, drawn with each label's share as it is."""
    if limit is None:
        return samples
    rng = np.random.RandomState(seed)
    kept: list[Sample] = []
    for part in _PARTS.values():
        part_samples = [sample for sample in samples if parts[sample.group] == part]
        shuffled = sorted(
            (part_samples[index] for index in rng.permutation(len(part_samples))), key=lambda sample: sample.labels
        )
        positions = np.linspace(0, len(part_samples), min(limit, len(part_samples)), endpoint=False)
        kept += [shuffled[int(position)] for position in positions]
    return sorted(kept, key=lambda sample: sample.name)
