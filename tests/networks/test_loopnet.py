"""LoopNet: which parts of torchvision's networks it is made of, and which pass computes what."""

import pytest
import torch
import torchvision
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.networks.nets import LoopNet
from monai_ext.networks.utils import load_weights

ABS = 1e-5  # float32
SMALL = {"resnet18", "mobilenet_v2"}
CHANNELS = {
    "resnet18": 512,
    "resnet50": 2048,
    "alexnet": 256,
    "vgg16": 512,
    "efficientnet_v2_s": 1280,
    "mobilenet_v2": 1280,
    "convnext_base": 1024,
}
BACKBONES = [pytest.param(name, marks=[] if name in SMALL else pytest.mark.slow) for name in CHANNELS]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return LoopNet("resnet18", grid=4)


@pytest.mark.parametrize("backbone", CHANNELS)
def test_a_mosaic_gives_20_x_20_patches(backbone):
    """On the meta device, which knows shapes alone; AlexNet's 19 x 19 features are pooled."""
    with torch.device("meta"):
        net, images = LoopNet(backbone), torch.empty(2, 3, 640, 640)
    side = 19 if backbone == "alexnet" else 20
    assert net.features(images).shape == (2, CHANNELS[backbone], side, side)
    out = net.eval()(images)
    assert {name: tuple(part.shape) for name, part in out.items()} == {"logit": (2, 1), "p_loc": (2, 3, 20, 20)}


def test_the_small_backbone(tmp_path):
    net = LoopNet("resnet10", hidden=(64, 32))
    assert sum(p.numel() for p in net.parameters()) == 318_292
    with torch.no_grad():
        out = net.eval()(torch.rand(1, 3, 640, 640))
    assert {name: tuple(part.shape) for name, part in out.items()} == {"logit": (1, 1), "p_loc": (1, 3, 20, 20)}
    # a classifier of the same kind lends its weights, all but the last layer
    state = {**net.backbone.state_dict(), "fc.weight": torch.rand(7, 128), "fc.bias": torch.rand(7)}
    torch.save(state, tmp_path / "other.pt")
    other = LoopNet("resnet10", hidden=(64, 32), weights=tmp_path / "other.pt")
    for name, value in other.backbone.state_dict().items():
        assert torch.equal(value, net.backbone.state_dict()[name]), name


def test_it_can_be_scripted(network):
    images = torch.rand(1, 3, 96, 160)  # of another size: the locating head pools
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.script(network.eval())(images), network(images))


def test_parameters_of_the_default():
    """ResNet-50 with one logit, and a head of 2048-512-128-3 with two normalisations."""
    with torch.device("meta"):
        net, usual = LoopNet(), torchvision.models.resnet50(num_classes=1)
    head = 2048 * 512 + 512 + 512 * 128 + 128 + 128 * 3 + 3 + 2 * 512 + 2 * 128
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in usual.parameters()) + head


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_classifier_is_torchvisions(backbone):
    """The same seed gives both the same weights."""
    torch.manual_seed(0)
    peer = torchvision.models.get_model(backbone, num_classes=1).eval()
    torch.manual_seed(0)
    net, images = LoopNet(backbone, grid=2).eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(images)["logit"], peer(images), rtol=0, atol=ABS)


def test_both_branches_share_one_pass(network):
    passes = []
    handle = network.backbone.register_forward_hook(lambda *_: passes.append(1))
    images = torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        out = network.eval()(images)
        alone = network(images, locate=False)
    handle.remove()
    assert len(passes) == 2
    assert alone.keys() == {"logit"}
    assert torch.equal(alone["logit"], out["logit"])
    features = network.features(images)
    assert torch.equal(out["p_loc"], network.locate(features))
    assert torch.equal(out["logit"], network.classify(features))


def test_classifying_alone_leaves_the_locating_head_as_it_was(network):
    before = {name: value.clone() for name, value in network.locator.state_dict().items()}
    network.train()(torch.rand(2, 3, 128, 128), locate=False)["logit"].sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.locator.state_dict().items())
    assert all(p.grad is None for p in network.locator.parameters())
    network.zero_grad()


def test_torchscript(network):
    images = torch.rand(1, 3, 128, 128)
    with torch.no_grad():
        scripted, plain = torch.jit.script(network.eval())(images), network(images)
    assert all(torch.equal(scripted[name], plain[name]) for name in ("logit", "p_loc"))


def test_starts_from_torchvisions_weights(tmp_path):
    peer = torchvision.models.mobilenet_v2(num_classes=5).eval()
    torch.save(peer.state_dict(), tmp_path / "mobilenet.pt")
    net = LoopNet("mobilenet_v2", grid=2, weights=tmp_path / "mobilenet.pt").eval()
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(net.features(images), peer.features(images))
    assert net(images)["logit"].shape == (1, 1)


def test_starts_from_a_name_of_torchvision(monkeypatch):
    state = torchvision.models.resnet18().state_dict()
    asked = []

    def get_state_dict(entry, **_):
        asked.append(entry)
        return state

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", get_state_dict)
    net = LoopNet("resnet18", weights="DEFAULT")
    assert asked == [torchvision.models.ResNet18_Weights.IMAGENET1K_V1]
    assert torch.equal(net.backbone.conv1.weight, state["conv1.weight"])


def test_weights_of_its_own(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "model.pt")
    other = load_weights(LoopNet("resnet18", grid=4), tmp_path / "model.pt")
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in other.state_dict().items())


def broken(state):
    return state | {"features.0.1.weight": torch.full_like(state["features.0.1.weight"], torch.nan)}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (broken, r"1 that do not fit: features\.0\.1\.weight"),
        (lambda state: {k: v for k, v in state.items() if "0.0" not in k}, "that do not fit: features"),
        (lambda state: state | {"surplus": torch.ones(1)}, "1 that do not fit: surplus"),
        (lambda _: nn.Linear(2, 1).state_dict(), "that do not fit"),
    ],
)
def test_weights_that_do_not_fit(change, found, tmp_path):
    state = torchvision.models.mobilenet_v2(num_classes=1).state_dict()
    torch.save(dict(change(state)), tmp_path / "other.pt")
    with pytest.raises(InputError, match=f"other.pt: expected weights of mobilenet_v2, found .*{found}"):
        LoopNet("mobilenet_v2", weights=tmp_path / "other.pt")


def test_bad_arguments():
    with pytest.raises(InputError, match=r"backbone: expected one of resnet10, resnet18, .*found 'resnet'"):
        LoopNet("resnet")
    with pytest.raises(InputError, match="IMAGENET: expected trained weights, found no such file"):
        LoopNet("resnet18", weights="IMAGENET")
