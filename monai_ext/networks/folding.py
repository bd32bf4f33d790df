"""Normalisation as a part of the convolution before it: fewer passes over memory where nothing is trained."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["fold_normalization"]

_EXAMPLE = (1, 3, 64, 96)  # small, as a run over one image begins with it too
_AGREE = 1e-3  # of the largest result, or of 1 if that is less


def fold_normalization(network: nn.Module, layers: Sequence[str] = ()) -> nn.Module:
    """A copy of a network for inference, its batch normalisation a part of the convolutions.

    Which normalisation follows which convolution is seen in a pass over random pixels, so that it does not matter how
    the network is written; activations right after them then work in place. The copy gives the same but for the last
    bits: it is compared with the network on those pixels.

    Args:
        network: of one tensor ``(B, 3, H, W)`` in, any results out; or an
            :class:`~monai_ext.networks.nets.InstanceBackEnd`, of which ``compute_dense`` is looked at.
        layers: names of modules, of a mapping ``module:key``, that are listened to: these give what they gave.

    Returns:
        the copy, in evaluation mode; the network itself where nothing can be folded, as TorchScript, or if the results
        differ. What is asked for a second time, of maps or of weights, is not folded.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from monai_ext.networks import fold_normalization
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> fold_normalization(network)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
          (2): ReLU(inplace=True)
        )
    """
    if isinstance(network, torch.jit.ScriptModule) or not any(isinstance(x, nn.BatchNorm2d) for x in network.modules()):
        return network
    folded = copy.deepcopy(network).eval()
    parameter = next(folded.parameters())
    images = torch.rand(_EXAMPLE, generator=torch.Generator().manual_seed(0)).to(parameter.device, parameter.dtype)
    try:
        expected, pairs, activations = _watch(folded, images, layers)
    except Exception:  # a network of other images than these: whatever it says of them, it can be used as it is
        return network
    for before, after in pairs:
        _fold(folded, before, after)
    for name in activations:
        folded.get_submodule(name).inplace = True
    return folded if pairs and _agree(_run(folded, images), expected) else network


class _Uses(TorchDispatchMode):
    """Counts how often each tensor is asked for, by its address, by whatever computes."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self.kept: list[Any] = []  # all of them, lest an address is used again

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count.update(id(each) for each in _tensors([*args, *(kwargs or {}).values()]))
        result = func(*args, **(kwargs or {}))
        self.kept.append((args, kwargs, result))
        return result


@torch.no_grad()
def _run(network: nn.Module, images: Tensor) -> list[Tensor]:
    return list(_tensors(getattr(network, "compute_dense", network)(images)))


def _watch(
    network: nn.Module, images: Tensor, layers: Sequence[str]
) -> tuple[list[Tensor], list[tuple[str, str]], list[str]]:
    """What a network gives, its pairs of a convolution and a normalisation, and the activations right after them."""
    passed: list[tuple[str, Any, Any]] = []
    modules = {name: module for name, module in network.named_modules() if name}

    def note(name: str) -> Any:
        return lambda _, inputs, output: passed.append((name, inputs[0] if inputs else None, output))

    hooks = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    try:
        with _Uses() as uses:
            expected = _run(network, images)
    finally:
        for hook in hooks:
            hook.remove()
    calls = Counter(name for name, _, _ in passed)
    listened = {name.partition(":")[0] for name in layers}
    once = {tensor for tensor, count in uses.count.items() if count == 1}
    once -= {id(each) for name, _, output in passed if name in listened for each in _tensors(output)}
    convolved: dict[int, str] = {}
    normalised: set[int] = set()
    pairs, activations = [], []
    for name, entered, left in passed:
        module, source = modules[name], convolved.get(id(entered))
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and calls[name] == 1 and id(left) in once:
            convolved[id(left)] = name
        elif isinstance(module, nn.BatchNorm2d) and source and calls[name] == 1 and module.track_running_stats:
            pairs.append((source, name))
            normalised.add(id(left))
        elif getattr(module, "inplace", None) is False and id(entered) in normalised & once:
            activations.append(name)
    return expected, pairs, activations


def _fold(network: nn.Module, before: str, after: str) -> None:
    convolution, normalization = network.get_submodule(before), network.get_submodule(after)
    device, dtype = convolution.weight.device, convolution.weight.dtype
    # in float64, which gives the same last bits on all processors, and which not every device computes in
    pair = (each.cpu().double() for each in (convolution, normalization))
    folded = fuse_conv_bn_eval(*pair, isinstance(convolution, nn.ConvTranspose2d))
    _put(network, before, folded.to(device, dtype))
    # timm's normalisation holds the activation that follows
    _put(network, after, getattr(normalization, "act", nn.Identity()))


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)


def _agree(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    return all(
        bool((one - other).abs().max() <= _AGREE * other.abs().max().clamp(min=1))
        for one, other in zip(found, expected, strict=True)
    )


def _tensors(results: Any) -> Iterator[Tensor]:
    """All tensors of nested results."""
    if isinstance(results, Tensor):
        yield results
    elif isinstance(results, Mapping | list | tuple):
        for each in results.values() if isinstance(results, Mapping) else results:
            yield from _tensors(each)
