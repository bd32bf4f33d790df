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
from test_geojson import nuclei, peak

from monai_ext.exchange import FORMATS, Exchange, Results
from monai_ext.formats.geojson import write_geojson

COUNT, CORNERS = int(os.environ.get("MONAI_EXT_OBJECTS", "200000")), 20
SPACING, SIDE = 60, int(np.ceil(COUNT**0.5))  # px from one nucleus to the next; nuclei in a row


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    centres = np.stack(np.divmod(np.arange(COUNT), SIDE), axis=-1) * SPACING + SPACING / 2  # in rows over a square
    return write_geojson(tmp_path_factory.mktemp("exchange") / "nuclei.geojson", nuclei(COUNT, CORNERS, centres))


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
    results = Results(path, "nuclei", shape=(SIDE * SPACING,) * 2, mpp=(0.25, 0.25))
    exchange = Exchange([name])
    start = time.perf_counter()
    exchange.write(results, stem)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_gb": peak()}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
