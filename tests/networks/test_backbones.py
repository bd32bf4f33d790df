from urllib.error import URLError

import pytest
import torch
import torchvision
from torchvision.models import WeightsEnum

from monai_ext.base.errors import InputError
from monai_ext.networks.blocks import BACKBONES, Backbone
from monai_ext.networks.nets import CyclicClassifier

NAMES = ["resnet18", "resnet50", "swin_t"]


@pytest.fixture(scope="module")
def resnet18():
    """Weights of torchvision's own network, head and all."""
    torch.manual_seed(1)
    return torchvision.models.resnet18().state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_four_maps_of_strides_4_to_32(name):
    backbone = Backbone(name).eval()
    with torch.no_grad():
        maps = backbone(torch.randn(2, 3, 64, 96))
    assert list(maps) == ["0", "1", "2", "3"]
    for key, channels in zip(maps, backbone.out_channels, strict=True):
        stride = 4 * 2 ** int(key)
        assert maps[key].shape == (2, channels, 64 // stride, 96 // stride)


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
@pytest.mark.parametrize("size", [(32, 32), (50, 71)])
def test_any_size_gives_maps(name, size):
    with torch.no_grad():
        maps = Backbone(name).eval()(torch.randn(1, 3, *size))
    sides = [max(torch.Size(m.shape[2:])) for m in maps.values()]
    assert sides == sorted(sides, reverse=True)
    assert all(torch.isfinite(m).all() for m in maps.values())


@pytest.mark.parametrize("name", NAMES)
def test_with_its_head_it_is_the_network_of_torchvision(name):
    whole = torchvision.models.get_model(name, num_classes=2).eval()
    network = CyclicClassifier(name).eval()
    missing, unexpected = network.backbone.load_state_dict(whole.state_dict(), strict=False)
    assert not missing
    assert {key.split(".")[0] for key in unexpected} <= {"fc", "head", "norm"}
    network.head.load_state_dict((whole.head if name == "swin_t" else whole.fc).state_dict())
    if name == "swin_t":
        torch.nn.init.normal_(whole.norm.weight)
        network.norm.load_state_dict(whole.norm.state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), whole(images))


@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_a_state_dict_is_the_whole_exchange(name):
    front, back = CyclicClassifier(name).eval(), Backbone(name).eval()
    back.load_state_dict(front.backbone.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for key, value in front.backbone(images).items():
            torch.testing.assert_close(back(images)[key], value, rtol=0, atol=0)


@pytest.mark.parametrize("head", [True, False], ids=["torchvision's", "a backbone's"])
def test_weights_from_a_file(tmp_path, resnet18, head):
    state = resnet18 if head else {key: value for key, value in resnet18.items() if not key.startswith("fc")}
    torch.save(state, tmp_path / "weights.pth")
    backbone = Backbone("resnet18", tmp_path / "weights.pth")
    assert backbone.state_dict().keys() == resnet18.keys() - {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, resnet18[key]) for key, value in backbone.state_dict().items())


def test_weights_by_torchvisions_name(monkeypatch, resnet18):
    asked = []

    def fetch(self, *_, **__):
        asked.append(self.url)
        return resnet18

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fetch)
    backbone = CyclicClassifier("resnet18", weights="IMAGENET1K_V1").backbone
    assert asked == [torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url]
    assert torch.equal(backbone.conv1.weight, resnet18["conv1.weight"])


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def fetch(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fetch)
    with pytest.raises(InputError, match=r"resnet18-\w+\.pth: expected .*path of a copy.*no network"):
        Backbone("resnet18", "IMAGENET1K_V1")


def test_weights_that_do_not_fit(tmp_path, resnet18):
    torch.save(resnet18, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth: expected weights of a resnet34, found another network's"):
        Backbone("resnet34", tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"text\.pth: expected a state dict"):
        Backbone("resnet18", tmp_path / "text.pth")


@pytest.mark.parametrize("weights", ["IMAGENET1K_V9", "nowhere/weights.pth"])
def test_weights_that_are_neither_a_name_nor_a_file(weights):
    with pytest.raises(InputError, match=rf"{weights}: expected a file .*IMAGENET1K_V1.* found neither"):
        Backbone("resnet18", weights)


def test_an_unknown_network_is_answered_with_the_known_ones():
    with pytest.raises(InputError, match=r"backbone: expected one of resnet18, .*swin_t, found 'vgg16'"):
        CyclicClassifier("vgg16")
    assert len(BACKBONES) == 6


def test_every_weight_of_the_classifier_learns():
    network = CyclicClassifier("resnet18", num_classes=3)
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in network.parameters())
