"""Converter of vessel images with labels: the layout that the Pathologic Vessel Image Dataset (PVID) is asked in.

Zhang et al. (CVPR 2023, section 4) released no data; own data of vessels is to be brought into this layout.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import shapely

from monai_ext.base.companions import is_one_file
from monai_ext.base.errors import InputError
from monai_ext.base.files import write_png
from monai_ext.base.flags import as_flag
from monai_ext.data.split import DEAL_60_20_20, PARTS, part_of, random_split
from monai_ext.data.vessels import SlideVessels, crossing_outlines, keep_lumen, outlines_beside, read_lumen
from monai_ext.formats.annotation_files import annotation_stem, find_annotations, is_annotation, read_features
from monai_ext.formats.find import find_images
from monai_ext.formats.geojson import Features
from monai_ext.formats.image import read_field
from monai_ext.formats.point_files import write_points
from monai_ext.formats.points import points_outside
from monai_ext.formats.suffixes import DICOM_SUFFIX, SUFFIXES, image_suffix
from monai_ext.prepare.common import prepare
from monai_ext.prepare.samples import LabelledSample, Sample, copy_or_link, labels_per_group

__all__ = ["prepare_pvid"]

_LABELS = {"0": 0, "healthy": 0, "1": 1, "mvi": 1}
_LOCATING = "locating"  # the list of section 4's "locating test part"
_UNMARKED = np.zeros((0, 2))
_MASKS = tuple(suffix for suffix in SUFFIXES if suffix != DICOM_SUFFIX)  # in which masks are annotations


@dataclass
class _VesselImage(LabelledSample):
    """A vessel, healthy (0) or invaded (1).

    Args:
        image: its image.
        lumen: PNG, GeoJSON or DICOM of its lumen; None if the tissue around it was removed.
        centroids: ``(N, 2)`` ``row, col`` of its cancerous cells; None where none were marked.
        mpp: um per pixel, if known.
    """

    image: Path
    lumen: Path | None
    centroids: np.ndarray | None
    mpp: float | None

    def check(self) -> list[str]:
        """Decode image and mask in full and compare them, and the centroids with both."""
        if not is_one_file(self.image):
            return [f"{self.image}: expected a crop in one file (PNG, TIFF, ...), found a slide of several files"]
        try:
            shape = read_field(self.image).file_shape
            if self.lumen is not None:
                keep_lumen(np.zeros((1, *shape), np.uint8), read_lumen(self.lumen, shape, self.image), self.lumen)
            drawn = self.lumen is not None and is_annotation(self.lumen)
            crossing = crossing_outlines(self.lumen, self.image) if drawn else []
        except InputError as error:
            return [str(error)]
        if crossing:
            return crossing
        outside = None if self.centroids is None else points_outside(self.centroids, shape)
        if outside:
            return [f"{self.image}: expected centroids inside its {shape[0]} x {shape[1]} px, found {outside}"]
        return _cancerous_but_healthy(self.image, self.centroids, self.label)

    def write(self, dst: Path, link: bool) -> dict[str, object]:
        """The image as it is, the lumen as PNG, the centroids as CSV."""
        entry: dict[str, object] = {"image": f"images/{self.name}{image_suffix(self.image)}", "label": self.label}
        copy_or_link(self.image, dst / entry["image"], link)
        if self.lumen is not None:
            entry["mask"] = f"masks/{self.name}.png"
            shape = read_field(self.image).file_shape
            write_png(dst / entry["mask"], (read_lumen(self.lumen, shape, self.image) != 0).astype(np.uint8) * 255)
        if self.centroids is not None:
            entry["centroids"] = f"centroids/{self.name}.csv"
            write_points(dst / entry["centroids"], self.centroids)
        return entry | ({} if self.mpp is None else {"mpp": self.mpp})


@dataclass
class _SlideVessel(LabelledSample):
    """A vessel of a slide, healthy (0) or invaded (1), cut out by its outline.

    Args:
        vessels: those of the slide.
        number: which of them.
        centroids: ``(N, 2)`` ``row, col`` of its cancerous cells, px of level 0; None where none were marked.
    """

    vessels: SlideVessels
    number: int
    centroids: np.ndarray | None

    def check(self) -> list[str]:
        """Read it in full."""
        try:
            has_lumen = self.vessels[self.number].lumen.any()
        except InputError as error:
            return [str(error)]
        name = self.vessels.names[self.number]
        if not has_lumen:
            return [f"{self.vessels.outlines}: expected a lumen, found no pixel in {name}"]
        return _cancerous_but_healthy(f"{self.vessels.path}, {name}", self.centroids, self.label)

    def write(self, dst: Path, link: bool) -> dict[str, object]:  # noqa: ARG002  there is no file to link
        """The crop, white beyond the lumen, the lumen, and the cells in pixels of the crop."""
        vessel = self.vessels[self.number]
        entry: dict[str, object] = {"image": f"images/{self.name}.png", "label": self.label}
        entry["mask"] = f"masks/{self.name}.png"
        write_png(dst / entry["image"], np.moveaxis(vessel.image, 0, -1))
        write_png(dst / entry["mask"], vessel.lumen.astype(np.uint8) * 255)
        if self.centroids is not None:
            entry["centroids"] = f"centroids/{self.name}.csv"
            places = (self.centroids + 0.5 - vessel.offset) / vessel.scale - 0.5  # whole numbers are pixels' centres
            write_points(dst / entry["centroids"], places)
        return entry | ({} if vessel.mpp is None else {"mpp": vessel.mpp})


def _cancerous_but_healthy(where: str | os.PathLike, centroids: np.ndarray | None, label: int) -> list[str]:
    if centroids is None or not len(centroids) or label:
        return []
    return [f"{where}: expected no cancerous cells in a healthy vessel, found {len(centroids)}"]


def prepare_pvid(src: str | os.PathLike, dst: str | os.PathLike, *, split_parts: bool = False, **options: Any) -> Path:
    """Convert vessel images with labels; a slide is never in two parts.

    Layout, where vessels are outlined on slides::

        slides/<slide>.svs        or any other format of slides or images
        slides/<slide>_vessels.geojson   polygons in pixels of level 0 along each lumen, of class healthy or MVI, and
                                  optionally a point on each cancerous cell of some of the invaded ones; or
                                  <slide>_vessels.dcm, annotations or a segmentation in DICOM
        centroids.csv             optional, besides or in place of points: columns slide, row, col in pixels of level 0

    or, where they are images already::

        labels.csv                columns vessel, slide, label, optionally split, mpp
        images/<vessel>.png       or JPEG, BMP, TIFF: a crop about one vessel
        masks/<vessel>.png        its lumen, of the image's size; or <vessel>.geojson or .dcm in pixels of the image.
                                  Without this folder the images count as free of tissue around the vessel
        centroids.csv             optional: columns vessel, row, col, a line for each cancerous cell

    ``label`` is 0 (or healthy) or 1 (or MVI). ``split`` (training, validation, test, locating) is used if it is filled
    in all lines; without it slides are split 60/20/20, as the paper has 3,000, 1,000 and 1,000 vessels. ``locating`` is
    for vessels whose cancerous cells are marked and that judge nothing but locating, as the paper's further 130; with
    outlines on slides a file of ``--split`` names them.

    An invaded vessel without a marked cell counts as unmarked; where any cell is marked, healthy vessels count as
    marked, without one. An outline that crosses itself, and a cell outside all outlines, is an error.

    Args:
        src: the folder of that layout.
        dst: the folder to write.
        split_parts: of slides, every part of an outline of several parts is a vessel of its own.
        options: of :func:`~monai_ext.prepare.common.prepare`: split (``paper``: the column; ``random``; ``test``;
            or a file), seed, overwrite, link.

    Returns:
        The path of ``dataset.json``.
    """
    stated: dict[str, str] = {}
    split_parts = as_flag(split_parts, "split_parts")

    def collect(folder: Path, problems: list[str]) -> list[Sample]:
        if (folder / "slides").is_dir():
            return _of_slides(folder / "slides", dst, split_parts, problems)
        table = _read_table(folder / "labels.csv", ("vessel", "slide", "label"), problems)
        if table is None:
            return []
        images = _by_name(find_images(folder / "images", dst), problems)
        drawn = find_annotations(folder / "masks", dst)
        masks = _by_name([*find_images(folder / "masks", dst, _MASKS), *drawn], problems)
        problems += _unlike(folder, table, images, masks)
        stated.update(_stated_parts(folder / "labels.csv", table, problems))
        centroids = _read_centroids(folder / "centroids.csv", "vessel", set(table["vessel"]), problems)
        return [] if problems else list(_vessels(table, images, masks, centroids))

    def paper(samples: list[Sample], seed: int) -> dict[str, str]:
        return stated or random_split(labels_per_group(samples), seed, DEAL_60_20_20)

    return prepare("pvid", src, dst, collect, paper=paper, more_parts=(_LOCATING,), **options)


def _of_slides(folder: Path, skip: str | os.PathLike, split_parts: bool, problems: list[str]) -> list[_SlideVessel]:
    """The outlined vessels of slides, each with the label that its outline's class says and the cells marked in it."""
    samples: list[_SlideVessel] = []
    images = _by_name(find_images(folder, skip), problems)
    listed = _read_centroids(folder.parent / "centroids.csv", "slide", set(images), problems)
    for name, path in images.items():
        outlines = outlines_beside(path) or path.with_name(f"{name}_vessels.geojson")
        try:
            vessels = SlideVessels(path, outlines, split_parts=split_parts)
            crossing, points = crossing_outlines(outlines, path), _points_on(outlines, path)
        except InputError as error:
            problems.append(str(error))
            continue
        problems += crossing
        kinds = [str(kind).lower() for kind in vessels.kinds]
        if unknown := sorted({str(vessels.kinds[n]) for n, kind in enumerate(kinds) if kind not in _LABELS}):
            problems.append(f"{outlines}: expected outlines of class healthy or MVI, found {', '.join(unknown)}")
            continue
        cells, outside = _cells_of(vessels, np.concatenate([points, listed.get(name, _UNMARKED)]))
        if len(outside):
            row, col = outside[0]
            found = f"{len(outside)} outside, the first at row {row:g}, column {col:g}"
            problems.append(f"{outlines}: expected cancerous cells inside the outlines of vessels, found {found}")
        for number, kind in enumerate(kinds):
            vessel = f"{name}_{vessels.names[number]}"
            samples.append(_SlideVessel(name, vessel, _LABELS[kind], vessels, number, cells.get(number)))
    if any(sample.centroids is not None for sample in samples):
        for sample in samples:
            if sample.centroids is None and not sample.label:
                sample.centroids = _UNMARKED  # if cells were marked, all were
    return samples


def _points_on(outlines: Path, slide: Path) -> np.ndarray:
    """The points ``(N, 2)`` ``row, col`` of a file of outlines, px of level 0."""
    parts = shapely.get_parts(read_features(outlines, slide).geometry)
    return Features(parts[shapely.get_type_id(parts) == shapely.GeometryType.POINT]).points()


def _cells_of(vessels: SlideVessels, points: np.ndarray) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """The points ``row, col`` in each vessel that has any, by its number, and those in none."""
    places = shapely.points(points[:, ::-1] + 0.5)  # outlines count from a pixel's corner
    which, vessel = shapely.STRtree(np.asarray(vessels.geometry)).query(places, predicate="intersects")
    inside = {int(number): points[which[vessel == number]] for number in np.unique(vessel)}
    return inside, np.delete(points, which, axis=0)


def _read_table(path: Path, columns: tuple[str, ...], problems: list[str]) -> pd.DataFrame | None:
    """A CSV as text, with the columns that it must have; None, and a problem, where it has not."""
    expected = f"CSV with the columns {', '.join(columns)}"
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        problems.append(f"{path}: expected {expected}, found {str(error).splitlines()[0]}")
        return None
    table.columns = [name.strip().lower() for name in table.columns]
    missing = [name for name in columns if name not in table.columns]
    if missing or not len(table):
        problems.append(f"{path}: expected {expected}, found no {' and no '.join(missing) or 'line'}")
        return None
    return table.apply(lambda column: column.str.strip())


def _by_name(paths: Iterable[Path], problems: list[str]) -> dict[str, Path]:
    """Files by their names without suffix."""
    files: dict[str, Path] = {}
    for path in paths:
        name = annotation_stem(path)
        if name in files:
            problems.append(f"{path}: expected one file of each name, found {files[name].name} too")
        files[name] = path
    return files


def _unlike(folder: Path, table: pd.DataFrame, images: dict[str, Path], masks: dict[str, Path]) -> Iterator[str]:
    """What does not belong together, a line each."""
    path = folder / "labels.csv"
    for vessel in table["vessel"][table["vessel"].duplicated()].unique():
        yield f"{path}: expected one line for vessel {vessel!r}, found {(table['vessel'] == vessel).sum()}"
    for vessel, slide, label in zip(table["vessel"], table["slide"], table["label"], strict=True):
        if label.lower() not in _LABELS:
            yield f"{path}: expected label 0 (healthy) or 1 (MVI) of vessel {vessel!r}, found {label!r}"
        if not slide:
            yield f"{path}: expected the slide of vessel {vessel!r}, found none"
        if vessel not in images:
            yield f"{folder / 'images' / vessel}: expected an image, found none"
        elif masks and vessel not in masks:
            yield f"{folder / 'masks' / vessel}: expected the lumen of {images[vessel].name}, found none"
    if "mpp" in table.columns:
        numbers = pd.to_numeric(table["mpp"], errors="coerce")
        for line in np.flatnonzero((table["mpp"] != "") & ~(numbers > 0)):
            yield f"{path}, line {line + 2}: expected um per px, found {table['mpp'][line]!r}"
    for vessel in sorted(images.keys() - set(table["vessel"])):
        yield f"{path}: expected a label of {images[vessel].name}, found none"


def _stated_parts(path: Path, table: pd.DataFrame, problems: list[str]) -> dict[str, str]:
    """The part of each slide, where the table says it."""
    if "split" not in table.columns or not table["split"].any():
        return {}
    parts: dict[str, str] = {}
    for slide, names in table.groupby("slide")["split"]:
        splits = sorted({part_of(name, (_LOCATING,)) or repr(name) for name in names})
        if len(splits) > 1:
            problems.append(f"{path}: expected slide {slide!r} in one split, found it in {' and '.join(splits)}")
        elif splits[0] not in (*PARTS, _LOCATING):
            expected = ", ".join((*PARTS, _LOCATING))
            problems.append(f"{path}: expected {expected} as split of slide {slide!r}, found {splits[0]}")
        parts[str(slide)] = splits[0]
    return parts


def _read_centroids(path: Path, of: str, known: set[str], problems: list[str]) -> dict[str, np.ndarray]:
    """``(N, 2)`` ``row, col`` of each vessel or slide that has any; nothing where there is no such file."""
    table = _read_table(path, (of, "row", "col"), problems) if path.exists() else None
    if table is None:
        return {}
    points = table[["row", "col"]].apply(pd.to_numeric, errors="coerce")
    for line in np.flatnonzero(~np.isfinite(points).all(axis=1)):
        values = ",".join(table.loc[line, ["row", "col"]])
        problems.append(f"{path}, line {line + 2}: expected numbers row,col, found {values!r}")
    where = "vessels of labels.csv" if of == "vessel" else "images in slides/"
    problems += [f"{path}: expected {where}, found {name!r}" for name in sorted(set(table[of]) - known)]
    return {str(name): of_one.to_numpy(np.float64) for name, of_one in points.groupby(table[of])}


def _vessels(
    table: pd.DataFrame, images: dict[str, Path], masks: dict[str, Path], centroids: Mapping[str, np.ndarray]
) -> Iterator[_VesselImage]:
    resolutions = table["mpp"] if "mpp" in table.columns else [""] * len(table)
    for vessel, slide, label, mpp in zip(table["vessel"], table["slide"], table["label"], resolutions, strict=True):
        number = _LABELS[label.lower()]
        # if cells were marked, all were: a healthy vessel then has none
        marked = centroids.get(vessel, _UNMARKED if centroids and not number else None)
        yield _VesselImage(
            slide, vessel, number, images[vessel], masks.get(vessel), marked, float(mpp) if mpp else None
        )
