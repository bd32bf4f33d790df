"""Fields around reviewed objects, with what is known of them and what is not."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import shapely
from monai.data import MetaTensor

from monai_ext.base.files import atomic_path, write_png
from monai_ext.data.nuclei import crop_patches, write_nuclei
from monai_ext.data.regions import load_region
from monai_ext.data.split import random_split
from monai_ext.formats.geojson import to_rowcol
from monai_ext.formats.outlines import polygons_to_label_map, polygons_to_mask
from monai_ext.formats.point_files import write_points
from monai_ext.formats.reader import SlideReader
from monai_ext.learn.reviews import KEPT, REJECTED, UNSEEN, SlideReview

__all__ = ["ANNOTATION", "Region", "classified", "find_regions", "split_regions", "write_classes", "write_regions"]

#: The column of a reviewer's classes.
ANNOTATION = "ea"
_FOLDERS = {"image": "images", "label": "labels", "known": "known"}  # of pictures, by the item's key
_POINTS = {"label": "labels", "lookalikes": "lookalikes"}
_DEAL = ("training", "test", "training")
_MARGIN = 64  # px of the network's grid
_USUAL_MPP = 0.25  # where none is known, as in the bundles
# um around an object that a reviewer has seen with it, and around another one of which nothing is known
_AROUND = {"points": (10.0, 7.5), "outlines": (2.0, 1.0)}
_CORE_UM = 3.0  # of a point: known, however near another one is


@dataclass(frozen=True, eq=False)
class Region:
    """A square of a slide's grid in which objects were reviewed.

    Attributes:
        review: of the slide.
        name: of the slide and the square's row and column.
        location: ``x, y`` of its upper left corner, px of the file.
        size: ``width, height``, px of the file.
        members: ``(M,)`` places of the reviewed objects whose centre is in it.
    """

    review: SlideReview
    name: str
    location: tuple[int, int]
    size: tuple[int, int]
    members: np.ndarray

    @property
    def kept(self) -> np.ndarray:
        """Those of the members that are objects."""
        return self.members[self.review.verdict[self.members] == KEPT]

    @property
    def rejected(self) -> np.ndarray:
        """Those of the members that are none."""
        return self.members[self.review.verdict[self.members] == REJECTED]


def find_regions(review: SlideReview, side: int, target_mpp: float | None) -> list[Region]:
    """The squares of a grid over a slide in which anything was reviewed; each object is in one of them.

    Args:
        review: of the slide.
        side: of a square, px of the network's grid.
        target_mpp: um/px of that grid.

    Raises:
        InputError: the slide cannot be read.
    """
    reader = SlideReader(review.image, target_mpp, review.mpp)
    down, across = np.broadcast_to(reader.file_scale, 2).tolist()
    size = max(1, round(side * across)), max(1, round(side * down))
    seen = np.flatnonzero(review.verdict != UNSEEN)
    centres = shapely.get_coordinates(shapely.centroid(review.geometry[seen]))
    last = (np.array(reader.file_shape)[::-1] - 1) // size  # what lies on the edge is inside
    cells = np.clip(centres // size, 0, last).astype(int)
    regions = []
    for cell in np.unique(cells, axis=0).tolist():
        location = (cell[0] * size[0], cell[1] * size[1])
        members = seen[(cells == cell).all(axis=1)]
        name = f"{review.name}/{location[1]}_{location[0]}"
        regions.append(Region(review, name, location, size, members))
    return regions


def split_regions(regions: Sequence[Region], seed: int = 0) -> dict[str, list[Region]]:
    """A training and a held-out part, of regions: about a third is held out.

    Regions with objects and those without are dealt by themselves, so each part has objects if two regions have.

    Args:
        regions: all of them.
        seed: of the draw.

    Returns:
        ``training`` and ``test``.
    """
    weights = {region.name: len(region.kept) for region in regions}
    with_objects, others = ({n: w for n, w in weights.items() if bool(w) is kind} for kind in (True, False))
    parts = random_split(with_objects, seed, _DEAL) | random_split(others, seed, _DEAL)
    return {part: [region for region in regions if parts[region.name] == part] for part in ("training", "test")}


def write_regions(dst: Path, parts: Mapping[str, Sequence[Region]], kind: str, target_mpp: float | None) -> Path:
    """Write regions as a bundle's data set: images, labels, and masks of where these are known.

    Known is an object that was reviewed and a narrow rim around it, but not where that meets another object. What was
    rejected is background there. An item has ``image``, ``label`` (points or an instance map), ``known``, ``group``
    (the region), ``mpp`` and, of points, ``lookalikes``, those that were rejected.

    Args:
        dst: the folder.
        parts: see :func:`split_regions`.
        kind: ``"points"`` or ``"outlines"``.
        target_mpp: um/px of the network's grid.

    Returns:
        the path of ``dataset.json``.
    """
    lists = {part: [_write(dst, each, kind, target_mpp) for each in regions] for part, regions in parts.items()}
    return _write_list(dst, {"name": "review", **lists})


def _write(dst: Path, region: Region, kind: str, target_mpp: float | None) -> dict[str, Any]:
    image = _load(region, target_mpp)
    mpp = image.meta["mpp"]
    item: dict[str, Any] = {key: f"{folder}/{region.name}.png" for key, folder in _FOLDERS.items()}
    write_png(dst / item["image"], np.moveaxis(image.numpy(), 0, -1))
    write_png(dst / item["known"], _known(region, image, kind, mpp or target_mpp or _USUAL_MPP))
    if kind == "points":
        item |= {key: f"{folder}/{region.name}.csv" for key, folder in _POINTS.items()}
        for key, members in (("label", region.kept), ("lookalikes", region.rejected)):
            write_points(dst / item[key], to_rowcol(shapely.get_coordinates(_on_grid(region, members, image))))
    else:
        numbers = polygons_to_label_map(_on_grid(region, region.kept, image), image.shape[1:])
        write_png(dst / item["label"], numbers.astype(np.uint16))
    return item | ({"mpp": mpp} if mpp else {}) | {"group": region.name}


def _known(region: Region, image: MetaTensor, kind: str, mpp: float) -> np.ndarray:
    """``(H, W)`` uint8: 1 where a reviewer has looked."""
    shape = image.shape[1:]
    around, beside = (um / mpp for um in _AROUND[kind])
    # what lies beyond the image by less than a rim reaches into it
    corner, sides = image.meta["corner"], np.broadcast_to(image.meta["scale"], 2)[::-1]
    low, high = (corner + np.multiply(px, sides) for px in (-around, np.add(shape[::-1], around)))
    others = np.setdiff1d(region.review.tree.query(shapely.box(*low, *high)), region.members)
    seen = _on_grid(region, region.members, image)
    core = shapely.buffer(seen, _CORE_UM / mpp) if kind == "points" else seen
    known = polygons_to_mask(shapely.buffer(seen, around), shape)
    known &= ~polygons_to_mask(shapely.buffer(_on_grid(region, others, image), beside), shape)
    known |= polygons_to_mask(core, shape)
    if "valid" in image.meta:
        known &= image.meta["valid"][0].numpy()
    return known.astype(np.uint8)


def classified(region: Region, class_names: Sequence[str]) -> np.ndarray:
    """The reviewed objects of a region that are of one of these classes, by their places."""
    return region.kept[np.isin(region.review.classes[region.kept].astype(str), class_names)]


def write_classes(
    dst: Path,
    parts: Mapping[str, Sequence[Region]],
    class_names: Sequence[str],
    size: int,
    target_mpp: float | None,
) -> Path:
    """Write the reviewed objects as a data set of patches with classes, see :func:`~monai_ext.data.write_nuclei`.

    Args:
        dst: the folder.
        parts: see :func:`split_regions`.
        class_names: an object of another class, or of none, is left out.
        size: side of a patch, px.
        target_mpp: um/px of the network's grid.

    Returns:
        the path of ``dataset.json``.
    """
    lists: dict[str, list[dict[str, str]]] = {part: [] for part in parts}
    for part, regions in parts.items():
        for region in regions:
            members = classified(region, class_names)
            if len(members):
                image = _load(region, target_mpp)
                centres = shapely.centroid(_on_grid(region, members, image))
                places = to_rowcol(shapely.get_coordinates(centres))
                patches = crop_patches(np.moveaxis(image.numpy(), 0, -1), places, size)
                names = {ANNOTATION: region.review.classes[members]}
                table = pd.DataFrame(places, columns=["row", "col"]).assign(scale=1, **names)
                lists[part].append(write_nuclei(dst, region.name, patches, table) | {"group": region.name})
    return _write_list(dst, {"name": "review", "class_names": list(class_names), **lists})


def _write_list(dst: str | os.PathLike, content: Mapping[str, Any]) -> Path:
    path = Path(dst) / "dataset.json"
    with atomic_path(path) as temporary:
        temporary.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    return path


def _load(region: Region, target_mpp: float | None) -> MetaTensor:
    return load_region(region.review.image, region.location, region.size, target_mpp, region.review.mpp, _MARGIN)


def _on_grid(region: Region, members: np.ndarray, image: MetaTensor) -> np.ndarray:
    """Some objects of a slide in px of a loaded region, from its corner."""
    sides = np.broadcast_to(image.meta["scale"], 2)[::-1]
    return shapely.transform(region.review.geometry[members], lambda xy: (xy - image.meta["corner"]) / sides)
