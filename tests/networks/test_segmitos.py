import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.networks.nets.segmitos import SegMitosFCN
from monai_ext.networks.utils import _caffe_net

PX_TOL = 1e-3  # centres of mass, px
EXACT = 1e-6
SAME = 1e-4  # two ways through the same float32 sums

STRIDES, PADDINGS = (32, 16, 8), ("input", "features")
TINY = {"width": 1 / 64, "fc_channels": 3}
every_net = pytest.mark.parametrize(
    ("stride", "padding"), [pytest.param(s, p, id=f"{s}s {p}") for s in STRIDES for p in PADDINGS]
)


def tiny(stride=32, **options):
    """A narrow network that scores something, in evaluation mode."""
    torch.manual_seed(options.pop("seed", 0))
    net = SegMitosFCN(stride, **{**TINY, **options}).eval()
    for name, parameter in net.named_parameters():
        if "score" in name:
            nn.init.normal_(parameter)
    return net


def see_through(net, path=None):
    """Every convolution passes its centre on; only one path scores: 0 the coarse one, 1 pool4, 2 pool3; None all."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
            module.weight.data[:, 0, module.kernel_size[0] // 2, module.kernel_size[1] // 2] = 1
    for index, score in enumerate([net.score, *(skip.score for skip in net.skips)]):
        score.weight.data *= float(path in (None, index))
    return net


# -- size ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stride", "count"),
    [(32, 134_268_738), (16, 134_268_738 + 512 * 2 + 2), (8, 134_268_738 + 512 * 2 + 2 + 256 * 2 + 2)],
)
def test_parameters_of_the_paper(stride, count):
    with torch.device("meta"):
        net = SegMitosFCN(stride)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == count


def test_sizes_of_500_px_are_those_of_the_caffe_network():
    seen = {}
    net = SegMitosFCN(8, **TINY)
    watched = {f"pool{i + 1}": stage for i, stage in enumerate(net.stages)}
    watched |= {"fc6": net.head[0], "score": net.score, "skip16": net.skips[0], "skip8": net.skips[1]}
    watched |= {"up16": net.skips[0].upsample, "up8": net.skips[1].upsample, "final": net.upsample}
    for name, module in watched.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.shape[-1]))
    assert net(torch.zeros(1, 3, 500, 500)).shape == (1, 2, 500, 500)
    assert [seen[f"pool{i}"] for i in range(1, 6)] == [349, 175, 88, 44, 22]
    assert (seen["fc6"], seen["score"], seen["up16"], seen["up8"]) == (16, 16, 34, 70)
    assert (seen["skip16"], seen["skip8"], seen["final"]) == (34, 70, 568)  # 44 - 5 = 39 and 88 - 9 = 79 are more
    net = SegMitosFCN(32, **TINY)
    net.upsample.register_forward_hook(lambda _m, _i, out: seen.__setitem__("final", out.shape[-1]))
    net(torch.zeros(1, 3, 500, 500))
    assert seen["final"] == 544


@pytest.mark.parametrize(("stride", "crops", "final"), [(32, (), 19), (16, (5,), 27), (8, (5, 9), 31)])
def test_crops_of_the_paper(stride, crops, final):
    net = SegMitosFCN(stride, **TINY)
    assert tuple(skip.crop_fine for skip in net.skips) == crops
    assert not any(skip.crop_coarse for skip in net.skips)
    assert net.crop == final


@every_net
@settings(max_examples=12, deadline=None)
@given(height=st.integers(1, 140), width=st.integers(1, 140))
def test_any_size_comes_back(stride, padding, height, width):
    net = SegMitosFCN(stride, padding=padding, width=1 / 64, fc_channels=1)
    with torch.no_grad():
        assert net(torch.rand(1, 3, height, width)).shape == (1, 2, height, width)


@pytest.mark.parametrize("size", [(1, 1), (33, 31), (500, 487), (513, 64)])
def test_both_paddings_have_as_many_cells(size):
    cells = []
    for padding in PADDINGS:
        net = SegMitosFCN(32, padding=padding, **TINY)
        net.score.register_forward_hook(lambda _m, _i, out: cells.append(out.shape[-2:]))
        net(torch.zeros(1, 3, *size))
    assert cells[0] == tuple(-(-(s + 6) // 32) for s in size)
    assert cells[1] == tuple(-(-s // 32) for s in size)


# -- geometry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stride", "padding", "path"),
    [
        pytest.param(s, p, i, id=f"{s}s {p} path {i}")
        for s in STRIDES
        for p in PADDINGS
        for i in range({32: 1, 16: 2, 8: 3}[s])
    ],
)
def test_response_is_centred_on_what_caused_it(stride, padding, path):
    # A bright pixel fills the cell it lies in, and the cell's score a hat around the cell's centre. Over the 32 places
    # that a pixel can have in the largest cell the hats' centres must balance out: a crop wrong by a pixel shows.
    net = see_through(SegMitosFCN(stride, width=1 / 512, fc_channels=1, in_channels=1, padding=padding), path).eval()
    places = torch.stack([torch.arange(32) + 64, 66 + (torch.arange(32) * 5 + 7) % 32], dim=1)
    images = torch.zeros(32, 1, 161, 174)
    images[torch.arange(32), 0, places[:, 0], places[:, 1]] = 1
    with torch.no_grad():
        heat = net(images)[:, 1].double()
    mass = heat.sum(dim=(1, 2))
    grid = [torch.arange(n, dtype=torch.float64) for n in heat.shape[1:]]
    centres = torch.stack([(heat.sum(2) @ grid[0]) / mass, (heat.sum(1) @ grid[1]) / mass], dim=1)
    error = centres - places
    cell = (32, 16, 8)[path]
    torch.testing.assert_close(mass, torch.full_like(mass, cell**2), rtol=SAME, atol=0)  # paths add up unweighted
    assert error.abs().max() <= (cell - 1) / 2 + PX_TOL
    assert error.abs().max() > (cell - 1) / 2 - 1  # the test sees cells, not a trivial map
    torch.testing.assert_close(error.mean(0), torch.zeros(2, dtype=torch.float64), atol=PX_TOL, rtol=0)


@pytest.mark.parametrize("factor", [2, 8, 16, 32])
def test_frozen_deconvolution_interpolates_bilinearly(factor):
    net = SegMitosFCN(8 if factor == 2 else factor, **TINY)
    upsample = net.skips[0].upsample if factor == 2 else net.upsample
    assert not any(True for _ in upsample.parameters())
    assert not any("kernel" in name for name in net.state_dict())
    cells = torch.rand(2, 2, 5, 7)
    got = upsample(cells)[:, :, factor:-factor, factor:-factor]  # between centres of cells
    want = F.interpolate(cells, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        got, want[:, :, factor // 2 : -factor // 2, factor // 2 : -factor // 2], atol=EXACT, rtol=0
    )


def reach(net, size=560):
    """The farthest pixel that any of 32 neighbouring outputs can depend on, px, by the support of a gradient."""
    for module in net.stages.modules():  # an average depends on all that a maximum may depend on
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(2, 2, ceil_mode=True))
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    net = net.double()
    image = torch.ones(1, 1, 33, size, dtype=torch.float64, requires_grad=True)
    out = net(image)[0, 1, 16]
    farthest = 0
    for column in range(size // 2, size // 2 + 32):
        (gradient,) = torch.autograd.grad(out[column], image, retain_graph=True)
        touched = gradient[0, 0].abs().sum(0).nonzero()[:, 0]
        farthest = max(farthest, column - int(touched[0]), int(touched[-1]) - column)
    return farthest


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("stride", "expected"), [(32, 233), (16, 241), (8, 245)])
def test_halo_covers_the_reach(stride, expected, padding):
    net = SegMitosFCN(stride, width=1 / 512, fc_channels=1, in_channels=1, padding=padding).eval()
    assert reach(net) == expected
    assert 224 < expected <= net.halo == 256


# -- behaviour -----------------------------------------------------------------------------------------------------


@every_net
def test_scores_begin_at_zero(stride, padding):
    net = SegMitosFCN(stride, padding=padding, **TINY)
    assert net(torch.rand(1, 3, 70, 90)).eq(0).all()


@every_net
@pytest.mark.parametrize("norm", [None, "batch"])
def test_torchscript_is_the_same(stride, padding, norm):
    net = tiny(stride, padding=padding, norm=norm)
    scripted = torch.jit.script(net)
    for size in ((64, 64), (75, 41)):
        image = torch.rand(2, 3, *size)
        torch.testing.assert_close(scripted(image), net(image), atol=EXACT, rtol=0)


def test_dropout_acts_in_training_alone():
    net = tiny(32, fc_channels=64, seed=1)
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(net(image), net(image))
    net.train()
    assert not torch.equal(net(image), net(image))
    still = tiny(32, fc_channels=64, dropout=0.0).train()
    assert torch.equal(still(image), still(image))


def test_gradient_reaches_every_parameter():
    net = tiny(8).train()
    net(torch.rand(1, 3, 96, 96)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize(("option", "value"), [("stride", 4), ("norm", "instance"), ("padding", "same")], ids=str)
def test_unknown_options_are_named(option, value):
    with pytest.raises(InputError, match=f"{option}: expected .*{value}"):
        SegMitosFCN(**{option: value})


# -- weights -------------------------------------------------------------------------------------------------------


def test_stages_of_training_hand_their_weights_on(tmp_path):
    before, image = None, torch.rand(1, 3, 65, 80)
    for stride in STRIDES:
        net = tiny(stride, seed=stride)
        path = tmp_path / f"{stride}.pt"
        if before is not None:
            net = SegMitosFCN(stride, **TINY, weights=path.with_name(f"{stride * 2}.pt")).eval()
            old = before.state_dict()
            assert all(torch.equal(net.state_dict()[name], value) for name, value in old.items())
            new = set(net.state_dict()) - set(old)
            assert new == {f"skips.{len(net.skips) - 1}.score.{part}" for part in ("weight", "bias")}
            assert all(net.state_dict()[name].eq(0).all() for name in new)  # so it starts with the coarse map
            for parameter in net.skips[-1].parameters():
                nn.init.normal_(parameter)
        torch.save(net.state_dict(), path)
        before = net
    back = SegMitosFCN(32, **TINY, weights=tmp_path / "8.pt").eval()  # a finer network's weights also fit
    assert torch.equal(back.score.weight, before.score.weight)
    assert torch.equal(SegMitosFCN(8, **TINY, weights=str(tmp_path / "8.pt")).eval()(image), before(image))


class SmallVGG(nn.Module):
    """Torchvision's VGG-16 in its own layout, but narrow: linear classifiers over 7 x 7 cells."""

    def __init__(self, channels=(1, 2, 4, 8, 8), fc=3, norm=False):
        super().__init__()
        plan = [c for stage, n in zip(channels, (2, 2, 3, 3, 3), strict=True) for c in [*([stage] * n), "M"]]
        self.features = torchvision.models.vgg.make_layers(plan, batch_norm=norm)
        last = channels[-1]
        self.classifier = nn.Sequential(
            nn.Linear(last * 49, fc),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(fc, fc),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(fc, 5),
        )


NARROW = {"width": 1 / 64, "fc_channels": 3, "padding": "features"}


def equals_torchvision(net, vgg):
    """The one cell of a 224 px image's middle sees what torchvision's classifier sees."""
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        pooled = vgg.features(image)
        want = vgg.classifier[:5](pooled.flatten(1))
        for stage in net.stages:
            image = stage(image)
        torch.testing.assert_close(image, pooled, atol=SAME, rtol=SAME)
        got = net.head(image)[:, :, 3, 3]
    assert want.abs().max() > 0
    torch.testing.assert_close(got, want, atol=SAME, rtol=SAME)


@pytest.mark.parametrize("how", ["path", "name"])
def test_torchvision_weights_compute_the_same(how, tmp_path, monkeypatch):
    torch.manual_seed(3)
    vgg = SmallVGG().eval()
    if how == "path":
        source = tmp_path / "vgg16.pth"
        torch.save(vgg.state_dict(), source)
    else:
        source = "IMAGENET1K_V1"
        asked = []
        monkeypatch.setattr(torchvision.models, "vgg16", lambda weights: asked.append(weights) or vgg)
    net = SegMitosFCN(32, **NARROW, weights=source).eval()
    assert how == "path" or asked == ["IMAGENET1K_V1"]
    equals_torchvision(net, vgg)
    assert net.score.weight.eq(0).all()


def test_layout_is_that_of_torchvision_itself():
    with torch.device("meta"):
        real, small, net = torchvision.models.vgg16(), SmallVGG(), SegMitosFCN(32)
        filled = net._from_torchvision(real.state_dict(), "vgg16")
    assert list(real.state_dict()) == list(small.state_dict())
    own = net.state_dict()
    assert set(own) - set(filled) == {"score.weight", "score.bias"}
    assert {k: v.shape for k, v in filled.items()} == {k: own[k].shape for k in filled}


def caffe_layers(net, old):
    """Name, weight and bias of each layer, in the shapes of FCN's files (new) or of VGG-16's first release (old)."""
    for name, here in net._layers().items():
        weight, bias = (net.get_parameter(f"{here}.{part}").detach() for part in ("weight", "bias"))
        if old:
            weight = weight.flatten(1)[None, None] if name.startswith("fc") else weight
            bias = bias[None, None, None]
        yield name, weight, bias


def save_caffe(path, layers, old=False):
    message = _caffe_net()()
    for name, *blobs in layers:
        layer = (message.layers if old else message.layer).add(name=name)
        for value in blobs:
            blob = layer.blobs.add(data=value.flatten().tolist())
            if old:
                blob.num, blob.channels, blob.height, blob.width = value.shape
            else:
                blob.shape.dim.extend(value.shape)
    path.write_bytes(message.SerializeToString())
    return path


@pytest.mark.parametrize("old", [False, True], ids=["layer", "layers of 2014"])
def test_caffemodel_fills_the_network(old, tmp_path):
    source = tiny(32, padding="features")
    layers = list(caffe_layers(source, old))
    layers.append(("score_fr" if not old else "fc8", torch.ones(21, 3, 1, 1), torch.ones(1, 1, 1, 21)))
    path = save_caffe(tmp_path / "fcn32s.caffemodel", layers, old)
    net = SegMitosFCN(32, **TINY, padding="features", weights=path).eval()
    for name, here in net._layers().items():
        for part in ("weight", "bias"):
            key = f"{here}.{part}"
            assert torch.equal(net.get_parameter(key), source.get_parameter(key)), name
    assert net.score.weight.eq(0).all()  # PASCAL's 21 classes stay behind


def test_caffemodel_of_two_classes_brings_its_scores(tmp_path):
    source = tiny(8)
    layers = list(caffe_layers(source, old=False))
    scores = {"score_fr": source.score, "score_pool4": source.skips[0].score, "score_pool3": source.skips[1].score}
    layers += [(name, score.weight.detach(), score.bias.detach()) for name, score in scores.items()]
    path = save_caffe(tmp_path / "segmitos8s.caffemodel", layers)
    image = torch.rand(1, 3, 70, 50)
    assert torch.equal(SegMitosFCN(8, **TINY, weights=path).eval()(image), source(image))


def bad_weights(kind, folder):
    path = folder / f"{kind.replace(' ', '_')}.pt"
    state = tiny(32).state_dict()
    if kind == "empty file":
        path.write_bytes(b"")
    elif kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-300])
    elif kind == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif kind == "other width":
        torch.save(tiny(32, width=1 / 32).state_dict(), path)
    elif kind == "other network":
        torch.save(nn.Linear(2, 2).state_dict(), path)
    elif kind == "checkpoint":
        torch.save({"network": state, "epoch": 3}, path)
    elif kind == "empty dict":
        torch.save({}, path)
    elif kind == "not finite":
        torch.save({k: v * np.nan for k, v in state.items()}, path)
    elif kind == "vgg with batch norm":
        torch.save(SmallVGG(norm=True).state_dict(), path)
    elif kind == "vgg without classifiers":
        torch.save({k: v for k, v in SmallVGG().state_dict().items() if "features" in k}, path)
    elif kind == "caffe text":
        path = path.with_suffix(".caffemodel")
        path.write_text("layer { name: 'conv1_1' }")
    elif kind == "caffe without bias":
        path = save_caffe(path.with_suffix(".caffemodel"), [("conv1_1", torch.ones(1, 3, 3, 3))])
    elif kind == "caffe of another network":
        path = save_caffe(path.with_suffix(".caffemodel"), [("res2a", torch.ones(1, 3, 3, 3), torch.ones(1))])
    elif kind == "caffe of another size":
        path = save_caffe(path.with_suffix(".caffemodel"), [("fc6", torch.ones(3, 50), torch.ones(3))])
    elif kind == "missing caffe":
        path = path.with_suffix(".caffemodel")
    return path


@pytest.mark.parametrize(
    "kind",
    [
        "missing", "empty file", "truncated", "text", "other width", "other network", "checkpoint", "empty dict",
        "not finite", "vgg with batch norm", "vgg without classifiers", "missing caffe", "caffe text",
        "caffe without bias", "caffe of another network", "caffe of another size",
    ],
)  # fmt: skip
def test_unusable_weights_are_named(kind, tmp_path):
    path = bad_weights(kind, tmp_path)
    with pytest.raises(InputError) as caught:
        SegMitosFCN(32, **TINY, weights=path)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert "\n" not in str(caught.value)


def test_unknown_name_of_weights():
    with pytest.raises(InputError, match="IMAGENET1K_V9"):
        SegMitosFCN(32, **TINY, weights="IMAGENET1K_V9")


def test_classifiers_of_nan_are_refused(monkeypatch):
    vgg = SmallVGG()
    nn.init.constant_(vgg.classifier[0].weight, float("nan"))  # as torchvision's IMAGENET1K_FEATURES has them
    monkeypatch.setattr(torchvision.models, "vgg16", lambda weights: vgg)
    with pytest.raises(InputError, match=r"IMAGENET1K_FEATURES: .*head.0.weight not finite"):
        SegMitosFCN(32, **NARROW, weights="IMAGENET1K_FEATURES")
