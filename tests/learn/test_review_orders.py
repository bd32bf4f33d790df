"""Simulated reviewers: what they look at, what is learnt from it, and what the table says."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from monai_ext.base.errors import InputError
from monai_ext.data import NucleusPatches, read_class_names
from monai_ext.learn.review_orders import _saved, compare_review_orders
from tests.nuclei import planted_with_student

BUNDLE = str(Path(__file__).parents[2] / "bundles/pathology_cell_semantic_segmentation")
QUICK = {"bundle": BUNDLE, "patch_size": 16, "epochs": 1, "batch_size": 16, "device": "cpu"}


@pytest.fixture
def place(tmp_path):
    return planted_with_student(tmp_path)


def compare(place, **options):
    where = {"dataset_dir": str(place / "data"), "student_dir": str(place / "student"), "dst": place / "out"}
    return Path(compare_review_orders(**{**where, "clicks": [4, 9], **QUICK, **options}))


def seen(place, order, count):
    return json.loads((place / f"out/{order}/0/{count}/data/seen.json").read_text())["seen"]


@pytest.mark.slow
def test_reviewers_go_on_from_what_they_saw_and_each_trains_from_the_same_weights(place, capsys):
    table = pd.read_csv(compare(place))
    assert table[["clicks", "order"]].to_numpy().tolist() == [
        [0, "none"],
        *([count, order] for count in (4, 9) for order in ("random", "doubt", "diverse")),
    ]
    names = read_class_names(place / "data")
    pool = NucleusPatches(_items(place / "data"), "ea", names)
    for order in ("doubt", "diverse", "random"):
        few, more = seen(place, order, 4), seen(place, order, 9)
        assert more[:4] == few
        assert len(set(more)) == 9
        shown = NucleusPatches(_items(place / f"out/{order}/0/9/data"), "ea", names)
        assert shown.labels.tolist() == pool.labels[more].tolist()  # a reviewer tells the truth
        np.testing.assert_array_equal(shown.patches(np.arange(9)), pool.patches(np.array(more)))
    assert len({tuple(sorted(seen(place, order, 9))) for order in ("doubt", "diverse", "random")}) == 3
    rows = table[table["order"] == "doubt"]
    control = table[table["order"] == "random"]
    differences = rows["weighted F1"].to_numpy() - control["weighted F1"].to_numpy()
    np.testing.assert_allclose(rows["weighted F1 less random"], differences)
    assert (place / "out/orders.png").stat().st_size > 1000

    capsys.readouterr()
    times = {path: path.stat().st_mtime_ns for path in (place / "out").rglob("model.pt")}
    assert len(times) == 6
    pd.testing.assert_frame_equal(pd.read_csv(compare(place)), table)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert "starting" not in capsys.readouterr().out
    compare(place, epochs=2)
    assert all(path.stat().st_mtime_ns != time for path, time in times.items())


def _items(folder):
    items = json.loads((folder / "dataset.json").read_text())["training"]
    return [{**item, "image": folder / item["image"], "label": folder / item["label"]} for item in items]


def curve(order, clicks, scores):
    return pd.DataFrame({"clicks": clicks, "order": order, "weighted F1": scores})


def test_clicks_that_an_order_saves():
    start = curve("none", [0], [0.2])
    control = curve("random", [10, 20, 40], [0.3, 0.4, 0.5])
    table = pd.concat([start, control, curve("doubt", [10, 20, 40], [0.4, 0.6, 0.55])])
    assert _saved(table, "doubt", "weighted F1").startswith(
        "doubt: 15 clicks to the weighted F1 0.500 that random has after 40"
    )
    table = pd.concat([start, control, curve("doubt", [10, 20, 40], [0.3, 0.4, 0.45])])
    assert "never reaches" in _saved(table, "doubt", "weighted F1")
    control = curve("random", [10, 20, 40], [0.1, 0.3, 0.1])  # more clicks may be worse, than none too
    table = pd.concat([start, control, curve("doubt", [10, 20, 40], [0.4, 0.1, 0.1])])
    assert _saved(table, "doubt", "weighted F1").startswith(
        "doubt: 5 clicks to the weighted F1 0.300 that random has after 20"
    )
    table = pd.concat([start, curve("random", [10], [0.1]), curve("doubt", [10], [0.3])])
    assert _saved(table, "doubt", "weighted F1") == (
        "doubt: weighted F1 0.300 at best; random learns nothing that was not known before"
    )


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"clicks": [9, 4]}, "--clicks: expected ascending whole numbers"),
        ({"clicks": [4000, 9000]}, "--clicks: expected at most the"),
        ({"orders": ["doubt"]}, "random among them"),
        ({"orders": ["random", "size"]}, "some of doubt, diverse, random"),
        ({"student_dir": "nowhere"}, "--student_dir: expected the folder of a model.pt"),
        ({"student_dir": ["a", "b"]}, "one for each of 1 data sets, found 2"),
        ({"epoch": 3}, "entries of the bundle's training, found --epoch"),
        ({"learns": "points"}, "--learns: expected classes or outlines, of pathology_cell_semantic_segmentation"),
        ({"bundle": "nowhere"}, "--bundle: expected the folder of the bundle of mitoses, cells or nuclei"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_trained(place, options, expected):
    with pytest.raises(InputError) as caught:
        compare(place, **options)
    assert expected in str(caught.value)
    assert not (place / "out").exists()
