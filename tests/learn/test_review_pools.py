"""What a simulated reviewer sees of a run, what a click says, and what is learnt from it."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely

from monai_ext.base.files import write_png
from monai_ext.formats import Features, read_points
from monai_ext.formats.geojson import join_features
from monai_ext.formats.image import read_field, read_mask
from monai_ext.formats.outlines import polygons_to_label_map
from monai_ext.formats.point_files import write_points
from monai_ext.learn.lessons import OUTLINES, POINTS
from monai_ext.learn.review_orders import compare_review_orders
from monai_ext.learn.review_pools import ObjectPool
from monai_ext.phantom import write_dataset
from tests.reviewed import write_run

NUCLEI = Path(__file__).parents[2] / "bundles/pathology_nuclei_instance_segmentation"
MITOSIS = Path(__file__).parents[2] / "bundles/pathology_mitosis_segmentation"
FIGURES, LOOKALIKE = [(40, 50), (120, 60), (40, 200)], (200, 200)  # x, y


def data_set(folder, labels):
    """Of images of a run; ``labels`` are files by the image's name."""
    items = [
        {"image": f"../in/{name}.tif", "label": label, "mpp": 0.25, "group": name} for name, label in labels.items()
    ]
    (folder / "data/dataset.json").write_text(json.dumps({"training": items, "test": []}))
    return str(folder / "data")


@pytest.fixture
def mitoses(tmp_path):
    """A run that found two of three figures in ``a`` and a look-alike; in ``b`` there are none, and it found one."""
    points = Features([shapely.Point(xy) for xy in (*FIGURES[:2], LOOKALIKE)], "Mitosis")
    points.measurements["score"] = np.array([0.9, 0.6, 0.7])
    blobs, scores = shapely.buffer(points.geometry, 12), dict(points.measurements)
    outlines = Features(blobs, "Mitosis", scores, object_types="detection")
    one = Features([shapely.Point(90, 90)], "Mitosis", measurements={"score": [0.8]})
    out = write_run(tmp_path, {"a": join_features(points, outlines), "b": one})
    write_points(tmp_path / "data/a.csv", np.array(FIGURES, float)[:, ::-1] + 3)
    write_points(tmp_path / "data/b.csv", np.zeros((0, 2)))
    return ObjectPool(out, data_set(tmp_path, {"a": "a.csv", "b": "b.csv"}), POINTS, 256, 0.25), tmp_path


def test_a_detection_is_one_object_and_right_where_the_truth_is_near(mitoses):
    pool, _ = mitoses
    assert len(pool) == 4
    assert pool.right.tolist() == [True, True, False, False]
    assert pool.certainty(Path()).tolist() == [0.9, 0.6, 0.7, 0.8]
    assert pool.features.shape == (4, 12)


def test_what_was_seen_is_known_and_nothing_else(mitoses):
    pool, folder = mitoses
    pool.write(folder / "seen", np.array([0, 2]))
    [item] = json.loads((folder / "seen/dataset.json").read_text())["training"]
    np.testing.assert_allclose(
        read_points(folder / "seen" / item["label"]), np.array([FIGURES[0][::-1]]) - 0.5
    )  # centres of px
    np.testing.assert_allclose(read_points(folder / "seen" / item["lookalikes"]), np.array([LOOKALIKE[::-1]]) - 0.5)
    known = read_mask(folder / "seen" / item["known"]) > 0
    assert known[50, 40]
    assert known[200, 200]
    assert not known[60, 120]  # found, but nobody has looked
    assert not known[200, 40]  # a figure that the run missed
    image, source = (read_field(path).image for path in (folder / "seen" / item["image"], folder / "in/a.tif"))
    np.testing.assert_array_equal(image, source)


def test_other_objects_or_another_truth_are_another_pool(mitoses):
    pool, folder = mitoses
    same = ObjectPool(folder / "out", str(folder / "data"), POINTS, 256, 0.25)
    write_points(folder / "data/b.csv", np.array([[90.0, 90.0]]))
    other = ObjectPool(folder / "out", str(folder / "data"), POINTS, 256, 0.25)
    assert same.digest == pool.digest
    assert other.digest != pool.digest
    assert other.right.tolist() == [True, True, False, True]


def test_outlines_are_right_by_their_overlap(tmp_path):
    cells = [shapely.Point(xy).buffer(10) for xy in FIGURES]
    out = write_run(
        tmp_path, {"a": Features([*cells[:2], cells[2].buffer(-6)], measurements={"score": [0.9, 0.8, 0.7]})}
    )
    truth = polygons_to_label_map(np.array([cells[0], shapely.affinity.translate(cells[1], 2), cells[2]]), (256, 256))
    write_png(tmp_path / "data/a.png", truth.astype(np.uint16))
    pool = ObjectPool(out, data_set(tmp_path, {"a": "a.png"}), OUTLINES, 256, 0.25)
    assert pool.right.tolist() == [True, True, False]
    pool.write(tmp_path / "seen", np.array([1, 2]))
    [item] = json.loads((tmp_path / "seen/dataset.json").read_text())["training"]
    label = read_mask(tmp_path / "seen" / item["label"])
    assert (label > 0).sum() == pytest.approx(cells[1].area, rel=0.05)  # the one that is right, and not the other
    assert label[60, 120] > 0


@pytest.mark.slow
def test_reviewers_of_mitoses(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "orders"
    write_dataset("mitosis", data, slides=5, fields=1, size=256)
    quick = {"bundle": MITOSIS, "clicks": [3], "orders": ["random", "doubt"], "max_steps": 1, "patch_size": 64}
    settings = {"batch_size": 2, "device": "cpu"}
    compare_review_orders(str(data), str(MITOSIS / "models"), out, **quick, **settings)
    [seen] = (json.loads(path.read_text())["seen"] for path in out.glob("doubt/0/*/data/seen.json"))
    pool = ObjectPool(out / "found/0/out", str(data), POINTS, 64, 0.25)
    assert seen == np.argsort(pool.certainty(Path()), kind="stable")[:3].tolist()
    assert (out / "doubt/0/3/thresholds.json").read_text() == (MITOSIS / "models/thresholds.json").read_text()
    assert (out / "orders.csv").read_text().startswith("clicks,order,runs,F1,")
    capsys.readouterr()
    compare_review_orders(str(data), str(MITOSIS / "models"), out, **quick, **settings)
    assert "starting" not in capsys.readouterr().out


@pytest.mark.slow
def test_reviewers_of_outlines(tmp_path):
    """Images whose resolution nobody states."""
    data, out = tmp_path / "data", tmp_path / "orders"
    write_dataset("nuclei", data, slides=5, fields=1, size=128)
    content = json.loads((data / "dataset.json").read_text())
    for items in content.values():
        for item in items if isinstance(items, list) else []:
            item.pop("mpp", None)
    (data / "dataset.json").write_text(json.dumps(content))
    quick = {"bundle": NUCLEI, "clicks": [3], "orders": ["random", "diverse"], "epochs": 1, "patch_size": 64}
    compare_review_orders(str(data), str(NUCLEI / "models"), out, device="cpu", **quick)
    for order in quick["orders"]:
        assert (out / order / "0/3/instances.json").read_text() == (NUCLEI / "models/instances.json").read_text()
        training = json.loads((out / order / "0/3/data/dataset.json").read_text())["training"]
        assert 1 <= len(training) <= 3
    table = pd.read_csv(out / "orders.csv")
    assert table["order"].tolist() == ["none", "random", "diverse"]
    assert table["F1"].notna().all()
