"""The table that ``benchmarks/pretraining.py`` makes of finished trainings."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from monai.bundle import ConfigParser

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("pretraining", ROOT / "benchmarks/pretraining.py")
pretraining = importlib.util.module_from_spec(SPEC)
sys.modules["pretraining"] = pretraining  # dataclasses look there for what annotations name
SPEC.loader.exec_module(pretraining)

F1 = {"random": [0.2, 0.4, 0.3], "pretrained": [0.5, 0.6, 0.7]}


@pytest.fixture
def runs(tmp_path):
    """Three seeds of the mitosis bundle, and a fourth whose other arm is still missing."""
    for arm, values in F1.items():
        for seed, value in enumerate([*values, 0.0][: 3 if arm == "random" else 4]):
            folder = tmp_path / f"mitosis/{arm}_{seed}"
            (folder / "validation").mkdir(parents=True)
            (folder / "history.json").write_text(json.dumps([{"epoch": 1, "f1": 0.0}, {"epoch": 2, "f1": value}]))
            hits = round(10 * value)
            rows = [{"image": f"{i}.png", "group": i, "tp": hits, "fp": 0, "fn": 10 - hits} for i in range(4)]
            pd.DataFrame(rows).to_csv(folder / "validation/scores.csv", index=False)
            (folder / "done.json").write_text("{}")
    return tmp_path


def test_differences_are_paired_by_seed(runs):
    text = pretraining.table(str(runs))
    rows = json.loads((runs / "pretraining.json").read_text())["rows"]
    assert [(row["bundle"], row["measure"], row["seeds"], row["images"]) for row in rows] == [
        ("mitosis", "f1", 3, 4),
        ("mitosis", "F1", 3, 4),
    ]
    assert rows[0]["difference"] == pytest.approx(0.3)
    # differences .3, .2, .4: a standard error of .1 / sqrt(3), and 4.303 of them to either side
    assert rows[0]["high"] - rows[0]["difference"] == pytest.approx(4.3027 * 0.1 / np.sqrt(3), rel=1e-4)
    pooled = [np.mean([2 * f / (f + 1) for f in F1[arm]]) for arm in pretraining.ARMS]
    assert rows[1]["difference"] == pytest.approx(pooled[1] - pooled[0])
    assert rows[1]["images_low"] == pytest.approx(rows[1]["difference"])  # all fields are alike
    assert (
        "| mitosis | f1 | 0.300 (0.200, 0.400, 0.300) | 0.600 (0.500, 0.600, 0.700) | 0.300 [0.052, 0.548] | - |"
        in text
    )
    assert (runs / "pretraining.md").read_text() == text


@pytest.mark.parametrize("name", list(pretraining.BUNDLES))
def test_the_arms_differ_in_the_weights_alone(name, tmp_path):
    """And every option is an entry of the files that it goes with."""
    parts = {
        arm: list(pretraining.part(name, "data", arm, 1, tmp_path / f"{name}/{arm}_1")) for arm in pretraining.ARMS
    }
    bundle = pretraining.BUNDLES[name]
    for number, ((files, random), (others, pretrained)) in enumerate(zip(*parts.values(), strict=True)):
        assert files == others
        changed = {option for option in {*random, *pretrained} if random.get(option) != pretrained.get(option)}
        assert changed - {"ckpt_dir", "output_dir"} == ({bundle.weights} if number == 0 else set())
        parser = ConfigParser()
        parser.read_config([ROOT / "bundles" / bundle.folder / file for file in files])
        for option in random:
            assert option in parser, option
