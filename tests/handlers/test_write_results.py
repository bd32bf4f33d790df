"""An image is marked as done after its results are written."""

from types import SimpleNamespace

import pytest
import torch
from monai.data import MetaTensor

from monai_ext.handlers import WriteResults


def item(name):
    return {"source": MetaTensor(torch.zeros(3, 2, 2), meta={"filename_or_obj": name})}


def engine(*names):
    return SimpleNamespace(state=SimpleNamespace(batch=[item(name) for name in names], output=[{} for _ in names]))


def test_each_image_is_written_then_marked():
    told = []
    cohort = SimpleNamespace(done=lambda name: told.append(("done", name)))
    save = lambda data: told.append(("saved", data["source"].meta["filename_or_obj"])) or data  # noqa: E731
    WriteResults(save, cohort)(engine("a.png", "b.png"))
    assert told == [(what, name) for name in ("a.png", "b.png") for what in ("saved", "done")]


def test_what_cannot_be_written_is_not_done():
    told = []

    def save(data):
        raise OSError("the disk is full")

    with pytest.raises(RuntimeError, match="applying transform"):  # as MONAI wraps it
        WriteResults(save, SimpleNamespace(done=told.append))(engine("a.png"))
    assert told == []
