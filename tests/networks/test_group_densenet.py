import pytest
import torch
import torch.nn.functional as F
from monai.visualize import GradCAM
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.networks.blocks import GroupBatchNorm2d
from monai_ext.networks.blocks.group_conv import transform
from monai_ext.networks.nets import GroupDenseNet

SAME = {torch.float64: 1e-10, torch.float32: 1e-5}
EXPORTED = 1e-5
HALF = 0.05  # bfloat16 has 8 bits of mantissa
SMALL = {"init_features": 2, "growth_rate": 2}
ELEMENTS = {"p4m": 8, "p4": 4}


def trained(group="p4m", **options):
    """A network whose batch normalisation knows the data, as after training."""
    torch.manual_seed(0)
    net = GroupDenseNet(group, **options)
    for module in net.modules():
        if isinstance(module, GroupBatchNorm2d):
            nn.init.uniform_(module.norm.weight, 0.5, 1.5)
            nn.init.normal_(module.norm.bias, std=0.3)
            module.norm.momentum = 1.0
    with torch.no_grad():
        net(torch.rand(8, 3, 96, 96))
    return net.eval()


def patches(number=2, side=96, dtype=torch.float32):
    return torch.rand(number, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def outputs_of(net, names, x):
    """What the named layers put out."""
    seen, hooks = {}, []
    for name in names:
        layer = net.get_submodule(name)
        hooks.append(layer.register_forward_hook(lambda _m, _i, out, name=name: seen.update({name: out})))
    with torch.no_grad():
        net(x)
    for hook in hooks:
        hook.remove()
    return seen


# -- size ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "learnt", "with_statistics"),
    [("p4m", 118_128, 118_738), ("p4", 129_104, 130_014), (None, 897_401, 902_161)],
    ids=str,
)
def test_parameters(group, learnt, with_statistics):
    net = GroupDenseNet(group)
    assert sum(p.numel() for p in net.parameters()) == learnt
    assert sum(v.numel() for k, v in net.state_dict().items() if not k.endswith("tracked")) == with_statistics


@pytest.mark.parametrize(("group", "kilo"), [("p4m", 119), (None, 902)], ids=str)
def test_parameters_of_table_1(group, kilo):
    state = GroupDenseNet(group).state_dict()
    assert round(sum(v.numel() for k, v in state.items() if not k.endswith("tracked")) / 1000) == kilo


def test_sizes_of_the_maps():
    net = trained(**SMALL)
    names = ["stem"] + [f"blocks.{kind}" for i in range(1, 5) for kind in (f"dense{i}_1", f"transition{i}")]
    names += ["blocks.dense5_1", "group_pool"]
    shapes = [tuple(out.shape[1:]) for out in outputs_of(net, names, patches(1)).values()]
    sides = [94, 92, 46, 44, 22, 20, 10, 8, 4, 2, 2]
    channels = [2, 4, 4, 6, 6, 8, 8, 10, 10, 12]
    assert shapes == [(8 * c, s, s) for c, s in zip(channels, sides[:-1], strict=True)] + [(12, 2, 2)]


@pytest.mark.parametrize(("side", "cells"), [(80, 1), (96, 2), (100, 2), (112, 3), (512, 28)])
def test_larger_images_are_scored_too(side, cells):
    net = trained(**SMALL, num_classes=3)
    assert net(patches(1, side)).shape == (1, 3)
    assert outputs_of(net, ["group_pool"], patches(1, side))["group_pool"].shape == (1, 12, cells, cells)


def test_too_small_an_image():
    with pytest.raises(ValueError, match="expected sides of at least 80 px, found 79 x 96"):
        GroupDenseNet(**SMALL)(torch.rand(1, 3, 79, 96))
    deep = GroupDenseNet(**SMALL, num_blocks=3, layers_per_block=2)
    assert deep(torch.rand(2, 3, deep.smallest, deep.smallest)).shape == (2, 1)
    with pytest.raises(ValueError, match="expected sides of at least"):
        deep(torch.rand(2, 3, deep.smallest - 1, deep.smallest))


def test_unknown_group():
    with pytest.raises(InputError, match="found 'so2'"):
        GroupDenseNet("so2")


# -- symmetry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SAME, ids=str)
@pytest.mark.parametrize("group", ELEMENTS)
@pytest.mark.parametrize(("side", "options"), [(96, {}), (112, SMALL)], ids=["96", "112 small"])
def test_logits_are_invariant(group, dtype, side, options):
    net, x = trained(group, **options).to(dtype), patches(2, side, dtype)
    with torch.no_grad():
        logits = torch.stack([net(transform(x, g)) for g in range(8)])
    assert logits[0].std() > 1e3 * SAME[torch.float32]  # it does tell images apart
    kept = ELEMENTS[group]
    torch.testing.assert_close(logits[:kept], logits[:1].expand(kept, -1, -1), rtol=0, atol=SAME[dtype])
    if group == "p4":
        assert (logits[4] - logits[0]).abs().max() > 10 * SAME[torch.float32]


def test_a_plain_network_is_not_invariant():
    net, x = trained(None, **SMALL), patches()
    assert (net(transform(x, 1)) - net(x)).abs().max() > 1e-3


def test_last_maps_turn_with_the_image():
    net, x = trained(**SMALL).double(), patches(2, 128, torch.float64)
    maps = outputs_of(net, ["group_pool"], x)["group_pool"]
    assert (maps - transform(maps, 1)).abs().max() > 1e-2
    for g in range(8):
        turned = outputs_of(net, ["group_pool"], transform(x, g))["group_pool"]
        torch.testing.assert_close(turned, transform(maps, g), rtol=0, atol=SAME[torch.float64])


def test_training_does_not_see_the_pose():
    """Loss, gradients and running statistics stay as they are if each patch of a batch is turned its own way."""
    x = patches(4, dtype=torch.float64)
    runs = []
    for batch in (x, torch.stack([transform(image, g) for image, g in zip(x, (5, 0, 3, 6), strict=True)])):
        torch.manual_seed(0)
        net = GroupDenseNet(**SMALL).double().train()
        F.softplus(net(batch)).sum().backward()
        runs.append([p.grad for p in net.parameters()] + [v for k, v in net.state_dict().items() if "running" in k])
    assert all(grad.abs().sum() > 0 for grad in runs[0])
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-9, atol=SAME[torch.float64])


# -- parts ---------------------------------------------------------------------------------------------------------


def test_transition_equals_convolution_then_pooling():
    part = trained(**SMALL).double().blocks.transition2
    x = torch.randn(2, 48, 6, 6, dtype=torch.float64)
    expected = F.avg_pool2d(part.conv(part.relu(part.norm(x))), 2)
    torch.testing.assert_close(part(x), expected, rtol=0, atol=SAME[torch.float64])


def test_dropout_in_training_only():
    net = trained(**SMALL, dropout=0.5)
    x = patches()
    torch.testing.assert_close(net(x), net(x), rtol=0, atol=0)
    net.blocks.train()
    assert not torch.equal(net(x), net(x))


# -- where it runs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["p4m", None], ids=str)
def test_channels_last_and_autocast(group):
    net, x = trained(group), patches()
    expected = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert (net(x).float() - expected).abs().max() < HALF * max(1, expected.abs().max())
    net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(net(x), expected, rtol=0, atol=SAME[torch.float32])
    net.train()(x).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


def test_torchscript():
    net = trained()
    scripted = torch.jit.script(net)
    torch.testing.assert_close(scripted(patches(3)), net(patches(3)), rtol=0, atol=EXPORTED)


@pytest.mark.slow
def test_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    net = trained(**SMALL)
    torch.onnx.export(net, (patches(2),), tmp_path / "net.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: patches(2).numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), net(patches(2)), rtol=0, atol=EXPORTED)


def test_grad_cam_turns_with_the_image():
    net, x = trained(), patches(1, 128)
    net.head.weight.data.abs_()  # so that there is evidence for the class
    cam = GradCAM(net, "group_pool")
    heat = cam(x, class_idx=0)
    assert heat.shape == (1, 1, 128, 128)
    assert heat.std() > 0
    torch.testing.assert_close(cam(transform(x, 3), class_idx=0), transform(heat, 3), rtol=0, atol=1e-3)
