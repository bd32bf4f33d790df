"""SegMitos on fields of the papers' sizes: 2084 x 2084 px as MITOS 2012, 1539 x 1376 px as MITOS-ATYPIA-14.

The paper's times, 2.9 s and .92 s on a TITAN X, are those of its network of 134 M parameters at stride 32; the shipped
one has 3.7 M. Both are measured here.
"""

import time
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer

from monai_ext.inferers import HaloInferer
from monai_ext.networks import load_weights

BUNDLE = Path(__file__).parents[1] / "bundles" / "pathology_mitosis_segmentation"
SIDE = 2084


def configured(*files):
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / "configs" / name) for name in files])
    return parser.get_parsed_content("network_def")


@pytest.fixture(scope="module")
def network():
    definition = configured("inference.json")
    return load_weights(definition, BUNDLE / "models/model.pt").eval().to(memory_format=torch.channels_last)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "inferer",
    [
        HaloInferer(),
        HaloInferer(tile=1024, halo=256, max_pixels=1),
        SlidingWindowInferer(roi_size=512, overlap=0.5, sw_batch_size=1, mode="gaussian"),
    ],
    ids=["one pass", "tiles with halo", "MONAI sliding windows"],
)
@pytest.mark.benchmark(group="field 2084 x 2084")
def test_network(benchmark, network, inferer):
    image = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        out = benchmark.pedantic(lambda: inferer(image, network), rounds=3, warmup_rounds=1)
    assert out.shape == (1, 2, SIDE, SIDE)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("shape", [(1376, 1539), (SIDE, SIDE)], ids=lambda shape: f"{shape[1]} x {shape[0]}")
@pytest.mark.parametrize("which", ["shipped", "paper's"])
@pytest.mark.benchmark(group="one thread", timer=time.process_time)  # what others compute meanwhile does not count
def test_both_networks(benchmark, network, which, shape):
    """Whole fields at once, as in the paper; its network with random weights, which are as fast as any."""
    if which == "paper's":
        files = ("inference.json", "overlays/paper/paper_network.json")
        network = configured(*files).eval().to(memory_format=torch.channels_last)
    image = torch.randn(1, 3, *shape)
    with torch.inference_mode():
        out = benchmark.pedantic(lambda: network(image), rounds=1)
    assert out.shape == (1, 2, *shape)
