import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor

from monai_ext.base import distributed
from monai_ext.handlers import detection_report
from monai_ext.handlers.detection_report import DetectionReport
from monai_ext.handlers.summary_report import SummaryReport

TOL = 1e-9


def evaluate(handler, fields):
    """An engine whose batches hold the images and points of these fields and whose outputs hold what was detected."""

    def step(engine, index):
        field = fields[index]
        source = MetaTensor(
            torch.zeros(3, 8, 8), meta={"filename_or_obj": str(field["image"]), "scale": field.get("scale", 1)}
        )
        engine.state.batch = [
            {"source": source, "label": torch.tensor(field["truth"]).reshape(-1, 2), **field.get("more", {})}
        ]
        return [{"points": torch.tensor([[*p, 400, 0.9] for p in field["found"]]).reshape(-1, 4)}]

    engine = Engine(step)
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "rank", 0))
    handler.attach(engine)
    engine.run(range(len(fields)))


@pytest.fixture
def fields(tmp_path):
    made = []
    for name, group, found, truth in [
        ("c.png", "p2", [(10, 10), (50, 50)], [(12, 14), (70, 70)]),  # one hit within 20, one within 30, two of each
        ("a.png", "p1", [(30.0, 30.0)], [(30.0, 55.0)]),  # 25 px off: found at 30 alone
        ("b.png", "p1", [], []),
    ]:
        cv2.imwrite(str(tmp_path / name), np.full((90, 90, 3), 220, np.uint8))
        made.append({"image": tmp_path / name, "found": found, "truth": truth, "more": {"group": group}})
    return made


def test_metrics_and_report(fields, tmp_path, capsys):
    (tmp_path / "history.json").write_text(
        json.dumps([{"epoch": 1, "loss": 0.5, "lr": 0.1}, {"epoch": 2, "loss": None, "lr": 0.1, "f1": 0.25}])
    )
    out = tmp_path / "eval"
    handler = DetectionReport(out, (30, 20), 0.25, "Mitoses", tmp_path / "history.json", {"Weights": "model.pt"})
    evaluate(handler, fields)
    metrics = json.loads((out / "metrics.json").read_text())
    at30, at20 = metrics["radius_30px"], metrics["radius_20px"]
    assert [at30[k] for k in ("tp", "fp", "fn", "fields")] == [3, 0, 0, 3]
    assert [at20[k] for k in ("tp", "fp", "fn", "fields")] == [1, 2, 2, 3]
    assert at20["f1"]["value"] == pytest.approx(1 / 3, abs=TOL)
    assert at20["f1"]["low"] <= at20["f1"]["value"] <= at20["f1"]["high"]
    assert metrics["notes"] == {"Weights": "model.pt"}
    page = (out / "report.html").read_text()
    for text in ("Mitoses", "a.png", "p1", "loss", "Worst fields", "data:image"):
        assert text in page
    assert "F1 at 30 px (7.5 um) 1.000" in capsys.readouterr().out
    assert {path.name for path in out.iterdir()} == {"metrics.json", "report.html", "scores.csv"}
    scores = pd.read_csv(out / "scores.csv")
    assert scores["image"].str.endswith(".png").all()
    assert scores[["tp", "fp", "fn"]].sum().tolist() == [3, 0, 0]  # at the first radius
    assert scores["group"].nunique() == at30["f1"]["groups"]


def test_intervals_are_over_groups(tmp_path, monkeypatch):
    seen = []
    real = detection_report.bootstrap_ci
    monkeypatch.setattr(detection_report, "bootstrap_ci", lambda v, g, s: seen.append(list(g)) or real(v, g, s))
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((9, 9, 3), np.uint8))
    rows = [{"image": tmp_path / "x.png", "found": [(1, 1)], "truth": [(1, 1)], "more": {"group": g}} for g in "abb"]
    rows.append({"image": tmp_path / "x.png", "found": [], "truth": []})  # without a group its file is one
    evaluate(DetectionReport(tmp_path, (5,)), rows)
    assert all(sorted(groups) == ["a", "b", "b", "x"] for groups in seen)


def test_points_are_drawn_where_the_file_has_them(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        detection_report, "overlay", lambda image, **k: drawn.append((image.shape, k["points"], k["classes"])) or image
    )
    monkeypatch.setattr(detection_report, "write_report", lambda path, **k: [list(c) for c in k["cases"].values()])
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((90, 80, 3), np.uint8))
    field = {
        "image": tmp_path / "x.png",
        "scale": 2.0,
        "found": [(10.0, 10.0), (30.0, 5.0)],
        "truth": [(11.0, 10.0), (20.0, 20.0)],
    }
    evaluate(DetectionReport(tmp_path, (5,)), [field])
    shape, points, classes = drawn[0]
    assert shape == (3, 90, 80)
    assert dict(zip(classes, points.tolist(), strict=True)) == {
        "TP": [20.5, 20.5],
        "FP": [60.5, 10.5],
        "FN": [40.5, 40.5],
    }


def test_ranks_are_gathered_and_the_order_is_that_of_names(fields, tmp_path, monkeypatch):
    """Two ranks have each seen a part; the first writes what one process would have written."""
    evaluate(DetectionReport(tmp_path / "one"), fields)
    other = DetectionReport(tmp_path / "other")
    evaluate(other, fields[1:])

    def all_gather_object(parts, mine):
        parts[:] = [mine, other._results]

    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "all_gather_object", all_gather_object)
    evaluate(DetectionReport(tmp_path / "two"), fields[:1])
    one, two = ((tmp_path / name / "metrics.json").read_text() for name in ("one", "two"))
    assert one == two


def test_a_second_run_starts_from_nothing(fields, tmp_path):
    handler = DetectionReport(tmp_path / "twice")
    evaluate(handler, fields)
    first = (tmp_path / "twice" / "metrics.json").read_text()
    evaluate(handler, fields)
    assert (tmp_path / "twice" / "metrics.json").read_text() == first


# -- summary -----------------------------------------------------------------------------------------------------------


def finish(handler, rank=0):
    engine = Engine(lambda *_: None)
    engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "rank", rank))
    handler.attach(engine)
    engine.run([0])


@pytest.mark.parametrize(
    "names", [("a.png", "sub/b.tif", "c.png"), ("001.png", "002.png", "003.png")], ids=["names", "numbers"]
)
def test_summary_shows_the_highest_counts(names, tmp_path):
    for index, name in enumerate(names):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        # where two images differ in their suffix alone, the second one's overlay has it in its name
        stem = path if index == 2 else path.with_suffix("")
        cv2.imwrite(str(stem.with_name(f"{stem.name}_overlay.png")), np.full((9, 9, 3), 40 * index, np.uint8))
    pd.DataFrame({"image": names, "count": [1, 5, 3], "density_mm2": [1.2345, np.nan, 0]}).to_csv(
        tmp_path / "summary.csv", index=False
    )
    finish(SummaryReport(tmp_path, "Mitoses", {"Weights": "w"}, pictures=2))
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/") == 2
    assert page.index(f"{names[1]}: 5") < page.index(f"{names[2]}: 3")
    assert f"{names[0]}: 1" not in page
    assert names[0] in page


def test_other_ranks_write_nothing(tmp_path):
    finish(SummaryReport(tmp_path, "Mitoses"), rank=1)
    assert not list(tmp_path.iterdir())
