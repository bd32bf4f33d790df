"""Listing the images of a folder: ours leaves out parts of slides, hidden files and results, and follows links.

The bar: at most 1 s for 50,000 files. The peer lists all files of a kind, by ``Path.rglob``, sorted. Files lie in one
folder (as tiles do) or in a folder for each of 500 patients. ``MONAI_EXT_IMAGES`` sets another number.
``pytest benchmarks/test_listing.py``.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monai_ext.base.files import find_files
from monai_ext.data.cohort import Cohort
from monai_ext.formats.image import SUFFIXES

NUMBER = int(os.environ.get("MONAI_EXT_IMAGES", "50000"))
PATIENTS = 500


@pytest.fixture(scope="module", params=["one folder", f"{PATIENTS} folders"])
def folder(request, tmp_path_factory):
    top = tmp_path_factory.mktemp("images")
    for number in range(NUMBER):
        path = top / (f"{number % PATIENTS:03d}" if request.param != "one folder" else "") / f"{number:06d}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (top / "a.vms").write_text("ImageFile=000000.png\n")
    return top


def rglob(folder: Path) -> list[Path]:
    """What one would write."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def timed(benchmark, function, *arguments):
    result = benchmark.pedantic(function, arguments, rounds=5, warmup_rounds=1)
    print(f"\n{benchmark.name}: {benchmark.stats.stats.min:.2f} s for {NUMBER} files")
    return result


@pytest.mark.benchmark(group="listing")
def test_find_files(benchmark, folder):
    files = timed(benchmark, find_files, folder, SUFFIXES)
    assert len(files) in (NUMBER, NUMBER + 1)


@pytest.mark.benchmark(group="listing")
def test_cohort(benchmark, folder):
    """With a second look for data lists, and without what runs wrote."""
    files = timed(benchmark, Cohort._find, folder, folder / "out")
    assert len(files) in (NUMBER, NUMBER + 1)


@pytest.mark.benchmark(group="listing")
def test_rglob(benchmark, folder):
    assert len(timed(benchmark, rglob, folder)) == NUMBER + 1
