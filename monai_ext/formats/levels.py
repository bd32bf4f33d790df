"""The pixels of a file's levels, whatever it is and whoever decodes it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from monai_ext.base.errors import InputError
from monai_ext.formats.dicom import is_dicom
from monai_ext.formats.dicom_levels import DicomLevels, check_dicom_slide, dicom_slide
from monai_ext.formats.level_base import Levels, check_axes, check_size, paste
from monai_ext.formats.pyramid import level_factors
from monai_ext.formats.remote import is_link, open_remote
from monai_ext.formats.resolution import (
    Resolution,
    image_resolutions,
    resolution_of,
    slide_resolutions,
    stated_resolution,
    tiff_resolutions,
)
from monai_ext.formats.scanned import blank_unscanned, rgb_and_valid
from monai_ext.formats.suffixes import (
    DICOM_SUFFIX,
    SLIDE_SUFFIXES,
    TIFF_SUFFIXES,
    VOLUME_SUFFIXES,
    ZARR_SUFFIXES,
)
from monai_ext.formats.torn import check_whole
from monai_ext.formats.volume import read_volume
from monai_ext.formats.zarr_levels import ZarrLevels

__all__ = ["BACKENDS", "ImageLevels", "Levels", "TiffLevels", "WSILevels", "open_levels"]

#: What can decode a slide, by the names of MONAI's ``WSIReader``.
BACKENDS = ("openslide", "cucim", "tifffile")
_BOUNDS = ("y", "x", "height", "width")
_TILE_BYTES = 64 << 20  # of decoded tiles that the tifffile backend holds in memory at once
_PHOTOMETRIC = tifffile.PHOTOMETRIC
_ORIENTATION = ExifTags.Base.Orientation

logger = logging.getLogger(__name__)


class ImageLevels(Levels):
    """An image in memory: PNG, JPEG, BMP, a TIFF without tiles, NIfTI, NRRD, MetaImage.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats.levels import ImageLevels
        >>> Image.fromarray(np.full((200, 300, 3), 255, np.uint8)).save(folder / "image.png")
        >>> pixels, _ = ImageLevels(folder / "image.png").read(level=0, row=10, col=20, height=30, width=40)
        >>> pixels.shape
        (30, 40, 3)
    """

    def __init__(self, path: Path) -> None:
        name = path.name.lower()
        self.backend, read = next((each for suffixes, *each in _IN_MEMORY if name.endswith(suffixes)))
        array, self.resolution = read(path)
        image, valid = rgb_and_valid(array, path)
        self._image, scanned = blank_unscanned(image)
        self._valid = scanned if valid is None else valid if scanned is None else valid & scanned
        self.shapes, self.downsamples = [self._image.shape[:2]], [1.0]

    def read(self, level: int, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:  # noqa: D102 - see Levels
        return self._decode(level, row, col, height, width)

    def _decode(self, level: int, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        del level
        part = np.s_[row : row + height, col : col + width]
        return self._image[part], None if self._valid is None else self._valid[part]


class WSILevels(Levels):
    """A slide through OpenSlide, or through cuCIM by MONAI's ``WSIReader``.

    Where a slide states what part of its plane was scanned (MRXS, some SCN: ``openslide.bounds-*``), that part is the
    slide, as it is to QuPath; the rest is empty and often the larger part.

    Examples:
        >>> import tifffile
        >>> from monai_ext.formats.levels import WSILevels
        >>> pixels = np.full((200, 300, 3), 255, np.uint8)
        >>> tifffile.imwrite(folder / "slide.tif", pixels, photometric="rgb", tile=(64, 64))
        >>> levels = WSILevels(folder / "slide.tif", backend="openslide")
        >>> levels.shapes, levels.read(level=0, row=10, col=20, height=30, width=40)[0].shape
        ([(200, 300)], (30, 40, 3))
    """

    def __init__(self, path: Path, backend: str) -> None:
        self._path, self.backend = str(path), backend
        self.reopen()
        slide, properties = self._slide, {}
        if backend == "openslide":
            sizes, quotients = [size[::-1] for size in slide.level_dimensions], slide.level_downsamples
            properties = dict(slide.properties)
        else:
            sizes = [size[::-1] for size in slide.resolutions["level_dimensions"]]
            quotients = slide.resolutions["level_downsamples"]
        factors = level_factors(sizes, [_tile_size(properties, level) for level in range(len(sizes))])
        self._corner, full = (0, 0), sizes[0]
        if properties.get("openslide.vendor") == "dicom":
            check_dicom_slide(path, [properties.get(f"dicom.ImageType[{k}]", "") for k in range(4)], _paths(properties))
        # of a plain TIFF it is merely where tiles were written, which other decoders do not cut off
        if "openslide.bounds-x" in properties and properties.get("openslide.vendor") != "generic-tiff":
            top, left, *full = (int(properties[f"openslide.bounds-{name}"]) for name in _BOUNDS)
            self._corner = (top, left)
        self._numbers = [level for level, factor in enumerate(factors) if factor is not None]
        self.downsamples = [factors[level] for level in self._numbers]
        self._divisors = [float(quotients[level]) for level in self._numbers]  # of places on level 0
        self.shapes = [
            tuple(max(1, min(side, math.ceil(whole / factor))) for side, whole in zip(sizes[level], full, strict=True))
            if self._corner == (0, 0)
            else tuple(max(1, int(whole / factor)) for whole in full)
            for level, factor in zip(self._numbers, self.downsamples, strict=True)
        ]
        self.resolution = stated_resolution(self._resolutions(properties, sizes[0]))

    def _resolutions(self, properties: dict[str, str], size: tuple[int, int]) -> list[Resolution | None]:
        # not MONAI's get_mpp: it takes a missing unit for a micrometre, and any scanner's 72 dpi as it is
        if self.backend == "openslide":
            return [*slide_resolutions(properties), *_tags_of(self._path, size)]
        metadata = self._slide.metadata
        aperio = metadata.get("aperio", {}).get("MPP")
        col, row = (metadata.get("cucim", {}).get("spacing") or [None, None])[:2]
        return [resolution_of(aperio, aperio, "Aperio"), resolution_of(row, col, "cuCIM"), *_tags_of(self._path, size)]

    def _decode(self, level: int, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        top, left = (
            first + round(start * self._divisors[level]) for first, start in zip(self._corner, (row, col), strict=True)
        )
        number = self._numbers[level]
        if self.backend == "openslide":
            pixels = np.asarray(self._slide.read_region((left, top), number, (width, height)))
        else:
            pixels, _ = self._reader.get_data(self._slide, location=(top, left), size=(height, width), level=number)
        if pixels.shape[-1] == 4 and pixels[..., 3].min() == 255:
            return cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB), None
        return rgb_and_valid(pixels, self._path)

    def first(self, level: int, at: int) -> float:  # noqa: D102 - see Levels
        # OpenSlide and cuCIM take the corner in whole px of level 0
        return round(at * self._divisors[level]) / self._divisors[level]

    def reopen(self) -> None:
        """Open the file anew: after an error OpenSlide's handle answers every call with that error.

        The old handle is not closed here: another thread may still be in it. It closes when the last one leaves.
        """
        if self.backend == "openslide":
            import openslide

            self._slide = openslide.OpenSlide(self._path)
        else:
            from monai.data import WSIReader  # slow to import

            # cuCIM has no transparency
            self._reader = WSIReader(backend=self.backend, mode="RGB", channel_dim=-1)
            self._slide = self._reader.read(self._path)


def _paths(properties: dict[str, str]) -> list[str]:
    """What the optical paths of a slide in DICOM are called."""
    names = ("OpticalPathDescription", "OpticalPathIdentifier")
    named = [[properties.get(f"dicom.OpticalPathSequence[{k}].{name}") for name in names] for k in range(64)]
    return [first or second for first, second in named if first or second]


def _tile_size(properties: dict[str, str], level: int) -> tuple[int, int] | None:
    sides = [properties.get(f"openslide.level[{level}].tile-{name}") for name in ("height", "width")]
    return tuple(map(int, sides)) if all(sides) else None


def _tags_of(path: str, size: tuple[int, int]) -> list[Resolution | None]:
    """What the page of level 0 states, if the file is a TIFF and has such a page."""
    try:
        with tifffile.TiffFile(path) as tiff:
            for page in tiff.series[0].levels[0].pages[:1]:
                if (page.imagelength, page.imagewidth) == size:
                    return list(tiff_resolutions(tiff, page.keyframe))
    # no TIFF (MRXS, VMS), or tags that only OpenSlide makes sense of: then its own properties are all there is
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError) as error:
        logger.debug("%s: tags not read (%s)", path, error)
    return []


@dataclass(frozen=True)
class _Plane:
    """One of the planes that a level's pixels are made of.

    Attributes:
        page: where its tiles are.
        skip: tiles of the page that belong to the planes before it.
    """

    page: tifffile.TiffPage | tifffile.TiffFrame
    skip: int


class TiffLevels(Levels):
    """A tiled TIFF through tifffile, for what OpenSlide does not open.

    Not through MONAI's ``WSIReader``: it decodes the whole level for every region, and counts labels and thumbnails as
    levels.

    Examples:
        >>> import tifffile
        >>> from monai_ext.formats.levels import TiffLevels
        >>> pixels = np.full((200, 300, 3), 255, np.uint8)
        >>> tifffile.imwrite(folder / "slide.tif", pixels, photometric="rgb", tile=(64, 64))
        >>> levels = TiffLevels(folder / "slide.tif")
        >>> levels.shapes, levels.read(level=0, row=10, col=20, height=30, width=40)[0].shape
        ([(200, 300)], (30, 40, 3))
    """

    backend = "tifffile"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tiff = tifffile.TiffFile(open_remote(path) if is_link(path) else path)
        self._tiff.filehandle.set_lock(True)
        series = self._tiff.series[0]
        check_axes(path, series.axes, series.shape, series.dtype)
        levels = [level for level in series.levels if level.keyframe.is_tiled]
        if not levels:
            raise InputError(path, "a TIFF with tiles", "strips")
        keys = [level.keyframe for level in levels]
        sizes = [(key.imagelength, key.imagewidth) for key in keys]
        used = self._lay_out(sizes, [(key.tilelength, key.tilewidth) for key in keys])
        self._planes = [_planes(levels[number]) for number in used]
        self.resolution = stated_resolution(tiff_resolutions(self._tiff, keys[0]))

    def _decode(self, level: int, row: int, col: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        decoded = [self._decode_plane(plane, row, col, height, width) for plane in self._planes[level]]
        pixels, written = decoded[0]
        if len(decoded) > 1:
            pixels = np.concatenate([plane for plane, _ in decoded], axis=-1)
            written = np.logical_and.reduce([plane for _, plane in decoded])
        pixels, valid = rgb_and_valid(pixels, self._path)
        if written.all():
            return pixels, valid
        pixels = np.where(written[..., None], pixels, np.uint8(255))
        return pixels, written if valid is None else written & valid

    def _decode_plane(
        self, plane: _Plane, row: int, col: int, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        page, key = plane.page, plane.page.keyframe
        rows, cols = key.tilelength, key.tilewidth
        across = -(-key.imagewidth // cols)
        wanted = [
            down * across + right
            for down in range(row // rows, -(-(row + height) // rows))
            for right in range(col // cols, -(-(col + width) // cols))
        ]
        canvas, written = None, np.zeros((height, width), bool)
        handle = self._tiff.filehandle
        at_once = max(1, _TILE_BYTES // (rows * cols * 3))
        for start in range(0, len(wanted), at_once):
            batch = [plane.skip + index for index in wanted[start : start + at_once]]
            offsets, counts = [page.dataoffsets[i] for i in batch], [page.databytecounts[i] for i in batch]
            # without its indices: given a single one, tifffile 2025.5.10 takes it for a place in these lists
            for data, number in handle.read_segments(offsets, counts, lock=handle.lock):
                index = batch[number]
                if not data and not (counts[number] and offsets[number]):  # a tile that was never written
                    continue
                if len(data) < counts[number]:
                    raise ValueError(f"tile {index} ends after {len(data)} of {counts[number]} bytes")
                segment, _, (_, tile_rows, tile_cols, _) = key.decode(data, index, jpegtables=page.jpegtables)
                tile = _colours(segment[0, :tile_rows, :tile_cols], key)
                down, right = divmod(index - plane.skip, across)
                if canvas is None:
                    canvas = np.zeros((height, width, tile.shape[-1]), tile.dtype)
                paste(canvas, tile, down * rows - row, right * cols - col)
                paste(written, np.ones(tile.shape[:2], bool), down * rows - row, right * cols - col)
        return np.zeros((height, width, 1), np.uint8) if canvas is None else canvas, written


def _planes(level: tifffile.TiffPageSeries) -> list[_Plane]:
    key = level.keyframe
    if key.planarconfig == tifffile.PLANARCONFIG.SEPARATE and key.samplesperpixel > 1:
        tiles = -(-key.imagelength // key.tilelength) * -(-key.imagewidth // key.tilewidth)
        return [_Plane(level.pages[0], number * tiles) for number in range(key.samplesperpixel)]
    return [_Plane(page, 0) for page in level.pages]


def _colours(array: np.ndarray, page: tifffile.TiffPage) -> np.ndarray:
    """A page's or a tile's samples as grey or RGB, ``(H, W, 1 to 4)``.

    Raises:
        InputError: colours that tifffile leaves as they are.
    """
    array = array if array.ndim == 3 else array[..., None]
    if page.photometric == _PHOTOMETRIC.PALETTE:
        return np.moveaxis(page.colormap[:, array[..., 0]], 0, -1)
    if page.photometric == _PHOTOMETRIC.MINISWHITE:
        return np.invert(array) if array.dtype != bool else ~array
    subsampled = page.photometric == _PHOTOMETRIC.YCBCR and page.compression not in _DECODES_YCBCR
    if subsampled or page.photometric in (_PHOTOMETRIC.SEPARATED, _PHOTOMETRIC.CIELAB, _PHOTOMETRIC.ICCLAB):
        raise InputError(page.parent.filename, "RGB, grey or palette", f"colours {page.photometric.name}")
    return array


_DECODES_YCBCR = (
    tifffile.COMPRESSION.JPEG,
    tifffile.COMPRESSION.OJPEG,
    tifffile.COMPRESSION.JPEG_2000_LOSSY,
    tifffile.COMPRESSION.JPEGXL,
    tifffile.COMPRESSION.JPEGXL_DNG,
    tifffile.COMPRESSION.WEBP,
    tifffile.COMPRESSION.APERIO_JP2000_YCBC,
)


def _read_tiff(path: Path) -> tuple[np.ndarray, Resolution | None]:
    """A TIFF in memory: its pixels, ``(H, W, C)``, and its resolution."""
    with tifffile.TiffFile(path) as tiff:
        series = tiff.series[0]
        check_axes(path, series.axes, series.shape, series.dtype)
        page = series.keyframe
        check_size(path, page.imagelength, page.imagewidth)
        resolution = stated_resolution(tiff_resolutions(tiff, page))
        orientation = _orientation(page)
        if page.photometric == _PHOTOMETRIC.SEPARATED:
            return _read_image(path)[0], _turned(resolution, orientation)
        array = series.asarray()
        if array.ndim == 3 and series.axes.index("X") == 2:  # planes: channel first
            array = np.moveaxis(array, 0, -1)
        return _upright(_colours(array, page), orientation), _turned(resolution, orientation)


def _orientation(page: tifffile.TiffPage) -> int:
    """Which way the image is to be turned, as TIFF and EXIF count; 1 is upright."""
    tag = page.tags.get("Orientation")
    return int(tag.value) if tag and tag.value in range(1, 9) else 1


def _upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """``(H, W, C)`` as it is to be seen."""
    array = array.swapaxes(0, 1) if orientation >= 5 else array
    array = array[::-1] if orientation in (3, 4, 7, 8) else array
    return array[:, ::-1] if orientation in (2, 3, 6, 7) else array


def _turned(resolution: Resolution | None, orientation: int) -> Resolution | None:
    if resolution is None or orientation < 5:
        return resolution
    return replace(resolution, row=resolution.col, col=resolution.row)


def _read_image(path: Path) -> tuple[np.ndarray, Resolution | None]:
    with Image.open(path) as image:
        resolution = _turned(stated_resolution(image_resolutions(image)), image.getexif().get(_ORIENTATION, 1))
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode in ("P", "PA"):
            return np.asarray(image.convert("RGBA")), resolution
        if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            return np.asarray(image.convert("RGB")), resolution
        return np.asarray(image), resolution


_IN_MEMORY = (
    (TIFF_SUFFIXES, "tifffile", _read_tiff),
    (VOLUME_SUFFIXES, "MONAI", read_volume),
    ("", "Pillow", _read_image),
)


def open_levels(path: Path, backend: str = "openslide") -> tuple[Levels, bool]:
    """Open a slide, or an image as a slide of one level.

    A slide that ``backend`` cannot decode is read by the next that can; :attr:`Levels.backend` says which.

    Args:
        path: whatever :func:`~monai_ext.formats.image.read_field` reads; a TIFF with tiles counts as a slide. Of a
            slide in DICOM a file or, where there is one slide in it, the folder; of an OME-Zarr the folder. A link
            (:mod:`~monai_ext.formats.remote`) stands for the TIFF that it names.
        backend: who decodes slides; one of :data:`BACKENDS`.

    Returns:
        The levels, and whether the file is a slide.

    Raises:
        InputError: no such file, not an image, or no such backend.

    Examples:
        >>> import tifffile
        >>> from monai_ext.formats import open_levels
        >>> pixels = np.full((200, 300, 3), 255, np.uint8)
        >>> tifffile.imwrite(folder / "slide.tif", pixels, photometric="rgb", tile=(64, 64))
        >>> levels, is_slide = open_levels(folder / "slide.tif", backend="openslide")
        >>> is_slide, levels.shapes
        (True, [(200, 300)])
    """
    if backend not in BACKENDS:
        raise InputError("backend", " or ".join(BACKENDS), repr(backend))
    if not path.exists():
        raise InputError(path, "an image", "no such file")
    name = path.name.lower()
    try:
        if name.endswith(ZARR_SUFFIXES):
            return ZarrLevels(path), True
        if path.is_dir() or name.endswith(DICOM_SUFFIX) or is_dicom(path):
            return _open_dicom(dicom_slide(path)), True
        if is_link(path):
            return TiffLevels(path), True
        check_whole(path)
        if not name.endswith((*SLIDE_SUFFIXES, *TIFF_SUFFIXES)):
            return ImageLevels(path), False
        decoders = _decoders(path, backend)
        return (_open_slide(path, decoders), True) if decoders else (ImageLevels(path), False)
    except InputError:
        raise
    # what the decoders raise for a damaged file is not one family
    except Exception as error:
        problem = "no image in a known format" if isinstance(error, UnidentifiedImageError) else _line(error)
        raise InputError(path, "a readable image", problem) from error


def _line(error: Exception) -> str:
    return str(error).split("\n")[0] or type(error).__name__


def _decoders(path: Path, backend: str) -> list[str]:
    """Who may decode a slide, in the order in which they are tried; nobody if it is an image."""
    is_named_slide = path.suffix.lower() in SLIDE_SUFFIXES
    try:
        with tifffile.TiffFile(path) as tiff:
            series, page = tiff.series[0], tiff.pages[0]
            tiled = bool(series.keyframe.is_tiled) and series.keyframe.bitspersample == 8
            tiled = tiled and _orientation(page) == 1  # else it is turned, as a whole, in memory
            # OpenSlide and cuCIM show the first plane of several as if it were all
            chunky = (
                page.is_tiled and page.planarconfig == tifffile.PLANARCONFIG.CONTIG and len(series.levels[0].pages) == 1
            )
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError):
        if is_named_slide:  # of which tifffile reads TIFFs alone
            return ["openslide" if backend == "tifffile" else backend]
        raise
    vendor = _vendor(path) if backend == "openslide" else None
    if is_named_slide or vendor not in (None, "generic-tiff"):
        return [backend, *(["tifffile"] if tiled and backend != "tifffile" else [])]
    if not tiled:
        return []
    if backend == "tifffile" or not chunky:
        return ["tifffile"]
    return ["tifffile"] if backend == "openslide" and vendor is None else [backend, "tifffile"]


def _vendor(path: Path) -> str | None:
    import openslide

    return openslide.OpenSlide.detect_format(str(path))


def _open_dicom(path: Path) -> Levels:
    """A slide in DICOM, of which the end of each level is decoded: it tells whether a file is whole."""
    check_whole(path)
    problems = []
    for backend, read in (("openslide", partial(WSILevels, backend="openslide")), (DicomLevels.backend, DicomLevels)):
        try:
            levels = read(path)
            levels.try_ends()
        except InputError as error:
            if not problems or "no such package" not in error.found:
                raise
            raise InputError(path, error.expected, problems[0]) from error
        # what the decoders raise is not one family
        except Exception as error:
            problems.append(f"{backend}: {_line(error)}")
        else:
            if problems:
                logger.info("%s is read by %s (%s)", path, backend, "; ".join(problems))
            return levels
    raise InputError(path, "a readable slide", "; ".join(problems))


def _open_slide(path: Path, decoders: list[str]) -> Levels:
    problems = []
    for backend in decoders:
        try:
            levels = TiffLevels(path) if backend == "tifffile" else WSILevels(path, backend)
            if backend != decoders[-1]:
                levels.try_tile()
        except InputError:
            raise
        # what the decoders raise is not one family
        except Exception as error:
            problems.append(f"{backend}: {_line(error)}")
        else:
            if problems:
                logger.info("%s is read by %s (%s)", path, backend, "; ".join(problems))
            return levels
    raise InputError(path, "a readable slide", "; ".join(problems))
