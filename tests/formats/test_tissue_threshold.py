"""Between which ranges of optical density glass and tissue are parted, and when."""

import numpy as np
import pytest

from monai_ext.formats.tissue import _threshold


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ((0.01, 0.3), 0.09),  # glass and strongly stained tissue: what is paler than .09 is glass
        ((0.001, 0.02), 0.05),  # noise of glass is never tissue
        ((0.049, 0.3), 0.09),  # the darker glass
        ((0.051, 0.3), 0.05),  # neither kind is glass: pale and dark tissue
        ((0.2, 0.4), 0.05),
        ((), 0.05),  # nothing was scanned
    ],
)
def test_threshold(kinds, expected):
    stain = np.concatenate([np.full(100, kind, np.float32) for kind in kinds] or [np.zeros(0, np.float32)])
    assert _threshold(stain) == pytest.approx(expected)


def test_threshold_of_otsu_between_the_bounds():
    rng = np.random.default_rng(0)
    stain = np.concatenate([rng.normal(0.03, 0.01, 5000), rng.normal(0.11, 0.01, 5000)]).astype(np.float32)
    assert 0.06 < _threshold(stain) < 0.08
