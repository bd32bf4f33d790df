"""A folded network gives what the network gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from monai_ext.networks import InputConvention, TissueFeatures, fold_normalization, with_runtime
from monai_ext.networks.nets import (
    BackboneFCN,
    BackboneUNet,
    LoopNet,
    NucleiHoVerNet,
    NucleiKGInstance,
    NucleiMaskRCNN,
    NucleiUNet,
    SegMitosFCN,
)

LITE = "timm:tf_efficientnet_lite0"
NETWORKS = {
    "U-Net over EfficientNet": lambda: BackboneUNet(LITE),
    "U-Net over ResNet": lambda: BackboneUNet("resnet18"),
    "FCN": lambda: BackboneFCN(LITE),
    "SegMitos": SegMitosFCN,
    "LoopNet": lambda: LoopNet("resnet18", grid=14),
    "Mask R-CNN": lambda: NucleiMaskRCNN("resnet18"),
    "KG-Instance": lambda: NucleiKGInstance("resnet18"),
    "HoVer-Net": lambda: NucleiHoVerNet("resnet18"),
    "nuclei U-Net": lambda: NucleiUNet("resnet18"),
}


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def settled(network):
    """With statistics of its own, in evaluation mode."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d) and part.track_running_stats:
            part.running_mean.uniform_(-0.2, 0.2)
            part.running_var.uniform_(0.5, 1.5)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.uniform_(part.bias, -0.2, 0.2)
    return network.eval()


@torch.no_grad()
def results(network, batch):
    found = getattr(network, "compute_dense", network)(batch)
    found = found.values() if isinstance(found, dict) else [found] if isinstance(found, torch.Tensor) else found
    return [each.clone() for each in found]


def norms(network):
    return sum(isinstance(part, nn.BatchNorm2d) for part in network.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_networks_give_the_same_at_any_size(name):
    torch.manual_seed(0)
    network = settled(NETWORKS[name]())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = fold_normalization(network)
    if norms(network):
        assert folded is not network
        assert norms(folded) < norms(network)
    size = (448, 448) if name == "LoopNet" else (64, 96)
    batch = images(1, 3, *size)
    for one, other in zip(results(folded, batch), results(network, batch), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 * float(other.abs().max().clamp(min=1)))
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("build", [BackboneUNet, BackboneFCN], ids=lambda build: build.__name__)
def test_of_the_shipped_networks_all_is_folded(build):
    assert norms(fold_normalization(build(LITE).eval())) == 0


def test_of_a_network_of_one_size_too():
    """The grid's heads resize their maps, so that the example may be small."""
    assert norms(fold_normalization(LoopNet("resnet18", grid=14).eval()).backbone) == 0


def test_results_are_those_of_a_double_sum():
    """The formula itself: gamma (W x - mean) / sqrt(var + eps) + beta."""
    torch.manual_seed(1)
    network = settled(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4, eps=1e-2)))
    convolution, norm = network
    batch = images(2, 3, 9, 11)
    by_hand = F.conv2d(batch.double(), convolution.weight.double(), stride=2)
    shaped = [x.double()[:, None, None] for x in (norm.weight, norm.bias, norm.running_mean, norm.running_var)]
    gamma, beta, mean, var = shaped
    by_hand = gamma * (by_hand - mean) / (var + 1e-2).sqrt() + beta
    (found,) = results(fold_normalization(network), batch)
    torch.testing.assert_close(found.double(), by_hand, rtol=0, atol=1e-6)


class UsedTwice(nn.Module):
    """Asks for what is convolved as well."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

    def forward(self, batch):
        x = self.convolution(batch)
        return self.norm(x) + x


class CalledTwice(UsedTwice):
    """Two passes by the same weights, one of them normalised."""

    def forward(self, batch):
        return self.norm(self.convolution(batch)) + self.convolution(batch)


class KeptBeside(nn.Module):
    """Asks for what is normalised after it was activated."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm, self.act = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()

    def forward(self, batch):
        x = self.norm(self.convolution(batch))
        return self.act(x) - x


@pytest.mark.parametrize(
    "network",
    [
        UsedTwice(),
        CalledTwice(),
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1)),  # the other way round
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)),  # takes no RGB
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.InstanceNorm2d(4)),
    ],
    ids=lambda network: type(network).__name__,
)
def test_what_cannot_be_folded_stays_as_it_is(network):
    settled(network)
    assert fold_normalization(network) is network


def test_what_is_asked_for_once_more_is_not_overwritten():
    torch.manual_seed(4)
    network = settled(KeptBeside())
    folded = fold_normalization(network)
    assert norms(folded) == 0
    assert not folded.act.inplace
    batch = images(1, 3, 8, 8)
    torch.testing.assert_close(results(folded, batch), results(network, batch), rtol=0, atol=1e-6)


def test_script_stays_as_it_is():
    network = torch.jit.script(settled(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))))
    assert fold_normalization(network) is network


@pytest.mark.parametrize("layers", [["0"], ["1"], ["2"]])
def test_who_listens_hears_what_the_network_gives(layers):
    torch.manual_seed(2)
    network = settled(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1)))
    heard = []
    for run in (network, with_runtime(network, "torch", layers)):
        seen = []
        run.get_submodule(layers[0]).register_forward_hook(lambda _, __, output, seen=seen: seen.append(output))
        with torch.no_grad():
            run(images(1, 3, 16, 16))
        heard.append(seen[-1].clone())  # as it is after the pass
    torch.testing.assert_close(*heard, rtol=0, atol=1e-5)


def test_tissue_is_seen_alike():
    torch.manual_seed(3)
    network = settled(BackboneUNet(LITE))
    taken = []
    for run in (network, with_runtime(network, "torch", ["backbone:1"])):
        TissueFeatures(run, ["backbone:1"], 64, InputConvention(), lambda *each: taken.append(each))
        with torch.no_grad():
            run(0.5 * images(1, 3, 128, 128))
    (one, share), (other, same) = taken
    assert share.sum() > 0
    torch.testing.assert_close(same, share)
    torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)


def test_the_callers_random_numbers_are_left_alone():
    network = settled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fold_normalization(network)
    assert torch.equal(torch.rand(1), expected)
