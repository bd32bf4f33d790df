"""Classifiers side by side."""

import numpy as np
import pandas as pd
import pytest

from monai_ext.comparison import compare_classifiers
from monai_ext.errors import InputError


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
