"""Mpx/s of the phantom on one core (`OMP_NUM_THREADS=1`); the bar is 1 Mpx/s."""

from __future__ import annotations

import cv2
import pytest

from monai_ext.phantom import METHODS, phantom_field, phantom_slide

SIDE = 2048


@pytest.fixture(autouse=True)
def one_thread():
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(threads)


@pytest.mark.parametrize("method", ["mitosis", "cells"])
def test_field(benchmark, method):
    slide = phantom_slide(1, tissue=METHODS[method].tissue)
    phantom_field((64, 64), slide=slide)  # draws the sprites
    benchmark.group = "phantom field 2048 x 2048"
    benchmark.pedantic(phantom_field, ((SIDE, SIDE),), {"slide": slide}, rounds=5)
    benchmark.extra_info["Mpx/s"] = SIDE**2 / 1e6 / benchmark.stats["min"]
