"""A score cannot be changed by accident."""

import dataclasses

import numpy as np
import pytest
import torch

from monai_ext.metrics import bootstrap_ci
from monai_ext.metrics.froc import match_lesions
from monai_ext.metrics.instance import Overlaps


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: bootstrap_ci([1.0, 2.0], resamples=2), id="Interval"),
        pytest.param(lambda: match_lesions(np.ones(1), np.ones((1, 2)), np.zeros((3, 3), bool), 1.0), id="Lesions"),
        pytest.param(lambda: Overlaps.count(torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.int64)),
                     id="Overlaps"),
    ],
)  # fmt: skip
def test_frozen(make):
    made = make()
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)
