"""Attribution as a way to locate cancerous cells: what LoopNet is compared with (Zhang et al. 2023, Table 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from monai_ext.base.errors import InputError
from monai_ext.explain.lrp import lrp_relevance
from monai_ext.networks.nets.loopnet import LoopNet

__all__ = ["METHODS", "attribute"]

_AT_ONCE = 16  # masked images in a batch


def _cam(network: LoopNet, images: Tensor, blank: Tensor) -> Tensor:  # noqa: ARG001 - one signature for all
    """Class activation map (Zhou et al. 2016), its weights the mean gradients, which for one linear layer are these."""
    features = network.features(images)
    (gradient,) = torch.autograd.grad(network.classify(features).sum(), features)
    return (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True)


def _ss_cam(network: LoopNet, images: Tensor, blank: Tensor, samples: int = 4, sigma: float = 2.0) -> Tensor:
    """Smoothed Score-CAM (Naidu and Michael 2020): channels weigh what the score is where their activation is noisy.

    The paper takes 35 samples; they cost a pass of the network for each channel and sample.
    """
    maps = []
    with torch.no_grad():
        for image, features in zip(images, network.features(images), strict=True):
            weights = []
            for channels in features[:, None].split(_AT_ONCE):
                scores = torch.zeros(len(channels), device=image.device)
                for _ in range(samples):
                    noisy = channels + sigma * torch.randn_like(channels)
                    low, high = noisy.amin((1, 2, 3), keepdim=True), noisy.amax((1, 2, 3), keepdim=True)
                    masks = F.interpolate((noisy - low) / (high - low), image.shape[1:], mode="bilinear")
                    masked = blank + (image - blank) * masks
                    scores += network(masked, locate=False)["logit"].sigmoid().squeeze(1) / samples
                weights.append(scores)
            maps.append((torch.cat(weights)[:, None, None] * features).sum(0, keepdim=True))
    return torch.stack(maps)


def _deeplift(network: LoopNet, images: Tensor, blank: Tensor) -> Tensor:
    """DeepLIFT's rescale rule (Shrikumar et al. 2017) by captum, against a blank mosaic."""
    from captum.attr import DeepLift

    classifier = _with_own_modules(nn.Sequential(network.backbone, network.head))
    return DeepLift(classifier).attribute(images, baselines=blank.expand_as(images), target=0).sum(1, keepdim=True)


def _lrp(network: LoopNet, images: Tensor, blank: Tensor) -> Tensor:  # noqa: ARG001 - one signature for all
    """Layer-wise relevance propagation (Bach et al. 2015); see :func:`lrp_relevance`."""
    classifier = nn.Sequential(network.backbone, network.head)
    with torch.no_grad():
        sign = classifier(images).sign()  # relevance sums to the logit: signs turn if it is below 0
    return lrp_relevance(classifier, images, 0)[:, None] * sign[..., None, None]


METHODS: Mapping[str, Callable[..., Tensor]] = {"cam": _cam, "ss_cam": _ss_cam, "deeplift": _deeplift, "lrp": _lrp}
"""The methods of Table 2 by name; what it calls CAM is the smoothed one."""


def attribute(network: LoopNet, images: Tensor, method: str, blank: float | Sequence[float] = 0.0) -> Tensor:
    """How much each patch speaks for an invaded vessel.

    Args:
        network: LoopNet, whose classification branch is explained. Its state is restored.
        images: mosaics ``(B, 3, H, W)``, as it takes them.
        method: one of :data:`METHODS`.
        blank: the network's input at a blank cell, one for all channels or one for each; the baseline of DeepLIFT,
            and what SS-CAM's masks fade to.

    Returns:
        float32 ``(B, 1, grid, grid)``, at least 0: the mean over a patch of what is positive.

    Raises:
        InputError: another method.
    """
    if method not in METHODS:
        raise InputError("attribution", " or ".join(METHODS), repr(method))
    blank = torch.as_tensor(blank, dtype=images.dtype, device=images.device).reshape(-1, 1, 1)
    with _explained(network), torch.enable_grad():
        relevance = METHODS[method](network, images, blank)
    return F.adaptive_avg_pool2d(relevance.detach().float().clamp(min=0), network.grid)


@contextmanager
def _explained(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    try:
        network.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training


def _with_own_modules(network: nn.Module) -> nn.Module:
    """A copy in which every call has a module of its own: DeepLIFT cannot tell the calls of one ReLU apart."""
    traced = fx.symbolic_trace(deepcopy(network).eval())
    used: set[str] = set()
    for number, node in enumerate(traced.graph.nodes):
        if node.op != "call_module":
            continue
        if node.target in used:
            copy = deepcopy(traced.get_submodule(node.target))
            parent, _, name = str(node.target).rpartition(".")
            node.target = f"{parent}.{name}_{number}" if parent else f"{name}_{number}"
            traced.add_submodule(node.target, copy)
        used.add(node.target)
    for module in traced.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    traced.recompile()
    return traced
