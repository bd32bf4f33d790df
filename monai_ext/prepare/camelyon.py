"""Converters of Camelyon16 (Ehteshami Bejnordi et al., 2017): patches to train on, patches to localise evidence in."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from monai_ext.base.errors import DataListError, InputError
from monai_ext.base.files import atomic_path, find_files
from monai_ext.base.flags import as_flag
from monai_ext.data.split import PARTS
from monai_ext.prepare.common import check_samples, prepare, remark
from monai_ext.prepare.patches import PatchGrid, Rule, Slide, both_kinds, draw_patches, label_at_centre
from monai_ext.prepare.samples import Sample

__all__ = ["prepare_camelyon16", "prepare_hploc"]

_NAME = re.compile(r"(normal|tumor|test)_\d+", re.IGNORECASE)
_EXPECTED = "slides normal_001.tif, tumor_001.tif, test_001.tif ..."
# the release's README.md: what was withdrawn, and slides on which not all tumour is outlined
_WITHDRAWN = {"normal_086": "it has tumour, and is now tumor_111", "test_049": "a duplicate"}
_NOT_EXHAUSTIVE = frozenset(
    f"tumor_{number:03d}"
    for number in (10, 15, 18, 20, 25, 29, 33, 34, 44, 46, 51, 54, 55, 56, 67, 79, 85, 92, 95, 110)
) | {"test_114"}


def prepare_camelyon16(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    patches: int = 20_000,
    size: int = 96,
    mpp: float = 1.0,
    slide_mpp: float | None = None,
    **options: Any,
) -> Path:
    """Convert Camelyon16 into patches with labels, and a list of its slides.

    The release is found by file names, in whatever folders: slides ``normal_001.tif``, ``tumor_001.tif``,
    ``test_001.tif`` ..., their ``.xml`` and ``reference.csv`` with lines ``test_001,Tumor,...`` (without it, a test
    slide with an XML has tumour). A partial download will do.

    Patches are drawn as in Liu et al. (2017), the pipeline of CELNet's section 3.1: half of them tumour, half normal,
    each slide with the same chance, then each place. Label 1: tumour in the central third (32 px of 96). The middle of
    a normal patch lies in tissue. Normal patches are not drawn from slides on which not all tumour is outlined (the
    release's README lists them).

    The paper's split: the test slides are the test part; a fifth of the normal and of the tumour slides, drawn by
    ``seed``, is the validation part. Beside ``dataset.json``, ``slides.json`` lists for each slide ``image`` (a link
    below ``slides/``), ``label``, ``annotation`` (GeoJSON in level-0 pixels, or null), ``exhaustive``, ``group`` and
    ``part``, to evaluate whole slides.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        patches: how many in each part, about 26 KB each on a disk at 96 px.
        size: side of a patch in pixels.
        mpp: um/px of the patches; 1 is 10x. A level within 10 % (0.972 in Camelyon16) is taken as it is.
        slide_mpp: um/px of level 0, for slides that do not state it.
        options: of :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.
    """
    grid, count, seed = PatchGrid(mpp, size), _count(patches), options.get("seed", 0)
    slides: list[Slide] = []

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        slides.extend(_read_release(folder, dst, slide_mpp, problems))
        return list(slides)

    def choose(samples: list[Sample], parts: dict[str, str]) -> list[Sample]:
        _check(src, samples)
        drawn = []
        for part in PARTS:
            part_slides = [slide for slide in slides if parts[slide.group] == part]
            sound = [slide for slide in part_slides if slide.exhaustive or not slide.label]
            pools = [(label_at_centre(0), sound), (label_at_centre(1), [slide for slide in part_slides if slide.label])]
            drawn += _draw(src, part, pools, count, grid, seed)
        return drawn

    def extras(folder: Path, parts: dict[str, str]) -> None:
        entries = [
            slide.write(folder, link=True) | {"group": slide.group, "part": parts[slide.group]} for slide in slides
        ]
        with atomic_path(folder / "slides.json") as temporary:
            temporary.write_bytes(orjson.dumps(entries, option=orjson.OPT_INDENT_2))

    return prepare("camelyon16", src, dst, collect, paper=_paper, choose=choose, extras=extras, **options)


def prepare_hploc(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    patches: int = 20_000,
    size: int = 96,
    mpp: float = 1.0,
    least: float = 0.1,
    validation: bool = False,
    slide_mpp: float | None = None,
    **options: Any,
) -> Path:
    """Make HPLOC (CELNet, section 3.3) from Camelyon16: patches with tumour and normal tissue, and masks of the tumour.

    Patches come from the test slides with tumour; each slide has the same chance, then each place. Slides on which not
    all tumour is outlined are left out, as what lies outside need not be normal there. The paper names neither its
    places nor its shares. Label: 1. Mask: 255 is tumour. The release is read as by
    :func:`prepare_camelyon16`.

    Args:
        src: the folder of the release.
        dst: the folder to write.
        patches: how many in each part.
        size: side of a patch in pixels.
        mpp: um/px of the patches.
        least: share of a patch that tumour must have at least, and normal tissue too.
        validation: also draw as many from the slides that :func:`prepare_camelyon16` with the same ``seed`` keeps for
            validation: to tune on without a look at the test part.
        slide_mpp: um/px of level 0, for slides that do not state it.
        options: of :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.
    """
    grid, count, seed = PatchGrid(mpp, size), _count(patches), options.get("seed", 0)
    if not 0 < least <= 0.5:
        raise InputError("least", "a share above 0, at most 0.5", repr(least))
    wanted = ("validation", "test") if as_flag(validation, "validation") else ("test",)

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        return list(_read_release(folder, dst, slide_mpp, problems))

    def choose(samples: list[Sample], parts: dict[str, str]) -> list[Sample]:
        _check(src, samples)
        drawn = []
        for part in wanted:
            part_slides = [
                slide for slide in samples if parts[slide.group] == part and slide.label and slide.exhaustive
            ]
            if not part_slides:
                expected = f"slides with tumour, all of it outlined, for the part {part}"
                raise DataListError(src, [f"{src}: expected {expected}, found none"])
            drawn += _draw(src, part, [(both_kinds(least), part_slides)], count, grid, seed)
        return drawn

    return prepare("hploc", src, dst, collect, paper=_paper, choose=choose, **options)


def _read_release(src: Path, dst: str | os.PathLike, mpp: float | None, problems: list[str]) -> list[Slide]:
    images = _by_name(find_files(src, (".tif", ".tiff"), dst), problems)
    annotations = _by_name(find_files(src, (".xml",), dst), problems)
    if not images:
        problems.append(f"{src}: expected {_EXPECTED} with XML annotations and reference.csv, found no such slides")
        return []
    zips = find_files(src, (".zip",), dst) if not annotations else []
    problems += [f"{path}: expected it unpacked" for path in zips if "annotation" in path.name.lower()]
    for name in _WITHDRAWN.keys() & images.keys():
        remark(images.pop(name), f"left out, as the release has withdrawn it: {_WITHDRAWN[name]}")
    if lost := sorted(annotations.keys() - images.keys() - _WITHDRAWN.keys()):
        remark(src, f"{len(lost)} annotations without a slide left out: {', '.join(lost):.200}")
    reference = _reference(src, dst, problems)
    slides = []
    for name, image in images.items():
        has_tumour = name in annotations if reference is None else reference.get(name)
        if not name.startswith("test"):
            has_tumour = name.startswith("tumor")
        if has_tumour is None:
            problems.append(f"{image}: expected its line in reference.csv, found none")
        elif has_tumour != (name in annotations):
            expected, actual = ("its annotation", "none") if has_tumour else ("no annotation", str(annotations[name]))
            problems.append(f"{image}: expected {expected}, found {actual}")
        else:
            exhaustive = name not in _NOT_EXHAUSTIVE
            slides.append(Slide(name, name, int(has_tumour), image, annotations.get(name), mpp, exhaustive))
    return slides


def _by_name(paths: Sequence[Path], problems: list[str]) -> dict[str, Path]:
    """Files by the slide's name, in lower case."""
    files: dict[str, Path] = {}
    for path in paths:
        name = path.stem.lower()
        if _NAME.fullmatch(name) and files.setdefault(name, path) is not path:
            problems.append(f"{path}: expected one file of {name}, found also {files[name]}")
    return dict(sorted(files.items()))


def _reference(src: Path, dst: str | os.PathLike, problems: list[str]) -> dict[str, bool] | None:
    """Whether each test slide has tumour; None where the release does not say."""
    tables = [path for path in find_files(src, (".csv",), dst) if path.stem.lower() == "reference"]
    if not tables:
        return None
    has_tumour = {}
    for path in tables:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            for line in csv.reader(file):
                cells = [cell.strip().lower() for cell in line]
                name = cells[0].removesuffix(".tif") if cells else ""
                if not _NAME.fullmatch(name):
                    continue  # a header
                if cells[1:2] not in (["tumor"], ["normal"]):
                    problems.append(f"{path}: expected Tumor or Normal for {name}, found {','.join(line[1:])!r:.60}")
                has_tumour[name] = cells[1:2] == ["tumor"]
    return has_tumour


def _paper(samples: list[Sample], seed: int) -> dict[str, str]:
    """The official test slides, and a fifth of the training slides of either kind for validation."""
    parts = {slide.group: "test" if slide.name.startswith("test") else "training" for slide in samples}
    rng = np.random.RandomState(seed)
    for label in (0, 1):
        groups = sorted(s.group for s in samples if s.labels == label and parts[s.group] == "training")
        held = max(1, round(len(groups) / 5)) if len(groups) > 1 else 0
        parts |= dict.fromkeys(rng.permutation(groups)[:held].tolist(), "validation")
    return parts


def _draw(
    src: str | os.PathLike,
    part: str,
    pools: Sequence[tuple[Rule, Sequence[Slide]]],
    count: int,
    grid: PatchGrid,
    seed: int,
) -> list[Sample]:
    if not any(slides for _, slides in pools):
        return []
    drawn = draw_patches(pools, count, grid, [seed, PARTS.index(part)])
    if not drawn:
        what = " or ".join(rule.what for rule, _ in pools)
        raise DataListError(src, [f"{src}: expected {what} on the slides of the part {part}, found none"])
    if len(drawn) < count:
        remark(Path(src), f"{part}: the slides hold {len(drawn)} of {count} patches")
    return drawn


def _check(src: str | os.PathLike, slides: list[Sample]) -> None:
    if problems := check_samples(slides):
        raise DataListError(src, problems)


def _count(patches: int) -> int:
    if isinstance(patches, bool) or not isinstance(patches, int) or patches < 1:
        raise InputError("patches", "a number of patches, at least 1", repr(patches))
    return patches
