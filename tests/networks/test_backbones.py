from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import skimage.data
import timm
import torch
import torch.nn.functional as F
import torchvision
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from monai.bundle import ConfigParser
from safetensors.torch import save_file
from torch import nn
from torchvision.models import WeightsEnum

from monai_ext.base.errors import InputError
from monai_ext.networks import load_backbone, pixel_statistics
from monai_ext.networks.blocks import BACKBONES, ENCODERS, Backbone
from monai_ext.networks.blocks.encoders import timm_names_of_dinov2
from monai_ext.networks.nets import BackboneClassifier, BackboneFCN, BackboneUNet, CELNet, CyclicClassifier, LoopNet
from tests.configs import config_files

BUNDLES = Path(__file__).parents[2] / "bundles"
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
    expected = r"backbone: expected one of resnet18, .*swin_t, .*uni2-h, .*timm:<name>, found 'vgg16'"
    with pytest.raises(InputError, match=expected):
        CyclicClassifier("vgg16")
    assert len(BACKBONES) == 6


def test_every_weight_of_the_classifier_learns():
    network = CyclicClassifier("resnet18", num_classes=3)
    network(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in network.parameters())


STAGED = ["resnet18", "tf_efficientnet_lite0", "convnext_atto", "swin_tiny_patch4_window7_224"]
PLAIN = {"vit_tiny_patch16_224": 16, "vit_small_patch14_dinov2": 14}


@pytest.mark.parametrize("name", STAGED)
def test_maps_of_stages_are_timms(name):
    torch.manual_seed(0)
    backbone = Backbone(f"timm:{name}").eval()
    options = {"strict_img_size": False} if "swin" in name else {}
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        whole = timm.create_model(name, **options).eval()
        backbone.network.load_state_dict(fitting(whole.state_dict(), backbone))
        maps = backbone(images)
        expected = whole.forward_intermediates(images, intermediates_only=True)
    assert [x.shape[2:] for x in maps.values()] == [(64 // s, 96 // s) for s in (4, 8, 16, 32)]
    by_shape = {x.shape: x for x in expected}
    for value in maps.values():
        torch.testing.assert_close(value, by_shape[value.shape])


def fitting(state, backbone):
    """A whole network's weights under the names of timm's list of features, in order."""
    wanted = backbone.network.state_dict()
    if wanted.keys() <= state.keys():
        return {name: state[name] for name in wanted}
    renamed = {
        name.replace("stages.", "stages_").replace("layers.", "layers_").replace("stem.", "stem_"): v
        for name, v in state.items()
    }
    return {name: renamed[name] for name in wanted}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_transformer_has_one_grid(name):
    stride = PLAIN[name]
    backbone = Backbone(f"timm:{name}").eval()
    images = torch.randn(1, 3, 4 * stride, 6 * stride)
    with torch.no_grad():
        (grid,) = backbone.network.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)
        tokens = backbone.network.forward_features(images)[:, backbone.network.num_prefix_tokens :]
        assert torch.equal(backbone.tokens(images), grid)
        torch.testing.assert_close(grid.flatten(2).transpose(1, 2), tokens)
        maps = backbone(images)
    assert backbone.is_plain
    assert grid.shape[2:] == (4, 6)
    for value, s in zip(maps.values(), (4, 8, 16, 32), strict=True):
        assert value.shape[1:] == (backbone.out_channels[0], -(-4 * stride // s), -(-6 * stride // s))


@pytest.mark.parametrize("name", ["timm:vit_small_patch14_dinov2", "h-optimus-0"])
def test_a_tile_that_patches_do_not_divide(name):
    with torch.device("meta"):
        backbone = Backbone(name)
        images = torch.zeros(1, 3, 96, 64)
    with pytest.raises(
        InputError, match=rf"tile: expected sides that the patches of 14 px of {name} divide, found 64 x 96"
    ):
        backbone(images)


@pytest.mark.parametrize("name", ["timm:resnet18", "timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224"])
def test_timms_state_dict_crosses_too(name):
    front, back = CyclicClassifier(name).eval(), Backbone(name).eval()
    back.load_state_dict(front.backbone.state_dict())
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for key, value in front.backbone(images).items():
            assert torch.equal(back(images)[key], value)


@pytest.mark.parametrize(
    "name", ["resnet18", "tf_efficientnet_lite0", "vit_small_patch14_dinov2", "vit_tiny_patch16_224", "convnext_atto"]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.slow
def test_a_checkpoint_of_timm_with_its_head(tmp_path, name, suffix):
    torch.manual_seed(3)
    state = timm.create_model(name).state_dict()
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    backbone = Backbone(f"timm:{name}", path)
    weights = backbone.network.state_dict()
    same = [
        any(torch.equal(value, other) for other in state.values() if other.shape == value.shape)
        for value in weights.values()
    ]
    assert all(same)
    torch.save(backbone.state_dict(), tmp_path / "backbone.pt")
    again = Backbone(f"timm:{name}", tmp_path / "backbone.pt")
    assert all(torch.equal(value, again.network.state_dict()[key]) for key, value in weights.items())


def test_weights_of_another_architecture_of_timm(tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "other.pth")
    with pytest.raises(
        InputError, match=r"other\.pth: expected weights of a timm:vit_tiny_patch16_224, found another"
    ) as caught:
        Backbone("timm:vit_tiny_patch16_224", tmp_path / "other.pth")
    assert "\n" not in str(caught.value)


def test_an_unknown_name_of_timm_is_answered_with_the_nearest():
    with pytest.raises(
        InputError, match=r"backbone: expected a network of timm, such as resnet18, .*found 'timm:resnet81'"
    ):
        Backbone("timm:resnet81")


def test_weights_that_timm_does_not_offer():
    with pytest.raises(InputError, match=r"in99k: expected a file .*lite0, or one of in1k, imagenet-lite, hf-hub"):
        Backbone("timm:tf_efficientnet_lite0", "in99k")


def image(name):
    pixels = torch.from_numpy(np.array(getattr(skimage.data, name)())).permute(2, 0, 1)[None].float()
    return (F.interpolate(pixels, (224, 224), mode="bilinear", antialias=True) - 127) / 128


def test_imagenet_lite_knows_a_cat_and_an_espresso():
    """The weights of the package in timm's network: 296 tensors in the same order."""
    from monai_ext.networks.blocks.backbones import _imagenet_lite

    state = _imagenet_lite("timm:tf_efficientnet_lite0")
    assert len(state) == 296
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(state)
    backbone = Backbone("timm:tf_efficientnet_lite0", "imagenet-lite").eval()
    with torch.no_grad():
        for name, label, least in (("chelsea", 285, 0.7), ("coffee", 967, 0.85)):
            probability = network(image(name)).softmax(1)[0]
            assert int(probability.argmax()) == label
            assert probability[label] > least
            coarse = backbone(image(name))["3"]
            torch.testing.assert_close(network.bn2(network.conv_head(coarse)), network.forward_features(image(name)))


def test_imagenet_lite_is_of_one_network():
    with pytest.raises(
        InputError, match=r"weights: expected imagenet-lite with the backbone timm:tf_efficientnet_lite0"
    ):
        Backbone("timm:resnet18", "imagenet-lite")


def answer(status=403):
    return type("Response", (), {"status_code": status, "headers": {}, "request": None, "text": ""})()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            GatedRepoError("gated", response=answer()),
            r"accept the terms at https://huggingface.co/MahmoodLab/UNI2-h and set HF_TOKEN",
        ),
        (RepositoryNotFoundError("none", response=answer(404)), r"model on the .*no such model"),
        (
            LocalEntryNotFoundError("no connection\nnor a copy"),
            r"weights to download .*path of a copy.*no connection nor a copy",
        ),
        (ConnectionError("offline"), r"weights to download .*offline"),
    ],
)
@pytest.mark.parametrize("weights", ["hub", "hf-hub:MahmoodLab/UNI2-h"])
def test_a_hub_that_gives_nothing(monkeypatch, error, expected, weights):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", refuse)
    with torch.device("meta"):
        backbone = Backbone("uni2-h")
    with pytest.raises(InputError, match=r"hf-hub:MahmoodLab/UNI2-h: expected .*" + expected) as caught:
        backbone.load(weights)
    assert "\n" not in str(caught.value)


def test_weights_from_the_hub(monkeypatch, tmp_path):
    state = timm.create_model("resnet18").state_dict()
    save_file(state, tmp_path / "model.safetensors")
    asked = []

    def fetch(repo_id, filename, **_):
        asked.append(repo_id)
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", fetch)
    backbone = Backbone("timm:resnet18", "hf-hub:timm/resnet18.a1_in1k")
    assert set(asked) == {"timm/resnet18.a1_in1k"}
    assert torch.equal(backbone.network.conv1.weight, state["conv1.weight"])


# parameters as the model cards have them, in millions
SIZES = {
    "uni2-h": (681, 14, 1536),
    "virchow2": (631, 14, 1280),
    "h-optimus-0": (1135, 14, 1536),
    "prov-gigapath": (1135, 16, 1536),
    "phikon-v2": (303, 16, 1024),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_has_its_cards_size(name):
    millions, stride, channels = SIZES[name]
    with torch.device("meta"):
        backbone = Backbone(name)
        tokens = backbone.tokens(torch.zeros(1, 3, 224, 16 * stride))
    assert round(sum(p.numel() for p in backbone.parameters()) / 1e6) == pytest.approx(millions, abs=1)
    assert (backbone.stride, backbone.out_channels) == (stride, [channels] * 4)
    assert tokens.shape == (1, channels, 224 // stride, 16)


class SlowDinov2(nn.Module):
    """The layers of transformers' Dinov2Model, by their names, written out."""

    def __init__(self, width=32, heads=4, depth=2, patch=16, tokens=16):
        super().__init__()
        self.heads, self.depth = heads, depth
        shapes = {"embeddings.cls_token": (1, 1, width), "embeddings.mask_token": (1, width)}
        shapes["embeddings.position_embeddings"] = (1, 1 + tokens, width)
        shapes["embeddings.patch_embeddings.projection.weight"] = (width, 3, patch, patch)
        shapes["embeddings.patch_embeddings.projection.bias"] = (width,)
        for n in range(depth):
            layer = f"encoder.layer.{n}."
            for part in (
                "attention.attention.query",
                "attention.attention.key",
                "attention.attention.value",
                "attention.output.dense",
            ):
                shapes |= {f"{layer}{part}.weight": (width, width), f"{layer}{part}.bias": (width,)}
            shapes |= {f"{layer}mlp.fc1.weight": (4 * width, width), f"{layer}mlp.fc1.bias": (4 * width,)}
            shapes |= {f"{layer}mlp.fc2.weight": (width, 4 * width), f"{layer}mlp.fc2.bias": (width,)}
            for part in (
                "norm1.weight",
                "norm1.bias",
                "norm2.weight",
                "norm2.bias",
                "layer_scale1.lambda1",
                "layer_scale2.lambda1",
            ):
                shapes[layer + part] = (width,)
        shapes |= {"layernorm.weight": (width,), "layernorm.bias": (width,)}
        self.state = {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}

    def forward(self, images):
        s = self.state
        x = F.conv2d(
            images,
            s["embeddings.patch_embeddings.projection.weight"],
            s["embeddings.patch_embeddings.projection.bias"],
            16,
        )
        x = (
            torch.cat([s["embeddings.cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
            + s["embeddings.position_embeddings"]
        )

        def linear(x, name):
            return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])

        def norm(x, name):
            return F.layer_norm(x, x.shape[-1:], s[f"{name}.weight"], s[f"{name}.bias"], 1e-6)

        for n in range(self.depth):
            layer = f"encoder.layer.{n}."
            y = norm(x, layer + "norm1")
            q, k, v = (
                linear(y, f"{layer}attention.attention.{each}").unflatten(-1, (self.heads, -1)).transpose(1, 2)
                for each in ("query", "key", "value")
            )
            y = ((q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5).softmax(-1) @ v
            x = x + s[layer + "layer_scale1.lambda1"] * linear(
                y.transpose(1, 2).flatten(2), layer + "attention.output.dense"
            )
            y = linear(F.gelu(linear(norm(x, layer + "norm2"), layer + "mlp.fc1")), layer + "mlp.fc2")
            x = x + s[layer + "layer_scale2.lambda1"] * y
        return norm(x, "layernorm")


def test_dinov2_of_transformers_becomes_timms():
    torch.manual_seed(5)
    slow = SlowDinov2()
    network = timm.create_model(
        "vit_large_patch16_224", img_size=64, embed_dim=32, num_heads=4, depth=2, init_values=1.0, num_classes=0
    ).eval()
    state = timm_names_of_dinov2(slow.state)
    network.load_state_dict(state)
    assert timm_names_of_dinov2(state).keys() == state.keys()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network.forward_features(images), slow(images), rtol=1e-4, atol=1e-4)


def test_frozen_normalisation_keeps_its_statistics():
    network = BackboneUNet("timm:tf_efficientnet_lite0", freeze_norm=True).train()
    before = {name: value.clone() for name, value in network.named_buffers() if name.endswith("running_mean")}
    network(torch.randn(2, 3, 64, 64))
    changed = {
        name.split(".")[0]
        for name, value in network.named_buffers()
        if name in before and not torch.equal(value, before[name])
    }
    assert changed == {"decoder"}


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224"])
def test_a_unet_scores_every_pixel_of_any_size(name):
    network = BackboneUNet(name, num_classes=2).eval()
    with torch.no_grad():
        images = torch.randn(2, 3, 50, 71)
        scores = network(images)
        torch.testing.assert_close(network(images[1:]), scores[1:], rtol=1e-4, atol=1e-4)
    assert scores.shape == (2, 2, 50, 71)
    network(images).square().mean().backward()
    still = {n for n, p in network.named_parameters() if p.grad is None and n.startswith(("up", "stem", "head"))}
    assert not still


def test_a_classifiers_head_sees_the_means():
    network = BackboneClassifier("timm:tf_efficientnet_lite0", num_classes=3, magnify=2).eval()
    images = torch.randn(2, 3, 48, 48)
    with torch.no_grad():
        fine, coarse = network.features(images)
        assert (fine.shape[2:], coarse.shape[2:]) == ((6, 6), (3, 3))
        expected = torch.cat([fine.mean((2, 3)), coarse.mean((2, 3))], 1) @ network.head.weight.T + network.head.bias
        torch.testing.assert_close(network(images), expected)
    with pytest.raises(InputError, match="magnify: expected a number above 0, found 0"):
        BackboneClassifier("resnet18", magnify=0)


def test_a_network_begins_from_a_backbone(tmp_path, resnet18):
    torch.save(resnet18, tmp_path / "weights.pth")
    network = load_backbone(BackboneUNet("resnet18"), tmp_path / "weights.pth")
    assert torch.equal(network.backbone.conv1.weight, resnet18["conv1.weight"])
    same = CELNet()
    assert load_backbone(same, None) is same
    with pytest.raises(InputError, match=r"weights.pth: expected a network over a pretrained backbone, found a CELNet"):
        load_backbone(same, tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "timm:tf_efficientnet_lite0", "timm:vit_tiny_patch16_224"])
def test_an_fcn_scores_every_pixel_of_any_size(name):
    network = BackboneFCN(name).eval()
    images = torch.randn(1, 3, 50, 71)
    assert not network(images).any()  # it begins at zero
    for score in network.scores:
        nn.init.normal_(score.weight)
    scores = network(images)
    assert scores.shape == (1, 2, 50, 71)
    scores.square().mean().backward()
    assert all(parameter.grad is not None for parameter in [*network.head.parameters(), *network.scores.parameters()])


@pytest.mark.parametrize(("name", "cells"), [("timm:tf_efficientnet_lite0", 4), ("timm:vit_tiny_patch16_224", 8)])
def test_loopnet_over_timms_networks(name, cells):
    network = LoopNet(name, grid=4, hidden=(16, 8)).eval()
    with torch.no_grad():
        out = network(torch.randn(2, 3, 128, 128))
        features = network.features(torch.randn(2, 3, 128, 128))
    assert features.shape[2:] == (cells, cells)
    assert (out["logit"].shape, out["p_loc"].shape) == ((2, 1), (2, 3, 4, 4))
    begun = load_backbone(LoopNet("timm:tf_efficientnet_lite0", grid=4), "imagenet-lite")
    assert torch.equal(
        begun.backbone.network.conv_stem.weight,
        Backbone("timm:tf_efficientnet_lite0", "imagenet-lite").network.conv_stem.weight,
    )


def test_a_mosaic_that_patches_do_not_divide():
    with pytest.raises(InputError, match=r"tile: expected sides that the patches of 14 px .* divide, found 128 x 128"):
        LoopNet("timm:vit_small_patch14_dinov2", grid=4)(torch.randn(1, 3, 128, 128))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet18", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("swin_t", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("timm:resnet18", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("timm:resnet18.a1_in1k", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("timm:vit_tiny_patch16_224", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        ("timm:tf_efficientnet_lite0", (127, 127, 127), (128, 128, 128)),
        ("uni2-h", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
        ("h-optimus-0", (180.341865, 147.575895, 179.422335), (54.030165, 58.679835, 45.266835)),
    ],
)
def test_pixels_that_the_published_weights_expect(name, mean, std):
    assert pixel_statistics(name) == (pytest.approx(mean, abs=1e-3), pytest.approx(std, abs=1e-3))


def test_pixels_of_an_unknown_network():
    with pytest.raises(InputError, match=r"backbone: expected a network of timm, such as .*, found 'timm:resnet81'"):
        pixel_statistics("timm:resnet81")


@pytest.mark.parametrize("bundle", ["cell_semantic_segmentation", "nuclei_instance_segmentation"])
@pytest.mark.parametrize("backbone", ["resnet18", "timm:tf_efficientnet_lite0", "h-optimus-0"])
def test_the_convention_follows_the_backbone(bundle, backbone):
    """In training as in inference: a backbone by option alone may not get another one's colours."""
    for name in ("train", "inference"):
        parser = ConfigParser()
        parser.read_config(config_files(BUNDLES / f"pathology_{bundle}", name))
        parser.update({"backbone": backbone, "bundle_root": str(BUNDLES / f"pathology_{bundle}")})
        if name == "inference":
            parser["convention#weights"] = None
        convention = parser.get_parsed_content("convention")
        assert (convention.mean, convention.std) == pixel_statistics(backbone)
