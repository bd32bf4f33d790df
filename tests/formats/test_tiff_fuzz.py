"""TIFFs of any layout against tifffile's own full read.

``MONAI_EXT_FUZZ_CASES=10000`` tries as many, outside CI.
"""

import os
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from monai_ext.formats import SlideReader, read_field
from tests.formats.torture import padded_to, reduced

CASES = int(os.environ.get("MONAI_EXT_FUZZ_CASES", "60"))
FUZZ = settings(
    max_examples=CASES,
    deadline=None,
    derandomize=CASES <= 60,  # CI gives the same answer twice
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
DECODERS = 3  # grey values by which two JPEG decoders may differ
ROUNDED = 2  # grey values; OpenSlide multiplies colours by their opacity first
REDUCED = 1.5  # grey values, mean difference of a level from the mean of what it stands for
SLANTED = 6.0  # the same where a factor is no whole number of the grid's
MPP = 0.25

LOSSLESS = {"none": None, **{name: name for name in ("zlib", "lzw", "packbits", "zstd", "lzma")}}
MODERN = {
    "jpeg2000": {"compression": "jpeg2000", "compressionargs": {"level": 0}},
    "jpegxl": {"compression": "jpegxl", "compressionargs": {"lossless": True}},
    "webp": {"compression": "webp", "compressionargs": {"lossless": True}},
    "lerc": {"compression": "lerc", "compressionargs": {"level": 0}},
    "jpeg": {"compression": "jpeg", "compressionargs": {"level": 90}},
}
OF_CODEC = {"jpeg2000": "JPEG2K", "jpegxl": "JPEGXL", "webp": "WEBP", "lerc": "LERC", "zstd": "ZSTD", "lzma": "LZMA"}
COMPRESSIONS = [
    name for name in (*LOSSLESS, *MODERN) if name not in OF_CODEC or getattr(imagecodecs, OF_CODEC[name]).available
]
SAMPLES = ("rgb", "separate", "grey", "white is zero", "palette", "rgba", "rgb16", "grey16")
DEEP = {"rgb16", "grey16"}
#: What a compression cannot hold.
UNFIT = {
    "webp": set(SAMPLES) - {"rgb", "rgba"},
    "jpeg": {"grey", "rgba", "palette", "separate", "white is zero", *DEEP},
    "lerc": {"palette"},
    "jpegxl": {"palette", "separate", "white is zero", "rgba"},
    "jpeg2000": {"palette", "white is zero", "rgba"},
}


@dataclass(frozen=True)
class Layout:
    """How a file is written."""

    shape: tuple[int, int]
    samples: str
    compression: str
    tile: tuple[int, int] | None
    rows_per_strip: int
    predictor: bool
    bigtiff: bool
    byteorder: str
    factor: int
    levels: int
    padded: bool
    subifds: bool
    unit: str
    per_um: tuple[float, float]
    seed: int

    @property
    def lossy(self) -> bool:
        return self.compression == "jpeg"


@st.composite
def layouts(draw, least: int = 1, most: int = 260) -> Layout:
    samples = draw(st.sampled_from(SAMPLES))
    compression = draw(st.sampled_from([name for name in COMPRESSIONS if samples not in UNFIT.get(name, ())]))
    side = st.integers(least, most)
    side |= st.sampled_from([side for side in (1, 16, 64, 128, 255, 256, 257, 512) if least <= side <= most])
    tile = draw(st.none() | st.tuples(*[st.sampled_from([16, 32, 64, 128, 256])] * 2))
    square = draw(st.booleans())
    per_um = draw(st.sampled_from([2.0, 4.0, 5.0]))
    shape = draw(side), draw(side)
    return Layout(
        shape=tuple(max(8, n) for n in shape) if compression == "jpeg" else shape,  # whose encoder refuses one pixel
        samples=samples,
        compression=compression,
        tile=(tile[0], tile[0]) if tile and square else tile,
        rows_per_strip=draw(st.integers(1, 300)),
        predictor=draw(st.booleans()) and compression in ("zlib", "lzw", "zstd", "lzma") and samples != "palette",
        bigtiff=draw(st.booleans()),
        byteorder="<" if compression in MODERN else draw(st.sampled_from("<>")),  # their encoders know no other
        factor=draw(st.sampled_from([2, 3, 4])),
        levels=draw(st.integers(0, 3)),
        padded=draw(st.booleans()),
        subifds=draw(st.booleans()),
        unit=draw(st.sampled_from(["CENTIMETER", "INCH", "NONE"])),
        per_um=(per_um, per_um),
        seed=draw(st.integers(0, 2**16)),
    )


def picture(layout: Layout) -> np.ndarray:
    """A smooth colour picture, nowhere black; uint8 ``(H, W, 3)``."""
    rng = np.random.default_rng(layout.seed)
    size = [-(-side // 12) + 1 for side in layout.shape]
    coarse = rng.integers(60, 256, (*size, 3)).astype(np.float32)
    return np.rint(cv2.resize(coarse, layout.shape[::-1], interpolation=cv2.INTER_LINEAR)).astype(np.uint8)


def stored(image: np.ndarray, layout: Layout) -> tuple[np.ndarray, dict]:
    """The array that is written, and what the writer must be told of it."""
    grey = image[..., 1]
    # a ramp for each channel, so that the mean of two entries is the colour between them
    colours = (np.arange(256) * np.array([[1.0], [0.9], [0.8]])).astype(np.uint16) * 257
    alpha = np.uint8(200)
    planes, rgba = (
        np.ascontiguousarray(np.moveaxis(image, -1, 0)),
        np.dstack([image, np.broadcast_to(alpha, grey.shape)]),
    )
    return {
        "rgb": lambda: (image, {"photometric": "rgb"}),
        "separate": lambda: (planes, {"photometric": "rgb", "planarconfig": "separate"}),
        "grey": lambda: (grey, {"photometric": "minisblack"}),
        "white is zero": lambda: (255 - grey, {"photometric": "miniswhite"}),
        "palette": lambda: (grey, {"photometric": "palette", "colormap": colours}),
        "rgba": lambda: (rgba, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
        "rgb16": lambda: (image.astype(np.uint16) * 257, {"photometric": "rgb"}),
        "grey16": lambda: (grey.astype(np.uint16) * 257, {"photometric": "minisblack"}),
    }[layout.samples]()  # fmt: skip


def level_size(layout: Layout, factor: int) -> tuple[int, int]:
    """Rows and columns of a reduced level, filled up to whole tiles where the layout is."""
    sides = (-(-side // factor) for side in layout.shape)
    if not layout.padded:
        return tuple(sides)
    return tuple(-(-side // length) * length for side, length in zip(sides, layout.tile, strict=True))


def factors(layout: Layout) -> list[int]:
    """Of the reduced levels: those that are smaller than level 0, and that no other whole factor would make so."""
    kept = []
    for factor in (layout.factor**power for power in range(1, layout.levels + 1)):
        size = level_size(layout, factor)
        smaller = all(side < full for side, full in zip(size, layout.shape, strict=True))
        others = range(1, factor)
        alike = any(
            all(abs(full / other - side) < 1 for side, full in zip(size, layout.shape, strict=True)) for other in others
        )
        if not smaller or min(layout.shape) < 2 * factor or (layout.padded and alike):
            break
        kept.append(factor)
    return kept if layout.tile else []


def level(layout: Layout, factor: int) -> np.ndarray:
    """A reduced level as it is encoded."""
    return padded_to(reduced(picture(layout), factor), *level_size(layout, factor))


def jpeg_loss(path: Path, layout: Layout, factor: int) -> np.ndarray:
    """What JPEG took from each value of a reduced level, which was compressed by itself; by tifffile's own read.

    No constant: at quality 90 it is 3.7, 5.8 and 8.4 grey values on average for factors 2, 3 and 4, and up to 13.9 in a
    corner of 400 layouts, as these pictures' colours change from px to px and JPEG keeps them for 2 x 2 px (2.1, 2.7
    and 3.5 with all colours kept). What is read differs by less than this from the mean of what it stands for, in all.
    """
    with tifffile.TiffFile(path) as tiff:
        pages = tiff.pages[0].pages if layout.subifds else tiff.pages[1:]
        decoded = pages[factors(layout).index(factor)].asarray()
    rows, cols = (-(-side // factor) for side in layout.shape)
    return np.abs(decoded.astype(float) - level(layout, factor))[:rows, :cols]


def write(path: Path, layout: Layout) -> None:
    scale = {"CENTIMETER": 1e4, "INCH": 25_400, "NONE": 1}[layout.unit]
    compression = MODERN.get(layout.compression) or {"compression": LOSSLESS[layout.compression]}
    resolution = {"resolution": tuple(scale * n for n in layout.per_um), "resolutionunit": layout.unit}
    place = {"tile": layout.tile} if layout.tile else {"rowsperstrip": min(layout.rows_per_strip, layout.shape[0])}
    options = {"metadata": None, "predictor": layout.predictor, **place, **compression}
    image, levels = picture(layout), factors(layout) if layout.tile else []
    with tifffile.TiffWriter(path, bigtiff=layout.bigtiff, byteorder=layout.byteorder) as tiff:
        array, kind = stored(image, layout)
        tiff.write(array, subifds=len(levels) if levels and layout.subifds else None, **kind, **options, **resolution)
        for factor in levels:
            array, kind = stored(level(layout, factor), layout)
            tiff.write(array, subfiletype=1, **kind, **options)


def full_read(path: Path) -> np.ndarray:
    """Level 0 by tifffile alone, as RGB on white; the rules of TIFF 6.0, one after the other."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        array = page.asarray()
        if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1:
            array = np.moveaxis(array, 0, -1)
        if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            array = np.moveaxis(page.colormap[:, array], 0, -1)
        if array.dtype == np.uint16:
            array = (array >> 8).astype(np.uint8)
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            array = 255 - array
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[-1] == 4:
        part = array[..., 3:].astype(float) / 255
        array = array[..., :3] * part + 255 * (1 - part)
    return np.broadcast_to(array, (*array.shape[:2], 3)).astype(float)


def assert_same(pixels: np.ndarray, expected: np.ndarray, layout: Layout) -> None:
    assert pixels.shape == expected.shape
    assert np.abs(pixels - expected).max() <= (DECODERS if layout.lossy else ROUNDED if layout.samples == "rgba" else 0)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "a.tif"


def last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, 0, -1)


@FUZZ
@given(layout=layouts())
def test_level_0_is_what_tifffile_reads(path, layout):
    write(path, layout)
    expected = full_read(path)
    event(layout.compression)
    event(layout.samples)
    assert expected.shape == (*layout.shape, 3), asdict(layout)
    field = read_field(path)
    assert_same(last(field.image), expected, layout)
    known = layout.unit != "NONE"
    assert field.mpp == (pytest.approx(1 / layout.per_um[0], rel=1e-4) if known else None)
    rows, cols = layout.shape
    for backend in ("openslide", "tifffile"):
        reader = SlideReader(path, mpp=MPP, backend=backend)
        whole = last(reader.read(0, 0, rows, cols))
        assert_same(whole, expected, layout)
        row, col, height, width = rows // 3, cols // 4, rows // 2 + 5, cols // 2 + 5
        part = np.pad(whole, ((0, 9), (0, 9), (0, 0)), constant_values=255)[row : row + height, col : col + width]
        np.testing.assert_array_equal(last(reader.read(row, col, *part.shape[:2])), part)


@pytest.mark.slow
@FUZZ
@given(layout=layouts(least=64, most=520).filter(lambda layout: layout.tile and factors(layout)))
def test_reduced_levels_lie_where_they_belong(path, layout):
    """At every reduction, up to the far corner, whatever the levels' sizes were padded to."""
    write(path, layout)
    full = full_read(path)
    for backend, factor in product(("openslide", "tifffile"), (2, 3, 4, 6)):
        reader = SlideReader(path, MPP * factor, MPP, backend)
        rows, cols = (side // factor for side in layout.shape)
        pixels = last(reader.read(0, 0, rows, cols)).astype(float)
        blocks = full[: rows * factor, : cols * factor].reshape(rows, factor, cols, factor, 3).mean((1, 3))
        used = round(reader.downsamples[reader.level])
        event(f"level of {used}")
        limit = REDUCED if factor % used == 0 else SLANTED
        loss = jpeg_loss(path, layout, used) if layout.lossy and used > 1 else np.zeros((1, 1, 3))
        for lengths in product((None, 8), repeat=2):
            corner = tuple(slice(length and -length, None) for length in lengths)
            behind = tuple(slice(length and -(length * factor // used + 1), None) for length in lengths)
            off = np.abs(pixels[corner] - blocks[corner]).mean()
            assert off <= limit + loss[behind].mean(), (backend, factor)
