"""The classifiers of the distillation bundle as its configurations make and train them."""

import json
from pathlib import Path

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigParser

from tests.configs import config_files
from tests.nuclei import planted

BUNDLE = Path(__file__).parents[2] / "bundles/pathology_cell_semantic_segmentation"
TEACHERS = {
    "teacher": (11_170_371, 32),
    "resnet16": (6_449_731, 16),
    "vgg4": (2_137_923, 16),
    "xception": (20_813_099, 16),
    "student": (1_512_355, 32),
    "finetune": (1_512_355, 32),
}
QUICK = {"patch_size": 16, "epochs": 2, "batch_size": 16, "device": "cpu", "bundle_root": str(BUNDLE)}


def read(*names):
    parser = ConfigParser()
    parser.read_config(config_files(BUNDLE, "classify", *names))
    return parser


@pytest.mark.parametrize("name", TEACHERS)
def test_networks(name):
    parser = read(name)
    parser.update({"class_names": ["other", "immune", "muscle"]})
    network = parser.get_parsed_content("network_def")
    parameters, size = TEACHERS[name]
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert parser["patch_size"] == size
    assert parser["scales"] == ([1, 2, 4] if size == 16 else None)


def test_the_papers_numbers():
    parser = read()
    assert (parser["epochs"], parser["batch_size"], parser["learning_rate"]) == (30, 64, 6e-5)
    assert (parser["loss"]["_target_"], parser["balance"]) == ("torch.nn.CrossEntropyLoss", 0)
    assert parser["optimizer"]["_target_"] == "torch.optim.Adam"
    assert (read("student")["soft"], read("student")["selection_annotation"]) == (0, "ssa")


def train(folder, name, *overlays, **changes):
    files = config_files(BUNDLE, "classify", *overlays)
    settings = {**QUICK, "dataset_dir": str(folder / "data"), "ckpt_dir": str(folder / name), **changes}
    monai.bundle.run(config_file=files, **settings)
    return json.loads((folder / name / "history.json").read_text())


def test_a_stopped_training_ends_as_an_undisturbed_one(tmp_path):
    planted(tmp_path / "data")
    whole = train(tmp_path, "whole", "augment_cells", epochs=3)
    train(tmp_path, "stopped", "augment_cells", epochs=1)
    assert train(tmp_path, "stopped", "augment_cells", epochs=3, resume=True) == whole
    weights = [torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("whole", "stopped")]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_evaluation_of_a_network_and_its_own_truth(tmp_path):
    planted(tmp_path / "data")
    train(tmp_path, "a", epochs=4, learning_rate=1e-3)
    folder = tmp_path / "eval"
    found = []
    for split, truth in (("test", "ssa"), ("test", "ea"), ("all", "ea")):
        files = config_files(BUNDLE, "classify", "evaluate_cells")
        where = {"dataset_dir": str(tmp_path / "data"), "ckpt_dir": str(tmp_path / "a"), "output_dir": str(folder)}
        monai.bundle.run(config_file=files, **{**QUICK, **where, "split": split, "truth": truth})
        found.append(json.loads((folder / "metrics.json").read_text())["nuclei"])
    assert found == [23, 18, 4 * 18]
