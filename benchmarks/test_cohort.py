"""Bookkeeping of an inference over many small images: what became of each, and its row of the summary.

The bar: at most 1 ms for each of 20,000 images, and no more than 1.3 times what each of 1,000 costs.
It is held against processor time, as nothing is waited for and the clock's depends on what else the machine does.
``MONAI_EXT_IMAGES`` sets other numbers. The peer writes both files as a whole after each image, up to 2,000 of them.
``pytest benchmarks/test_cohort.py -s`` prints ms for each image, which are in the JSON report's ``extra_info`` too.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pandas as pd
import pytest

from monai_ext.base.files import atomic_path
from monai_ext.data.cohort import Cohort
from monai_ext.data.result_files import ResultFiles

FEW, MANY = (int(number) for number in os.environ.get("MONAI_EXT_IMAGES", "1000,20000").split(","))
ROUNDS = 3


def row(image):
    return {"image": Path(image).name, "count": 3, "area_mm2": 0.262144, "density_per_mm2": 11.44, "hotspot_row": None}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of so many files; no image in them is read, as reading is no bookkeeping."""

    def make(number):
        folder = tmp_path_factory.mktemp(f"images{number}")
        for index in range(number):
            (folder / f"{index:06d}.png").write_bytes(b"-")
        return folder

    return {number: make(number) for number in {FEW, MANY}}


def keep_books(source, output):
    """All of a run but its images: start, a row and a mark for each, end."""
    cohort = Cohort(source, output, check=lambda *_: None)
    files = ResultFiles(output, cohort.root)
    for item in cohort.items:
        files.write_row(row(item["image"]))
        cohort.done(item["image"])
    del files
    cohort.close()


def keep_books_as_a_whole(source, output, number):
    """As it was done before: both files are written anew with each image."""
    images = sorted(map(str, source.iterdir()))[:number]
    state = {image: {"status": "pending"} for image in images}
    for image in images:
        table = pd.DataFrame([row(image)], dtype=object)
        if (output / "summary.csv").exists():
            earlier = pd.read_csv(output / "summary.csv", dtype=str, keep_default_na=False)
            table = pd.concat([earlier[earlier["image"] != Path(image).name], table]).sort_values("image")
        with atomic_path(output / "summary.csv") as temporary:
            table.to_csv(temporary, index=False)
        state = {**json.loads(json.dumps(state)), image: {"status": "done"}}
        with atomic_path(output / "state.json") as temporary:
            temporary.write_text(json.dumps(state, indent=1, ensure_ascii=False))


def timed(function, benchmark, number, rounds, arguments):
    """Run a benchmark; ms of processor time for each image."""
    seconds = []

    def run(*args):
        began = time.process_time()
        function(*args)
        seconds.append(time.process_time() - began)

    benchmark.pedantic(run, setup=lambda: (arguments(len(seconds)), {}), rounds=rounds, iterations=1)
    wall, processor = (1e3 * least / number for least in (benchmark.stats.stats.min, min(seconds)))
    benchmark.extra_info |= {"ms_per_image": wall, "processor_ms_per_image": processor}
    print(f"\n{benchmark.name}: {processor:.3f} ms for each of {number} images, by the clock {wall:.3f} ms")
    return processor


@pytest.fixture(scope="module")
def measured():
    return {}


@pytest.mark.benchmark(group="bookkeeping")
@pytest.mark.parametrize("number", [FEW, MANY])
def test_monai_ext(benchmark, folders, tmp_path, number, measured):
    source = folders[number]
    measured[number] = timed(keep_books, benchmark, number, ROUNDS, lambda run: (source, tmp_path / str(run)))
    state = json.loads((tmp_path / "0/state.json").read_text())
    assert [entry["status"] for entry in state.values()] == ["done"] * number
    assert pd.read_csv(tmp_path / "0/summary.csv")["count"].sum() == 3 * number
    assert measured[number] <= 1
    assert measured[number] <= 1.3 * measured[FEW]


@pytest.mark.benchmark(group="bookkeeping")
@pytest.mark.parametrize("number", sorted({min(FEW, 500), min(MANY, 2000)}))
def test_both_files_as_a_whole(benchmark, folders, tmp_path, number):
    timed(keep_books_as_a_whole, benchmark, number, 1, lambda _: (folders[MANY], tmp_path, number))
    assert len(pd.read_csv(tmp_path / "summary.csv")) == number
