"""Results that exist, as GeoJSON, in the formats of other programs."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from monai_ext.base.errors import InputError
from monai_ext.exchange.registry import Exchange
from monai_ext.exchange.results import Results
from monai_ext.formats.dicom_levels import dicom_frame, is_dicom_slide
from monai_ext.formats.geojson import geojson_stem

__all__ = ["convert"]

_SLACK = 1  # px


def convert(
    src: str | os.PathLike,
    to: str | Sequence[str],
    *,
    slide: str | os.PathLike | None = None,
    dst: str | os.PathLike | None = None,
    mpp: float | None = None,
    classes: Sequence[str] | None = None,
    drawn: bool = False,
) -> str:
    """Write objects of a GeoJSON file in the formats of other programs: DICOM, NIfTI, NRRD, OME-Zarr, ASAP and more.

    What a run wrote beside the file is used: the heat map, and of the plan the slide's size and resolution.

    Args:
        src: the GeoJSON, in px of the slide's full resolution.
        to: csv, dicom-ann, dicom-seg, nifti, nrrd, mha, ome-zarr, asap, annotation-store, dsa, anndata or geojson-gz;
            or a list of them.
        slide: the image that the objects are of; in DICOM a file or the folder of one series, which DICOM results then
            refer to. Without it maps are as large as the plan says, or as the objects reach.
        dst: the folder to write to; by default the GeoJSON's.
        mpp: um/px of the slide, in place of what it states.
        classes: in the order of their numbers in maps, from 1; by default in alphabetical order.
        drawn: a person drew the objects, which DICOM then says; else a program found them.

    Returns:
        the files, a line each.

    Raises:
        InputError: an unknown format, a package that it needs is missing, no resolution where it needs one, objects
            outside of the slide.
    """
    exchange, src = Exchange(to, "--to"), Path(src)
    if not exchange.names:
        raise InputError("--to", "a format other than GeoJSON", repr(to))
    if not src.is_file():
        raise InputError(src, "a GeoJSON file", "no such file" if not src.exists() else "a folder")
    if mpp is not None and not (isinstance(mpp, int | float) and 0 < mpp < math.inf):
        raise InputError("--mpp", "um/px, a positive number", repr(mpp))
    stem = geojson_stem(src)
    results = _of_slide(Results(src, stem, classes=tuple(classes or ()), drawn=drawn).with_plan(), slide)
    if mpp:
        results = replace(results, mpp=(float(mpp), float(mpp)))
    exchange.check(slide or src, results.mpp)
    written = exchange.write(results, (Path(dst) if dst else src.parent) / stem)
    return "\n".join(str(path) for path in written)


def _of_slide(results: Results, slide: str | os.PathLike | None) -> Results:
    """With what the slide states; its size must be the plan's, and hold all objects."""
    if slide is None:
        return results
    path = Path(slide)
    if is_dicom_slide(path):
        frame = dicom_frame(path)
        path, shape, mpp = frame.path, frame.shape, tuple(1000 * side for side in frame.spacing)
    else:
        from monai_ext.formats.levels import open_levels

        levels, _ = open_levels(path)
        shape, stated = levels.shapes[0], levels.resolution
        mpp = stated and tuple(stated.mpp * long for long in stated.stretch)
    rows, cols = shape
    expected = f"objects of {slide} ({cols} x {rows} px)"
    if results.shape is not None and results.shape != tuple(shape):
        raise InputError(results.geojson, expected, f"those of a slide of {results.shape[1]} x {results.shape[0]} px")
    right, lower = results.survey.right, results.survey.lower
    if right > cols + _SLACK or lower > rows + _SLACK:
        raise InputError(results.geojson, expected, f"some that reach to x {right:.0f}, y {lower:.0f}")
    return replace(results, image=path, shape=tuple(shape), mpp=mpp or results.mpp)
