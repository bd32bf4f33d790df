import math
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import ClassVar

import cv2
import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from monai_ext.base.errors import InputError
from monai_ext.formats.image import read_field
from monai_ext.formats.reader import SlideReader, check_slide
from tests.slides.conftest import paint, write_tiff

SCALE_TOL = 1e-3  # relative: the grid is a whole number of 1024ths of a level
WAVE_TOL = 4.0  # grey values of a wave of amplitude 100 and 60 px: a shift of .4 px
FIELD_TOL = 1.5  # mean grey values between two ways of averaging

IMAGE = paint(700, 900)


def wave(shape, scale):
    """A pattern that tells its own place: sines along rows and columns, sampled at px of ``scale`` level-0 px."""
    rows, cols = ((np.arange(side) + 0.5) * scale for side in shape)
    rows, cols = 128 + 100 * np.sin(rows * 2 * np.pi / 60), 128 + 100 * np.sin(cols * 2 * np.pi / 60)
    both = np.broadcast_arrays(rows[:, None], cols[None], np.float64(128))
    return np.stack(both, axis=-1)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_tiff(tmp_path_factory.mktemp("slide") / "a.tif", IMAGE, 0.5, levels=3)


@pytest.mark.parametrize(("factor", "off"), [((3, 2), 6.0), ((9, 5), 5.5), ((5, 2), 6.5)])
def test_fractions_of_pixels_are_averaged(tmp_path, factor, off):
    """Of noise, to some grey values; cubic filters sharpen, and are off by 1.3 times as much or more."""
    longer, shorter = factor
    image = np.random.default_rng(0).integers(0, 256, (90, 180, 3)).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    fine = image.astype(float).repeat(shorter, 0).repeat(shorter, 1)
    shape = (fine.shape[0] // longer, fine.shape[1] // longer)
    mean = fine.reshape(shape[0], longer, shape[1], longer, 3).mean((1, 3))
    pixels = SlideReader(tmp_path / "a.png", longer / shorter, mpp=1.0).read(0, 0, *shape)
    assert np.abs(np.moveaxis(pixels, 0, -1) - mean).mean() < off


@pytest.mark.parametrize("backend", ["openslide", "tifffile"])
def test_geometry(slide, backend):
    reader = SlideReader(slide, 1.0, backend=backend)
    assert reader.base_mpp == pytest.approx(0.5)
    assert (reader.scale, reader.level, reader.shape, reader.level0_shape) == (2.0, 1, (350, 450), (700, 900))
    np.testing.assert_array_equal(SlideReader(slide, backend=backend).read(0, 0, 700, 900), np.moveaxis(IMAGE, -1, 0))
    half = cv2.resize(IMAGE, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(np.moveaxis(reader.read(100, 50, 200, 300), 0, -1), half[100:300, 50:350])


@pytest.mark.parametrize(
    ("base", "target", "scale", "level"),
    [
        (0.5, 0.5, 1.0, 0),
        (0.5, 0.54, 1.0, 0),  # within 10 %: as it is
        (0.499, 1.0, 2.0, 1),  # the level at .998
        (0.505, 2.0, 4.0, 2),  # the level at 2.02: a finer one need not be read
        (0.54, 2.0, 4.0, 2),
        (0.5, 1.4, 2.8, 1),
        (0.5, 0.25, 0.5, 0),
        (0.5, 3.0, 6.0, 2),
        (0.1, 0.3, 3.0, 1),  # 3 but for rounding
        (None, 2.0, 4.0, 2),
    ],
)
def test_physical_resolution_decides(slide, base, target, scale, level):
    reader = SlideReader(slide, target, base)
    assert (reader.scale, reader.level) == (pytest.approx(scale, SCALE_TOL), level)
    assert reader.mpp == pytest.approx(reader.scale * (base or 0.5))


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize(("base", "target"), [(0.499, 1.0), (0.499, 0.25), (0.5, 0.83), (0.25, 0.7), (0.5, 4.1)])
@pytest.mark.slow
def test_grid_does_not_drift(base, target, levels, tmp_path):
    path = write_tiff(tmp_path / "a.tif", wave((1100, 1300), 1).round().astype(np.uint8), base, levels)
    reader = SlideReader(path, target)
    assert reader.shape == tuple(-(-side // reader.scale) for side in (1100, 1300))
    read = np.moveaxis(reader.read(0, 0, *reader.shape), 0, -1).astype(float)
    expected = wave(reader.shape, reader.scale)
    # what averaging takes from the waves is the same everywhere; the ends are partly glass
    inside = np.s_[4:-4, 4:-4, :2]
    contrast = (expected[inside] - 128).std() / (read[inside] - 128).std()
    shown = 128 + (read - 128) * contrast
    np.testing.assert_allclose(shown[inside], expected[inside], atol=WAVE_TOL * contrast)
    for corner in (np.s_[4:40, 4:40, :2], np.s_[-40:-4, -40:-4, :2]):
        assert abs((shown - expected)[corner].mean()) < 1


@pytest.mark.parametrize("target", [0.25, 0.5, 1.0, 0.83, 3.0, 1.7])
@pytest.mark.parametrize("base", [0.5, 0.499])
def test_pieces_join_without_a_trace(slide, base, target):
    reader = SlideReader(slide, target, base)
    whole = reader.read(-3, -7, 160, 130).astype(int)
    rows = [
        np.concatenate([reader.read(-3 + i, -7 + j, 32, 26) for j in range(0, 130, 26)], axis=2)
        for i in range(0, 160, 32)
    ]
    np.testing.assert_array_equal(np.concatenate(rows, axis=1), whole)


@pytest.mark.parametrize("target", [1.0, 1.3])
def test_odd_sizes_do_not_drift_either(target, tmp_path):
    """Levels of an odd-sized slide are rounded, but a whole number of times smaller all the same."""
    path = write_tiff(tmp_path / "a.tif", wave((1201, 1403), 1).round().astype(np.uint8), 0.5, 3)
    reader = SlideReader(path, target)
    assert reader.level == 1
    assert reader.downsamples == (1, 2, 4)
    whole = np.moveaxis(reader.read(0, 0, *reader.shape), 0, -1).astype(float)
    np.testing.assert_allclose(whole[4:-4, 4:-4, :2], wave(reader.shape, reader.scale)[4:-4, 4:-4, :2], atol=12)
    corner = tuple(side - 120 for side in reader.shape)
    piece = np.moveaxis(reader.read(*corner, 100, 100), 0, -1)
    assert np.abs(piece - whole[corner[0] : corner[0] + 100, corner[1] : corner[1] + 100]).mean() < FIELD_TOL


@pytest.mark.parametrize("target", [0.5, 0.83, 0.25])
def test_white_outside(slide, target):
    reader = SlideReader(slide, target)
    rows, cols = reader.shape
    for row, col in ((-50, 0), (rows + 9, 0), (0, -99), (0, cols + 9), (-500, -500)):
        assert (reader.read(row, col, 20, 30) == 255).all()
    region = reader.read(-20, -20, 40, 40)
    assert (region[:, :15] == 255).all()
    assert not (region[:, 25:, 25:] == 255).all()
    assert region.dtype == np.uint8
    assert region.shape == (3, 40, 40)


@pytest.mark.parametrize("target", [0.5, 1.0, 1.7, 0.25])
def test_agrees_with_a_field(slide, target):
    reader, field = SlideReader(slide, target), read_field(slide, target_mpp=target)
    read = reader.read(0, 0, *field.image.shape[1:]).astype(int)
    assert reader.mpp == pytest.approx(field.mpp, SCALE_TOL)
    assert reader.scale == pytest.approx(field.scale, SCALE_TOL)
    assert np.abs(read - field.image).mean() < FIELD_TOL


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("mpp", [0.5, 2.0, 5.0, 8.0])
@pytest.mark.slow
def test_thumbnail(mpp, levels, tmp_path):
    image = paint(2600, 2100)
    reader = SlideReader(write_tiff(tmp_path / "a.tif", image, 0.5, levels), 0.5)
    thumbnail, scale = reader.thumbnail(mpp), reader.thumbnail_scale(mpp)
    assert thumbnail.shape == (3, *(int(np.ceil(side / scale)) for side in (2600, 2100)))
    assert scale == mpp / 0.5
    size = [int(side / scale) for side in (2100, 2600)]
    expected = cv2.resize(
        image[: int(size[1] * scale), : int(size[0] * scale)], size, interpolation=cv2.INTER_AREA
    ).astype(int)
    got = np.moveaxis(thumbnail, 0, -1)[: size[1], : size[0]]
    assert np.abs(got - expected).mean() < FIELD_TOL


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "strips.tif", "rgba.png", "grey.tif", "sixteen.tif"])
def test_plain_images(name, tmp_path):
    path = tmp_path / name
    if name == "strips.tif":
        tifffile.imwrite(path, IMAGE, photometric="rgb")
    elif name == "grey.tif":
        tifffile.imwrite(path, IMAGE[..., 0], tile=(64, 64))
    elif name == "sixteen.tif":
        tifffile.imwrite(path, IMAGE.astype(np.uint16) * 257, photometric="rgb", tile=(64, 64))
    else:
        Image.fromarray(IMAGE).convert("RGBA" if "rgba" in name else "RGB").save(path)
    if name == "grey.tif":  # tiles make it a slide, and a slide has to say how large it is
        with pytest.raises(InputError, match="--mpp"):
            SlideReader(path, 0.5)
        assert SlideReader(path, 0.5, 0.5).read(0, 0, 700, 900)[1].tobytes() == IMAGE[..., 0].tobytes()
        return
    reader = SlideReader(path, 0.5)
    assert (reader.base_mpp, reader.scale, reader.shape) == (0.5, 1.0, (700, 900))
    np.testing.assert_array_equal(reader.read(0, 0, 700, 900), read_field(path).image)
    assert SlideReader(path, 1.0, 0.25).shape == (175, 225)


def test_transparency_is_glass(tmp_path):
    rgba = np.dstack([IMAGE, np.full(IMAGE.shape[:2], 255, np.uint8)])
    rgba[:100, :, 3] = 0
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(rgba, photometric="rgb", extrasamples=["unassalpha"], tile=(256, 256), metadata=None)
    for backend in ("openslide", "tifffile"):
        read = SlideReader(tmp_path / "a.tif", 0.5, 0.5, backend).read(0, 0, 700, 900)
        assert (read[:, :100] == 255).all()
        np.testing.assert_array_equal(read[:, 100:], np.moveaxis(IMAGE, -1, 0)[:, 100:])


@pytest.mark.parametrize("backend", ["openslide", "tifffile"])
def test_slide_without_a_resolution_needs_one(backend, tmp_path):
    path = write_tiff(tmp_path / "a.tif", IMAGE, None)
    with pytest.raises(InputError, match=r"a\.tif: expected a slide that states its resolution .*--mpp"):
        SlideReader(path, 0.5, backend=backend)
    assert SlideReader(path, 0.5, 0.25, backend).scale == 2
    check_slide(path, 0.25, 0.5)
    with pytest.raises(InputError, match="--mpp"):
        check_slide(path, None, 0.5)


def test_implausible_resolution_is_none(tmp_path):
    path = write_tiff(tmp_path / "a.tif", IMAGE, 352.7)  # 72 dpi
    with pytest.raises(InputError, match="--mpp"):
        SlideReader(path, 0.5)


@pytest.mark.parametrize("name", ["gone.svs", "gone.png", "text.svs", "text.tif", "empty.tif", "folder.tif"])
def test_unreadable(name, tmp_path):
    path = tmp_path / name
    if name.startswith("text"):
        path.write_text("no slide")
    elif name.startswith("empty"):
        path.write_bytes(b"")
    elif name.startswith("folder"):
        path.mkdir()
    with pytest.raises(InputError, match=name):
        SlideReader(path, 0.5)


@pytest.mark.parametrize("name", ["mpp", "target_mpp"])
@pytest.mark.parametrize("value", [0, -0.5, float("nan"), float("inf"), "a lot"])
def test_resolution_that_is_none(slide, name, value):
    with pytest.raises(InputError, match=rf"--{name}: expected um/px, a positive number, found"):
        SlideReader(slide, **{name: value})


@pytest.mark.parametrize("target", [0.5, 1.0, 1.3])
def test_scanned_part_of_a_plane_is_the_slide(slide, target, monkeypatch):
    """MRXS: what lies outside ``openslide.bounds`` is empty, and QuPath does not show it."""
    plane = SlideReader(slide, target)
    bounds = {"x": "100", "y": "60", "width": "640", "height": "480"}
    stated = {"openslide.vendor": "mirax"} | {f"openslide.bounds-{name}": value for name, value in bounds.items()}
    properties = openslide.OpenSlide.properties.fget
    monkeypatch.setattr(
        openslide.OpenSlide, "properties", property(lambda self: {**properties(self), **stated}), raising=True
    )
    reader = SlideReader(slide, target)
    assert reader.level0_shape == (480, 640)
    assert reader.shape == tuple(math.ceil(side / reader.scale) for side in (480, 640))
    if target < 1.1:
        row, col = round(60 / reader.scale), round(100 / reader.scale)
        np.testing.assert_array_equal(reader.read(0, 0, 100, 120), plane.read(row, col, 100, 120))
    assert (reader.read(-8, -8, 8, 8) == 255).all()  # the plane's own pixels there are not the slide's
    assert reader.thumbnail(2.0).shape == (3, 120, 160)


def test_unknown_backend(slide):
    with pytest.raises(InputError, match="openslide or cucim or tifffile, found 'bioformats'"):
        SlideReader(slide, 0.5, backend="bioformats")


def corrupt(path, tiles, page=0):
    """Overwrite whole tiles of a TIFF."""
    with tifffile.TiffFile(path) as tiff:
        spans = [(tiff.pages[page].dataoffsets[i], tiff.pages[page].databytecounts[i]) for i in tiles]
    with path.open("r+b") as file:
        for offset, count in spans:
            file.seek(offset)
            file.write(b"\x5a" * count)


@pytest.mark.parametrize("compression", ["jpeg", "zlib"])
@pytest.mark.parametrize("backend", ["openslide", "tifffile"])
def test_corrupt_tile_is_named_and_the_rest_stays_readable(backend, compression, tmp_path):
    path = write_tiff(tmp_path / "a.tif", IMAGE, compression=compression)
    reader = SlideReader(path, 0.5, backend=backend)
    good = SlideReader(path, 0.5, backend=backend).read(0, 0, 200, 200)
    corrupt(path, [5])  # rows 256 to 512, columns 256 to 512
    with pytest.raises(InputError, match=r"a\.tif, level 0, row 200 to 400, column 200 to 400: expected readable"):
        reader.read(200, 200, 200, 200)
    np.testing.assert_array_equal(reader.read(0, 0, 200, 200), good)


@pytest.mark.parametrize("backend", ["openslide", "tifffile"])
def test_truncated(backend, tmp_path):
    path = write_tiff(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 255, IMAGE.shape).astype(np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"a\.tif"):
        SlideReader(path, 0.5, backend=backend).read(0, 0, 700, 900)


def test_many_threads_read_the_same(slide):
    reader = SlideReader(slide, 0.83)
    places = [(row, col) for row in range(0, 400, 40) for col in range(0, 500, 50)]
    alone = [reader.read(*place, 64, 64) for place in places]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda place: reader.read(*place, 64, 64), places))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together, strict=True))


def test_cucim(monkeypatch, tmp_path):
    """Stands in for cuCIM, which needs a GPU: MONAI's reader asks it for exactly this."""

    class CuImage:
        resolutions: ClassVar = {
            "level_count": 2,
            "level_dimensions": [(900, 700), (450, 350)],
            "level_downsamples": [1.0, 2.0],
        }
        metadata: ClassVar = {"aperio": {"MPP": "0.5"}}

        def __init__(self, path):
            self.path = path
            self.levels = [IMAGE, cv2.resize(IMAGE, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)]

        def read_region(self, location, size, level, num_workers):
            col, row = (side // 2**level for side in location)
            region = self.levels[level][row : row + size[1], col : col + size[0]]
            assert region.shape[:2] == size[::-1]  # nothing outside the slide is asked for
            return region

    monkeypatch.setitem(sys.modules, "cucim", SimpleNamespace(CuImage=CuImage, __version__="1"))
    path = tmp_path / "a.svs"
    path.write_bytes(b"slide")
    reader = SlideReader(path, 1.0, backend="cucim")
    assert (reader.base_mpp, reader.level, reader.shape) == (0.5, 1, (350, 450))
    half = cv2.resize(IMAGE, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    region = np.moveaxis(reader.read(300, 400, 100, 100), 0, -1)
    np.testing.assert_array_equal(region[:50, :50], half[300:, 400:])
    assert (region[50:] == 255).all()
    monkeypatch.setattr(CuImage, "metadata", {"cucim": {"spacing": [0.25, 0.25]}})
    assert SlideReader(path, 1.0, backend="cucim").base_mpp == 0.25
    assert SlideReader(write_tiff(tmp_path / "b.tif", IMAGE, 0.5), backend="cucim").backend == "cucim"


@pytest.mark.real_data
@pytest.mark.parametrize("backend", ["openslide", "tifffile"])
def test_real_slide(real_data, backend):
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    for target, scale, shape in ((None, 1, (2967, 2220)), (0.5, 1, (2967, 2220)), (1.0, 1 / 0.499, (1481, 1108))):
        reader = SlideReader(path, target, backend=backend)
        assert reader.base_mpp == pytest.approx(0.499)
        assert reader.scale == pytest.approx(scale, SCALE_TOL)
        assert reader.shape == shape
    fine = SlideReader(path, 0.5, backend=backend)
    coarse = SlideReader(path, 1.0, backend=backend)
    a, b = fine.read(2000, 1000, 400, 400).mean(), coarse.read(998, 499, 200, 200).mean()
    assert abs(a - b) < FIELD_TOL
