import json
import statistics

import pandas as pd
import pytest

from monai_ext.base.errors import InputError
from monai_ext.reports.folds import compare_folds

DICE = [0.70, 0.74, 0.81]


def metric(value):
    return {"value": value, "low": None, "high": None, "level": 0.95, "groups": 1}


@pytest.fixture
def runs(tmp_path):
    """Three folds of one method, the third without a distance; one of another."""
    for fold, dice in enumerate(DICE):
        (tmp_path / f"cl_{fold}").mkdir()
        distance = metric(None if fold == 2 else 4.0)
        content = {"dice": metric(dice), "hausdorff": distance, "tp": 3, "notes": {"Data": "x"}}
        content["radius_30px"] = {"f1": metric(dice / 2), "fields": 3}
        (tmp_path / f"cl_{fold}/metrics.json").write_text(json.dumps(content))
    return tmp_path


def test_mean_and_deviation_of_a_sample(runs, capsys):
    path = compare_folds({"CL": str(runs / "cl_*")}, runs / "out")
    table = pd.read_csv(path).set_index("metric")
    assert list(table.index) == ["dice", "radius_30px f1"]  # not of one that a fold has not
    assert table.loc["dice", "mean"] == pytest.approx(statistics.mean(DICE))
    assert table.loc["dice", "sd"] == pytest.approx(statistics.stdev(DICE))
    assert table.loc["dice", "folds"] == 3
    assert [float(value) for value in table.loc["dice", "values"].split()] == DICE
    assert "0.750 ± 0.056" in capsys.readouterr().out
    assert "0.750 ± 0.056" in (runs / "out/report.html").read_text(encoding="utf-8")


def test_a_row_for_each_method(runs):
    path = compare_folds({"CL": str(runs / "cl_*"), "two": [str(runs / "cl_0"), str(runs / "cl_1")]}, runs / "out")
    table = pd.read_csv(path).set_index(["name", "metric"])
    assert table.loc[("two", "dice"), "mean"] == pytest.approx(0.72)
    assert table.loc[("two", "hausdorff"), "sd"] == 0


def test_one_fold_has_no_spread(runs):
    with pytest.raises(InputError, match=r"--runs CL: expected evaluations of two folds or more, found .*cl_0"):
        compare_folds({"CL": str(runs / "cl_0")}, runs / "out")


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "no such file"), ("{", "expected metrics"), ("[1]", "expected metrics"), ('{"tp": 3}', "found none")],
)
def test_what_is_no_evaluation_is_named(runs, content, problem):
    path = runs / "cl_1/metrics.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=problem) as caught:
        compare_folds({"CL": str(runs / "cl_*")}, runs / "out")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("wrong", [{}, "cl_*", {"CL": "nowhere_*"}])
def test_runs_name_folders(runs, wrong):
    with pytest.raises(InputError, match="--runs"):
        compare_folds(wrong, runs / "out")
