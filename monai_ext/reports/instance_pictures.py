"""Instances of the same images side by side, as in Figs. 2, 4 and 5 of Cyclic Learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from skimage.color import label2rgb
from skimage.segmentation import find_boundaries

from monai_ext.base.errors import InputError
from monai_ext.base.files import write_png
from monai_ext.base.overlay import overlay
from monai_ext.data.datalist import load_datalist
from monai_ext.data.split import PARTS
from monai_ext.formats.image import read_field, read_mask
from monai_ext.reports.runs import check_runs

__all__ = ["instance_rows", "picture_instances"]

_GAP = 4  # px
_HEADING = 22


def instance_rows(
    images: Sequence[np.ndarray], maps: Sequence[Sequence[np.ndarray]], headings: Sequence[str], side: int = 256
) -> np.ndarray:
    """A table of pictures: a row for each image, which comes first, then its instance maps.

    Args:
        images: uint8 RGB ``(3, H, W)``; their upper left ``side`` px are shown.
        maps: for each image, instance maps ``(H, W)``, 0 is background; a mask, bool, is
            tinted, and floating point is heat in [0, 1].
        headings: of the columns, the image's included.
        side: of a picture, px.

    Returns:
        uint8 ``(h, w, 3)``.
    """
    rows = [_headings(headings, side)]
    for image, instances in zip(images, maps, strict=True):
        crop = np.moveaxis(image, 0, -1)[:side, :side]
        cells = [crop, *(_drawn(crop, each[:side, :side]) for each in instances)]
        rows.append(np.concatenate([_framed(cell, side) for cell in cells], axis=1))
    return np.concatenate(rows)


def picture_instances(
    runs: Mapping[str, str],
    dst: str,
    key: str = "instances",
    truth: str = "label",
    split: str = "test",
    pictures: int = 3,
    side: int = 256,
) -> str:
    """Draw what several runs found in the same images, each in a column of its own.

    For Fig. 5 of Cyclic Learning the runs differ in K, for its Fig. 4 in the method; with ``--key label`` and
    ``--split training`` the runs are folders of seeds.

    Args:
        runs: for each column the folder that an evaluation, or ``seeds.json``, wrote: with ``dataset.json``.
        dst: folder to write: ``instances.png``.
        key: under which key the data lists name a run's maps.
        truth: key of the true maps, drawn after the image where the first run's items have it as well; ``none`` for no
            such column.
        split: which list.
        pictures: how many images, the first that all runs have.
        side: of a picture, px; of larger images the upper left is shown.

    Returns:
        the path of ``instances.png``.

    Raises:
        InputError: a folder without a usable ``dataset.json``, or no image that all runs have.
    """
    check_runs(runs)
    if split not in PARTS:
        raise InputError("--split", ", ".join(PARTS), repr(split))
    for name, count in (("pictures", pictures), ("side", side)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise InputError(f"--{name}", "a whole number from 1", repr(count))
    results = [_items_of(folder, key, truth, split) for folder in runs.values()]
    first = results[0]
    images = [image for image in first if all(image in each for each in results)][:pictures]
    if not images:
        raise InputError("--runs", f"an image of the {split} list with {key!r} in all of them", "none")
    with_truth = truth != key and all(truth in first[image] for image in images)
    maps = [
        [*([first[image][truth]] if with_truth else []), *(each[image][key] for each in results)] for image in images
    ]
    headings = ["image", *(["labels"] if with_truth else []), *map(str, runs)]
    # with a resolution given px stay the file's own, as the maps' are
    shown = [read_field(image, mpp=1.0).image for image in images]
    path = Path(dst) / "instances.png"
    write_png(path, instance_rows(shown, [[read_mask(each) for each in row] for row in maps], headings, side))
    return str(path)


def _items_of(folder: str, key: str, truth: str, split: str) -> dict[str, dict[str, Any]]:
    """The items of a run that have a map, by image."""
    items = load_datalist(folder, [split], None, ("image",), (key, truth))[split]
    return {str(Path(item["image"]).resolve()): item for item in items if key in item}


def _drawn(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    if np.issubdtype(values.dtype, np.floating):
        return overlay(image, heat=values)
    if values.dtype == bool:  # without outlines, which would hide a mask of specks
        return _tinted(image, values.view(np.uint8))
    return _coloured(image, values)


def _tinted(image: np.ndarray, instances: np.ndarray) -> np.ndarray:
    tinted = (label2rgb(instances, image, alpha=0.35, bg_label=0, saturation=1) * 255).round().astype(np.uint8)
    return np.where(instances[..., None] > 0, tinted, image)


def _coloured(image: np.ndarray, instances: np.ndarray) -> np.ndarray:
    picture = _tinted(image, instances)
    picture[find_boundaries(instances, mode="inner")] = (20, 20, 20)
    return picture


def _framed(cell: np.ndarray, side: int) -> np.ndarray:
    missing = [(0, side - length + _GAP) for length in cell.shape[:2]]
    return np.pad(cell, (*missing, (0, 0)), constant_values=255)


def _headings(texts: Sequence[str], side: int) -> np.ndarray:
    band = np.full((_HEADING, len(texts) * (side + _GAP), 3), 255, np.uint8)
    for number, text in enumerate(texts):
        origin = (number * (side + _GAP) + 2, _HEADING - 7)
        cv2.putText(band, text, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (20, 20, 20), 1, cv2.LINE_AA)
    return band
