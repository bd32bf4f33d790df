"""LoopNet: a step of stage 2 against one of stage 1, and the grid's graph convolutions against torch_geometric's.

The bar of a step is 2.2 times, with half of the vessels invaded as in the phantom; in the paper, a sixth of them are.
``MONAI_EXT_BACKBONE`` sets the backbone (resnet18; the paper's is resnet50).
"""

import os

import pytest
import torch
from monai.data import DataLoader, Dataset
from pytorch_optimizer import Ranger
from torch_geometric.nn import GCNConv

from monai_ext.engines import LoopbackTrainer
from monai_ext.losses import GHMCLoss
from monai_ext.networks.blocks import GridGraphConv
from monai_ext.networks.nets import LoopNet

BACKBONE = os.environ.get("MONAI_EXT_BACKBONE", "resnet18")
VESSELS, SIDE, GRID = 4, 640, 20
NODES = 2048, 512  # features before and after the first layer of the paper's locating head


def trainer(stage):
    """One whose every run is an epoch of one step in the stage."""
    torch.manual_seed(0)
    network = LoopNet(BACKBONE, GRID).to(memory_format=torch.channels_last)
    items = [
        {
            "image": torch.randn(3, SIDE, SIDE),
            "label": torch.tensor([number % 2.0]),
            "cells": torch.rand(1, GRID, GRID) < 0.7,
        }
        for number in range(VESSELS)
    ]
    loader = DataLoader(Dataset(items), batch_size=VESSELS)
    optimizer = Ranger(network.parameters(), lr=1e-3, weight_decay=5e-4, degenerated_to_sgd=True)
    stage1_epochs = 10**6 if stage == 1 else 0
    return LoopbackTrainer("cpu", 0, loader, network, optimizer, GHMCLoss(), stage1_epochs)


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.benchmark(group=f"LoopNet ({BACKBONE}), step over {VESSELS} mosaics of {SIDE} px")
def test_step(benchmark, stage):
    engine = trainer(stage)

    def step():
        engine.state.max_epochs += 1
        engine.run()

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
    assert engine.stage == stage
    assert engine.state.iteration == engine.state.max_epochs


@pytest.fixture(scope="module")
def grids():
    return torch.randn(4, NODES[0], GRID, GRID)


def ours(grids):
    layer = GridGraphConv(*NODES)
    return lambda: layer(grids)


def torch_geometric(grids):
    layer = GCNConv(*NODES)
    place = torch.arange(GRID * GRID)
    row, col = place // GRID, place % GRID
    near = torch.maximum((row[:, None] - row).abs(), (col[:, None] - col).abs()) == 1
    edges = torch.cat([near.nonzero().T + number * GRID * GRID for number in range(len(grids))], dim=1)
    return lambda: layer(grids.permute(0, 2, 3, 1).reshape(-1, NODES[0]), edges)


@pytest.mark.parametrize("peer", [ours, torch_geometric], ids=lambda f: f.__name__)
@pytest.mark.benchmark(group=f"graph convolution of 4 grids of {GRID} x {GRID}, {NODES[0]} to {NODES[1]} features")
def test_graph_convolution(benchmark, grids, peer):
    call = peer(grids)

    def step():
        call().sum().backward()

    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
