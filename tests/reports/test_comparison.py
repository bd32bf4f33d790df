"""Classifiers side by side."""

import numpy as np
import pandas as pd
import pytest

from monai_ext.base.errors import InputError
from monai_ext.metrics import class_scores
from monai_ext.metrics.classification import confusion_counts
from monai_ext.reports.comparison import (
    compare_annotations,
    compare_classifiers,
    compare_detections,
    compare_instances,
)
from tests.nuclei import NAMES, planted


def scores(folder, shift, seed):
    rng = np.random.default_rng(seed)
    label = np.tile([0, 1], 40)
    folder.mkdir(parents=True)
    table = {"image": "x", "group": [f"slide{i % 20}" for i in range(80)], "label": label}
    logit = rng.normal(size=80) + shift * label - shift / 2
    pd.DataFrame({**table, "score": 1 / (1 + np.exp(-logit))}).to_csv(folder / "scores.csv", index=False)


def test_rows_differences_and_files(tmp_path, capsys):
    for seed in range(3):
        scores(tmp_path / f"good_{seed}", 4, seed)
        scores(tmp_path / f"poor_{seed}", 0.3, seed)
    runs = {"good": str(tmp_path / "good_*"), "poor": [str(tmp_path / f"poor_{i}") for i in range(3)]}
    table = pd.read_csv(compare_classifiers(runs, tmp_path / "out")).set_index("name")
    assert table["runs"].tolist() == [3, 3]
    assert table.loc["good", "AUC"] > 0.95
    difference = table.loc["poor", ["AUC less good low", "AUC less good", "AUC less good high"]]
    assert difference.is_monotonic_increasing
    assert difference.max() < 0
    assert difference["AUC less good"] == pytest.approx(table.loc["poor", "AUC"] - table.loc["good", "AUC"])
    assert "poor" in capsys.readouterr().out
    assert "<html" in (tmp_path / "out/report.html").read_text()


def test_vessels_are_compared_by_what_was_located_too(tmp_path):
    table = {"group": list("aabb"), "label": [0, 1, 1, 1], "score": 0.6}
    counts = {"tp": ["", 4, 1, ""], "fp": ["", 0, 2, ""], "fn": ["", 0, 1, ""]}  # marked in two vessels
    for name, found in (("one", counts), ("other", {**counts, "tp": ["", 0, 0, ""]})):
        (tmp_path / name).mkdir()
        pd.DataFrame({**table, **found}).to_csv(tmp_path / name / "scores.csv", index=False)
    runs = {name: str(tmp_path / name) for name in ("one", "other")}
    rows = pd.read_csv(compare_classifiers(runs, tmp_path / "out")).set_index("name")
    assert rows.loc["one", "Dice"] == pytest.approx((1 + 2 / 5) / 2)
    assert rows.loc["other", "Dice less one"] == pytest.approx(rows["Dice"].diff().iloc[1])


def test_vessels_without_marked_cells_have_no_dice(tmp_path):
    table = pd.DataFrame({"group": list("aabb"), "label": [0, 1, 0, 1], "score": [0.1, 0.9, 0.2, 0.4]})
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        table.assign(tp="", fp="", fn="").to_csv(tmp_path / name / "scores.csv", index=False)
    path = compare_classifiers({name: str(tmp_path / name) for name in ("one", "other")}, tmp_path / "out")
    rows = pd.read_csv(path)
    assert "Dice" not in rows
    assert rows["AUC"].tolist() == [1, 1]


def test_rows_of_other_splits_have_no_difference(tmp_path, capsys):
    """Of five splits the two easiest ones alone would flatter a row."""
    for seed in range(2):
        scores(tmp_path / f"a_{seed}", 4, seed)
        scores(tmp_path / f"b_{seed}", 4, seed)
    other = pd.read_csv(tmp_path / "a_1/scores.csv").assign(group="another slide")
    other.to_csv(tmp_path / "a_1/scores.csv", index=False)
    runs = {"a": str(tmp_path / "a_*"), "b": str(tmp_path / "b_*"), "c": str(tmp_path / "a_?")}
    table = pd.read_csv(compare_classifiers(runs, tmp_path / "out")).set_index("name")
    assert table["AUC less a"].isna().tolist() == [True, True, False]
    assert table["AUC"].notna().all()
    assert "no difference to a, as tested on other groups: b" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("runs", "expected"),
    [({}, "--runs"), ({"a": "nowhere_*"}, "none like nowhere_"), ({"a": "."}, "scores.csv")],
    ids=["none", "no folder", "no scores"],
)
def test_what_is_missing_is_named(runs, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=expected):
        compare_classifiers(runs, "out")


def test_columns_are_checked(tmp_path):
    (tmp_path / "scores.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="columns group, label, score"):
        compare_classifiers({"a": str(tmp_path)}, tmp_path / "out")


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ("", "No columns"),
        ("group,label,score\n", "found no row"),
        ("group,label,score\na,1,0.5\na,1,\n", r"'label': 1, 'score': ''"),
        ("group,label,score\na,1,0.5\nb,tumour,0.5\n", "'label': 'tumour'"),
        ("group,label,score\na,2,0.5\n", "'label': 2"),
        ("group,label,score\na,1,-3.5\n", r"'score': -3\.5"),
    ],
    ids=["empty", "no row", "no score", "name for a label", "third class", "logit"],
)
def test_rows_are_checked(rows, found, tmp_path):
    (tmp_path / "scores.csv").write_text(rows)
    with pytest.raises(InputError, match=rf"scores\.csv: expected .*{found}"):
        compare_classifiers({"a": str(tmp_path)}, tmp_path / "out")


def predictions(folder, share, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, 90)
    predicted = np.where(rng.random(90) < share, label, rng.integers(0, 3, 90))
    table = {"image": "x", "row": range(90), "group": [f"slide{i % 15}" for i in range(90)]}
    table |= {"label": np.array(NAMES)[label], "predicted": np.array(NAMES)[predicted]}
    folder.mkdir(parents=True)
    pd.DataFrame(table).to_csv(folder / "scores.csv", index=False)
    return class_scores(confusion_counts(label, predicted, 3))


def test_several_classes_are_compared_by_weighted_f1(tmp_path):
    expected = {
        name: [predictions(tmp_path / f"{name}{s}", share, s) for s in range(2)]
        for name, share in (("a", 0.9), ("b", 0.4))
    }
    table = pd.read_csv(compare_classifiers({"a": str(tmp_path / "a?"), "b": str(tmp_path / "b?")}, tmp_path / "out"))
    for name, row in table.set_index("name").iterrows():
        assert row["weighted F1"] == pytest.approx(np.mean([run["f1"] for run in expected[name]]))
        assert row["accuracy"] == pytest.approx(np.mean([run["accuracy"] for run in expected[name]]))
    assert table["weighted F1 less a high"].max() < 0
    scores(tmp_path / "two", 1, 0)
    with pytest.raises(InputError, match="evaluations of one kind"):
        compare_classifiers({"a": str(tmp_path / "a0"), "two": str(tmp_path / "two")}, tmp_path / "out")


def test_annotations_against_the_expert(tmp_path):
    folder = planted(tmp_path / "d", images=(3, 2, 2), noise=0.3)
    tables = [pd.read_csv(path, keep_default_na=False) for path in sorted(folder.glob("nuclei/*.csv"))]
    tables[0].loc[1, "wsa"] = "background"
    tables[0].to_csv(sorted(folder.glob("nuclei/*.csv"))[0], index=False)
    cells = pd.concat(tables)
    cells = cells[cells["ea"].isin(NAMES)]
    both = cells[cells["wsa"].isin(NAMES)]
    table = pd.read_csv(compare_annotations(str(folder), str(tmp_path / "out"))).set_index("annotation")
    ids = [both[column].map(NAMES.index) for column in ("ea", "wsa")]
    expected = class_scores(confusion_counts(*(x.to_numpy() for x in ids), 3))
    for name in ("f1", "accuracy", "precision", "recall"):
        assert table.loc["wsa", name] == pytest.approx(expected[name])
        assert table.loc["ssa", name] == 1
    assert table.loc["wsa", ["nuclei", "background"]].tolist() == [len(both), 1]
    assert "<html" in (tmp_path / "out/report.html").read_text()
    runs = {name: str(tmp_path / "out" / name) for name in ("ssa", "wsa")}
    again = pd.read_csv(compare_classifiers(runs, str(tmp_path / "rows"))).set_index("name")
    assert again.loc["wsa", "weighted F1"] == pytest.approx(expected["f1"])
    with pytest.raises(InputError, match="--split"):
        compare_annotations(str(folder), str(tmp_path / "out"), split="x")


def instances(folder, better):
    rng = np.random.default_rng(0)
    dice = rng.uniform(0.5, 0.6, 30) + better
    folder.mkdir(parents=True)
    table = {"image": range(30), "group": [f"slide{i % 10}" for i in range(30)], "dice": dice}
    table |= dict.fromkeys(("aji", "pq", "object_dice", "foreground_iou"), dice / 2) | {"tp": 8, "fp": 2, "fn": 6}
    table |= {"hausdorff": [np.nan, *[40.0] * 29], "partial_hausdorff": 3.0}
    pd.DataFrame(table).to_csv(folder / "scores.csv", index=False)


def test_instances_side_by_side(tmp_path):
    instances(tmp_path / "a", 0)
    instances(tmp_path / "b", 0.1)
    runs = {name: str(tmp_path / name) for name in "ab"}
    table = pd.read_csv(compare_instances(runs, str(tmp_path / "out"))).set_index("name")
    assert table.loc["b", "Dice"] == pytest.approx(pd.read_csv(tmp_path / "b/scores.csv")["dice"].mean())
    # the same images, each better by .1: paired, nothing is left to chance
    assert table.loc["b", ["Dice less a low", "Dice less a", "Dice less a high"]].tolist() == pytest.approx([0.1] * 3)
    assert table.loc["a", "F1"] == pytest.approx(16 / 24)
    assert table.loc["a", "Hausdorff"] == 40


def test_other_scores_are_no_instances(tmp_path):
    scores(tmp_path / "a", 1, 0)
    with pytest.raises(InputError, match=r"expected scores of instances, found no columns aji"):
        compare_instances({"a": str(tmp_path / "a")}, str(tmp_path / "out"))


def test_detections_are_compared_by_their_counts(tmp_path):
    counts = {"a": ([8, 2, 0], [2, 0, 1], [1, 3, 2]), "b": ([9, 5, 2], [0, 0, 0], [0, 0, 0])}
    for name, (hits, alarms, missed) in counts.items():
        (tmp_path / name).mkdir()
        table = {"image": list("xyz"), "group": list("xyz"), "tp": hits, "fp": alarms, "fn": missed}
        pd.DataFrame(table).to_csv(tmp_path / name / "scores.csv", index=False)
    runs = {name: str(tmp_path / name) for name in counts}
    table = pd.read_csv(compare_detections(runs, str(tmp_path / "out"))).set_index("name")
    assert table["F1"].tolist() == pytest.approx([2 * 10 / (2 * 10 + 3 + 6), 1.0])
    assert table.loc["b", "F1 less a"] == pytest.approx(1 - 20 / 29)
    assert 0 < table.loc["b", "F1 less a low"] < table.loc["b", "F1 less a high"]


def test_scores_of_classes_are_no_detections(tmp_path):
    scores(tmp_path / "a", 1, 0)
    with pytest.raises(InputError, match="expected counts of detections, found no columns fn, fp, tp"):
        compare_detections({"a": str(tmp_path / "a")}, str(tmp_path / "out"))
