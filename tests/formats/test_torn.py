"""Downloads that broke off, and what a server sent instead."""

import numpy as np
import pytest
import tifffile

from monai_ext.base.errors import InputError
from monai_ext.formats.torn import check_whole
from tests.slides.conftest import paint, write_tiff

COMPRESSIONS = [None, "zlib", "lzw", "jpeg"]


@pytest.mark.parametrize("name", ["a.svs", "a.tif", "a.png", "a.ndpi"])
@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\r\n <!DOCTYPE html><html>", "a web page"),
        (b"\xef\xbb\xbf<HTML lang='en'>", "a web page"),
    ],
)
def test_what_is_no_image(tmp_path, name, content, found):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: expected an image, found {found}") as caught:
        check_whole(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", [{"tile": (128, 128)}, {"rowsperstrip": 50}, {"tile": (128, 128), "bigtiff": True}])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_the_last_tile_is_missing_or_cut(tmp_path, compression, layout):
    whole, cut = tmp_path / "whole.tif", tmp_path / "cut.tif"
    big = layout.get("bigtiff", False)
    with tifffile.TiffWriter(whole, bigtiff=big) as tiff:
        options = {key: value for key, value in layout.items() if key != "bigtiff"}
        tiff.write(paint(300, 260), photometric="rgb", compression=compression, metadata=None, **options)
    with tifffile.TiffFile(whole) as tiff:
        page = tiff.pages[0]
        last = int(np.argmax(page.dataoffsets))
        first, size = page.dataoffsets[last], page.databytecounts[last]
    check_whole(whole)
    for end in (first - 1, first, first + 1, first + size - 1):
        cut.write_bytes(whole.read_bytes()[:end])
        with pytest.raises(InputError, match=rf"expected a whole file of {first + size:,} .* found {end:,}: its end"):
            check_whole(cut)


def test_a_reduced_level_is_missing(tmp_path):
    path = write_tiff(tmp_path / "a.tif", paint(600, 520), levels=3, tile=128)
    check_whole(path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="its end is missing"):
        check_whole(path)


def test_levels_in_sub_directories_are_looked_at(tmp_path):
    image, path = paint(600, 520), tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, photometric="rgb", tile=(128, 128), subifds=1)
        tiff.write(image[::2, ::2], photometric="rgb", tile=(128, 128), subfiletype=1)
    check_whole(path)
    with tifffile.TiffFile(path) as tiff:
        level = tiff.series[0].levels[1].pages[0]
        end = max(level.dataoffsets) + level.databytecounts[-1]
    path.write_bytes(path.read_bytes()[: end - 1])
    with pytest.raises(InputError, match="its end is missing"):
        check_whole(path)


@pytest.mark.parametrize("end", [4, 7, 8, 200])
def test_the_directory_itself_is_missing(tmp_path, end):
    """Scanners write it last."""
    path = tmp_path / "a.svs"
    path.write_bytes((b"II*\0" + (5000).to_bytes(4, "little") + bytes(5000))[:end])
    with pytest.raises(InputError, match="its end is missing"):
        check_whole(path)


def test_directories_of_ndpi_are_found_by_eight_bytes(tmp_path):
    """They may lie beyond 4 GB; the file is of no size on disk."""
    path, first = tmp_path / "a.ndpi", 2**32 + 100
    with path.open("wb") as file:
        file.write(b"II*\0" + first.to_bytes(8, "little"))
        file.seek(first)
        file.write(bytes(10))  # no entries, no further directory
    check_whole(path)
    with path.open("r+b") as file:
        file.truncate(first + 5)
    with pytest.raises(InputError, match="expected a whole file of 4,294,967,406 bytes or more"):
        check_whole(path)


def test_tiles_that_were_never_written_are_not_missing(tmp_path):
    path = tmp_path / "a.tif"
    tiles = iter([np.full((128, 128, 3), 200, np.uint8), None, None, np.full((128, 128, 3), 100, np.uint8)])
    tifffile.imwrite(path, tiles, shape=(256, 256, 3), dtype=np.uint8, tile=(128, 128), photometric="rgb")
    check_whole(path)


def test_other_damage_is_left_to_the_decoders(tmp_path):
    for name, content in (("a.tif", b"II*\0\x08\0\0\0\1\0" + bytes(30)), ("b.png", b"broken")):
        (tmp_path / name).write_bytes(content)
        check_whole(tmp_path / name)
    check_whole(tmp_path / "nowhere.tif")


@pytest.mark.real_data
def test_a_real_slide_is_whole(real_data, tmp_path):
    slide = real_data / "slides" / "CMU-1-Small-Region.svs"
    check_whole(slide)
    for name, size in (("half.svs", slide.stat().st_size // 2), ("nearly.svs", slide.stat().st_size - 3000)):
        (tmp_path / name).write_bytes(slide.read_bytes()[:size])
        with pytest.raises(InputError, match="its end is missing"):
            check_whole(tmp_path / name)
