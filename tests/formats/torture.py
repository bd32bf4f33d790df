"""The torture set: what users' files look like, each a small valid file of one picture, with what must be read from it.

A :class:`Circumstance` is made by :meth:`Circumstance.make`; :data:`CIRCUMSTANCES` lists all. A new bundle, reader or
converter is tested with each of them as soon as it exists, and a new entry here is tested with each bundle.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from monai_ext.phantom import phantom_field, phantom_slide

MPP = 0.25
SIZE = (540, 724)  # rows, columns: no multiple of any tile
TILE = 256
DENSITY = 1e4 / MPP  # px per cm
JPEG = {"compression": "jpeg", "compressionargs": {"level": 95}}
JPEG_OF_RGB = {"compression": "jpeg", "compressionargs": {"level": 95, "outcolorspace": "RGB"}}
#: The parts of the picture that are unscanned, where a circumstance has such: whole tiles.
RIGHT, LEFT = (slice(None), slice(512, None)), (slice(None), slice(0, 256))

Pixels = np.ndarray
Write = Callable[[Path], None]
Part = tuple[slice, slice]


@cache
def base() -> Pixels:
    """The picture: tissue on glass, with mitoses, nuclei and holes; uint8 ``(540, 724, 3)``."""
    slide = phantom_slide(5, mpp=MPP, size=(760, 1000))
    picture = phantom_field(SIZE, slide=slide, origin=(40, 276)).image
    picture.flags.writeable = False
    return picture


def grey() -> Pixels:
    """The picture without colour."""
    return np.repeat(_luminance(base())[..., None], 3, axis=2)


def few_colours() -> Pixels:
    """The picture in 64 colours, as a palette keeps it."""
    return np.asarray(_quantised().convert("RGB"))


def cut() -> Pixels:
    """A corner of the picture that is smaller than a tile."""
    return base()[:200, :230]


def cast() -> Pixels:
    """The picture on glass that is 34 grey values more blue than red."""
    glass = np.percentile(base().reshape(-1, 3), 99, axis=0)
    return np.clip(base() * (np.array([206, 218, 240]) / glass), 0, 255).astype(np.uint8)


def scanned(unscanned: Part = RIGHT) -> Pixels:
    """The picture whose unscanned part is white."""
    picture = base().copy()
    picture[unscanned] = 255
    return picture


def valid(unscanned: Part = RIGHT) -> Pixels:
    """Which pixels of it were scanned, bool ``(540, 724)``."""
    mask = np.ones(SIZE, bool)
    mask[unscanned] = False
    return mask


def _luminance(picture: Pixels) -> Pixels:
    return np.asarray(Image.fromarray(picture).convert("L"))


@cache
def _quantised() -> Image.Image:
    return Image.fromarray(base()).quantize(64, method=Image.Quantize.MAXCOVERAGE)


@dataclass(frozen=True)
class Circumstance:
    """One way for a file to be.

    Attributes:
        name: in words.
        write: writes the file, and those that belong to it beside it.
        suffix: of the file's name.
        pixels: makes the uint8 ``(H, W, 3)`` that must be read.
        mpp: um per row and per column that the file states; ``None``: it states none.
        tolerance: mean and largest difference from ``pixels`` in grey values, for what is compressed with loss.
        valid: makes the bool ``(H, W)`` of scanned pixels, where some are not.
        refused: a pattern of the one line that refuses it; then nothing is read.
        warns: a pattern of the warning that reading it gives.
        needs: the codec of imagecodecs without which it cannot be written.
        packages: those of extras without which it cannot be written or read.
    """

    name: str
    write: Write
    suffix: str = ".tif"
    pixels: Callable[[], Pixels] = base
    mpp: tuple[float, float] | None = (MPP, MPP)
    tolerance: tuple[float, float] = (0, 0)
    valid: Callable[[], Pixels] | None = None
    refused: str = ""
    warns: str = ""
    needs: str = ""
    packages: tuple[str, ...] = ()

    @property
    def stem(self) -> str:
        """Its file's name without the ending."""
        return re.sub(r"\W+", "_", self.name).strip("_").lower()

    @property
    def missing(self) -> str:
        """Why it cannot be made here; empty where it can."""
        if absent := [name for name in self.packages if not find_spec(name)]:
            return f"{', '.join(absent)} not installed"
        codec = getattr(imagecodecs, self.needs.upper(), None)
        return f"imagecodecs has no {self.needs}" if self.needs and not (codec and codec.available) else ""

    def make(self, folder: Path) -> Path:
        """Write it into a folder; its path."""
        path = folder / f"{self.stem}{self.suffix}"
        self.write(path)
        return path


def write_reference(circumstance: Circumstance, path: Path, *, tiled: bool = True) -> None:
    """What a circumstance says, as the plainest file that says it: a TIFF without loss and with one level.

    Args:
        circumstance: what to say.
        path: the file.
        tiled: in tiles, as a slide is; else in strips, as an image is.
    """
    _write(circumstance.pixels(), **({} if tiled else {"tile": None}), **_resolution(circumstance.mpp))(path)


# -- plain TIFFs -------------------------------------------------------------------------------------------------------


def _resolution(mpp: tuple[float, float] | None) -> dict[str, Any]:
    """TIFF's tags for um per row and column."""
    if mpp is None:
        return {}
    return {"resolution": (1e4 / mpp[1], 1e4 / mpp[0]), "resolutionunit": "CENTIMETER"}


CM = _resolution((MPP, MPP))
TILED = {"tile": (TILE, TILE), "compression": "zlib"}


def _write(picture: Pixels | Callable[[], Pixels], **options: Any) -> Write:
    """One page; by default of tiles, RGB, with nothing stated."""
    options = {"photometric": "rgb", "metadata": None, **TILED, **options}

    def write(path: Path) -> None:
        tifffile.imwrite(path, picture() if callable(picture) else picture, **options)

    return write


def plain(**options: Any) -> Write:
    """The picture with its resolution in cm."""
    return _write(base, **{**CM, **options})


def planes() -> Pixels:
    return np.ascontiguousarray(np.moveaxis(base(), -1, 0))


def padded_to(picture: Pixels, rows: int, cols: int) -> Pixels:
    """The picture filled up with white to a size."""
    return np.pad(picture, ((0, rows - len(picture)), (0, cols - picture.shape[1]), (0, 0)), constant_values=255)


def reduced(picture: Pixels, factor: int) -> Pixels:
    """Means of ``factor x factor`` pixels; the last row and column stand for those that are missing."""
    rows, cols = (-(-side // factor) for side in picture.shape[:2])
    missing = ((0, rows * factor - len(picture)), (0, cols * factor - picture.shape[1]), (0, 0))
    blocks = np.pad(picture, missing, mode="edge").reshape(rows, factor, cols, factor, 3)
    return np.rint(blocks.mean((1, 3))).astype(np.uint8)


def pyramid(factors: tuple[int, ...], *, padded: bool = False, subifds: bool = False, **options: Any) -> Write:
    """The picture with reduced levels; ``padded``: whose sizes, stated as well, are whole tiles."""

    def write(path: Path) -> None:
        with tifffile.TiffWriter(path, bigtiff=options.get("bigtiff", False)) as tiff:
            layout = {"photometric": "rgb", "metadata": None, **TILED, **CM}
            layout |= {key: value for key, value in options.items() if key != "bigtiff"}
            tile = layout["tile"][0]
            tiff.write(base(), **layout, subifds=len(factors) if subifds else None)
            for factor in factors:
                level = reduced(base(), factor)
                if padded:
                    level = padded_to(level, *(-(-side // tile) * tile for side in level.shape[:2]))
                tiff.write(level, subfiletype=1, **layout)

    return write


def tiles_never_written(unscanned: Part = RIGHT) -> Write:
    """Tiles in the unscanned part were never written."""
    rows, cols = (-(-side // TILE) for side in SIZE)

    def tiles() -> Iterator[bytes]:
        whole = padded_to(base(), rows * TILE, cols * TILE)
        for row in range(rows):
            for col in range(cols):
                tile = whole[row * TILE :, col * TILE :][:TILE, :TILE]
                written = valid(unscanned)[row * TILE, col * TILE]
                yield imagecodecs.zlib_encode(np.ascontiguousarray(tile).tobytes()) if written else b""

    layout = {"photometric": "rgb", "metadata": None, **TILED, **CM}
    return lambda path: tifffile.imwrite(path, tiles(), shape=(*SIZE, 3), dtype=np.uint8, **layout)


def black_margin() -> Pixels:
    """The picture whose unscanned part is black."""
    picture = base().copy()
    picture[RIGHT] = 0
    return picture


def transparent_margin() -> Pixels:
    """The picture whose unscanned part is transparent, with black underneath."""
    return np.dstack([black_margin(), np.where(valid(), 255, 0).astype(np.uint8)])


def torn(write: Write, kept: float = 0.7) -> Write:
    """A download that broke off."""

    def write_part(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])

    return write_part


def palette(path: Path) -> None:
    colours = np.zeros((256, 3), np.uint16)
    listed = np.array(_quantised().getpalette(), np.uint16).reshape(-1, 3)
    colours[: len(listed)] = listed * 257
    _write(np.asarray(_quantised()), photometric="palette", colormap=colours.T, **CM)(path)


# -- OME-TIFF, ImageJ --------------------------------------------------------------------------------------------------


def ome(picture: Callable[[], Pixels], axes: str, size: Any = MPP, unit: str | None = "µm", **options: Any) -> Write:
    """An OME-TIFF; ``size`` per row and column in ``unit``, by default 0.25 um; ``None``: nothing stated."""
    size_y, size_x = size if isinstance(size, tuple) else (size, size)
    metadata: dict[str, Any] = {"axes": axes}
    if size is not None:
        metadata |= {"PhysicalSizeX": size_x, "PhysicalSizeY": size_y}
        metadata |= {f"PhysicalSize{side}Unit": unit for side in "XY" if unit}
    levels = options.pop("factors", ())
    default = {"photometric": "rgb" if axes.endswith("S") else "minisblack", **TILED}

    def write(path: Path) -> None:
        with tifffile.TiffWriter(path, ome=True) as tiff:
            array, layout = picture(), default | options
            tiff.write(array, metadata=metadata, subifds=len(levels) or None, **layout)
            for factor in levels:
                if axes == "CYX":
                    small = np.moveaxis(reduced(np.moveaxis(array, 0, -1), factor), -1, 0)
                else:
                    small = reduced(array, factor)
                tiff.write(small, subfiletype=1, metadata=None, **layout)

    return write


def channels(count: int) -> Callable[[], Pixels]:
    """The picture's planes over and over, ``(count, 540, 724)``."""
    return lambda: np.stack([planes()[k % 3] for k in range(count)])


def stack(count: int) -> Callable[[], Pixels]:
    """The picture over and over, ``(count, 540, 724, 3)``."""
    return lambda: np.stack([base()] * count)


def imagej(picture: Callable[[], Pixels], per_unit: float, unit: str, axes: str | None = None) -> Write:
    """A TIFF of ImageJ, whose resolution is in a unit of its own."""
    metadata = {"unit": unit} | ({"axes": axes} if axes else {})

    def write(path: Path) -> None:
        tifffile.imwrite(path, picture(), imagej=True, resolution=(per_unit, per_unit), metadata=metadata)

    return write


# -- vendors -----------------------------------------------------------------------------------------------------------


def aperio(mpp: float = MPP, **options: Any) -> Write:
    """What Aperio's scanners write."""
    rows, cols = SIZE
    text = f"Aperio Image Library v11.2.1 \n{cols}x{rows} [0,0 {cols}x{rows}] (256x256) JPEG/RGB Q=95"
    return _write(base, description=f"{text}|AppMag = 40|MPP = {mpp:.4f}|Filename = a", **{**JPEG, **options})


SCN_CORNER = (512, 768)  # px of the slide's plane at which its scanned part begins
_SCN = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection sizeX="{0}" sizeY="{1}"><barcode>a</barcode>
<image><creationDate>2020-01-01T00:00:00Z</creationDate><device model="Leica SCN400" version="1.5"/>
<pixels sizeX="{2}" sizeY="{3}"><dimension sizeX="{2}" sizeY="{3}" r="0" ifd="0"/></pixels>
<view sizeX="{4}" sizeY="{5}" offsetX="{6}" offsetY="{7}" spacingZ="0"/>
<scanSettings><objectiveSettings><objective>40</objective></objectiveSettings><illuminationSettings>
<numericalAperture>0.65</numericalAperture><illuminationSource>brightfield</illuminationSource></illuminationSettings>
</scanSettings></image></collection></scn>"""


def leica(path: Path) -> None:
    """A slide whose plane is six times larger than what was scanned of it."""
    nm = round(MPP * 1000)
    (rows, cols), (top, left) = SIZE, SCN_CORNER
    plane = (3000 * nm, 1600 * nm)
    text = _SCN.format(*plane, cols, rows, cols * nm, rows * nm, left * nm, top * nm)
    options = {**CM, "description": text}
    tifffile.imwrite(path, base(), bigtiff=True, photometric="rgb", metadata=None, **{**TILED, **options})


def hamamatsu(path: Path) -> None:
    """A text file that names the JPEGs of a slide, its map and its label."""
    names = {"ImageFile": "image", "MapFile": "map", "MacroImage": "macro"}
    names = {key: f"{path.stem}-{name}.jpg" for key, name in names.items()}
    picture = Image.fromarray(base()[:512, :704])  # of which image and map are whole blocks
    quality = {"quality": 95, "subsampling": 0}
    picture.save(path.with_name(names["ImageFile"]), restart_marker_blocks=4, **quality)
    picture.reduce(8).save(path.with_name(names["MapFile"]), restart_marker_rows=1, **quality)
    picture.reduce(8).save(path.with_name(names["MacroImage"]), quality=90)
    cols, rows = picture.size
    size = {"PhysicalWidth": round(cols * MPP * 1000), "PhysicalHeight": round(rows * MPP * 1000)}
    lines = {"NoLayers": 1, "NoJpegColumns": 1, "NoJpegRows": 1, **names, "OptimisationFile": "", **size}
    lines |= {"SourceLens": 40, "PhysicalMacroWidth": 1, "PhysicalMacroHeight": 1}
    text = "".join(f"{key}={value}\n" for key, value in lines.items())
    path.write_text(f"[Virtual Microscope Specimen]\n{text}")


def vms_part() -> Pixels:
    return base()[:512, :704]


# -- images ------------------------------------------------------------------------------------------------------------


def image(picture: Callable[[], Pixels] = base, **options: Any) -> Write:
    """By Pillow."""
    return lambda path: Image.fromarray(picture()).save(path, **options)


def jpeg_density(path: Path) -> None:
    """In JFIF's dots per centimetre, which Pillow cannot write: per inch they are too many for its 16 bits."""
    Image.fromarray(base()).save(path, quality=95, subsampling=0)
    content = bytearray(path.read_bytes())
    at = content.index(b"JFIF\0") + 7
    content[at : at + 5] = b"\x02" + round(DENSITY).to_bytes(2, "big") * 2
    path.write_bytes(content)


def turned(path: Path) -> None:
    """As a camera writes it that was held upright: lying, with the note to turn it by a quarter."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(np.rot90(base()))).save(path, quality=95, subsampling=0, exif=exif)


# -- the table ---------------------------------------------------------------------------------------------------------

# -- other programs' formats -------------------------------------------------------------------------------------------

DICOM, ZARR = {"packages": ("pydicom", "wsidicom")}, {"packages": ("zarr",)}


def dicom(name: str, **options: Any) -> Write:
    """A slide of one level in DICOM, by the name of a transfer syntax of pydicom."""

    def write(path: Path) -> None:
        import pydicom.uid

        from tests.formats.dicom_slides import write_slide

        options["syntax"] = getattr(pydicom.uid, name)
        with TemporaryDirectory() as folder:
            write_slide(Path(folder), base(), levels=(1,), overview=False, tile_px=TILE, **options)
            shutil.move(Path(folder) / "level_1.dcm", path)

    return write


def zarr(**options: Any) -> Write:
    """OME-Zarr with a reduced level."""

    def write(path: Path) -> None:
        from tests.formats.zarr_slides import write_zarr

        def shrink(picture: Pixels, factor: int) -> Pixels:
            return reduced(picture, factor) if factor > 1 else picture

        write_zarr(path, base(), chunk=TILE, shrink=shrink, mpp=(MPP, MPP), **options)

    return write


def volume(picture: Callable[[], Pixels] = base, mpp: float | None = MPP, turned: float = 0.0) -> Write:
    """An image as ITK writes it; ``turned`` by an angle, rad."""

    def write(path: Path) -> None:
        import itk

        array = picture()
        image = itk.image_from_array(array, ttype=itk.Image[itk.RGBPixel[itk.UC], 2] if array.shape[-1] == 3 else None)
        if mpp:
            image.SetSpacing([mpp / 1000] * image.GetImageDimension())
        if turned:
            image.SetDirection(np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]]))
        itk.imwrite(image, str(path))

    return write


LOSSY = (2.0, 30.0)
SOME_LOSS = (3.0, 60.0)  # colours of 2 x 2 px
NM, MM, INCH, CENTIMETRE = 1000, 1e-3, 25_400, 10_000
TURNED_TIFF = {"extratags": [(274, "H", 1, 6, True)]}
OTHER_CHANNELS = "channel"


CIRCUMSTANCES: tuple[Circumstance, ...] = (
    # levels
    Circumstance("one level in tiles", plain()),
    Circumstance("levels", pyramid((2, 4))),
    *(
        Circumstance(
            f"levels padded to whole tiles, factor {factor}",
            pyramid(tuple(factor**k for k in range(1, 5) if factor**k <= 16), padded=True, tile=(128, 128)),
        )
        for factor in (2, 3, 4)
    ),
    Circumstance("levels in SubIFDs", pyramid((2, 4), subifds=True)),
    Circumstance("BigTIFF", pyramid((2, 4), bigtiff=True)),
    Circumstance("one tile alone", _write(cut, **CM), pixels=cut),
    Circumstance("a tile larger than the image", _write(cut, tile=(512, 512), **CM), pixels=cut),
    Circumstance("strips", plain(tile=None, rowsperstrip=64)),
    Circumstance("one strip", plain(tile=None, rowsperstrip=SIZE[0], compression=None)),
    Circumstance("big endian", _write(base, byteorder=">", **CM)),
    Circumstance("predictor", plain(predictor=True)),
    # samples
    Circumstance("separate planes", _write(planes, planarconfig="separate", **CM)),
    Circumstance("separate planes in strips", _write(planes, planarconfig="separate", tile=None, **CM)),
    Circumstance(
        "white is zero", _write(lambda: 255 - _luminance(base()), photometric="miniswhite", **CM), pixels=grey
    ),
    Circumstance("palette", palette, pixels=few_colours),
    Circumstance("grey", _write(lambda: _luminance(base()), photometric="minisblack", **CM), pixels=grey),
    Circumstance("16 bits", _write(lambda: base().astype(np.uint16) * 257, **CM)),
    Circumstance("16 bits in strips", _write(lambda: base().astype(np.uint16) * 257, tile=None, **CM)),
    # unscanned
    Circumstance(
        "transparent parts",
        _write(transparent_margin, extrasamples=["unassalpha"], **CM),
        pixels=scanned,
        valid=valid,
    ),
    Circumstance(
        "transparent parts of a PNG",
        image(transparent_margin),
        ".png",
        pixels=scanned,
        valid=valid,
        mpp=None,
    ),
    Circumstance("last tiles never written", tiles_never_written(), pixels=scanned, valid=valid),
    Circumstance(
        "first tiles never written",
        tiles_never_written(LEFT),
        pixels=partial(scanned, LEFT),
        valid=partial(valid, LEFT),
    ),
    Circumstance("black margin", _write(black_margin, **CM), pixels=scanned, valid=valid),
    Circumstance(
        "black margin of a JPEG",
        _write(black_margin, **CM, **JPEG),
        pixels=scanned,
        valid=valid,
        tolerance=SOME_LOSS,
    ),
    Circumstance("part of the plane scanned", leica, ".scn"),
    Circumstance("part of the plane scanned, as TIFF", leica, ".tif"),
    # compressions
    *(
        Circumstance(
            f"compression {name or 'none'}",
            plain(compression=name, **({"compressionargs": more} if more else {})),
            needs=needs,
        )
        for name, more, needs in (
            (None, {}, ""),
            ("lzw", {}, "lzw"),
            ("zlib", {}, ""),
            ("zstd", {}, "zstd"),
            ("packbits", {}, ""),
            ("lzma", {}, "lzma"),
            ("jpeg2000", {"level": 0, "reversible": True}, "jpeg2k"),
            ("jpegxl", {"lossless": True}, "jpegxl"),
            ("webp", {"lossless": True}, "webp"),
            ("lerc", {"level": 0}, "lerc"),
        )
    ),
    Circumstance(
        "strips in JPEG 2000",
        plain(tile=None, rowsperstrip=64, compression="jpeg2000", compressionargs={"level": 0}),
        needs="jpeg2k",
    ),
    Circumstance("compression JPEG of RGB", plain(**JPEG_OF_RGB), tolerance=LOSSY),
    Circumstance("compression JPEG of YCbCr", plain(subsampling=(1, 1), **JPEG), tolerance=LOSSY),
    Circumstance("compression JPEG of YCbCr, colours halved", plain(subsampling=(2, 2), **JPEG), tolerance=SOME_LOSS),
    Circumstance("strips in JPEG", plain(tile=None, rowsperstrip=64, **JPEG), tolerance=LOSSY),
    # OME-TIFF
    Circumstance("OME-TIFF", ome(base, "YXS"), ".ome.tif"),
    Circumstance("OME-TIFF in strips", ome(base, "YXS", tile=None), ".ome.tif"),
    Circumstance("OME-TIFF, colours as three planes", ome(planes, "CYX"), ".ome.tif"),
    Circumstance("OME-TIFF, colours as three planes in strips", ome(planes, "CYX", tile=None), ".ome.tif"),
    Circumstance("OME-TIFF with levels", ome(base, "YXS", factors=(2, 4)), ".ome.tif"),
    Circumstance("OME-TIFF, three planes with levels", ome(planes, "CYX", factors=(2, 4)), ".ome.tif"),
    Circumstance(
        "OME-TIFF, separate planes", ome(planes, "SYX", photometric="rgb", planarconfig="separate"), ".ome.tif"
    ),
    Circumstance("OME-TIFF in nm", ome(base, "YXS", MPP * NM, "nm"), ".ome.tif"),
    Circumstance("OME-TIFF in mm", ome(base, "YXS", MPP * MM, "mm"), ".ome.tif"),
    Circumstance("OME-TIFF without a unit", ome(base, "YXS", MPP, None), ".ome.tif"),
    Circumstance("OME-TIFF in pixels", ome(base, "YXS", 1.0, "pixel"), ".ome.tif", mpp=None),
    Circumstance("OME-TIFF without a size", ome(base, "YXS", None), ".ome.tif", mpp=None),
    Circumstance("OME-TIFF at .5 um", ome(base, "YXS", 0.5), ".ome.tif", mpp=(0.5, 0.5)),
    Circumstance("OME-TIFF of .25 x .5 um", ome(base, "YXS", (0.25, 0.5)), ".ome.tif", mpp=(0.25, 0.5)),
    *(
        Circumstance(f"OME-TIFF of {count} channels", ome(channels(count), "CYX"), ".ome.tif", refused=OTHER_CHANNELS)
        for count in (2, 4, 5)
    ),
    Circumstance(
        "OME-TIFF of 16-bit channels",
        ome(lambda: channels(4)().astype(np.uint16) * 257, "CYX"),
        ".ome.tif",
        refused=OTHER_CHANNELS,
    ),
    Circumstance("OME-TIFF, Z-stack", ome(stack(4), "ZYXS"), ".ome.tif", refused="stack of"),
    Circumstance("OME-TIFF, Z-stack in strips", ome(stack(2), "ZYXS", tile=None), ".ome.tif", refused="stack of"),
    Circumstance("OME-TIFF, Z-stack of three grey planes", ome(planes, "ZYX"), ".ome.tif", refused="stack of"),
    Circumstance("OME-TIFF, time series", ome(stack(4), "TYXS"), ".ome.tif", refused="time series"),
    Circumstance("OME-TIFF, time series of three grey planes", ome(planes, "TYX"), ".ome.tif", refused="time series"),
    # resolution
    Circumstance("resolution in inches", _write(base, resolution=(25_400 / MPP,) * 2, resolutionunit="INCH")),
    Circumstance("resolution without a unit", _write(base, resolution=(DENSITY,) * 2, resolutionunit="NONE"), mpp=None),
    Circumstance("resolution of a screen", _write(base, resolution=(72, 72), resolutionunit="INCH"), mpp=None),
    Circumstance("no resolution", _write(base), mpp=None),
    Circumstance("no resolution in strips", _write(base, tile=None), mpp=None),
    Circumstance("rows of .25, columns of .5 um", _write(base, **_resolution((0.25, 0.5))), mpp=(0.25, 0.5)),
    Circumstance(
        "rows of .5, columns of .25 um, in strips", _write(base, tile=None, **_resolution((0.5, 0.25))), mpp=(0.5, 0.25)
    ),
    Circumstance(
        "OME and tags disagree",
        ome(base, "YXS", **_resolution((0.5, 0.5))),
        ".ome.tif",
        warns=r"0\.25\b.*0\.5\b",
    ),
    Circumstance(
        "Aperio and tags disagree", aperio(**_resolution((0.5, 0.5))), ".svs", tolerance=LOSSY, warns=r"0\.25\b.*0\.5\b"
    ),
    Circumstance("ImageJ in microns", imagej(base, 1 / MPP, "micron")),
    Circumstance("ImageJ in um", imagej(base, 1 / MPP, "\\u00B5m")),
    Circumstance("ImageJ in inches", imagej(base, INCH / MPP, "inch")),
    Circumstance("ImageJ in cm", imagej(base, CENTIMETRE / MPP, "cm")),
    Circumstance("ImageJ in pixels", imagej(base, 1, "pixel"), mpp=None),
    Circumstance("ImageJ, colours as three channels", imagej(planes, 1 / MPP, "micron", "CYX")),
    Circumstance("ImageJ, five channels", imagej(channels(5), 1 / MPP, "micron", "CYX"), refused=OTHER_CHANNELS),
    Circumstance("ImageJ, Z-stack of three grey planes", imagej(planes, 1 / MPP, "micron", "ZYX"), refused="stack of"),
    # vendors
    Circumstance("Aperio", aperio(), ".svs", tolerance=LOSSY),
    Circumstance("Aperio, as TIFF", aperio(), ".tif", tolerance=LOSSY),
    Circumstance("Hamamatsu VMS", hamamatsu, ".vms", pixels=vms_part, tolerance=LOSSY),
    # other programs' formats
    Circumstance("DICOM", dicom("ExplicitVRLittleEndian"), ".dcm", **DICOM),
    Circumstance("DICOM in JPEG 2000, sparse", dicom("JPEG2000Lossless", sparse=True), ".dcm", **DICOM),
    Circumstance("DICOM in JPEG-LS, sparse", dicom("JPEGLSLossless", sparse=True), ".dcm", **DICOM),
    Circumstance("DICOM, focal planes", dicom("JPEG2000Lossless", planes=2), ".dcm", refused="stack of", **DICOM),
    Circumstance("OME-Zarr 0.4 with levels", zarr(version="0.4"), ".ome.zarr", **ZARR),
    Circumstance("OME-Zarr 0.5 with levels", zarr(), ".ome.zarr", **ZARR),
    Circumstance("OME-Zarr without a unit", zarr(unit=None), ".ome.zarr", mpp=None, **ZARR),
    Circumstance("OME-Zarr, Z-stack", zarr(sizes={"z": 5}), ".ome.zarr", refused="stack of", **ZARR),
    Circumstance("NIfTI", volume(), ".nii.gz"),
    Circumstance("NRRD", volume(), ".nrrd"),
    Circumstance("NRRD without a spacing", volume(mpp=None), ".nrrd", mpp=None),
    Circumstance("MetaImage", volume(), ".mha"),
    Circumstance("NIfTI, turned", volume(turned=0.1), ".nii", refused="sheared, turned"),
    Circumstance("NRRD, Z-stack", volume(lambda: np.stack([_luminance(base())] * 5)), ".nrrd", refused="stack of"),
    # images
    Circumstance("PNG", image(), ".png", mpp=None),
    Circumstance("PNG with a density", image(dpi=(25_400 / MPP,) * 2), ".png"),
    Circumstance("BMP", image(), ".bmp", mpp=None),
    Circumstance("JPEG", image(quality=95, subsampling=0), ".jpg", tolerance=LOSSY, mpp=None),
    Circumstance("JPEG with a density", jpeg_density, ".jpg", tolerance=LOSSY),
    Circumstance("JPEG of a turned camera", turned, ".jpg", tolerance=LOSSY, mpp=None),
    Circumstance(
        "TIFF of a turned camera",
        _write(lambda: np.ascontiguousarray(np.rot90(base())), tile=None, **TURNED_TIFF, **CM),
    ),
    Circumstance(
        "tiled TIFF of a turned camera", _write(lambda: np.ascontiguousarray(np.rot90(base())), **TURNED_TIFF, **CM)
    ),
    *(
        Circumstance(f"torn {name}", torn(write), suffix, refused="readable|a whole file")
        for name, write, suffix in (
            ("TIFF in tiles", plain(), ".tif"),
            ("TIFF in strips", plain(tile=None, rowsperstrip=64), ".tif"),
            ("TIFF without compression", plain(tile=None, compression=None), ".tif"),
            ("TIFF in tiles of JPEG 2000", plain(compression="jpeg2000", compressionargs={"level": 0}), ".tif"),
            ("TIFF with levels", pyramid((2, 4)), ".tif"),
            ("SVS", aperio(), ".svs"),
            ("SCN", leica, ".scn"),
            ("PNG", image(), ".png"),
            ("JPEG", image(quality=95), ".jpg"),
            ("NIfTI", volume(), ".nii.gz"),
            ("NRRD", volume(), ".nrrd"),
        )
    ),
    Circumstance("glass with a blue cast", _write(cast, **CM), pixels=cast),
)
BY_NAME: Mapping[str, Circumstance] = {circumstance.name: circumstance for circumstance in CIRCUMSTANCES}


# -- the documentation's table -----------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs/reference/inputs.md"
BEGIN, END = (
    "<!-- circumstances: python -m tests.formats.torture writes this table -->",
    "<!-- end of circumstances -->",
)


def outcome(circumstance: Circumstance) -> tuple[str, str]:
    """What is read of a file, and at which resolution, in words."""
    if circumstance.refused:
        return "refused in one line", ""
    pixels = "as it was" if circumstance.tolerance == (0, 0) else "as it was, but for the compression"
    pixels = {grey: "as grey", few_colours: "in its colours", vms_part: pixels}.get(circumstance.pixels, pixels)
    if circumstance.valid:
        pixels += "; what was not scanned is white and no area"
    if circumstance.mpp is None:
        return pixels, "none: pixels are counted, no um²"
    row, col = circumstance.mpp
    resolution = f"{row:g} um/px" if row == col else f"{row:g} um down, {col:g} um across"
    return pixels, resolution + ("; warning" if circumstance.warns else "")


def page() -> str:
    """The page with the table as it must be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    lines = ["| file | pixels | resolution |", "|---|---|---|"]
    lines += [f"| {one.name} (`{one.suffix}`) | {' | '.join(outcome(one))} |" for one in CIRCUMSTANCES]
    return f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
