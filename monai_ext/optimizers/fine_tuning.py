"""Learning rates for a network that begins from a pretrained backbone."""

from __future__ import annotations

from typing import Any

from torch import nn

from monai_ext.base.errors import InputError

__all__ = ["fine_tuning_groups"]


def fine_tuning_groups(
    network: nn.Module,
    learning_rate: float,
    weight_decay: float = 0.0,
    backbone_rate: float = 0.1,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Two speeds: what begins at random learns at the full rate, the pretrained backbone at a share of it.

    Args:
        network: has a ``backbone``; or such a network in ``DistributedDataParallel``.
        learning_rate: of all but the backbone, whose group comes first.
        weight_decay: of all weights.
        backbone_rate: the backbone's rate by ``learning_rate``; 0 freezes it.
        layer_decay: the rate of each layer of the backbone by that of the layer behind it (Clark et al. 2020; .65 to
            .9 for transformers): the stem belongs to the first numbered layer, what is not numbered to the one before;
            ``None`` for one rate in all layers.

    Returns:
        groups for a ``torch.optim`` optimizer.

    Raises:
        InputError: a network without backbone; a rate below 0; a decay outside (0, 1].
    """
    network = network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network
    backbone = getattr(network, "backbone", None)
    if not isinstance(backbone, nn.Module):
        raise InputError("fine_tuning_groups", "a network with a backbone", f"a {type(network).__name__}")
    if not backbone_rate >= 0:
        raise InputError("backbone_rate", "a number of at least 0", repr(backbone_rate))
    if layer_decay is not None and not 0 < layer_decay <= 1:
        raise InputError("layer_decay", "a number above 0 and up to 1", repr(layer_decay))
    if backbone_rate == 0:
        backbone.requires_grad_(False)
    pretrained = {id(parameter) for parameter in backbone.parameters()}
    others = [p for p in network.parameters() if p.requires_grad and id(p) not in pretrained]
    groups = [{"params": others, "lr": learning_rate, "weight_decay": weight_decay}]
    rate = learning_rate * backbone_rate
    layers = _layers(backbone) if layer_decay is not None else [list(backbone.parameters())]
    for depth, layer in enumerate(reversed(layers)):
        trained = [parameter for parameter in layer if parameter.requires_grad]
        groups.append({"params": trained, "lr": rate * (layer_decay or 1) ** depth, "weight_decay": weight_decay})
    return [group for group in groups if group["params"]]


def _layers(backbone: nn.Module) -> list[list[nn.Parameter]]:
    """Its parameters by numbered layer, the first one with the stem, the last one with what is behind it."""
    layers: dict[tuple[str, ...], list[nn.Parameter]] = {}
    stem: list[nn.Parameter] = []
    for name, parameter in backbone.named_parameters():
        parts = name.split(".")
        number = next((index for index, part in enumerate(parts) if part.isdigit()), None)
        if number is not None:
            layers.setdefault(tuple(parts[: number + 1]), []).append(parameter)
        else:
            (layers[next(reversed(layers))] if layers else stem).append(parameter)
    first, *others = layers.values() or [[]]
    return [stem + first, *others]
