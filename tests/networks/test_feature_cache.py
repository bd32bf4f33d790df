"""A frozen backbone computes each image once, and nothing but the time differs."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from monai_ext.base.errors import InputError
from monai_ext.networks import freeze_backbone, load_weights
from monai_ext.networks.blocks import Backbone
from monai_ext.networks.nets import BackboneClassifier, CELNet, CyclicClassifier, LoopNet
from monai_ext.phantom import write_vessels
from tests.configs import config_files

BUNDLES = Path(__file__).parents[2] / "bundles"
NETWORKS = {
    "stages": lambda: BackboneClassifier("resnet18", magnify=2),
    "tokens": lambda: BackboneClassifier("timm:vit_tiny_patch16_224"),
    "norm": lambda: CyclicClassifier("swin_t"),
    "loop": lambda: LoopNet("timm:resnet10t", grid=2, hidden=(8, 4)),
}


@pytest.fixture
def computed(monkeypatch):
    """How many images each call of an encoder had."""
    counts, maps = [], Backbone._maps

    def count(self, images):
        counts.append(len(images))
        return maps(self, images)

    monkeypatch.setattr(Backbone, "_maps", count)
    return counts


def logits(network, images):
    output = network(images)
    return output["logit"] if isinstance(output, dict) else output


def frozen(folder, name="stages"):
    torch.manual_seed(0)
    return freeze_backbone(NETWORKS[name](), folder)


@pytest.mark.parametrize("name", NETWORKS)
def test_values_are_those_of_the_ordinary_network(tmp_path, computed, name):
    network, images = frozen(tmp_path, name), torch.rand(3, 3, 64, 64)
    ordinary = NETWORKS[name]()
    ordinary.load_state_dict(network.state_dict())
    expected = logits(ordinary.eval(), images)
    network.eval()
    computed.clear()
    for _ in range(2):
        torch.testing.assert_close(logits(network, images), expected)
    assert computed == [3]


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_the_head_only(tmp_path, name):
    network = frozen(tmp_path, name).train()
    assert not any(module.training for module in network.backbone.modules())
    for _ in range(2):  # computed, then read
        network.zero_grad()
        logits(network, torch.full((2, 3, 64, 64), 0.3)).sum().backward()
        assert all(parameter.grad is None for parameter in network.backbone.parameters())
        assert all(parameter.grad is not None for parameter in network.head.parameters())


def test_only_what_is_missing_of_a_batch_is_computed(tmp_path, computed):
    network, images = frozen(tmp_path).eval(), torch.rand(4, 3, 64, 64)
    first = network(images[:2])
    torch.testing.assert_close(network(images)[:2], first)
    assert computed == [2, 2]
    network(images.flip(0).contiguous(memory_format=torch.channels_last))
    assert computed == [2, 2]
    changed = images.clone()
    changed[1, 0, 5, 5] += 1e-3
    network(changed)
    assert computed == [2, 2, 1]


def test_other_weights_are_computed_anew(tmp_path, computed):
    network, image = frozen(tmp_path).eval(), torch.rand(1, 3, 64, 64)
    before, state = network(image), network.state_dict()
    with torch.no_grad():
        network.backbone.conv1.weight[0, 0, 0, 0] += 1
    after = network(image)
    assert not torch.equal(before, after)
    network.load_state_dict({name: tensor * 1.1 for name, tensor in state.items()})
    network(image)
    assert computed == [1, 1, 1]
    network.head.bias.data += 1  # the head's are no business of the features
    network(image)
    assert computed == [1, 1, 1]


def test_another_network_or_precision_has_its_own_features(tmp_path, computed):
    network, image = frozen(tmp_path).eval(), torch.rand(1, 3, 64, 64)
    network(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(image).dtype == torch.bfloat16
    frozen(tmp_path, "tokens").eval()(image)
    assert computed == [1, 1, 1]


def test_images_that_need_gradients_are_computed(tmp_path, computed):
    """The loop of LoopNet learns through masks of the image."""
    network, image = frozen(tmp_path).eval(), torch.rand(1, 3, 64, 64)
    network(image)
    image.requires_grad_()
    network(image).sum().backward()
    assert image.grad.abs().sum() > 0
    assert computed == [1, 1]


def test_a_damaged_file_is_computed_again(tmp_path, computed):
    network, image = frozen(tmp_path).eval(), torch.rand(1, 3, 64, 64)
    expected = network(image)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    for _ in range(2):
        torch.testing.assert_close(network(image), expected)
    assert computed == [1, 1]


PROCESS = """
import sys, torch
from tests.networks.test_feature_cache import frozen
network = frozen(sys.argv[1]).eval()
images = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(3))
sys.stdin.readline()
print(sum(network(images[index : index + 4]).sum().item() for index in (0, 4, 8)))
"""


@pytest.mark.slow
def test_two_processes_share_a_folder(tmp_path):
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": BUNDLES.parent}
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    for process in both:
        process.stdin.write("\n")
        process.stdin.flush()
    one, other = (float(process.communicate(timeout=300)[0]) for process in both)
    assert one == pytest.approx(other, abs=1e-4)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 12
    assert not any(file.name.startswith(".") for file in files)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_is_none(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="expected a folder for features that can be written to, found"):
        freeze_backbone(BackboneClassifier("resnet18"), tmp_path / name)


def test_a_folder_that_cannot_be_written_to():
    with pytest.raises(InputError, match="expected a folder for features that can be written to, found"):
        freeze_backbone(BackboneClassifier("resnet18"), "/proc/features")


def test_a_network_without_a_backbone(tmp_path):
    with pytest.raises(InputError, match="expected a network over a pretrained backbone, found a CELNet"):
        freeze_backbone(CELNet(), tmp_path)


@pytest.fixture
def data(tmp_path):
    """Six images of either class, as patches and as tiles."""
    rng, items = np.random.default_rng(0), []
    for number in range(6):
        for label, name in enumerate(("negative", "positive")):
            path = tmp_path / "tiles" / name / f"s{number}" / f"{number}.png"
            path.parent.mkdir(parents=True)
            cv2.imwrite(str(path), rng.integers(100 - 50 * label, 200, (64, 64, 3), np.uint8))
            items.append({"image": str(path.relative_to(tmp_path)), "label": label, "group": f"s{number}"})
    (tmp_path / "dataset.json").write_text(json.dumps({"training": items[4:], "validation": items[:4], "test": []}))
    torch.manual_seed(1)
    torch.save(Backbone("resnet18").state_dict(), tmp_path / "backbone.pt")
    return tmp_path


KINDS = {
    "pathology_metastasis_evidence_localization": (("train", "pretrained"), "backbone_weights"),
    "pathology_nuclei_instance_segmentation": (("front",), "pretrained_weights"),
}


@pytest.mark.slow
@pytest.mark.parametrize("bundle", KINDS)
def test_a_training_computes_each_image_once(data, computed, bundle):
    """Its averaged copy, which is validated, too; afterwards the ordinary configuration takes the weights."""
    base, weights = KINDS[bundle]
    changes = {
        "bundle_root": str(data),
        "dataset_dir": str(data),
        "tiles_dir": str(data / "tiles"),
        "ckpt_dir": str(data / "models"),
        "backbone": "resnet18",
        weights: str(data / "backbone.pt"),
        "device": "cpu",
        "tile_size": 64,
        "batch_size": 4,
        "epochs": 4,
        **{f"augment#transforms#{number}#prob": 0.0 for number in (0, 1)},
    }

    def parsed(*names):
        parser = ConfigParser()
        parser.read_config(config_files(BUNDLES / bundle, *names))
        parser.update({name: value for name, value in changes.items() if name.partition("#")[0] in parser})
        return parser

    parser = parsed(*base, "frozen")
    lists = parser.get_parsed_content("datalist")
    computed.clear()
    parser.get_parsed_content("run")
    assert sum(computed) == len(lists["training"]) + len(lists["validation"])
    trained = parser.get_parsed_content("average").ema_model
    begun = torch.load(data / "backbone.pt", weights_only=True)
    torch.testing.assert_close(trained.backbone.state_dict(), begun, rtol=0, atol=0)
    ordinary = parsed(*base).get_parsed_content("network_def")
    assert not ordinary.backbone.frozen
    load_weights(ordinary, data / "models/model.pt")
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ordinary.eval()(images), trained.eval()(images))
    last = parser.get_parsed_content("network")
    assert not torch.equal(last.head.weight, trained.head.weight)  # the average is behind what learns


def test_colours_do_not_vary(data):
    """Turns and mirrors alone: eight variants of an image."""
    for bundle, (base, _) in KINDS.items():
        parser = ConfigParser()
        parser.read_config(config_files(BUNDLES / bundle, *base, "frozen"))
        parser.update({"bundle_root": str(data), "dataset_dir": str(data), "tiles_dir": str(data / "tiles")})
        parser["tile_size"] = 64
        dataset = parser.get_parsed_content("train#dataset")
        variants = {np.asarray(dataset[0]["image"]).tobytes() for _ in range(60)}
        assert 2 <= len(variants) <= 8


@pytest.mark.slow
def test_loopnet_computes_each_mosaic_once(tmp_path, computed):
    """Four epochs of the classification branch; then the loop, whose masked mosaics are computed."""
    write_vessels(tmp_path / "data", slides=6, vessels=1, invaded=0.5, radius=(60, 65))
    torch.manual_seed(1)
    torch.save(Backbone("timm:resnet10t").state_dict(), tmp_path / "backbone.pt")
    parser = ConfigParser()
    names = ("train", "quickstart", "pretrained", "frozen")
    parser.read_config(config_files(BUNDLES / "pathology_mvi_vessel_classification", *names))
    parser.update(
        {
            "bundle_root": str(tmp_path),
            "dataset_dir": str(tmp_path / "data"),
            "ckpt_dir": str(tmp_path / "models"),
            "backbone_weights": str(tmp_path / "backbone.pt"),
            "network_def#backbone": "timm:resnet10t",
            "device": "cpu",
            "val_interval": 1,
            "batch_size": 2,
            "stage1_epochs": 4,
            "stage2_epochs": 1,
            **{f"augment#transforms#{number}#prob": 0.0 for number in (0, 1)},
        }
    )
    training = len(parser.get_parsed_content("datalist")["training"])
    validation = sum(len(mosaics) for mosaics in parser.get_parsed_content("validate#dataset"))
    parser.get_parsed_content("run")
    once = training + validation
    assert once < sum(computed) <= once + training  # what the loop masks, beyond
    assert len(list((tmp_path / "runs/features").rglob("*.safetensors"))) == once
    network = parser.get_parsed_content("network")
    begun = torch.load(tmp_path / "backbone.pt", weights_only=True)
    torch.testing.assert_close(network.backbone.state_dict(), begun, rtol=0, atol=0)
