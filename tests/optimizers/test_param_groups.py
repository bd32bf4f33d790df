import torch
from torch import nn

from monai_ext.networks.nets.segmitos import SegMitosFCN
from monai_ext.optimizers.param_groups import caffe_param_groups


def test_biases_learn_twice_as_fast_and_do_not_decay():
    net = SegMitosFCN(8, width=1 / 64, fc_channels=2)
    weights, biases = caffe_param_groups(net, 1e-3, 5e-4)
    assert (weights["lr"], weights["weight_decay"]) == (1e-3, 5e-4)
    assert (biases["lr"], biases["weight_decay"]) == (2e-3, 0.0)
    assert {id(p) for g in (weights, biases) for p in g["params"]} == {id(p) for p in net.parameters()}
    assert len(weights["params"]) == len(biases["params"]) == 13 + 2 + 3
    assert all(p.ndim == 4 for p in weights["params"])
    assert all(p.ndim == 1 for p in biases["params"])


def test_frozen_parameters_stay_out():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[0].requires_grad_(requires_grad=False)
    weights, biases = caffe_param_groups(net, 1.0, 0.0)
    assert weights["params"][0] is net[1].weight
    assert biases["params"][0] is net[1].bias


def test_a_step():
    net = nn.Linear(1, 1)
    nn.init.ones_(net.weight)
    nn.init.ones_(net.bias)
    optimizer = torch.optim.SGD(caffe_param_groups(net, 0.1, 0.5), lr=0.1)
    net(torch.ones(1, 1)).sum().backward()  # both gradients are 1
    optimizer.step()
    assert torch.allclose(net.weight, torch.tensor(1 - 0.1 * (1 + 0.5)))
    assert torch.allclose(net.bias, torch.tensor(1 - 0.2))
