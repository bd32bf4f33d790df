"""Whole slides, on the CPU: the pipeline against the bare network, a window's price against the model zoo's, the NMS.

``MONAI_EXT_SLIDE_SIDE`` sets the side of the phantom slide in px of .25 um (20,000; it takes minutes to draw), and
``MONAI_EXT_MEMORY_SIDES`` those of the slides that memory is measured on. The real slide is one of ``MONAI_EXT_DATA``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MaskedPatchWSIDataset
from monai.transforms import ProbNMS
from scipy.ndimage import gaussian_filter
from torch.utils.data import Subset

from monai_ext.inferers import ExactWindows, SharedWindows, SlideInferer
from monai_ext.networks.nets import CELNet
from monai_ext.phantom import write_slide
from monai_ext.slides import SlideReader, iterative_nms

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "bundles/pathology_metastasis_evidence_localization"
SIDE = int(os.environ.get("MONAI_EXT_SLIDE_SIDE", "20000"))
MEMORY_SIDES = [int(side) for side in os.environ.get("MONAI_EXT_MEMORY_SIDES", "10000,40000").split(",")]
MPP = 1.0  # CELNet's patches are of 10x
WINDOW = 96  # px
WINDOWS = 1024  # that the model zoo's way is timed on


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slide") / "phantom.tif", SIDE, seed=3)


@pytest.fixture(params=["phantom", "real"])
def slide(request):
    if request.param == "phantom":
        return request.getfixturevalue("phantom")
    if "MONAI_EXT_DATA" not in os.environ:
        pytest.skip("MONAI_EXT_DATA is not set")
    return Path(os.environ["MONAI_EXT_DATA"]) / "slides/CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return CELNet().eval()


def predictor(network, form, step):
    return SharedWindows(network, step=step) if form == "shared" else ExactWindows(network, step=step)


class Recorder:
    """Stands in for a predictor and keeps what it is given: the tiles of the pipeline, to the pixel."""

    channels = 1

    def __init__(self, chosen):
        self.step, self.margin, self.align = chosen.step, chosen.margin, chosen.align
        self.selective = getattr(chosen, "selective", False)
        self.given = []

    def __call__(self, tiles, **options):
        self.given.append((tiles, options))
        return torch.zeros(len(tiles), 1, *((side - 2 * self.margin) // self.step for side in tiles.shape[2:]))


@pytest.mark.parametrize(("form", "step"), [("shared", 24), ("exact", 96)])
@pytest.mark.parametrize("what", ["bare network", "pipeline"])
def test_pipeline(benchmark, slide, network, tmp_path, form, step, what):
    """The bar: the pipeline's throughput is at least 85 % of the bare network's."""
    chosen = predictor(network, form, step)
    recorder = Recorder(chosen)
    SlideInferer(recorder, tmp_path, MPP)(slide)
    plan = json.loads((tmp_path / f"{slide.stem}_plan.json").read_text())

    def pipeline():
        shutil.rmtree(tmp_path)
        return SlideInferer(chosen, tmp_path, MPP)(slide)

    def bare():
        for tiles, options in recorder.given:
            chosen(tiles, **options)

    chosen(recorder.given[0][0])
    benchmark.group = f"{slide.stem}, {form} windows, step {step}"
    benchmark.pedantic(pipeline if what == "pipeline" else bare, rounds=3)
    benchmark.extra_info |= {
        "s/mm2": benchmark.stats["median"] / plan["tissue_mm2"],
        # on tissue, as the model zoo's are: glass in a tile is no achievement
        "ms/window": 1e3 * benchmark.stats["median"] / plan["tissue_cells"],
    }
    print(benchmark.extra_info)


@pytest.mark.parametrize("side", MEMORY_SIDES)
def test_peak_memory(benchmark, tmp_path, side):
    """The bar: below 3 GB, and no more for a slide of sixteen times the area. The whole command, in its own process."""
    slide = write_slide(tmp_path / "phantom.tif", side, seed=3)
    files = "['configs/inference.json','configs/slides.json']"
    arguments = ["run", "--config_file", files, "--dataset_dir", str(slide), "--output_dir", str(tmp_path / "out")]

    def run():
        process = subprocess.Popen(
            [sys.executable, "-m", "monai.bundle", *arguments],
            cwd=BUNDLE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        benchmark.extra_info["peak_gb"] = usage.ru_maxrss / 1e6  # Linux counts KB

    benchmark.group = "memory of slides.json"
    benchmark.pedantic(run, rounds=1)
    print(side, benchmark.extra_info)


def test_model_zoo(benchmark, phantom, network):
    """As the zoo's tumour detection does: one patch per sample, so that a window costs the same at every step."""
    level, coarsest = round(np.log2(MPP / 0.25)), len(SlideReader(phantom).downsamples) - 1
    patches = MaskedPatchWSIDataset(
        [{"image": str(phantom)}], patch_size=WINDOW, patch_level=level, mask_level=coarsest, reader="OpenSlide"
    )
    chosen = Subset(patches, list(islice(range(0, len(patches), max(1, len(patches) // WINDOWS)), WINDOWS)))

    network = network.to(memory_format=torch.channels_last)  # twice as fast: ways are compared, not layouts

    @torch.inference_mode()
    def run():
        for batch in DataLoader(chosen, batch_size=64, num_workers=2):
            network(batch["image"].float() / 255).sigmoid()

    benchmark.group = "windows as the model zoo computes them"
    benchmark.pedantic(run, rounds=2)
    benchmark.extra_info["ms/window"] = 1e3 * benchmark.stats["median"] / len(chosen)


@pytest.mark.parametrize("nms", ["monai_ext", "MONAI"])
@pytest.mark.parametrize("radius", [3, 10])
def test_iterative_nms(benchmark, nms, radius):
    heat = gaussian_filter(np.random.default_rng(0).random((1000, 1000)), 3).astype(np.float32)
    heat = (heat - heat.min()) / np.ptp(heat)
    benchmark.group = f"iterative NMS, map of 1000 x 1000, radius {radius}"
    if nms == "MONAI":
        peer = ProbNMS(prob_threshold=0.6, box_size=2 * radius + 1)
        found = benchmark.pedantic(lambda: peer(heat.copy()), rounds=1)
    else:
        found = benchmark(iterative_nms, heat, radius, 0.6)[0]
    benchmark.extra_info["points"] = len(found)
