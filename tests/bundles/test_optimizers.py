"""Every optimiser that a shipped configuration names goes downhill from its first step."""

import json
from itertools import pairwise

import pytest
import torch
from monai.bundle import ConfigParser

from tests.bundles.conftest import BUNDLES
from tests.configs import config_files, configurations

STEPS = 5  # in the sixth Lookahead goes half of the way back


def named():
    """Bundle, configurations in their order, and key of all optimisers that are named in them."""
    for bundle in BUNDLES:
        for path in configurations(bundle):
            content = json.loads(path.read_text())
            stack = content["_over_"][0].split(" + ") if content.get("_over_") else []
            for key, value in content.items():
                if isinstance(value, dict) and {"_target_", "params"} <= value.keys():
                    yield pytest.param(bundle, [*stack, path.stem], key, id=f"{bundle.name}-{path.stem}")


CASES = list(named())


def test_all_bundles_name_one():
    assert {case.values[0] for case in CASES} == set(BUNDLES)


@pytest.mark.parametrize(("folder", "stack", "key"), CASES)
def test_the_first_steps_descend(folder, stack, key):
    """Of half of the square of x; pytorch_optimizer's Ranger climbed, as its settings stood."""
    x = torch.nn.Parameter(torch.tensor([5.0], dtype=torch.float64))
    parser = ConfigParser()
    parser.read_config(config_files(folder, *stack))
    # decay alone would go downhill too
    parser[key] = parser[key] | {"params": [x]} | {name: 0.0 for name in ("weight_decay",) if name in parser[key]}
    optimizer = parser.get_parsed_content(key)
    path = [x.item()]
    for _ in range(STEPS):
        optimizer.zero_grad()
        (x.square() / 2).sum().backward()
        optimizer.step()
        path.append(x.item())
    assert all(after < before for before, after in pairwise(path)), path
