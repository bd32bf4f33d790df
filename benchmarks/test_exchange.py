"""Results in every format of ``--formats`` at the size of a slide's nuclei, each in a process of its own.

``pytest benchmarks/test_exchange.py``; ``MONAI_EXT_OBJECTS=1000000`` is how many (200,000 by default). Seconds, peak
memory and the size on disk are in the JSON report's ``extra_info`` and printed with ``-s``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import shapely

from monai_ext.exchange import FORMATS, Exchange, Results
from monai_ext.formats.geojson import Features, write_geojson

COUNT, CORNERS = int(os.environ.get("MONAI_EXT_OBJECTS", "200000")), 20
SPACING = 60  # px from one nucleus to the next


def nuclei() -> Features:
    """Irregular polygons in rows over a square slide, three classes, two measurements."""
    rng = np.random.default_rng(0)
    side = int(np.ceil(COUNT**0.5))
    places = np.stack(np.divmod(np.arange(COUNT), side), axis=-1)[:, None, ::-1] * SPACING + SPACING / 2
    angle = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    radius = rng.uniform(10, 20, (COUNT, CORNERS, 1))
    return Features(
        shapely.polygons((places + radius * np.column_stack((np.cos(angle), np.sin(angle)))).round(2)),
        np.array(["Tumor", "Stroma", "Immune cells"], dtype=object)[rng.integers(0, 3, COUNT)],
        {"area_um2": rng.uniform(20, 60, COUNT), "score": rng.random(COUNT)},
        "detection",
        colors={"Tumor": (200, 0, 0)},
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_geojson(tmp_path_factory.mktemp("exchange") / "nuclei.geojson", nuclei())


def bytes_below(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


@pytest.mark.benchmark(group=f"{COUNT} nuclei in other formats")
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "geojson"])
def test_write(benchmark, path, name, tmp_path):
    def write():
        call = [sys.executable, __file__, name, str(path), str(tmp_path / "out")]
        return json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

    info = benchmark.pedantic(write, rounds=1)
    info["mb_written"] = sum(map(bytes_below, tmp_path.iterdir())) / 1e6
    benchmark.extra_info.update(info)
    print(f"{name}: {info['seconds']:.0f} s, {info['peak_gb']:.2f} GB, {info['mb_written']:.0f} MB")


def main(name: str, path: Path, stem: Path) -> None:
    """Write one format; print seconds, imports left out, and the process's peak memory."""
    side = SPACING * int(np.ceil(COUNT**0.5))
    exchange = Exchange([name])
    start = time.perf_counter()
    exchange.write(Results(path, "nuclei", shape=(side, side), mpp=(0.25, 0.25)), stem)
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text()  # getrusage would count what the parent had when it started this
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    print(json.dumps({"seconds": seconds, "peak_gb": peak / 1e6}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
