"""Vessels are put together from their mosaics and scored; what the page and the files say."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from torch import nn

from monai_ext.handlers import VesselReport

GRID = 3
ABS = 1e-9


def mosaic(file, label, score, order, located, truth=None, number=0, missed=0, group="s"):
    """One mosaic; ``located`` and ``truth`` are numbers of patches."""
    order = torch.tensor([*order, *[-1] * (GRID**2 - len(order))]).view(1, GRID, GRID)
    classes = torch.where(order >= 0, 1, 0)
    classes[torch.isin(order, torch.tensor(truth or [99]))] = 2
    if label and truth is None:
        classes, missed = torch.where(order >= 0, -100, 0), -1
    found = torch.where(torch.isin(order, torch.tensor(located or [99])), 2, 1)
    found[order < 0] = 2  # nothing that is said of blank places counts
    common = {"file": str(file), "group": group, "mosaic": number, "missed": missed, "patch_px": 8}
    item = {"image": torch.zeros(1), "label": torch.tensor([float(label)]), "order": order, "classes": classes}
    shapes = {"grid_shape": torch.tensor([4, 5]), "vessel_shape": torch.tensor([30, 37])}
    return item | common | shapes | {"_score": torch.tensor([score]), "_located": found}


class Oracle(nn.Module):
    def forward(self, x):
        return x


@pytest.fixture
def run(tmp_path):
    for name in "abcd":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((30, 37, 3), 200, np.uint8))

    def evaluate(mosaics, batch_size=2):
        def post(data):
            return {**data, "score": data["_score"], "located": data["_located"]}

        report = VesselReport(tmp_path / "out", title="Vessels of a test", notes={"Data": "made up"})
        loader = DataLoader(Dataset(mosaics), batch_size=batch_size)
        engine = SupervisedEvaluator("cpu", loader, Oracle(), postprocessing=post, val_handlers=[report])
        engine.run()
        return pd.read_csv(tmp_path / "out/scores.csv"), json.loads((tmp_path / "out/metrics.json").read_text())

    return evaluate, tmp_path


def test_mosaics_of_a_vessel_count_as_one(run):
    evaluate, folder = run
    a, b, c, d = (folder / f"{name}.png" for name in "abcd")
    table, metrics = evaluate(
        [
            mosaic(a, 1, 0.2, [0, 2, 3], [2, 3], [2], 0, missed=1, group="s0"),
            mosaic(a, 1, 0.9, [7, 8], [8], [7, 8], 1, missed=1, group="s0"),
            mosaic(b, 0, 0.4, [1, 4], [], group="s0"),
            mosaic(c, 0, 0.6, [1, 4], [4], group="s1"),
            mosaic(d, 1, 0.3, [5], [5], None, group="s1"),
        ]
    )
    table = table.set_index("image")
    assert table["score"].to_dict() == pytest.approx({"a.png": 0.9, "b.png": 0.4, "c.png": 0.6, "d.png": 0.3}, abs=1e-6)
    assert table.loc["a.png", "located"] == "2 3 8"
    assert table.loc["a.png", "cancerous"] == "2 7 8"
    # 2 and 8 found, 3 falsely; 7 was not, nor the one in no mosaic
    assert table.loc["a.png", ["tp", "fp", "fn"]].tolist() == [2, 1, 2]
    assert table.loc[["b.png", "c.png", "d.png"], "tp"].isna().all()
    assert metrics["accuracy"]["value"] == 0.5
    assert metrics["MVI"]["recall"]["value"] == metrics["healthy"]["precision"]["value"] == 0.5
    assert metrics["auc"]["value"] == 0.5  # a above b and c, d below both
    locating = metrics["locating"]
    assert locating["precision"]["value"] == pytest.approx(2 / 3, abs=ABS)
    assert locating["recall"]["value"] == pytest.approx(2 / 4, abs=ABS)
    assert locating["dice"]["value"] == pytest.approx(4 / 7, abs=ABS)
    assert (locating["vessels"], locating["patches"]) == (1, 4)
    # of four patches one was in no mosaic, as no cell was found in it, and one was seen and not called
    assert table.loc["a.png", "uncut"] == 1
    assert locating["missed_by_filter"]["value"] == locating["missed_by_network"]["value"] == 0.25
    slides = metrics["slides"]  # both have an invaded vessel, and a vessel above .5
    assert (slides["sensitivity"]["value"], slides["specificity"]["value"]) == (1, None)
    assert (slides["with_invaded"], slides["free"], slides["threshold"]) == (2, 0, 0.5)
    assert locating["healthy_vessels_with_any"]["value"] == 0.5
    assert metrics["accuracy"]["groups"] == 2
    page = (folder / "out/report.html").read_text()
    assert "Vessels of a test" in page
    assert "2 patches found, 1 falsely, 2 missed (1 in no mosaic)" in page
    assert page.count("data:image/jpeg") >= 3


def test_without_marked_cells_there_is_no_locating(run):
    evaluate, folder = run
    _, metrics = evaluate([mosaic(folder / "a.png", 1, 0.9, [1], [1]), mosaic(folder / "b.png", 0, 0.1, [1], [])])
    assert metrics["accuracy"]["value"] == 1
    assert metrics["locating"]["dice"]["value"] is None
    assert metrics["locating"]["vessels"] == 0


def test_an_evaluation_begins_afresh(run):
    _, folder = run
    item = mosaic(folder / "a.png", 1, 0.9, [1], [1], [1])
    report = VesselReport(folder / "twice")
    loader = DataLoader(Dataset([item]), batch_size=1)
    post = lambda data: {**data, "score": data["_score"], "located": data["_located"]}  # noqa: E731
    engine = SupervisedEvaluator("cpu", loader, Oracle(), postprocessing=post, val_handlers=[report])
    seen = []
    engine.add_event_handler(Events.COMPLETED, lambda _: seen.append(len(report._rows)))
    engine.run()
    engine.run()
    assert seen == [1, 1]
