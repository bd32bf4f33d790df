"""A final training of the mitosis bundle takes the validation list too, and validates nothing."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from monai.bundle import ConfigParser

from tests.configs import config_files

BUNDLE = Path(__file__).parents[2] / "bundles/pathology_mitosis_segmentation"


@pytest.fixture
def dataset(tmp_path):
    """Three fields to train on, two to validate on."""
    lists = {"training": range(3), "validation": range(3, 5), "test": []}
    for number in range(5):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((40, 40, 3), 200, np.uint8))
    items = {part: [{"image": f"{n}.png", "label": [[9, 9]], "group": str(n)} for n in lists[part]] for part in lists}

    def write(parts):
        (tmp_path / "dataset.json").write_text(json.dumps({part: items[part] for part in parts}))
        return tmp_path

    return write


def parsed(folder, *names):
    parser = ConfigParser()
    parser.read_config(config_files(BUNDLE, *names))
    parser["dataset_dir"] = str(folder)
    return parser


@pytest.mark.parametrize("below", [("train",), ("train", "paper_network", "paper")], ids=" + ".join)
def test_both_lists_are_trained_on(dataset, below):
    parser = parsed(dataset(["training", "validation"]), *below, "final")
    lists = parser.get_parsed_content("datalist")
    assert [Path(item["image"]).stem for item in lists["training"]] == ["0", "1", "2", "3", "4"]
    assert parser["train#state#evaluator"] is None


def test_an_empty_validation_list_will_do(dataset):
    lists = parsed(dataset(["training"]), "train", "final").get_parsed_content("datalist")
    assert len(lists["training"]) == 3
