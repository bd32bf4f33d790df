from itertools import pairwise

import pytest
import timm
import torch
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.optimizers import fine_tuning_groups


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.backbone(x).mean((2, 3)))


def rates(network, groups):
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {names[id(parameter)]: group["lr"] for group in groups for parameter in group["params"]}


def test_the_backbone_learns_at_a_share_of_the_rate():
    network = Network()
    groups = fine_tuning_groups(network, 0.01, 0.05, backbone_rate=0.1)
    found = rates(network, groups)
    assert set(found) == {name for name, _ in network.named_parameters()}
    assert found == pytest.approx({name: 0.001 if "backbone" in name else 0.01 for name in found})
    assert [group["lr"] for group in groups] == pytest.approx([0.01, 0.001])
    assert all(group["weight_decay"] == 0.05 for group in groups)


def test_both_speeds_follow_the_warm_up():
    network = Network()
    optimizer = torch.optim.AdamW(fine_tuning_groups(network, 0.01, backbone_rate=0.1))
    schedule = WarmupCosineSchedule(optimizer, warmup_steps=2, t_total=10, warmup_multiplier=0.1)
    seen = []
    for _ in range(3):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert seen == [pytest.approx([0.001, 0.0001]), pytest.approx([0.0055, 0.00055]), pytest.approx([0.01, 0.001])]


def test_rate_0_freezes_the_backbone():
    network = Network()
    optimizer = torch.optim.SGD(fine_tuning_groups(network, 0.1, backbone_rate=0))
    before = {name: value.clone() for name, value in network.named_parameters()}
    network(torch.randn(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_deeper_layers_learn_slower():
    network = Network()
    found = rates(network, fine_tuning_groups(network, 1.0, 0.1, backbone_rate=0.5, layer_decay=0.5))
    assert set(found) == {name for name, _ in network.named_parameters()}
    assert found["head.weight"] == 1
    assert [found[f"backbone.{number}.weight"] for number in range(3)] == [0.125, 0.25, 0.5]


def test_layers_of_a_transformer_of_timm():
    network = Network()
    network.backbone = nn.Module()
    network.backbone.network = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    found = rates(network, fine_tuning_groups(network, 1.0, 0.1, backbone_rate=1, layer_decay=0.75))
    assert set(found) == {name for name, _ in network.named_parameters()}
    assert found["backbone.network.pos_embed"] == found["backbone.network.blocks.0.norm1.weight"]
    assert found["backbone.network.norm.weight"] == 1
    blocks = [found[f"backbone.network.blocks.{number}.attn.qkv.weight"] for number in range(12)]
    assert [later / sooner for sooner, later in pairwise(blocks)] == pytest.approx([1 / 0.75] * 11)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"backbone_rate": -1}, "at least 0"), ({"layer_decay": 0}, "above 0"), ({"layer_decay": 1.5}, "up to 1")],
)
def test_impossible_rates(options, expected):
    with pytest.raises(InputError, match=expected):
        fine_tuning_groups(Network(), 0.1, **options)


def test_a_network_without_backbone():
    with pytest.raises(InputError, match=r"expected a network with a backbone, found a Linear"):
        fine_tuning_groups(nn.Linear(2, 2), 0.1)
