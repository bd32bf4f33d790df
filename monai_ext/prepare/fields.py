"""Images with an instance map of their nuclei and, optionally, their classes: whole, or cut into squares."""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import cv2
import numpy as np
import tifffile

from monai_ext.base.errors import InputError
from monai_ext.base.files import atomic_path, write_png
from monai_ext.base.flags import as_flag
from monai_ext.base.threads import in_threads
from monai_ext.formats.image import read_field
from monai_ext.formats.outlines import instance_centroids
from monai_ext.formats.point_files import write_points
from monai_ext.formats.suffixes import image_suffix
from monai_ext.prepare.common import Paper, prepare, remark
from monai_ext.prepare.samples import Sample, copy_or_link

__all__ = [
    "FieldSource",
    "MapOptions",
    "Truth",
    "prepare_fields",
    "square_corners",
    "tcga_patient",
    "tile_corners",
    "with_labels",
    "without_image",
    "write_maps",
]

_TCGA = re.compile(r"TCGA-\w{2}-\w{4}")


class Truth(NamedTuple):
    """What an image shows.

    Args:
        instances: ``(H, W)`` integers, 0 is background.
        classes: ``(H, W)`` uint8, 0 for none, k for the k-th class; None where the release has no classes.
        areas: further maps, ``(H, W)`` uint8, by the key of the data list that they are written under.
    """

    instances: np.ndarray
    classes: np.ndarray | None = None
    areas: Mapping[str, np.ndarray] = MappingProxyType({})

    def maps(self) -> dict[str, np.ndarray]:
        """All that there is, by name."""
        classes = {} if self.classes is None else {"classes": self.classes}
        return {"instances": self.instances, **classes, **self.areas}

    def each(self, change: Callable[[np.ndarray], np.ndarray]) -> Truth:
        """The same with every map changed."""
        classes = None if self.classes is None else change(self.classes)
        return Truth(change(self.instances), classes, {name: change(area) for name, area in self.areas.items()})


@dataclass(frozen=True, eq=False)
class FieldSource:
    """One image of a release and how its labels are read.

    Args:
        group: the slide or patient it is from.
        name: where its copies go.
        image: the image's file.
        read: gives its labels, for the image's height and width; raises InputError.
        mpp: um per pixel, None if unknown.
        pixels: gives uint8 ``(H, W, 3)`` RGB of an image that is a part of its file, such as one of many in an array;
            it is written as PNG. None: the file is the image, and is copied.
        more: further entries of the data list, such as the organ.
    """

    group: str
    name: str
    image: Path
    read: Callable[[tuple[int, int]], Truth]
    mpp: float | None = None
    pixels: Callable[[], np.ndarray] | None = None
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class MapOptions:
    """What is written besides the instance map.

    Args:
        masks: a binary mask, 0 and 255, under ``mask``.
        centroids: CSV ``row,col`` of the nuclei, under ``centroids``.
    """

    masks: bool = False
    centroids: bool = False

    def __post_init__(self) -> None:
        for name in ("masks", "centroids"):
            object.__setattr__(self, name, as_flag(getattr(self, name), name))


@dataclass
class _InstanceField(Sample):
    """An image, or a square of it."""

    source: FieldSource
    labels: int = 0
    corner: tuple[int, int] | None = None
    tile: int = 0
    options: MapOptions = field(default_factory=MapOptions)
    shares: bool = False

    @property
    def piece(self) -> str:
        """All of the image, where its squares show some of its tissue twice."""
        return self.source.name if self.shares else self.name

    def check(self) -> list[str]:
        return []  # image and labels were read to count the nuclei

    def write(self, dst: Path, link: bool) -> dict[str, object]:
        image, truth = _load(self.source, cut=self.corner is not None)
        if self.corner is not None:
            cut = partial(_cut_out, corner=self.corner, side=self.tile)
            image, truth = cut(image), truth.each(cut)
        if self.corner is None and self.source.pixels is None:
            relative_path = f"images/{self.name}{image_suffix(self.source.image)}"
            copy_or_link(self.source.image, dst / relative_path, link)
        else:
            relative_path = f"images/{self.name}.png"
            write_png(dst / relative_path, image)
        entry = {"image": relative_path, **write_maps(dst, self.name, truth, self.source.mpp, self.options)}
        return entry | ({} if self.source.mpp is None else {"mpp": self.source.mpp}) | dict(self.source.more)


def prepare_fields(
    name: str,
    src: str | os.PathLike,
    dst: str | os.PathLike,
    collect: Callable[[Path, list[str]], list[FieldSource]],
    class_names: Sequence[str] | None = None,
    *,
    paper: Paper | None = None,
    about: Mapping[str, object] | None = None,
    tile: int | None = None,
    overlap: float = 0.0,
    masks: bool = False,
    centroids: bool = False,
    **options: Any,
) -> Path:
    """Convert a release of images with instance maps.

    An item has ``image``, ``label`` (instances, 16-bit TIFF), ``classes`` (8-bit TIFF, 0 for none, k for the k-th of
    the list's ``class_names``) where the release has classes, ``mpp`` where it is known, and ``group``.

    Args:
        name: the data set's name.
        src: the release's folder.
        dst: the folder to write.
        collect: lists the release's images; what is wrong goes into the list it is given.
        class_names: the classes in the order of their numbers.
        paper: the release's own split.
        about: further entries of ``dataset.json``, read after ``collect``.
        tile: cut images into squares of so many pixels, see :func:`tile_corners`; None leaves them whole.
        overlap: share of a square's side that lies in the one before, 0 to below 1.
        masks: also write a binary mask, 0 and 255, under the key ``mask``.
        centroids: also write the nuclei's centroids as CSV, under the key ``centroids``.
        options: of :func:`~monai_ext.prepare.common.prepare`: split (``slide``: 70/15/15 by ``group``, the
            default of releases without parts of their own; ``random``: the same by image or square, as the paper did,
            by image where squares overlap;
            ``paper``: the release's own, the default of those that have them; ``test``; or a file), seed, overwrite,
            link.

    Returns:
        The path of ``dataset.json``.
    """
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < 32):
        raise InputError("tile", "a number of pixels, at least 32", repr(tile))
    if isinstance(overlap, bool) or not isinstance(overlap, int | float) or not 0 <= overlap < 1:
        raise InputError("overlap", "a share of the tile from 0 to below 1", repr(overlap))
    if overlap and tile is None:
        raise InputError("overlap", "a tile to overlap (--tile)", repr(overlap))
    written = MapOptions(masks, centroids)

    def samples(folder: Path, problems: list[str]) -> list[Sample]:
        all_samples: list[Sample] = []
        sources = collect(folder, problems)
        for source_samples, problem in in_threads(partial(_cut, tile, overlap, written), sources, f"{name}: reading"):
            all_samples += source_samples
            problems += problem
        return all_samples

    # a view: what ``collect`` finds may go into ``about``
    about = ChainMap({} if about is None else about, {"class_names": list(class_names)} if class_names else {})
    return prepare(name, src, dst, samples, paper=paper, about=about, by_slide=True, **options)


def tile_corners(shape: Sequence[int], side: int, overlap: float = 0.0) -> list[tuple[int, int]]:
    """First row and column of each square that an image is cut into, none of which reaches over its edges.

    The last square of a row or column is shifted inwards, as MONAI's ``dense_patch_slices`` does it. An image that is
    smaller than a square is one piece along that side.

    Args:
        shape: height and width of the image, px.
        side: of a square, px.
        overlap: share of its side that a square has in common with the one before, 0 to below 1.

    Returns:
        the corners, row by row.

    Examples:
        >>> from monai_ext.prepare.fields import tile_corners
        >>> tile_corners((64, 100), 64)
        [(0, 0), (0, 36)]
        >>> [col for _, col in tile_corners((256, 1000), 256, 1 / 32)]
        [0, 248, 496, 744]
    """
    step = max(1, round(side * (1 - overlap)))
    rows, cols = ([*range(0, length - side, step), max(0, length - side)] for length in shape[:2])
    return [(row, col) for row in rows for col in cols]


def square_corners(shape: Sequence[int], side: int) -> list[tuple[int, int]]:
    """First row and column of each square that an image is cut into, without overlap; the last ones may reach over."""
    return [(row, col) for row in range(0, shape[0], side) for col in range(0, shape[1], side)]


def tcga_patient(name: str) -> str:
    """The patient that a file of The Cancer Genome Atlas names, or the name itself."""
    match = _TCGA.match(name)
    return match[0] if match else name


def write_maps(dst: Path, name: str, truth: Truth, mpp: float | None, options: MapOptions) -> dict[str, str]:
    """Write an image's labels below ``dst``; their entries of the data list.

    Instances are numbered from 1 without gaps, in 16 bits, or 32 where they are too many.
    """
    values, inverse = np.unique(np.append(0, truth.instances), return_inverse=True)
    instances = inverse[1:].reshape(truth.instances.shape)
    entry = {"label": f"labels/{name}.tif"}
    _write_tiff(dst / entry["label"], instances.astype(np.uint16 if len(values) <= 1 << 16 else np.int32), mpp)
    if truth.classes is not None:
        entry["classes"] = f"classes/{name}.tif"
        _write_tiff(dst / entry["classes"], truth.classes.astype(np.uint8), mpp)
    for key, area in truth.areas.items():
        entry[key] = f"{key}/{name}.png"
        write_png(dst / entry[key], area.astype(np.uint8))
    if options.masks:
        entry["mask"] = f"masks/{name}.png"
        write_png(dst / entry["mask"], np.where(instances, np.uint8(255), np.uint8(0)))
    if options.centroids:
        entry["centroids"] = f"centroids/{name}.csv"
        write_points(dst / entry["centroids"], instance_centroids(instances)[1])
    return entry


def _cut(tile: int | None, overlap: float, options: MapOptions, source: FieldSource) -> tuple[list[Sample], list[str]]:
    """The samples that an image becomes, and what is wrong with it."""
    try:
        image, truth = _load(source, cut=tile is not None)
    except InputError as error:
        return [], [str(error)]
    if tile is None:
        count = len(np.unique(truth.instances[truth.instances > 0]))
        return [_InstanceField(source.group, source.name, source, count, None, 0, options)], []
    samples = []
    shares = bool(overlap) or any(side > tile and side % tile for side in image.shape[:2])
    for row, col in tile_corners(image.shape, tile, overlap):
        inside = truth.instances[row : row + tile, col : col + tile]
        name, count = f"{source.name}_{row:05d}_{col:05d}", len(np.unique(inside[inside > 0]))
        samples.append(_InstanceField(source.group, name, source, count, (row, col), tile, options, shares))
    return samples, []


@lru_cache(maxsize=8)  # the squares of an image come one after the other
def _load(source: FieldSource, cut: bool) -> tuple[np.ndarray, Truth]:
    """The image ``(H, W, 3)`` and its labels: to be cut in square px, else in the file's, which is copied."""
    if source.pixels is not None:
        image = source.pixels()
        return image, _truth_of(source, image.shape[:2])
    field = read_field(source.image, source.mpp if cut else 1.0)  # with a resolution given px stay the file's own
    truth = _truth_of(source, field.file_shape)
    shape = field.image.shape[1:]
    if shape != field.file_shape:  # oblong px, which became square
        truth = truth.each(partial(_resized, shape=shape))
    return np.moveaxis(field.image, 0, -1), truth


def _truth_of(source: FieldSource, shape: tuple[int, int]) -> Truth:
    """An image's labels, all of its size."""
    truth = source.read(shape)
    for what, array in truth.maps().items():
        if array.shape != shape:
            raise InputError(source.image, f"the size of its {what} {array.shape}", f"{shape}")
    return truth


def _resized(labels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    resized = cv2.resize(labels.astype(np.int32), shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return resized.astype(labels.dtype)


def _cut_out(array: np.ndarray, corner: tuple[int, int], side: int) -> np.ndarray:
    """A square; less of an image that is smaller."""
    return array[corner[0] : corner[0] + side, corner[1] : corner[1] + side]


def _write_tiff(path: Path, array: np.ndarray, mpp: float | None) -> None:
    resolution: Mapping[str, Any] = {}
    if mpp:
        resolution = {"resolution": (1e4 / mpp,) * 2, "resolutionunit": "CENTIMETER"}
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, array, compression="zlib", metadata=None, **resolution)


def with_labels(folder: Path, images: Mapping[str, Path], labels: Mapping[str, Path], problems: list[str]) -> list[str]:
    """Names of images that have labels, in order; labels without an image go into ``problems``, the rest is counted."""
    problems += without_image(images, labels)
    if bare := len(images.keys() - labels.keys()):
        remark(folder, f"{bare} images without labels left out")
    return sorted(images.keys() & labels.keys())


def without_image(images: Mapping[str, Path], labels: Mapping[str, Path]) -> list[str]:
    """A line for each label that has no image of its name."""
    return [f"{labels[name]}: expected its image, found none" for name in sorted(labels.keys() - images.keys())]
