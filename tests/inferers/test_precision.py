"""Half precision, asked for by a command line."""

import pytest
import torch

from monai_ext.base.errors import InputError
from monai_ext.inferers import Precision


@pytest.mark.parametrize(
    ("amp", "bfloat16", "device", "expected"),
    [
        (True, False, "cuda", (True, False, True)),
        ("false", "false", "cpu", (False, False, False)),
        (False, "True", "cpu", (False, True, True)),
        (False, True, torch.device("cuda", 1), (False, False, True)),
        ("true", True, "cpu", (True, True, True)),
    ],
)
def test_of_both_options(amp, bfloat16, device, expected):
    precision = Precision(amp, device, bfloat16)
    assert (precision.amp, precision.cpu, precision.autocast) == expected


@pytest.mark.parametrize(("options", "name"), [({"amp": "no"}, "amp"), ({"cpu_bfloat16": "16"}, "cpu_bfloat16")])
def test_what_is_neither_true_nor_false_is_refused(options, name):
    with pytest.raises(InputError, match=f"{name}: expected true or false"):
        Precision(**{"amp": False, "device": "cpu", **options})
