"""Post-processing of one high-power field (2084 x 2084 px); the paper takes 130 ms."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu
from skimage.measure import label, regionprops

from monai_ext.transforms.blobs import BlobDetections


@pytest.fixture(scope="module")
def prob():
    rng = np.random.default_rng(0)
    image = np.zeros((2084, 2084), np.float32)
    for row, col in rng.integers(30, 2050, (100, 2)):
        cv2.circle(image, (int(col), int(row)), int(rng.integers(3, 17)), float(rng.uniform(0.3, 1)), -1)
    noisy = cv2.GaussianBlur(image, (0, 0), 4) + rng.uniform(0, 0.05, image.shape)
    return np.clip(noisy, 0, 1).astype(np.float32)


def peer(prob):
    smooth = gaussian_filter(prob, 0.5)
    blobs = regionprops(label(smooth > threshold_otsu(smooth), connectivity=2), smooth)
    return [(*b.centroid_weighted, b.area, b.mean_intensity) for b in blobs if b.area > 100]


@pytest.mark.benchmark(group="blobs 2084x2084")
def test_monai_ext(benchmark, prob):
    assert len(benchmark(BlobDetections(min_area=100), prob)[0]) > 20


@pytest.mark.benchmark(group="blobs 2084x2084")
def test_scipy_and_skimage(benchmark, prob):
    assert len(benchmark(peer, prob)) > 20
