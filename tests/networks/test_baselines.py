"""The networks that CELNet is compared with, as the bundle's overlays make them."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from monai.bundle import ConfigParser
from torch import nn

from monai_ext.tuning.common import read_bundle
from monai_ext.visualize import EvidenceMap
from tests.configs import config_file, config_files

BUNDLE = Path(__file__).parents[2] / "bundles/pathology_metastasis_evidence_localization"
BASE = {"network_def": {"_target_": "monai_ext.networks.nets.CELNet", "attention": "mam", "window": 96}}


def overlay(name):
    parser = ConfigParser(dict(BASE))
    parser.update(ConfigParser.load_config_file(config_file(BUNDLE, name)))
    return parser.get_parsed_content("network_def")


def count(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"), [("resnet18", 11_169_345), ("densenet", 897_401), ("p4m_densenet", 118_128)]
)
def test_overlay(name, parameters):
    net = overlay(name)
    assert count(net) == parameters
    assert net(torch.rand(2, 3, 96, 96)).shape == (2, 1)


def test_resnet18_is_the_usual_one_but_for_its_stem():
    """11.2M parameters, 12 x 12 cells for a patch of 96 px (Huang and Chung 2019, Tables 1 and 3)."""
    net = overlay("resnet18").eval()
    usual = torchvision.models.resnet18(num_classes=1)
    usual.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    assert sorted(p.shape for p in net.parameters()) == sorted(p.shape for p in usual.parameters())
    assert round(count(net) / 1e5) == 112
    seen = []
    net.layer4.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape)))
    net(torch.rand(1, 3, 96, 96))
    assert seen == [(1, 512, 12, 12)]


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    """Four patches to train on, two to validate, as a data set."""
    folder = tmp_path_factory.mktemp("patches")
    rng = np.random.default_rng(0)
    content = {"training": [], "validation": [], "test": []}
    for index, part in enumerate(["training"] * 4 + ["validation"] * 2):
        name = f"{index}.png"
        cv2.imwrite(str(folder / name), rng.integers(0, 256, (96, 96, 3), dtype=np.uint8))
        content[part].append({"image": name, "label": index % 2, "group": name})
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "overlays",
    [
        [],
        ["no_attention"],
        ["cbam"],
        ["no_deep_supervision"],
        ["resnet18"],
        ["densenet"],
        ["p4m_densenet"],
        ["paper_camelyon16"],
    ],
    ids=lambda names: names[0] if names else "celnet",
)
def test_rows_of_the_papers_tables_train_and_show_evidence(overlays, patches, tmp_path):
    """An epoch of the paper's recipe, then every map of what was trained."""
    files = config_files(BUNDLE, "train", "paper_pcam", *overlays)
    small = {"epochs": 1, "batch_size": 2, "device": torch.device("cpu"), "cache_rate": 0.0}
    parser = read_bundle("test", BUNDLE, files, {"dataset_dir": str(patches), "ckpt_dir": str(tmp_path), **small})
    network = parser.get_parsed_content("network")
    before = {name: value.clone() for name, value in network.named_parameters()}
    parser.get_parsed_content("run")
    assert [math.isfinite(entry["loss"]) for entry in json.loads((tmp_path / "history.json").read_text())] == [True]
    assert all(not torch.equal(value, before[name]) for name, value in network.named_parameters())
    (group,) = parser.get_parsed_content("optimizer").param_groups
    recipe = {"lr": 1e-4, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-5}
    assert {name: group[name] for name in recipe} == recipe

    layers = parser.get_parsed_content("evidence_layers")
    evidence, image = EvidenceMap(network, **layers), torch.rand(1, 3, 96, 96)
    maps = evidence(image)
    names = ["cam3", "cam", "csm", "celm", *(["cam2"] if layers["fine"] else [])]
    assert {tuple(maps[name].shape) for name in names} == {tuple(evidence.backprop(image).shape)} == {(1, 1, 96, 96)}
    assert set(maps) == {"logits", *names}
