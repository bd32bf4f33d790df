import sys
from types import SimpleNamespace
from typing import ClassVar

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from monai_ext.base.colours import to_rgb8
from monai_ext.base.errors import InputError
from monai_ext.formats.image import SUFFIXES, Field, read_field, read_mask

JPEG_TOL = 12  # grey values
MPP_TOL = 1e-3

RNG = np.random.default_rng(0)
RGB = cv2.GaussianBlur(RNG.integers(0, 256, (30, 44, 3)).astype(np.uint8), (0, 0), 4)
RGBA = np.concatenate([RGB, np.full((30, 44, 1), 255, np.uint8)], axis=2)
RGBA[:10, :, 3] = 0
ON_GLASS = np.where(RGBA[..., 3:] == 0, 255, RGB).astype(np.uint8)
GREY = RGB[..., 0]
GREY3 = np.repeat(GREY[..., None], 3, axis=2)
GREY_ALPHA = np.stack([GREY, RGBA[..., 3]], axis=-1)
GREY_ON_GLASS = np.where(RGBA[..., 3:], GREY3, 255)
PLANES = np.moveaxis(RGB, -1, 0)
WHITE = np.full((9, 9, 3), 255, np.uint8)
BILEVEL = np.where(GREY3 > 128, 255, 0)


def pil(array, mode=None, **options):
    def write(path):
        image = Image.fromarray(array)
        (image.convert(mode) if mode else image).save(path, **options)

    return write


def tiff(array, **options):
    return lambda path: tifffile.imwrite(path, array, **options)


def opencv(array):
    return lambda path: cv2.imwrite(str(path), array)


def palette_tiff(path):
    colormap = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    tifffile.imwrite(path, GREY, photometric="palette", colormap=colormap)
    return np.moveaxis((colormap >> 8).astype(np.uint8)[:, GREY], 0, -1)


@pytest.mark.parametrize(
    ("suffix", "write", "expected"),
    [
        pytest.param("png", pil(RGB), RGB, id="PNG"),
        pytest.param("PNG", pil(RGB), RGB, id="PNG in capitals"),
        pytest.param("png", pil(GREY), GREY3, id="PNG grey"),
        pytest.param("png", pil(RGBA), ON_GLASS, id="PNG RGBA"),
        pytest.param("png", pil(GREY_ALPHA), GREY_ON_GLASS, id="PNG grey alpha"),
        pytest.param("png", pil(np.uint16(GREY) * 256 + 77), GREY3, id="PNG 16 bit grey"),
        pytest.param("png", opencv(RGB[..., ::-1].astype(np.uint16) * 256), RGB, id="PNG 16 bit RGB"),
        pytest.param("png", pil(GREY, "P"), GREY3, id="PNG palette"),
        pytest.param("png", pil(GREY > 128), BILEVEL, id="PNG 1 bit"),
        pytest.param("bmp", pil(RGB), RGB, id="BMP"),
        pytest.param("jpg", pil(RGB, quality=97), RGB, id="JPEG"),
        pytest.param("jpeg", pil(GREY, quality=97), GREY3, id="JPEG grey"),
        pytest.param("jpg", pil(RGB, "CMYK", quality=97), RGB, id="JPEG CMYK"),
        pytest.param("tif", tiff(RGB, photometric="rgb"), RGB, id="TIFF"),
        pytest.param("tif", tiff(GREY), GREY3, id="TIFF grey"),
        pytest.param("tif", tiff(RGBA, photometric="rgb", extrasamples=["unassalpha"]), ON_GLASS, id="TIFF RGBA"),
        pytest.param("tif", tiff(np.uint16(RGB) * 256 + 255, photometric="rgb"), RGB, id="TIFF 16 bit"),
        pytest.param("tif", tiff(np.uint16(GREY) * 257), GREY3, id="TIFF 16 bit grey"),
        pytest.param("tif", tiff(np.float32(RGB) / 255, photometric="rgb"), RGB, id="TIFF float"),
        pytest.param("tif", tiff(PLANES, photometric="rgb", planarconfig="separate"), RGB, id="TIFF planar"),
        pytest.param("tif", tiff(PLANES, photometric="minisblack", metadata={"axes": "CYX"}), RGB, id="TIFF of pages"),
        pytest.param("tif", tiff(RGB, photometric="rgb", tile=(16, 16), compression="zlib"), RGB, id="TIFF tiled"),
        pytest.param("tif", tiff(255 - GREY, photometric="miniswhite"), GREY3, id="TIFF white is zero"),
        pytest.param("tif", pil(RGB, "CMYK"), RGB, id="TIFF CMYK"),
        pytest.param("tif", tiff(GREY > 128, photometric="minisblack"), BILEVEL, id="TIFF 1 bit"),
        pytest.param("tif", palette_tiff, None, id="TIFF palette"),
        pytest.param("png", pil(RGB[:1, :1]), RGB[:1, :1], id="1 px"),
        pytest.param("tif", tiff(RGB[:20, :20], photometric="rgb"), RGB[:20, :20], id="20 px"),
        pytest.param("tiff", tiff(WHITE, photometric="rgb"), WHITE, id="white"),
    ],
)  # fmt: skip
def test_what_users_have(suffix, write, expected, tmp_path):
    path = tmp_path / f"image.{suffix}"
    returned = write(path)
    expected = returned if expected is None else expected
    field = read_field(path)
    assert field.image.dtype == np.uint8
    assert field.image.flags.c_contiguous
    assert (field.mpp, field.scale) == (None, 1.0)
    off = np.abs(np.moveaxis(field.image, 0, -1).astype(int) - expected)
    assert field.image.shape[1:] == expected.shape[:2]
    assert off.max() <= (JPEG_TOL if suffix.startswith("jp") else 0)


def test_pyramid_gives_its_largest_level(tmp_path):
    with tifffile.TiffWriter(tmp_path / "p.tif") as writer:
        writer.write(RGB, photometric="rgb", subifds=1, tile=(16, 16))
        writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, tile=(16, 16))
    np.testing.assert_array_equal(np.moveaxis(read_field(tmp_path / "p.tif").image, 0, -1), RGB)


def damaged(kind, folder):
    path = folder / f"{kind.split()[-1]}.{'tif' if 'TIFF' in kind else 'jpg' if 'JPEG' in kind else 'png'}"
    noise = RNG.integers(0, 256, (90, 90, 3)).astype(np.uint8)
    if kind.startswith("truncated"):
        (tiff(noise, photometric="rgb") if "TIFF" in kind else pil(noise))(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind.startswith("empty"):
        path.write_bytes(b"")
    elif kind.startswith("text"):
        path.write_text("no image")
    elif kind == "a folder":
        path.mkdir()
    elif kind == "TIFF of a stack":
        tifffile.imwrite(path, np.zeros((2, 5, 20, 20), np.uint8))
    elif kind == "TIFF of 32 bits":
        tifffile.imwrite(path, np.zeros((20, 20), np.uint32))
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "truncated PNG", "truncated JPEG", "truncated TIFF", "empty PNG", "empty TIFF", "text PNG", "text TIFF",
        "a folder", "missing", "TIFF of a stack", "TIFF of 32 bits",
    ],
)  # fmt: skip
def test_damaged_files_are_named(kind, tmp_path):
    path = damaged(kind, tmp_path)
    with pytest.raises(InputError) as caught:
        read_field(path)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert "\n" not in str(caught.value)


def test_arrays():
    assert to_rgb8(np.array([[np.nan, -1], [2, 0.5]])).tolist() == [[[0] * 3, [0] * 3], [[255] * 3, [128] * 3]]
    half = np.array([[[100, 200, 0, 51]]], np.uint8)  # a fifth of it, on white
    assert to_rgb8(half).tolist() == [[[224, 244, 204]]]
    for wrong in (np.zeros((4, 4, 5)), np.zeros((0, 4)), np.zeros(4), np.zeros((4, 4), np.int64)):
        with pytest.raises(InputError, match=r"x\.png"):
            to_rgb8(wrong, "x.png")


# -- resolution --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "mpp"),
    [
        pytest.param({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, 0.25, id="cm"),
        pytest.param({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, 0.5, id="inch"),
        pytest.param({"resolution": (40_000, 40_000), "resolutionunit": "NONE"}, None, id="no unit"),
        pytest.param({"resolution": (72, 72), "resolutionunit": "INCH"}, None, id="72 dpi"),
        pytest.param({"resolution": (300, 300), "resolutionunit": "INCH"}, None, id="300 dpi"),
        pytest.param({"resolution": ((0, 1), (0, 1)), "resolutionunit": "INCH"}, None, id="zero"),
        pytest.param({}, None, id="nothing"),
    ],
)
def test_what_a_tiff_states(options, mpp, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", RGB, photometric="rgb", **options)
    field = read_field(tmp_path / "a.tif")
    assert field.mpp == (None if mpp is None else pytest.approx(mpp, rel=MPP_TOL))
    assert field.image.shape == (3, 30, 44)
    assert read_field(tmp_path / "a.tif", mpp=0.7).mpp == 0.7  # who says so knows better


@pytest.mark.parametrize("name", ["mpp", "target_mpp"])
@pytest.mark.parametrize("value", [0, -1, "0.25", float("nan")])
def test_resolutions_are_positive_numbers(name, value, tmp_path):
    pil(RGB)(tmp_path / "a.png")
    with pytest.raises(InputError, match=rf"a\.png: expected {name} in um/px, a positive number, found"):
        read_field(tmp_path / "a.png", **{name: value})


@pytest.mark.parametrize(
    ("mpp", "target", "shape", "scale"),
    [
        (0.25, 0.5, (15, 22), 2.0),
        (0.5, 0.25, (60, 88), 0.5),
        (0.25, 0.25, (30, 44), 1.0),
        (0.23, 0.25, (30, 44), 1.0),  # within a tenth
        (0.25, None, (30, 44), 1.0),
        (None, 0.25, (30, 44), 1.0),
        (0.01, 1.0, (1, 1), 100.0),
    ],
)
def test_target_resolution(mpp, target, shape, scale, tmp_path):
    pil(RGB)(tmp_path / "a.png")
    field = read_field(tmp_path / "a.png", mpp, target)
    assert field.image.shape[1:] == shape
    assert field.scale == pytest.approx(scale)
    assert field.mpp == (mpp if scale == 1 else target)
    assert field.file_shape == (30, 44)


@pytest.mark.parametrize("target", [None, 0.5, 1.0])
def test_size_of_a_tiffs_file(target, tmp_path):
    tiff(RGB, resolution=(40_000, 40_000), resolutionunit="CENTIMETER")(tmp_path / "a.tif")
    field = read_field(tmp_path / "a.tif", target_mpp=target)
    assert field.file_shape == (30, 44)
    assert field.image.shape[1:] == tuple(round(side / field.scale) for side in (30, 44))
    tiff(PLANES, photometric="rgb", planarconfig="separate")(tmp_path / "planes.tif")
    assert read_field(tmp_path / "planes.tif", 0.25, target).file_shape == (30, 44)


# -- slides ------------------------------------------------------------------------------------------------------------


class FakeSlide:
    """Two levels, 1 and 4 times reduced, of a bright ramp."""

    properties: ClassVar[dict] = {}
    base = np.tile(np.arange(13, 253, dtype=np.uint8)[:, None, None], (1, 320, 4))  # none is black
    base[..., 3] = 255
    level_downsamples = (1.0, 4.0)
    level_dimensions = ((320, 240), (80, 60))
    dimensions = level_dimensions[0]
    read: ClassVar[list] = []

    def __init__(self, path):
        if "broken" in path:
            raise OSError("Unsupported or missing image file")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def get_best_level_for_downsample(self, downsample):
        return int(downsample >= 4)

    def read_region(self, location, level, size):
        self.read.append((location, level, size))
        return self.base[:: 4**level, :: 4**level]


@pytest.fixture
def slide(tmp_path, monkeypatch):
    fake = SimpleNamespace(OpenSlide=FakeSlide, PROPERTY_NAME_MPP_X="openslide.mpp-x")
    monkeypatch.setitem(sys.modules, "openslide", fake)
    monkeypatch.setattr(FakeSlide, "properties", {"openslide.mpp-x": "0.25"})
    monkeypatch.setattr(FakeSlide, "read", [])
    path = tmp_path / "a.svs"
    path.write_bytes(b"slide")
    return path


@pytest.mark.parametrize(
    ("target", "level", "shape", "scale"),
    [
        (None, 0, (240, 320), 1.0),
        (0.25, 0, (240, 320), 1.0),
        (0.5, 0, (120, 160), 2.0),
        (1.0, 1, (60, 80), 4.0),
        (2.0, 1, (30, 40), 8.0),
        (0.125, 0, (480, 640), 0.5),
    ],
)
def test_slide_is_read_from_the_right_level(slide, target, level, shape, scale):
    field = read_field(slide, target_mpp=target)
    assert FakeSlide.read == [((0, 0), level, FakeSlide.level_dimensions[level])]
    assert field.image.shape[1:] == shape
    assert field.file_shape == (240, 320)
    assert (field.scale, field.mpp) == (pytest.approx(scale), pytest.approx(target or 0.25))
    middle = field.image[0, :, 5].astype(float)
    np.testing.assert_allclose(middle[5:-5], ((np.arange(shape[0]) + 0.5) * scale + 12.5)[5:-5], atol=scale)


@pytest.mark.parametrize("stated", [None, "", "352.7"], ids=["nothing", "empty", "72 dpi"])
def test_slide_without_a_resolution_needs_one(slide, stated, monkeypatch):
    monkeypatch.setattr(FakeSlide, "properties", {} if stated is None else {"openslide.mpp-x": stated})
    with pytest.raises(InputError, match=r"a\.svs: expected a slide that states its resolution .*mpp given"):
        read_field(slide, target_mpp=0.5)
    assert read_field(slide, mpp=0.25, target_mpp=0.5).scale == 2.0


def test_slide_too_large_for_one_field(slide, monkeypatch):
    monkeypatch.setattr(FakeSlide, "level_dimensions", ((100_000, 75_000), (80, 60)))
    with pytest.raises(InputError, match=r"at most 500 Mpx in one field, found 100000 x 75000 px"):
        read_field(slide)
    assert read_field(slide, target_mpp=312.5).image.shape[1:] == (60, 80)


def test_broken_slide(slide):
    path = slide.with_name("broken.svs")
    path.write_bytes(b"x")
    with pytest.raises(InputError, match=r"broken\.svs: expected a readable slide, found openslide: Unsupported"):
        read_field(path)


def test_no_slide_but_text(tmp_path):
    (tmp_path / "a.svs").write_text("no slide")
    with pytest.raises(InputError, match=r"a\.svs: expected a readable slide"):
        read_field(tmp_path / "a.svs", mpp=0.5)


@pytest.mark.real_data
def test_real_slide(real_data):
    path = real_data / "slides" / "CMU-1-Small-Region.svs"
    full = read_field(path)
    assert full.mpp == pytest.approx(0.499, abs=MPP_TOL)
    assert full.image.shape == (3, 2967, 2220)
    same = read_field(path, target_mpp=0.499)
    assert np.array_equal(same.image, full.image)
    half = read_field(path, target_mpp=1.0)
    assert half.image.shape[1:] == (round(2967 * 0.499), round(2220 * 0.499))
    assert abs(half.image.mean() - full.image.mean()) < 1
    fine = read_field(path, target_mpp=0.25)
    assert fine.scale == pytest.approx(0.501, abs=MPP_TOL)
    assert fine.image.shape[1:] == (round(2967 * 0.499 / 0.25), round(2220 * 0.499 / 0.25))


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "dtype", "top"),
    [("png", "uint8", 255), ("png", "uint16", 60_000), ("tif", "uint16", 60_000), ("tif", "int32", 100_000)],
)
def test_masks_keep_their_numbers(suffix, dtype, top, tmp_path):
    mask = np.zeros((9, 11), dtype)
    mask[2:5, 3:7] = top
    (opencv if suffix == "png" else tiff)(mask)(tmp_path / f"m.{suffix}")
    got = read_mask(tmp_path / f"m.{suffix}")
    np.testing.assert_array_equal(got, mask)
    colour = np.repeat(mask[..., None], 3, axis=2)
    if dtype == "uint8":
        opencv(colour)(tmp_path / "c.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "c.png"), mask)


@pytest.mark.parametrize("name", ["gone.png", "gone.tif", "text.png", "text.tif"])
def test_unreadable_masks(name, tmp_path):
    if name.startswith("text"):
        (tmp_path / name).write_text("no mask")
    with pytest.raises(InputError, match=f"{name}: expected a readable mask"):
        read_mask(tmp_path / name)


def test_a_field_is_scanned_and_square_unless_it_is_said():
    field = Field(np.zeros((3, 30, 44), np.uint8), 0.5, scale=2.0, file_shape=(60, 88))
    assert (field.file_scale, field.scanned, field.conflict) == (2.0, 1.0, "")


def test_suffixes_are_lower_case():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)
