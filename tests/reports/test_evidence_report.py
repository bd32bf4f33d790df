import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.data import Dataset

from monai_ext.reports.evidence_cases import MaskedPositives, PointingCanvases
from monai_ext.tuning.common import read_bundle
from monai_ext.tuning.evidence import DEFAULT_EVIDENCE
from monai_ext.visualize import EvidenceMap, compare_evidence, score_evidence
from tests.configs import config_files
from tests.planted import RedNetwork, write_planted

BUNDLE = Path(__file__).parents[2] / "bundles" / "pathology_metastasis_evidence_localization"
CONFIGS = config_files(BUNDLE, "train", "evaluate", "evaluate_evidence")
NAMES = ["backprop", "CAM2", "CAM3 (Grad-CAM)", "CAM", "CSM", "CELM"]


def evaluate(tmp_path, data, **entries):
    """What ``monai.bundle run`` does, on the test list."""
    overlay = tmp_path / "planted.json"
    overlay.write_text(json.dumps({"loaded_network": {"_target_": "tests.planted.RedNetwork"}, **entries}))
    changes = {
        "dataset_dir": str(data),
        "ckpt_dir": str(tmp_path),
        "output_dir": str(tmp_path / "out"),
        "split": "test",
    }
    parser = read_bundle("test", BUNDLE, [*CONFIGS, str(overlay)], changes)
    parser.get_parsed_content("run")
    return tmp_path / "out"


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
def test_configuration_writes_the_report(masks, tmp_path, capsys):
    data = write_planted(tmp_path / "data", masks, positives=9, lists=["test"])
    out = evaluate(tmp_path, data, evidence_batch_size=4)
    assert sorted(path.name for path in out.iterdir()) == ["evidence.csv", "metrics.json", "report.html"]
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["pointing game"]) == NAMES
    celm = metrics["pointing game"]["CELM"]
    assert celm["share"]["value"] > 0.95
    assert celm["share"]["low"] <= celm["share"]["value"] <= celm["share"]["high"]
    assert celm["hit"]["value"] == 1
    assert metrics["settings"] == DEFAULT_EVIDENCE
    assert ("masks" in metrics) == masks
    assert ("f1" in celm) == (not masks)  # masks are the better judge of masks
    assert metrics["masks" if masks else "pointing game"]["CELM"]["f1"]["value"] == 1
    scores = pd.read_csv(out / "evidence.csv")
    assert len(scores) == 9 * 6 * (2 if masks else 1)
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg") == 8
    for text in ("Worst cases", "Best cases", "Maps, pointing game", "CAM3 (Grad-CAM)", "input, CSM, CAM, CELM"):
        assert text in page
    said = capsys.readouterr()
    assert "pointing game: CELM share " in said.out
    assert ("masks: CELM precision 1.000, recall 1.000" in said.out) == masks
    assert "evidence settings are" in said.err


def test_positives_with_masks_alone(tmp_path, capsys):
    """As HPLOC has them: no negatives, so no pointing game."""
    data = write_planted(tmp_path / "data", positives=5, negatives=0, lists=["test"])
    out = evaluate(tmp_path, data)
    metrics = json.loads((out / "metrics.json").read_text())
    assert "pointing game" not in metrics
    assert list(metrics["masks"]) == NAMES
    assert metrics["masks"]["CELM"]["precision"]["value"] == metrics["masks"]["CELM"]["recall"]["value"] == 1
    assert len(pd.read_csv(out / "evidence.csv")) == 5 * 6
    assert "Maps, masks" in (out / "report.html").read_text()
    assert "masks: CELM precision 1.000, recall 1.000; Grad-CAM precision" in capsys.readouterr().out


def test_one_activation_map(tmp_path):
    data = write_planted(tmp_path / "data", positives=2, lists=["test"])
    out = evaluate(tmp_path, data, evidence_layers={"fine": None, "coarse": "stage3"})
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["masks"]) == ["backprop", "CAM3 (Grad-CAM)", "CSM", "CELM"]


@pytest.fixture
def dataset():
    """Grey images, the positive ones with a bright left half, of which the maps know."""
    images = [{"image": f"{i}.png", "label": int(i < 4), "group": f"slide{i % 2}"} for i in range(14)]

    def transform(item):
        image = torch.zeros(3, 12, 12)
        image[:, :, :6] = item["label"] * (4 + int(item["image"][0]))
        return {"image": image, "source": image.byte()}

    return Dataset(images, transform)


class Maps:
    """In place of EvidenceMap: CAM3 is right, CELM is the opposite."""

    network = RedNetwork()

    def __call__(self, x):
        right = (x[:, :1] > 0).float()
        maps = {"cam2": right / 2, "cam3": right, "cam": right, "csm": right, "celm": 1 - right}
        return {"logits": x.mean((1, 2, 3))[:, None], **maps}

    def backprop(self, x):
        return torch.ones_like(x[:, :1])


def test_scores_of_known_maps(dataset):
    cases = PointingCanvases(dataset, repeats=2)
    scores = score_evidence(Maps(), cases, {**DEFAULT_EVIDENCE, "smooth": 0, "thresholds": {"cam2": 0.9}}, batch_size=3)
    assert list(scores.columns) == ["case", "image", "group", "map", "share", "hit", "tp", "fp", "positive"]
    assert len(scores) == 8 * 6
    assert scores.groupby("map")["case"].apply(list).tolist() == [list(range(8))] * 6
    means = scores.groupby("map")[["share", "hit", "tp", "fp", "positive"]].mean()
    for name in ("cam2", "cam3", "cam", "csm"):
        assert means.loc[name].tolist() == [1, 1, 1, 0, 1]
    assert means.loc["backprop"].tolist() == pytest.approx([1 / 9, 1 / 9, 0, 1, 1])
    assert means.loc["celm"].tolist() == pytest.approx([72 / 1224, 72 / 1224, 0, 1, 1])
    assert set(scores["group"]) == {"slide0", "slide1"}


def test_comparison_has_intervals_over_groups(dataset):
    scores = score_evidence(Maps(), PointingCanvases(dataset), {**DEFAULT_EVIDENCE, "smooth": 0})
    rng = np.random.default_rng(0)
    scores["share"] += rng.normal(0, 0.01, len(scores))
    table = compare_evidence(scores)
    assert table.index.tolist() == NAMES
    assert list(table.columns) == ["share", "hit", "gain", "precision", "recall", "f1"]
    gain = table.loc["CELM", "gain"]
    assert gain.groups == 2
    assert gain.low <= gain.value <= gain.high < -0.9
    assert gain.value == pytest.approx(table.loc["CELM", "share"].value - table.loc["CAM3 (Grad-CAM)", "share"].value)
    assert table.loc["CAM3 (Grad-CAM)", "gain"].value == 0
    assert table.loc["CAM3 (Grad-CAM)", "f1"].value == 1
    assert compare_evidence(scores, baseline="celm").loc["CELM", "gain"].value == 0


def test_maps_are_those_of_evidence_map(tmp_path):
    """Of the real class, on masks: the red disk is found."""
    data = write_planted(tmp_path / "data", positives=5, negatives=8)
    parser = read_bundle("test", BUNDLE, CONFIGS, {"dataset_dir": str(data)})
    cases = MaskedPositives(parser.get_parsed_content("validate#dataset"))
    scores = score_evidence(
        EvidenceMap(RedNetwork(), saliency="abs", sigma=0), cases, {**DEFAULT_EVIDENCE, "smooth": 0}
    )
    by_map = scores.groupby("map")[["share", "tp"]].mean()
    assert by_map.loc["cam2", "share"] == pytest.approx(1)
    assert by_map.loc["cam3", "share"] < by_map.loc["celm", "share"] < 1  # coarse maps spill over
    assert (by_map["tp"] == 1).all()
