"""Fragments of tissue: the smallest boxes that do not overlap."""

from __future__ import annotations

import numpy as np
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import label

from monai_ext.formats.fragments import fragment_boxes
from monai_ext.slides import SlideReader, tissue_fragments


@settings(deadline=None, max_examples=200)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_boxes(mask):
    boxes = fragment_boxes(mask)
    covered = np.zeros(mask.shape, int)
    for top, left, bottom, right in boxes:
        covered[top:bottom, left:right] += 1
        inside = mask[top:bottom, left:right]
        assert inside.any(axis=0)[[0, -1]].all()
        assert inside.any(axis=1)[[0, -1]].all(), "no smaller box would do"
    assert covered.max(initial=0) <= 1
    assert (covered[mask] == 1).all()
    assert len(boxes) <= label(mask, np.ones((3, 3)))[1]


def test_fragments_of_a_slide(tmp_path):
    pixels = np.full((1600, 2400, 3), 244, np.uint8)
    pixels[200:700, 300:900] = (190, 90, 160)
    pixels[900:1500, 1200:2300] = (180, 100, 170)
    pixels[50:60, 2000:2010] = (100, 50, 150)  # a speck
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels,
        tile=(256, 256),
        photometric="rgb",
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
    )
    reader = SlideReader(tmp_path / "a.tif")
    found = tissue_fragments(reader)
    assert len(found) == 2
    slack = 2 * 8 / 0.5 + 12 / 0.5  # px: two pixels of the thumbnail, and its smoothing
    for box, expected in zip(found, [(200, 300, 500, 600), (900, 1200, 600, 1100)], strict=True):
        assert np.abs(np.array(box) - expected).max() <= 2 * slack
        assert box.row <= expected[0] + 16
        assert box.row + box.height >= expected[0] + expected[2] - 16
    pixels[:] = 244
    tifffile.imwrite(
        tmp_path / "b.tif",
        pixels,
        tile=(256, 256),
        photometric="rgb",
        resolution=(2e4, 2e4),
        resolutionunit="CENTIMETER",
    )
    assert tissue_fragments(SlideReader(tmp_path / "b.tif")) == []
