"""The networks that CELNet is compared with, as the bundle's overlays make them."""

from pathlib import Path

import pytest
import torch
import torchvision
from monai.bundle import ConfigParser
from torch import nn

CONFIGS = Path(__file__).parents[2] / "bundles/pathology_metastasis_evidence_localization/configs"
BASE = {"network_def": {"_target_": "monai_ext.networks.nets.CELNet", "attention": "mam", "window": 96}}


def overlay(name):
    parser = ConfigParser(dict(BASE))
    parser.update(ConfigParser.load_config_file(CONFIGS / f"{name}.json"))
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
