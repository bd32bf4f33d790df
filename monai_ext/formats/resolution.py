"""The physical size of a pixel, as a file states it: by whom, in which unit, and whether all who state it agree."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from xml.etree.ElementTree import Element

import tifffile
from defusedxml import ElementTree
from PIL import Image

__all__ = [
    "MICRONS_PER",
    "SAME_MPP",
    "Resolution",
    "Scale",
    "file_scale",
    "image_resolutions",
    "plausible_mpp",
    "resolution_of",
    "slide_resolutions",
    "stated_resolution",
    "tiff_resolutions",
    "warn_of_conflict",
]

#: Pixels of a file per pixel of an array: one number, or one along the rows' and one along the columns' side where the
#: file's pixels are oblong.
Scale = float | tuple[float, float]

#: Relative difference of resolutions that is not worth resampling: scanners of one nominal magnification differ so.
SAME_MPP = 0.1
_PLAUSIBLE_MPP = (0.05, 4.0)  # um/px; a scanner's 72 or 300 dpi is no resolution of tissue
_DISAGREE = 0.02  # relative; more than what rounding does to tags
_SQUARE = 0.02  # relative; sides that differ less are a scanner's calibration and taken as one, of the same area
_MICRONS = {2: 25_400.0, 3: 10_000.0}  # TIFF's resolution units: inch, centimetre
#: um of a unit, by the names that OME and ImageJ use, in lower case.
MICRONS_PER = {
    **dict.fromkeys(("um", "µm", "μm", "\\u00b5m", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    **dict.fromkeys(("pm", "picometer", "picometre"), 1e-6),
    **dict.fromkeys(("å", "\u212b", "angstrom"), 1e-4),
    **dict.fromkeys(("in", "inch", "inches"), 25_400.0),
}


@dataclass(frozen=True)
class Resolution:
    """The sides of a pixel in um.

    Attributes:
        row: um from one row of pixels to the next (Y).
        col: um from one column to the next (X).
        source: who states it.
        conflict: what others state, where that differs by more than 2 % or is of another image size; else empty.

    Examples:
        >>> from monai_ext.formats.resolution import Resolution
        >>> pixel = Resolution(0.25, 0.5, "OME-XML")
        >>> pixel.square, pixel.mpp, pixel.stretch
        (False, 0.25, (1.0, 2.0))
        >>> Resolution(0.2526, 0.2526, "Aperio").stretch
        (1.0, 1.0)
    """

    row: float
    col: float
    source: str = ""
    conflict: str = ""

    @property
    def square(self) -> bool:
        """Whether the sides are equal, to 2 %."""
        return math.isclose(self.row, self.col, rel_tol=_SQUARE)

    @property
    def mpp(self) -> float:
        """Side of the square pixel that stands for it: of the same area, or of the shorter side if not square."""
        if self.row == self.col:
            return self.row
        return math.sqrt(self.row * self.col) if self.square else min(self.row, self.col)

    @property
    def stretch(self) -> tuple[float, float]:
        """Square pixels along the rows' and along the columns' side of a pixel of the file."""
        return (1.0, 1.0) if self.square else (self.row / self.mpp, self.col / self.mpp)

    def __str__(self) -> str:
        return f"{self.row:g}" if self.row == self.col else f"{self.col:g} x {self.row:g} (X, Y)"


def plausible_mpp(mpp: float | str | None) -> float | None:
    """What a file says of its resolution (um/px), or ``None`` where no tissue is scanned so.

    Examples:
        >>> from monai_ext.formats.resolution import plausible_mpp
        >>> plausible_mpp("0.2526"), plausible_mpp(25_400 / 72), plausible_mpp("unknown")
        (0.2526, None, None)
    """
    try:
        mpp = float(mpp) if mpp else None
    except ValueError:
        return None
    return mpp if mpp is not None and _PLAUSIBLE_MPP[0] <= mpp <= _PLAUSIBLE_MPP[1] else None


def resolution_of(row: float | str | None, col: float | str | None, source: str) -> Resolution | None:
    """The sides of a pixel as they are stated, in um, if both are plausible; one that is not stated is as the other.

    Examples:
        >>> from monai_ext.formats.resolution import resolution_of
        >>> str(resolution_of("0.25", None, "Aperio")), resolution_of(352.8, 352.8, "TIFF tags")
        ('0.25', None)
    """
    row, col = plausible_mpp(row if row else col), plausible_mpp(col if col else row)
    return Resolution(row, col, source) if row and col else None


def stated_resolution(candidates: Iterable[Resolution | None]) -> Resolution | None:
    """The first of several statements; it names those that differ from it by more than 2 %.

    Examples:
        >>> from monai_ext.formats.resolution import Resolution, stated_resolution
        >>> stated = stated_resolution([Resolution(0.25, 0.25, "OME-XML"), Resolution(0.5, 0.5, "TIFF tags")])
        >>> stated.mpp, stated.conflict
        (0.25, 'OME-XML states 0.25 um/px, TIFF tags 0.5 um/px; OME-XML is taken')
    """
    stated = [candidate for candidate in candidates if candidate is not None]
    if not stated:
        return None
    first, *others = stated
    conflicts = [candidate.conflict for candidate in stated if candidate.conflict]
    differing = [other for other in others if not _agree(first, other)]
    if differing:
        rest = ", ".join(f"{other.source} {other} um/px" for other in differing)
        conflicts.append(f"{first.source} states {first} um/px, {rest}; {first.source} is taken")
    return replace(first, conflict="; ".join(conflicts))


def _agree(one: Resolution, other: Resolution) -> bool:
    return all(math.isclose(a, b, rel_tol=_DISAGREE) for a, b in ((one.row, other.row), (one.col, other.col)))


def file_scale(scale: float, stretch: tuple[float, float]) -> Scale:
    """Px of a file per px of an array, from square px per px of the array.

    Args:
        scale: square px of full resolution per px of the array.
        stretch: :attr:`Resolution.stretch` of the file.

    Examples:
        >>> from monai_ext.formats.resolution import file_scale
        >>> file_scale(4.0, stretch=(1.0, 1.0)), file_scale(4.0, stretch=(1.0, 2.0))
        (4.0, (4.0, 2.0))
    """
    return scale if stretch == (1, 1) else (scale / stretch[0], scale / stretch[1])


@cache
def warn_of_conflict(path: str | os.PathLike, conflict: str) -> None:
    """Say, a single time for a file, that its statements of the resolution differ; ``conflict`` may be empty.

    A run that is to say it anew clears the cache.
    """
    if conflict:
        print(f"{path}: {conflict}", file=sys.stderr)


def slide_resolutions(properties: Mapping[str, str]) -> Iterator[Resolution | None]:
    """What OpenSlide's properties state of level 0; of a generic TIFF nothing, as that is read from its tags.

    Examples:
        >>> from monai_ext.formats.resolution import slide_resolutions
        >>> properties = {"openslide.vendor": "hamamatsu", "openslide.mpp-x": "0.2201", "openslide.mpp-y": "0.2208"}
        >>> [str(stated) for stated in slide_resolutions(properties)]
        ['0.2201 x 0.2208 (X, Y)']
    """
    if properties.get("openslide.vendor") != "generic-tiff":
        vendor = properties.get("openslide.vendor", "the scanner")
        vendor = "DICOM" if vendor == "dicom" else vendor.capitalize()
        yield resolution_of(properties.get("openslide.mpp-y"), properties.get("openslide.mpp-x"), vendor)


def tiff_resolutions(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Iterator[Resolution | None]:
    """What a TIFF states of one of its pages: Aperio's description, OME-XML, ImageJ, the tags; in this order.

    Examples:
        >>> import tifffile
        >>> from monai_ext.formats.resolution import tiff_resolutions, stated_resolution
        >>> resolution = {"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}
        >>> tifffile.imwrite(folder / "field.tif", np.zeros((8, 8, 3), np.uint8), photometric="rgb", **resolution)
        >>> with tifffile.TiffFile(folder / "field.tif") as tiff:
        ...     stated = stated_resolution(tiff_resolutions(tiff, tiff.pages[0]))
        >>> stated.col, stated.row, stated.source
        (0.25, 0.5, 'TIFF tags')
    """
    # the description, rather than tifffile's flags: programs that copy a slide keep it under another name
    aperio = re.search(r"\|\s*MPP\s*=\s*([\d.]+)", page.description)
    yield aperio and resolution_of(aperio[1], aperio[1], "Aperio's description")
    yield _ome(tiff, page)
    yield _imagej(tiff, page)
    if not tiff.is_imagej:  # whose tags count in the unit of its description
        unit = page.tags.get("ResolutionUnit")
        # TIFF 6.0: inch where the unit is missing; but who leaves it out wrote no resolution of his own
        yield _tags(page, _MICRONS.get(int(unit.value)) if unit else None, "TIFF tags")


def _tags(page: tifffile.TiffPage, unit_um: float | None, source: str) -> Resolution | None:
    if unit_um is None:
        return None
    sides = []
    for name in ("YResolution", "XResolution"):
        tag = page.tags.get(name)
        pixels, units = tag.value if tag and isinstance(tag.value, tuple) else (0, 1)
        sides.append(unit_um * units / pixels if pixels else None)
    return resolution_of(*sides, source)


def _imagej(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Resolution | None:
    unit = (tiff.imagej_metadata or {}).get("unit") if tiff.is_imagej else None
    return _tags(page, MICRONS_PER.get(str(unit).strip().lower()), "ImageJ")


def _ome(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> Resolution | None:
    if not tiff.is_ome:
        return None
    try:
        images = [node for node in ElementTree.fromstring(tiff.ome_metadata).iter() if node.tag.endswith("}Pixels")]
    except ElementTree.ParseError:
        return None
    size = str(page.imagewidth), str(page.imagelength)
    sizes = [(pixels.get("SizeX"), pixels.get("SizeY")) for pixels in images]
    if size not in sizes and len(images) != 1:
        return None
    number = sizes.index(size) if size in sizes else 0  # a single image is this one, whatever size it states
    stated = resolution_of(*(_ome_side(images[number], axis) for axis in "YX"), "OME-XML")
    if stated is None or sizes[number] == size:
        return stated
    ours, theirs = (" x ".join(str(side) for side in sides) for sides in (size, sizes[number]))
    conflict = f"OME-XML states an image of {theirs} px, TIFF tags one of {ours} px; um/px of OME-XML are taken"
    return replace(stated, conflict=conflict)


def _ome_side(pixels: Element, axis: str) -> float | None:
    """Side of a pixel in um; None where it is not stated, or as no number."""
    unit_um = MICRONS_PER.get(pixels.get(f"PhysicalSize{axis}Unit", "µm").strip().lower())
    try:
        return float(pixels.get(f"PhysicalSize{axis}", "")) * unit_um if unit_um else None
    except ValueError:
        return None


def image_resolutions(image: Image.Image) -> Iterator[Resolution | None]:
    """What a PNG, JPEG or BMP states: its dots per inch, where they can be those of tissue.

    Examples:
        >>> from PIL import Image
        >>> from monai_ext.formats.resolution import image_resolutions
        >>> Image.new("RGB", (8, 8)).save(folder / "field.png", dpi=(101_600, 101_600))
        >>> with Image.open(folder / "field.png") as image:
        ...     [round(stated.mpp, 4) for stated in image_resolutions(image)]
        [0.25]
    """
    dpi = image.info.get("dpi")
    if dpi and all(dpi):
        yield resolution_of(*(25_400.0 / float(dots) for dots in dpi[::-1]), f"the {image.format}'s density")
