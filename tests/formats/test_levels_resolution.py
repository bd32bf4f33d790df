"""Where each back end finds the resolution that a slide states."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import tifffile

from monai_ext.formats import ome
from monai_ext.formats.heatmap import HeatMap, halve
from monai_ext.formats.ome import write_ome_tiff
from monai_ext.formats.reader import SlideReader
from monai_ext.formats.tissue import tissue_mask


def test_cucim_states_the_sides_of_a_pixel_before_its_colour(tmp_path, monkeypatch):
    class CuImage:
        resolutions: ClassVar = {"level_count": 1, "level_dimensions": [(90, 70)], "level_downsamples": [1.0]}
        metadata: ClassVar = {"cucim": {"spacing": [0.25, 0.25, 1.0]}}

        def __init__(self, path):
            self.path = path

    monkeypatch.setitem(sys.modules, "cucim", SimpleNamespace(CuImage=CuImage, __version__="1"))
    (tmp_path / "a.svs").write_bytes(b"slide")
    assert SlideReader(tmp_path / "a.svs", backend="cucim").base_mpp == 0.25


@pytest.mark.parametrize("text", ["Aperio |MPP = 0.25|AppMag = 40", "x|MPP=0.25"])
def test_tifffile_reads_aperios_description(tmp_path, text):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((300, 300, 3), np.uint8), photometric="rgb", tile=(128, 128), description=text,
                     metadata=None)  # fmt: skip
    assert SlideReader(path, backend="tifffile").base_mpp == 0.25


def test_separate_planes_of_many_tiles(tmp_path):
    """The tiles of one plane after those of the other, the last ones padded."""
    planes = np.random.default_rng(0).integers(60, 255, (3, 150, 200)).astype(np.uint8)
    options = {"photometric": "rgb", "planarconfig": "separate", "tile": (64, 64), "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", planes, **options)
    reader = SlideReader(tmp_path / "a.tif", mpp=0.25)
    assert reader.backend == "tifffile"
    np.testing.assert_array_equal(reader.read(0, 0, 150, 200), planes)
    np.testing.assert_array_equal(reader.read(70, 130, 80, 70), planes[:, 70:, 130:])


def test_each_level_of_a_heat_map_states_its_own_resolution(tmp_path):
    values = np.random.default_rng(0).random((1, 300, 280)).astype(np.float32)
    levels = [HeatMap(tmp_path / "0.npy", values.shape)]
    levels[0].write(0, 0, 0, values[0])
    for number in (1, 2):
        levels.append(halve(levels[-1], tmp_path / f"{number}.npy"))
    write_ome_tiff(tmp_path / "a.ome.tif", levels, 24.0, "a", ["Tumor"])
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        (page,) = tiff.pages
        assert len(page.subifds) == 2
        for number, level in enumerate(tiff.series[0].levels):
            for side in ("XResolution", "YResolution"):
                density, base = level.pages[0].tags[side].value
                assert 1e4 * base / density == pytest.approx(24 * 2**number, rel=1e-5)


@pytest.mark.parametrize(("rows", "big"), [(2**15, False), (2**15 + 1, True)])
def test_maps_above_two_gigabytes_are_big_tiffs(rows, big, monkeypatch):
    """A TIFF holds 4 GB; compression may fail to make a map smaller, and levels come on top."""
    asked = []

    class Writer:
        def __init__(self, _, bigtiff, ome):
            asked.append(bigtiff)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, *_, **__):
            return None

    monkeypatch.setattr(ome.tifffile, "TiffWriter", Writer)
    write_ome_tiff("a.ome.tif", [SimpleNamespace(shape=(1, rows, 2**14))], 1.0, "a", ["Tumor"])
    assert asked == [big]


def test_tissue_is_the_same_lying_and_standing():
    """Nothing is smoothed, closed or filled in one direction only."""
    rng = np.random.default_rng(0)
    image = rng.normal(240, 8, (3, 120, 90))
    image[:, 20:80, 10:70] += rng.normal(-60, 60, (3, 60, 60))
    image[:, 90:92], image[:, :, 80:82] = 120, 160
    image = np.clip(image, 0, 255).astype(np.uint8)
    mask = tissue_mask(image, 4.0)
    assert 0.1 < mask.mean() < 0.9
    np.testing.assert_array_equal(tissue_mask(image.transpose(0, 2, 1), 4.0), mask.T)
    for mirrored in (image[:, ::-1], image[:, :, ::-1]):
        back = tissue_mask(np.ascontiguousarray(mirrored), 4.0)
        np.testing.assert_array_equal(back[::-1] if mirrored.strides[1] < 0 else back[:, ::-1], mask)
