"""Patches of single nuclei with labels of several qualities: on disk, checked, as a data set that stays on disk.

One pair of files for each source image: ``patches/<name>.npy``, uint8 ``(N, S, S, 3)``, read memory-mapped, and
``nuclei/<name>.csv`` with a row for each patch: ``row,col,scale``, then a column for each annotation. A label is a
class name, ``background`` (segmented by us, unknown to the annotation) or nothing (not annotated).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from monai.transforms import apply_transform
from torch import Tensor
from torch.utils.data import Dataset

from monai_ext.base.arrays import load_array
from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path
from monai_ext.data.datalist import read_content
from monai_ext.formats.suffixes import without_suffix

__all__ = [
    "BACKGROUND",
    "NucleusPatches",
    "check_nuclei_item",
    "crop_patches",
    "expert_nuclei",
    "read_class_names",
    "read_nuclei",
    "read_patches",
    "write_nuclei",
]

BACKGROUND = "background"
PLACE = ("row", "col", "scale")
_SCALES = (1, 2, 4)
_OPEN = 256  # patch files kept open: each holds a file descriptor


def read_class_names(dataset_dir: str | os.PathLike) -> list[str]:
    """The classes of a data set, in the order of the networks' outputs.

    Args:
        dataset_dir: folder whose ``dataset.json`` has ``class_names``.

    Raises:
        InputError: none there, fewer than two, or one that is no name, comes twice or is ``background``.
    """
    path = Path(dataset_dir) / "dataset.json"
    names = read_content(Path(dataset_dir), path).get("class_names")
    if (
        not isinstance(names, list)
        or len(names) < 2
        or not all(isinstance(n, str) and n.strip() == n != "" for n in names)
    ):
        raise InputError(path, "class_names, a list of at least two names", f"{names!r:.80}")
    if len(set(names)) < len(names) or BACKGROUND in names:
        raise InputError(path, f"class_names that differ, none of them {BACKGROUND!r}", f"{names!r:.80}")
    return names


def read_patches(path: str | os.PathLike) -> np.ndarray:
    """Patches of nuclei, not loaded but memory-mapped.

    Args:
        path: an ``.npy`` file; nothing is unpickled.

    Returns:
        read-only uint8 ``(N, S, S, 3)``, RGB.

    Raises:
        InputError: no such file, or something else in it.
    """
    try:
        patches = load_array(path)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(path, "patches of nuclei (.npy)", " ".join(str(error).split())[:120]) from error
    if not isinstance(patches, np.ndarray):
        raise InputError(path, "one array (.npy)", "an archive of arrays")
    shape = patches.shape
    if patches.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or shape[1] != shape[2] or not shape[1]:
        raise InputError(path, "RGB patches, uint8 (N, S, S, 3)", f"{patches.dtype} {shape}")
    return patches


def read_nuclei(path: str | os.PathLike, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The table of an image's nuclei.

    Args:
        path: a CSV file as the module describes.
        columns: annotations to read; all by default.

    Returns:
        ``row``, ``col`` (float64, px of the source at full resolution), ``scale`` (1, 2, 4), and the annotations as
        categories of text, empty where nothing was annotated.

    Raises:
        InputError: no such file, a header without these columns, a damaged line, or numbers that are none.
    """
    path = Path(path)
    header = _read_csv(path, nrows=0).columns
    annotations = [name for name in header if name not in PLACE]
    missing = [name for name in (*PLACE, *(columns or ())) if name not in header]
    if missing or not annotations or not all(name.isalpha() for name in annotations):
        wanted = ",".join((*PLACE, *(columns or ["one or more annotations, their names made of letters"])))
        raise InputError(path, f"the header {wanted}", ",".join(header)[:120])
    table = _read_csv(
        path,
        dtype=dict.fromkeys(annotations, "category") | dict.fromkeys(PLACE, "float64"),
        keep_default_na=False,
        na_values={name: [""] for name in PLACE},
    )
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(path, f"lines of {len(header)} fields, as in the header", "longer lines")
    table = table[[*PLACE, *(annotations if columns is None else columns)]]
    _check_places(path, table)
    return table


def _read_csv(path: Path, **options: Any) -> pd.DataFrame:
    try:
        return pd.read_csv(path, encoding="utf-8-sig", **options)
    except OSError as error:
        raise InputError(path, "a table of nuclei (.csv)", error.strerror or type(error).__name__) from error
    except ValueError as error:  # what pandas raises for text, numbers, lines and encodings
        raise InputError(path, "a table of nuclei (.csv, UTF-8)", " ".join(str(error).split())[:120]) from error


def _check_places(path: Path, table: pd.DataFrame) -> None:
    finite = np.isfinite(table[["row", "col"]].to_numpy()).all(axis=1)
    for good, expected in (
        (finite, "numbers as row,col"),
        (table["scale"].isin(_SCALES).to_numpy(), "scale 1, 2 or 4"),
    ):
        if not good.all():
            line = int(np.flatnonzero(~good)[0])
            numbers = ",".join(f"{value:g}" for value in table.loc[line, list(PLACE)])
            raise InputError(path, expected, f"{numbers} in line {line + 2} and {int((~good).sum()) - 1} more")


def _class_ids(path: str | os.PathLike, labels: pd.Series, class_names: Sequence[str]) -> np.ndarray:
    """Class of each nucleus, int16; -1 for background and for none."""
    class_id = {name: index for index, name in enumerate(class_names)} | {BACKGROUND: -1, "": -1}
    categories = list(labels.cat.categories)
    unknown = [str(name) for name in categories if name not in class_id]
    if unknown:
        expected = f"{', '.join(class_names)}, {BACKGROUND} or nothing as {labels.name}"
        raise InputError(path, expected, ", ".join(map(repr, unknown))[:120])
    # a line that ends early lacks its last labels: their code is -1, which picks the last entry
    table = np.array([class_id[name] for name in categories] + [-1], np.int16)
    return table[labels.cat.codes.to_numpy()]


def check_nuclei_item(
    item: Mapping[str, Any],
    class_names: Sequence[str],
    annotations: str | Sequence[str] | None = None,
    size: int | None = None,
) -> list[str]:
    """What is wrong with the patches and the table of one source image, a line each.

    Args:
        item: ``image`` (``.npy``) and ``label`` (``.csv``), two paths, as ``load_datalist`` gives them.
        class_names: names that labels may have, besides ``background`` and nothing.
        annotations: columns that there must be, one name or several.
        size: side of the patches, px; any by default.
    """
    problems = []
    wanted = [annotations] if isinstance(annotations, str) else list(annotations or ())
    patches = table = None
    try:
        patches = read_patches(item["image"])
        if size is not None and patches.shape[1] != size:
            problems.append(
                str(InputError(item["image"], f"patches of {size} px (patch_size)", f"{patches.shape[1]} px"))
            )
    except InputError as error:
        problems.append(str(error))
    try:
        table = read_nuclei(item["label"])
        if missing := [name for name in wanted if name not in table]:
            has = [name for name in table if name not in PLACE]
            problems.append(str(InputError(item["label"], f"a column {', '.join(missing)}", ", ".join(has))))
    except InputError as error:
        problems.append(str(error))
    for name in () if table is None else table.columns[len(PLACE) :]:
        try:
            _class_ids(item["label"], table[name], class_names)
        except InputError as error:
            problems.append(str(error))
    if patches is not None and table is not None and len(patches) != len(table):
        expected = f"a row for each of the {len(patches)} patches in {item['image']}"
        problems.append(str(InputError(item["label"], expected, str(len(table)))))
    return problems


class Teacher(Protocol):
    """What gives labels in place of an annotation, such as :class:`~monai_ext.data.TeacherLabels`."""

    def logits(self, item: Mapping[str, Any]) -> np.ndarray:
        """Scores ``(N, C)`` of the patches of one source image."""


class NucleusPatches(Dataset):
    """The labelled nuclei of many source images, read from disk as they are asked for.

    Only the labels and positions are kept in memory, about 10 bytes a nucleus; patches are memory-mapped.

    Args:
        items: ``image``, ``label`` and, if known, ``group`` of each source image; its name is the group by default.
        annotation: column of the labels; nuclei that are background or nothing there are left out. ``None`` takes
            every nucleus, with the label -1 where no teacher gives one.
        class_names: the classes, in the order of the networks' outputs.
        transform: applied to each sample.
        scales: keep nuclei at these scales only, of 1, 2 and 4; all by default.
        per_class: draw so many of each class.
        seed: of that draw.
        teacher: gives the labels in place of the annotation, which then only says which nuclei are used.

    Attributes:
        labels: ``(M,)`` int64, the annotation's class of each nucleus, -1 for none.

    Raises:
        InputError: unreadable files, no nucleus left, or fewer than ``per_class`` of a class.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Any]],
        annotation: str | None,
        class_names: Sequence[str],
        transform: Callable | None = None,
        *,
        scales: Sequence[int] | None = None,
        per_class: int | None = None,
        seed: int = 0,
        teacher: Teacher | None = None,
    ) -> None:
        self.items, self.annotation, self.class_names = list(items), annotation, list(class_names)
        self.transform = transform
        kept: list[tuple[np.ndarray, ...]] = []
        for index, item in enumerate(self.items):
            table = read_nuclei(item["label"], [] if annotation is None else [annotation])
            if annotation is None:
                ids = np.full(len(table), -1, np.int16)
                keep = np.ones(len(table), bool)
            else:
                ids = _class_ids(item["label"], table[annotation], class_names)
                keep = ids >= 0
            if scales is not None:
                keep &= table["scale"].isin(list(scales)).to_numpy()
            rows = np.flatnonzero(keep).astype(np.int32)
            soft = () if teacher is None else (self._taught(teacher, item, len(table))[rows],)
            kept.append((np.full(len(rows), index, np.int32), rows, ids[rows], *soft))
        columns = [np.concatenate(parts) for parts in zip(*kept, strict=True)] or [np.empty(0, np.int32)] * 3
        self._item, self._row, self._label, *soft = columns
        self._logits = soft[0] if soft else None
        self._maps: OrderedDict[int, np.ndarray] = OrderedDict()
        if not len(self):
            actual = f"none in {len(self.items)} tables" + ("" if scales is None else f" at the scales {list(scales)}")
            raise InputError(f"annotation {annotation!r}", f"nuclei of {', '.join(self.class_names)}", actual)
        if per_class is not None:
            chosen = self.subset(self._drawn(per_class, seed))
            self._item, self._row, self._label, self._logits = chosen._item, chosen._row, chosen._label, chosen._logits

    def _taught(self, teacher: Teacher, item: Mapping[str, Any], count: int) -> np.ndarray:
        logits = teacher.logits(item)
        if logits.shape != (count, len(self.class_names)):
            expected = f"{count} x {len(self.class_names)} scores of the teacher for {item['image']}"
            raise InputError("teacher", expected, " x ".join(map(str, logits.shape)))
        return logits

    @property
    def labels(self) -> np.ndarray:
        """``(M,)`` int64: the class of each nucleus."""
        return self._label.astype(np.int64)

    @property
    def groups(self) -> np.ndarray:
        """``(M,)`` text: the slide or source image of each nucleus."""
        return np.array([self._group(item) for item in self.items], dtype=object)[self._item]

    @staticmethod
    def _group(item: Mapping[str, Any]) -> str:
        return str(item.get("group", without_suffix(item["image"]).name))

    def counts(self) -> dict[str, int]:
        """Number of nuclei of each class."""
        numbers = np.bincount(self._label[self._label >= 0], minlength=len(self.class_names))
        return dict(zip(self.class_names, numbers.tolist(), strict=True))

    def class_weights(self, balance: float) -> Tensor:
        """Weights of the classes for a loss, so that rare classes count more.

        Args:
            balance: 0 weighs all nuclei alike, 1 all classes; between them, their numbers to the power ``-balance``.

        Returns:
            float32 ``(C,)``, 1 on average over the nuclei; 0 for a class without any. Where a teacher gives the labels,
            its classes are counted, else the annotation's.

        Raises:
            InputError: a ``balance`` outside 0 to 1.
        """
        if not 0 <= balance <= 1:
            raise InputError("balance", "a number from 0 to 1", repr(balance))
        classes = self._label[self._label >= 0] if self._logits is None else self._logits.argmax(1)
        numbers = np.bincount(classes, minlength=len(self.class_names)).astype(np.float64)
        weights = np.where(numbers > 0, np.maximum(numbers, 1) ** -float(balance), 0.0)
        return torch.as_tensor(weights * (numbers.sum() / (weights * numbers).sum()), dtype=torch.float32)

    def annotated(self, column: str) -> np.ndarray:
        """``(M,)`` text: another annotation's label of each nucleus, a class, ``background`` or nothing."""
        texts = np.empty(len(self), object)
        for index, item in enumerate(self.items):
            of_item = self._item == index
            texts[of_item] = (
                read_nuclei(item["label"], [column])[column].astype(object).fillna("").to_numpy()[self._row[of_item]]
            )
        return texts

    def __len__(self) -> int:
        return len(self._label)

    def __getstate__(self) -> dict[str, Any]:
        # a worker process opens the files itself: a mapped array would be sent as a copy of the whole file
        return {**self.__dict__, "_maps": OrderedDict()}

    def _patches(self, item: int) -> np.ndarray:
        if item not in self._maps:
            self._maps[item] = read_patches(self.items[item]["image"])
            while len(self._maps) > _OPEN:
                self._maps.popitem(last=False)
        self._maps.move_to_end(item)
        return self._maps[item]

    def __getitem__(self, index: int) -> Any:
        """One nucleus.

        Returns:
            ``image``, uint8 ``(3, S, S)``; ``label``, its class, or with a teacher its scores, float32 ``(C,)``;
            ``group``; ``index``; ``file`` and ``row``, where the patch is kept; all of it transformed.
        """
        item, row = int(self._item[index]), int(self._row[index])
        sample = {
            "image": np.ascontiguousarray(self._patches(item)[row].transpose(2, 0, 1)),
            "label": int(self._label[index]) if self._logits is None else self._logits[index].astype(np.float32),
            "group": self._group(self.items[item]),
            "index": int(index),
            "file": str(self.items[item]["image"]),
            "row": row,
        }
        return sample if self.transform is None else apply_transform(self.transform, sample)

    def patches(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Several patches at once, not transformed.

        Args:
            indices: ``(n,)`` whole numbers.

        Returns:
            uint8 ``(n, S, S, 3)``.
        """
        indices = np.asarray(indices)
        side = self._patches(int(self._item[0])).shape[1]
        batch = np.empty((len(indices), side, side, 3), np.uint8)
        for item in np.unique(self._item[indices]):
            positions = np.flatnonzero(self._item[indices] == item)
            batch[positions] = self._patches(int(item))[self._row[indices[positions]]]
        return batch

    def subset(self, indices: Sequence[int] | np.ndarray) -> NucleusPatches:
        """The same data set with these nuclei alone."""
        other = copy(self)
        other._item, other._row, other._label = self._item[indices], self._row[indices], self._label[indices]
        other._logits = None if self._logits is None else self._logits[indices]
        other._maps = OrderedDict()
        return other

    def _drawn(self, per_class: int, seed: int) -> np.ndarray:
        """Indices of ``per_class`` nuclei of each class, class after class; those of a smaller draw come first."""
        if isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 1:
            raise InputError("per_class", "a whole number from 1", repr(per_class))
        if min(self.counts().values()) < per_class:
            available = ", ".join(f"{count} {name}" for name, count in self.counts().items())
            raise InputError(f"annotation {self.annotation!r}", f"at least {per_class} nuclei of each class", available)
        rng = np.random.RandomState(seed)
        by_class = [np.flatnonzero(self._label == index) for index in range(len(self.class_names))]
        return np.concatenate([rng.permutation(indices)[:per_class] for indices in by_class])


def expert_nuclei(
    lists: Mapping[str, Sequence[Mapping[str, Any]]],
    annotation: str,
    class_names: Sequence[str],
    per_class: int,
    *,
    split: str = "lists",
    held: float = 0.2,
    seed: int = 0,
    scales: Sequence[int] | None = None,
) -> dict[str, NucleusPatches]:
    """The few reliable labels of a fine-tuning: ``per_class`` of each class, for training and validation, and the test.

    The paper draws from all expert annotations, and the rest of them is the test (section 5.3): nuclei of one slide are
    then on both sides, and the test differs with the count. That is ``"remainder"``. By default the slides stay apart:
    training nuclei are drawn from the training list, validation nuclei from the validation list, and the test list is
    the test.

    Args:
        lists: training, validation and test list.
        annotation: column of the labels.
        class_names: the classes.
        per_class: nuclei of each class, training and validation together.
        split: ``"lists"`` or ``"remainder"``.
        held: share of them for validation; at least one nucleus of each class.
        seed: of the draw. The nuclei of a smaller count are among those of a larger one.
        scales: resolutions whose nuclei count; all by default.

    Returns:
        ``training``, ``validation`` and ``test``.

    Raises:
        InputError: too few nuclei, or arguments out of their range.
    """
    if split not in ("lists", "remainder"):
        raise InputError("split", "'lists' or 'remainder'", repr(split))
    if isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 2:
        raise InputError("per_class", "a whole number from 2, for training and validation", repr(per_class))
    if not 0 < held < 1:
        raise InputError("held", "a share between 0 and 1", repr(held))
    validation = min(per_class - 1, max(1, round(held * per_class)))
    parts = ("training", "validation", "test")
    if split == "lists":
        numbers = dict(zip(parts, (per_class - validation, validation, None), strict=True))
        return {
            part: NucleusPatches(lists[part], annotation, class_names, scales=scales, per_class=number, seed=seed)
            for part, number in numbers.items()
        }
    pool = NucleusPatches([item for part in parts for item in lists[part]], annotation, class_names, scales=scales)
    drawn = pool._drawn(per_class, seed).reshape(len(class_names), per_class)
    rest = np.setdiff1d(np.arange(len(pool)), drawn)
    if not len(rest):
        raise InputError("per_class", "a count that leaves nuclei for the test", f"{per_class} of {pool.counts()}")
    # the first of each class go to validation, so that training sets of growing counts differ by what is added
    indices = (drawn[:, validation:].ravel(), drawn[:, :validation].ravel(), rest)
    return {part: pool.subset(part_indices) for part, part_indices in zip(parts, indices, strict=True)}


def crop_patches(image: np.ndarray, centres: Any, size: int) -> np.ndarray:
    """Square patches of an image about some points, zero beyond its border as in the distillation paper.

    Args:
        image: ``(H, W, ...)``.
        centres: ``(N, 2)`` numbers row, col; a whole number is a pixel's centre. Patches of even size reach a pixel
            further up and left of it.
        size: side, px.

    Returns:
        ``(N, size, size, ...)`` of the image's type.
    """
    first = np.rint(np.asarray(centres, float).reshape(-1, 2)).astype(np.int64) - size // 2
    coordinates = first[..., None] + np.arange(size)  # (N, 2, size)
    kept = np.clip(coordinates, 0, np.array(image.shape[:2])[:, None] - 1)
    patches = image[kept[:, 0, :, None], kept[:, 1, None, :]]
    inside = coordinates == kept
    border = ~inside.all(axis=(1, 2))
    outside = ~(inside[border, 0, :, None] & inside[border, 1, None, :])
    patch, row, col = np.nonzero(outside)
    patches[np.flatnonzero(border)[patch], row, col] = 0
    return patches


def write_nuclei(dst: str | os.PathLike, name: str, patches: np.ndarray, table: Any) -> dict[str, str]:
    """Write the nuclei of one source image, each file whole or not at all.

    Args:
        dst: the data set's folder.
        name: of the source image, perhaps with folders.
        patches: uint8 ``(N, S, S, 3)``, RGB.
        table: a row for each patch: ``row``, ``col``, ``scale``, then the annotations as text.

    Returns:
        ``image`` and ``label``, relative to ``dst``: the entry of the data list, but for its ``group``.

    Raises:
        InputError: patches or columns that :func:`read_patches` and :func:`read_nuclei` would refuse.
    """
    table = pd.DataFrame(table)
    item = {"image": f"patches/{name}.npy", "label": f"nuclei/{name}.csv"}
    paths = {key: Path(dst) / value for key, value in item.items()}
    annotations = [column for column in table if column not in PLACE]
    if len(patches) != len(table):
        raise InputError(paths["label"], f"a row for each of {len(patches)} patches", str(len(table)))
    with atomic_path(paths["image"]) as temporary:
        np.save(temporary, patches, allow_pickle=False)
        read_patches(temporary)
    table = table.assign(scale=table["scale"].astype(int))[[*PLACE, *annotations]].round({"row": 2, "col": 2})
    with atomic_path(paths["label"]) as temporary:
        table.to_csv(temporary, index=False)
        read_nuclei(temporary)
    return item
