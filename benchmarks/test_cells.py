"""Cells of slides, on the CPU: what finding them adds to the networks' own time, beside HoVer-Net's post-processing.

``MONAI_EXT_CELL_SIDE`` sets the side of the phantom slide in px of .5 um (12,000, about 50,000 nuclei; it takes minutes
to draw); ``MONAI_EXT_OBJECTS=1000000`` how many nuclei are painted where memory counts (100,000).
``pytest benchmarks/test_cells.py -s`` prints shares, prices and peak memory, which are in the JSON report's
``extra_info`` too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from monai.apps.pathology.transforms.post.array import HoVerNetInstanceMapPostProcessing
from monai.transforms.intensity.array import ComputeHoVerMaps
from test_geojson import peak
from torch import nn

from monai_ext.data.cells import Grid, find_cells
from monai_ext.formats.geojson import encode_features, read_geojson
from monai_ext.inferers import CellFinder, PatchClassifier
from monai_ext.networks import InputConvention
from monai_ext.networks.nets import HematoxylinMap, RCCNet, TransposedUNet
from monai_ext.phantom import phantom_field, write_slide
from monai_ext.slides import SlideCells, SlideReader, Tissue, plan_slide, tissue_mask
from monai_ext.slides.stream import decode_tiles
from monai_ext.transforms import NucleusInstances
from monai_ext.view import ObjectIndex

SIDE = int(os.environ.get("MONAI_EXT_CELL_SIDE", "12000"))
MPP = 0.5
NAMES = ("other", "immune", "muscle")
PITCH = 20  # px between the painted nuclei
PAINTED = int(os.environ.get("MONAI_EXT_OBJECTS", "100000"))


class Stained(nn.Module):
    """An untrained network of the shipped size, whose time counts, and the hematoxylin, whose nuclei count."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.network, self.stain = TransposedUNet(filters=filters), HematoxylinMap(darkest=1.6)

    def forward(self, x):
        return self.stain(x)[:, 1:] + 1e-6 * self.network(x)


class Clocked:
    """Sums the time that its own thread, and so no network, spends in a block."""

    def __init__(self):
        self.seconds, self.lock = 0.0, threading.Lock()

    @contextmanager
    def __call__(self, sign=1):
        began = time.thread_time()
        yield
        with self.lock:
            self.seconds += sign * (time.thread_time() - began)


def finder(filters: int, clock: Clocked | None = None) -> CellFinder:
    torch.manual_seed(0)
    classifier = PatchClassifier(
        RCCNet(num_classes=len(NAMES)), InputConvention((128,) * 3, (60,) * 3), batch_size=256, device="cpu"
    )
    scored = classifier
    if clock:

        def scored(patches):
            with clock(-1):
                return classifier(patches)

    made = CellFinder(Stained(filters), NucleusInstances(), scored, NAMES)
    if clock:
        cells = made.cells

        def clocked(*args):
            with clock():
                return cells(*args)

        made.cells = clocked
    return made


def clocked_files(found_by: CellFinder, folder: Path, clock: Clocked) -> SlideCells:
    """A run over slides whose files, at the end and as cells come, count as well."""
    inferer = SlideCells(found_by, folder, MPP)
    for name in ("_write", "_partial"):
        own = getattr(inferer, name)

        def clocked(*args, own=own):
            with clock():
                return own(*args)

        setattr(inferer, name, clocked)
    return inferer


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slide") / "phantom.tif", SIDE, seed=3, mpp=MPP)


@pytest.mark.parametrize("filters", [16, 32])
def test_share_of_post_processing(benchmark, slide, tmp_path, filters):
    """The bar: instances, outlines, patches and files take less than 30 % of all the time.

    Processor time, of which the networks' is that of both cores; the wall clock is shorter, as the two overlap.
    """
    clock = Clocked()
    inferer = clocked_files(finder(filters, clock), tmp_path, clock)

    def run():
        shutil.rmtree(tmp_path)
        clock.seconds, began = 0.0, time.process_time()
        result = inferer(slide)
        benchmark.extra_info |= {
            "cells": result.summary["cells"],
            "share": clock.seconds / (time.process_time() - began),
            "us/cell": 1e6 * clock.seconds / result.summary["cells"],
            "s/mm2": result.seconds_per_mm2,
        }

    benchmark.group = f"cells of a slide of {SIDE} px"
    benchmark.pedantic(run, rounds=1)
    print(filters, "filters:", benchmark.extra_info)


@pytest.mark.parametrize("filters", [16, 32])
def test_bare_network(benchmark, slide, tmp_path, filters):
    """The network alone on the same tiles, decoded ahead as the pipeline does."""
    bare = finder(filters)
    reader = SlideReader(slide, MPP)
    tissue = Tissue(tissue_mask(reader.thumbnail(8.0), 8.0), reader.thumbnail_scale(8.0))
    plan = plan_slide(reader, 1, bare.margin, 1280, tissue, bare.align)

    def run():
        for _, pixels, _ in decode_tiles(reader, plan):
            bare(pixels)

    benchmark.group = f"cells of a slide of {SIDE} px"
    benchmark.pedantic(run, rounds=1)


@pytest.fixture(scope="module")
def field():
    return phantom_field((512, 512), 1, mpp=MPP)


@pytest.mark.benchmark(group="from maps to instances with outlines, 512 x 512")
def test_instances(benchmark, field):
    """From a probability to encoded features, with measurements and patches: more than the peer does."""
    probability = (field.instances > 0).astype(np.float32)
    find = NucleusInstances(mpp=MPP)

    def run():
        instances = find(probability)
        cells = find_cells(
            instances,
            Grid(MPP),
            probability=probability,
            image=field.image,
            classifier=lambda patches: np.zeros((len(patches), 3), np.float32),
            class_names=NAMES,
        )
        return list(encode_features(cells.features(), "benchmark"))

    found = len(benchmark(run))
    benchmark.extra_info |= {"nuclei": found, "us/nucleus": 1e6 * benchmark.stats["min"] / found}
    print(benchmark.extra_info)


@pytest.mark.benchmark(group="from maps to instances with outlines, 512 x 512")
def test_hovernet_post_processing(benchmark, field):
    """MONAI's, on perfect maps: instances, outlines, centroids."""
    mask = (field.instances > 0).astype(np.float32)
    maps = np.asarray(ComputeHoVerMaps()(field.instances[None].astype(np.int32)))
    logits = torch.from_numpy(np.stack([1 - mask, mask])) * 20
    peer = HoVerNetInstanceMapPostProcessing(activation="softmax")

    def run():
        return peer(logits, torch.from_numpy(maps))

    found = len(benchmark.pedantic(run, rounds=2)[0])
    benchmark.extra_info |= {"nuclei": found, "us/nucleus": 1e6 * benchmark.stats["min"] / found}
    print(benchmark.extra_info)


def test_slide_of_many_nuclei(benchmark, tmp_path):
    """Found, typed and written in one process, read again in another, opened by the viewer in a third.

    The bars at a million: 2 GB in the first and, without the networks, 200 us a nucleus; 1 GB to read them.
    """

    def ask(task: str) -> dict[str, float]:
        done = subprocess.run(
            [sys.executable, __file__, task, str(tmp_path)],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        )
        return json.loads(done.stdout.splitlines()[-1])

    paint(tmp_path / "painted.tif")
    benchmark.group = f"{PAINTED} nuclei of a slide"
    benchmark.extra_info |= benchmark.pedantic(ask, ("find",), rounds=1)
    for task in ("read", "view"):
        benchmark.extra_info |= ask(task)
    print(benchmark.extra_info)


def paint(path: Path, rows: int = round(PAINTED**0.5)) -> Path:
    """A slide full of dark discs, no two alike in place."""
    rng = np.random.default_rng(0)
    side = rows * PITCH
    image = np.full((side, side, 3), (225, 180, 205), np.uint8)
    y, x = np.indices((PITCH, PITCH))
    for row in range(rows):
        places = rng.uniform(8.5, PITCH - 8.5, (rows, 2))
        radius = rng.uniform(5.5, 7.5, (rows, 1, 1))
        inside = np.hypot(y - places[:, :1, None], x - places[:, 1:, None]) < radius
        strip = image[row * PITCH : (row + 1) * PITCH].reshape(PITCH, rows, PITCH, 3)
        strip[inside.transpose(1, 0, 2)] = (60, 30, 120)
    density = (1e4 / MPP,) * 2
    tifffile.imwrite(path, image, tile=(512, 512), compression="zlib", resolution=density, resolutionunit="CENTIMETER")
    return path


def main(task: str, folder: Path) -> dict[str, float]:
    """What a process of its own took: seconds, and GB at its peak, with what it had imported and without (Linux)."""
    path, imported, began = folder / "out/painted.geojson", peak(), time.perf_counter()
    if task == "find":
        clock = Clocked()
        result = clocked_files(finder(16, clock), folder / "out", clock)(folder / "painted.tif")
        cells, bytes_each = result.summary["cells"], path.stat().st_size / result.summary["cells"]
        found = {"cells": cells, "us_per_cell": 1e6 * clock.seconds / cells, "bytes_per_cell": bytes_each}
    elif task == "read":
        found = {"read_cells": len(read_geojson(path))}
    else:
        index = ObjectIndex(read_geojson(path))
        opened, side = time.perf_counter() - began, PITCH * round(PAINTED**0.5)
        for corner in np.linspace(0, side - 1000, 20):
            index.within((corner, corner, corner + 1000, corner + 1000), 1.0)
        found = {"view_opens_s": opened, "view_window_ms": 50 * (time.perf_counter() - began - opened)}
    took = {"s": time.perf_counter() - began, "peak_gb": peak(), "added_gb": peak() - imported}
    return found | {f"{task}_{name}": value for name, value in took.items()}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
