"""The networks of the distillation bundle: sizes as published, shapes, gradients, TorchScript."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.networks.nets import VGG4, RCCNet, SmallResNet, TransposedUNet, TransposedUNetPlusPlus, Xception

TOLERANCE = 1e-5
CLASSIFIERS = [
    pytest.param(RCCNet, {}, 32, id="RCCNet"),
    pytest.param(RCCNet, {"patch_size": 16}, 16, id="RCCNet 16 px"),
    pytest.param(SmallResNet, {"depth": 18}, 32, id="ResNet-18"),
    pytest.param(SmallResNet, {"depth": 16}, 16, id="ResNet-16"),
    pytest.param(VGG4, {}, 16, id="VGG-4"),
    pytest.param(Xception, {}, 16, id="Xception"),
]
SEGMENTERS = [
    pytest.param(TransposedUNet, {}, id="U-Net"),
    pytest.param(TransposedUNetPlusPlus, {}, id="U-Net++"),
    pytest.param(TransposedUNetPlusPlus, {"deep_supervision": True}, id="U-Net++ supervised"),
]


def count(network):
    return sum(p.numel() for p in network.parameters())


def keras_trainable(layers):
    """Trainable parameters by Keras' formulae, of ("conv", kernel, in, out), ("dense", in, out) and ("bn", maps)."""
    total = 0
    for kind, *numbers in layers:
        if kind == "conv":
            kernel, before, after = numbers
            total += (kernel * kernel * before + 1) * after
        elif kind == "dense":
            before, after = numbers
            total += (before + 1) * after
        else:
            total += 2 * numbers[0]
    return total


@pytest.mark.parametrize(
    ("network", "options", "parameters"),
    [
        (RCCNet, {"num_classes": 4}, 1_512_868),
        (RCCNet, {"num_classes": 3}, 1_512_355),
        (TransposedUNet, {}, 7_765_985),
        (TransposedUNetPlusPlus, {}, 9_049_473),
        (TransposedUNetPlusPlus, {"deep_supervision": True}, 9_049_473 + 3 * 33),
        (SmallResNet, {"depth": 18}, 11_170_371),
        (SmallResNet, {"depth": 16}, 6_449_731),
        (VGG4, {}, 2_137_923),
        (Xception, {"num_classes": 1000}, 22_855_952),  # as Keras' own summary says
    ],
)
def test_parameters(network, options, parameters):
    assert count(network(**options)) == parameters


@pytest.mark.parametrize("classes", [3, 4])
def test_rccnet_has_the_size_that_keras_counts(classes):
    layers = [("conv", 3, 3, 32), ("bn", 32), ("conv", 3, 32, 32), ("bn", 32)]
    layers += [("conv", 3, 32, 64), ("bn", 64), ("conv", 3, 64, 64), ("bn", 64)]
    layers += [("dense", 6 * 6 * 64, 512), ("bn", 512), ("dense", 512, 512), ("bn", 512), ("dense", 512, classes)]
    assert count(RCCNet(num_classes=classes)) == keras_trainable(layers)


def test_transposed_unet_has_the_size_that_keras_counts():
    widths = [32, 64, 128, 256, 512]
    layers = []
    for before, after in zip([3, *widths], widths, strict=False):
        layers += [("conv", 3, before, after), ("bn", after), ("conv", 3, after, after), ("bn", after)]
    for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True):
        layers += [("conv", 2, below, width), ("conv", 3, 2 * width, width), ("bn", width)]
        layers += [("conv", 3, width, width), ("bn", width)]
    assert count(TransposedUNet()) == keras_trainable([*layers, ("conv", 1, 32, 1)])


def plain_rccnet(net, x):
    """RCCNet layer by layer, in evaluation mode, from nothing but its tensors in their order."""
    values = iter([v for name, v in net.state_dict().items() if not name.endswith("num_batches_tracked")])

    def weights(number):
        return [next(values) for _ in range(number)]

    def normalized(x, eps=1e-3):
        gamma, beta, mean, variance = (w.reshape(1, -1, *[1] * (x.ndim - 2)) for w in weights(4))
        return (x - mean) / (variance + eps).sqrt() * gamma + beta

    for padding, pool in ((1, False), (0, True), (1, False), (0, True)):
        x = normalized(F.conv2d(x, *weights(2), padding=padding).clamp(min=0))
        x = F.max_pool2d(x, 2) if pool else x
    assert x.shape[1:] == (64, 6, 6)
    x = x.reshape(len(x), -1)
    for _ in range(2):
        weight, bias = weights(2)
        x = normalized((x @ weight.T + bias).clamp(min=0))
    weight, bias = weights(2)
    assert next(values, None) is None
    return x @ weight.T + bias


def test_rccnet_is_the_plain_chain_of_layers():
    torch.manual_seed(0)
    net = RCCNet(num_classes=4)
    net(torch.rand(16, 3, 32, 32))  # moves the running statistics
    net.eval()
    x = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(net(x), plain_rccnet(net, x), rtol=TOLERANCE, atol=TOLERANCE)


def test_rccnet_normalises_as_keras_does():
    """Keras' momentum .99 keeps 99 % of the old statistics; torch names the other share."""
    norms = [m for m in RCCNet().modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 6
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.01)}
    assert {m.momentum for m in RCCNet(norm_momentum=0.1).modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


def test_dropout_is_what_is_asked_for():
    for network in (RCCNet(dropout=0.2), VGG4(dropout=0.2), TransposedUNet(filters=2, dropout=0.2)):
        assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.2}


def test_resnet18_is_the_usual_one_but_for_its_stem():
    usual = torchvision.models.resnet18(num_classes=3)
    usual.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    assert sorted(p.shape for p in SmallResNet().parameters()) == sorted(p.shape for p in usual.parameters())


@pytest.mark.parametrize(("depth", "size", "cells"), [(18, 32, 4), (16, 16, 2)])
def test_resnet_keeps_cells_of_small_patches(depth, size, cells):
    net, seen = SmallResNet(depth).eval(), []
    net.layer4.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[2:]))
    net(torch.rand(1, 3, size, size))
    assert seen == [(cells, cells)]


@pytest.mark.parametrize(("network", "options", "size"), CLASSIFIERS)
def test_classifier(network, options, size):
    torch.manual_seed(0)
    net = network(in_channels=2, num_classes=5, **options)
    logits = net(torch.rand(4, 2, size, size))
    assert logits.shape == (4, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert all(p.grad.abs().sum() > 0 for name, p in net.named_parameters() if name.endswith("weight"))
    net.eval()
    patches = torch.rand(3, 2, size, size)
    with torch.no_grad():
        one = net(patches[:1])
        assert one.shape == (1, 5)
        torch.testing.assert_close(one, net(patches)[:1], rtol=TOLERANCE, atol=TOLERANCE)
        torch.testing.assert_close(torch.jit.script(net)(patches), net(patches), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("network", "options"), SEGMENTERS)
def test_segmenter(network, options):
    torch.manual_seed(0)
    net = network(in_channels=2, num_classes=3, filters=4, **options)
    heads = net(torch.rand(2, 2, 32, 48))
    assert heads.shape == ((2, 4, 3, 32, 48) if options else (2, 3, 32, 48))
    heads.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    net.eval()
    scripted = torch.jit.script(net)
    with torch.no_grad():
        for size in ((32, 48), (33, 47), (17, 16), (1, 5)):  # 16 does not divide most of them
            image = torch.rand(1, 2, *size)
            assert net(image).shape == (1, 3, *size)
            torch.testing.assert_close(scripted(image), net(image), rtol=TOLERANCE, atol=TOLERANCE)


def test_padding_repeats_the_edge():
    """A padded image scores as the same image with its last row and column repeated by hand."""
    torch.manual_seed(0)
    net = TransposedUNet(filters=4).eval()
    image = torch.rand(1, 3, 30, 41)
    longer = torch.cat([image, image[:, :, -1:].expand(-1, -1, 2, -1)], dim=2)
    longer = torch.cat([longer, longer[..., -1:].expand(-1, -1, -1, 7)], dim=3)
    with torch.no_grad():
        torch.testing.assert_close(net(image), net(longer)[:, :, :30, :41], rtol=TOLERANCE, atol=TOLERANCE)


def test_supervised_heads_average_to_the_prediction():
    torch.manual_seed(0)
    net = TransposedUNetPlusPlus(filters=4, dropout=0.0, deep_supervision=True)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(net.eval()(image), net.train()(image).mean(1), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(
    "make",
    [lambda: SmallResNet(17), lambda: RCCNet(patch_size=8), lambda: VGG4(patch_size=1.5), lambda: VGG4(patch_size=1)],
    ids=["depth", "too small", "no whole number", "nothing left"],
)
def test_bad_arguments(make):
    with pytest.raises(InputError, match="expected"):
        make()
