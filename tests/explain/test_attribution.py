"""What attributions say of a network whose evidence is known, and how they are scored."""

import json

import pandas as pd
import pytest
import torch
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.explain.attribution import METHODS, _with_own_modules, attribute
from monai_ext.networks.nets import LoopNet
from monai_ext.reports.attribution import attribution_report

GRID, PATCH = 4, 8
REL = 1e-4


class RedPatches(nn.Module):
    """LoopNet's parts: the redder a patch, the more it speaks for an invaded vessel; white speaks for neither."""

    def __init__(self):
        super().__init__()
        self.grid = GRID
        self.backbone = nn.Sequential(nn.Conv2d(3, 2, PATCH, PATCH), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1))
        with torch.no_grad():
            red = torch.tensor([[1.0, -1, 0], [-1, 1, 0]]) / PATCH**2
            self.backbone[0].weight.copy_(red[..., None, None].expand(2, 3, PATCH, PATCH))
            self.backbone[0].bias.zero_()
            self.head[2].weight.copy_(torch.tensor([[8.0, -8]]))
            self.head[2].bias.fill_(-0.5)

    def features(self, images):
        return self.backbone(images)

    def classify(self, features):
        return self.head(features)

    def forward(self, images, locate=True):
        features = self.features(images)
        p_loc = torch.cat([0 * features[:, :1] + 0.1, features[:, 1:], features[:, :1]], 1)
        return {"logit": self.classify(features), **({"p_loc": p_loc} if locate else {})}


def mosaic(red, seed=0):
    image = 0.9 + 0.02 * torch.rand(1, 3, GRID * PATCH, GRID * PATCH, generator=torch.Generator().manual_seed(seed))
    for row, col in red:
        image[:, 1:, row * PATCH : (row + 1) * PATCH, col * PATCH : (col + 1) * PATCH] = 0.1
    return image


@pytest.mark.parametrize("method", METHODS)
def test_red_patches_are_found(method):
    torch.manual_seed(0)
    network, red = RedPatches().train(), [(0, 2), (3, 1)]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    map_ = attribute(network, mosaic(red), method, blank=1.0)
    assert map_.shape == (1, 1, GRID, GRID)
    assert not map_.requires_grad
    assert (map_ >= 0).all()
    found = map_[0, 0] > 0.5 * map_.max()
    assert found.nonzero().tolist() == [list(at) for at in red]
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("backbone", ["resnet10", "resnet18"])
def test_deeplift_s_copy_computes_the_same_with_a_module_a_call(backbone):
    torch.manual_seed(0)
    network = LoopNet(backbone, grid=2).eval()
    classifier = nn.Sequential(network.backbone, network.head)
    copy, images = _with_own_modules(classifier), torch.rand(2, 3, 64, 64)
    targets = [node.target for node in copy.graph.nodes if node.op == "call_module"]
    assert len(set(targets)) == len(targets)
    torch.testing.assert_close(copy(images), classifier(images), rtol=REL, atol=REL)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_the_small_network(method):
    torch.manual_seed(0)
    map_ = attribute(LoopNet("resnet10", grid=2, hidden=(8, 4)), torch.rand(1, 3, 64, 64), method)
    assert map_.shape == (1, 1, 2, 2)
    assert map_.isfinite().all()


def test_another_method_is_refused():
    with pytest.raises(InputError, match="cam or ss_cam or deeplift or lrp"):
        attribute(RedPatches(), mosaic([]), "gradients")


class Mosaics(list):
    """Vessels, each a list of mosaics."""

    def add(self, name, label, red, classes, blank=(), missed=0):
        truth = torch.tensor(classes).view(1, GRID, GRID)
        order = torch.arange(GRID**2)
        order[list(blank)] = -1
        item = {"image": mosaic(red)[0], "label": torch.tensor([float(label)]), "classes": truth, "missed": missed}
        item |= {"order": order.view(1, GRID, GRID), "file": f"{name}.png", "group": name[0]}
        vessel = next((vessel for vessel in self if vessel[0]["file"] == item["file"]), None)
        if vessel is None:
            self.append([item])
        else:
            vessel.append(item)


def test_methods_and_the_network_are_judged_on_the_same_grids(tmp_path):
    truth = [1] * GRID**2
    truth[2] = truth[13] = 2  # (0, 2) and (3, 1)
    data = Mosaics()
    data.add("a1", 1, [(0, 2), (3, 1)], truth)
    data.add("a2", 0, [(0, 0)], [1] * GRID**2)  # healthy: not judged
    data.add("b1", 1, [(0, 2)], [-100] * GRID**2, missed=-1)  # nobody marked its cells
    data.add("b2", 1, [(0, 2), (2, 2)], truth)
    # two mosaics: (2, 2) of the second is blank, and a cancerous patch is in neither
    data.add("c1", 1, [(0, 2), (3, 1)], truth, missed=1)
    data.add("c1", 1, [(0, 2), (2, 2)], truth, blank=[10], missed=1)
    table = attribution_report(RedPatches(), data, tmp_path, ["cam", "lrp"], blank=1.0)
    assert table["method"].value_counts().to_dict() == {"LoopNet": 3, "cam": 3, "lrp": 3}
    by_image = table.set_index(["image", "method"])
    for method in ("LoopNet", "cam", "lrp"):
        assert by_image.loc[("a1.png", method), ["tp", "fp", "fn"]].tolist() == [2, 0, 0]
        assert by_image.loc[("b2.png", method), ["tp", "fp", "fn"]].tolist() == [1, 1, 1]
        assert by_image.loc[("c1.png", method), ["tp", "fp", "fn"]].tolist() == [3, 0, 2]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["cam"]["dice"]["value"] == pytest.approx((1 + 0.5 + 0.75) / 3)
    assert metrics["vessels"] == 3
    assert len(pd.read_csv(tmp_path / "attributions.csv")) == 9
    assert "<html" in (tmp_path / "report.html").read_text()


def test_without_marked_cells_nothing_can_be_judged(tmp_path):
    data = Mosaics()
    data.add("a1", 1, [], [-100] * GRID**2, missed=-1)
    with pytest.raises(InputError, match="whose cancerous cells were marked"):
        attribution_report(RedPatches(), data, tmp_path)
