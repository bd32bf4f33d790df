"""What every converter shares: checking a release, splitting it by case, writing the data contract."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import orjson
from tqdm import tqdm

from monai_ext.data.image import read_field
from monai_ext.data.points import atomic_path, points_outside, write_points
from monai_ext.errors import DataListError, InputError
from monai_ext.flags import as_flag

__all__ = ["PARTS", "Sample", "carve_validation", "find_files", "prepare", "random_split", "read_split"]

PARTS = ("training", "validation", "test")
_MPP = 0.25
_ALIASES = {"train": "training", "val": "validation", "valid": "validation"} | {part: part for part in PARTS}


@dataclass
class Sample:
    """One image of a release with its labels.

    Args:
        image: the image's file.
        group: the slide or patient it is from; a group is never in two parts.
        name: where its copies go, below ``images/``, ``labels/`` ... , without a suffix.
        points: ``(N, 2)`` centroids ``row, col``.
        mpp: um per pixel; None: as the image file states, or 0.25 (a scanner's 40x) where it states nothing.
        lookalikes: centroids of cells that were mistaken for the labelled ones, if the release lists them.
        regions: pixels ``(M, 2)`` of each labelled cell; they are written as an instance mask.
        shape: height and width of the image, once it has been read.
    """

    image: Path
    group: str
    name: str
    points: np.ndarray
    mpp: float | None
    lookalikes: np.ndarray | None = None
    regions: list[np.ndarray] | None = None
    shape: tuple[int, int] = (0, 0)


Collect = Callable[[Path, list[str]], list[Sample]]
Paper = Callable[[list[Sample], int], dict[str, str] | None]


def prepare(
    name: str,
    src: str | os.PathLike,
    dst: str | os.PathLike,
    collect: Collect,
    *,
    paper: Paper | None = None,
    split: str | os.PathLike | None = None,
    seed: int = 0,
    overwrite: bool = False,
    link: bool = False,
) -> Path:
    """Convert a release into ``<dst>/dataset.json``, its images and labels.

    Args:
        name: the data set's name.
        src: the release's folder.
        dst: the folder to write; made as needed.
        collect: lists the release's samples; what is wrong with it goes into the list it is given.
        paper: the named split as ``{group: part}``, or None where these groups are not the paper's.
        split: ``"paper"``, ``"random"``, ``"test"``, or a file for :func:`read_split`. None: the paper's where it
            applies, else random.
        seed: of the random split.
        overwrite: replace a data set that is in ``dst`` already.
        link: hard links (symbolic ones across file systems) instead of copies of the images.

    Returns:
        The path of ``dataset.json``.

    Raises:
        DataListError: with everything that is wrong with the release.
        InputError: when ``dst`` holds a data set already, or the split cannot be made.
    """
    overwrite, link = as_flag(overwrite, "overwrite"), as_flag(link, "link")
    src, target = Path(src), Path(dst) / "dataset.json"
    if target.exists() and not overwrite:
        raise InputError(target, "no data set there yet (overwrite=True replaces it)", "one")
    if not src.is_dir():
        raise DataListError(src, [f"{src}: expected the folder of the {name} release, found {_kind(src)}"])
    if target.parent.resolve() == src.resolve():
        raise InputError("dst", "another folder than the release's", repr(str(dst)))
    problems: list[str] = []
    samples = sorted(collect(src, problems), key=lambda sample: sample.name)
    problems += _check(samples)
    if problems:
        raise DataListError(src, problems)
    chosen, parts = _split(samples, paper, split, seed)
    target.unlink(missing_ok=True)  # from here on the images and labels of an older data set are being replaced
    content: dict[str, object] = {"name": name, "split": chosen, "seed": seed, **{part: [] for part in PARTS}}
    for sample in tqdm(samples, desc=f"{name}: writing", unit="image", file=sys.stderr):
        content[parts[sample.group]].append(_write(sample, target.parent, link))
    with atomic_path(target) as temporary:
        temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    _summary(name, chosen, samples, parts)
    return target


def find_files(folder: Path, suffixes: Sequence[str], skip: str | os.PathLike) -> list[Path]:
    """All files below ``folder``, but not below ``skip``, that end in one of the lower-case ``suffixes``, sorted.

    Linked folders are followed; hidden files and what a Mac adds to archives are left out.
    """
    found: list[Path] = []
    seen = {os.path.realpath(skip)}
    for root, folders, names in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in suffixes)


def random_split(weights: Mapping[str, int], seed: int = 0) -> dict[str, str]:
    """Split groups 70/10/20, so that each part holds groups rich and poor in labels.

    The groups are ranked by their number of labels and dealt ten at a time: seven to training, one to validation, two
    to test. The three richest go to different parts, so each part has labels when three groups have.

    Args:
        weights: the number of labels of each group.
        seed: of the shuffling.

    Returns:
        ``{group: part}``.
    """
    rng = np.random.RandomState(seed)  # its stream is frozen, that of default_rng may change between numpy versions
    ranked = sorted(rng.permutation(sorted(weights)).tolist(), key=lambda group: -weights[group])
    deal = ["training", "validation", "test", *["training"] * 6, "test"]
    parts = {}
    for start in range(0, len(ranked), len(deal)):
        groups = ranked[start : start + len(deal)]
        hand = deal[: len(groups)]
        hand = [*rng.permutation(hand[:3]), *hand[3:]] if start == 0 else rng.permutation(hand)
        parts.update(zip(groups, map(str, hand), strict=True))
    return parts


def carve_validation(parts: dict[str, str], samples: list[Sample], seed: int) -> dict[str, str]:
    """Move a fifth of the training groups, rich and poor, to validation, for papers that name no validation part."""
    training = {group: count for group, count in _labels_per_group(samples).items() if parts[group] == "training"}
    drawn = random_split(training, seed)
    return parts | {group: "validation" for group, part in drawn.items() if part == "test"}


def read_split(path: str | os.PathLike, groups: Iterable[str]) -> dict[str, str]:
    """Read a split from a file.

    Args:
        path: JSON ``{case: part}`` or ``{part: [cases]}``, or CSV lines ``case,part``. Parts are training (train),
            validation (val) and test.
        groups: the cases of the release; each must be listed once.

    Raises:
        DataListError: naming every case that is not listed, unknown or in two parts.
    """
    path = Path(path)
    pairs = [(case.strip(), part.strip().lower()) for case, part in _split_pairs(path)]
    groups = set(groups)
    if pairs and pairs[0][1] not in _ALIASES and pairs[0][0] not in groups:
        del pairs[0]  # a header
    problems = [
        f"{path}: expected {', '.join(PARTS)} for case {case}, found {part!r}"
        for case, part in pairs
        if part not in _ALIASES
    ]
    parts = {case: _ALIASES.get(part, part) for case, part in pairs}
    repeated = [case for case, count in Counter(case for case, _ in pairs).items() if count > 1]
    for what, cases in (
        ("is listed more than once", repeated),
        ("of the release is not listed", groups - set(parts)),
        ("is listed but not in the release", set(parts) - groups),
    ):
        problems += [f"{path}: case {case} {what}" for case in sorted(cases)]
    if problems:
        raise DataListError(path, problems)
    return parts


def _split_pairs(path: Path) -> list[tuple[str, str]]:
    """``case, part`` of each entry."""
    expected = "JSON {case: part} or {part: [cases]}, or CSV lines case,part"
    try:
        if path.suffix.lower() == ".csv":
            with path.open(newline="", encoding="utf-8-sig") as file:
                return [(row[0], row[1]) for row in csv.reader(file) if any(row)]
        content = orjson.loads(path.read_bytes())
        if all(isinstance(cases, list) for cases in content.values()):
            return [(str(case), part) for part, cases in content.items() for case in cases]
        return [(case, str(part)) for case, part in content.items()]
    except OSError as error:
        raise InputError("split", f"'paper', 'random', 'test' or a file ({expected})", repr(str(path))) from error
    except (AttributeError, IndexError, ValueError) as error:
        raise InputError(path, expected, str(error)) from error


def _split(
    samples: list[Sample], paper: Paper | None, split: str | os.PathLike | None, seed: int
) -> tuple[str, dict[str, str]]:
    named = paper(samples, seed) if paper is not None and split in (None, "paper") else None
    if split == "paper" and named is None:
        raise InputError("split", "'random', 'test' or a file (these are not the cases of a paper's split)", "'paper'")
    if named is not None:
        return "paper", named
    weights = _labels_per_group(samples)
    if split in (None, "random"):
        return "random", random_split(weights, seed)
    if split == "test":
        return "test", dict.fromkeys(weights, "test")
    return Path(split).name, read_split(split, weights)


def _labels_per_group(samples: list[Sample]) -> dict[str, int]:
    weights: Counter[str] = Counter()
    for sample in samples:
        weights[sample.group] += len(sample.points)
    return dict(weights)


def _check(samples: list[Sample]) -> list[str]:
    """Decode every image in full, because a download cut short still has a good header, and compare its labels."""
    with ThreadPoolExecutor() as pool:
        checks = pool.map(_check_one, samples)
        lines = list(tqdm(checks, "checking images", len(samples), unit="image", file=sys.stderr))
    return [problem for problems in lines for problem in problems]


def _check_one(sample: Sample) -> list[str]:
    try:
        image = read_field(sample.image)
    except InputError as error:
        return [str(error)]
    sample.shape = image.image.shape[1:]
    sample.mpp = sample.mpp or image.mpp or _MPP
    labels = [sample.points, sample.lookalikes, *(sample.regions or ())]
    found = points_outside(np.concatenate([points for points in labels if points is not None]), sample.shape)
    rows, columns = sample.shape
    expected = f"{sample.image}: expected points inside its {rows} rows x {columns} columns"
    return [] if found is None else [f"{expected}, found {found}"]


def _write(sample: Sample, dst: Path, link: bool) -> dict[str, object]:
    """Put one sample below ``dst``; its entry of the data list."""

    def place(folder: str, suffix: str) -> tuple[str, Path]:
        relative = f"{folder}/{sample.name}{suffix}"
        return relative, dst / relative

    entry: dict[str, object] = {}
    entry["image"], target = place("images", sample.image.suffix)
    _put(sample.image, target, link)
    entry["label"], target = place("labels", ".csv")
    write_points(target, sample.points)
    entry |= {"group": sample.group, "mpp": sample.mpp}
    if sample.lookalikes is not None:
        entry["lookalikes"], target = place("lookalikes", ".csv")
        write_points(target, sample.lookalikes)
    if sample.regions is not None:
        entry["mask"], target = place("masks", ".png")
        mask = np.zeros(sample.shape, dtype=np.uint16)
        for value, region in enumerate(sample.regions, start=1):
            mask[tuple(region.T)] = value
        with atomic_path(target) as temporary:
            temporary.write_bytes(cv2.imencode(".png", mask)[1])
    return entry


def _put(source: Path, target: Path, link: bool) -> None:
    with atomic_path(target) as temporary:
        if not link:
            shutil.copyfile(source, temporary)
            return
        try:
            os.link(source, temporary)
        except OSError:  # another file system
            temporary.symlink_to(source.resolve())


def _summary(name: str, chosen: str, samples: list[Sample], parts: dict[str, str]) -> None:
    for part in PARTS:
        own = [sample for sample in samples if parts[sample.group] == part]
        cases, labels = len({sample.group for sample in own}), sum(len(sample.points) for sample in own)
        print(f"{name}: {chosen} split, {part}: {cases} cases, {len(own)} images, {labels} labels", file=sys.stderr)


def _kind(path: Path) -> str:
    return "a file" if path.exists() else "no such folder"
