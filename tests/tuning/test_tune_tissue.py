"""What tissue a bundle's weights know, made by its own inference."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from monai_ext.base.errors import InputError
from monai_ext.networks import TissueCheck
from monai_ext.networks.nets import CELNet
from monai_ext.tuning import tune_tissue

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_metastasis_evidence_localization"
SMALL = {"network_def": {"_target_": "monai_ext.networks.nets.CELNet", "channels": [8, 8, 8], "blocks": 1}}


def patch(rng, colour=(150, 90, 160)):
    noise = cv2.GaussianBlur(rng.normal(0, 1, (96, 96, 3)), (0, 0), 3) * 150
    return (np.array(colour) + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    rng, lists = np.random.default_rng(0), {}
    for name, count in (("training", 12), ("validation", 8)):
        lists[name] = []
        for number in range(count):
            path = tmp_path / f"{name}{number}.png"
            cv2.imwrite(str(path), patch(rng))
            lists[name].append({"image": path.name, "mpp": 1.0})
    cv2.imwrite(str(tmp_path / "glass.png"), np.full((96, 96, 3), 245, np.uint8))
    lists["training"].append({"image": "glass.png", "mpp": 1.0})
    (tmp_path / "dataset.json").write_text(json.dumps(lists))
    torch.manual_seed(0)
    (tmp_path / "models").mkdir()
    torch.save(CELNet(channels=(8, 8, 8), blocks=1).state_dict(), tmp_path / "models" / "model.pt")
    return tmp_path


def test_file_is_made_of_both_lists_and_belongs_to_the_weights(folder, capsys):
    path = tune_tissue(str(folder), str(BUNDLE), ckpt_dir=str(folder / "models"), outside=0.125, **SMALL)
    assert path == str(folder / "models" / "tissue.npz")
    assert "32 features of 12 training tiles; 12% of 8 validation tiles are outside, 0 of 8" in capsys.readouterr().out
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
    assert about["training"] == {"images": 13, "tiles": 12}
    assert about["validation"] == {"images": 8, "tiles": 8}
    assert (about["layers"], about["tile"], about["outside"], about["limit"]) == (["stem", "stage1"], 96, 0.125, 0.5)
    network = CELNet(channels=(8, 8, 8), blocks=1)
    network.load_state_dict(torch.load(folder / "models" / "model.pt", weights_only=True))
    assert TissueCheck(path, network, ["stem", "stage1"], 96).reason == ""


@pytest.mark.parametrize(("name", "value"), [("outside", 0), ("outside", 1.0), ("limit", 2)])
def test_shares_are_between_0_and_1(name, value, folder):
    with pytest.raises(InputError, match=f"tune tissue --{name}: expected a share between 0 and 1"):
        tune_tissue(str(folder), str(BUNDLE), **{name: value})


def test_lists_without_tissue(folder):
    lists = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(
        json.dumps({**lists, "validation": lists["training"][-1:], "training": lists["training"][:-1]})
    )
    with pytest.raises(InputError, match="expected tissue in the validation list, found 0 tiles of it"):
        tune_tissue(str(folder), str(BUNDLE), ckpt_dir=str(folder / "models"), **SMALL)
