import logging

import numpy as np
import pytest
import tifffile
from PIL import Image

from monai_ext.formats.image import read_field
from monai_ext.formats.levels import open_levels
from monai_ext.formats.reader import SlideReader
from monai_ext.formats.resolution import Resolution, file_scale, stated_resolution

PIXELS = np.random.default_rng(0).integers(60, 255, (96, 128, 3)).astype(np.uint8)


def ome(x, y, unit):
    metadata = {"axes": "YXS", "PhysicalSizeX": x, "PhysicalSizeY": y}
    if unit:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    return metadata


@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize(
    ("factor", "unit"), [(1, "µm"), (1, None), (1e3, "nm"), (1e-3, "mm"), (1e-4, "cm"), (1e4, "Å")]
)
def test_ome(factor, unit, tile, tmp_path):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(
        path, PIXELS, photometric="rgb", tile=tile, metadata=ome(0.5 * factor, 0.25 * factor, unit), ome=True
    )
    stated = open_levels(path)[0].resolution
    assert (stated.col, stated.row) == pytest.approx((0.5, 0.25))
    assert stated.source == "OME-XML"


def write_ome(path, old, new, tile):
    """An OME-TIFF of .25 um/px, .5 um/px by its tags, with a change in its description."""
    density = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, PIXELS, photometric="rgb", tile=tile, metadata=ome(0.25, 0.25, "µm"), ome=True, **density)
    with tifffile.TiffFile(path) as tiff:
        described = tiff.pages[0].description
    assert old in described
    tifffile.tiffcomment(path, described.replace(old, new).encode())


@pytest.mark.parametrize("tile", [None, (64, 64)])
def test_ome_of_another_size_is_named_and_taken(tile, tmp_path):
    path = tmp_path / "a.ome.tif"
    write_ome(path, 'SizeX="128"', 'SizeX="256"', tile)
    sizes = "OME-XML states an image of 256 x 96 px, TIFF tags one of 128 x 96 px; um/px of OME-XML are taken"
    conflict = f"{sizes}; OME-XML states 0.25 um/px, TIFF tags 0.5 um/px; OME-XML is taken"
    assert open_levels(path)[0].resolution == Resolution(0.25, 0.25, "OME-XML", conflict)
    field = read_field(path)
    assert (field.conflict, field.mpp, field.image.shape) == (conflict, 0.25, (3, 96, 128))


@pytest.mark.parametrize("tile", [None, (64, 64)])
@pytest.mark.parametrize(("sides", "mpp"), [("X", 0.25), ("XY", 0.5)])
def test_ome_that_is_no_number_is_not_stated(sides, mpp, tile, tmp_path):
    """One side is as the other; without both the tags count."""
    path = tmp_path / "a.ome.tif"
    old = " ".join(f'PhysicalSize{axis}="0.25" PhysicalSize{axis}Unit="µm"' for axis in sides)
    write_ome(path, old, old.replace("0.25", "n/a."), tile)
    assert open_levels(path)[0].resolution.mpp == mpp


def test_ome_in_pixels_states_nothing(tmp_path):
    tifffile.imwrite(tmp_path / "a.ome.tif", PIXELS, photometric="rgb", metadata=ome(0.5, 0.5, "pixel"), ome=True)
    assert open_levels(tmp_path / "a.ome.tif")[0].resolution is None


@pytest.mark.parametrize(
    ("unit", "density"),
    [("micron", 2), ("\\u00B5m", 2), ("um", 2), ("nm", 2e-3), ("mm", 2e3), ("cm", 2e4), ("inch", 50_800)],
)
def test_imagej(unit, density, tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS, imagej=True, resolution=(density, density), metadata={"unit": unit, "axes": "YXS"})
    stated = open_levels(path)[0].resolution
    assert (stated.mpp, stated.source) == (pytest.approx(0.5, rel=1e-4), "ImageJ")


def test_imagej_in_pixels_states_nothing(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, imagej=True, resolution=(1, 1), metadata={"axes": "YXS"})
    assert open_levels(tmp_path / "a.tif")[0].resolution is None


@pytest.mark.parametrize(("unit", "density"), [("INCH", 50_800), ("CENTIMETER", 20_000), (2, 50_800), (3, 20_000)])
def test_tags(unit, density, tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        PIXELS,
        photometric="rgb",
        resolution=(density, 2 * density),
        resolutionunit=unit,
        metadata=None,
    )
    stated = open_levels(tmp_path / "a.tif")[0].resolution
    assert (stated.col, stated.row) == pytest.approx((0.5, 0.25))
    assert stated.source == "TIFF tags"


@pytest.mark.parametrize("suffix", [".tif", ".tiff", ".svs"])
def test_aperios_description_whatever_the_ending(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    description = "Aperio Image Library v11.2.1\n128x96|AppMag = 20|MPP = 0.4990"
    tifffile.imwrite(path, PIXELS, photometric="rgb", tile=(64, 64), description=description, metadata=None)
    assert open_levels(path)[0].resolution.mpp == 0.499


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_density_of_plain_images(name, tmp_path):
    for dpi, mpp in ((50_800, 0.5), (72, None), (300, None)):
        Image.fromarray(PIXELS).save(tmp_path / name, dpi=(dpi, dpi))
        if mpp is None:
            assert read_field(tmp_path / name).mpp is None
        else:
            assert read_field(tmp_path / name).mpp == pytest.approx(mpp, rel=1e-3)


def test_who_disagrees_is_named(tmp_path):
    path = tmp_path / "a.ome.tif"
    density = {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, PIXELS, photometric="rgb", metadata=ome(0.25, 0.25, "µm"), ome=True, **density)
    conflict = "OME-XML states 0.25 um/px, TIFF tags 0.5 um/px; OME-XML is taken"
    assert open_levels(path)[0].resolution == Resolution(0.25, 0.25, "OME-XML", conflict)
    assert read_field(path).conflict == SlideReader(path).conflict == conflict
    assert read_field(path, mpp=0.3).conflict == SlideReader(path, mpp=0.3).conflict == ""


def test_rounding_is_no_disagreement():
    stated = stated_resolution([None, Resolution(0.25, 0.25, "a"), Resolution(0.2526, 0.2474, "b")])
    assert (stated.mpp, stated.source, stated.conflict) == (0.25, "a", "")
    assert stated_resolution([None]) is None


@pytest.mark.parametrize(
    ("row", "col", "mpp", "stretch"),
    [
        (0.25, 0.25, 0.25, (1, 1)),
        (0.25, 0.2525, (0.25 * 0.2525) ** 0.5, (1, 1)),  # calibration
        (0.25, 0.5, 0.25, (1, 2)),
        (0.6, 0.2, 0.2, (3, 1)),
    ],
)
def test_square_pixels_of_the_same_area_or_of_the_shorter_side(row, col, mpp, stretch):
    resolution = Resolution(row, col)
    assert resolution.mpp == pytest.approx(mpp)
    assert resolution.stretch == pytest.approx(stretch)
    area = resolution.mpp**2 * np.prod(resolution.stretch)
    assert area == pytest.approx(row * col)


@pytest.mark.parametrize(
    ("row", "col", "words"), [(0.25, 0.25, "0.25"), (0.25, 0.5, "0.5 x 0.25 (X, Y)"), (0.5, 0.25, "0.25 x 0.5 (X, Y)")]
)
def test_both_sides_are_named_where_they_differ(row, col, words):
    assert str(Resolution(row, col)) == words


@pytest.mark.parametrize(("row", "col", "scale"), [(0.25, 0.25, 4), (0.25, 0.5, (4, 2)), (0.75, 0.25, (4 / 3, 4))])
def test_um_on_the_file_and_on_the_array_are_the_same(row, col, scale):
    """Four square px of the shorter side, 1 um, are so many of the file's."""
    assert file_scale(4.0, Resolution(row, col).stretch) == pytest.approx(scale)


def test_oblong_pixels_become_square(tmp_path):
    path = tmp_path / "a.tif"
    columns = np.repeat(np.arange(40, 240, 4, dtype=np.uint8)[None, :, None], 90, axis=0).repeat(3, axis=2)
    tifffile.imwrite(path, columns, photometric="rgb", resolution=(20_000, 40_000), resolutionunit="CENTIMETER")
    field, reader = read_field(path), SlideReader(path)
    assert field.image.shape == (3, 90, 100)
    assert (field.mpp, field.stretch, field.file_shape) == (0.25, (1, 2), (90, 50))
    assert (reader.level0_shape, reader.base_mpp, reader.stretch) == ((90, 100), 0.25, (1, 2))
    for image in (field.image, reader.read(0, 0, 90, 100)):
        ramp = 42 + 2 * (np.arange(100) + 0.5) - 4 + 1
        np.testing.assert_allclose(image[0, 10, 4:-4], ramp[4:-4], atol=2)
    coarse = read_field(path, target_mpp=0.5)
    assert (coarse.image.shape, coarse.scale, coarse.mpp) == ((3, 45, 50), 2.0, 0.5)
    assert SlideReader(path, 0.5).shape == (45, 50)


def test_fallback_is_logged(tmp_path, caplog):
    path = tmp_path / "a.svs"
    tifffile.imwrite(path, PIXELS, photometric="rgb", tile=(64, 64), compression="webp", metadata=None)
    with caplog.at_level(logging.INFO, "monai_ext"):
        levels, is_slide = open_levels(path)
    assert is_slide
    assert levels.backend == "tifffile"
    assert "is read by tifffile (openslide: " in caplog.text
