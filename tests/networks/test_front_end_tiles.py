"""The front end on tiles that experts marked, of any size: what it is trained, chosen and scored on."""

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from monai.bundle import ConfigParser

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_nuclei_instance_segmentation"
SIZE = 64
FRONT = "configs/overlays/phase/front.json"
EVALUATE = "configs/overlays/evaluation/evaluate_front.json"


@pytest.fixture
def marked(tmp_path):
    """Six slides, each with a large tile with dark discs and a small one without; crops of it all: 6 and 1 a slide."""
    folder = tmp_path / "tiles"
    for slide in range(6):
        rng = np.random.default_rng(slide)
        for name, shape in (("positive", (100, 150, 3)), ("negative", (40, 60, 3))):
            image = rng.integers(200, 230, shape, np.uint8)
            if name == "positive":
                for row in range(10, 100, 20):
                    for col in range(10, 150, 20):
                        cv2.circle(image, (col, row), 5, (150, 70, 90), -1)
            path = folder / name / f"s{slide}" / f"{slide}.png"
            path.parent.mkdir(parents=True)
            cv2.imwrite(str(path), image)
    return folder


def parsed(marked, *configs, **changes):
    parser = ConfigParser()
    parser.read_config([str(BUNDLE / name) for name in configs])
    parser.update({"tiles_dir": str(marked), "tile_size": SIZE, "device": "cpu", "bundle_root": str(marked), **changes})
    return parser


def test_training_and_validation_are_of_crops(marked):
    """All of each tile, in batches of one size, neither one crop nor the whole tile."""
    parser = parsed(marked, FRONT, batch_size=4)
    tiles = parser.get_parsed_content("datalist")
    for part, split in (("train", "training"), ("validate", "validation")):
        crops = parser.get_parsed_content(f"{part}#dataset")
        assert len(crops) == sum(6 if item["label"] else 1 for item in tiles[split])
        assert {tuple(crop["image"].shape) for crop in crops} == {(3, SIZE, SIZE)}
        assert sum(crop["label"] for crop in crops) == 6 * sum(item["label"] for item in tiles[split])
    sizes = [len(batch["image"]) for batch in parser.get_parsed_content("train#dataloader")]
    assert set(sizes) == {4}


def test_a_training_crop_is_drawn_anew_and_a_validation_crop_is_not(marked):
    parser = parsed(marked, FRONT)
    train, validate = (parser.get_parsed_content(f"{part}#dataset") for part in ("train", "validate"))
    assert any(not np.allclose(train[0]["image"], train[0]["image"]) for _ in range(3))
    assert np.allclose(validate[0]["image"], validate[0]["image"])


@pytest.mark.slow
@pytest.mark.parametrize("over", [(), ("configs/overlays/paper/paper_front.json",)], ids=["ours", "paper"])
def test_the_f1_of_the_test_list(marked, tmp_path, over):
    """Table IV: crops of the test tiles, none of which was trained on or chosen by."""
    common = {"ckpt_dir": str(tmp_path / "front"), "backbone_weights": None}
    steps = {"epochs": 3, "batch_size": 8, "learning_rate": 0.02, "average#momentum": 0.5}
    parsed(marked, FRONT, *over, **common, **steps).get_parsed_content("run")
    out = tmp_path / "eval"
    parser = parsed(marked, FRONT, *over, EVALUATE, **common, output_dir=str(out))
    parser.get_parsed_content("run")
    metrics, scores = json.loads((out / "metrics.json").read_text()), pd.read_csv(out / "scores.csv")
    test = parser.get_parsed_content("datalist")["test"]
    assert set(scores["group"]) == {item["group"] for item in test}
    assert len(scores) == metrics["images"] == sum(6 if item["label"] else 1 for item in test)
    predicted = scores["score"] > 0.5
    tp, wrong = int((predicted & (scores["label"] == 1)).sum()), int((predicted != (scores["label"] == 1)).sum())
    assert metrics["f1"]["value"] == pytest.approx(2 * tp / (2 * tp + wrong))
    assert metrics["f1"]["groups"] == scores["group"].nunique()
    assert scores["score"].between(0, 1).all()
