"""Tiles with one label each, has nuclei or has none: what the front end of Cyclic Learning learns from.

Zhou et al. 2023, section V-A: experts mark tiles as positive or negative, which are cropped to 224 px.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data.datalist import Item, check_label_item, load_datalist
from monai_ext.data.split import random_split
from monai_ext.formats.find import find_images
from monai_ext.formats.suffixes import without_suffix

__all__ = ["LABEL_FOLDERS", "check_both_labels", "images_below", "load_tiles", "marked_tiles"]

#: Folders of tiles by their label, 0 and 1.
LABEL_FOLDERS = ("negative", "positive")


def load_tiles(
    dataset_dir: str | os.PathLike | Sequence[str | os.PathLike],
    splits: Sequence[str] = ("training", "validation"),
    seed: int = 0,
) -> dict[str, list[Item]]:
    """Tiles and their labels, from a data list or from the folders ``positive`` and ``negative``.

    Args:
        dataset_dir: a folder with ``dataset.json``, whose items have ``image`` and ``has_nuclei`` or else ``label``
            (1: has nuclei, 0: has none); else one with the two folders. There, tiles in a folder of the next level are
            of one group (a slide, a patient), which may have tiles in both; other tiles are their own group. Groups
            are dealt 70/10/20 to training, validation and test. Of several such folders the lists are joined.
        splits: the lists to return and check.
        seed: of the dealing.

    Returns:
        split -> items ``{"image": path, "label": 0 or 1, "group": name}``.

    Raises:
        DataListError: with every tile that cannot be read and everything else that is wrong with the list.
        InputError: neither a list nor the folders, or a split with one class alone.
    """
    if not isinstance(dataset_dir, (str, os.PathLike)):
        parts = [load_tiles(folder, splits, seed) for folder in dataset_dir]
        return {split: [item for part in parts for item in part[split]] for split in splits}
    folder = Path(dataset_dir)
    if (folder / "dataset.json").exists() or not folder.is_dir():
        lists = load_datalist(folder, splits, None, ("image",), ())
        lists = {split: [_with_label(item) for item in items] for split, items in lists.items()}
        _check(folder, [item for items in lists.values() for item in items])
    else:
        items = marked_tiles(folder)
        weights: Counter[str] = Counter()
        for item in items:
            weights[item["group"]] += item["label"]
        parts = random_split(weights, seed)
        lists = {split: [item for item in items if parts[item["group"]] == split] for split in splits}
    for split, items in lists.items():
        check_both_labels(f"{folder}: {split}", [item["label"] for item in items])
    return lists


def marked_tiles(folder: Path) -> list[Item]:
    """The tiles below ``positive`` and ``negative``, of any size; see :func:`load_tiles` for their groups.

    Raises:
        DataListError: with every tile that cannot be read.
        InputError: a folder is missing.
    """
    missing = [name for name in LABEL_FOLDERS if not (folder / name).is_dir()]
    if missing:
        raise InputError(folder, "dataset.json, or the folders positive and negative", f"no {' and no '.join(missing)}")
    items: list[Item] = []
    for label, name in enumerate(LABEL_FOLDERS):
        for path in images_below(folder / name):
            inside = path.relative_to(folder / name)
            group = inside.parts[0] if len(inside.parts) > 1 else without_suffix(inside).name
            items.append({"image": str(path), "label": label, "group": group})
    _check(folder, items)
    return items


def _with_label(item: Item) -> Item:
    """The item with one label; a path under ``label`` is that of an instance map."""
    return item | {"label": item["has_nuclei"]} if "has_nuclei" in item else item


def _check(folder: Path, items: Sequence[Item]) -> None:
    with ThreadPoolExecutor() as pool:
        problems = [line for lines in pool.map(check_label_item, items) for line in lines]
    if problems:
        raise DataListError(folder, problems)


def images_below(folder: Path) -> list[Path]:
    """The images below a folder, sorted; see :func:`~monai_ext.formats.find.find_images`."""
    return find_images(folder)


def check_both_labels(where: str, labels: Iterable[int]) -> None:
    """Refuse labels of one class alone.

    Raises:
        InputError: there are none of label 0, or none of label 1.
    """
    counts = Counter(labels)
    if len(counts) < len(LABEL_FOLDERS):
        alone = ", ".join(f"{count} of label {label} alone" for label, count in counts.items())
        raise InputError(where, "tiles with nuclei (label 1) and without (0)", alone or "none")
