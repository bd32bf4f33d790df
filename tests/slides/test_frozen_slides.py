"""A plan, its settings and what comes of it cannot be changed by accident: fingerprints are made of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from monai_ext.slides import OutputSettings, SlideResult
from monai_ext.slides.outputs import _Detections
from monai_ext.slides.regions import find_regions
from tests.slides.test_plan import plan_slide, reader

PLAN = plan_slide(reader((40, 50)), 10, 0, 30)


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: plan_slide(reader((40, 50)), 10, 0, 30), id="SlidePlan"),
        pytest.param(lambda: next(PLAN.tiles), id="Tile"),
        pytest.param(OutputSettings, id="OutputSettings"),
        pytest.param(lambda: _Detections(np.zeros((0, 2)), np.zeros(0), {}), id="Found"),
        pytest.param(lambda: find_regions([(0, np.zeros((2, 2)))], 0.5, 1.0, (2, 2)), id="Regions"),
    ],
)
def test_frozen(make):
    made = make()
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)


def test_result_is_frozen():
    result = SlideResult(Path("a.svs"), "a", {"tissue_mm2": 2.0}, 3, 5.0)
    assert result.seconds_per_mm2 == 2.5
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.tiles = 4
