import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.networks.nets import ResNet
from monai.visualize import GradCAM, GuidedBackpropGrad, VanillaGrad
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.base.smoothing import gaussian_smooth
from monai_ext.explain.evidence import fuse_evidence, fusion_options, grey_saliency, min_max
from monai_ext.networks.nets import CELNet
from monai_ext.visualize import EvidenceMap

CLOSE = 1e-5  # float32, maps in [0, 1]
SAME = 1e-6
MAPS = ("cam2", "cam3", "cam", "csm", "celm")


def as_trained(network, seed=0):
    """Weights and running statistics as unequal as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
                module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                shape = module.weight.shape
                module.weight.copy_(torch.randn(shape, generator=generator) * shape[1:].numel() ** -0.5)
    return network.eval()


@pytest.fixture(scope="module")
def celnet():
    return as_trained(CELNet())


@pytest.fixture(scope="module")
def exact(celnet):
    """In double precision: what another order of sums changes turns no ReLU on or off."""
    return copy.deepcopy(celnet).double()


@pytest.fixture
def images():
    return torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))


# -- the slow way: MONAI's own classes, one image and one map at a time ------------------------------------------------


def stretched(x):
    return (x - x.min()) / (x.max() - x.min())


def monai_gradcam(network, layer, image):
    identity = {"upsampler": lambda _: lambda x: x, "postprocessing": lambda x: x}
    cam = GradCAM(copy.deepcopy(network), layer, **identity)(image, class_idx=0).detach()
    return stretched(F.interpolate(cam, image.shape[2:], mode="bilinear", align_corners=False))


def slow_maps(network, image, alpha, beta, sigma, saliency):
    maps = {"cam2": monai_gradcam(network, "stage2", image), "cam3": monai_gradcam(network, "stage3", image)}
    gradient = GuidedBackpropGrad(copy.deepcopy(network))(image.clone(), index=0)
    scaled = stretched(gradient) if saliency == "minmax" else gradient.abs() / gradient.abs().max()
    grey = 0.299 * scaled[:, :1] + 0.587 * scaled[:, 1:2] + 0.114 * scaled[:, 2:]
    reach = int(4 * sigma + 0.5)
    offsets = torch.arange(-reach, reach + 1).double()
    edges = torch.special.ndtr((offsets + 0.5) / sigma) - torch.special.ndtr((offsets - 0.5) / sigma)
    kernel = (edges / edges.sum()).to(grey)
    padded = F.pad(grey, [reach] * 4, mode="reflect")
    smooth = F.conv2d(F.conv2d(padded, kernel[None, None, None]), kernel[None, None, :, None])
    maps["csm"] = stretched(smooth)
    maps["cam"] = alpha * maps["cam3"] + (1 - alpha) * maps["cam2"]
    maps["celm"] = beta * (maps["cam"] * maps["csm"]) + (1 - beta) * maps["cam"]
    return maps


@pytest.mark.slow
@pytest.mark.parametrize("saliency", ["minmax", "abs"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equals_three_passes_of_monai_one_image_at_a_time(celnet, exact, images, saliency, dtype):
    # in float32 batches of one, so that both ways round alike
    network, images = (exact, images.double()) if dtype == torch.float64 else (celnet, images[:1])
    options = {"alpha": 0.3, "beta": 0.6, "sigma": 1.5, "saliency": saliency}
    got = EvidenceMap(network, **options)(images)
    torch.testing.assert_close(got["logits"], network(images).detach(), atol=CLOSE, rtol=0)
    assert set(got) == {"logits", *MAPS}
    for i in range(len(images)):
        expected = slow_maps(network, images[i : i + 1], **options)
        for name in MAPS:
            assert got[name].shape == (len(images), 1, 96, 96)
            assert got[name].dtype == torch.float32
            assert got[name].std() > 0.01, name  # something is compared
            torch.testing.assert_close(got[name][i : i + 1], expected[name].float(), atol=CLOSE, rtol=0, msg=name)


@pytest.mark.parametrize("attention", ["cbam", None])
@pytest.mark.slow
def test_gradients_equal_those_of_monai(attention, images):
    network = as_trained(CELNet(attention, deep_supervision=attention is None)).double()
    evidence, images = EvidenceMap(network), images.double()
    guided, plain = evidence.ingredients(images)["gradient"], evidence.backprop(images)
    for i in range(len(images)):
        one = images[i : i + 1]
        expected = GuidedBackpropGrad(copy.deepcopy(network))(one.clone(), index=0).float()
        torch.testing.assert_close(
            guided[i : i + 1] / expected.abs().max(), expected / expected.abs().max(), atol=CLOSE, rtol=0
        )
        expected = VanillaGrad(copy.deepcopy(network))(one.clone(), index=0).abs().amax(1, keepdim=True)
        torch.testing.assert_close(plain[i : i + 1], stretched(expected).float(), atol=CLOSE, rtol=0)


def test_resnet_with_one_activation_map(images):
    network = as_trained(
        ResNet("basic", [1, 1, 1, 1], [8, 16, 16, 16], 2, 3, 3, 1, True, num_classes=2, bias_downsample=False)
    ).double()
    images = images.double()
    got = EvidenceMap(network, fine=None, coarse="layer4", class_idx=0)(images)
    assert set(got) == {"logits", "cam3", "cam", "csm", "celm"}
    torch.testing.assert_close(got["cam"], got["cam3"])
    for i in range(len(images)):
        expected = monai_gradcam(network, "layer4", images[i : i + 1])
        torch.testing.assert_close(got["cam3"][i : i + 1], expected.float(), atol=CLOSE, rtol=0)


# -- guided backpropagation sees every ReLU ----------------------------------------------------------------------------


class Relus(nn.Module):
    """The same function with its ReLUs called in different ways."""

    def __init__(self, relu):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.convs = nn.ModuleList(nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))
        with torch.no_grad():
            for conv in self.convs:
                conv.weight.copy_(torch.randn(conv.weight.shape, generator=generator) * 0.2)
                conv.bias.zero_()
        self.relu = relu

    def forward(self, x):
        for conv in self.convs:
            x = self.relu(conv(x))
        return x.mean((2, 3))[:, :2]


@pytest.mark.parametrize(
    "relu",
    [
        nn.ReLU(inplace=True),
        F.relu,
        torch.relu,
        lambda x: x.relu(),
        lambda x: x.relu_(),
        lambda x: F.relu(x, inplace=True),
    ],
    ids=["in place", "functional", "torch", "method", "method in place", "functional in place"],
)
def test_every_way_to_call_relu_is_guided(relu, images):
    expected = EvidenceMap(Relus(nn.ReLU()), None, "convs.2").ingredients(images)["gradient"]
    plain = EvidenceMap(Relus(nn.Softplus(100)), None, "convs.2").ingredients(images)["gradient"]
    got = EvidenceMap(Relus(relu), None, "convs.2").ingredients(images)["gradient"]
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=CLOSE)
    assert (got - plain).abs().max() > 0.1 * got.abs().max()


# -- where the answer is known -----------------------------------------------------------------------------------------


class Planted(nn.Module):
    """Red speaks for class 1, green against it; ``stage2`` sees pixels, ``stage3`` squares of 4 x 4."""

    def __init__(self, green=-1.0, head=1.0):
        super().__init__()
        self.stage2 = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU())
        self.stage3 = nn.AvgPool2d(4)
        self.head = nn.Linear(2, 1)
        with torch.no_grad():
            self.stage2[0].weight.copy_(torch.eye(3)[:2, :, None, None])
            self.stage2[0].bias.fill_(-0.5)
            self.head.weight.copy_(head * torch.tensor([[1.0, green]]))
            self.head.bias.zero_()

    def forward(self, x):
        x = self.stage3(self.stage2(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def squares():
    image = torch.zeros(1, 3, 32, 32)
    image[:, 0, 4:12, 8:24] = 1  # red
    image[:, 1, 20:28, 4:12] = 1  # green
    return image


def test_planted_evidence_is_found(squares):
    maps = EvidenceMap(Planted(), alpha=0.5, beta=0.5, sigma=0, saliency="abs")(squares)
    red, green = squares[:, :1], squares[:, 1:2]
    torch.testing.assert_close(maps["cam2"], red)
    torch.testing.assert_close(maps["csm"], red)
    cells = F.avg_pool2d(red, 4)
    torch.testing.assert_close(maps["cam3"], F.interpolate(cells, (32, 32), mode="bilinear", align_corners=False))
    torch.testing.assert_close(maps["cam"], (maps["cam3"] + red) / 2)
    torch.testing.assert_close(maps["celm"], maps["cam"] * (1 + red) / 2)
    assert not (maps["celm"] * green).any()  # what speaks against the class is no evidence
    torch.testing.assert_close(EvidenceMap(Planted()).backprop(squares), red + green)  # the plain gradient shows it


def test_literal_normalisation_has_no_influence_in_the_middle(squares):
    gradient = torch.zeros(1, 3, 8, 8)
    gradient[0, :, 0, 0], gradient[0, :, 0, 1] = 2, -2
    grey = grey_saliency(gradient)
    torch.testing.assert_close(grey[0, 0, 0, :3], torch.tensor([1, 0, 0.5]), atol=SAME, rtol=0)
    torch.testing.assert_close(
        grey_saliency(gradient, "abs")[0, 0, 0, :3], torch.tensor([1.0, 1, 0]), atol=SAME, rtol=0
    )
    colours = torch.eye(3).view(1, 3, 1, 3)
    torch.testing.assert_close(grey_saliency(colours).flatten(), torch.tensor([0.299, 0.587, 0.114]))
    assert grey_saliency(torch.rand(2, 1, 4, 4)).shape == (2, 1, 4, 4)


@pytest.mark.parametrize("saliency", ["minmax", "abs"])
@pytest.mark.parametrize("head", [0.0, -1.0], ids=["no influence", "all against"])
def test_no_evidence_is_zero_and_not_nan(head, saliency, squares):
    maps = EvidenceMap(Planted(green=1, head=head), saliency=saliency)(squares)
    for name in ("cam2", "cam3", "cam", "celm"):
        assert not maps[name].any(), name
    assert torch.isfinite(maps["csm"]).all()
    flat = EvidenceMap(Planted())(torch.full((1, 3, 32, 32), 0.75))
    assert all(torch.isfinite(flat[name]).all() for name in MAPS)
    assert not flat["celm"].any()  # everywhere alike: no place stands out


def test_class_of_evidence(images):
    network, images = Relus(nn.ReLU()).double(), images.double()
    evidence = EvidenceMap(network, None, "convs.2")
    chosen = torch.tensor([1, 0, 1])
    got = evidence(images, chosen)
    for i, index in enumerate(chosen.tolist()):
        alone = EvidenceMap(network, None, "convs.2", class_idx=index)(images[i : i + 1])
        torch.testing.assert_close(got["celm"][i : i + 1], alone["celm"], atol=CLOSE, rtol=0)
    likely = evidence(images)
    torch.testing.assert_close(likely["celm"], evidence(images, likely["logits"].argmax(1))["celm"])


# -- symmetry and independence -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def symmetric():
    """CELNet with kernels that look alike from all eight sides; odd sides keep strides symmetric."""
    network = as_trained(CELNet(), seed=3).double()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                turned = [torch.rot90(module.weight, k, (2, 3)) for k in range(4)]
                module.weight.copy_(torch.stack([*turned, *(w.flip(3) for w in turned)]).mean(0))
    return network


@pytest.mark.parametrize(
    "turn",
    [lambda x: x.flip(-1), lambda x: x.flip(-2), lambda x: torch.rot90(x, 1, (-2, -1)), lambda x: x.transpose(-1, -2)],
    ids=["left-right", "upside down", "quarter turn", "transposed"],
)
def test_turns_with_the_image(symmetric, turn):
    image = torch.randn(2, 3, 97, 97, generator=torch.Generator().manual_seed(4)).double()
    evidence = EvidenceMap(symmetric, sigma=2)
    straight, turned = evidence(image), evidence(turn(image))
    for name in MAPS:
        torch.testing.assert_close(turned[name], turn(straight[name]), atol=CLOSE, rtol=0, msg=name)


@pytest.mark.slow
def test_images_do_not_see_each_other(exact, images):
    evidence, images = EvidenceMap(exact), images.double()
    together = evidence(images)
    apart = [evidence(image[None]) for image in images]
    others = evidence(torch.cat([images[:1], images[1:] * 9]))
    for name in MAPS:
        torch.testing.assert_close(together[name], torch.cat([maps[name] for maps in apart]), atol=CLOSE, rtol=0)
        torch.testing.assert_close(together[name][:1], others[name][:1], atol=CLOSE, rtol=0)


# -- leaves no trace, works anywhere -----------------------------------------------------------------------------------


def state_of(network):
    return {
        "modes": [m.training for m in network.modules()],
        "hooks": [len(m._forward_hooks) + len(m._backward_hooks) for m in network.modules()],
        "grads": [(p.requires_grad, p.grad) for p in network.parameters()],
        "values": [v.clone() for v in network.state_dict().values()],
    }


def assert_as_found(network, before):
    after = state_of(network)
    values, found = after.pop("values"), before.pop("values")
    assert after == before
    assert all(torch.equal(a, b) for a, b in zip(values, found, strict=True))


def test_network_is_left_as_found(images):
    network = as_trained(CELNet()).train()
    network.stage2.eval()  # as a network with a frozen part
    network.stem.requires_grad_(False)
    before = state_of(network)
    evidence = EvidenceMap(network)
    maps = evidence(images)
    evidence.backprop(images)
    assert_as_found(network, before)
    assert not images.requires_grad
    assert not any(m.requires_grad for m in maps.values())
    # in evaluation mode while it computes
    torch.testing.assert_close(maps["celm"], EvidenceMap(copy.deepcopy(network).eval())(images)["celm"])


def test_network_is_left_as_found_after_an_error():
    network = as_trained(CELNet()).train()
    before = state_of(network)
    with pytest.raises(RuntimeError):
        EvidenceMap(network)(torch.randn(1, 5, 96, 96))
    assert_as_found(network, before)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_works_where_gradients_are_off(celnet, images, context):
    expected = EvidenceMap(celnet)(images)
    with context():
        got = EvidenceMap(celnet)(images * 1)
        assert torch.equal(EvidenceMap(celnet).backprop(images * 1), EvidenceMap(celnet).backprop(images))
    for name in MAPS:
        torch.testing.assert_close(got[name], expected[name], atol=SAME, rtol=0)


def test_frozen_weights_do_not_matter(celnet, images):
    frozen = copy.deepcopy(celnet).requires_grad_(False)
    torch.testing.assert_close(EvidenceMap(frozen)(images)["celm"], EvidenceMap(celnet)(images)["celm"])


def test_full_precision_under_autocast(celnet, images):
    expected = EvidenceMap(celnet)(images)
    with torch.autocast("cpu", torch.bfloat16):
        got = EvidenceMap(celnet)(images)
    for name in ("logits", *MAPS):
        assert got[name].dtype == torch.float32
        assert torch.equal(got[name], expected[name])


def test_metatensors_and_memory_formats(celnet, exact, images):
    expected = EvidenceMap(celnet)(images)["celm"]
    got = EvidenceMap(celnet)(MetaTensor(images))["celm"]
    assert type(got) is torch.Tensor
    torch.testing.assert_close(got, expected, atol=SAME, rtol=0)
    expected = EvidenceMap(exact)(images.double())["celm"]
    network = copy.deepcopy(exact).to(memory_format=torch.channels_last)
    got = EvidenceMap(network)(images.double().to(memory_format=torch.channels_last))["celm"]
    torch.testing.assert_close(got, expected, atol=CLOSE, rtol=0)


# -- bad arguments -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"coarse": "layer9"}, "EvidenceMap: expected a layer of CELNet, found 'layer9'"),
        ({"fine": "stage7"}, "EvidenceMap: expected a layer of CELNet, found 'stage7'"),
        ({"saliency": "loud"}, "saliency: expected 'minmax' or 'abs', found 'loud'"),
        ({"alpha": 1.5}, "alpha: expected a number from 0 to 1, found 1.5"),
        ({"beta": -0.1}, "beta: expected a number from 0 to 1, found -0.1"),
        ({"sigma": -1}, "sigma: expected px >= 0, found -1"),
        ({"sigma": float("nan")}, "sigma: expected px >= 0, found nan"),
    ],
)
def test_wrong_arguments_are_named(celnet, options, message):
    with pytest.raises(InputError) as caught:
        EvidenceMap(celnet, **options)
    assert str(caught.value) == message


def test_networks_that_do_not_fit(celnet, images):
    segmenter = nn.Sequential(nn.Conv2d(3, 2, 1))
    with pytest.raises(InputError, match=r"expected logits of shape \(B, classes\), found shape \(3, 2, 96, 96\)"):
        EvidenceMap(segmenter, None, "0")(images)
    network = copy.deepcopy(celnet)
    network.spare = nn.Identity()
    with pytest.raises(InputError, match="expected layers that the network calls"):
        EvidenceMap(network, fine="spare")(images)


# -- the parts ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=4, max_size=4),
    st.floats(0.5, 100),
    st.floats(-100, 100),
)
def test_min_max_is_between_0_and_1(values, scale, shift):
    x = torch.tensor(values).view(1, 1, 2, 2)
    y = min_max(x)
    assert torch.isfinite(y).all()
    assert 0 <= y.min() <= y.max() <= 1
    if y.any():
        assert (y.min(), y.max()) == (0, 1)
        assert (y.flatten()[x.flatten().argsort()].diff() >= 0).all()  # the order stays
    if x.max() - x.min() > 1e-2 * (x.abs().max() + 100):
        torch.testing.assert_close(min_max(x * scale + shift), y, atol=1e-3, rtol=0)


def test_fusion_at_its_ends():
    cam3, cam2, saliency = torch.rand(3, 2, 1, 12, 12)
    assert torch.equal(fuse_evidence(cam3, cam2, saliency, alpha=1, beta=0)["celm"], cam3)
    assert torch.equal(fuse_evidence(cam3, cam2, saliency, alpha=0, beta=0)["celm"], cam2)
    fused = fuse_evidence(cam3, None, saliency, beta=1, sigma=0)
    torch.testing.assert_close(fused["celm"], cam3 * min_max(saliency))
    assert fusion_options({"alpha": 1, "threshold": 3}) == {"alpha": 1}


@pytest.mark.parametrize("sigma", [0.3, 1, 2.5, 40])
def test_smoothing_keeps_constants_and_means(sigma):
    torch.testing.assert_close(gaussian_smooth(torch.full((2, 1, 20, 31), 0.7), sigma), torch.full((2, 1, 20, 31), 0.7))
    pulse = torch.zeros(41, 41)
    pulse[20, 20] = 1
    smooth = gaussian_smooth(pulse, sigma)
    assert smooth.sum() == pytest.approx(1, abs=1e-3 if sigma < 5 else 1)
    torch.testing.assert_close(smooth, smooth.T, atol=SAME, rtol=0)
    if 1 <= sigma < 5:
        rows = torch.arange(41.0) - 20
        width = 1 / 12  # of the pixels themselves
        assert (smooth.sum(1) * rows**2).sum() == pytest.approx(sigma**2 + width, rel=0.01)


def test_smoothing_of_the_smallest_images():
    assert torch.equal(gaussian_smooth(torch.ones(1, 1, 1, 1), 3), torch.ones(1, 1, 1, 1))
    torch.testing.assert_close(gaussian_smooth(torch.ones(2, 3), 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="expected sigma >= 0"):
        gaussian_smooth(torch.ones(2, 2), -1)
