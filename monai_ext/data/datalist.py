"""The data list that every bundle reads, and the check that finds all its problems before the first epoch."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from monai_ext.base.errors import DataListError, InputError
from monai_ext.data.checked_lists import CheckedLists, is_large
from monai_ext.formats.image import read_field, read_mask
from monai_ext.formats.point_files import read_points
from monai_ext.formats.points import as_points, points_outside

__all__ = ["check_label_item", "check_mask_item", "check_points_item", "load_datalist", "read_content"]

Item = dict[str, Any]

_PATIENCE_S = 5  # before progress is shown


def check_points_item(item: Mapping[str, Any], mpp: float | None = None) -> list[str]:
    """What is wrong with one image and its points, a line each.

    Args:
        item: ``image`` (a path) and ``label`` (a path or the points themselves), as :func:`load_datalist` gives them.
        mpp: um/px of all files at full resolution, without which a slide that states none cannot be read.
    """
    problems = []
    shape = points = None
    label = item["label"]
    where = label if isinstance(label, (str, os.PathLike)) else f"label of {item['image']}"
    try:
        shape = read_field(item["image"], mpp or item.get("mpp")).file_shape
    except InputError as error:
        problems.append(str(error))
    try:
        points = read_points(label, slide=item["image"]) if where is label else as_points(label, where)
    except InputError as error:
        problems.append(str(error))
    if shape is not None and points is not None and (outside := points_outside(points, shape)):
        expected = f"points row,col inside {item['image']} ({shape[0]} x {shape[1]} px)"
        problems.append(f"{where}: expected {expected}, found {outside}")
    return problems


def check_mask_item(item: Mapping[str, Any], key: str = "label") -> list[str]:
    """What is wrong with one image and its mask, a line each.

    Args:
        item: ``image`` and the mask, two paths, as :func:`load_datalist` gives them.
        key: the mask's key.
    """
    if key not in item:
        return [f"{item['image']}: expected a mask under the key {key!r} of its item, found none"]
    problems, shapes = [], []
    sizes = (
        ("image", lambda path: read_field(path, item.get("mpp")).file_shape),
        (key, lambda path: read_mask(path).shape),
    )
    for name, size in sizes:
        try:
            shapes.append(size(item[name]))
        except InputError as error:
            problems.append(str(error))
    if len(set(shapes)) > 1:
        problems.append(f"{item[key]}: expected the size of {item['image']}, {shapes[0]}, found {shapes[1]}")
    return problems


def check_label_item(item: Mapping[str, Any], classes: int = 2) -> list[str]:
    """What is wrong with one image and its label, a line each.

    For :func:`load_datalist` with ``path_keys=("image",)``, as the label is no path.

    Args:
        item: ``image`` (a path), ``label`` (a number) and, if there is one, ``mask`` (a path) of the image's size.
        classes: labels are whole numbers from 0 to ``classes - 1``.
    """
    label = item.get("label")
    problems = []
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < classes:
        actual = "none" if label is None else f"{json.dumps(label, default=str):.80} ({type(label).__name__})"
        problems.append(f"label of {item['image']}: expected a whole number 0 to {classes - 1}, found {actual}")
    if "mask" in item:
        return problems + check_mask_item(item, "mask")
    try:
        read_field(item["image"], item.get("mpp"))
    except InputError as error:
        problems.append(str(error))
    return problems


def load_datalist(
    dataset_dir: str | os.PathLike | Sequence[str | os.PathLike],
    splits: Sequence[str] = ("training", "validation", "test"),
    check: Callable[[Item], list[str]] | None = check_points_item,
    path_keys: Sequence[str] = ("image", "label"),
    optional_path_keys: Sequence[str] = ("mask", "lookalikes"),
    allow_empty: bool = False,
) -> dict[str, list[Item]]:
    """Read ``<dataset_dir>/dataset.json`` and check it: files, contents, groups.

    Where a folder's lists hold :data:`~monai_ext.data.checked_lists.LARGE` items or more, those that are in order are
    remembered in its ``.checked.json``; as long as neither they nor their files change, they are not read again.

    Args:
        dataset_dir: the folder; paths in the list are relative to it. Of several folders the lists are joined, and
            the folder's name is put before the name of each group.
        splits: the lists to return and check; each must hold something, in one of the folders. ``training``,
            ``validation``, ``test`` and ``locating`` are all looked through for groups that are in two of them.
        check: gives the problems of one item, a line each; ``None`` to look at the list alone. Only what a function
            with a name has found to be in order is remembered, not what a ``lambda`` has.
        path_keys: keys that each item must have; where they hold text it is a path, relative to the folder. The first
            one must hold text.
        optional_path_keys: keys that an item may have, with a path or ``{name: path}``. Every other key is passed on
            as it is.
        allow_empty: some of the lists may hold nothing, or not be there, but not all.

    Returns:
        split -> items with their paths resolved.

    Raises:
        DataListError: with every problem found, one line each.
        InputError: there is no data list, or it cannot be read as one.
    """
    from monai_ext.base.distributed import is_first  # brings torch, which what only reads a list does without

    folders = [dataset_dir] if isinstance(dataset_dir, (str, os.PathLike)) else list(dataset_dir)
    joined: dict[str, list[Item]] = {name: [] for name in splits}
    keys = [*path_keys, *optional_path_keys]
    problems: list[str] = []
    unchecked: list[Item] = []
    marks: list[tuple[CheckedLists, dict[str, str | None]]] = []
    empty = set(splits)
    for folder in map(Path, folders):
        lists = _read_lists(folder, splits, problems)
        empty -= {name for name in splits if lists[name] != []}
        large = check is not None and is_large([item for name in splits for item in lists[name] or []])
        before = CheckedLists(folder, check) if large else None
        stamps: dict[str, str | None] = {}
        for name in splits:
            items = _resolved(folder, name, lists[name] or [], (path_keys, optional_path_keys), problems)
            if before is not None:
                stamps[name] = before.fingerprint(items, keys)
            if before is None or stamps[name] not in before:
                unchecked += items
            elif is_first():
                print(
                    f"{folder}: the {len(items)} items of '{name}' are as they were when they were checked", flush=True
                )
            if len(folders) > 1:  # names of groups are each data set's own
                items = [
                    item | {"group": f"{folder.name}/{item['group']}"} if "group" in item else item for item in items
                ]
            joined[name] += items
        if before is not None:
            marks.append((before, stamps))
    where = ", ".join(str(Path(folder) / "dataset.json") for folder in folders)
    if allow_empty and any(joined.values()):
        empty = set()
    problems += [f"{where}: expected a list '{s}' with at least one item, found none" for s in splits if s in empty]
    if check is not None:
        with ThreadPoolExecutor() as pool:
            checked = pool.map(partial(_check_paths, check, keys), unchecked)
            progress = {
                "desc": "checking the data list",
                "unit": "item",
                "delay": _PATIENCE_S,
                "disable": not is_first(),
            }
            problems += [line for lines in tqdm(checked, total=len(unchecked), **progress) for line in lines]
    if problems:
        raise DataListError(where, problems)
    if is_first():
        for before, stamps in marks:
            before.remember(stamps)
    return joined


_LISTS = ("training", "validation", "test", "locating")  # of which none may share a group with another


def _read_lists(folder: Path, splits: Sequence[str], problems: list[str]) -> dict[str, list[Any] | None]:
    """The lists of a folder, None for what is no list; what is wrong with them goes into ``problems``."""
    path = folder / "dataset.json"
    content = read_content(folder, path)
    entries = {name: content.get(name) or [] for name in dict.fromkeys([*_LISTS, *splits])}
    lists = {name: items if isinstance(items, list) else None for name, items in entries.items()}
    problems += [
        f"{path}: expected a list '{name}', found {type(entries[name]).__name__}"
        for name in entries
        if lists[name] is None
    ]
    problems += _groups_in_two_lists(path, {name: items or [] for name, items in lists.items()})
    return lists


def _resolved(
    folder: Path, name: str, items: Sequence[Any], keys: tuple[Sequence[str], Sequence[str]], problems: list[str]
) -> list[Item]:
    """The usable items of a list, with their paths resolved; what is wrong with the others goes into ``problems``."""
    path_keys, optional_path_keys = keys
    path, usable = folder / "dataset.json", []
    for index, item in enumerate(items):
        missing = [k for k in path_keys if k not in item] if isinstance(item, dict) else list(path_keys)
        if missing:
            problems.append(f"{path}: expected keys {list(path_keys)} in {name}[{index}], found no {missing}")
        elif not isinstance(item[path_keys[0]], str):
            actual = f"{item[path_keys[0]]!r:.80}"
            problems.append(f"{path}: expected a path as {path_keys[0]} in {name}[{index}], found {actual}")
        else:
            paths = [*path_keys, *(k for k in optional_path_keys if k in item)]
            # null in an optional key means the same as no key, and could not be collated
            entries = {k: v for k, v in item.items() if v is not None or k in path_keys}
            usable.append({k: _resolve(folder, v) if k in paths else v for k, v in entries.items()})
    return usable


def read_content(folder: Path, path: Path) -> dict[str, Any]:
    """All that a data list's file holds.

    Raises:
        InputError: no such folder or file, or no JSON object in it.
    """
    if not folder.is_dir():
        raise InputError(folder, "a dataset folder (--dataset_dir)", "no such folder")
    if not path.is_file():
        raise InputError(path, "a data list; `python -m monai_ext prepare` or `phantom` writes one", "no such file")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(path, "JSON", str(error)) from error
    if not isinstance(content, dict):
        raise InputError(path, "an object with the lists training, validation and test", type(content).__name__)
    return content


def _resolve(folder: Path, value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _resolve(folder, path) for name, path in value.items()}
    return str(folder / value) if isinstance(value, str) else value


def _check_paths(check: Callable[[Item], list[str]], keys: Sequence[str], item: Item) -> list[str]:
    values = [item.get(key) for key in keys]
    paths = [path for value in values for path in (value.values() if isinstance(value, dict) else [value])]
    missing = [path for path in paths if isinstance(path, str) and not Path(path).exists()]
    return [f"{name}: expected a file, found none" for name in missing] or check(item)


def _groups_in_two_lists(path: Path, lists: Mapping[str, Sequence[Item]]) -> list[str]:
    where: dict[str, set[str]] = {}
    for name, items in lists.items():
        for item in items:
            if isinstance(item, dict) and "group" in item:
                where.setdefault(str(item["group"]), set()).add(name)
    return [
        f"{path}: expected group {group!r} in one list, found it in {' and '.join(sorted(names))}"
        for group, names in sorted(where.items())
        if len(names) > 1
    ]
