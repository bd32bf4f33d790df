"""What is read or measured cannot be changed by accident."""

import dataclasses

import cv2
import numpy as np
import pytest

from monai_ext.formats import Features, Tissue, hot_spot, measure_instances, read_field
from monai_ext.formats.reader import SlideReader


@pytest.fixture
def picture(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((4, 5, 3), np.uint8))
    return tmp_path / "a.png"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(read_field, id="Field"),
        pytest.param(lambda path: SlideReader(path, 0.5)._grid_at(1.0), id="grid"),
        pytest.param(lambda _: hot_spot([[1, 2]], (9, 9), 0.5), id="HotSpot"),
        pytest.param(lambda _: measure_instances(np.eye(3, dtype=int)), id="Shapes"),
        pytest.param(lambda _: Features.from_points([[1, 2]]), id="Features"),
    ],
)
def test_frozen(make, picture):
    made = make(picture)
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)


def test_tissue_is_frozen():
    tissue = Tissue(np.ones((2, 2), bool), 1.0)
    assert tissue.area_mm2(1.0) == pytest.approx(4e-6)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tissue.scale = 2.0
