"""Graph convolutions on a grid against the adjacency matrix and against torch_geometric."""

import itertools
import math

import pytest
import torch
from torch import nn
from torch_geometric.nn import GCNConv

from monai_ext.base.errors import InputError
from monai_ext.networks.blocks import GridGCN, GridGraphConv

ABS = 1e-5  # float32
GRIDS = [(1, 1), (1, 5), (2, 2), (4, 6), (20, 20)]


def edges(height, width):
    """Pairs of different places that touch, also at a corner."""
    steps = [step for step in itertools.product((-1, 0, 1), repeat=2) if step != (0, 0)]
    return [
        (i * width + j, (i + di) * width + j + dj)
        for i, j in itertools.product(range(height), range(width))
        for di, dj in steps
        if 0 <= i + di < height and 0 <= j + dj < width
    ]


def dense(layer, x):
    """Kipf and Welling's equation 2 with the whole adjacency matrix."""
    adjacency = torch.eye(x.shape[2] * x.shape[3], dtype=x.dtype)
    for a, b in edges(*x.shape[2:]):
        adjacency[a, b] = 1
    root = torch.diag(adjacency.sum(1) ** -0.5)
    nodes = x.flatten(2).transpose(1, 2)
    out = root @ adjacency @ root @ nodes @ layer.project.weight[:, :, 0, 0].T + layer.bias
    return out.transpose(1, 2).unflatten(2, x.shape[2:])


def layer(in_channels=7, out_channels=4):
    torch.manual_seed(0)
    made = GridGraphConv(in_channels, out_channels)
    nn.init.normal_(made.bias)
    return made


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_equals_the_adjacency_matrix(grid):
    conv, x = layer(), torch.randn(2, 7, *grid)
    torch.testing.assert_close(conv(x), dense(conv, x), rtol=0, atol=ABS)


@pytest.mark.parametrize("grid", GRIDS[1:], ids=str)
def test_equals_torch_geometric(grid):
    conv, x = layer(), torch.randn(1, 7, *grid)
    peer = GCNConv(7, 4, add_self_loops=True)
    peer.load_state_dict({"lin.weight": conv.project.weight[:, :, 0, 0], "bias": conv.bias})
    out = peer(x[0].flatten(1).T, torch.tensor(edges(*grid)).T)
    torch.testing.assert_close(conv(x)[0].flatten(1).T, out, rtol=0, atol=ABS)


def test_gradient():
    conv = layer(2, 3).double()
    assert torch.autograd.gradcheck(conv, torch.randn(1, 2, 3, 4, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("turn", [lambda x: x.flip(2), lambda x: x.flip(3), lambda x: x.transpose(2, 3)])
def test_has_no_direction(turn):
    conv, x = layer(), torch.randn(1, 7, 5, 6)
    torch.testing.assert_close(conv(turn(x)), turn(conv(x)), rtol=0, atol=ABS)


def test_a_constant_grid_keeps_its_inside():
    """Where all nodes around have the same degree the rule is a plain mean."""
    conv = layer()
    x = torch.randn(1, 7, 1, 1).expand(-1, -1, 6, 6)
    expected = conv.project(x) + conv.bias[:, None, None]
    torch.testing.assert_close(conv(x)[:, :, 2:4, 2:4], expected[:, :, 2:4, 2:4], rtol=0, atol=ABS)


def test_the_head_of_the_paper():
    """Three layers 2048-512-128-3; BatchNorm, ReLU and dropout of .2 and .1 between them (section 5.1)."""
    head = GridGCN()
    between = [nn.BatchNorm2d, nn.ReLU, nn.Dropout]
    assert [type(part) for part in head] == [GridGraphConv, *between, GridGraphConv, *between, GridGraphConv]
    convs = [part for part in head if isinstance(part, GridGraphConv)]
    assert [tuple(conv.project.weight.shape[1::-1]) for conv in convs] == [(2048, 512), (512, 128), (128, 3)]
    assert [part.p for part in head if isinstance(part, nn.Dropout)] == [0.2, 0.1]
    bound = math.sqrt(6 / (2048 + 512))
    assert 0.9 * bound < convs[0].project.weight.abs().max() <= bound
    assert head.eval()(torch.randn(2, 2048, 5, 5)).shape == (2, 3, 5, 5)


def test_bad_dropout():
    with pytest.raises(InputError, match="dropout: expected 1 probabilities"):
        GridGCN((4, 2, 3), (0.2, 0.1))
