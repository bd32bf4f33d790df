"""Whole slides, on the CPU: the pipeline against the bare network, a window's price against the model zoo's, the NMS.

``MONAI_EXT_SLIDE_SIDE`` sets the side of the phantom slide in px of .25 um (20,000; it takes minutes to draw).
"""

from __future__ import annotations

import os
import shutil
from itertools import islice

import numpy as np
import pytest
import torch
from monai.data import DataLoader, MaskedPatchWSIDataset
from monai.transforms import ProbNMS
from scipy.ndimage import gaussian_filter
from torch.utils.data import Subset

from monai_ext.data.phantom import write_slide
from monai_ext.inferers import ExactWindows, SharedWindows, SlideInferer
from monai_ext.networks.nets import CELNet
from monai_ext.slides import SlideReader, Tissue, iterative_nms, plan_slide, tissue_mask

SIDE = int(os.environ.get("MONAI_EXT_SLIDE_SIDE", "20000"))
MPP = 1.0  # CELNet's patches are of 10x
WINDOW = 96  # px
WINDOWS = 1024  # that the model zoo's way is timed on
THUMBNAIL_MPP = 8.0


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slide") / "phantom.tif", SIDE, seed=3)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return CELNet().eval()


def predictor(network, form, step):
    return SharedWindows(network, step=step) if form == "shared" else ExactWindows(network, step=step)


def tiles_in_memory(slide, network):
    """The very tiles that the pipeline computes."""
    reader = SlideReader(slide, MPP)
    tissue = Tissue(tissue_mask(reader.thumbnail(THUMBNAIL_MPP), THUMBNAIL_MPP), reader.thumbnail_scale(THUMBNAIL_MPP))
    plan = plan_slide(reader, network.step, network.margin, tissue=tissue, align=network.align)
    tiles = [torch.from_numpy(reader.read(*plan.region(t)))[None] for s in plan.stripes for t in plan.tiles(s)]
    return plan, tiles


@pytest.mark.parametrize(("form", "step"), [("shared", 24), ("exact", 96)])
@pytest.mark.parametrize("what", ["bare network", "pipeline"])
def test_pipeline(benchmark, slide, network, tmp_path, form, step, what):
    """The bar: the pipeline's throughput is at least 85 % of the bare network's."""
    chosen = predictor(network, form, step)
    plan, tiles = tiles_in_memory(slide, chosen)

    def pipeline():
        shutil.rmtree(tmp_path)
        return SlideInferer(chosen, tmp_path, MPP)(slide)

    def bare():
        for tile in tiles:
            chosen(tile)

    chosen(tiles[0])
    benchmark.group = f"slide of {SIDE} px, {form} windows, step {step}"
    benchmark.pedantic(pipeline if what == "pipeline" else bare, rounds=2)
    cells = sum(tile.height * tile.width for stripe in plan.stripes for tile in plan.tiles(stripe))
    benchmark.extra_info |= {
        "s/mm2": benchmark.stats["min"] / plan.tissue_mm2,
        "ms/window": 1e3 * benchmark.stats["min"] / cells,
    }


def test_model_zoo(benchmark, slide, network):
    """As the zoo's tumour detection does: one patch per sample, so that a window costs the same at every step."""
    level, coarsest = round(np.log2(MPP / 0.25)), len(SlideReader(slide).downsamples) - 1
    patches = MaskedPatchWSIDataset(
        [{"image": str(slide)}], patch_size=WINDOW, patch_level=level, mask_level=coarsest, reader="OpenSlide"
    )
    chosen = Subset(patches, list(islice(range(0, len(patches), max(1, len(patches) // WINDOWS)), WINDOWS)))

    @torch.inference_mode()
    def run():
        for batch in DataLoader(chosen, batch_size=64, num_workers=2):
            network(batch["image"].float() / 255).sigmoid()

    benchmark.group = "windows as the model zoo computes them"
    benchmark.pedantic(run, rounds=2)
    benchmark.extra_info["ms/window"] = 1e3 * benchmark.stats["min"] / len(chosen)


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
