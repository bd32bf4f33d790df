"""The threshold of verdicts on slides, chosen on the validation list, and where it is read."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from monai.bundle import ConfigParser

from monai_ext.base.errors import InputError
from monai_ext.phantom import write_vessels
from monai_ext.tuning import DEFAULT_VERDICT, read_verdict, tune_vessels
from tests.configs import config_files

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_mvi_vessel_classification"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four slides for validation, two of them free."""
    folder = tmp_path_factory.mktemp("verdict")
    small = {"slides": 6, "vessels": 1, "radius": (60, 62), "invaded": 1.0, "free": 0.5}
    path = write_vessels(folder / "data", **small)
    content = json.loads(path.read_text())
    content["validation"], content["training"] = content["training"], content["validation"]
    path.write_text(json.dumps(content))
    shutil.copytree(BUNDLE / "models", folder / "models", ignore=shutil.ignore_patterns("thresholds*"))
    return folder


@pytest.mark.slow
def test_tuned_on_validation_slides_and_read_by_inference(folder):
    options = {"ckpt_dir": str(folder / "models"), "device": "cpu", "cache_dir": str(folder / "cache")}
    path = Path(tune_vessels(str(folder / "data"), str(BUNDLE), specificity=0.5, **options))
    assert path == folder / "models" / "thresholds.json"
    content = json.loads(path.read_text())
    assert (content["slides_with_MVI"], content["slides_free_of_MVI"], content["vessels_per_slide"]) == (2, 2, 1)
    assert content["validation"]["specificity"]["value"] >= 0.5
    sweep = pd.read_csv(folder / "models" / "thresholds_sweep.csv")
    row = sweep[sweep["threshold"] <= content["slide_threshold"]].iloc[-1]
    assert row["specificity"] == content["validation"]["specificity"]["value"] == 0.5
    assert row["sensitivity"] == content["validation"]["sensitivity"]["value"]
    for stack, handler in (("inference",), "handlers#2"), (("train", "evaluate"), "validate#handlers#0"):
        parser = ConfigParser()
        parser.read_config(config_files(BUNDLE, *stack))
        parser.update({"bundle_root": str(BUNDLE), "ckpt_dir": str(folder / "models")})
        assert parser[f"{handler}#slide_threshold"] == "@slide_threshold"
        assert parser.get_parsed_content("slide_threshold") == content["slide_threshold"]


def test_what_is_asked_in_vain():
    with pytest.raises(InputError, match="a share above 0, at most 1"):
        tune_vessels("data", str(BUNDLE), specificity=0)
    with pytest.raises(InputError, match="no --split"):
        tune_vessels("data", str(BUNDLE), split="test")


@pytest.mark.slow
def test_slides_of_one_kind_decide_nothing(folder, tmp_path):
    content = json.loads((folder / "data/dataset.json").read_text())
    content["validation"] = [item for item in content["validation"] if item["label"]]
    shutil.copytree(folder / "data", tmp_path / "data")
    (tmp_path / "data/dataset.json").write_text(json.dumps(content))
    options = {"ckpt_dir": str(folder / "models"), "device": "cpu", "cache_dir": str(folder / "cache")}
    with pytest.raises(InputError, match="expected validation slides with MVI and free of it, found 2 with it and 0"):
        tune_vessels(str(tmp_path / "data"), str(BUNDLE), output=str(tmp_path / "t.json"), **options)


def test_without_a_file_a_slide_is_judged_as_a_vessel(tmp_path, capsys):
    assert read_verdict(tmp_path / "thresholds.json") == DEFAULT_VERDICT == {"slide_threshold": 0.5}
    assert "no such file" in capsys.readouterr().err
