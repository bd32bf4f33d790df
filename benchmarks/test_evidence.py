"""CELM of 64 patches against a plain forward and backward pass, and against MONAI's classes one patch at a time."""

import copy

import pytest
import torch
from monai.visualize import GradCAM, GuidedBackpropGrad

from monai_ext.networks.nets import CELNet
from monai_ext.visualize import EvidenceMap

PATCHES, SIDE = 64, 96


@pytest.fixture(scope="module")
def network():
    return CELNet().eval().to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def patches():
    return torch.randn(PATCHES, 3, SIDE, SIDE).to(memory_format=torch.channels_last)


def forward_backward(network, patches):
    """As in training: the gradient of every weight."""
    network.zero_grad()
    network(patches).sum().backward()


def gradient_of_input(network, patches):
    """The least that any saliency map costs: no weight's gradient."""
    image = patches.clone().requires_grad_()
    return torch.autograd.grad(network(image).sum(), image)


def evidence(network, patches):
    return EvidenceMap(network)(patches)["celm"]


def monai_one_by_one(network, patches):
    """Three passes for each patch, without the fusion."""
    network = copy.deepcopy(network)  # the classes leave their hooks behind
    cams = [GradCAM(network, layer) for layer in ("stage2", "stage3")]
    guided = GuidedBackpropGrad(network)
    for patch in patches.split(1):
        for cam in cams:
            cam(patch, class_idx=0)
        guided(patch.detach().clone(), index=0)


@pytest.mark.parametrize(
    "way", [forward_backward, gradient_of_input, evidence, monai_one_by_one], ids=lambda f: f.__name__
)
@pytest.mark.benchmark(group=f"evidence of {PATCHES} patches")
def test_evidence(benchmark, network, patches, way):
    benchmark.pedantic(
        way,
        args=(network, patches),
        rounds=2 if way is monai_one_by_one else 7,
        warmup_rounds=int(way is not monai_one_by_one),
    )
