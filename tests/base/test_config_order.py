import json
from itertools import permutations

import pytest

from monai_ext.base.config_order import check_order
from monai_ext.base.errors import InputError

OVER = {
    "train": None,
    "network": ["train", "inference"],
    "paper": ["train + network"],
    "stage": ["train + network", "inference + network"],
    "rate": ["train + network + paper"],
    "evaluate": ["train", "train + network"],
    "mine": None,
}


@pytest.fixture
def files(tmp_path):
    for name, over in OVER.items():
        content = {} if over is None else {"_over_": over}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return lambda names: [str(tmp_path / f"{name}.json") for name in names]


@pytest.mark.parametrize(
    "stack",
    [
        "train network paper stage rate",
        "train network stage paper rate",
        "train network paper rate stage",
        "train evaluate network stage",
        "mine network paper",  # another one's base
        "mine rate",
        "train",
    ],
)
def test_orders_that_stand(stack, files):
    check_order(files(stack.split()))


def test_orders_that_undo(files):
    with pytest.raises(InputError, match=r"rate\.json: expected to stand after \S*paper\.json in --config_file"):
        check_order(files(["train", "network", "rate", "paper"]))
    with pytest.raises(InputError, match=r"network\.json: expected to stand after \S*train\.json"):
        check_order(files(["network", "train"]))


def test_whatever_the_order_either_it_is_refused_or_all_stand_on_their_base(files):
    names = ("train", "network", "paper", "stage", "rate")
    allowed = set()
    for order in permutations(names):
        try:
            check_order(files(order))
        except InputError:
            continue
        allowed.add(order)
    assert allowed == {
        ("train", "network", *rest)
        for rest in permutations(("paper", "stage", "rate"))
        if rest.index("rate") > rest.index("paper")
    }
