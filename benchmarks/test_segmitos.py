"""SegMitos on one field of 2084 x 2084 px, the size of MITOS 2012 (paper, TITAN X: 2.9 s for the network)."""

from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer

from monai_ext.inferers import HaloInferer
from monai_ext.networks import load_weights

BUNDLE = Path(__file__).parents[1] / "bundles" / "pathology_mitosis_segmentation"
SIDE = 2084


@pytest.fixture(scope="module")
def network():
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs/inference.json"))
    definition = parser.get_parsed_content("network_def")
    return load_weights(definition, BUNDLE / "models/model.pt").eval().to(memory_format=torch.channels_last)


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
