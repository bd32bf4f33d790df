"""An exported network gives what the torch network gives."""

import sys

import pytest
import torch
from monai.data import MetaTensor
from monai.networks import convert_to_onnx
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.networks import OnnxNetwork
from monai_ext.networks.nets import TransposedUNet
from monai_ext.networks.utils import weights_digest

pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow  # exports
TOLERANCE = 1e-4


class TwoHeads(nn.Module):
    """Gives a dictionary, as networks with several outputs do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        maps = self.stem(x).relu()
        return {"logit": self.head(maps.mean((2, 3))), "map": maps}


class Sum(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y


def export(network, path, *inputs, **options):
    names = [f"input{number}" for number, _ in enumerate(inputs)]
    axes = {name: [0, 2, 3] for name in names}
    convert_to_onnx(network, inputs, names, dynamic_axes=axes, dynamo=True, filename=str(path), **options)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def unet(folder):
    torch.manual_seed(0)
    network = TransposedUNet(filters=2).eval()
    return network, export(network, folder / "unet.onnx", torch.rand(2, 3, 32, 48))


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 3, 33, 50), (2, 3, 16, 100), (1, 3, 17, 17)])
def test_any_batch_and_size(unet, shape):
    network, path = unet
    images = torch.randn(shape)
    with torch.no_grad():
        torch.testing.assert_close(OnnxNetwork(path)(images), network(images), rtol=0, atol=TOLERANCE)


def test_several_outputs_come_by_name(folder):
    network = TwoHeads().eval()
    path = export(network, folder / "two.onnx", torch.rand(2, 3, 32, 48), output_names=["logit", "map"])
    images = torch.randn(3, 3, 20, 30)
    found = OnnxNetwork(path)(images)
    with torch.no_grad():
        expected = network(images)
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=TOLERANCE)


def test_views_half_precision_and_meta_tensors_are_welcome(unet):
    network = OnnxNetwork(unet[1], threads=1)
    images = torch.randn(2, 32, 40, 3).permute(0, 3, 1, 2)
    expected = network(images.contiguous())
    assert torch.equal(network(images), expected)
    assert torch.equal(network(MetaTensor(images)), expected)
    assert network(images.bfloat16()).dtype == torch.float32


def test_it_goes_where_modules_go(unet):
    network = OnnxNetwork(unet[1]).to("cpu", memory_format=torch.channels_last).eval()
    assert list(network.parameters()) == []
    assert not network.training


def test_digest_tells_weights_apart(unet, folder):
    other = export(TransposedUNet(filters=2).eval(), folder / "other.onnx", torch.rand(2, 3, 32, 48))
    digests = [weights_digest(OnnxNetwork(path)) for path in (unet[1], unet[1], other)]
    assert digests[0] == digests[1] != digests[2]


def test_what_cannot_be_used(unet, folder, monkeypatch):
    with pytest.raises(InputError, match=r"nowhere.onnx: expected a network .* no such file"):
        OnnxNetwork(folder / "nowhere.onnx")
    (folder / "text.onnx").write_text("no network")
    with pytest.raises(InputError, match=r"text.onnx: expected an ONNX file"):
        OnnxNetwork(folder / "text.onnx")
    sums = export(Sum(), folder / "sum.onnx", torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8))
    with pytest.raises(InputError, match="expected a network with one input, found 2: input0, input1"):
        OnnxNetwork(sums)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match="onnxruntime-gpu"):
        OnnxNetwork(unet[1], device="cuda:0")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        OnnxNetwork(unet[1])
