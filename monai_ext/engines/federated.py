"""Federated averaging over clients of MONAI (McMahan et al. 2017, algorithm 1), all in one process.

MONAI has the client, :class:`monai.fl.client.MonaiAlgo`, and leaves the server to platforms such as NVIDIA FLARE. This
is the server of a simulation, to test a federation before its sites are connected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from monai.fl.client import ClientAlgo
from monai.fl.utils.constants import WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor

from monai_ext.base.errors import InputError

__all__ = ["average_weights", "federated_round"]


def average_weights(states: Sequence[Mapping[str, Tensor]], samples: Sequence[int]) -> dict[str, Tensor]:
    """The mean of several networks, each counting by the number of images that it has seen.

    Args:
        states: their state dicts, with the same names and shapes.
        samples: one number for each, not all 0.

    Returns:
        a state dict in the types of the first; of counters, such as batch normalisation's, the rounded mean.

    Raises:
        InputError: no networks, networks that differ, or numbers that do not fit.
    """
    if not states or len(samples) != len(states) or min(samples) < 0 or sum(samples) == 0:
        raise InputError("samples", f"a number from 0 for each of {len(states)} networks", repr(list(samples)))
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes):
        raise InputError("states", "networks with the same names and shapes", "others")
    shares = [number / sum(samples) for number in samples]
    averaged = {}
    for name, first in states[0].items():
        mean = torch.stack([share * state[name].double() for share, state in zip(shares, states, strict=True)]).sum(0)
        averaged[name] = (mean if first.is_floating_point() else mean.round()).to(first.dtype)
    return averaged


def federated_round(
    sites: Sequence[ClientAlgo], weights: Mapping[str, Tensor], samples: Sequence[int]
) -> dict[str, Tensor]:
    """Send weights to every site, let it train, average what comes back.

    Args:
        sites: clients that are initialised and answer with weights (``send_weight_diff=False``).
        weights: a state dict.
        samples: the number of training images of each site.

    Returns:
        the new state dict.

    Raises:
        InputError: a site that answers with differences; see :func:`average_weights`.
    """
    answers = []
    for site in sites:
        site.train(ExchangeObject(weights=dict(weights)))
        answer = site.get_weights()
        if answer.weight_type != WeightType.WEIGHTS:
            raise InputError("sites", "clients with send_weight_diff=False", str(answer.weight_type))
        answers.append(answer.weights)
    return average_weights(answers, samples)
