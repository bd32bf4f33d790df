import pytest
import torch
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.inferers import AutocastInferer


@pytest.mark.parametrize("enabled", [True, False])
def test_precision_inside_and_outside(enabled):
    seen = []

    class Probe(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            seen.append(y.dtype)
            return y

    result = AutocastInferer(enabled)(torch.rand(2, 3), Probe(3, 4))
    assert result.dtype == torch.float32
    assert seen == [torch.bfloat16 if enabled else torch.float32]


def test_several_outputs():
    class Two(nn.Linear):
        def forward(self, x, scale):
            y = super().forward(x)
            return {"y": y, "scaled": y * scale}

    result = AutocastInferer()(torch.rand(2, 3), Two(3, 4), scale=2)
    assert {name: part.dtype for name, part in result.items()} == {"y": torch.float32, "scaled": torch.float32}
    assert torch.equal(result["scaled"], 2 * result["y"])


def test_a_flag_that_is_none_is_refused():
    with pytest.raises(InputError, match="enabled"):
        AutocastInferer("perhaps")
