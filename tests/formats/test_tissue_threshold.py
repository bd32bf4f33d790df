"""Between which ranges of optical density glass and tissue are parted, and when."""

import numpy as np
import pytest
from skimage.filters import threshold_otsu

from monai_ext.formats.tissue import _threshold

RNG = np.random.default_rng(0)
GLASS, TINTED = RNG.normal(0.02, 0.005, 5000), RNG.normal(0.03, 0.01, 5000)


@pytest.mark.parametrize(
    ("stain", "expected"),
    [
        pytest.param((GLASS, RNG.uniform(0.02, 0.6, 5000)), 0.09, id="what is paler is glass, however strong the rest"),
        pytest.param((GLASS / 100, GLASS), 0.05, id="noise of glass is no tissue"),
        pytest.param((RNG.uniform(0.06, 0.6, 5000),), 0.05, id="no glass at all: pale tissue is tissue"),
        pytest.param((), 0.05, id="nothing was scanned"),
    ],
)
def test_threshold_has_bounds(stain, expected):
    assert _threshold(np.concatenate([*stain, []]).astype(np.float32)) == pytest.approx(expected)


def test_threshold_between_the_bounds_is_otsus():
    stain = np.concatenate([TINTED, RNG.normal(0.11, 0.01, 5000)]).astype(np.float32)
    assert 0.055 < _threshold(stain) < 0.085
    assert _threshold(stain) == pytest.approx(threshold_otsu(stain))
