"""Cross-validation: the training and validation lists of a data set dealt anew, once for each fold."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.base.flags import as_flag
from monai_ext.data.datalist import read_content

__all__ = ["prepare_folds"]


def prepare_folds(
    src: str | os.PathLike, dst: str | os.PathLike, *, folds: int = 5, seed: int = 0, overwrite: bool = False
) -> Path:
    """Write a data list for each fold of a cross-validation; no image is copied.

    Every group of the training and the validation list is in the validation list of one fold and in the training list
    of the others. The test list is the same in all, so that the spread of its scores is that of training.

    Written are ``<dst>/fold_0/dataset.json`` and so on, whose paths lead to the files of ``src``.

    Args:
        src: a data set, a folder with ``dataset.json``.
        dst: folder to write; another than ``src``.
        folds: how many, from 2 to the number of groups.
        seed: the same seed deals the same folds.
        overwrite: replace folds that are in ``dst`` already.

    Returns:
        ``dst``.

    Raises:
        InputError: ``src`` is no data set, has fewer groups than folds, or ``dst`` has folds already.
    """
    src, dst = Path(src), Path(dst)
    content = read_content(src, src / "dataset.json")
    items = [item for part in ("training", "validation") for item in content.get(part) or ()]
    # an item without a group is one of its own
    groups = [str(item.get("group", item.get("image", ""))) for item in items]
    sizes = Counter(groups)
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= len(sizes):
        raise InputError("--folds", f"2 to {len(sizes)}, the groups of training and validation in {src}", repr(folds))
    targets = [dst / f"fold_{number}" / "dataset.json" for number in range(folds)]
    taken = sorted(dst.glob("fold_*/dataset.json"))
    if taken and not as_flag(overwrite, "overwrite"):
        raise InputError(dst, "no folds there yet (--overwrite True replaces them)", taken[0].parent.name)
    for path in taken:
        path.unlink()
    # dealt from the largest, so that the folds are of a size; equal ones by chance
    rng = np.random.RandomState(seed)  # its stream is frozen
    dealt = sorted(rng.permutation(sorted(sizes)).tolist(), key=lambda group: -sizes[group])
    fold_of = {group: number % folds for number, group in enumerate(dealt)}
    about = {name: value for name, value in content.items() if not isinstance(value, list) or name == "class_names"}
    for number, target in enumerate(targets):
        lists: dict[str, list[Any]] = {"training": [], "validation": [], "test": []}
        for group, item in zip(groups, items, strict=True):
            lists["validation" if fold_of[group] == number else "training"].append(item)
        lists["test"] = list(content.get("test") or ())
        moved = {part: _moved(entries, src, target.parent) for part, entries in lists.items()}
        with atomic_path(target) as temporary:
            temporary.write_bytes(
                orjson.dumps(
                    {**about, "split": f"fold {number} of {folds}", "seed": seed, **moved}, option=orjson.OPT_INDENT_2
                )
            )
    return dst


def _moved(items: Sequence[Mapping[str, Any]], src: Path, dst: Path) -> list[dict[str, Any]]:
    """Items whose paths are relative to another folder."""
    return [{key: _path(value, src, dst) for key, value in item.items()} for item in items]


def _path(value: Any, src: Path, dst: Path) -> Any:
    if isinstance(value, Mapping):
        return {name: _path(path, src, dst) for name, path in value.items()}
    if not isinstance(value, str) or not (src / value).is_file():
        return value
    return Path(os.path.relpath(os.path.abspath(src / value), os.path.abspath(dst))).as_posix()  # noqa: PTH100 links stay
