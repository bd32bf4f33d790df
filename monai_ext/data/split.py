"""Which group of a release goes to which part: drawn by chance, from a file, or with a part carved from another."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson

from monai_ext.base.errors import DataListError, InputError

__all__ = [
    "DEAL_60_20_20",
    "DEAL_70_10_20",
    "DEAL_70_15_15",
    "PARTS",
    "carve_validation",
    "part_of",
    "random_split",
    "read_split",
]

PARTS = ("training", "validation", "test")
DEAL_60_20_20 = ("training", "validation", "test", "training", "training")
DEAL_70_10_20 = ("training", "validation", "test", *("training",) * 6, "test")
_ROUND = ("training", "validation", "test")
#: Shares of 70 % training, 15 % validation and 15 % test.
DEAL_70_15_15 = (*_ROUND, *("training",) * 4, *_ROUND, *("training",) * 3, *_ROUND, *("training",) * 4)
_ALIASES = {"train": "training", "val": "validation", "valid": "validation"} | {part: part for part in PARTS}


def part_of(name: str, more: Sequence[str] = ()) -> str | None:
    """The part that a name in a file stands for (train, val and valid too; one of ``more``), None for another name."""
    name = name.strip().lower()
    return name if name in more else _ALIASES.get(name)


def random_split(weights: Mapping[str, int], seed: int = 0, deal: Sequence[str] = DEAL_70_10_20) -> dict[str, str]:
    """Split groups, by default 70/10/20, so that each part holds groups rich and poor in labels.

    The groups are ranked by their number of labels and dealt ten at a time: seven to training, one to validation, two
    to test. The three richest go to different parts, so each part has labels when three groups have.

    Args:
        weights: the number of labels of each group.
        seed: of the shuffling.
        deal: the part of each group that is dealt in turn; the first three differ.

    Returns:
        ``{group: part}``.
    """
    rng = np.random.RandomState(seed)  # its stream is frozen, that of default_rng may change between numpy versions
    ranked = sorted(rng.permutation(sorted(weights)).tolist(), key=lambda group: -weights[group])
    parts = {}
    for start in range(0, len(ranked), len(deal)):
        groups = ranked[start : start + len(deal)]
        hand = deal[: len(groups)]
        hand = [*rng.permutation(hand[:3]), *hand[3:]] if start == 0 else rng.permutation(hand)
        parts.update(zip(groups, map(str, hand), strict=True))
    return parts


def carve_validation(parts: Mapping[str, str], weights: Mapping[str, int], seed: int) -> dict[str, str]:
    """Move a fifth of the training groups, rich and poor, to validation, for papers that name no validation part.

    Args:
        parts: ``{group: part}``.
        weights: the number of labels of each group.
        seed: of the draw.
    """
    training = {group: count for group, count in weights.items() if parts[group] == "training"}
    drawn = random_split(training, seed)
    return dict(parts) | {group: "validation" for group, part in drawn.items() if part == "test"}


def read_split(path: str | os.PathLike, groups: Iterable[str], more: Sequence[str] = ()) -> dict[str, str]:
    """Read a split from a file.

    Args:
        path: JSON ``{case: part}`` or ``{part: [cases]}``, or CSV lines ``case,part``. Parts are training (train),
            validation (val) and test.
        groups: the cases of the release; each must be listed once.
        more: names of further parts.

    Raises:
        DataListError: naming every case that is not listed, unknown or in two parts.
    """
    path = Path(path)
    pairs = [(case.strip(), part.strip().lower()) for case, part in _split_pairs(path)]
    groups = set(groups)
    if pairs and part_of(pairs[0][1], more) is None and pairs[0][0] not in groups:
        del pairs[0]  # a header
    problems = [
        f"{path}: expected {', '.join((*PARTS, *more))} for case {case}, found {part!r}"
        for case, part in pairs
        if part_of(part, more) is None
    ]
    parts = {case: part_of(part, more) or part for case, part in pairs}
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
