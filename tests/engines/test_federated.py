"""Averaging of networks by hand, and a round over sites that need no data."""

import pytest
import torch
from monai.fl.client import ClientAlgo
from monai.fl.utils.constants import WeightType
from monai.fl.utils.exchange_object import ExchangeObject
from torch import nn

from monai_ext.base.errors import InputError
from monai_ext.engines import average_weights, federated_round

TOLERANCE = 1e-7


class Site(ClientAlgo):
    """Adds a number to every weight."""

    def __init__(self, step, kind=WeightType.WEIGHTS):
        self.step, self.kind = step, kind

    def train(self, data, extra=None):
        self.weights = {name: value + self.step for name, value in data.weights.items()}

    def get_weights(self, extra=None):
        return ExchangeObject(weights=self.weights, weight_type=self.kind)


def test_each_counts_by_its_samples():
    states = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([3.0, -2.0])}]
    torch.testing.assert_close(average_weights(states, [3, 1])["a"], torch.tensor([1.5, 1.0]), rtol=0, atol=TOLERANCE)
    assert torch.equal(average_weights(states, [0, 7])["a"], states[1]["a"])


def test_types_and_counters_stay():
    states = [nn.BatchNorm1d(2).half().state_dict(), nn.BatchNorm1d(2).half().state_dict()]
    states[1]["num_batches_tracked"] += 3
    averaged = average_weights(states, [1, 2])
    assert averaged["num_batches_tracked"] == 2
    assert {name: value.dtype for name, value in averaged.items()} == {n: v.dtype for n, v in states[0].items()}


def test_a_mean_of_equals_is_exact():
    state = nn.Linear(3, 5).state_dict()
    averaged = average_weights([state] * 3, [1, 5, 7])
    for name, value in state.items():
        torch.testing.assert_close(averaged[name], value, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("samples", [[1], [1, -1], [0, 0], [1, 1, 1]])
def test_numbers_that_do_not_fit(samples):
    with pytest.raises(InputError, match="samples: expected a number from 0 for each of 2 networks"):
        average_weights([{"a": torch.ones(1)}] * 2, samples)


def test_networks_that_differ():
    with pytest.raises(InputError, match="the same names and shapes"):
        average_weights([{"a": torch.ones(1)}, {"b": torch.ones(1)}], [1, 1])
    with pytest.raises(InputError, match="for each of 0 networks"):
        average_weights([], [])


def test_a_round():
    found = federated_round([Site(1), Site(5)], {"a": torch.zeros(2)}, [3, 1])
    torch.testing.assert_close(found["a"], torch.full((2,), 2.0), rtol=0, atol=TOLERANCE)


def test_differences_are_refused():
    with pytest.raises(InputError, match="send_weight_diff=False"):
        federated_round([Site(1, WeightType.WEIGHT_DIFF)], {"a": torch.zeros(2)}, [1])
