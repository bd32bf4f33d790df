"""Every bundle under MONAI's federated client: two sites, each with half of the data, and a round of averaging."""

import json
import shutil

import pytest
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject

from monai_ext.engines import federated_round

TOLERANCE = 1e-6
ROUNDS = 4  # in all; the test runs the first
FEDERATED = "configs/overlays/training/fl.json"
TRAIN = ["configs/train.json", "configs/quickstart.json", FEDERATED]
EVALUATE = ["configs/train.json", "configs/quickstart.json", "configs/evaluate.json", FEDERATED]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.dear("mitosis"),
    pytest.mark.filterwarnings("ignore:executing the bundle config:UserWarning"),  # our own
]


def site(place, folder, number):
    """A client with about two thirds of the data, or with the rest."""
    name = f"site{number}"
    shutil.copytree(place.data, folder / name)
    lists = json.loads((place.data / "dataset.json").read_text())
    for split, items in lists.items():
        if isinstance(items, list):
            cut = -max(1, len(items) // 3)
            lists[split] = items[cut:] if number else items[:cut]
    (folder / name / "dataset.json").write_text(json.dumps(lists))
    options = {"dataset_dir": str(folder / name), "ckpt_dir": str(folder / f"{name}_models"), "device": "cpu"}
    client = MonaiAlgo(
        bundle_root=str(place.folder),
        send_weight_diff=False,
        config_train_filename=TRAIN,
        train_kwargs={**options, "epochs": ROUNDS},
        config_evaluate_filename=EVALUATE,
        eval_kwargs={**options, "split": "validation", "output_dir": str(folder / f"{name}_eval")},
    )
    client.initialize({ExtraItems.CLIENT_NAME: name})
    return client, len(lists["training"])


def test_a_round_of_two_sites(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place.folder)
    clients, samples = zip(*(site(place, tmp_path, number) for number in range(2)), strict=True)
    assert samples[0] > samples[1] > 0
    begin = {name: value.clone() for name, value in clients[0].get_weights().weights.items()}

    averaged = federated_round(clients, begin, samples)

    trained = [client.get_weights().weights for client in clients]
    assert any(not torch.equal(trained[0][name], trained[1][name]) for name in begin)
    for name, value in averaged.items():
        if value.is_floating_point():
            by_hand = (samples[0] * trained[0][name] + samples[1] * trained[1][name]) / sum(samples)
            torch.testing.assert_close(value, by_hand, rtol=TOLERANCE, atol=TOLERANCE)
    for client in clients:
        assert client.trainer.optimizer.param_groups[0]["lr"] > 0  # a schedule of one round would have ended
        assert client.trainer.state.epoch == 1
        found = client.evaluate(ExchangeObject(weights=averaged)).metrics
        assert all(torch.equal(value, averaged[name]) for name, value in client.evaluator.network.state_dict().items())
        assert found
        assert all(isinstance(value, float) for value in found.values())
        client.finalize()
