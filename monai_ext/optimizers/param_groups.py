"""Caffe's habit of treating biases apart."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["caffe_param_groups"]


def caffe_param_groups(network: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Weights as they are, biases at twice the learning rate and without decay, as in FCN's ``train.prototxt``.

    Args:
        network: whose trainable parameters are grouped.
        lr: learning rate of the weights.
        weight_decay: decay of the weights.

    Returns:
        two groups for a ``torch.optim`` optimizer.
    """
    named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
    return [
        {"params": [p for n, p in named if not n.endswith("bias")], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for n, p in named if n.endswith("bias")], "lr": 2 * lr, "weight_decay": 0.0},
    ]
