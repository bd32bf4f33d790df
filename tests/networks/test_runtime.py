"""Another engine computes only what torch was seen to give as well."""

import re

import pytest
import torch
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.networks import InputConvention, TissueFeatures, with_runtime
from monai_ext.networks import runtime as module
from monai_ext.networks.nets import NucleiKGInstance, NucleiMaskRCNN, NucleiUNet

SIZES = [(1, 3, 64, 96), (2, 3, 32, 32), (1, 3, 48, 80), (3, 3, 33, 50)]


class Small(nn.Module):
    """With what differs between training and inference, and can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.drop, self.head = nn.Dropout(0.5), nn.ConvTranspose2d(8, 1, 2, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.stem(images)))


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Small()
    for _ in range(3):  # statistics of its own
        network(torch.rand(4, 3, 32, 32))
    return network.eval()


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request):
    pytest.importorskip(request.param)
    return request.param


def images(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


class Shifted(nn.Module):
    """An engine that is wrong, from the call of some number on."""

    def __init__(self, network, after=0):
        super().__init__()
        self.network, self.calls, self.after = network, 0, after

    def forward(self, batch):
        self.calls += 1
        return {"pred": self.network(batch) + (self.calls > self.after)}


@pytest.mark.slow  # exports
@torch.no_grad()
def test_an_engine_gives_what_torch_gives_at_any_size(network, engine, tmp_path, capsys):
    expected = [network(images(*size)) for size in SIZES]
    run = with_runtime(network, engine, cache_dir=tmp_path)
    for size, right in zip(SIZES, expected, strict=True):
        torch.testing.assert_close(run(images(*size)), right, rtol=0, atol=1e-5)
    assert run.chosen == engine
    assert run.difference < 1e-5
    assert f"runtime: {engine}," in capsys.readouterr().err
    # the export left the network as it was
    assert not any(part.training for part in network.modules())
    torch.testing.assert_close(network(images(*SIZES[0])), expected[0], rtol=0, atol=0)


@pytest.mark.slow
@torch.no_grad()
def test_an_exported_network_is_kept_for_its_weights(network, engine, tmp_path, monkeypatch):
    with_runtime(network, engine, cache_dir=tmp_path)(images(*SIZES[0]))
    (kept,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", lambda *_, **__: pytest.fail("exported again"))
        assert with_runtime(network, engine, cache_dir=tmp_path)(images(*SIZES[0])).shape == (1, 1, 64, 96)
    network.head.bias += 1
    with_runtime(network, engine, cache_dir=tmp_path)(images(*SIZES[0]))
    assert len(list(tmp_path.iterdir())) == 2
    assert kept.is_file()


@pytest.mark.slow
@torch.no_grad()
def test_layers_are_listened_to_as_in_torch(network, engine, tmp_path):
    def heard(run):
        found = []
        listening = TissueFeatures(run, ["stem"], 16, InputConvention(), lambda *seen: found.append(seen))
        for size in SIZES[:3]:
            run(images(*size))
        listening.remove()
        run(images(*SIZES[0]))
        return found

    expected = heard(network)
    found = heard(with_runtime(network, engine, ["stem"], tmp_path))
    assert len(found) == len(expected) == 3  # once a batch, the compared ones too
    for (features, tissue), (right, right_tissue) in zip(found, expected, strict=True):
        torch.testing.assert_close(features, right, rtol=0, atol=1e-5)
        assert torch.equal(tissue, right_tissue)
    with pytest.raises(InputError, match="expected the layers head, found stem"):
        TissueFeatures(with_runtime(network, engine, ["stem"]), ["head"], 16, InputConvention(), lambda *_: None)


class TwoHeads(nn.Module):
    """Right at one size only: of two pooled heads one has a weight for each place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 32 * 48, 1)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        features = self.stem(images)
        return {"logit": self.head(features.flatten(1)), "places": features[:, :2]}


@pytest.mark.slow
@torch.no_grad()
def test_several_results_of_one_size(engine, tmp_path, capsys):
    torch.manual_seed(0)
    network = TwoHeads().eval()
    run = with_runtime(network, engine, ["stem"], tmp_path, size=(32, 48))
    for count in (3, 1, 5):
        batch = images(count, 3, 32, 48)
        found, right = run(batch), network(batch)
        assert set(found) == set(right)
        for name, value in right.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5)
    assert run.chosen == engine
    run.decline("it is asked for its layers")
    assert torch.equal(run(batch)["logit"], right["logit"])
    assert "torch instead of" in capsys.readouterr().err.splitlines()[-1]


@torch.no_grad()
@pytest.mark.parametrize(
    ("after", "message"),
    [(0, "differs by 0."), (3, r"differs by 0.\d+ on images of 32 x 32 px")],
    ids=["at once", "at the next size"],
)
def test_an_engine_that_differs_is_not_used(network, monkeypatch, tmp_path, capsys, after, message):
    wrong = Shifted(network, after)
    monkeypatch.setattr(module, "_ENGINES", {"openvino": lambda _: wrong})
    monkeypatch.setattr(module, "_version", lambda _: "1")
    monkeypatch.setattr(module.RuntimeNetwork, "_exported", lambda *_: tmp_path)
    run = with_runtime(network, "openvino")
    for size in SIZES:
        torch.testing.assert_close(run(images(*size)), network(images(*size)), rtol=0, atol=1e-6)
    assert run.chosen == "torch"
    told = capsys.readouterr().err
    assert told.count("\n") == 1 + (after > 0)
    assert re.search(message, told)


@torch.no_grad()
@pytest.mark.parametrize("fast", [True, False])
def test_auto_takes_the_fastest(network, monkeypatch, tmp_path, fast, capsys):
    right = Shifted(network, 10**9)
    seconds = {"torch": 2.0, "openvino": 1.0 if fast else 3.0, "onnxruntime": 4.0}
    names = iter(seconds)
    monkeypatch.setattr(module, "_seconds", lambda *_: seconds[next(names)])
    monkeypatch.setattr(module, "_ENGINES", {"openvino": lambda _: right, "onnxruntime": lambda _: right})
    monkeypatch.setattr(module, "_version", lambda _: "1")
    monkeypatch.setattr(module.RuntimeNetwork, "_exported", lambda *_: tmp_path)
    run = with_runtime(network, "auto")
    run(images(*SIZES[0]))
    assert run.chosen == ("openvino" if fast else "torch")
    assert ("2.00 times as fast as torch" if fast else "it is the fastest here") in capsys.readouterr().err


@torch.no_grad()
@pytest.mark.parametrize("runtime", ["auto", "openvino", "onnxruntime"])
def test_without_an_engine_torch_computes(network, monkeypatch, capsys, runtime):
    monkeypatch.setattr(module, "_version", lambda _: None)
    run = with_runtime(network, runtime)
    for size in SIZES[:2]:
        torch.testing.assert_close(run(images(*size)), network(images(*size)), rtol=0, atol=1e-6)
    extra = "onnx" if runtime == "onnxruntime" else "openvino"
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"torch instead of {runtime}" in told
    assert f"monai_ext[{extra}]" in told


@torch.no_grad()
def test_what_cannot_be_exported_is_computed_by_torch(network, monkeypatch, tmp_path, capsys):
    class Listed(Small):
        def forward(self, batch):
            return super().forward(batch) * torch.linalg.eigvals(batch[0, 0, :8, :8]).abs().max()

    monkeypatch.setattr(module, "_version", lambda _: "1")
    other = Listed().eval()
    other.load_state_dict(network.state_dict())
    run = with_runtime(other, "onnxruntime", cache_dir=tmp_path)
    torch.testing.assert_close(run(images(*SIZES[0])), other(images(*SIZES[0])), rtol=0, atol=1e-6)
    assert "cannot be exported to ONNX" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_gradients_and_lower_precision_are_torch_s(network, monkeypatch, capsys):
    monkeypatch.setattr(module, "_version", lambda _: pytest.fail("an engine was looked for"))
    batch = images(*SIZES[0]).requires_grad_()
    with_runtime(network, "auto")(batch).sum().backward()
    assert batch.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert with_runtime(network, "auto")(images(*SIZES[0])).dtype == torch.bfloat16
    assert capsys.readouterr().err.count("only torch computes") == 2


def test_runtimes_have_names(network):
    bare = nn.Conv2d(3, 1, 3)
    assert with_runtime(bare, "torch") is bare
    with pytest.raises(InputError, match=r"expected torch, auto, onnxruntime, openvino, found 'tensorflow'"):
        with_runtime(network, "tensorflow")


BACK_ENDS = {
    "mask_rcnn": lambda: NucleiMaskRCNN("resnet18", channels=16, box_channels=32, score_threshold=0.2),
    "kg_instance": lambda: NucleiKGInstance("resnet18", channels=16),
    "unet": lambda: NucleiUNet("resnet18", min_size=1),
}


@pytest.fixture(params=BACK_ENDS)
def back_end(request):
    """Untrained, but sure of something: scores that are all about equal would be in any order."""
    torch.manual_seed(0)
    network = BACK_ENDS[request.param]()
    with torch.no_grad():
        if request.param == "mask_rcnn":
            network.roi_heads.box_predictor.cls_score.weight *= 30
            network.rpn.head.cls_logits.weight *= 30
        if request.param == "kg_instance":
            network.keypoints[-1].bias[:5] = 0.0
            network.keypoint_threshold = network.score_threshold = 0.1
    return network.eval()


def same_nuclei(found, expected, px=0.01):
    for one, other in zip(found, expected, strict=True):
        assert len(one) == len(other)
        assert one.masks().ne(other.masks()).sum() <= 1e-3 * other.area.sum()
        torch.testing.assert_close(one.boxes, other.boxes, rtol=0, atol=px)
        torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=1e-3)


@pytest.mark.slow  # exports
def test_nuclei_are_those_of_torch(back_end, engine, tmp_path, capsys):
    heard = []
    run = with_runtime(back_end, engine, ["backbone:1"], tmp_path)
    TissueFeatures(run, ["backbone:1"], 16, InputConvention(), lambda *seen: heard.append(seen))
    for number, size in enumerate([(1, 3, 96, 128), (2, 3, 96, 128), (1, 3, 70, 101)], start=1):
        expected = back_end.find(images(*size))
        assert sum(map(len, expected)) > 0
        same_nuclei(run.find(images(*size)), expected)
        assert run.chosen == engine
        assert len(heard) == number
    assert f"runtime: {engine}," in capsys.readouterr().err


class Scaled(nn.Module):
    """An engine whose maps are off by a share."""

    def __init__(self, network, share):
        super().__init__()
        self.network, self.share = network, share

    def forward(self, batch):
        return {name: x * (1 + self.share) for name, x in self.network(batch).items()}


@pytest.mark.parametrize(("share", "chosen"), [(1e-5, "openvino"), (0.01, "torch")])
def test_features_are_compared_by_their_size(monkeypatch, tmp_path, capsys, share, chosen):
    """They are no logits: of values above 20 no sigmoid tells one from another."""
    torch.manual_seed(0)
    network = BACK_ENDS["mask_rcnn"]().eval()
    for layer in (*network.fpn.inner_blocks, *network.fpn.layer_blocks):
        nn.init.constant_(layer[0].weight, 1.0)
    batch, expected = images(1, 3, 64, 96), network.find(images(1, 3, 64, 96))
    with torch.no_grad():
        assert network.compute_dense(batch)["0"].median() > 20
        monkeypatch.setattr(module, "_ENGINES", {"openvino": lambda _: Scaled(module._WithMaps(network, ()), share)})
        monkeypatch.setattr(module, "_version", lambda _: "1")
        monkeypatch.setattr(module.RuntimeNetwork, "_exported", lambda *_: tmp_path)
    run = with_runtime(network, "openvino")
    same_nuclei(run.find(batch), expected)  # of the first batch what torch gives
    assert run.chosen == chosen
    assert ("differs by 0.01" if chosen == "torch" else "differ by 1e-05") in capsys.readouterr().err


def test_nuclei_without_an_engine(monkeypatch, capsys):
    monkeypatch.setattr(module, "_version", lambda _: None)
    network = BACK_ENDS["mask_rcnn"]().train()
    run = with_runtime(network, "onnxruntime")
    for size in SIZES[:2]:
        same_nuclei(run.find(images(*size)), network.find(images(*size)), px=0)
    assert capsys.readouterr().err.count("torch instead of onnxruntime: it is not installed") == 1
