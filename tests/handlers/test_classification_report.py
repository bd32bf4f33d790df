"""The report of an image-level classifier, against counts made by hand."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from monai_ext.handlers import ClassificationReport

TOLERANCE = 1e-6
LABELS = [0, 0, 0, 1, 1, 1]
SCORES = [0.1, 0.6, 0.3, 0.9, 0.4, 0.8]


def evaluate(folder, labels, scores, groups=None, **options):
    """Run the handler in an engine whose outputs are these scores."""

    def step(engine, index):
        path = folder / f"image_{index:02d}.png"
        cv2.imwrite(str(path), np.full((96, 96, 3), 100 + index, np.uint8))
        source = MetaTensor(torch.zeros(3, 8, 8), meta={"filename_or_obj": str(path)})
        group = {} if groups is None else {"group": groups[index]}
        engine.state.batch = [{"source": source, "label": torch.tensor([float(labels[index])]), **group}]
        return [{"score": torch.tensor([scores[index]])}]

    engine = Engine(step)
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "rank", 0))
    ClassificationReport(folder / "out", ("normal", "tumour"), notes={"Data": "made up"}, **options).attach(engine)
    engine.run(range(len(labels)))
    return json.loads((folder / "out/metrics.json").read_text())


def test_metrics_are_the_hand_counted_ones(tmp_path, capsys):
    metrics = evaluate(tmp_path, LABELS, SCORES)
    assert [metrics[name] for name in ("tp", "fp", "tn", "fn", "images")] == [2, 1, 2, 1, 6]
    # of the nine pairs only (.6 over .4) is out of order
    assert metrics["auc"]["value"] == pytest.approx(8 / 9, abs=TOLERANCE)
    assert metrics["accuracy"]["value"] == pytest.approx(4 / 6, abs=TOLERANCE)
    assert metrics["sensitivity"]["value"] == pytest.approx(2 / 3, abs=TOLERANCE)
    assert metrics["f1"]["value"] == pytest.approx(4 / 6, abs=TOLERANCE)
    assert metrics["specificity"]["value"] == pytest.approx(2 / 3, abs=TOLERANCE)
    assert metrics["auc"]["low"] <= 8 / 9 <= metrics["auc"]["high"]
    assert "AUC 0.889" in capsys.readouterr().out


def test_threshold_and_groups(tmp_path):
    metrics = evaluate(tmp_path, LABELS, SCORES, groups=list("aabbcc"), threshold=0.35)
    assert [metrics[name] for name in ("tp", "fp", "tn", "fn")] == [3, 1, 2, 0]
    assert metrics["accuracy"]["groups"] == 3


def test_scores_and_pages_are_written(tmp_path):
    evaluate(tmp_path, LABELS, SCORES)
    table = pd.read_csv(tmp_path / "out/scores.csv")
    assert list(table.columns) == ["image", "group", "label", "score"]
    assert table["label"].tolist() == LABELS
    assert table["score"].tolist() == pytest.approx(SCORES, abs=TOLERANCE)
    page = (tmp_path / "out/report.html").read_text()
    assert "Tumour, lowest scores" in page
    assert page.count("data:image/") >= len(LABELS)


def test_one_class_alone_has_no_auc(tmp_path):
    metrics = evaluate(tmp_path, [1, 1], [0.2, 0.9])
    assert metrics["auc"]["value"] is None
    assert metrics["specificity"]["value"] is None
    assert metrics["sensitivity"]["value"] == pytest.approx(0.5)
