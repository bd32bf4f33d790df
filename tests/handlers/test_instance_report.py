"""The report of instance maps, against scores counted by hand."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from monai_ext.handlers import InstanceReport

TOLERANCE = 1e-6


def squares(*corners, side=10, shape=(40, 60)):
    ids = np.zeros((1, *shape), np.int32)
    for number, (row, col) in enumerate(corners, start=1):
        ids[0, row : row + side, col : col + side] = number
    return ids


def evaluate(folder, pairs, groups=None, **options):
    """Run the handler in an engine whose outputs are these ``(found, true)`` maps."""

    def step(engine, index):
        found, true = pairs[index]
        path = folder / f"image_{index:02d}.png"
        cv2.imwrite(str(path), np.full((*true.shape[1:], 3), 100 + index, np.uint8))
        source = MetaTensor(torch.zeros(3, 8, 8), meta={"filename_or_obj": str(path)})
        group = {} if groups is None else {"group": groups[index]}
        engine.state.batch = [{"source": source, "label": torch.from_numpy(true), **group}]
        return [{"instances": torch.from_numpy(found)}]

    engine = Engine(step)
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "rank", 0))
    InstanceReport(folder / "out", notes={"Data": "made up"}, **options).attach(engine)
    engine.run(range(len(pairs)))
    return json.loads((folder / "out/metrics.json").read_text())


def test_scores_are_the_hand_counted_ones(tmp_path, capsys):
    true = squares((0, 0), (0, 20), (20, 0))
    found = squares((0, 0), (0, 22), (25, 40))  # one exact, one moved by 2 px (IoU 80 / 120), one beside everything
    metrics = evaluate(tmp_path, [(found, true), (true, true)])
    first = pd.read_csv(tmp_path / "out/scores.csv").iloc[0]
    assert first["dice"] == pytest.approx(2 * 180 / 600, abs=TOLERANCE)
    assert first["aji"] == pytest.approx(180 / (100 + 120 + 100 + 100), abs=TOLERANCE)
    assert first["pq"] == pytest.approx((1 + 80 / 120) / 3, abs=TOLERANCE)
    assert first[["tp", "fp", "fn"]].tolist() == [2, 1, 1]
    assert first["hausdorff"] == pytest.approx(np.hypot(34 - 9, 49 - 29), abs=TOLERANCE)
    assert first["foreground_iou"] == pytest.approx(180 / 420, abs=TOLERANCE)
    assert first["partial_hausdorff"] < first["hausdorff"]
    assert metrics["f1"]["value"] == pytest.approx(10 / 12, abs=TOLERANCE)  # pooled: 5 of 6
    assert metrics["dice"]["value"] == pytest.approx((0.6 + 1) / 2, abs=TOLERANCE)
    # pixels of both images: 180 + 300 found and true, 120 and 120 of the first one only in one of the maps
    assert metrics["pixel_precision"]["value"] == pytest.approx(480 / 600, abs=TOLERANCE)
    assert metrics["pixel_recall"]["value"] == pytest.approx(480 / 600, abs=TOLERANCE)
    assert metrics["pixel_accuracy"]["value"] == pytest.approx(1 - 240 / (2 * true.size), abs=TOLERANCE)
    assert "dice 0.800" in capsys.readouterr().out
    assert (tmp_path / "out/report.html").stat().st_size > 1000


def test_empty_maps_agree(tmp_path):
    nothing = squares()
    metrics = evaluate(tmp_path, [(nothing, nothing), (nothing, nothing)])
    assert all(metrics[name]["value"] == 1 for name in ("dice", "aji", "pq", "f1", "object_dice"))


def test_an_image_without_a_distance_does_not_spoil_the_means(tmp_path):
    true, moved, nothing = squares((0, 0)), squares((0, 3)), squares()
    metrics = evaluate(tmp_path, [(true, true), (moved, true), (nothing, true), (moved, nothing), (nothing, nothing)])
    assert metrics["hausdorff"]["value"] == pytest.approx((0 + 3 + 0) / 3, abs=TOLERANCE)
    assert metrics["hausdorff"]["groups"] == metrics["partial_hausdorff"]["groups"] == 3
    assert metrics["without_distance"] == 2
    assert all(np.isfinite(metrics["hausdorff"][end]) for end in ("low", "high"))
    assert metrics["foreground_iou"]["value"] == pytest.approx((1 + 70 / 130 + 0 + 0 + 1) / 5, abs=TOLERANCE)
    assert pd.read_csv(tmp_path / "out/scores.csv")["hausdorff"].isna().tolist() == [False, False, True, True, False]
    assert "without_distance" in (tmp_path / "out/report.html").read_text()


def test_no_image_has_a_distance(tmp_path):
    metrics = evaluate(tmp_path, [(squares(), squares((0, 0)))])
    assert metrics["hausdorff"] == metrics["partial_hausdorff"]
    assert metrics["hausdorff"]["value"] is None
    assert metrics["dice"]["value"] == 0


def test_groups_decide_the_interval(tmp_path):
    true, nothing = squares((0, 0)), squares()
    metrics = evaluate(tmp_path, [(true, true), (nothing, true), (true, true)], groups=["a", "a", "a"])
    assert metrics["dice"]["low"] is None
    assert metrics["dice"]["groups"] == 1


def test_memory_holds_only_what_is_shown(tmp_path):
    true = squares((0, 0))
    pairs = [(squares((0, shift)), true) for shift in range(8)]
    evaluate(tmp_path, pairs, cases=2)
    page = (tmp_path / "out/report.html").read_text()
    assert page.count("<img") == 4
    assert "image_00.png: AJI 1.00" in page
    assert "image_07.png: AJI 0.18" in page
