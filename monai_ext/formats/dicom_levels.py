"""Slides in DICOM (VL Whole Slide Microscopy Image): which files are one slide, and its levels through wsidicom."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from monai_ext.base.dicom_heads import dicom_head
from monai_ext.base.errors import InputError
from monai_ext.formats.dicom import (
    HEADER,
    SlideFrame,
    check_full_resolution,
    levels_of,
    load_pydicom,
    read_dicom,
    slide_frame,
    stated,
)
from monai_ext.formats.level_base import Levels, paste
from monai_ext.formats.resolution import resolution_of
from monai_ext.formats.scanned import rgb_and_valid

__all__ = [
    "DicomLevels",
    "check_dicom_slide",
    "dicom_frame",
    "dicom_slide",
    "files_of",
    "is_dicom_slide",
    "level_files",
    "slides_in",
]

_TAGS = (
    *("ImageType", "TotalPixelMatrixRows", "TotalPixelMatrixColumns", "TotalPixelMatrixFocalPlanes", "Rows", "Columns"),
    *("OpticalPathSequence", "SharedFunctionalGroupsSequence", "ConcatenationUID", "InConcatenationTotalNumber"),
    *("SamplesPerPixel", "BitsStored"),
)


def slides_in(folder: Path) -> dict[str, Path]:
    """The first file, by name, of each slide in DICOM that lies in a folder, by Series Instance UID.

    Examples:
        >>> from monai_ext.formats.dicom_levels import slides_in
        >>> _ = (folder / "a.dcm").write_text("no DICOM")
        >>> slides_in(folder)
        {}
    """
    found: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if (head := dicom_head(path)) and head.is_slide:
            found.setdefault(head.series, path)
    return found


def files_of(path: Path) -> list[Path]:
    """The files of the slide that a file is of, sorted.

    Examples:
        >>> from monai_ext.formats.dicom_levels import files_of
        >>> _ = (folder / "a.dcm").write_text("no DICOM")
        >>> [file.name for file in files_of(folder / "a.dcm")]
        ['a.dcm']
    """
    own = dicom_head(path)
    if own is None or not own.series:
        return [path]
    return sorted(file for file in path.parent.iterdir() if file.is_file() and dicom_head(file) == own)


def dicom_slide(path: Path) -> Path:
    """A file of the slide that a path names.

    Args:
        path: a DICOM file of a slide, or a folder with the files of one.

    Raises:
        InputError: no slide, or a folder with more than one.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats.dicom_levels import dicom_slide
        >>> try:
        ...     dicom_slide(folder)
        ... except InputError as error:
        ...     print(error.found)
        a folder
    """
    if not path.is_dir():
        head = dicom_head(path)
        if head is None:
            raise InputError(path, "a DICOM file", "something else")
        if not head.is_slide:
            raise InputError(path, "a whole slide image", f"DICOM of another kind ({_name(head.sop_class)})")
        return path
    slides = list(slides_in(path).values())
    if not slides:
        raise InputError(path, "an image", "a folder")
    if len(slides) > 1:
        named = ", ".join(slide.name for slide in slides[:5]) + (", ..." if len(slides) > 5 else "")
        raise InputError(path, "one slide (or the name of a file of the one that is meant)", f"{len(slides)}: {named}")
    return slides[0]


def is_dicom_slide(path: Path) -> bool:
    """Whether a file, or a folder with the files of one, is a slide in DICOM.

    Examples:
        >>> from monai_ext.formats.dicom_levels import is_dicom_slide
        >>> is_dicom_slide(folder), is_dicom_slide(folder / "missing.dcm")
        (False, False)
    """
    if path.is_dir():
        return bool(slides_in(path))
    head = dicom_head(path)
    return head is not None and head.is_slide


def dicom_frame(path: Path) -> SlideFrame:
    """The grid of a slide in DICOM.

    Args:
        path: one of its files, of which all in the same folder count, or the folder.

    Raises:
        InputError: no whole slide image, one with files missing, or those of several slides.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats.dicom_levels import dicom_frame
        >>> try:
        ...     dicom_frame(folder)
        ... except InputError as error:
        ...     print(error.expected)
        an image
    """
    first = dicom_slide(path)
    return slide_frame({each: read_dicom(each, HEADER) for each in files_of(first)})


def level_files(path: Path, shape: tuple[int, int]) -> list[Path]:
    """The files of a level of a slide in DICOM, for an error; none where they cannot be told.

    Args:
        path: a file of the slide, or its folder; or another image.
        shape: rows and columns of the level.

    Examples:
        >>> from monai_ext.formats.dicom_levels import level_files
        >>> level_files(folder, (200, 300))
        []
    """
    with suppress(InputError):
        if is_dicom_slide(path):
            levels = levels_of({file: read_dicom(file, HEADER) for file in files_of(dicom_slide(path))})
            return list(levels.get(tuple(shape), ()))
    return []


def _name(uid: str) -> str:
    """A UID, with its name where pydicom knows one."""
    try:
        name = import_module("pydicom").uid.UID(uid).name
    except ImportError:
        name = uid
    return uid if name == uid else f"{name}, {uid}"


def check_dicom_slide(path: Path, image_type: Sequence[str], optical_paths: Sequence[str], planes: int = 1) -> None:
    """That the files of a slide hold one image of it, at full resolution.

    Args:
        path: the file that an error names.
        image_type: of the finest level.
        optical_paths: their identifiers or descriptions.
        planes: focal planes.

    Raises:
        InputError: they do not.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats.dicom_levels import check_dicom_slide
        >>> try:
        ...     check_dicom_slide(folder / "a.dcm", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], ["DAPI", "FITC"])
        ... except InputError as error:
        ...     print(error.found)
        2 optical paths: DAPI, FITC
    """
    if planes > 1:
        raise InputError(path, "one RGB or grey image", f"a stack of {planes} focal planes")
    if len(optical_paths) > 1:
        found = f"{len(optical_paths)} optical paths: {', '.join(optical_paths)}"
        raise InputError(path, "one RGB or grey image", found)
    check_full_resolution(path, image_type)


class DicomLevels(Levels):
    """A slide in DICOM through wsidicom, for what OpenSlide does not open: JPEG-LS, RLE, JPEG XL, implicit VR.

    Each level is opened by itself, as wsidicom takes only levels that halve.

    Args:
        path: a file of the slide; those of the same series in its folder belong to it.

    Raises:
        InputError: pydicom or wsidicom is not installed; files that are damaged, missing or hold several images.

    Examples:
        >>> from monai_ext.base.errors import InputError
        >>> from monai_ext.formats.dicom_levels import DicomLevels
        >>> _ = (folder / "a.dcm").write_text("no DICOM")
        >>> try:
        ...     DicomLevels(folder / "a.dcm")
        ... except InputError as error:
        ...     print(error.expected, "-", error.found)
        a DICOM file - something else
    """

    backend = "wsidicom"

    def __init__(self, path: Path) -> None:
        dicom_slide(path)
        load_pydicom(path)
        try:
            wsidicom = import_module("wsidicom")
        except ImportError as error:
            expected = "wsidicom to read it (pip install 'monai_ext[dicom]')"
            raise InputError(path, expected, "no such package") from error
        self._path = path
        levels = _levels(path)
        headers = [next(iter(files.values())) for files in levels.values()]
        sizes = list(levels)
        used = self._lay_out(sizes, [(int(header.Rows), int(header.Columns)) for header in headers])
        self.resolution = _resolution(headers[0])
        logger = logging.getLogger("wsidicom")
        before, logger.disabled = logger.disabled, True  # what it leaves out is an error here
        try:
            self._images = [_open(wsidicom, levels[sizes[number]]) for number in used]
        finally:
            logger.disabled = before

    def _decode(self, level: int, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        from wsidicom.geometry import Point

        data = self._images[level].levels.base_level.default_instance.image_data
        z, optical_path = data.default_z, data.default_path
        cols, rows = data.tile_size.width, data.tile_size.height
        canvas, written = None, np.zeros((height, width), bool)
        for down in range(row // rows, -(-(row + height) // rows)):
            for right in range(col // cols, -(-(col + width) // cols)):
                place = Point(right, down)
                if data.tiles.get_frame_index(place, z, optical_path) < 0:  # of TILED_SPARSE: it was never scanned
                    continue
                tile = data.get_decoded_tile(place, z, optical_path)
                tile = tile if tile.ndim == 3 else tile[..., None]
                if canvas is None:
                    canvas = np.full((height, width, tile.shape[-1]), 255, tile.dtype)
                paste(canvas, tile, down * rows - row, right * cols - col)
                paste(written, np.ones(tile.shape[:2], bool), down * rows - row, right * cols - col)
        if canvas is None:
            return np.full((height, width, 3), 255, np.uint8), written
        pixels, valid = rgb_and_valid(canvas, self._path)
        if written.all():
            return pixels, valid
        pixels = np.where(written[..., None], pixels, np.uint8(255))
        return pixels, written if valid is None else written & valid


def _levels(path: Path) -> dict[tuple[int, int], dict[Path, Any]]:
    """The files of each level, with their headers, by its rows and columns; the finest first.

    Raises:
        InputError: a file that cannot be read, parts that are missing, several images in one.
    """
    levels = levels_of({file: read_dicom(file, _TAGS) for file in files_of(path)})
    for files in levels.values():
        first, header = next(iter(files.items()))
        with stated(first):
            paths = [_optical_path(item) for item in getattr(header, "OpticalPathSequence", None) or ()]
            planes = int(getattr(header, "TotalPixelMatrixFocalPlanes", None) or 1)
            check_dicom_slide(first, [], paths, planes)
    return levels


def _optical_path(item: Any) -> str:
    """What an optical path is called."""
    return str(getattr(item, "OpticalPathDescription", None) or getattr(item, "OpticalPathIdentifier", "?"))


def _resolution(header: Any) -> Any:
    try:
        row, col = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    except (AttributeError, IndexError, TypeError, ValueError):  # not stated, or not where it has to be
        return None
    return resolution_of(1000 * float(row), 1000 * float(col), "DICOM")


def _open(wsidicom: Any, files: Mapping[Path, Any]) -> Any:
    """One level.

    Raises:
        InputError: its transfer syntax cannot be decoded.
        ValueError: whatever else wsidicom makes of it.
    """
    from wsidicom.codec import Decoder

    for file, header in files.items():
        syntax = header.file_meta.TransferSyntaxUID
        encapsulated = not syntax.is_transfer_syntax or syntax.is_private or syntax.is_encapsulated
        with stated(file):
            samples, bits = int(header.SamplesPerPixel), int(header.BitsStored)
        if encapsulated and Decoder.select_decoder(syntax, samples, bits) is None:
            raise InputError(file, "a transfer syntax that OpenSlide or wsidicom decodes", _name(str(syntax)))
    return wsidicom.WsiDicom.open([str(file) for file in files])
