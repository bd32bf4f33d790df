"""Dice of masks, with and without an object, and the pictures beside each other."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor

from monai_ext.base.errors import InputError
from monai_ext.handlers import MaskReport
from monai_ext.transforms import ConcentricLabel

SHAPE = (60, 40)


def mask(rows=(), cols=()):
    array = torch.zeros(1, *SHAPE)
    if rows:
        array[:, slice(*rows), slice(*cols)] = 1
    return array


#: Truth and prediction: half of a mass, a healthy image left alone, one called a mass all over, a mass that is missed.
CASES = {
    "half": (mask((10, 30), (10, 30)), mask((10, 20), (10, 30))),
    "healthy": (mask(), mask()),
    "alarm": (mask(), mask((0, 60), (0, 40))),
    "missed": (mask((40, 50), (0, 10)), mask()),
}


def evaluated(folder, names=tuple(CASES), **options):
    items = []
    for name in names:
        truth, pred = CASES[name]
        source = MetaTensor(torch.full((3, 120, 80), 90, dtype=torch.uint8), meta={"filename_or_obj": f"x/{name}.png"})
        items.append({"source": source, "group": name, "label": truth, "pred": pred})
    engine = Engine(lambda engine, batch: [dict(item) for item in batch])
    engine.state.rank = 0
    MaskReport(folder, "Masses", **options).attach(engine)
    engine.run([items[:1], items[1:]])
    return json.loads((folder / "metrics.json").read_text())


def test_images_without_an_object_count(tmp_path):
    metrics = evaluated(tmp_path)
    half = 2 * 200 / (200 + 400)
    assert metrics["dice"]["value"] == pytest.approx((half + 1 + 0 + 0) / 4), "wholly called a mass is 0, not 1"
    assert metrics["dice_with_object"]["value"] == pytest.approx((half + 0) / 2)
    assert metrics["dice_pooled"]["value"] == pytest.approx(2 * 200 / (200 + 2400 + 400 + 100))
    assert metrics["false_alarms"]["value"] == 0.5
    assert (metrics["images"], metrics["images_with_object"]) == (4, 2)
    assert metrics["dice"]["low"] < metrics["dice"]["value"] < metrics["dice"]["high"]
    called = cv2.imread(str(tmp_path / "segmentations" / "half.png"), cv2.IMREAD_UNCHANGED)
    assert called.shape == SHAPE
    assert (called == 255).sum() == 200


def test_only_healthy_images(tmp_path):
    metrics = evaluated(tmp_path, ("healthy", "alarm"))
    assert metrics["dice"]["value"] == 0.5
    assert metrics["dice_with_object"]["value"] is None


def test_pictures_side_by_side(tmp_path):
    evaluated(tmp_path / "mask")
    evaluated(tmp_path / "both", label=ConcentricLabel(0.8, 1.2, "mask"), beside={"mask labels": tmp_path / "mask"})
    page = (tmp_path / "both" / "report.html").read_text()
    for words in (
        "Best",
        "Worst",
        "Without an object, most called",
        "alarm.png: Dice 0.000, 2400 px called, 0 px true",
    ):
        assert words in page
    assert "healthy.png: Dice" not in page, "nothing to see"
    pictures = re.findall(r"data:image/jpeg", page)
    assert len(pictures) == 2 + 2 + 1
    with pytest.raises(InputError, match=r"the masks of an earlier evaluation \(x\), found no such folder"):
        MaskReport(tmp_path, "Masses", beside={"x": tmp_path / "gone"})


def test_the_cells_of_a_picture(tmp_path):
    evaluated(tmp_path)
    report = MaskReport(tmp_path, "Masses", ConcentricLabel(0.8, 1.2, "mask"), {"other": tmp_path})
    engine = SimpleNamespace(state=SimpleNamespace(batch=[], output=[]))
    truth, pred = CASES["half"]
    source = MetaTensor(torch.full((3, 120, 80), 90, dtype=torch.uint8), meta={"filename_or_obj": "half.png"})
    engine.state.batch, engine.state.output = [{"source": source}], [{"pred": pred, "label": truth}]
    report._collect(engine)
    picture = report._picture(report._cases[0])[22:]
    width = round(320 * SHAPE[1] / SHAPE[0])
    image, true, label, other, this = (
        picture[:, start : start + width] for start in range(0, 5 * (width + 4), width + 4)
    )
    row, col = round(20 / SHAPE[0] * 320), round(20 / SHAPE[1] * width)
    assert (image == 90).all()
    assert true[row, col].tolist() == label[row, col].tolist() == [255, 255, 255]
    assert true[round(28 / 60 * 320), col].max() == 255
    assert 110 in np.unique(label), "the ring"
    np.testing.assert_array_equal(other, this)
    assert this[round(25 / 60 * 320), col].max() == 0, "the lower half is missed"
