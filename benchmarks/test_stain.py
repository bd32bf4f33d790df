"""Stain normalisation and jitter against the peers a user would otherwise pick.

Each normaliser gets the array form that it wants and estimates the stains of its image: MONAI and torchstain from all
pixels, ours from a grid of at most 32,768 (the default) or, in exact mode, from all of them. "fitted" does not
estimate: it has the stains of its slide.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.apps.pathology.transforms.stain.array import NormalizeHEStains
from scipy.ndimage import gaussian_filter
from torchstain.torch.normalizers.macenko import TorchMacenkoNormalizer

from monai_ext.base.stain import HE_STAINS
from monai_ext.transforms.stain import MacenkoNormalize, RandStainJitter

SIZES = (512, 1024)
NORMALIZERS = ("sampled", "exact", "fitted", "torchstain", "monai")


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def tissue(size: int) -> np.ndarray:
    """Smooth maps of two stains, glass and sensor noise; uint8 (3, H, W)."""
    rng = np.random.default_rng(0)
    field = gaussian_filter(rng.normal(size=(2, size, size)), (0, 4, 4))
    concentration = np.clip(field / field.std((1, 2), keepdims=True), 0, None)
    light = 240 * np.exp(-np.einsum("cs,shw->chw", np.array(HE_STAINS), concentration))
    return np.clip(light + rng.normal(0, 1, light.shape), 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize("name", NORMALIZERS)
@pytest.mark.parametrize("size", SIZES)
def test_normalize(benchmark, size, name):
    benchmark.group = f"Macenko normalisation, {size} x {size}"
    image = tissue(size)
    tensor = torch.from_numpy(image)
    if name == "monai":
        benchmark(NormalizeHEStains(), np.ascontiguousarray(image.transpose(1, 2, 0)))
    elif name == "torchstain":
        benchmark(TorchMacenkoNormalizer().normalize, tensor, stains=False)
    elif name == "fitted":
        benchmark(MacenkoNormalize().fit(tensor), tensor)
    else:
        benchmark(MacenkoNormalize(**({"max_pixels": None} if name == "exact" else {})), tensor)


@pytest.mark.parametrize("own", [False, True], ids=["fixed stains", "own stains"])
@pytest.mark.parametrize("size", SIZES)
def test_jitter(benchmark, size, own):
    benchmark.group = f"stain jitter, {size} x {size}"
    benchmark(RandStainJitter(prob=1.0, **({"stains": None} if own else {})), torch.from_numpy(tissue(size)))
