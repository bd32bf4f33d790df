"""QuPath GeoJSON at the size of a slide's nuclei, outlines and masks, beside what one would use otherwise.

``pytest benchmarks/test_geojson.py``; peak memory, measured in a process of its own, is in the JSON report's
``extra_info`` and printed with ``-s``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import shapely
from scipy import ndimage
from skimage.draw import disk, polygon2mask

from monai_ext.formats.geojson import Features, label_map_to_polygons, rasterize, read_geojson, write_geojson

COUNT, CORNERS = 200_000, 40


def nuclei(count: int = COUNT, corners: int = CORNERS, centres: np.ndarray | None = None) -> Features:
    """Irregular polygons, three classes, two measurements: of 40 corners about 1 kB each in a file."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    radius = rng.uniform(10, 20, (count, corners, 1))
    centres = rng.uniform(0, 1e5, (count, 2)) if centres is None else centres
    xy = centres[:, None] + radius * np.column_stack((np.cos(angle), np.sin(angle)))
    return Features(
        shapely.polygons(xy.round(2)),
        np.array(["Tumor", "Stroma", "Immune cells"], dtype=object)[rng.integers(0, 3, count)],
        {"area": rng.uniform(100, 900, count), "score": rng.random(count)},
        "detection",
        colors={"Tumor": (200, 0, 0)},
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_geojson(tmp_path_factory.mktemp("geojson") / "nuclei.geojson", nuclei())


def peak_gigabytes(task: str, path: Path) -> float:
    done = subprocess.run([sys.executable, __file__, task, str(path)], check=True, capture_output=True, text=True)
    print(f"{task}: peak memory {done.stdout.strip()} GB")
    return float(done.stdout)


@pytest.mark.benchmark(group="read 200,000 polygons")
def test_read(benchmark, path):
    benchmark.extra_info["peak_gb"] = peak_gigabytes("read", path)
    features = benchmark.pedantic(read_geojson, [path], rounds=2)
    assert len(features) == COUNT


@pytest.mark.benchmark(group="read 200,000 polygons")
def test_read_json_and_shapely(benchmark, path):
    def read():
        content = json.loads(path.read_bytes())
        return [(shapely.geometry.shape(f["geometry"]), f["properties"]) for f in content["features"]]

    benchmark.extra_info["peak_gb"] = peak_gigabytes("read_json", path)
    assert len(benchmark.pedantic(read, rounds=1)) == COUNT


@pytest.mark.benchmark(group="write 200,000 polygons")
def test_write(benchmark, tmp_path):
    features = nuclei()
    benchmark.extra_info["peak_gb"] = peak_gigabytes("write", tmp_path / "peak.geojson")
    benchmark.pedantic(write_geojson, [tmp_path / "a.geojson", features], rounds=2)


@pytest.mark.benchmark(group="write 200,000 polygons")
def test_write_json_and_shapely(benchmark, tmp_path):
    features = nuclei()

    def write():
        items = [
            {"type": "Feature", "geometry": shapely.geometry.mapping(shape), "properties": {"classification": name}}
            for shape, name in zip(features.geometry, features.classes, strict=True)
        ]
        (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": items}))

    benchmark.pedantic(write, rounds=1)


def label_map() -> np.ndarray:
    labels = np.zeros((1000, 1000), dtype=np.int32)
    for index in range(1000):
        row, col = divmod(index, 32)
        labels[disk((row * 31 + 15, col * 31 + 15), 13)] = index + 1
    return labels


@pytest.mark.benchmark(group="outline 1,000 instances in 1000 x 1000")
def test_outlines(benchmark):
    values, _ = benchmark(label_map_to_polygons, label_map())
    assert len(values) == 1000


@pytest.mark.benchmark(group="outline 1,000 instances in 1000 x 1000")
def test_outlines_opencv(benchmark):
    """Through pixel centres: each is half a pixel too small, and without its holes."""

    def outlines(labels):
        found = []
        for value, box in enumerate(ndimage.find_objects(labels), start=1):
            own = (labels[box] == value).astype(np.uint8)
            (contour, *_), _ = cv2.findContours(own, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            found.append(shapely.Polygon(contour[:, 0] + (box[1].start, box[0].start)))
        return found

    assert len(benchmark(outlines, label_map())) == 1000


@pytest.mark.benchmark(group="draw 1,000 polygons on 1000 x 1000")
def test_rasterize(benchmark):
    features = Features(label_map_to_polygons(label_map())[1])
    assert np.array_equal(benchmark(rasterize, features, (1000, 1000))[0], label_map() > 0)


@pytest.mark.benchmark(group="draw 1,000 polygons on 1000 x 1000")
def test_rasterize_skimage(benchmark):
    polygons = label_map_to_polygons(label_map())[1]

    def draw():
        mask = np.zeros((1000, 1000), dtype=bool)
        for polygon in polygons:
            left, top, right, bottom = map(int, polygon.bounds)
            corners = np.array(polygon.exterior.coords)[:, ::-1] - 0.5 - (top, left)
            mask[top:bottom, left:right] |= polygon2mask((bottom - top, right - left), corners)
        return mask

    benchmark(draw)


@pytest.mark.benchmark(group="draw 1,000 polygons on 1000 x 1000")
def test_rasterize_opencv(benchmark):
    """Fills the outline's own pixels too: not exact."""
    polygons = label_map_to_polygons(label_map())[1]

    def draw():
        outlines = [np.array(polygon.exterior.coords, dtype=np.int32) for polygon in polygons]
        return cv2.fillPoly(np.zeros((1000, 1000), dtype=np.uint8), outlines, 1)

    benchmark(draw)


def peak() -> float:
    """The process's own peak, GB (Linux); getrusage would count what its parent had when it was started."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1e6


def _stream_nuclei(path: str) -> None:
    from monai_ext.formats.geojson import GeoJSONWriter

    part = nuclei(2000)
    with GeoJSONWriter(path) as writer:
        for _ in range(COUNT // len(part)):
            writer.write(part)


if __name__ == "__main__":
    tasks = {
        "read": read_geojson,
        "read_json": lambda path: [
            shapely.geometry.shape(f["geometry"]) for f in json.loads(Path(path).read_bytes())["features"]
        ],
        "write": _stream_nuclei,
    }
    result = tasks[sys.argv[1]](sys.argv[2])
    print(peak())
