"""Vessels: crops of an image or a slide with the outline of their lumen, and the items of a vessel data set."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from skimage.measure import label as connected_parts

from monai_ext.base.errors import DataListError, InputError
from monai_ext.base.flags import as_flag
from monai_ext.data.datalist import check_label_item
from monai_ext.formats.annotation_files import is_annotation, read_features
from monai_ext.formats.geojson import Features, rasterize
from monai_ext.formats.image import Field, read_field, read_mask
from monai_ext.formats.outlines import label_map_to_polygons, polygons_to_mask
from monai_ext.formats.point_files import read_points
from monai_ext.formats.points import points_outside
from monai_ext.formats.resolution import Scale
from monai_ext.formats.roles import read_objects
from monai_ext.formats.suffixes import DICOM_SUFFIX, without_suffix

__all__ = [
    "SlideVessels",
    "Vessel",
    "check_vessel_image",
    "check_vessel_item",
    "crossing_outlines",
    "keep_lumen",
    "outlines_beside",
    "vessel_items",
    "vessel_outlines",
]

_RESULTS = ("Healthy vessel", "Invaded vessel")  # what our own results call vessels, beside the patches in them
_WHITE = 255
_LONGEST_NAME = 100  # bytes; file systems take 255


@dataclass(frozen=True)
class Vessel:
    """A vessel of a slide.

    Attributes:
        name: the outline's own name, or ``vessel_0001`` and so on in the order of the file.
        image: uint8 ``(3, H, W)``, the vessel's bounding box, white beyond its lumen.
        lumen: bool ``(H, W)``.
        offset: row, column of the crop's upper left corner, px of level 0.
        scale: px of level 0 per px of the crop; ``row, col`` where they differ.
        mpp: um per px of the crop; 0 if unknown.
        outline: of the lumen, ``x, y`` in px of level 0.
        kind: class of the outline, ``None`` for none.
    """

    name: str
    image: np.ndarray
    lumen: np.ndarray
    offset: tuple[float, float]
    scale: Scale
    mpp: float
    outline: shapely.Geometry
    kind: str | None


def keep_lumen(image: np.ndarray, lumen: np.ndarray, where: str | os.PathLike = "mask") -> np.ndarray:
    """Remove the tissue around a vessel (LoopNet, section 3): what lies beyond its lumen becomes white.

    Args:
        image: uint8 ``(C, H, W)``.
        lumen: ``(H, W)`` or ``(1, H, W)``, 0 beyond the lumen.
        where: the mask's file, for the error.

    Returns:
        A new array like ``image``.

    Raises:
        InputError: a mask that does not fit its image, or an empty one.
    """
    inside = np.asarray(lumen) != 0
    inside = inside[0] if inside.ndim == 3 and len(inside) == 1 else inside
    if inside.shape != image.shape[1:]:
        raise InputError(where, f"a mask of its image's size {tuple(image.shape[1:])}", str(inside.shape))
    if not inside.any():
        raise InputError(where, "a vessel's lumen", "an empty mask")
    return np.where(inside, image, image.dtype.type(_WHITE))


def vessel_outlines(
    path: str | os.PathLike,
    shape: Sequence[int],
    classes: Sequence[str] | None = None,
    split_parts: bool = False,
    slide: str | os.PathLike | None = None,
) -> Features:
    """The outlines of vessels in a file.

    Args:
        path: GeoJSON, or annotations or a segmentation in DICOM, whose polygons are lumens in px of level 0; or a mask
            (PNG, TIFF) of level 0's size, whose numbers are vessels or, where there is one number only, its connected
            parts.
        shape: rows and columns of level 0.
        classes: names of the GeoJSON classifications that count; ``None`` for all objects. What is drawn around vessels
            (:func:`~monai_ext.formats.roles.split_roles`) counts only where its class alone is named. In our own
            results the vessels' outlines count.
        split_parts: every part of a MultiPolygon is a vessel of its own.
        slide: see :func:`~monai_ext.formats.annotation_files.read_features`.

    Returns:
        One feature with an area for each vessel.

    Raises:
        InputError: a file that cannot be read, a mask that does not fit, or no vessel in it.
    """
    path = Path(path)
    if is_annotation(path):
        objects, regions = read_objects(path, split=split_parts, slide=slide)
        if classes is None and len(regions.of_classes(_RESULTS)):
            objects, classes = regions, _RESULTS
        features = objects.of_classes(classes)
        if not len(features) and classes is not None:
            features = regions.of_classes(classes)
    else:
        mask = read_mask(path)
        if mask.shape != tuple(shape):
            raise InputError(path, f"a mask of its image's size {tuple(shape)}", str(mask.shape))
        if len(np.unique(mask[mask > 0])) == 1:
            mask = connected_parts(mask > 0)
        features = Features(label_map_to_polygons(mask)[1])
    if not len(features):
        of = "" if classes is None else f" of class {' or '.join(classes)}"
        raise InputError(path, f"outlines of vessels{of}", "none")
    return features


class SlideVessels(Sequence[Vessel]):
    """The vessels of a slide or an image, in the order of the file; each is read when it is asked for.

    Args:
        path: a slide, or an image.
        outlines: see :func:`vessel_outlines`.
        target_mpp: um/px of the crops; ``None`` for level 0 as it is.
        mpp: um/px of level 0, in place of what the file states.
        classes: see :func:`vessel_outlines`.
        split_parts: see :func:`vessel_outlines`.

    Attributes:
        names: of the vessels, fit for names of files and different from each other.
        geometry: their outlines, ``x, y`` in px of level 0.
        kinds: classes of the outlines, ``None`` for none.
        conflict: see :class:`~monai_ext.formats.reader.SlideReader`.
        shape: rows and columns of the slide's file, px.

    Raises:
        InputError: a file that cannot be read, or a vessel outside the slide.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        outlines: str | os.PathLike,
        target_mpp: float | None = None,
        mpp: float | None = None,
        classes: Sequence[str] | None = None,
        split_parts: bool = False,
    ) -> None:
        from monai_ext.formats.reader import SlideReader  # imported late: it imports this package

        self.path, self.outlines = path, outlines
        self._reader = SlideReader(path, target_mpp, mpp)
        self.conflict, self.shape = self._reader.conflict, self._reader.file_shape
        self._features = vessel_outlines(outlines, self._reader.file_shape, classes, split_parts, path)
        self.geometry = self._features.geometry
        self.kinds = list(self._features.classes)
        self.names = _file_names(self._features.names)
        self._sides = np.broadcast_to(self._reader.file_scale, 2).tolist()
        self._boxes = [self._box(number) for number in range(len(self._features))]

    def _box(self, number: int) -> tuple[int, int, int, int]:
        """Row, column, height and width of a vessel in the grid; what reaches over the slide's border is cut off."""
        (down, across), (height, width) = self._sides, self._reader.file_shape
        left, top, right, bottom = self.geometry[number].bounds
        first = [max(0, math.floor(top / down)), max(0, math.floor(left / across))]
        end = [math.ceil(min(bottom, height) / down), math.ceil(min(right, width) / across)]
        size = [stop - begin for begin, stop in zip(first, end, strict=True)]
        if min(size) < 1:
            position = f"{self.names[number]} at rows {top:g} to {bottom:g}, columns {left:g} to {right:g}"
            raise InputError(self.outlines, f"vessels inside {self.path} ({height} x {width} px)", position)
        return (*first, *size)

    def __len__(self) -> int:
        return len(self._features)

    def size(self, number: int) -> tuple[int, int]:
        """Height and width of a vessel's crop, px."""
        return self._boxes[number][2:]

    def __getitem__(self, number: int) -> Vessel:
        """Read a vessel; all white where its outline lies between the pixels.

        Raises:
            InputError: pixels that cannot be read.
        """
        outline, scale, (down, across) = self.geometry[number], self._reader.file_scale, self._sides
        row, col, height, width = self._boxes[number]
        offset = (row * down, col * across)
        lumen = polygons_to_mask(np.array([outline]), (height, width), offset, scale)
        name = self.names[number]
        pixels = self._reader.read(row, col, height, width)
        image = keep_lumen(pixels, lumen) if lumen.any() else np.full_like(pixels, _WHITE)
        mpp = 0.0 if self._reader.resolution_source == "assumed" else self._reader.mpp
        return Vessel(name, image, lumen, offset, scale, mpp, outline, self.kinds[number])


def _file_names(names: Sequence[str | None]) -> list[str]:
    """``vessel_0001`` for what has no name; characters unfit for file names are replaced, and repeats are numbered."""
    repeats: dict[str, int] = {}  # of each name in use, as file systems compare them
    unique = []
    for number, name in enumerate(names, start=1):
        plain = re.sub(r"[^\w-]+", "_", name or "").encode()[:_LONGEST_NAME].decode(errors="ignore").strip("_")
        candidate = plain = plain or f"vessel_{number:04d}"
        while candidate.lower() in repeats:
            repeats[plain.lower()] += 1
            candidate = f"{plain}_{repeats[plain.lower()]}"
        repeats[candidate.lower()] = 1
        unique.append(candidate)
    return unique


def _outlines_of(image: str | os.PathLike, outlines: str | os.PathLike | None) -> Path | None:
    """The outlines of an image's vessels: the file given, or that beside it, if there is one."""
    return outlines_beside(image) if outlines is None else Path(outlines)


def outlines_beside(image: str | os.PathLike) -> Path | None:
    """``<image>_vessels`` beside an image, ``.geojson``, ``.geojson.gz`` or ``.dcm``; None if there is none."""
    endings = (".geojson", ".geojson.gz", DICOM_SUFFIX)
    names = (Path(image).with_name(f"{without_suffix(image).name}_vessels{end}") for end in endings)
    return next((path for path in names if path.is_file()), None)


def check_vessel_image(
    path: str | os.PathLike,
    mpp: float | None = None,
    target_mpp: float | None = None,
    outlines: str | os.PathLike | None = None,
    least: int = 1,
    split_parts: bool = False,
) -> Field | None:
    """Check that a vessel's image, or a slide and its vessels' outlines, can be used; slides' pixels are not read.

    For :class:`~monai_ext.data.Cohort`, as its ``check``.

    Args:
        path: an image, or a slide.
        mpp: um/px of it at full resolution, in place of what it states.
        target_mpp: um/px to work at.
        outlines: see :func:`vessel_items`.
        least: sides of the smallest vessel, px at ``target_mpp``.
        split_parts: see :func:`vessel_outlines`.

    Returns:
        the image; ``None`` for a slide.

    Raises:
        InputError: if not.
    """
    outline_path, field = _outlines_of(path, outlines), None
    if outline_path is not None:
        vessels = SlideVessels(path, outline_path, target_mpp, mpp, split_parts=as_flag(split_parts, "split_parts"))
        sizes = [vessels.size(number) for number in range(len(vessels))]
    else:
        field = read_field(path, mpp, target_mpp)
        sizes = [field.image.shape[1:]]
    if max(min(size) for size in sizes) < least:
        largest = "{} x {} px".format(*max(sizes, key=min))
        raise InputError(
            outline_path or path, f"a vessel of at least {least} px a side, as the largest template", largest
        )
    return field


def vessel_items(
    items: Sequence[Mapping[str, Any]],
    outlines: str | os.PathLike | None = None,
    mpp: float | None = None,
    target_mpp: float | None = None,
    least: int = 1,
    split_parts: bool = False,
) -> list[dict[str, Any]]:
    """What to infer on: images of vessels as they are, of each slide its vessels.

    Args:
        items: with ``image``, as a :class:`~monai_ext.data.Cohort` has them. An image beside which
            ``<image>_vessels.geojson`` lies is a slide.
        outlines: the outlines of all vessels of the image, GeoJSON or a mask, where there is one image only.
        mpp: um/px of all images at full resolution, in place of what they state.
        target_mpp: um/px to work at.
        least: outlines whose crop has a side shorter than that, px at ``target_mpp``, are left out with a message.
        split_parts: see :func:`vessel_outlines`.

    Returns:
        Items for :class:`~monai_ext.transforms.LoadVesseld` with ``file``, the image's path, and ``last`` for the last
        one of a file. Those of slides have ``vessel``, the name, and ``outline`` as WKT in px of level 0.

    Raises:
        InputError: outlines of one file for several images.
        DataListError: masks that do not fit their images, or are empty.
    """
    if outlines is not None and len(items) > 1:
        expected = "one image; for several, <image>_vessels.geojson beside each"
        raise InputError("--outlines", expected, f"{len(items)} images")
    split_parts = as_flag(split_parts, "split_parts")
    entries, problems = [], []
    for item in items:
        plain = {
            "file": item["image"],
            **{name: value for name, value in item.items() if name not in ("label", "centroids")},
        }
        outline_path = _outlines_of(item["image"], outlines)
        if outline_path is None:
            problems += _unfit_mask(item)
            entries.append({**plain, "last": True})
            continue
        vessels = SlideVessels(item["image"], outline_path, target_mpp, mpp or item.get("mpp"), split_parts=split_parts)
        kept = [number for number in range(len(vessels)) if min(vessels.size(number)) >= least]
        if len(kept) < len(vessels):
            print(
                f"{outline_path}: {len(vessels) - len(kept)} outlines narrower than {least} px left out",
                file=sys.stderr,
            )
        of_slide = {"outlines": str(outline_path), "group": without_suffix(item["image"]).name}
        if split_parts:
            of_slide["split_parts"] = True
        entries += [
            {
                **plain,
                **of_slide,
                "number": number,
                "vessel": vessels.names[number],
                "outline": vessels.geometry[number].wkt,
                "last": number == kept[-1],
            }
            for number in kept
        ]
    if problems:
        raise DataListError("mask", problems)
    return entries


def _unfit_mask(item: Mapping[str, Any]) -> list[str]:
    """What is wrong with the mask of a vessel's image, if it has one."""
    if not item.get("mask"):
        return []
    try:
        # at the file's resolution, which is the mask's
        shape = read_field(item["image"]).file_shape
        keep_lumen(np.zeros((1, *shape), np.uint8), read_lumen(item["mask"], shape, item["image"]), item["mask"])
    except InputError as error:
        return [str(error)]
    return []


def crossing_outlines(path: str | os.PathLike, slide: str | os.PathLike | None = None) -> list[str]:
    """Outlines of a file that cross themselves, a line each: which side of them is the lumen, nobody can say.

    Elsewhere such outlines are made valid, which may cost a vessel half of its lumen or join it to what is around.

    Args:
        path: GeoJSON, or annotations or a segmentation in DICOM.
        slide: see :func:`~monai_ext.formats.annotation_files.read_features`.

    Raises:
        InputError: as :func:`~monai_ext.formats.annotation_files.read_features`.
    """
    features = read_features(path, slide)
    problems = []
    for number, (name, shape) in enumerate(zip(features.names, features.geometry, strict=True), start=1):
        reasons = shapely.is_valid_reason(shapely.get_parts(shape))
        crossing = next((reason for reason in reasons if reason.startswith("Self-intersection")), None)
        if crossing is not None:
            position = crossing.partition("[")[2].rstrip("]").replace(" ", ", ")
            found = f"{name or f'object {number}'} crossing itself at x, y = {position}"
            problems.append(f"{path}: expected outlines that do not cross themselves, found {found}")
    return problems


def read_lumen(path: str | os.PathLike, shape: Sequence[int], image: str | os.PathLike) -> np.ndarray:
    """A mask of a lumen, from an image or from outlines that are drawn on ``H, W`` px.

    Args:
        path: a mask; or GeoJSON, or annotations or a segmentation in DICOM.
        shape: rows and columns of the vessel's image.
        image: the vessel's image.
    """
    if not is_annotation(path):
        return read_mask(path)
    return rasterize(read_objects(path, slide=image).objects, tuple(shape))[0]


def check_vessel_item(item: Mapping[str, Any]) -> list[str]:
    """What is wrong with one vessel, a line each.

    For :func:`~monai_ext.data.load_datalist` with ``path_keys=("image",)``, as the label is no path.

    Args:
        item: ``image``; ``label``, 0 healthy or 1 invaded; if there are any ``mask``, the lumen, of the image's size,
            and ``centroids`` of its cancerous cells.
    """
    drawn = "mask" in item and is_annotation(item["mask"])
    problems = check_label_item({name: value for name, value in item.items() if name != "mask" or not drawn})
    if problems:
        return problems
    if "mask" in item:
        try:
            lumen = read_lumen(item["mask"], read_field(item["image"]).file_shape if drawn else (), item["image"])
            problems += crossing_outlines(item["mask"], item["image"]) if drawn else []
        except InputError as error:
            return [str(error)]
        if not lumen.any():
            problems.append(f"{item['mask']}: expected a vessel's lumen, found an empty mask")
    if "centroids" in item:
        shape = read_field(item["image"], item.get("mpp")).file_shape
        problems += check_centroids(item["centroids"], shape, item["label"])
    return problems


def check_centroids(path: str | os.PathLike, shape: Sequence[int], label: int) -> list[str]:
    """What is wrong with the centroids of a vessel's cancerous cells, a line each.

    Args:
        path: the file of points.
        shape: rows and columns of the vessel's image.
        label: of the vessel, 0 or 1.
    """
    try:
        points = read_points(path)
    except InputError as error:
        return [str(error)]
    if outside := points_outside(points, shape):
        return [f"{path}: expected points row,col inside {shape[0]} x {shape[1]} px, found {outside}"]
    if len(points) and not label:
        return [f"{path}: expected no cancerous cells in a healthy vessel (label 0), found {len(points)}"]
    return []
