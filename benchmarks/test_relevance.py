"""What seeds cost: relevance beside a forward and backward pass of the same batch, seeds beside scikit-image.

Bars: relevance at most 4 times the pass; seeds of a 1000 x 1000 map with 500 components below 50 ms.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.measure import label, regionprops
from skimage.morphology import binary_closing, disk

from monai_ext.explain import relevance
from monai_ext.networks.nets import CyclicClassifier
from monai_ext.transforms import SeedMasksFromRelevance

NAMES = ["resnet18", "resnet50", "swin_t"]
BATCH = (4, 3, 224, 224)


@pytest.fixture(scope="module", params=NAMES)
def network(request):
    return CyclicClassifier(request.param)


@pytest.fixture(scope="module")
def images():
    return torch.randn(BATCH, generator=torch.Generator().manual_seed(0))


def run(benchmark, name, work):
    benchmark.group = name
    return benchmark.pedantic(work, rounds=3, warmup_rounds=1)


def test_forward_and_backward(benchmark, network, images):
    """What a step of training costs, without the optimiser."""

    def work():
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(images), torch.zeros(len(images), dtype=torch.long)).backward()

    run(benchmark, f"relevance of {network.backbone.name}", work)


def test_relevance(benchmark, network, images):
    run(benchmark, f"relevance of {network.backbone.name}", lambda: relevance(network, images))


@pytest.fixture(scope="module")
def spots():
    """About 500 components above the threshold, ragged as relevance is."""
    rng = np.random.default_rng(0)
    places = np.argwhere(np.ones((23, 23)))[:500] * 43 + 22 + rng.integers(-6, 7, (500, 2))
    peaks = np.zeros((1000, 1000), np.float32)
    peaks[tuple(places.T)] = rng.uniform(0.7, 1, 500)
    smooth = ndimage.gaussian_filter(peaks, 7)
    return smooth * (1 + 0.1 * ndimage.gaussian_filter(rng.normal(size=smooth.shape), 1)).astype(np.float32)


def test_seeds(benchmark, spots):
    _, scores = run(benchmark, "seeds", lambda: SeedMasksFromRelevance(max_seeds=None)(spots))
    benchmark.extra_info["seeds"] = len(scores)
    assert 450 <= len(scores) <= 550


def test_seeds_by_scikit_image(benchmark, spots):
    """The functions that one would otherwise call, in the same order; hulls in the components' boxes alone."""

    def work():
        response = np.maximum(spots, 0) / spots.max()
        union = np.zeros(spots.shape, bool)
        for part in regionprops(label(response > 0.35)):
            union[part.slice] |= part.image_convex
        parts = regionprops(label(binary_closing(union, disk(2))), response)
        return sorted(part.intensity_mean for part in parts if part.area >= 100)

    benchmark.extra_info["seeds"] = len(run(benchmark, "seeds", work))
