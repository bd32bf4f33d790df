"""Where a classifier sees its nuclei: layer-wise relevance propagation, attention rollout, class activation maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torchvision.models.swin_transformer import ShiftedWindowAttention

from monai_ext.base.errors import InputError
from monai_ext.explain.evidence import in_evaluation

if TYPE_CHECKING:
    from zennit.core import Composite

    from monai_ext.networks.blocks import Backbone
    from monai_ext.networks.nets import CyclicClassifier

__all__ = ["attention_rollout", "class_activation", "lrp_relevance", "relevance"]

# what the rules of lrp_relevance are made for, besides sums; dropout does nothing in evaluation
_PROPAGATED = (
    *(nn.Conv2d, nn.Linear, _BatchNorm, nn.ReLU, nn.ReLU6, nn.Identity, nn.Dropout, nn.MaxPool2d),
    *(nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)


def relevance(network: CyclicClassifier, images: Tensor, target: int | Tensor | None = None, margin: int = 0) -> Tensor:
    """What each pixel adds to a score, by the method that the backbone calls for (section V-E2).

    Args:
        network: the front end.
        images: ``(B, 3, H, W)``, as it takes them.
        target: the class to explain, see :func:`lrp_relevance`; attention knows no classes.
        margin: px that images are mirrored beyond their edges for the computation. Without any, as in the paper, the
            relevance that convolutions have for padding crowds on the pixels at the edge, most in the corners, where
            it may be the maximum that seeds are measured by.

    Returns:
        float32 ``(B, H, W)``: :func:`lrp_relevance` for networks of convolutions, ReLU and sums (ResNets,
        EfficientNet-Lite); for torchvision's Swin :func:`attention_rollout` less 1, so that what is positive is
        attended to more than evenly; for all others :func:`class_activation`.

    Raises:
        InputError: a margin below 0, or not smaller than the images.
    """
    height, width = images.shape[2:]
    if not 0 <= margin < min(height, width):
        raise InputError("relevance margin", f"px from 0 to below {min(height, width)}", repr(margin))
    images = F.pad(convert_to_tensor(images, track_meta=False), (margin,) * 4, mode="reflect")
    if any(isinstance(module, ShiftedWindowAttention) for module in network.modules()):
        relevances = attention_rollout(network.backbone, images) - 1
    elif all(isinstance(module, _PROPAGATED) for module in network.modules() if not any(module.children())):
        relevances = lrp_relevance(network, images, target)
    else:
        relevances = class_activation(network, images, target)
    return relevances[:, margin : margin + height, margin : margin + width]


def lrp_relevance(network: nn.Module, images: Tensor, target: int | Tensor | None = None) -> Tensor:
    """Propagate a class' score to the pixels (Bach et al. 2015; Zhou et al. 2023, section III-A).

    The rules are zennit's ``EpsilonPlusFlat``: alpha-beta with alpha 1 and beta 0 (z+) in convolutions, epsilon in the
    linear head, flat in the first convolution and in depthwise ones (of their nine terms often none is positive, and
    z+ loses 95 % of a pretrained EfficientNet-Lite0's score; this is our reading), in proportion to the terms in sums and means. Batch normalisation is
    made part of the convolution before it, and the sums of residual blocks are made layers, for the time of the call.

    Biases of convolutions take no relevance and that of the head keeps its own, so the relevance of an image sums to
    the score less the head's bias. What is missing, .1 % or less, went to units that nothing but their bias made
    active, and to the 1e-6 that zennit adds to what it divides by.

    The network's state is restored: weights, mode, ``requires_grad``, gradients, hooks. Works inside
    ``torch.no_grad`` and ``torch.inference_mode``, and in float32 also under autocast. Not for use in two threads.

    Args:
        network: a :class:`CyclicClassifier`, or another network of convolutions and residual sums, whose pooling,
            activations and head are modules; gives logits ``(B, classes)``.
        images: ``(B, 3, H, W)`` float, as the network takes them.
        target: the class to explain, a number or one for each image, ``(B,)``; ``None`` for the predicted one. The
            logit is explained, before softmax.

    Returns:
        float32 ``(B, H, W)``, signed, summed over the colours.

    Raises:
        InputError: a transformer, to which these rules do not apply.
    """
    if any(isinstance(module, ShiftedWindowAttention) for module in network.modules()):
        raise InputError("lrp_relevance", "a convolutional network", "a Swin transformer (see attention_rollout)")
    if any(isinstance(module, nn.LayerNorm) for module in network.modules()):
        raise InputError("lrp_relevance", "a convolutional network", "layer normalisation (see class_activation)")
    with _computing(network, images), torch.enable_grad(), _rules().context(network):
        pixels = convert_to_tensor(images, track_meta=False).detach().clone().requires_grad_()
        with _SumsAsLayers():
            logits = network(pixels)
        classes = logits.argmax(1) if target is None else torch.as_tensor(target, device=logits.device)
        classes = classes.long().expand(len(logits))[:, None]
        scores = torch.zeros_like(logits).scatter(1, classes, logits.detach().gather(1, classes))
        (relevances,) = torch.autograd.grad(logits, pixels, scores)  # zennit's hooks make relevance of the gradient
    return relevances.sum(1)


def _rules() -> Composite:
    """Zennit's rules, with batch normalisation merged without rest."""
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import EpsilonPlusFlat
    from zennit.rules import Epsilon, Flat

    class MergeBatchNorm(SequentialMergeBatchNorm):
        """Zennit leaves the normalisation its epsilon, and so a factor to each layer; and it overlooks timm's
        normalisation, which has an activation inside.
        """  # noqa: D205

        def apply(self, root_module: nn.Module) -> list[MergeBatchNorm]:
            instances, last = [], None
            for module in root_module.modules():
                if isinstance(module, _BatchNorm) and isinstance(last, nn.Conv2d):
                    instances.append(self.copy())
                    instances[-1].register((last,), module)
                if isinstance(module, _BatchNorm) or not any(module.children()):
                    last = module
            return instances

        def register(self, linears: Sequence[nn.Module], batch_norm: nn.Module) -> None:
            super().register(linears, batch_norm)
            self.eps, batch_norm.eps = batch_norm.eps, 0.0

        def remove(self) -> None:
            super().remove()
            self.batch_norm.eps = self.eps

    layers = [(nn.Linear, Epsilon()), (_Depthwise, Flat())]
    return EpsilonPlusFlat(zero_params="bias", layer_map=layers, canonizers=[MergeBatchNorm()])


class _IsDepthwise(type):
    """Convolutions within their channels, for zennit, which chooses rules by class."""

    def __instancecheck__(cls, module: object) -> bool:
        return isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1


class _Depthwise(metaclass=_IsDepthwise):
    pass


class _SumsAsLayers(TorchFunctionMode):
    """Makes a layer of each sum of two maps, be it torchvision's or timm's, so that zennit can give it a rule."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        from zennit.layer import Sum
        from zennit.rules import Norm

        if func in _ADDITIONS and all(isinstance(term, Tensor) and term.requires_grad for term in args):
            layer = Sum()
            Norm().register(layer)
            return layer(torch.stack(args, dim=-1))
        return func(*args, **(kwargs or {}))


_ADDITIONS = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__)


def class_activation(network: CyclicClassifier, images: Tensor, target: int | Tensor | None = None) -> Tensor:
    """What each place of the last map adds to a score (Zhou et al. 2016), for any backbone.

    The head is linear in the mean of the map, or of a plain transformer's tokens, so this is exact: where the stride
    divides the images' sides, the map sums to the score less the head's bias. It is as coarse as the stride.

    Args:
        network: the front end.
        images: ``(B, 3, H, W)``, as it takes them.
        target: see :func:`lrp_relevance`.

    Returns:
        float32 ``(B, H, W)``, signed, interpolated bilinearly.
    """
    with _computing(network, images), torch.no_grad():
        features = network.features(convert_to_tensor(images, track_meta=False))
        logits = network.classify(features)
        classes = logits.argmax(1) if target is None else torch.as_tensor(target, device=logits.device)
        weights = network.head.weight[classes.long().expand(len(logits))]
        grid = torch.einsum("bchw,bc->bhw", features, weights)
    stride = network.backbone.stride if network.backbone.is_plain else 32
    share = F.interpolate(grid[:, None], scale_factor=stride, mode="bilinear", align_corners=False)
    share = share[:, 0, : images.shape[2], : images.shape[3]]
    return share.float() / (grid[0].numel() * stride**2)


def attention_rollout(backbone: Backbone, images: Tensor) -> Tensor:
    """How much of what the last stage's mean is made of comes from each place (Abnar and Zuidema 2020, eq. 1).

    Our reading for windows and stages: in each block the weights of the heads are averaged, and half of them counts,
    as the residual path passes the other half, ``(A + I) / 2``. The product of all blocks' matrices is not formed: the
    shares of the last stage's tokens, which are equal, are led back through one block after the other, window by
    window as they were shifted, and where a stage ends each token's share goes to the four tokens it was merged from
    in equal parts. Attention to padding is left out.

    Args:
        backbone: a Swin transformer.
        images: ``(B, 3, H, W)`` float, as it takes them.

    Returns:
        float32 ``(B, H, W)``, at least 0: shares of the tokens of 4 px, relative to even ones (their mean is 1),
        interpolated bilinearly.

    Raises:
        InputError: another backbone.
    """
    blocks = [module for module in backbone.modules() if isinstance(module, ShiftedWindowAttention)]
    if not blocks:
        raise InputError("attention_rollout", "a Swin transformer", f"a {backbone.name}")
    attention, grids = _Softmaxes(), []
    with _computing(backbone, images), torch.no_grad(), ExitStack() as stack:
        for block in blocks:
            hook = block.register_forward_hook(lambda _, __, out: grids.append(tuple(out.shape[1:3])))
            stack.callback(hook.remove)
        with attention:
            backbone(convert_to_tensor(images, track_meta=False))
    share = images.new_ones((len(images), *grids[-1]), dtype=torch.float32)
    for block, weights, (rows, columns) in reversed(list(zip(blocks, attention.weights, grids, strict=True))):
        if share.shape[1:] != (rows, columns):  # behind this block tokens were merged, two by two
            share = share.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, :rows, :columns]
        share = (_lead_back(share, weights, block) + share) / 2
    share = share / share.mean((1, 2), keepdim=True)
    rollout = F.interpolate(share[:, None], scale_factor=4, mode="bilinear", align_corners=False)
    missing = [whole - part for whole, part in zip(images.shape[2:], rollout.shape[2:], strict=True)]
    return F.pad(rollout, (0, missing[1], 0, missing[0]), mode="replicate")[:, 0]  # less than a token


class _Softmaxes(TorchFunctionMode):
    """Keeps every softmax that is computed inside, ``(windows, heads, T, T)``, averaged over the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is F.softmax:
            self.weights.append(out.mean(1))
        return out


@contextmanager
def _computing(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Evaluation mode, float32, no inference mode."""
    with torch.inference_mode(False), torch.autocast(images.device.type, enabled=False), in_evaluation(network):
        yield


def _lead_back(share: Tensor, weights: Tensor, block: ShiftedWindowAttention) -> Tensor:
    """The shares ``(B, H, W)`` of a block's outputs, given to its inputs by its weights ``(B * windows, T, T)``."""
    tokens = _places(share.shape[1:], block).to(share.device)
    inside = F.pad(share.flatten(1), (0, 1))[:, tokens]  # padding has no share
    received = torch.einsum("bwi,bwij->bwj", inside, weights.view(*inside.shape, -1))
    moved = share.new_zeros(len(share), share[0].numel() + 1)
    moved[:, tokens] = received  # each token is in one window; what goes to padding is dropped
    return moved[:, :-1].view_as(share)


def _places(grid: tuple[int, int], block: ShiftedWindowAttention) -> Tensor:
    """The tokens ``(windows, T)`` that each window of a block holds, by their number; their count for padding."""
    (rows, columns), (height, width) = grid, block.window_size
    number = torch.arange(rows * columns).view(rows, columns)
    number = F.pad(number, (0, -columns % width, 0, -rows % height), value=rows * columns)
    # as in torchvision: along a side of one window nothing is shifted
    steps = [
        step * (side > window)
        for step, side, window in zip(block.shift_size, number.shape, (height, width), strict=True)
    ]
    number = number.roll([-step for step in steps], (0, 1))
    return number.unfold(0, height, height).unfold(1, width, width).reshape(-1, height * width)
