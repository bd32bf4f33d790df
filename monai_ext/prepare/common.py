"""What every converter does: check a release, split it by group, write the data contract."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson

from monai_ext.base.errors import DataListError, InputError
from monai_ext.base.files import atomic_path
from monai_ext.base.flags import as_flag
from monai_ext.base.threads import in_threads
from monai_ext.data.split import DEAL_70_15_15, PARTS, random_split, read_split
from monai_ext.prepare.samples import Sample, labels_per_group

__all__ = ["check_samples", "prepare", "remark"]

S, T = TypeVar("S"), TypeVar("T")
_BATCH = 256

Collect = Callable[[Path, list[str]], list[Sample]]
Paper = Callable[[list[Sample], int], dict[str, str] | None]
Choose = Callable[[list[Sample], dict[str, str]], list[Sample]]
Extras = Callable[[Path, dict[str, str]], None]


def prepare(
    name: str,
    src: str | os.PathLike,
    dst: str | os.PathLike,
    collect: Collect,
    *,
    paper: Paper | None = None,
    choose: Choose | None = None,
    extras: Extras | None = None,
    about: Mapping[str, object] | None = None,
    more_parts: Sequence[str] = (),
    by_slide: bool = False,
    split: str | os.PathLike | None = None,
    seed: int = 0,
    overwrite: bool = False,
    link: bool = False,
    **unknown: Any,
) -> Path:
    """Convert a release into ``<dst>/dataset.json``, its images and labels.

    Args:
        name: the data set's name.
        src: the release's folder.
        dst: the folder to write; made as needed.
        collect: lists the release's samples; appends errors to the list it is given.
        paper: the named split as ``{group: part}``, or None where these groups are not the paper's.
        choose: what is written, given the samples and the part of each group; by default the samples.
        extras: writes what the data set holds besides, given its folder and the part of each group.
        about: further entries of ``dataset.json``.
        more_parts: names of lists that the release has besides the three; not of those that are split by slide.
        by_slide: the splits of the knowledge distillation data, 70/15/15: ``"slide"`` splits groups, ``"random"``
            images, or the pieces of tissue that they are of, whatever their slide; ``"paper"`` is the release's own.
            None: the release's own, so that none of its test images enters training; ``"slide"`` where it has none.
        split: ``"paper"``, ``"random"``, ``"test"``, or a file for :func:`read_split`. None: the paper's where it
            applies, else random.
        seed: of the random split.
        overwrite: replace a data set that is in ``dst`` already.
        link: hard links (symbolic ones across file systems) instead of copies of the images.
        unknown: options that no converter has.

    Returns:
        The path of ``dataset.json``.

    Raises:
        DataListError: with everything that is wrong with the release.
        InputError: when ``dst`` holds a data set already, the split cannot be made, or an option is unknown.
    """
    if unknown:
        expected = "its own options (see its documentation), --split, --seed, --overwrite and --link"
        raise InputError(f"prepare {name}", expected, ", ".join(f"--{option}" for option in unknown))
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InputError("seed", "a whole number from 0", repr(seed))
    overwrite, link = as_flag(overwrite, "overwrite"), as_flag(link, "link")
    src, target = Path(src), Path(dst) / "dataset.json"
    if target.exists() and not overwrite:
        raise InputError(target, "no data set there yet (--overwrite True replaces it)", "one")
    if not src.is_dir():
        raise DataListError(src, [f"{src}: expected the folder of the {name} release, found {_kind(src)}"])
    if target.parent.resolve() == src.resolve():
        raise InputError("dst", "another folder than the release's", repr(str(dst)))
    problems: list[str] = []
    samples = sorted(collect(src, problems), key=lambda sample: sample.name)
    if not problems:
        if by_slide:
            chosen, parts = _split_cells(samples, paper, split, seed)
        else:
            chosen, parts = _split(samples, paper, split, seed, more_parts)
        samples = samples if choose is None else choose(samples, parts)
    problems += check_samples(samples)
    if not samples and not problems:
        problems.append(f"{src}: expected images of the {name} release, found none")
    if problems:
        raise DataListError(src, problems)
    _remove(target)
    lists = {part: [] for part in PARTS} | {part: [] for part in more_parts if part in parts.values()}
    content: dict[str, object] = {"name": name, "split": chosen, "seed": seed, **(about or {}), **lists}
    entries = in_threads(lambda sample: sample.write(target.parent, link), samples, f"{name}: writing")
    for sample, entry in zip(samples, entries, strict=True):
        lists[parts[sample.group]].append(entry | {"group": sample.group})
    if extras is not None:
        extras(target.parent, parts)
    with atomic_path(target) as temporary:
        temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    _summary(name, chosen, samples, parts)
    return target


def _split(
    samples: list[Sample], paper: Paper | None, split: str | os.PathLike | None, seed: int, more: Sequence[str] = ()
) -> tuple[str, dict[str, str]]:
    named = paper(samples, seed) if paper is not None and split in (None, "paper") else None
    if split == "paper" and named is None:
        raise InputError("split", "'random', 'test' or a file (these are not the cases of a paper's split)", "'paper'")
    if named is not None:
        return "paper", named
    weights = labels_per_group(samples)
    if split in (None, "random"):
        return "random", random_split(weights, seed)
    if split == "test":
        return "test", dict.fromkeys(weights, "test")
    return Path(split).name, read_split(split, weights, more)


def _split_cells(
    samples: list[Sample], paper: Paper | None, split: str | os.PathLike | None, seed: int
) -> tuple[str, dict[str, str]]:
    if split is None and paper is not None and (named := paper(samples, seed)) is not None:
        return "paper", named
    if split == "random":
        for sample in samples:
            sample.group = sample.piece
    if split in (None, "slide", "random"):
        return split or "slide", random_split(labels_per_group(samples), seed, DEAL_70_15_15)
    return _split(samples, paper, split, seed)


def check_samples(samples: Sequence[Sample]) -> list[str]:
    """What is wrong with samples, a line each."""
    per_sample = in_threads(lambda sample: sample.check(), samples, "checking images")
    return [problem for problems in per_sample for problem in problems]


def _remove(target: Path) -> None:
    """Remove an older data set: its list first, then the files that it lists in its folder."""
    if not target.exists():
        return
    try:
        content = orjson.loads(target.read_bytes())
        lists = [value for value in content.values() if isinstance(value, list)]
        items = [item for part in lists for item in part if isinstance(item, dict)]
    except (AttributeError, ValueError):  # no data list
        items = []
    target.unlink()
    folder = target.parent.resolve()
    nested = [value for item in items for value in item.values() if isinstance(value, dict)]
    for value in (value for item in (*items, *nested) for value in item.values() if isinstance(value, str)):
        path = folder / value
        if path.parent.resolve().is_relative_to(folder) and (path.is_file() or path.is_symlink()):
            path.unlink()


def _summary(name: str, chosen: str, samples: list[Sample], parts: dict[str, str]) -> None:
    for part in dict.fromkeys((*PARTS, *parts.values())):
        part_samples = [sample for sample in samples if parts[sample.group] == part]
        cases, labels = len({sample.group for sample in part_samples}), sum(sample.labels for sample in part_samples)
        print(
            f"{name}: {chosen} split, {part}: {cases} cases, {len(part_samples)} images, {labels} labels",
            file=sys.stderr,
        )


def remark(src: Path, text: str) -> None:
    """Tell the user about a peculiarity of the release that is harmless."""
    print(f"{src}: {text}", file=sys.stderr)


def _kind(path: Path) -> str:
    return "a file" if path.exists() else "no such folder"
