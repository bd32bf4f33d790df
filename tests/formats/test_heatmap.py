import xml.etree.ElementTree as ET

import numpy as np
import pytest
import tifffile

from monai_ext.base.errors import InputError
from monai_ext.formats import heatmap
from monai_ext.formats.heatmap import HeatMap, halve
from monai_ext.formats.ome import write_ome_tiff

RNG = np.random.default_rng(0)


@pytest.fixture
def small_strips(monkeypatch):
    monkeypatch.setattr(heatmap, "_STRIP_BYTES", 3 * 4 * 70)


def filled(path, values):
    heat = HeatMap(path, values.shape)
    for channel, plane in enumerate(values):
        heat.write(channel, 0, 0, plane)
    heat.sync()
    return heat


def test_tiles_come_together_and_the_file_is_plain_numpy(tmp_path):
    values = RNG.random((2, 50, 70)).astype(np.float32)
    with HeatMap(tmp_path / "m.npy", (2, 50, 70)) as heat:
        for channel in (1, 0):
            for row in (30, 0, 20, 10):
                for col in (40, 0, 60, 20):
                    tile = values[channel, row : row + 10, col : col + 20]
                    heat.write(channel, row, col, tile[:, : 70 - col])
        heat.write(0, 40, 0, values[0, 40:])
        values[1, 40:] = 0
        heat.sync()
        np.testing.assert_array_equal(heat.rows(15, 33, 1), values[1, 15:33])
    np.testing.assert_array_equal(np.load(tmp_path / "m.npy"), values)
    with HeatMap(tmp_path / "m.npy") as heat:
        assert heat.shape == (2, 50, 70)
        np.testing.assert_array_equal(heat.rows(0, 50), values[0])


def test_strips(tmp_path, small_strips):
    values = RNG.random((1, 50, 70)).astype(np.float32)
    with filled(tmp_path / "m.npy", values) as heat:
        for multiple in (1, 2, 8):
            strips = list(heat.strips(0, multiple))
            assert len(strips) > 5
            assert all(start % multiple == 0 for start, _ in strips)
            np.testing.assert_array_equal(np.concatenate([strip for _, strip in strips]), values[0])


@pytest.mark.parametrize("shape", [(1, 50, 70), (2, 51, 71), (1, 1, 7), (1, 3, 1)])
def test_halves_keep_the_largest(shape, tmp_path, small_strips):
    values = RNG.random(shape).astype(np.float32)
    with filled(tmp_path / "m.npy", values) as heat, halve(heat, tmp_path / "h.npy") as half:
        half.sync()
        expected = np.full((shape[0], -(-shape[1] // 2), -(-shape[2] // 2)), -1, np.float32)
        for (channel, row, col), value in np.ndenumerate(values):
            at = channel, row // 2, col // 2
            expected[at] = max(expected[at], value)
        np.testing.assert_array_equal(np.load(tmp_path / "h.npy"), expected)
        assert half.shape == expected.shape


@pytest.mark.parametrize("damage", ["text", "short", "double", "flat"])
def test_something_else_is_no_map(damage, tmp_path):
    path = tmp_path / "m.npy"
    np.save(path, np.zeros((1, 5, 5), np.float64 if damage == "double" else np.float32))
    if damage == "text":
        path.write_text("no map")
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-4])
    elif damage == "flat":
        np.save(path, np.zeros((5, 5), np.float32))
    with pytest.raises(InputError, match=r"m\.npy"):
        HeatMap(path)


@pytest.mark.parametrize("shape", [(1, 600, 700), (3, 300, 520), (1, 7, 3)])
def test_ome_tiff(shape, tmp_path):
    values = RNG.random(shape).astype(np.float32)
    with filled(tmp_path / "m.npy", values) as heat, halve(heat, tmp_path / "h.npy") as half:
        names = ["a", "b", "c"][: shape[0]]
        half.sync()
        for name in ("one", "two"):
            write_ome_tiff(tmp_path / f"{name}.ome.tif", [heat, half], 24.0, "a.svs heat map", names)
    assert (tmp_path / "one.ome.tif").read_bytes() == (tmp_path / "two.ome.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "one.ome.tif") as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        reduced = np.load(tmp_path / "h.npy")
        assert [level.shape[-2:] for level in series.levels] == [shape[1:], reduced.shape[1:]]
        np.testing.assert_array_equal(series.levels[0].asarray().reshape(shape), values)
        np.testing.assert_array_equal(series.levels[1].asarray().ravel(), reduced.ravel())
        page = series.levels[0].pages[0]
        assert page.is_tiled
        assert page.dtype == np.float32
        density, base = page.tags["XResolution"].value
        assert 1e4 * base / density == pytest.approx(24)
        xml = ET.fromstring(tiff.ome_metadata)
    space = {"o": xml.tag[1:].split("}")[0]}
    pixels = xml.find(".//o:Pixels", space)
    assert {key: pixels.get(key) for key in ("PhysicalSizeX", "PhysicalSizeY", "PhysicalSizeXUnit", "Type")} == {
        "PhysicalSizeX": "24.0", "PhysicalSizeY": "24.0", "PhysicalSizeXUnit": "µm", "Type": "float",
    }  # fmt: skip
    assert [channel.get("Name") for channel in pixels.findall("o:Channel", space)] == names
    assert "0 to 1" in xml.find(".//o:Description", space).text
