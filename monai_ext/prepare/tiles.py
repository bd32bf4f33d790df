"""Tiles of one size with one label each, has nuclei or has none.

They are cut from tiles of any size that experts marked, from fields whose nuclei are outlined, nothing but the one
label being left of an outline, or from slides by a rule. :mod:`monai_ext.data.tiles` reads them.
"""

from __future__ import annotations

import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from monai_ext.base.errors import InputError
from monai_ext.base.threads import in_threads
from monai_ext.data.datalist import Item, check_mask_item, load_datalist, read_content
from monai_ext.data.split import PARTS
from monai_ext.data.tiles import LABEL_FOLDERS, check_both_labels, images_below, marked_tiles
from monai_ext.formats.find import find_images, is_image
from monai_ext.formats.image import read_field, read_mask
from monai_ext.prepare.common import prepare
from monai_ext.prepare.fields import square_corners, tile_corners
from monai_ext.prepare.samples import Sample
from monai_ext.prepare.slide_tiles import SlideRule
from monai_ext.prepare.tile import Tile, image_pixels

__all__ = ["prepare_tiles"]

#: What each kind of source may be given besides what all may.
_OPTIONS = {
    "outlined fields": ("step", "negatives"),
    "marked tiles": ("mpp",),
    "slides": ("most", "mpp", "slide_mpp"),
}


@dataclass(frozen=True)
class _Rule:
    """Which squares are drawn."""

    size: int
    per_image: int
    step: int
    least: float
    seed: int

    def draw(self, instances: np.ndarray, name: str) -> list[tuple[tuple[int, int], int]]:
        """Corners and labels of squares, drawn at random among all that qualify."""
        rng = self.rng(name)
        sums = cv2.integral((instances > 0).view(np.uint8))
        size = self.size
        covered = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
        drawn = []
        for label, free in ((1, covered >= self.least * size**2), (0, covered == 0)):
            for _ in range(self.per_image):
                places = np.flatnonzero(free)
                if not len(places):
                    break
                row, col = divmod(int(places[rng.randint(len(places))]), free.shape[1])
                drawn.append(((row, col), label))
                free[max(0, row - self.step + 1) : row + self.step, max(0, col - self.step + 1) : col + self.step] = (
                    False
                )
        return drawn

    def rng(self, name: str) -> np.random.RandomState:
        """A stream for each name, so that an image's squares do not depend on the other images."""
        return np.random.RandomState([self.seed, zlib.crc32(name.encode())])


def prepare_tiles(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    size: int = 224,
    per_image: int | None = None,
    step: int | None = None,
    least: float = 0.05,
    most: float | None = None,
    mpp: float | None = None,
    slide_mpp: float | None = None,
    negatives: str | os.PathLike | Sequence[str | os.PathLike] = (),
    seed: int = 0,
    **options: Any,
) -> Path:
    """Cut tiles with and without nuclei from marked tiles of any size, from fields with outlines, or from slides.

    Marked tiles, in folders ``positive`` and ``negative``: squares that cover each, with its label, the last of a row
    or column shifted inwards; a smaller tile stays as it is. ``group`` is the folder below (a slide, a patient), or the
    marked tile. The split is 70/10/20 by group.

    Fields: a square is positive where nuclei cover at least ``least`` of it and negative where there is no pixel of
    any; others are left out. Squares are drawn at random. Parts and groups are those of the fields.

    Slides: nuclei are found by hematoxylin, see :class:`~monai_ext.prepare.slide_tiles.SlideRule`: fewer than with
    outlines are found, and dark stroma may pass for one. ``group`` is the slide, the split is 70/10/20 by slide.

    Written are ``<dst>/positive/*.png``, ``<dst>/negative/*.png`` and ``<dst>/dataset.json`` with ``image``, ``label``
    and ``group``, as :func:`~monai_ext.data.load_tiles` reads them.

    Args:
        src: a data set, ``dataset.json`` with ``image`` and ``label``, an instance map; else a folder with ``positive``
            and ``negative``; else a slide, or a folder of slides (or images of tissue).
        dst: the folder to write.
        size: of a tile, px.
        per_image: at most so many tiles of either label from an image (8) or slide (200); of a marked tile, drawn at
            random (all).
        step: fields: tiles of one label from one image are at least so far apart, down or across, px; half of ``size``
            by default. Those of a slide lie side by side.
        least: share of a positive tile that nuclei cover, above 0.
        most: slides: share of a negative tile that may pass for nuclei; .002 by default.
        mpp: slides: um/px of the tiles; .25 by default. Marked tiles: theirs, by default what their files state. Tiles
            of fields have the fields' resolution.
        slide_mpp: slides: um/px of level 0 where a slide does not state it.
        negatives: fields: folders of images without nuclei, cut into squares side by side, or of data sets, whose items
            of label 0 count. They are used as far as a part has fewer negative tiles than positive ones.
        seed: of the drawing.
        options: ``overwrite``, and but for fields ``split``, see :func:`~monai_ext.prepare.common.prepare`.

    Returns:
        The path of ``dataset.json``.

    Raises:
        DataListError: with everything that is wrong with the data set or the slides.
        InputError: an option out of its range or of the other kind of source, images of ``negatives`` that are too
            small, or a part with one class alone.
    """
    src = Path(src)
    kind = _kind(src, {"step": step, "negatives": negatives, "most": most, "mpp": mpp, "slide_mpp": slide_mpp})
    by_outlines = kind == "outlined fields"
    most_tiles = per_image
    per_image = (8 if by_outlines else 200) if per_image is None else per_image
    step = max(1, size // 2) if step is None else step
    for name, value in {"size": size, "per_image": per_image, "step": step}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(name, "a whole number of at least 1", repr(value))
    if not 0 < least <= 1:
        raise InputError("least", "a share above 0, at most 1", repr(least))
    parts: dict[str, str] = {}
    one_slide = is_image(src)
    folders = [negatives] if isinstance(negatives, (str, os.PathLike)) else list(negatives)

    def from_fields(folder: Path, problems: list[str]) -> list[Sample]:  # noqa: ARG001 - they are raised
        rule = _Rule(size, per_image, step, least, seed)
        content = read_content(folder, folder / "dataset.json")
        lists = load_datalist(folder, [part for part in PARTS if content.get(part)] or PARTS, check_mask_item)
        fields = [(f"{part}_{index:04d}", part, item) for part in lists for index, item in enumerate(lists[part])]
        tiles = [
            tile
            for field_tiles in in_threads(lambda field: _cut(rule, field), fields, "tiles: drawing")
            for tile in field_tiles
        ]
        parts.update({_group(name, item): part for name, part, item in fields})
        for number, other in enumerate(map(Path, folders)):
            tiles += _more_negatives(rule, f"{number}_{_plain(other.name)}", other, tiles, parts)
        for part in lists:
            check_both_labels(f"{folder}: {part}", [tile.label for tile in tiles if parts[tile.group] == part])
        return tiles

    def from_slides(folder: Path, problems: list[str]) -> list[Sample]:
        optional = {"most": most, "mpp": mpp}
        rule = SlideRule(
            size,
            per_image,
            least,
            slide_mpp=slide_mpp,
            seed=seed,
            **{k: v for k, v in optional.items() if v is not None},
        )
        paths = [src] if one_slide else find_images(folder, dst)
        if not paths:
            problems.append(f"{folder}: expected dataset.json of outlined fields, or slides, found neither")
            return []

        def drawn(path: Path) -> list[Tile]:
            try:
                return rule.draw(path)
            except InputError as error:
                problems.append(str(error))
                return []

        tiles = [tile for drawn_tiles in in_threads(drawn, paths, "tiles: drawing") for tile in drawn_tiles]
        if not problems:
            check_both_labels(f"{src}", [tile.label for tile in tiles])
        return tiles

    def from_marked(folder: Path, problems: list[str]) -> list[Sample]:  # noqa: ARG001 - they are raised
        return _cut_marked(_Rule(size, per_image, step, least, seed), folder, most_tiles, mpp)

    collect = {"outlined fields": from_fields, "marked tiles": from_marked, "slides": from_slides}[kind]
    paper = (lambda *_: parts) if by_outlines else None
    return prepare("tiles", src.parent if one_slide else src, dst, collect, paper=paper, seed=seed, **options)


def _kind(src: Path, options: Mapping[str, Any]) -> str:
    """What ``src`` is; options of another kind of source are refused."""
    marked = all((src / name).is_dir() for name in LABEL_FOLDERS)
    kind = "outlined fields" if (src / "dataset.json").exists() else "marked tiles" if marked else "slides"
    for name, value in options.items():
        if name not in _OPTIONS[kind] and value not in (None, ()):
            raise InputError(name, f"no such option with {kind}", repr(value))
    return kind


def _cut_marked(rule: _Rule, folder: Path, most: int | None, mpp: float | None) -> list[Sample]:
    """Squares that cover each marked tile, or ``most`` of them; smaller tiles as they are."""
    tiles: list[Sample] = []
    for number, item in enumerate(marked_tiles(folder)):
        image, name = read_field(item["image"]), f"{number:05d}"
        corners = rule.rng(name).permutation(tile_corners(image.image.shape[1:], rule.size)).tolist()
        scaled = {**item, "mpp": mpp or image.mpp}
        tiles += [_tile(rule, name, corner, item["label"], scaled) for corner in sorted(corners[:most])]
    check_both_labels(f"{folder}", [tile.label for tile in tiles])
    return tiles


def _cut(rule: _Rule, field: tuple[str, str, Mapping[str, Any]]) -> list[Tile]:
    name, _, item = field
    return [_tile(rule, name, corner, label, item) for corner, label in rule.draw(read_mask(item["label"]), name)]


def _tile(rule: _Rule, name: str, corner: tuple[int, int], label: int, item: Mapping[str, Any]) -> Tile:
    group = _group(name, item)
    tile_name = f"{_plain(group)}/{name}_{corner[0]:05d}_{corner[1]:05d}"
    return Tile(group, tile_name, Path(item["image"]), corner, rule.size, label, item.get("mpp"))


def _group(name: str, item: Mapping[str, Any]) -> str:
    return str(item.get("group", name))


def _plain(name: str) -> str:
    """A name that a folder can have."""
    return re.sub(r"[^\w-]+", "_", name) or "_"


def _more_negatives(rule: _Rule, name: str, folder: Path, tiles: Sequence[Tile], parts: dict[str, str]) -> list[Tile]:
    """Tiles of images without nuclei, until each part has as many as positive ones; ``parts`` takes their groups."""
    missing: Counter[str] = Counter()
    for tile in tiles:
        missing[parts[tile.group]] += 1 if tile.label else -1
    added: list[Tile] = []
    images = _free_images(folder, list(missing))
    for index in rule.rng(name).permutation(len(images)).tolist():
        allowed, item = images[index]
        part = max(allowed, key=lambda part: missing[part])
        if missing[part] <= 0:
            continue
        shape = image_pixels(Path(item["image"])).shape
        if min(shape[:2]) < rule.size:
            raise InputError(item["image"], f"at least {rule.size} px (size)", f"{shape[0]} x {shape[1]} px")
        image_name = f"{name}_{index:05d}"
        item = {**item, "group": f"{name}/{item.get('group', index)}"}
        parts[item["group"]] = part
        whole = [(side - rule.size) // rule.size * rule.size + 1 for side in shape[:2]]
        corners = rule.rng(image_name).permutation(square_corners(whole, rule.size)).tolist()
        for row, col in corners[: min(rule.per_image, missing[part])]:
            added.append(_tile(rule, image_name, (row, col), 0, item))
            missing[part] -= 1
    return added


def _free_images(folder: Path, parts: Sequence[str]) -> list[tuple[list[str], Item]]:
    """Images without nuclei, and the parts that each may go to."""
    if (folder / "dataset.json").is_file():
        content = read_content(folder, folder / "dataset.json")
        lists = load_datalist(folder, [part for part in parts if content.get(part)], None, ("image",), ())
        return [([part], item) for part in lists for item in lists[part] if item.get("label") == 0]
    paths = images_below(folder)
    if not paths:
        raise InputError(folder, "images without nuclei (negatives)", "none" if folder.is_dir() else "no such folder")
    return [(list(parts), {"image": str(path)}) for path in paths]
