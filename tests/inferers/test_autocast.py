import logging

import pytest
import torch
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.inferers import AutocastInferer, autocast


@pytest.mark.usefixtures("bfloat16")
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


@pytest.mark.usefixtures("bfloat16")
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


def test_a_processor_without_bfloat16_computes_in_float32_and_says_so_once(monkeypatch, caplog):
    """PyTorch would convolve by loops of its own: minutes for what takes seconds."""
    monkeypatch.setattr(autocast, "cpu_computes_bfloat16", lambda: False)
    autocast._warn.cache_clear()
    with caplog.at_level(logging.WARNING):
        inferers = [AutocastInferer(), AutocastInferer()]
    assert [each.enabled for each in inferers] == [False, False]
    assert [record.getMessage() for record in caplog.records] == [
        "this processor does not compute in bfloat16 (--cpu_bfloat16): float32 is used"
    ]


def test_nothing_is_said_where_bfloat16_was_not_asked_for(monkeypatch, caplog):
    monkeypatch.setattr(autocast, "cpu_computes_bfloat16", lambda: False)
    autocast._warn.cache_clear()
    assert not AutocastInferer(False).enabled
    assert AutocastInferer(True, "cuda", torch.float16).enabled
    assert not caplog.records
